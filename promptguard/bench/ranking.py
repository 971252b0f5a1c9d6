"""How well risk ranks: the area under the ROC curve, average precision, recall above a threshold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from promptguard.bench.columns import Bools, Columns, Counts, Floats, Integers
from promptguard.bench.intervals import CELLS, Resamples, divide, proportion
from promptguard.errors import MissingExtraError

try:
    from sklearn.metrics import average_precision_score, roc_auc_score
except ImportError as missing:
    raise MissingExtraError("bench", "the quality benchmark") from missing


def auroc(risky: Bools, rank: Floats) -> float | None:
    """Area under the ROC curve: the chance that a risky record outranks a benign one, ties half."""
    return float(roc_auc_score(risky, rank)) if risky.any() and not risky.all() else None


def average_precision(risky: Bools, rank: Floats) -> float | None:
    """Mean precision over the risky records, by falling rank; None with one class only, where it says nothing."""
    return float(average_precision_score(risky, rank)) if risky.any() and not risky.all() else None


def auroc_replicates(rank: Floats, risky: Bools, weights: Counts) -> Floats:
    """AUROC under each row of weights (the Mann-Whitney statistic over tied groups): of shape (replicates,)."""
    found = np.full(len(weights), np.nan)
    for rows, positive, negative in _tied(rank, risky, weights):
        below = np.cumsum(negative, axis=1) - negative / 2
        couples = positive.sum(axis=1) * negative.sum(axis=1)
        found[rows] = divide(np.einsum("ij,ij->i", positive, below), couples)
    return found


def average_precision_replicates(rank: Floats, risky: Bools, weights: Counts) -> Floats:
    """Average precision under each row of weights: of shape (replicates,)."""
    found = np.full(len(weights), np.nan)
    for rows, positive, negative in _tied(-rank, risky, weights):
        hits = np.cumsum(positive, axis=1)
        total = hits + np.cumsum(negative, axis=1)
        precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
        found[rows] = divide(np.einsum("ij,ij->i", positive, precision), hits[:, -1])
    return found


def _tied(rank: Floats, risky: Bools, weights: Counts) -> Iterator[tuple[slice, Floats, Floats]]:
    """Some rows of weights at a time: which, and the weight of risky and of benign at each distinct rank, rising."""
    if not risky.any() or risky.all():
        return
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(rank[order]) > 0])
    sign = risky[order]
    step = max(1, CELLS // len(rank))
    for start in range(0, len(weights), step):
        rows = weights[start : start + step][:, order]
        positive = np.add.reduceat(rows * sign, starts, axis=1, dtype=np.int64).astype(np.float64)
        negative = np.add.reduceat(rows * ~sign, starts, axis=1, dtype=np.int64).astype(np.float64)
        yield slice(start, start + step), positive, negative


def recall_above(
    columns: Columns, positive: Integers, resamples: Resamples, threshold: float | None, replicates: Floats
) -> dict[str, Any]:
    """Share of the risky records ``positive`` above a threshold, which has a value of its own in each replicate."""
    n = len(positive)
    if threshold is None or not n:
        return {"value": None, "low": None, "high": None, "k": 0, "n": n}
    shares = recall_replicates(columns.rank[positive], resamples.weights[:, positive], replicates)
    clusters = len(np.unique(columns.cluster[positive]))
    return proportion(int((columns.rank[positive] > threshold).sum()), n, shares, clusters)


def recall_replicates(ranks: Floats, weights: Counts, thresholds: Floats) -> Floats:
    """Share of ``ranks`` above each row's threshold under its weights: of shape (replicates,)."""
    shares = np.empty(len(weights))
    step = max(1, CELLS // len(ranks))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        above = ranks > thresholds[rows, None]
        shares[rows] = divide((weights[rows] * above).sum(axis=1, dtype=np.int64), weights[rows].sum(axis=1))
    shares[np.isnan(thresholds)] = np.nan
    return shares
