"""Contrasting groups: records of one ``pair_id`` that differ in a context field or a few words, and in their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptguard.bench.columns import Columns
from promptguard.bench.intervals import divide, percentiles, proportion
from promptguard.bench.records import Record


@dataclass(frozen=True)
class Group:
    """One contrasting group's figures."""

    source: str
    factor: str
    kind: str
    contrast: bool  # risky flags differ; otherwise only the label sets do
    right: bool
    exact: bool
    won: float
    couples: int

    @property
    def strict(self) -> bool:
        """Whether every risky record outranks every harmless one."""
        return self.won == self.couples


def contrasting_groups(records: Sequence[Record], columns: Columns, seed: int, bootstrap: int) -> dict[str, Any]:
    """Figures of all contrasting groups, and by kind, factor and source.

    Args:
        records: the labelled records.
        columns: the same records and what was said about them.
        seed: of the bootstrap.
        bootstrap: number of replicates.

    Returns:
        ``overall``, ``by_kind``, ``by_factor``, ``by_source`` of the groups that hold risky and harmless
        records; ``label_sets`` of all whose label sets differ.
    """
    groups = contrasting(records, columns)
    mixed = [group for group in groups if group.contrast]

    def summary(chosen: list[Group]) -> dict[str, Any]:
        return group_figures(chosen, seed, bootstrap)

    def split(name: str) -> dict[str, Any]:
        keys = sorted({str(getattr(group, name)) for group in mixed})
        return {key: summary([group for group in mixed if getattr(group, name) == key]) for key in keys}

    return {
        "overall": summary(mixed),
        "by_kind": split("kind"),
        "by_factor": split("factor"),
        "by_source": split("source"),
        "label_sets": {
            "note": "groups whose label sets differ, in scope against out of scope included: every set exact",
            "exact": summary(groups)["exact"],
        },
    }


def contrasting(records: Sequence[Record], columns: Columns) -> list[Group]:
    """Groups of at least two records whose label sets differ."""
    members: dict[tuple[str, str], list[int]] = {}
    for position, record in enumerate(records):
        if record.group is not None:
            members.setdefault(record.group, []).append(position)
    right, exact = columns.right, columns.exact
    groups = []
    for positions in members.values():
        if len({records[position].labels for position in positions}) < 2:
            continue
        index = np.array(positions)
        high, low = columns.rank[index[columns.risky[index]]], columns.rank[index[~columns.risky[index]]]
        first = records[positions[0]]
        groups.append(
            Group(
                source=first.source_name,
                factor=first.factor or "not stated",
                kind="one text" if len({records[position].text for position in positions}) == 1 else "twin texts",
                contrast=len(high) > 0 and len(low) > 0,
                right=bool(right[index].all()),
                exact=bool(exact[index].all()),
                won=float((high[:, None] > low).sum() + (high[:, None] == low).sum() / 2),
                couples=len(high) * len(low),
            )
        )
    return groups


def group_figures(groups: Sequence[Group], seed: int, bootstrap: int) -> dict[str, Any]:
    """Shares of groups and of (risky, harmless) couples, intervals by resampling groups."""
    n = len(groups)
    drawn = np.random.default_rng(seed).integers(0, max(n, 1), (bootstrap, n))
    figures: dict[str, Any] = {"n": n}
    for name in ("right", "strict", "exact"):
        hits = np.array([getattr(group, name) for group in groups], dtype=bool)
        replicates = hits[drawn].mean(axis=1) if n else np.empty(0)
        figures[name] = proportion(int(hits.sum()), n, replicates, n)
    won = np.array([group.won for group in groups], dtype=np.float64)
    couples = np.array([group.couples for group in groups], dtype=np.int64)
    low, high = percentiles(divide(won[drawn].sum(axis=1), couples[drawn].sum(axis=1)) if n else np.empty(0))
    figures["ranked"] = {
        "value": float(won.sum() / couples.sum()) if couples.sum() else None,
        "low": low,
        "high": high,
        "n": int(couples.sum()),
    }
    return figures
