"""Records to what the trainer feeds: windows with labels, drawn by family, batched by length."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptguard.context import ContextEncoder
from promptguard.intents import INTENTS
from promptguard.tokenizer import PAD, Tokenizer
from promptguard.types import Context
from promptguard.windows import Window, cut

WINDOW_TOKENS = 256
OVERLAP_TOKENS = 64
CONTEXT_TOKENS = 256
_WINDOWS = 3
_SHORT = 64
"""A risky message of at most this many tokens from a user is attack from end to end."""


@dataclass(frozen=True, slots=True)
class Row:
    """One window: context ids, text ids, whether each text token is attack (-1 unknown)."""

    context: tuple[int, ...]
    text: tuple[int, ...]
    spans: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """Windows that share one label: the label holds for the strongest of them.

    Attributes:
        rows: windows.
        labels: 11 zeros and ones, risk last.
        pair: key of the group of records to be told apart, or None.
    """

    rows: tuple[Row, ...]
    labels: tuple[float, ...]
    pair: str | None


def examples(record: Mapping[str, Any], tokenizer: Tokenizer, contexts: ContextEncoder) -> list[Example]:
    """Make the examples of a record.

    Where the attack's place is known each window has its own label; where it is not, the label belongs
    to the record and the strongest window answers for it (multiple-instance learning, Dietterich 1997).

    Args:
        record: as ``data.build`` gives them.
        tokenizer: the bundle's tokenizer.
        contexts: the encoder of contexts.

    Returns:
        At most three examples; none where no window holds enough of the attack.

    Raises:
        InputError: the record's context is malformed.
    """
    context = contexts.ids(Context.of(record["context"]), record["text"])
    windows = cut(
        record["text"],
        tokenizer,
        window_tokens=WINDOW_TOKENS,
        overlap_tokens=OVERLAP_TOKENS,
        max_windows=16,
        evidence=lambda _: 0.0,
    ).windows
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


def _placed(record: Mapping[str, Any], context: tuple[int, ...], windows: Sequence[Window]) -> list[Example]:
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


class Mixture:
    """Endless batches, drawn by family in fixed shares.

    Args:
        units: for each family, lists of examples that stay together (a group of a pair, or one record).
        shares: for each family its share of the draws.
        tokens: most padded tokens in a batch.
        seed: fixes the order.
    """

    def __init__(
        self, units: Mapping[str, list[list[Example]]], shares: Mapping[str, float], tokens: int, seed: int
    ) -> None:
        self._units = {family: list(items) for family, items in units.items() if items and shares.get(family)}
        self._shares = shares
        self._tokens = tokens
        self._rng = random.Random(seed)  # noqa: S311 (not for security)

    def batches(self) -> Iterator[list[Example]]:
        """Yield batches; examples of similar length come together to save padding."""
        draws = {family: self._endless(items) for family, items in self._units.items()}
        families = sorted(draws)
        weights = [self._shares[f] for f in families]
        while True:
            pool = [next(draws[f]) for f in self._rng.choices(families, weights, k=1200)]
            pool.sort(key=lambda unit: max(_length(e) for e in unit))
            batches: list[list[Example]] = [[]]
            longest = count = 0
            for unit in pool:
                longest_now = max(longest, max(_length(e) for e in unit))
                rows = sum(len(e.rows) for e in unit)
                if batches[-1] and (count + rows) * longest_now > self._tokens:
                    batches.append([])
                    longest_now, count = max(_length(e) for e in unit), 0
                batches[-1] += unit
                longest, count = longest_now, count + rows
            self._rng.shuffle(batches)
            yield from batches

    def _endless(self, items: list[list[Example]]) -> Iterator[list[Example]]:
        while True:
            self._rng.shuffle(items)
            yield from items


def _length(example: Example) -> int:
    return max(len(r.context) + len(r.text) for r in example.rows)


def group(examples_of: Sequence[tuple[Mapping[str, Any], list[Example]]]) -> dict[str, list[list[Example]]]:
    """Collect examples by family into units that are drawn together: those of a pair, or of one record."""
    units: dict[str, list[list[Example]]] = defaultdict(list)
    pairs: dict[str, list[Example]] = {}
    for record, made in examples_of:
        key = record["pair_id"]
        if key and record["family"] != "benign":
            if key not in pairs:
                pairs[key] = []
                units[record["family"]].append(pairs[key])
            pairs[key] += made
        elif made:
            units[record["family"]].append(made)
    return units


@dataclass
class Batch:
    """Tensors of one step: rows padded to one length, and which example each row belongs to.

    Attributes:
        ids: ``(rows, length)`` token ids.
        segments: ``(rows, length)``: 0 context, 1 text, 2 padding.
        positions: ``(rows, length)``, starting afresh at the text.
        spans: ``(rows, length)``: 1 attack, 0 not, -1 unknown or no text.
        owner: ``(rows,)``: number of the example a row belongs to.
        labels: ``(examples, 11)``.
        pairs: for each example its group's key, or None.
    """

    ids: Tensor
    segments: Tensor
    positions: Tensor
    spans: Tensor
    owner: Tensor
    labels: Tensor
    pairs: list[str | None]


def collate(batch: Sequence[Example]) -> Batch:
    """Pad rows of a batch: context, text, padding."""
    rows = [(i, row) for i, example in enumerate(batch) for row in example.rows]
    longest = max(len(r.context) + len(r.text) for _, r in rows)
    ids = torch.full((len(rows), longest), PAD)
    segments = torch.full((len(rows), longest), 2)
    positions = torch.zeros((len(rows), longest), dtype=torch.long)
    spans = torch.full((len(rows), longest), -1)
    for n, (_, row) in enumerate(rows):
        c, t = len(row.context), len(row.text)
        ids[n, : c + t] = torch.tensor(row.context + row.text)
        segments[n, :c], segments[n, c : c + t] = 0, 1
        positions[n, :c], positions[n, c : c + t] = torch.arange(c), torch.arange(t)
        spans[n, c : c + t] = torch.tensor(row.spans)
    return Batch(
        ids,
        segments,
        positions,
        spans,
        torch.tensor([i for i, _ in rows]),
        torch.tensor([e.labels for e in batch]),
        [e.pair for e in batch],
    )
