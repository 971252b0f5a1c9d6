"""A view of a text, and how one view is made of stretches of another.

Every character of a view knows the characters of the original it came from, however many times it was decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Edit: TypeAlias = tuple[int, int, str | None]
"""Characters ``[start, end)`` of a view and what stands for them in the next; None keeps them."""

# Bounds on what a view holds; what they cut off is more than a model's windows hold.
MAX_CHARACTERS = 200_000
MARGIN = 300  # characters kept on each side of what was repaired in a long text; about 75 word pieces


@dataclass(frozen=True, slots=True)
class View:
    """One way to read a text.

    Attributes:
        name: ``"plain"``, or the decodings in the order they were undone, such as ``"base64+rot13"``.
        text: what the model reads; never shown in a repr.
        starts: character ``i`` comes from the original characters ``[starts[i], ends[i])``. Rising, but
            in views whose name holds ``reversed``; all characters of a decoded blob name the whole blob.
        ends: see ``starts``.
    """

    name: str
    text: str = field(repr=False)
    starts: Sequence[int] = field(repr=False)
    ends: Sequence[int] = field(repr=False)

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """The original characters that characters ``[start, end)`` of this view came from.

        Args:
            start: first character in this view; clipped to the view.
            end: one past the last.

        Returns:
            The smallest stretch of the original that holds them all; an empty one for an empty span.
        """
        size = len(self.text)
        start = min(max(start, 0), size)
        end = min(max(end, start), size)
        if start == end:
            at = self.starts[start] if start < size else self.ends[-1] if size else 0
            return at, at
        return min(self.starts[start:end]), max(self.ends[start:end])


def assemble(name: str, base: View, parts: Iterable[Edit]) -> View:
    """A view made of parts of another, in order; offsets lead back to the original.

    A replacement as long as its source is taken character for character, any other as a whole.
    """
    text: list[str] = []
    starts, ends = array("q"), array("q")
    for start, end, new in parts:
        if new is None or len(new) == end - start:
            text.append(base.text[start:end] if new is None else new)
            starts.extend(base.starts[start:end])
            ends.extend(base.ends[start:end])
        elif new:
            first, last = base.original_span(start, end)
            text.append(new)
            starts.extend([first] * len(new))
            ends.extend([last] * len(new))
    return View(joined_name(base.name, name), "".join(text), starts, ends)


def joined_name(outer: str, inner: str) -> str:
    """Names of decodings in the order they were undone; ``plain`` is none of them."""
    return "+".join(name for name in (outer, inner) if name and name != "plain") or outer


def with_gaps(edits: Iterable[Edit], size: int, margin: int | None = None) -> Iterator[Edit]:
    """The edits and, unchanged, what lies between them; of a long gap only ``margin`` characters at each end."""
    at = 0
    for start, end, new in edits:
        if margin is None or start - at <= 2 * margin:
            yield at, start, None
        else:
            if at:
                yield at, at + margin, None
            yield start - margin, start, None
        yield start, end, new
        at = end
    yield at, size if margin is None else min(size, at + margin), None


def alone(name: str, base: View, parts: Sequence[Edit]) -> View:
    """A view of decoded stretches only, one a line; of two that overlap the first and longest."""
    lines: list[Edit] = []
    room, at = MAX_CHARACTERS, 0
    for start, end, new in sorted(parts, key=lambda part: (part[0], -part[1])):
        if room <= 0:
            break
        if start < at:
            continue
        at = end
        if lines:
            lines.append((start, start + 1, "\n"))
        kept = min(room, end - start if new is None else len(new))
        lines.append((start, start + kept, None) if new is None else (start, end, new[:kept]))
        room -= kept
    return assemble(name, base, lines)
