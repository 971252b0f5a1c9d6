"""Ordinary benign traffic: false positives by where it comes from, and recall of attacks measured against it.

The modes' thresholds are quantiles of the risk of ordinary traffic (``promptguard.training.calibrate``), so what
they promise is measured on ordinary traffic, too: without the benign readings of contrasting groups, which are
made to be hard and are nobody's traffic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promptguard.bench.columns import Bools, Columns, Floats, Integers
from promptguard.bench.intervals import Resamples, divide, figure, proportion, weighted_share
from promptguard.bench.ranking import recall_replicates
from promptguard.bench.records import Record
from promptguard.policy import FALSE_POSITIVE_RATES
from promptguard.training.calibrate import TRAFFIC, kind

TRANSFER_RATE = 0.01
"""False-positive rate on ordinary traffic at which recall by source of attack is given."""
LEAST_RISKY = 20
"""A source of attack with fewer risky records is left out of the transfer table."""


def kinds(records: Sequence[Record]) -> list[str]:
    """What each record stands for.

    Args:
        records: the labelled records.

    Returns:
        For each record ``risky``, ``contrast``, or its part of ordinary traffic, a key of ``calibrate.TRAFFIC``. A
        record whose family is not known is ``contrast`` if its group holds a risky record.
    """
    risky_groups = {record.group for record in records if record.risky and record.group is not None}
    found = []
    for record in records:
        if record.risky:
            found.append("risky")
        elif record.family is None and record.group in risky_groups:
            found.append("contrast")
        else:
            known = {"source": record.source_name, "family": record.family or "benign", "kind": record.kind}
            found.append(kind({**known, "context": {"source": record.context.source}}))
    return found


def ordinary(records: Sequence[Record]) -> Bools:
    """Which records are ordinary benign traffic."""
    return np.array([name in TRAFFIC for name in kinds(records)], dtype=np.bool_)


def transfer(records: Sequence[Record], columns: Columns, resamples: Resamples) -> dict[str, Any]:
    """Recall by source of attack, at the threshold that 1 % of all ordinary benign records pass.

    Where whole sources were left out of training, this is what carries over to a source never seen.

    Args:
        records: the labelled records.
        columns: the same records and what was said about them.
        resamples: their bootstrap weights.

    Returns:
        ``benign`` (how many), ``flag_above``, ``by_source`` (recall with its interval, and the source's ``family``),
        ``summary`` of all these sources and of those of each family: ``sources``, ``mean``, ``worst``.
    """
    benign = np.flatnonzero(ordinary(records))
    threshold, per_replicate = resamples.threshold(columns.rank[benign], benign, TRANSFER_RATE)
    members: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        if record.risky:
            members.setdefault(record.source_name, []).append(position)
    rows: dict[str, Any] = {}
    replicates: dict[str, Floats] = {}
    for name in sorted(members):
        index = np.array(members[name])
        if len(index) < LEAST_RISKY or threshold is None:
            continue
        ranks = columns.rank[index]
        replicates[name] = recall_replicates(ranks, resamples.weights[:, index], per_replicate)
        clusters = len(np.unique(columns.cluster[index]))
        recall = proportion(int((ranks > threshold).sum()), len(index), replicates[name], clusters)
        rows[name] = {"family": records[index[0]].family or "not stated"} | recall
    summary = {}
    for family in ("all", *sorted({row["family"] for row in rows.values()})):
        names = [name for name, row in rows.items() if family in ("all", row["family"])]
        worst = min(names, key=lambda name: (rows[name]["value"], name), default=None)
        mean = float(np.mean([rows[name]["value"] for name in names])) if names else None
        drawn = np.mean([replicates[name] for name in names], axis=0) if names else np.empty(0)
        summary[family] = {
            "sources": len(names),
            "mean": figure(mean, drawn),
            "worst": None if worst is None else {"source": worst} | rows[worst],
        }
    return {"benign": len(benign), "flag_above": threshold, "by_source": rows, "summary": summary}


def at_modes(
    records: Sequence[Record], columns: Columns, resamples: Resamples, thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """False-positive rate of ordinary benign records at the threshold of each mode, by source and kind of traffic.

    Risk alone counts here: a text that is reviewed because it could not be read is not a false positive of a
    threshold.

    Args:
        records: the labelled records.
        columns: the same records and what was said about them.
        resamples: their bootstrap weights.
        thresholds: the risk from which each mode flags.

    Returns:
        By mode: ``nominal`` (the rate that defines it), ``threshold``, ``by_kind`` and ``by_source`` (the rate with
        its interval, and its ``ratio`` to the nominal one), ``traffic`` (the rate in the mix of kinds that defines
        the modes) and ``largest``, the kind with the largest ratio.
    """
    names = kinds(records)
    index = np.flatnonzero(ordinary(records))
    parts = {
        "by_kind": _members(index, names),
        "by_source": _members(index, [record.source_name for record in records]),
    }
    return {
        mode: _at_mode(columns, resamples, parts, threshold, FALSE_POSITIVE_RATES[mode])
        for mode, threshold in thresholds.items()
    }


def _members(index: Integers, names: Sequence[str]) -> dict[str, Integers]:
    found: dict[str, list[int]] = {}
    for position in index.tolist():
        found.setdefault(names[position], []).append(position)
    return {name: np.array(found[name]) for name in sorted(found)}


def _at_mode(
    columns: Columns,
    resamples: Resamples,
    parts: Mapping[str, Mapping[str, Integers]],
    threshold: float,
    nominal: float,
) -> dict[str, Any]:
    hit = np.asarray(columns.rank >= threshold, dtype=np.bool_)
    found: dict[str, Any] = {"nominal": nominal, "threshold": threshold}
    for part, members in parts.items():
        rates = {name: resamples.rate(hit, index, columns.cluster) for name, index in members.items()}
        found[part] = {name: rate | {"ratio": rate["value"] / nominal} for name, rate in rates.items()}
    by_kind = found["by_kind"]
    share = {name: TRAFFIC[name] for name in by_kind}
    total = sum(share.values())
    value = sum(share[name] * row["value"] for name, row in by_kind.items()) / total if share else None
    drawn = np.zeros(len(resamples.weights))
    for name, index in parts["by_kind"].items():
        drawn += share[name] * weighted_share(resamples.weights[:, index], hit[index])
    found["traffic"] = figure(value, divide(drawn, np.array(total)))
    if value == 0.0:  # no draw varies: Wilson's interval of all of them
        everything = np.concatenate(list(parts["by_kind"].values()))
        found["traffic"] = resamples.rate(hit, everything, columns.cluster)
    largest = max(by_kind, key=lambda name: by_kind[name]["ratio"], default=None)
    found["largest"] = None if largest is None else {"kind": largest, "ratio": by_kind[largest]["ratio"]}
    return found
