"""The mistakes, for a person to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from promptguard.bench.columns import columns_of
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored


def most_confident_errors(
    records: Sequence[Record], scored: Sequence[Scored], *, per_source: int = 10, texts: bool = False
) -> list[dict[str, Any]]:
    """The wrong verdicts that were surest, for a person to read.

    Args:
        records: the records.
        scored: what was said, in the same order.
        per_source: at most so many of each source.
        texts: whether to show text and context, which may be private.

    Returns:
        By source, the surest first: ``id``, ``source``, ``kind`` (``miss``, ``false_alarm``, ``error``),
        ``risk`` (None for an error), ``decision``, ``labels``, ``intents``; with ``texts`` also ``text`` and
        ``context``.
    """
    columns = columns_of(records, scored)
    distance = np.abs(columns.rank - columns.risky)
    wrong = sorted(np.flatnonzero(~columns.right).tolist(), key=lambda i: (records[i].source_name, -distance[i], i))
    taken: dict[str, int] = {}
    rows = []
    for position in wrong:
        record, row = records[position], scored[position]
        taken[record.source_name] = taken.get(record.source_name, 0) + 1
        if taken[record.source_name] > per_source:
            continue
        entry: dict[str, Any] = {
            "id": record.id,
            "source": record.source_name,
            "kind": "error" if row.error is not None else "miss" if record.risky else "false_alarm",
            "risk": None if row.error is not None else row.risk,
            "decision": row.decision,
            "labels": sorted(record.labels),
            "intents": list(row.intents),
        }
        if texts:
            entry |= {"text": record.text, "context": asdict(record.context)}
        rows.append(entry)
    return rows
