from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptguard import batching
from promptguard.runtime import Output, Runtime

jobs_strategy = st.lists(
    st.tuples(st.integers(0, 200), st.integers(2, 256)).map(lambda n: ((7,) * n[0], (9,) * n[1])), max_size=60
)


@given(jobs_strategy, st.integers(1, 4000))
def test_every_job_runs_once_within_the_budget(jobs: list[batching.Job], budget: int) -> None:
    batches = batching.plan(jobs, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(jobs)))
    for batch in batches:
        padded = max(len(jobs[i][0]) for i in batch) + max(len(jobs[i][1]) for i in batch)
        assert len(batch) == 1 or len(batch) * padded <= budget


def test_jobs_of_like_length_share_a_batch() -> None:
    jobs: list[batching.Job] = [((), (1,) * n) for n in (10, 100, 11, 99, 12, 98)]
    assert batching.plan(jobs, 300) == [[0, 2, 4], [5, 3, 1]]
    assert batching.plan(jobs, 299) == [[0, 2, 4], [5, 3], [1]]
    assert batching.plan([], 100) == []


class Echo:
    """A runtime whose output says which window it was."""

    def __init__(self, batches: bool) -> None:
        self.batches = batches
        self.runs: list[int] = []

    def run(self, context: tuple[int, ...], window: tuple[int, ...]) -> Output:
        return self.run_batch([context], [window])[0]

    def run_batch(self, contexts: list[tuple[int, ...]], windows: list[tuple[int, ...]]) -> list[Output]:
        self.runs.append(len(windows))
        lengths = ([len(c), len(w)] for c, w in zip(contexts, windows, strict=True))
        nothing = np.zeros(1, np.float32)
        return [Output(np.array(pair, np.float32), nothing, nothing) for pair in lengths]


@pytest.mark.parametrize("batches", [True, False])
@given(jobs=jobs_strategy)
def test_results_come_in_the_order_of_the_jobs(batches: bool, jobs: list[batching.Job]) -> None:
    echo = Echo(batches)
    outputs = batching.run(echo, jobs)  # type: ignore[arg-type]
    assert [tuple(o.logits) for o in outputs] == [(len(c), len(w)) for c, w in jobs]
    assert batches or echo.runs == [1] * len(jobs)


def test_a_processor_gets_one_window_a_run_whatever_the_graph(tiny: Path, tiny_fp32: Path) -> None:
    for folder, takes in ((tiny, False), (tiny_fp32, True)):
        runtime = Runtime(folder / "model.onnx", threads=1, providers=["CPUExecutionProvider"])
        assert (runtime.takes_batches, runtime.batches) == (takes, False)
