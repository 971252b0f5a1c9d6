"""Figures of raw times: percentiles that the samples can carry, ratios with their intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from promptguard.bench.speed.load import Floats

_CELLS = 1_000_000

LEAST_BEYOND = 10
"""Samples there must be beyond a percentile for it to be given."""


def percentile(values: Floats, share: float) -> float | None:
    """The value that a share of the samples does not exceed, by the nearest rank.

    Args:
        values: samples, in any order; infinite ones count as the largest.
        share: in (0, 1).

    Returns:
        One of the samples, infinite if so many are; None where fewer than ten lie beyond it.
    """
    rank = math.ceil(share * len(values) - 1e-9)
    if len(values) - rank < LEAST_BEYOND:
        return None
    return float(np.partition(values, rank - 1)[rank - 1])


def ratio_of_medians(a: Floats, b: Floats, *, seed: int = 0, replicates: int = 2000) -> dict[str, Any]:
    """How many times as long ``b`` takes as ``a``, with a 95 % bootstrap interval.

    Stretches of samples are drawn rather than single ones (Künsch 1989), because what disturbs a machine disturbs
    neighbours in time together. The interval covers what varies within a run, not what differs between two starts.

    Args:
        a: samples in the order they were taken.
        b: the same of another run.
        seed: of the draws.
        replicates: how many.

    Returns:
        ``value``, ``low``, ``high``.
    """
    draw = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _medians(b, draw, replicates) / _medians(a, draw, replicates)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"value": float(np.median(b) / np.median(a)), "low": float(low), "high": float(high)}


def _medians(values: Floats, draw: np.random.Generator, replicates: int) -> Floats:
    """Medians of resamples made of blocks, each as long as the cube root of the number of samples."""
    number = len(values)
    length = max(1, round(number ** (1 / 3)))
    blocks = -(-number // length)
    steps = np.arange(length)
    medians = []
    for first in range(0, replicates, step := max(1, _CELLS // number)):
        starts = draw.integers(0, number, (min(step, replicates - first), blocks, 1))
        places = (starts + steps).reshape(len(starts), -1)[:, :number] % number
        medians.append(np.median(values[places], axis=1))
    return np.concatenate(medians)
