"""Our loops against MLCommons' LoadGen, which has wheels for one version of Python: same service, same arrivals."""

from __future__ import annotations

import queue
import re
import threading
import time
from multiprocessing import Value
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from promptguard.bench.speed.figures import percentile
from promptguard.bench.speed.load import Floats, _drive, _Job, arrivals

loadgen = pytest.importorskip(
    "mlperf_loadgen", reason="NOT CHECKED AGAINST LOADGEN: pip install mlcommons-loadgen (CPython 3.11)"
)
pytestmark = pytest.mark.loadgen

SERVICE = 0.012
"""Seconds of every call: asleep, so that a busy processor changes little."""

RATE = 50.0
QUERIES = 600


class Asleep:
    """A service whose times are known."""

    def analyze_many(self, pairs: list[Any]) -> None:
        time.sleep(SERVICE * len(pairs))


def ours(due: Floats | None, seconds: float, batch: int = 1) -> Floats:
    """Latencies of one worker of ours."""
    job = _Job(None, due, seconds, batch)
    rows = np.array(_drive(Asleep(), Value("q", 0), job, [("", None)], 1, time.perf_counter()))  # type: ignore[arg-type]
    return rows[:, 3] - rows[:, 1]


def theirs(scenario: str, folder: Path) -> tuple[dict[str, float], Floats]:
    """LoadGen's percentiles in seconds, and when it issued each query."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    issued: list[float] = []

    def serve() -> None:
        for samples in iter(waiting.get, None):
            Asleep().analyze_many(samples)
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(s.id, 0, 0) for s in samples])

    def issue(samples: Any) -> None:
        issued.append(time.perf_counter())
        waiting.put(list(samples))

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = QUERIES
    settings.min_duration_ms = 0
    settings.server_target_qps = RATE
    settings.server_target_latency_ns = 10**9
    settings.single_stream_expected_latency_ns = int(1e9 * SERVICE)
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = False
    worker = threading.Thread(target=serve)
    worker.start()
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings, logs)
    waiting.put(None)
    worker.join()
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
    summary = (folder / "mlperf_log_summary.txt").read_text()
    found = re.findall(r"^([\d.]+) percentile latency \(ns\)\s*: (\d+)", summary, re.MULTILINE)
    return {share: int(nanoseconds) / 1e9 for share, nanoseconds in found}, np.array(issued)


def test_open_loop_gives_loadgens_latencies_for_its_arrivals(tmp_path: Path) -> None:
    reported, issued = theirs("Server", tmp_path)
    assert len(issued) == QUERIES
    due = issued - issued[0] + 0.01
    found = ours(due, seconds=60)
    assert len(found) == QUERIES
    for share in (0.50, 0.90, 0.97):
        assert percentile(found, share) == pytest.approx(reported[f"{100 * share:.2f}"], rel=0.25, abs=0.002)


def test_arrivals_are_distributed_as_loadgens(tmp_path: Path) -> None:
    _, issued = theirs("Server", tmp_path)
    gaps = np.diff(arrivals(RATE, QUERIES / RATE, seed=0))
    assert stats.ks_2samp(np.diff(issued), gaps).pvalue > 1e-3


def test_closed_loop_gives_loadgens_single_stream(tmp_path: Path) -> None:
    reported, issued = theirs("SingleStream", tmp_path)
    assert len(issued) == QUERIES
    found = ours(None, seconds=QUERIES * SERVICE)
    for share in (0.50, 0.90):
        assert percentile(found, share) == pytest.approx(reported[f"{100 * share:.2f}"], rel=0.25, abs=0.002)
