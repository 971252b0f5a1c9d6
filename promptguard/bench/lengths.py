"""Whether false alarms grow with length: ordinary benign records by the number of windows read.

A text counts as risky as its strongest window, so a long one has more chances to be flagged by mistake. Long benign
records are rare; more are made by joining short ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from promptguard.bench.columns import Columns, Integers, columns_of
from promptguard.bench.intervals import Resamples, divide, figure
from promptguard.bench.ordinary import kinds, ordinary
from promptguard.bench.records import Record
from promptguard.bench.scoring import Analyzer, Progress, Scored, score

WINDOWS: tuple[tuple[str, int], ...] = (("1", 2), ("2-3", 4), ("4-8", 9))
"""Buckets of numbers of windows, and the first number beyond each; more are ``9+``."""
LONG_TEXTS: tuple[tuple[int, int], ...] = ((4_500, 75), (12_000, 75))
"""Joined texts: least characters, and how many of them; about six and sixteen windows."""
PIECES = 300
"""Most pieces of the joined texts that are also analysed alone."""


def joined(records: Sequence[Record], seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Long benign texts made of the benign content records of a set.

    Pieces are ordinary content (documents, pages, mails, tool results, code) of no contrasting group and at most
    half as long as the text that is made. Pieces of one source and channel stand one after the other, separated by
    an empty line, in an order drawn with the seed, until the text has the characters wanted; it takes the first
    one's context. Sources take turns. No piece is used twice, so a small set gives fewer texts than
    ``LONG_TEXTS`` asks for.

    Args:
        records: the evaluated set.
        seed: same seed, same texts.

    Returns:
        Benign records of the source ``joined``, and the pieces they are made of.
    """
    risky_groups = {record.group for record in records if record.risky and record.group is not None}
    pools: dict[tuple[str, str], list[Record]] = {}
    for record, name in zip(records, kinds(records), strict=True):
        if name == "content" and record.group not in risky_groups:
            pools.setdefault((record.source_name, record.context.source or "unknown"), []).append(record)
    for key, pool in sorted(pools.items()):
        random.Random(f"{seed}/{'/'.join(key)}").shuffle(pool)  # noqa: S311 - a sample, not a secret
    made: list[Record] = []
    used: list[Record] = []
    for size, count in reversed(LONG_TEXTS):  # the longest first: they need the most
        open_pools = sorted(pools)
        wanted = len(made) + count
        while open_pools and len(made) < wanted:
            key = open_pools.pop(0)
            pieces = _draw(pools[key], size)
            if pieces:
                text = "\n\n".join(piece.text for piece in pieces)
                first = replace(pieces[0], spans=None, pair_id=None, labels=frozenset())
                made.append(replace(first, id=f"joined/{len(made)}", text=text, source_name="joined"))
                used += pieces
                open_pools.append(key)
    return made, used


def _draw(pool: list[Record], size: int) -> list[Record]:
    """Take pieces of a pool, in its order, until they have the characters wanted; none if they never have."""
    taken: list[Record] = []
    left: list[Record] = []
    length = 0
    for piece in pool:
        if length < size and len(piece.text) <= size // 2:
            taken.append(piece)
            length += len(piece.text)
        else:
            left.append(piece)
    if length < size:
        return []
    pool[:] = left
    return taken


def by_windows(
    records: Sequence[Record],
    columns: Columns,
    resamples: Resamples,
    scored: Sequence[Scored],
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """False-positive rates and mean risk of ordinary benign records, by number of windows.

    Args:
        records: the labelled records.
        columns: the same records and what was said about them.
        resamples: their bootstrap weights.
        scored: what was said.
        thresholds: the risk from which each mode flags.

    Returns:
        By bucket, shortest first: ``n``; ``false_alarm_rate`` (any decision but *allow*, that of a text which was not
        read whole included); ``at_modes``, the share at or above each threshold; ``mean_risk``. ``unknown`` holds
        failed analyses.
    """
    index = np.flatnonzero(ordinary(records))
    names = [_bucket(row.windows) for row in scored]
    found = {}
    for name in (*(name for name, _ in WINDOWS), "9+", "unknown"):
        members = np.array([i for i in index.tolist() if names[i] == name], dtype=np.int64)
        if len(members):
            found[name] = _figures(columns, resamples, members, thresholds)
    return found


def joined_figures(
    guard: Analyzer,
    records: Sequence[Record],
    thresholds: Mapping[str, float],
    *,
    seed: int = 0,
    bootstrap: int = 200,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score joined texts, and some of their pieces alone, and give the figures by number of windows.

    Args:
        guard: what is measured.
        records: the set to make them of.
        thresholds: the risk from which each mode flags.
        seed: of the texts and of the bootstrap.
        bootstrap: number of replicates.
        progress: called after each batch.

    Returns:
        As ``by_windows``, for ``pieces`` and for ``joined``; empty where the set holds too little to join.
    """
    made, used = joined(records, seed)
    some = random.Random(seed).sample(used, min(PIECES, len(used)))  # noqa: S311 - a sample, not a secret
    found = {}
    for name, texts in (("pieces", some), ("joined", made)):
        if texts:
            scored = score(guard, texts, progress=progress)
            columns = columns_of(texts, scored)
            found[name] = by_windows(texts, columns, Resamples(columns, seed, bootstrap), scored, thresholds)
    return found


def _bucket(windows: int) -> str:
    if windows < 1:
        return "unknown"
    return next((name for name, beyond in WINDOWS if windows < beyond), "9+")


def _figures(
    columns: Columns, resamples: Resamples, members: Integers, thresholds: Mapping[str, float]
) -> dict[str, Any]:
    weights, risk = resamples.weights[:, members], columns.risk[members]
    return {
        "n": len(members),
        "false_alarm_rate": resamples.rate(columns.flagged, members, columns.cluster),
        "at_modes": {
            mode: resamples.rate(columns.rank >= threshold, members, columns.cluster)
            for mode, threshold in thresholds.items()
        },
        "mean_risk": figure(float(risk.mean()), divide(weights @ risk, weights.sum(axis=1))),
    }
