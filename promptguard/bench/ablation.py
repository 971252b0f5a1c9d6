"""What the context does: the same records with parts of it withheld or swapped."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from promptguard.bench.columns import Bools, columns_of
from promptguard.bench.groups import contrasting, group_figures
from promptguard.bench.ranking import auroc
from promptguard.bench.records import Record
from promptguard.bench.scoring import Analyzer, Progress, Scored, score
from promptguard.errors import InputError
from promptguard.types import Context

CONTEXT_FIELDS: tuple[str, ...] = ("system_prompt", "user_role", "source", "history", "tools")
"""Fields that ``ablate`` and ``swap`` know, besides ``all``."""


def ablate(records: Sequence[Record], field: str) -> list[Record]:
    """The same records with part of the context withheld, that is, made unknown.

    Args:
        records: any records; their labels are left as they are.
        field: one of ``CONTEXT_FIELDS``, or ``all``. ``system_prompt`` takes ``purpose`` with it, which
            stands in for it.

    Returns:
        New records, in order.

    Raises:
        InputError: another field.
    """
    _check_field(field)
    empty = Context()
    return [_with(record, empty, field) for record in records]


def swap(records: Sequence[Record], field: str, seed: int = 0) -> list[Record]:
    """The same records with part of the context exchanged among those that have it.

    Every record gets another one's value; a different value wherever no single value fills more than half
    of the places. Records without the field stay as they are.

    Args:
        records: any records; their labels are left as they are, so they may no longer be true.
        field: as in ``ablate``.
        seed: same seed, same exchange.

    Returns:
        New records, in order.

    Raises:
        InputError: another field.
    """
    _check_field(field)
    places: dict[object, list[int]] = {}
    for position, record in enumerate(records):
        value = _value(record.context, field)
        if value != _value(Context(), field):
            places.setdefault(value, []).append(position)
    generator = random.Random(seed)  # noqa: S311 - an experiment, not a secret
    values = list(places.values())
    generator.shuffle(values)
    for positions in values:
        generator.shuffle(positions)
    takers = [position for positions in values for position in positions]
    shift = max((len(positions) for positions in values), default=0)
    swapped = list(records)
    for place, taker in enumerate(takers):
        giver = takers[(place + shift) % len(takers)] if shift < len(takers) else takers[place - 1]
        swapped[taker] = _with(records[taker], records[giver].context, field)
    return swapped


def _check_field(field: str) -> None:
    if field not in (*CONTEXT_FIELDS, "all"):
        raise InputError(f"field must be one of all, {', '.join(CONTEXT_FIELDS)}")


def _value(context: Context, field: str) -> object:
    if field == "all":
        return (context.system_prompt, context.purpose, *(getattr(context, name) for name in CONTEXT_FIELDS[1:]))
    return (context.system_prompt, context.purpose) if field == "system_prompt" else getattr(context, field)


def _with(record: Record, giver: Context, field: str) -> Record:
    names = (*CONTEXT_FIELDS, "purpose") if field == "all" else (field,)
    if field == "system_prompt":
        names = (field, "purpose")
    changed = replace(record.context, **{name: getattr(giver, name) for name in names})
    return record if changed == record.context else replace(record, context=changed)


def ablations(
    guard: Analyzer,
    records: Sequence[Record],
    full: Sequence[Scored],
    *,
    seed: int = 0,
    fields: Sequence[str] = ("all", *CONTEXT_FIELDS),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score again with each part of the context withheld, and swapped, and put the figures side by side.

    Labels are those of the true context, so a model that reads the context must get worse; one that ignores
    it stays where it is. Only records that change are scored again.

    Args:
        guard: what is measured.
        records: the records.
        full: what ``score`` gave for them.
        seed: of the exchange.
        fields: which parts.
        progress: called after each batch of each part.

    Returns:
        ``full``, and by field ``withheld`` and ``swapped``: AUROC, rates at the mode, group figures on the
        whole set; and on the records that changed, AUROC before and after and the share of verdicts that moved.
    """
    result: dict[str, Any] = {"full": _brief(records, full), "withheld": {}, "swapped": {}}
    for name in fields:
        for kind, other in (("withheld", ablate(records, name)), ("swapped", swap(records, name, seed))):
            places = [i for i, (old, new) in enumerate(zip(records, other, strict=True)) if old is not new]
            rows = list(full)
            again = score(guard, [other[i] for i in places], progress=progress)
            for place, row in zip(places, again, strict=True):
                rows[place] = row
            figures = _brief(records, rows)
            figures["changed"] = _moved([records[i] for i in places], [full[i] for i in places], again)
            result[kind][name] = figures
    return result


def _brief(records: Sequence[Record], scored: Sequence[Scored]) -> dict[str, Any]:
    columns = columns_of(records, scored)
    groups = group_figures([g for g in contrasting(records, columns) if g.contrast], 0, 0)
    return {
        "auroc": auroc(columns.risky, columns.rank),
        "recall": _mean(columns.flagged[columns.risky]),
        "false_alarm_rate": _mean(columns.flagged[~columns.risky]),
        "errors": int(columns.error.sum()),
        "groups": {name: groups[name]["value"] for name in ("right", "ranked", "strict")},
    }


def _moved(records: Sequence[Record], before: Sequence[Scored], after: Sequence[Scored]) -> dict[str, Any]:
    if not records:
        return {"n": 0, "auroc_full": None, "auroc": None, "verdicts_moved": None, "mean_risk_moved": None}
    old, new = columns_of(records, before), columns_of(records, after)
    return {
        "n": len(records),
        "auroc_full": auroc(old.risky, old.rank),
        "auroc": auroc(new.risky, new.rank),
        "verdicts_moved": _mean(old.flagged != new.flagged),
        "mean_risk_moved": float(np.abs(old.risk - new.risk).mean()),
    }


def _mean(values: Bools) -> float | None:
    return float(values.mean()) if len(values) else None
