"""The operator's own examples and exceptions: what is decided by likeness to one text, whatever the model says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from promptguard.detectors import Evidence
from promptguard.detectors.similarity import Example, Index, cosine
from promptguard.detectors.surface import vocabulary
from promptguard.types import Decision, Reason, Signal

if TYPE_CHECKING:
    from promptguard.runtime import Floats

Verdict: TypeAlias = tuple[Decision, Reason, tuple[str, ...]]
"""What ``policy.decide`` gives: decision, reason, intents."""

# Choices, not measurements: an example is meant to catch rewordings, an exception must not become a way
# round the guard.
_EXAMPLE_COSINE = 0.80
_EXCEPTION_COSINE = 0.97
_CHANGED_WORDS = 2
_WORDS_PER_CHANGE = 8
_CHANGED_WORD_CHARACTERS = 20

_WORD = re.compile(r"\w+")


class Matches:
    """Overrules verdicts on texts that are like an example or nearly equal to an exception.

    Args:
        examples: each with at least one intent.
        exceptions: their intents do not count.
        encode: text to unit vector, without context.
    """

    def __init__(
        self, examples: Sequence[Example], exceptions: Sequence[Example], encode: Callable[[str], Floats]
    ) -> None:
        self._examples = Index.of(examples, encode) if examples else None
        self._exceptions = Index.of(exceptions, encode) if exceptions else None

    def apply(
        self, verdict: Verdict, evidence: Evidence, vectors: Callable[[], Floats]
    ) -> tuple[Verdict, Signal | None]:
        """Look a text up.

        Args:
            verdict: what the policy made of the text.
            evidence: the text and its windows.
            vectors: gives the windows' unit vectors without context, shape (windows, dimensions): the context
                must not decide what text is like what.

        Returns:
            *block* if any window of any view is like an example; *allow* if the whole text is nearly equal to an
            exception, was read to the end and hides nothing; else the verdict as it was. And the signal that says
            which one matched.
        """
        if self._examples is not None:
            example, cosine = _nearest(self._examples, vectors())
            if cosine >= _EXAMPLE_COSINE:
                others = (intent for intent in verdict[2] if intent != "out_of_scope")
                intents = tuple(dict.fromkeys((*example.labels, *others)))
                signal = Signal("examples", {"cosine": cosine}, {"nearest": example.id})
                return (Decision.BLOCK, Reason.EXAMPLE, intents), signal
        excusable = verdict[0] is not Decision.ALLOW and verdict[1] is not Reason.NOT_FULLY_READ
        if self._exceptions is not None and excusable and len(evidence.readings) == 1:
            example, cosine = _nearest(self._exceptions, vectors(), among=evidence.text)
            if cosine >= _EXCEPTION_COSINE:
                signal = Signal("exceptions", {"cosine": cosine}, {"nearest": example.id})
                return (Decision.ALLOW, Reason.EXCEPTION, ()), signal
        return verdict, None


def _nearest(index: Index, vectors: Floats, among: str | None = None) -> tuple[Example, float]:
    """The example nearest to any of the vectors; with ``among`` only one nearly equal to that text counts."""
    cosines = cosine(vectors, index.vectors).max(axis=0)
    if among is not None:
        cosines[[not nearly_equal(among, example.text) for example in index.examples]] = -1
    at = int(cosines.argmax())
    return index.examples[at], float(cosines[at])


def nearly_equal(text: str, known: str) -> bool:
    """Whether two texts differ in no more than numbers, punctuation, case and one word in eight, two at most.

    A vector alone would not do: in a long text a short addition hardly moves it.

    Args:
        text: a text from outside.
        known: the operator's.

    Returns:
        True if nothing was added, left out or moved, and no exchanged word is long or attack vocabulary.
    """
    ours, theirs = _words(text), _words(known)
    if not ours or len(ours) != len(theirs):
        return text.strip() == known.strip()
    changed = [word for word, other in zip(ours, theirs, strict=True) if word != other]
    return (
        len(changed) <= min(_CHANGED_WORDS, len(theirs) // _WORDS_PER_CHANGE)
        and all(len(word) <= _CHANGED_WORD_CHARACTERS for word in changed)
        and not vocabulary(" ".join(changed))
    )


def _words(text: str) -> list[str]:
    return ["0" if word.isdecimal() else word for word in _WORD.findall(text.casefold())]
