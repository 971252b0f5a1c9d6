"""How good the verdicts are, on labelled records: every figure of the benchmark.

Definitions that hold throughout:

- *risky* is any label but ``out_of_scope``; everything else is called benign here. *Flagged* is any
  decision but ``allow``.
- A record whose analysis failed stays in every figure as the worst verdict possible: a miss where it
  is risky, a false alarm where it is not, ranked last, every intent wrong. It is counted in ``errors``.
- Thresholds for a false-positive rate are set on all benign records of the *same* set, pooled, and hold
  for every part of it. They describe how well risk ranks; what a user meets are the figures at the mode.
- Intervals are those of ``intervals``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promptguard.bench.calibration_error import calibration
from promptguard.bench.columns import Bools, Columns, Floats, Integers, columns_of
from promptguard.bench.groups import contrasting_groups
from promptguard.bench.intervals import Resamples, figure
from promptguard.bench.lengths import by_windows
from promptguard.bench.ordinary import at_modes, transfer
from promptguard.bench.ranking import (
    auroc,
    auroc_replicates,
    average_precision,
    average_precision_replicates,
    recall_above,
)
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.bench.span_quality import span_quality
from promptguard.errors import InputError
from promptguard.intents import INTENTS, RISKY_INTENTS

LENGTHS: tuple[tuple[str, int], ...] = (("0-63", 64), ("64-255", 256), ("256-1023", 1024), ("1024-4095", 4096))
"""Length buckets in characters, and the first length beyond each; longer texts are ``4096+``."""


def evaluate(
    records: Sequence[Record],
    scored: Sequence[Scored],
    *,
    redacted: Sequence[Scored | None] | None = None,
    seed: int = 0,
    bootstrap: int = 200,
    prior: float | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compute every figure of the benchmark.

    Args:
        records: the labelled records, at least one.
        scored: what was said about each, in the same order.
        redacted: what ``score_redacted`` said of each without its spans; None leaves that figure out.
        seed: of the bootstrap.
        bootstrap: number of replicates; 0 leaves the intervals out, 1,000 is for figures to publish.
        prior: share of risky traffic at which risk is calibrated, in (0, 1), as the bundle's manifest
            states it; None takes the set as it is.
        thresholds: the risk from which each mode flags, as ``scored`` states risks; None leaves ``modes`` empty.

    Returns:
        JSON-ready figures: ``settings``, ``overall``, ``by`` (source, lang, length, channel, intent),
        ``intents``, ``calibration``, ``groups``, ``transfer``, ``modes``, ``windows``, ``spans``, ``worst``. What
        cannot be computed is None.

    Raises:
        InputError: no records, not one row a record, or a prior outside (0, 1).
    """
    if not records or len(records) != len(scored):
        raise InputError(f"evaluate needs one row a record and at least one, not {len(scored)} for {len(records)}")
    if prior is not None and not 0.0 < prior < 1.0:
        raise InputError(f"prior must lie in (0, 1), not {prior}")
    columns = columns_of(records, scored)
    resamples = Resamples(columns, seed, bootstrap)
    everything = np.arange(len(records))
    by_source = _by(columns, resamples, [record.source_name for record in records])
    return {
        "settings": _settings(scored, seed, bootstrap, prior, resamples.thresholds),
        "overall": _slice(columns, everything, resamples),
        "by": {
            "source": by_source,
            "lang": _by(columns, resamples, [record.lang or "unknown" for record in records]),
            "length": _by(columns, resamples, [_length(record.text) for record in records]),
            "channel": _by(columns, resamples, [record.context.source or "unknown" for record in records]),
            "intent": _by_intent(columns, resamples),
        },
        "intents": _intents(columns, resamples),
        "calibration": calibration(columns.risk, columns.risky, prior=prior, replicates=resamples.weights),
        "groups": contrasting_groups(records, columns, seed, bootstrap),
        "transfer": transfer(records, columns, resamples),
        "modes": at_modes(records, columns, resamples, thresholds or {}),
        "windows": {"records": by_windows(records, columns, resamples, scored, thresholds or {})},
        "spans": span_quality(records, scored, columns, resamples, redacted),
        "worst": _worst(by_source),
    }


def evaluate_parts(
    records: Sequence[Record],
    scored: Sequence[Scored],
    parts: Mapping[str, Sequence[int]],
    *,
    seed: int = 0,
    bootstrap: int = 200,
) -> dict[str, Any]:
    """Compute the figures of risk on parts of a set that the caller names; parts may overlap.

    Args:
        records: the labelled records, at least one.
        scored: what was said about each, in the same order.
        parts: positions in ``records``, by name of the part.
        seed: of the bootstrap.
        bootstrap: number of replicates.

    Returns:
        By name of the part, in order, what ``evaluate`` gives for a part of its own; empty parts are left out.

    Raises:
        InputError: no records, or not one row a record.
    """
    if not records or len(records) != len(scored):
        raise InputError(f"evaluate needs one row a record and at least one, not {len(scored)} for {len(records)}")
    columns = columns_of(records, scored)
    resamples = Resamples(columns, seed, bootstrap)
    return {name: _slice(columns, np.array(index), resamples) for name, index in parts.items() if len(index)}


