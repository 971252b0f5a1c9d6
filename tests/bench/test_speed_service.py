"""The model of service times, fitted to runs of a simulated machine whose truth is known."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("simpy")

from promptguard.bench.speed.load import Run, arrivals
from promptguard.bench.speed.queueing import simulate
from promptguard.bench.speed.service import Observed, ServiceModel, new_contexts, work_terms
from promptguard.errors import InputError

SECONDS = np.array([0.001, 0.0005, 0.00006, 0.00005, 4e-8])
SLOWDOWN = (1.0, 1.15, 1.3, 1.45)


def mix(number: int, median: float, new: float, seed: int) -> NDArray[np.float64]:
    """Terms of requests with log-normal lengths of text."""
    draw = np.random.default_rng(seed)
    text = np.clip(draw.lognormal(np.log(median), 0.8, number), 3, 1000).astype(np.int64)
    context = draw.integers(40, 200, number)
    return work_terms(context, text, -(-text // 250), draw.random(number) < new)


def true_services(terms: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    return terms @ SECONDS * np.random.default_rng(seed).lognormal(0, 0.1, len(terms))


def capacity(services: NDArray[np.float64], slowdown: tuple[float, ...]) -> float:
    return len(slowdown) / (float(services.mean()) * slowdown[-1])


WAKING = 0.0006


def load_run(services: NDArray[np.float64], rate: float, slowdown: tuple[float, ...], seed: int) -> Run:
    """A run of the simulated machine, as the load generator would record it."""
    due = arrivals(rate, 2 * len(services) / rate, seed)[: len(services)]
    end = due + simulate(due, services, slowdown, WAKING)
    free = [(0.0, worker) for worker in range(len(slowdown))]
    start, served_by = np.empty(len(due)), np.empty(len(due), np.int64)
    for i, when in enumerate(due):
        at, served_by[i] = heapq.heappop(free)
        start[i] = max(when, at)
        heapq.heappush(free, (end[i], int(served_by[i])))
    return Run(due, start, end, np.arange(len(due)), served_by, 1, due[-1])


def fitted(slowdown: tuple[float, ...], number: int = 8000, saturates_at: int | None = None) -> ServiceModel:
    observed = []
    for seed, share in ((1, 0.3), (2, 0.6)):
        terms = mix(number, 60, 0.3, seed)
        services = true_services(terms, 10 + seed)
        run = load_run(services, share * capacity(services, slowdown), slowdown, seed)
        observed.append(Observed.of(run, terms, len(slowdown)))
    return ServiceModel.fit(observed, saturates_at=saturates_at)


def test_finds_the_slowdown_and_the_work_of_tokens() -> None:
    model = fitted(SLOWDOWN)
    assert model.slowdown == pytest.approx(SLOWDOWN, rel=0.02)
    assert model.waking == pytest.approx(WAKING, rel=0.2)
    terms = mix(2000, 250, 0.8, 5)  # longer texts than it has seen
    assert (terms @ model.seconds).mean() == pytest.approx((terms @ SECONDS).mean(), rel=0.03)
    assert np.log(model.jitter).std() == pytest.approx(0.1, rel=0.1)


def test_finds_where_hyper_threads_begin() -> None:
    bent = (1.0, 1.02, 1.4, 1.8)
    assert fitted(bent, saturates_at=2).slowdown == pytest.approx(bent, rel=0.04)


@pytest.mark.parametrize(("median", "new", "share"), [(60, 0.3, 0.8), (200, 0.8, 0.7)])
def test_foretells_a_run_it_was_not_fitted_to(median: float, new: float, share: float) -> None:
    terms = mix(40_000, median, new, 7)
    truth = true_services(terms, 8)
    rate = share * capacity(truth, SLOWDOWN)
    due = arrivals(rate, 2 * len(terms) / rate, 9)[: len(terms)]
    model = fitted(SLOWDOWN)
    predicted = simulate(due, model.draw(terms, np.random.default_rng(3)), model.slowdown, model.waking)
    assert np.quantile(predicted, 0.99) == pytest.approx(
        np.quantile(simulate(due, truth, SLOWDOWN, WAKING), 0.99), rel=0.1
    )
    assert model.capacity(truth) == pytest.approx(capacity(truth, SLOWDOWN), rel=0.02)


def test_without_the_slowdown_it_would_be_wrong() -> None:
    """What a sample of service times alone, taken from one worker, would say of four."""
    terms = mix(20_000, 60, 0.3, 7)
    truth = true_services(terms, 8)
    rate = 0.8 * capacity(truth, SLOWDOWN)
    due = arrivals(rate, 2 * len(terms) / rate, 9)[: len(terms)]
    naive, real = (np.quantile(simulate(due, truth, s), 0.99) for s in ((1.0,) * 4, SLOWDOWN))
    assert naive < 0.75 * real


def test_occupied_and_busy_by_hand() -> None:
    run = Run(
        scheduled=np.array([0.0, 1.0, 1.5]),
        start=np.array([0.1, 1.0, 4.1]),
        end=np.array([4.0, 3.0, 6.0]),
        request=np.arange(3),
        worker=np.array([0, 1, 0]),
        batch=1,
        seconds=2.0,
    )
    observed = Observed.of(run, np.ones((3, 5)), 2)
    assert observed.occupied == pytest.approx([4.0, 2.0, 2.0])  # the last from when its worker was free
    assert observed.woken.tolist() == [1, 1, 0]
    assert observed.busy == pytest.approx(np.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]]))


def test_a_run_that_was_not_served_or_is_too_short() -> None:
    terms = mix(200, 60, 0.3, 1)
    run = load_run(true_services(terms, 1), 10, (1.0,), 1)
    run.end[5] = np.inf
    with pytest.raises(InputError, match="not all served"):
        Observed.of(run, terms, 1)
    short = Observed(terms[:20], np.ones(20), np.ones(20), np.ones((20, 1)))
    with pytest.raises(InputError, match="too few"):
        ServiceModel.fit([short])


def test_one_worker_slows_nobody_down() -> None:
    assert fitted((1.0,), 2000).slowdown == (1.0,)


def test_a_context_is_new_to_each_worker_and_again_when_it_was_forgotten() -> None:
    contexts = np.array([1, 1, 1, 2, 3, 1, 0])
    tokens = np.array([10, 10, 10, 10, 10, 10, 0])
    workers = np.array([0, 0, 1, 0, 0, 0, 0])
    assert new_contexts(contexts, tokens, workers, 20).tolist() == [True, False, True, True, True, True, False]
    assert new_contexts(contexts, tokens, workers, 30).tolist() == [True, False, True, True, True, False, False]


def test_work_is_counted_in_tokens_and_pairs_of_them() -> None:
    context, text, windows = np.array([10, 10, 0]), np.array([6, 6, 40]), np.array([1, 1, 2])
    terms = work_terms(context, text, windows, np.array([False, True, False]))
    assert terms.tolist() == [[1, 0, 6, 0, 96], [1, 1, 6, 10, 196], [1, 0, 40, 0, 800]]
