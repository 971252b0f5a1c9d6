"""Which windows run together.

On a processor one window a run: nothing is gained by more, and with 8-bit activations a window's
result would depend on its neighbours. On an accelerator, windows of similar length under a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from promptguard.runtime import Output, Runtime

Job: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of a context and ids of a window."""

PADDED_TOKENS = 16_384
"""Most tokens in a batch, padding included."""


def run(runtime: Runtime, jobs: Sequence[Job]) -> list[Output]:
    """Run windows in whatever order is fast and give the results in the order they came in.

    Args:
        runtime: the model.
        jobs: contexts and windows.

    Returns:
        One output a job.

    Raises:
        BackendError: the model failed.
    """
    if not runtime.batches:
        return [runtime.run(context, window) for context, window in jobs]
    outputs: list[Output | None] = [None] * len(jobs)
    for batch in plan(jobs, PADDED_TOKENS):
        results = runtime.run_batch([jobs[i][0] for i in batch], [jobs[i][1] for i in batch])
        for i, output in zip(batch, results, strict=True):
            outputs[i] = output
    return [output for output in outputs if output is not None]


def plan(jobs: Sequence[Job], budget: int) -> list[list[int]]:
    """Put jobs of similar length into batches whose padded size stays within a budget.

    Args:
        jobs: contexts and windows.
        budget: most tokens in a batch, padding included; a longer job runs alone.

    Returns:
        Positions in ``jobs``, each exactly once.
    """
    order = sorted(range(len(jobs)), key=lambda i: (len(jobs[i][1]), len(jobs[i][0])))
    batches: list[list[int]] = []
    context = window = 0
    for i in order:
        context, window = max(context, len(jobs[i][0])), max(window, len(jobs[i][1]))
        if batches and (len(batches[-1]) + 1) * (context + window) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
            context, window = len(jobs[i][0]), len(jobs[i][1])
    return batches
