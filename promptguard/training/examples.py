"""Records to what the trainer feeds: windows with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptguard.context import ContextEncoder
from promptguard.intents import INTENTS
from promptguard.tokenizer import Tokenizer
from promptguard.types import Context
from promptguard.windows import Window, cut

WINDOW_TOKENS = 256
OVERLAP_TOKENS = 64
CONTEXT_TOKENS = 256
_WINDOWS = 3
_SHORT = 64
"""A risky message of at most this many tokens from a user is attack from end to end."""


_UNKNOWN = (-1.0,) * (len(INTENTS) + 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One window: its context's ids in one or more wordings, text ids, whether a text token is attack (-1 unknown)."""

    contexts: tuple[tuple[int, ...], ...]
    text: tuple[int, ...]
    spans: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """Windows that share one label: the label holds for the strongest of them.

    Attributes:
        rows: windows.
        labels: 11 zeros and ones, risk last; -1 where nobody labelled the record.
        pair: key of the group of records to be told apart, or None.
    """

    rows: tuple[Row, ...]
    labels: tuple[float, ...]
    pair: str | None


def examples(
    record: Mapping[str, Any],
    tokenizer: Tokenizer,
    contexts: ContextEncoder,
    reworded: Sequence[Mapping[str, Any]] = (),
) -> list[Example]:
    """Make the examples of a record.

    Where the attack's place is known each window has its own label; where it is not, the label belongs
    to the record and the strongest window answers for it (multiple-instance learning, Dietterich 1997).

    Args:
        record: as ``data.build`` gives them; labels may be None, then only a teacher speaks.
        tokenizer: the bundle's tokenizer.
        contexts: the encoder of contexts.
        reworded: further contexts that say the same.

    Returns:
        At most three examples; none where no window holds enough of the attack.

    Raises:
        InputError: the record's context is malformed.
    """
    context = tuple(contexts.ids(Context.of(c), record["text"]) for c in (record["context"], *reworded))
    windows = cut(
        record["text"],
        tokenizer,
        window_tokens=WINDOW_TOKENS,
        overlap_tokens=OVERLAP_TOKENS,
        max_windows=16,
        evidence=lambda _: 0.0,
    ).windows
    if record["labels"] is None:
        return [Example((Row(context, w.ids, _flat(w, -1)),), _UNKNOWN, None) for w in windows[:1]]
    risky = bool(set(record["labels"]) - {"out_of_scope"})
    spans = record["spans"]
    if risky and spans:
        return _placed(record, context, windows)
    marks = 0 if not risky else 1 if len(windows) == 1 and len(windows[0].ids) <= _SHORT and _from_user(record) else -1
    chosen = _spread(windows)
    rows = tuple(Row(context, w.ids, _flat(w, marks)) for w in chosen)
    labels = _labels(record["labels"])
    if risky:
        return [Example(rows, labels, record["pair_id"])]
    return [Example((row,), labels, record["pair_id"]) for row in rows]


def _placed(
    record: Mapping[str, Any], context: tuple[tuple[int, ...], ...], windows: Sequence[Window]
) -> list[Example]:
    """Examples of a record whose spans are known: two windows with the attack, one without.

    A window with fewer than six tokens of the attack, unless the attack is that short, is neither.
    """
    found: list[Example] = []
    clean: list[Example] = []
    for window in windows:
        marks = [0]
        for start, end in window.offsets:
            marks.append(int(any(start < b and end > a for a, b in record["spans"])))
        row = Row(context, window.ids, (*marks, 0))
        inside = sum(marks)
        if inside >= min(6, sum(b - a for a, b in record["spans"])):
            found.append(Example((row,), _labels(record["labels"]), record["pair_id"]))
        elif not inside:
            clean.append(Example((row,), _labels(()), None))
    return found[:2] + clean[:1]


def _spread(windows: Sequence[Window]) -> list[Window]:
    """Three windows at most: the first, the middle one and the last."""
    if len(windows) <= _WINDOWS:
        return list(windows)
    return [windows[0], windows[len(windows) // 2], windows[-1]]


def _from_user(record: Mapping[str, Any]) -> bool:
    return record["context"].get("source") in (None, "user")


def _flat(window: Window, mark: int) -> tuple[int, ...]:
    """The same mark for every token; special tokens are never known to be attack."""
    return (0 if mark == 0 else -1, *([mark] * len(window.offsets)), 0 if mark == 0 else -1)


def _labels(names: Sequence[str]) -> tuple[float, ...]:
    """Zeros and ones in the order of ``model.OUTPUTS``."""
    risky = bool(set(names) - {"out_of_scope"})
    return (*(float(intent in names) for intent in INTENTS), float(risky))
