"""The load generator: what arrives when, and what its latency counts from."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from promptguard import BackendError, Context, InputError
from promptguard.bench.speed.load import Layout, Run, Workers, arrivals, closed_loop, open_loop
from promptguard.bench.speed.traffic import made

SHORT = made(20, text_tokens=12, context_tokens=8, contexts=2)
LONG = ("word " * 4000, None)
"""Cut into as many windows as a guard reads: takes many times as long as the others."""


def test_arrivals_are_a_poisson_process_and_scale_with_the_rate() -> None:
    slow, fast = arrivals(50, 400, seed=3), arrivals(200, 100, seed=3)
    assert np.allclose(slow, 4 * fast)
    assert np.array_equal(slow, arrivals(50, 400, seed=3))
    assert len(arrivals(50, 400, seed=4)) != len(slow)
    gaps = np.diff(slow)
    assert (gaps > 0).all()
    assert slow[-1] < 400
    # 20,000 gaps: mean and standard deviation of an exponential distribution are equal; both within 5 errors.
    assert abs(gaps.mean() * 50 - 1) < 5 / np.sqrt(len(gaps))
    assert abs(gaps.std() * 50 - 1) < 10 / np.sqrt(len(gaps))


@pytest.fixture(scope="module")
def workers(tiny: Path):  # type: ignore[no-untyped-def]
    with Workers(Layout(processes=2, callers=2, model=tiny)) as started:
        yield started


@pytest.fixture(scope="module")
def one(tiny: Path):  # type: ignore[no-untyped-def]
    with Workers(Layout(model=tiny)) as started:
        yield started


def test_workers_say_what_they_run_on(workers: Workers) -> None:
    assert workers.active_providers == [("CPUExecutionProvider",)] * 2
    assert all(memory is None or memory > 10_000_000 for memory in workers.memory)


def test_open_loop_serves_every_arrival_once_and_none_before_it_is_due(workers: Workers) -> None:
    run = open_loop(workers, SHORT, rate=200, seconds=1, seed=1, warm_up=0.5, patience=60)
    due = arrivals(200, 1.5, seed=1) - 0.5
    assert np.allclose(run.scheduled, due[due >= 0])
    assert np.isfinite(run.end).all()
    assert (run.start >= run.scheduled).all()
    assert (run.end > run.start).all()
    assert np.array_equal(run.request, np.flatnonzero(due >= 0) % len(SHORT))
    assert set(run.worker.tolist()) == {0, 1}
    assert np.array_equal(run.latency, run.end - run.scheduled)
    assert (run.latency >= run.service).all()


def test_a_stall_makes_what_arrives_meanwhile_late(one: Workers) -> None:
    """Coordinated omission would be to ask, and so to measure, nothing while an answer is outstanding."""
    requests = [*SHORT[:10], LONG, *SHORT]
    run = open_loop(one, requests, rate=100, seconds=0.5, seed=2, warm_up=0, patience=60)
    assert len(run.scheduled) > 20
    long = int(np.flatnonzero(run.request == 10)[0])
    stalled_until = run.end[long]
    meanwhile = (run.scheduled > run.scheduled[long]) & (run.scheduled < stalled_until)
    assert meanwhile.any()
    assert (run.latency[meanwhile] >= stalled_until - run.scheduled[meanwhile]).all()
    # One worker: first come, first served, one at a time.
    assert (run.start[1:] >= run.end[:-1]).all()


def test_what_nobody_took_up_has_an_infinite_latency(one: Workers) -> None:
    run = open_loop(one, SHORT, rate=50_000, seconds=0.1, seed=0, warm_up=0, patience=0)
    unserved = np.isinf(run.latency)
    assert unserved.any()
    assert not unserved.all()
    assert (run.worker[unserved] == -1).all()
    assert np.isnan(run.service[unserved]).all()
    assert len(run.scheduled) == len(arrivals(50_000, 0.1, seed=0))
    assert 0 < run.throughput < 50_000


def test_closed_loop_asks_again_when_it_has_the_answer(one: Workers) -> None:
    run = closed_loop(one, SHORT, seconds=0.3, warm_up=0.1, batch=3)
    assert np.array_equal(run.scheduled, run.start)
    assert (run.start[1:] >= run.end[:-1]).all()
    assert (run.start >= 0).all()
    assert (run.start < 0.3).all()
    assert np.array_equal(np.diff(run.request) % len(SHORT), np.full(len(run.request) - 1, 3))
    total = run.end[-1] - run.start[0]
    assert run.throughput == pytest.approx(3 * len(run.start) / total)


def test_callers_share_a_process(tiny: Path) -> None:
    with Workers(Layout(callers=3, model=tiny)) as started:
        run = closed_loop(started, SHORT, seconds=0.3, warm_up=0)
    assert set(run.worker.tolist()) == {0}
    assert (run.start[1:] < run.end[:-1]).any()  # more than one at a time


def test_throughput_of_nothing() -> None:
    nothing = np.array([np.inf])
    run = Run(np.zeros(1), nothing, nothing, np.zeros(1, np.int64), np.full(1, -1), 1, 1.0)
    assert run.throughput == 0


def test_a_worker_that_ends_is_an_error(tiny: Path) -> None:
    with Workers(Layout(processes=2, model=tiny)) as started:
        timer = threading.Timer(0.2, started._processes[1].kill)
        timer.start()
        with pytest.raises(BackendError, match="a worker process has ended"):
            closed_loop(started, SHORT, seconds=30)
        timer.join()
    assert not started._processes


def test_a_worker_that_cannot_begin_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(BackendError, match=r"a worker process failed: no manifest\.json"),
        Workers(Layout(model=tmp_path)),
    ):
        pass


def test_unusable_arguments(one: Workers) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Workers(Layout(processes=0))
    with pytest.raises(InputError, match="no requests"):
        closed_loop(one, [], seconds=1)
    for rate, seconds in ((0, 1), (1, 0), (float("nan"), 1), (float("inf"), 1)):
        with pytest.raises(InputError, match="positive"):
            open_loop(one, SHORT, rate=rate, seconds=seconds, seed=0)


def test_an_error_in_a_worker_shows_no_text(one: Workers, tiny: Path) -> None:
    with Workers(Layout(model=tiny)) as started, pytest.raises(BackendError) as caught:
        closed_loop(started, [("xylophone", Context()), (b"xylophone", None)], seconds=1)  # type: ignore[list-item]
    assert "xylophone" not in str(caught.value)
