"""Whether the stated risk is the true one."""

from __future__ import annotations

from typing import Any

import numpy as np

from promptguard.bench.columns import Bools, Floats

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""


def calibration(risk: Floats, risky: Bools, *, prior: float | None = None, bins: int = BINS) -> dict[str, Any]:
    """Whether a risk of 0.7 is right seven times in ten.

    The expected calibration error (Naeini et al. 2015) over bins of equal mass (Nixon et al. 2019), and
    the Brier score (Brier 1950). Records are weighted so that ``prior`` of the mass is risky, as in
    correcting for a shifted class prior (Saerens et al. 2002). Records of equal risk share a bin, so a bin
    may be empty.

    Args:
        risk: in [0, 1], of shape (n,).
        risky: of shape (n,).
        prior: share of risky traffic to weight to, or None for equal weights.
        bins: how many.

    Returns:
        ``ece``, ``mce`` (the worst bin's gap), ``brier``, ``effective_n`` (Kish 1965), ``prior`` and
        ``reliability``, a list of bins with ``n``, ``mass``, ``mean_risk``, ``risky_share``. The figures
        are None where a prior is given and only one class is there.
    """
    n, positive = len(risk), int(risky.sum())
    if prior is not None and positive in (0, n):
        return {"ece": None, "mce": None, "brier": None, "effective_n": 0.0, "prior": prior, "reliability": []}
    weights = np.ones(n)
    if prior is not None:
        weights = np.where(risky, prior / positive, (1 - prior) / (n - positive))
    weights = weights / weights.sum()
    _, inverse = np.unique(risk, return_inverse=True)
    mass = np.bincount(inverse, weights=weights)
    place = np.minimum(((np.cumsum(mass) - mass / 2) * bins).astype(np.int64), bins - 1)[inverse]
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
    gaps = [(row["mass"], abs(row["mean_risk"] - row["risky_share"])) for row in reliability]
    return {
        "ece": float(sum(mass * gap for mass, gap in gaps)),
        "mce": float(max(gap for _, gap in gaps)),
        "brier": float(weights @ (risk - risky) ** 2),
        "effective_n": float(1 / (weights**2).sum()),
        "prior": prior,
        "reliability": reliability,
    }
