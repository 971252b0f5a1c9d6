"""Whether the stated risk is the true one."""

from __future__ import annotations

from typing import Any

import numpy as np

from promptguard.bench.columns import Bools, Counts, Floats, Integers
from promptguard.bench.intervals import percentiles

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""


def calibration(
    risk: Floats,
    risky: Bools,
    *,
    prior: float | None = None,
    bins: int = BINS,
    replicates: Counts | None = None,
) -> dict[str, Any]:
    """Whether a risk of 0.7 is right seven times in ten.

    The expected calibration error (Naeini et al. 2015) over bins of equal mass (Nixon et al. 2019), and
    the Brier score (Brier 1950). Records are weighted so that ``prior`` of the mass is risky, as in
    correcting for a shifted class prior (Saerens et al. 2002). Records of equal risk share a bin, so a bin
    may be empty.

    The error's interval is the basic bootstrap's (Davison and Hinkley 1997, ch. 5), twice the value minus the
    replicates' percentiles: an error is a sum of absolute gaps, which drawing again widens, so that the
    replicates lie above the value by about as much as the value lies above the truth.

    Args:
        risk: in [0, 1], of shape (n,).
        risky: of shape (n,).
        prior: share of risky traffic to weight to, or None for equal weights.
        bins: how many.
        replicates: bootstrap weights of shape (replicates, n), for the interval of ``ece``; None for none.

    Returns:
        ``ece`` (with its interval), ``mce`` (the worst bin's gap), ``brier``, ``effective_n`` (Kish 1965),
        ``prior`` and ``reliability``, a list of bins with ``n``, ``mass``, ``mean_risk``, ``risky_share``. The
        figures are None where a prior is given and only one class is there.
    """
    n, positive = len(risk), int(risky.sum())
    if prior is not None and positive in (0, n):
        none = {"value": None, "low": None, "high": None}
        return {"ece": none, "mce": None, "brier": None, "effective_n": 0.0, "prior": prior, "reliability": []}
    _, inverse = np.unique(risk, return_inverse=True)
    weights = _at_prior(np.ones(n), risky, prior)
    place = _bins(inverse, weights, bins)
    reliability = []
    for number in np.unique(place):
        inside = place == number
        part = weights[inside]
        reliability.append(
            {
                "n": int(inside.sum()),
                "mass": float(part.sum()),
                "mean_risk": float(np.average(risk[inside], weights=part)),
                "risky_share": float(np.average(risky[inside], weights=part)),
            }
        )
    value = _error(risk, risky, weights, place)
    drawn = [_at_prior(row.astype(np.float64), risky, prior) for row in (() if replicates is None else replicates)]
    low, high = percentiles(np.array([_error(risk, risky, w, _bins(inverse, w, bins)) for w in drawn]))
    return {
        "ece": {
            "value": value,
            "low": None if high is None else max(0.0, 2 * value - high),
            "high": None if low is None else max(0.0, 2 * value - low),
        },
        "mce": float(max(abs(row["mean_risk"] - row["risky_share"]) for row in reliability)),
        "brier": float(weights @ (risk - risky) ** 2),
        "effective_n": float(1 / (weights**2).sum()),
        "prior": prior,
        "reliability": reliability,
    }


def _at_prior(weights: Floats, risky: Bools, prior: float | None) -> Floats:
    """Weights that sum to 1, ``prior`` of it on risky records; NaN where a class has none."""
    if prior is None:
        return np.asarray(weights / weights.sum(), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        risky_share, benign_share = prior / weights[risky].sum(), (1 - prior) / weights[~risky].sum()
        return np.asarray(weights * np.where(risky, risky_share, benign_share), dtype=np.float64)


def _bins(inverse: Integers, weights: Floats, bins: int) -> Integers:
    """Each record's bin of equal mass; records of equal risk share one."""
    if not np.isfinite(weights).all():
        return np.zeros(len(weights), dtype=np.int64)
    mass = np.bincount(inverse, weights=weights)
    place = np.minimum(((np.cumsum(mass) - mass / 2) * bins).astype(np.int64), bins - 1)
    return np.asarray(place[inverse], dtype=np.int64)


def _error(risk: Floats, risky: Bools, weights: Floats, place: Integers) -> float:
    """Sum over the bins of the gap between mean risk and share of risky, times the bin's mass."""
    return float(np.abs(np.bincount(place, weights=weights * (risk - risky))).sum())