def _settings(
    scored: Sequence[Scored], seed: int, bootstrap: int, prior: float | None, thresholds: Mapping[float, float | None]
) -> dict[str, Any]:
    return {
        "seed": seed,
        "bootstrap": bootstrap,
        "prior": prior,
        "model": next((row.model for row in scored if row.model), None),
        "flag_above": {str(rate): threshold for rate, threshold in thresholds.items()},
        "thresholds": "recall at a false-positive rate: thresholds set on the pooled benign records of this very set",
        "errors": "a failed analysis counts as the worst verdict possible",
        "intervals": "95 %, percentile bootstrap over pair_id groups; Wilson where a rate is 0 or 1",
    }


def _slice(columns: Columns, index: Integers, resamples: Resamples) -> dict[str, Any]:
    """Every figure of risk on the records of ``index``."""
    risky = columns.risky[index]
    positive, benign = index[risky], index[~risky]
    recalls: dict[str, Any] = {}
    for rate, threshold in resamples.thresholds.items():
        recalls[str(rate)] = recall_above(columns, positive, resamples, threshold, resamples.replicates[rate])
    return {
        "n": len(index),
        "risky": len(positive),
        "benign": len(benign),
        "errors": int(columns.error[index].sum()),
        "prevalence": len(positive) / len(index),
        **_ranking(risky, columns.rank[index], index, resamples),
        "recall_at_fpr": recalls,
        "false_alarm_rate": resamples.rate(columns.flagged, benign, columns.cluster),
        "recall": resamples.rate(columns.flagged, positive, columns.cluster),
        "exact_labels": resamples.rate(columns.exact, index, columns.cluster),
    }


def _ranking(gold: Bools, rank: Floats, index: Integers, resamples: Resamples) -> dict[str, Any]:
    """AUROC and average precision, with intervals, of the records of ``index``."""
    weights = resamples.weights[:, index]
    return {
        "auroc": figure(auroc(gold, rank), auroc_replicates(rank, gold, weights)),
        "average_precision": figure(average_precision(gold, rank), average_precision_replicates(rank, gold, weights)),
    }


def _by(columns: Columns, resamples: Resamples, names: Sequence[str]) -> dict[str, Any]:
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        members.setdefault(name, []).append(position)
    return {name: _slice(columns, np.array(members[name]), resamples) for name in sorted(members)}


def _by_intent(columns: Columns, resamples: Resamples) -> dict[str, Any]:
    """A risky intent's records against all benign ones; ``out_of_scope`` and ``benign`` on their own."""
    found: dict[str, Any] = {}
    for column, name in enumerate(INTENTS):
        members = columns.gold[:, column]
        if members.any():
            chosen = members | ~columns.risky if name in RISKY_INTENTS else members
            found[name] = _slice(columns, np.flatnonzero(chosen), resamples)
    unlabelled = np.flatnonzero(~columns.gold.any(axis=1))
    if len(unlabelled):
        found["benign"] = _slice(columns, unlabelled, resamples)
    return found


def _length(text: str) -> str:
    return next((name for name, beyond in LENGTHS if len(text) < beyond), "4096+")


def _intents(columns: Columns, resamples: Resamples) -> dict[str, Any]:
    """Each intent against all records without it, and the sets of labels."""
    everything = np.arange(len(columns.risky))
    each: dict[str, Any] = {}
    for column, name in enumerate(INTENTS):
        gold, predicted = columns.gold[:, column], columns.predicted[:, column]
        hits, n, found = int((gold & predicted).sum()), int(gold.sum()), int(predicted.sum())
        each[name] = {
            "n": n,
            **_ranking(gold, columns.probability[:, column], everything, resamples),
            "precision": hits / found if found else None,
            "recall": hits / n if n else None,
            "f1": 2 * hits / (n + found) if n else None,
        }
    known = [figures["f1"] for figures in each.values() if figures["f1"] is not None]
    return {
        "each": each,
        "macro_f1": sum(known) / len(known) if known else None,
        "macro_f1_over": len(known),
        "exact_labels": float(columns.exact.mean()),
    }


def _worst(by_source: Mapping[str, Any]) -> dict[str, Any]:
    def ranked(figure: str, sign: int) -> list[dict[str, Any]]:
        rows = [{"source": name, **part[figure]} for name, part in by_source.items() if part[figure]["n"]]
        return sorted(rows, key=lambda row: (sign * row["value"], row["source"]))

    return {"false_alarm_rate": ranked("false_alarm_rate", -1), "recall": ranked("recall", 1)}
