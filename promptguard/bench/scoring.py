"""What is measured: a guard is asked about every record, and no record is lost on the way.

A record whose analysis failed keeps its row, with ``error`` set: every figure counts it as the worst
verdict possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from promptguard.bench.records import Record
from promptguard.errors import MissingExtraError, ModelError
from promptguard.types import Context

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of records done and of all."""

_CHUNK = 256


class Analyzer(Protocol):
    """What is measured: anything with the method of ``Guard`` that takes many."""

    def analyze_many(self, pairs: Sequence[tuple[str, Context]], /) -> Any:
        """Return one ``Analysis`` a pair, in order."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What was said about one record.

    Attributes:
        risk: in [0, 1]; meaningless where ``error`` is set.
        probabilities: by name of intent, in [0, 1]; an intent left out counts as 0.
        decision: ``allow``, ``review`` or ``block``; ``error`` where the analysis failed.
        intents: those that reached their thresholds.
        spans: character offsets in the text, possibly overlapping.
        model: name and hash of the bundle.
        error: name of the exception's class where the analysis failed, else None.
        redacted: the text without the spans where it was flagged and has some, else None; never shown in a repr.
        windows: how many windows of the text were read; 0 where that is not known.
    """

    risk: float
    probabilities: Mapping[str, float]
    decision: str
    intents: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    model: str = ""
    error: str | None = None
    redacted: str | None = field(default=None, repr=False)
    windows: int = 0

    @classmethod
    def failed(cls, error: str) -> Scored:
        """The row of a record that has no verdict."""
        return cls(risk=0.0, probabilities={}, decision="error", error=error)


def score(guard: Analyzer, records: Sequence[Record], *, progress: Progress | None = None) -> list[Scored]:
    """Analyse every record.

    Where a batch raises, its records are analysed one by one, so that only the guilty one is an error.

    Args:
        guard: a ``Guard``, or anything with its ``analyze_many``.
        records: any records.
        progress: called after each batch.

    Returns:
        One row a record, in order; none is dropped.

    Raises:
        ModelError: the model cannot be used at all.
        MissingExtraError: the guard needs something that is not installed.
    """
    rows: list[Scored] = []
    for start in range(0, len(records), _CHUNK):
        part = [(record.text, record.context) for record in records[start : start + _CHUNK]]
        try:
            rows.extend(_ask(guard, part))
        except (ModelError, MissingExtraError):
            raise
        except Exception:  # a failure of any kind is a figure of the benchmark
            rows.extend(_ask_one(guard, pair) for pair in part)
        if progress is not None:
            progress(len(rows), len(records))
    return rows


def from_content(record: Record) -> bool:
    """Whether the text came in by a channel that has no authority to instruct."""
    return record.context.source not in ("user", None)


def score_redacted(
    guard: Analyzer, records: Sequence[Record], scored: Sequence[Scored], *, progress: Progress | None = None
) -> list[Scored | None]:
    """Analyse again, in the same context, what is left of flagged content without its spans.

    Args:
        guard: the one that ``score`` asked.
        records: the records it was asked about.
        scored: what ``score`` returned.
        progress: called after each batch.

    Returns:
        One row a record, in order: None unless it was flagged, came in by a content channel and somebody
        marked an attack in it.

    Raises:
        ModelError, MissingExtraError: as ``score``.
    """
    rows: list[Scored | None] = [None] * len(records)
    left = {
        i: replace(record, text=row.redacted)
        for i, (record, row) in enumerate(zip(records, scored, strict=True))
        if row.redacted is not None and record.spans and from_content(record)
    }
    for i, row in zip(left, score(guard, list(left.values()), progress=progress), strict=True):
        rows[i] = row
    return rows


def _ask(guard: Analyzer, pairs: Sequence[tuple[str, Context]]) -> list[Scored]:
    analyses = list(guard.analyze_many(pairs))
    if len(analyses) != len(pairs):
        raise ValueError(f"{len(analyses)} analyses for {len(pairs)} texts")
    return [_row(analysis) for analysis in analyses]


def _ask_one(guard: Analyzer, pair: tuple[str, Context]) -> Scored:
    try:
        return _ask(guard, [pair])[0]
    except (ModelError, MissingExtraError):
        raise
    except Exception as problem:
        return Scored.failed(type(problem).__name__)


def _row(analysis: Any) -> Scored:
    probabilities = {str(name): float(value) for name, value in analysis.probabilities.items()}
    risk = float(analysis.risk)
    if not all(0.0 <= value <= 1.0 for value in (risk, *probabilities.values())):
        raise ValueError("a probability outside [0, 1]")
    decision = str(analysis.decision)
    return Scored(
        risk=risk,
        probabilities=probabilities,
        decision=decision,
        intents=tuple(str(name) for name in analysis.intents),
        spans=tuple((int(span.start), int(span.end)) for span in analysis.spans),
        model=str(analysis.model),
        redacted=str(analysis.redacted()) if decision != "allow" and analysis.spans else None,
        windows=int(analysis.coverage.windows),
    )
