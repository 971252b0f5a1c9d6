"""Where the time of a call goes.

The guard's own path says how long views, windows, model and verdict took (``Analysis.coverage``). What of the verdict
is detectors and fusion is found by calling them once more on the same evidence: the path needs no more timers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

from promptguard.bench.speed.load import Layout, Request
from promptguard.detectors import Evidence
from promptguard.guard import Guard
from promptguard.types import Signal

STAGES: Mapping[str, str] = {
    "text": "views of the text",
    "windows": "windows and context to tokens",
    "run": "the model",
    "fuse": "detectors and fusion",
    "decide": "policy, spans, result",
    "rest": "between the stages",
}
"""Stages of a call in order, and what they are."""

_WARM_UP = 5


class _Seen:
    """A detector that keeps the evidence of the last call."""

    name = "seen"

    def __init__(self) -> None:
        self.evidence: Evidence | None = None

    def __call__(self, evidence: Evidence) -> Signal:
        self.evidence = evidence
        return Signal(self.name, None)


def split(layout: Layout, requests: Sequence[Request], *, seconds: float) -> dict[str, float]:
    """Median milliseconds of each stage, and of the ``whole`` call.

    Args:
        layout: with what guard, in this process.
        requests: texts in contexts; taken in order, and again from the first when they run out.
        seconds: how long.

    Returns:
        By stage. Medians of parts do not add up exactly to the median of the whole.

    Raises:
        ModelError, BackendError: as ``Guard.analyze``.
    """
    seen = _Seen()
    guard = Guard(layout.model, threads=layout.threads, providers=layout.providers, detectors=(seen,))
    loaded = guard._loaded
    rows: list[dict[str, float]] = []
    ends: float | None = None
    number = 0
    while ends is None or time.perf_counter() < ends or not rows:
        prompt, context = requests[number % len(requests)]
        began = time.perf_counter()
        told = guard.analyze(prompt, context).coverage.milliseconds
        whole = 1000 * (time.perf_counter() - began)
        assert seen.evidence is not None  # noqa: S101 - analyze has called it
        began = time.perf_counter()
        loaded.bundle.fusion.fuse({d.name: d(seen.evidence) for d in loaded.detectors}, 0.0)
        fuse = 1000 * (time.perf_counter() - began)
        number += 1
        if number == _WARM_UP:
            ends = time.perf_counter() + seconds
        elif number > _WARM_UP:
            parts = {"text": told["text"], "windows": told["windows"], "run": told["model"], "fuse": fuse}
            parts["decide"] = max(0.0, told["decide"] - fuse)
            rows.append({**parts, "rest": max(0.0, whole - sum(parts.values())), "whole": whole})
    return {name: median(row[name] for row in rows) for name in (*STAGES, "whole")}
