"""Examples as flat arrays, and the batches cut from them without a loop over rows.

A processor spends its time in the network; an accelerator would wait for Python. So everything is
laid out once: token ids in one array, each row of an example a pair of ranges in it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptguard.tokenizer import PAD
from promptguard.training.examples import Example

_MULTIPLE = 8  # fused attention kernels want lengths of a multiple of it
_POOL = 1200


@dataclass
class Store:
    """Examples laid out flat; row arrays are in the order of the examples that own them.

    Attributes:
        tokens: every distinct context and text, one after the other.
        marks: whether each text token is attack (-1 unknown), text after text.
        contexts: ``(rows, wordings, 2)``: start and length in ``tokens`` of the wordings of a row's context;
            where a context has fewer, they repeat.
        texts: ``(rows, 3)``: start and length in ``tokens``, start in ``marks``.
        first_row: ``(examples + 1,)``: an example's rows are those from its number to the next.
        labels: ``(examples, 11)``; -1 where nobody labelled the example and only a teacher speaks.
        pairs: ``(examples,)``: number of the group to be told apart within, or -1.
        units: ``(examples,)``: number of what is drawn together.
        families: ``(units,)``: name of each unit's family.
        teacher: ``(rows, wordings, 11)`` logits of a larger model; empty without one.
    """

    tokens: NDArray[np.int32]
    marks: NDArray[np.int8]
    contexts: NDArray[np.int32]
    texts: NDArray[np.int32]
    first_row: NDArray[np.int32]
    labels: NDArray[np.int8]
    pairs: NDArray[np.int32]
    units: NDArray[np.int32]
    families: NDArray[np.str_]
    teacher: NDArray[np.float16]

    @classmethod
    def of(cls, units: Mapping[str, Sequence[Sequence[Example]]], wordings: int = 1) -> Store:
        """Lay examples out.

        Args:
            units: by family, lists of examples that are drawn together (``group``).
            wordings: most wordings kept of a context.

        Returns:
            The store, without a teacher.
        """
        tokens: list[int] = []
        marks: list[int] = []
        places: dict[tuple[int, ...], tuple[int, int]] = {}

        def place(ids: tuple[int, ...]) -> tuple[int, int]:
            if ids not in places:
                places[ids] = (len(tokens), len(ids))
                tokens.extend(ids)
            return places[ids]

        contexts: list[list[tuple[int, int]]] = []
        texts: list[tuple[int, int, int]] = []
        first_row, labels, pairs, numbers = [0], [], [], []
        families: list[str] = []
        names: dict[str, int] = {}
        for family, members in units.items():
            for unit in members:
                if not unit:
                    continue
                for example in unit:
                    for row in example.rows:
                        found = [place(c) for c in row.contexts[:wordings]]
                        contexts.append([found[i % len(found)] for i in range(wordings)])
                        texts.append((*place(row.text), len(marks)))
                        marks.extend(row.spans)
                    first_row.append(len(texts))
                    labels.append(example.labels)
                    pairs.append(-1 if example.pair is None else names.setdefault(example.pair, len(names)))
                    numbers.append(len(families))
                families.append(family)
        return cls(
            np.array(tokens, np.int32),
            np.array(marks, np.int8),
            np.array(contexts, np.int32).reshape(-1, wordings, 2),
            np.array(texts, np.int32).reshape(-1, 3),
            np.array(first_row, np.int32),
            np.array(labels, np.int8),
            np.array(pairs, np.int32),
            np.array(numbers, np.int32),
            np.array(families),
            np.empty((0, 0, 0), np.float16),
        )

    def save(self, path: Path) -> None:
        """Write all arrays to one compressed file in NumPy's format; an interrupted one leaves none under its name."""
        partial = path.with_suffix(".partial.npz")  # NumPy adds .npz to any other name
        np.savez_compressed(partial, **{f.name: getattr(self, f.name) for f in fields(self)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Store:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{f.name: arrays[f.name] for f in fields(cls)})

    def lengths(self) -> NDArray[np.int32]:
        """For each example the tokens of its longest row in its longest wording."""
        rows = self.contexts[:, :, 1].max(axis=1) + self.texts[:, 1]
        longest: NDArray[np.int32] = np.maximum.reduceat(rows, self.first_row[:-1])
        return longest


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


class Mixture:
    """Endless batches of example numbers, drawn by family in fixed shares.

    Args:
        store: the examples.
        shares: for each family its share of the draws; families without one are left out.
        tokens: most padded tokens in a batch.
        seed: fixes the order.
    """

    def __init__(self, store: Store, shares: Mapping[str, float], tokens: int, seed: int) -> None:
        self._lengths = store.lengths()
        self._rows = np.diff(store.first_row)
        self._shares = shares
        self._tokens = tokens
        self._rng = random.Random(seed)  # noqa: S311 (not for security)
        self._units: dict[str, list[NDArray[np.intp]]] = defaultdict(list)
        starts = np.flatnonzero(np.diff(store.units, prepend=-1))
        for unit, members in enumerate(np.split(np.arange(len(store.units)), starts[1:])):
            if shares.get(str(store.families[unit])):
                self._units[str(store.families[unit])].append(members)

    def batches(self) -> Iterator[NDArray[np.intp]]:
        """Yield batches; examples of similar length come together to save padding."""
        draws = {family: self._endless(items) for family, items in self._units.items()}
        families = sorted(draws)
        weights = [self._shares[f] for f in families]
        while True:
            pool = [next(draws[f]) for f in self._rng.choices(families, weights, k=max(_POOL, self._tokens // 4))]
            pool.sort(key=lambda unit: int(self._lengths[unit].max()))
            batches: list[list[NDArray[np.intp]]] = [[]]
            longest = count = 0
            for unit in pool:
                length, rows = int(self._lengths[unit].max()), int(self._rows[unit].sum())
                if batches[-1] and (count + rows) * max(longest, length) > self._tokens:
                    batches.append([])
                    longest = count = 0
                batches[-1].append(unit)
                longest, count = max(longest, length), count + rows
            self._rng.shuffle(batches)
            yield from map(np.concatenate, batches)

    def _endless(self, items: list[NDArray[np.intp]]) -> Iterator[NDArray[np.intp]]:
        while True:
            self._rng.shuffle(items)
            yield from items


@dataclass
class Batch:
    """Tensors of one step: rows padded to one length, and which example each row belongs to.

    Attributes:
        ids: ``(rows, length)`` token ids: context, text, padding.
        segments: ``(rows, length)``: 0 context, 1 text, 2 padding.
        positions: ``(rows, length)``, starting afresh at the text.
        marks: ``(rows, length)``: 1 attack, 0 not, -1 unknown or no text.
        owner: ``(rows,)``: number of the example a row belongs to.
        labels: ``(examples, 11)``; -1 unknown.
        pairs: ``(examples,)``: group's number, or -1.
        teacher: ``(rows, 11)`` logits to learn from, or None.
    """

    ids: Tensor
    segments: Tensor
    positions: Tensor
    marks: Tensor
    owner: Tensor
    labels: Tensor
    pairs: Tensor
    teacher: Tensor | None


class Collator:
    """Cuts batches from a store on a device, each context in one of its wordings.

    Args:
        store: the examples.
        device: where the tensors shall lie.
    """

    def __init__(self, store: Store, device: str = "cpu") -> None:
        self._store = store
        self._device = device
        self._tokens = torch.from_numpy(store.tokens).to(device)
        self._marks = torch.from_numpy(store.marks).to(device)

    def __call__(
        self, examples: NDArray[np.intp], *, wording: int | None = None, seed: int = 0, twice: bool = False
    ) -> Batch:
        """Make the tensors of a batch.

        Args:
            examples: numbers of examples in the store.
            wording: which wording of every context; None draws one for each example.
            seed: fixes what is drawn.
            twice: every example in two wordings, drawn: all in one, then all in another.

        Returns:
            The batch, on the device.
        """
        store = self._store
        wordings = store.contexts.shape[1]
        chosen = np.random.default_rng(seed).integers(wordings, size=len(examples))
        if wording is not None:
            chosen = np.full(len(examples), wording)
        if twice:
            steps = np.random.default_rng(seed + 1).integers(1, max(wordings, 2), size=len(examples))
            chosen = np.concatenate([chosen, (chosen + steps) % wordings])
            examples = np.concatenate([examples, examples])
        counts = store.first_row[examples + 1] - store.first_row[examples]
        owner = np.repeat(np.arange(len(examples)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = store.first_row[examples][owner] + within
        drawn = chosen[owner]
        contexts = store.contexts[rows, drawn]
        ranges = self._put(np.concatenate([contexts, store.texts[rows]], axis=1).astype(np.int64))
        longest = int((contexts[:, 1] + store.texts[rows, 1]).max())
        at = torch.arange(-(-longest // _MULTIPLE) * _MULTIPLE, device=self._device)[None]
        context_start, context_length, text_start, text_length, mark_start = (ranges[:, i, None] for i in range(5))
        in_text = at - context_length
        context, text = in_text < 0, (in_text >= 0) & (in_text < text_length)
        real = context | text
        index = torch.where(context, context_start + at, text_start + in_text).masked_fill_(~real, 0)
        mark = torch.where(text, mark_start + in_text, 0)
        return Batch(
            ids=self._tokens[index].long().masked_fill_(~real, PAD),
            segments=torch.where(context, 0, torch.where(text, 1, 2)),
            positions=torch.where(context, at, in_text).masked_fill_(~real, 0),
            marks=self._marks[mark].masked_fill_(~text, -1),
            owner=self._put(owner),
            labels=self._put(store.labels[examples].astype(np.float32)),
            pairs=self._put(store.pairs[examples]),
            teacher=self._put(store.teacher[rows, drawn].astype(np.float32)) if store.teacher.size else None,
        )

    def _put(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
