"""Nearest examples: how close a text is to attacks seen before."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from promptguard.detectors import Evidence
from promptguard.errors import InputError, ModelCorrupt
from promptguard.intents import INTENTS, is_risky
from promptguard.types import Signal

if TYPE_CHECKING:
    from promptguard.runtime import Floats

_NEIGHBOURS = 3
"""Nearest examples of each side that are averaged over."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text with the intents it is an example of; none means a harmless one.

    Attributes:
        id: how it is called in ``Analysis.signals``.
        text: the text; never shown in a repr.
        labels: names of intents.
        license: SPDX identifier of the text's licence.

    Raises:
        InputError: the text is blank or a label is no intent.
    """

    id: str
    text: str = field(repr=False)
    labels: tuple[str, ...] = ()
    license: str = "CC0-1.0"

    def __post_init__(self) -> None:
        unknown = set(self.labels) - set(INTENTS)
        if unknown or not self.text.strip():
            raise InputError(f"an example needs a text and labels among {', '.join(INTENTS)}")


@dataclass(frozen=True, slots=True)
class Index:
    """Examples and their vectors.

    Attributes:
        examples: the examples.
        vectors: unit vectors, shape (examples, dimensions).
    """

    examples: tuple[Example, ...]
    vectors: Floats

    @classmethod
    def of(cls, examples: Sequence[Example], encode: Callable[[str], Floats]) -> Index:
        """Build an index with any encoder: the model's own, or a sentence-transformers model's.

        Args:
            examples: at least one.
            encode: text to vector; vectors are scaled to unit length here.

        Returns:
            The index.
        """
        vectors = np.stack([np.asarray(encode(e.text), np.float32) for e in examples])
        return cls(tuple(examples), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    @classmethod
    def load(cls, rows: Path, vectors: Path) -> Index:
        """Read an index from a bundle.

        Args:
            rows: the examples, JSON Lines.
            vectors: their unit vectors, in NumPy's format.

        Returns:
            The index.

        Raises:
            ModelCorrupt: a file cannot be read, or they do not belong together.
        """
        try:
            found = map(json.loads, rows.read_text(encoding="utf-8").splitlines())
            examples = tuple(Example(r["id"], r["text"], tuple(r["labels"]), r["license"]) for r in found)
            array = np.load(vectors, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelCorrupt(f"{rows.name} or {vectors.name} cannot be read") from error
        if array.ndim != 2 or len(array) != len(examples):
            raise ModelCorrupt(f"{rows.name} and {vectors.name} do not belong together")
        index = cls(examples, array)
        if not index.has_both_sides:
            raise ModelCorrupt(f"{rows.name} does not hold both attacks and harmless texts")
        return index

    @property
    def attacks(self) -> NDArray[np.bool_]:
        """Which examples are attacks."""
        return np.array([is_risky(e.labels) for e in self.examples], np.bool_)

    @property
    def has_both_sides(self) -> bool:
        """Whether there are attacks and harmless texts."""
        return 0 < int(self.attacks.sum()) < len(self.examples)

    def part(self, chosen: NDArray[np.bool_]) -> Index:
        """The index of some of the examples."""
        return Index(tuple(e for e, wanted in zip(self.examples, chosen, strict=True) if wanted), self.vectors[chosen])

    def save(self, rows: Path, vectors: Path) -> None:
        """Write the index as JSON Lines and 16-bit vectors."""
        lines = [
            json.dumps({"id": e.id, "text": e.text, "labels": list(e.labels), "license": e.license}, ensure_ascii=False)
            for e in self.examples
        ]
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
        np.save(vectors, self.vectors.astype(np.float16), allow_pickle=False)


class Similarity:
    """Compares a text with the index.

    Args:
        index: attack and harmless examples, at least one of each.
        encode: text to unit vector, by the encoder the index was made with; None takes the vectors that the
            model's one pass gave for each window.

    Raises:
        InputError: the index has no attack or no harmless example.
    """

    name = "similarity"

    def __init__(self, index: Index, encode: Callable[[str], Floats] | None = None) -> None:
        if not index.has_both_sides:
            raise InputError("an index of examples needs attacks and harmless texts")
        self._attacks, self._harmless = index.part(index.attacks), index.part(~index.attacks)
        self._encode = encode

    def __call__(self, evidence: Evidence) -> Signal:
        """Signal with ``margin``: how much nearer the text is to attacks than to harmless texts."""
        if self._encode is None:
            vectors = np.stack([r.output.embedding for r in evidence.readings])
        else:
            vectors = self._encode(evidence.text)[None]
        cosines = cosine(vectors, self._attacks.vectors)
        margins = _top(cosines) - _top(cosine(vectors, self._harmless.vectors))
        nearest = int(cosines.argmax()) % len(self._attacks.examples)
        example = self._attacks.examples[nearest]
        detail = {
            "nearest": example.id,
            "nearest_labels": list(example.labels),
            "cosine": round(float(cosines[:, nearest].max()), 4),
        }
        return Signal(self.name, {"margin": float(margins.max())}, detail)


def cosine(vectors: Floats, others: Floats) -> Floats:
    """Cosines of unit vectors, shape (vectors, others).

    Not by ``@``: on products this small the threads of the library behind it cost more than they save.
    """
    cosines: Floats = np.vecdot(vectors[:, None], others)
    return cosines


def _top(cosines: Floats) -> Floats:
    """Mean of the nearest few, for each window."""
    count = min(_NEIGHBOURS, cosines.shape[1])
    top: Floats = np.partition(cosines, -count, axis=1)[:, -count:].sum(axis=1) / count
    return top
