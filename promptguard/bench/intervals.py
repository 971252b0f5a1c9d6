"""How sure a figure is: 95 % percentile bootstrap intervals over whole contrasting groups.

Groups (``pair_id``) and single records are drawn alike, with replacement (Efron and Tibshirani 1993, ch. 13;
clusters: Field and Welsh 2007). A rate of exactly 0 or 1 does not vary under resampling: there the interval
is Wilson's (1927), with the number of clusters as n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from promptguard.bench.columns import Bools, Columns, Counts, Floats, Integers

FALSE_POSITIVE_RATES: tuple[float, ...] = (0.001, 0.005, 0.01, 0.05)
"""Rates at which recall is given; the first, third and last are those of the three modes."""
CELLS = 4_000_000
"""Most cells of a table of replicates and records that is held at once."""
_Z95 = 1.959963984540054


class Resamples:
    """Bootstrap weights of every record, and the pooled thresholds in the set and in each replicate."""

    def __init__(self, columns: Columns, seed: int, bootstrap: int) -> None:
        generator = np.random.default_rng(seed)
        clusters = int(columns.cluster.max()) + 1
        self.weights: Counts = np.empty((bootstrap, len(columns.cluster)), dtype=np.uint8)
        for replicate in range(bootstrap):
            drawn = np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)
            self.weights[replicate] = drawn[columns.cluster]
        benign = np.flatnonzero(~columns.risky)
        self.thresholds: dict[float, float | None] = {}
        self.replicates: dict[float, Floats] = {}
        for rate in FALSE_POSITIVE_RATES:
            self.thresholds[rate], self.replicates[rate] = self.threshold(columns.rank[benign], benign, rate)

    def threshold(self, ranks: Floats, benign: Integers, rate: float) -> tuple[float | None, Floats]:
        """The value above which at most ``rate`` of the records ``benign`` lie, and that in each replicate."""
        point = thresholds_at(ranks, np.ones((1, len(benign)), dtype=np.uint8), rate)[0]
        return None if np.isnan(point) else float(point), thresholds_at(ranks, self.weights[:, benign], rate)

    def rate(self, hit: Bools, among: Integers, cluster: Integers) -> dict[str, Any]:
        """The share of the records ``among`` that are hits, with its interval."""
        n, k = len(among), int(hit[among].sum())
        replicates = weighted_share(self.weights[:, among], hit[among])
        return proportion(k, n, replicates, len(np.unique(cluster[among])))


def thresholds_at(ranks: Floats, weights: Counts, rate: float) -> Floats:
    """Per replicate, the value above which at most ``rate`` of the benign lie: of shape (replicates,).

    Flagged means strictly above it, so tied records are flagged together or not at all and the rate is
    never exceeded.
    """
    if not len(ranks):
        return np.full(len(weights), np.nan)
    order = np.argsort(-ranks, kind="stable")
    found = np.empty(len(weights))
    step = max(1, CELLS // len(ranks))
    for start in range(0, len(weights), step):
        above = np.cumsum(weights[start : start + step][:, order], axis=1, dtype=np.int64)
        allowed = np.floor(rate * above[:, -1] + 1e-9)
        position = np.minimum((above <= allowed[:, None]).sum(axis=1), len(ranks) - 1)
        found[start : start + step] = np.where(above[:, -1] > 0, ranks[order][position], np.nan)
    return found


def weighted_share(weights: Counts, hit: Bools) -> Floats:
    """Share of hits under each row of weights: of shape (replicates,)."""
    total = weights.sum(axis=1, dtype=np.int64)
    hits = weights[:, hit].sum(axis=1, dtype=np.int64)
    return divide(hits, total)


def divide(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Floats:
    """A quotient that is NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below, dtype=np.float64)


def proportion(k: int, n: int, replicates: Floats, clusters: int) -> dict[str, Any]:
    """``k`` of ``n`` with its interval, which is None without replicates."""
    if not n:
        return {"value": None, "low": None, "high": None, "k": 0, "n": 0}
    low, high = percentiles(replicates)
    if low is not None and k in (0, n):
        low, high = _wilson(k // n, clusters)
    return {"value": k / n, "low": low, "high": high, "k": k, "n": n}


def figure(value: float | None, replicates: Floats) -> dict[str, Any]:
    """A number with its interval; no interval where there is no number."""
    low, high = (None, None) if value is None else percentiles(replicates)
    return {"value": value, "low": low, "high": high}


def percentiles(replicates: Floats) -> tuple[float | None, float | None]:
    """The middle 95 % of the replicates that could be computed; None if none could."""
    usable = replicates[np.isfinite(replicates)]
    if not len(usable):
        return None, None
    low, high = np.percentile(usable, [2.5, 97.5])
    return float(low), float(high)


def _wilson(rate: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a rate of 0 or 1 (Wilson 1927)."""
    reach = _Z95**2 / (n + _Z95**2)
    return (1.0 - reach, 1.0) if rate else (0.0, reach)
