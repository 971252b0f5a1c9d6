"""Text to windows that cover every character, or a statement of what they do not cover."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptguard.tokenizer import CLS, SEP, UNK, Tokenizer

if TYPE_CHECKING:
    from promptguard.text import View

_WORD_SEARCH_TOKENS = 16
"""How far a cut may move to fall between words."""

_TOKENIZE_CHARACTERS = 400_000
"""Longest text tokenized whole: beyond it head, tail and the most suspicious blocks are."""

_BLOCK_CHARACTERS = 8_000
_SEAM_CHARACTERS = 200

# Vowel signs and other marks of the scripts of South and South-East Asia: an uncased tokenizer drops them as if
# they were accents, and a syllable without its vowel is not read.
_MARKS = "".join(filter(lambda c: unicodedata.category(c) == "Mn", map(chr, range(0x0900, 0x1AB0))))
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())
_DROPPED = re.compile(rf"[^\W\d_]?[{_MARKS}]+")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of text as the model reads it.

    Attributes:
        ids: token ids, ``[CLS]`` first and ``[SEP]`` last; they spell the text and are never shown in a repr.
        offsets: characters ``[start, end)`` of each token between the two.
    """

    ids: tuple[int, ...] = field(repr=False)
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A text cut into windows.

    Attributes:
        windows: at least one, in order.
        characters_read: characters of the text inside a window.
        unreadable: where in the text letters, marks and digits stand that are not read: unknown to the
            vocabulary, or a syllable without its vowel sign.
        letters: letters, marks and digits in what was read.
    """

    windows: tuple[Window, ...]
    characters_read: int
    unreadable: tuple[int, ...]
    letters: int


def cut(
    text: str,
    tokenizer: Tokenizer,
    *,
    window_tokens: int,
    overlap_tokens: int,
    max_windows: int,
    evidence: Callable[[str], float],
) -> Cut:
    """Cut a text into overlapping windows at word boundaries.

    Args:
        text: any string.
        tokenizer: the bundle's tokenizer.
        window_tokens: most tokens in a window, the two special ones included.
        overlap_tokens: tokens two neighbouring windows share at least.
        max_windows: beyond this many, half are taken from the head, a quarter from the tail
            and the rest where ``evidence`` is strongest.
        evidence: surface evidence of an attack in a stretch of text, higher is more.

    Returns:
        The windows, and how much of the text they hold.
    """
    windows: list[Window] = []
    unreadable: list[int] = []
    letters = 0
    for start, end in _blocks(text, evidence):
        part = text[start:end]
        encoded = tokenizer.encode(part)
        offsets = [(a + start, b + start) for a, b in encoded.offsets] if start else encoded.offsets
        for first, last in _ranges(encoded.continues, window_tokens - 2, overlap_tokens):
            windows.append(Window((CLS, *encoded.ids[first:last], SEP), tuple(offsets[first:last])))
        # Each unknown character is a piece of its own.
        unknown = {a for i, (a, _) in zip(encoded.ids, offsets, strict=True) if i == UNK and _is_letter(text[a])}
        if part.isascii():
            letters += len(part.encode().translate(None, _NO_LETTERS))
        else:
            letters += sum(map(_is_letter, part))
            unknown.update(start + at for m in _DROPPED.finditer(part) for at in range(*m.span()))
        unreadable += sorted(unknown)
    whole = len(windows) <= max_windows and len(text) <= _TOKENIZE_CHARACTERS
    if len(windows) > max_windows:
        windows = _sample(text, windows, max_windows, evidence)
    read = len(text) if whole else _covered(windows)
    return Cut(tuple(windows), read, tuple(unreadable), letters)


def unread_letters(views: Sequence[View], cuts: Sequence[Cut]) -> int:
    """Count the letters of a text that no view of it could read.

    Args:
        views: the text as it is, then each de-obfuscation.
        cuts: their windows.

    Returns:
        Letters that are unreadable in the first view and behind no readable token of another.
    """
    missing = set(cuts[0].unreadable)
    for view, found in zip(views[1:], cuts[1:], strict=True):
        if not missing:
            break
        unread = set(found.unreadable)
        read = {
            view.original_span(start, end)
            for window in found.windows
            for token, (start, end) in zip(window.ids[1:-1], window.offsets, strict=True)
            if token != UNK and unread.isdisjoint(range(start, end))
        }
        for start, end in read:
            missing.difference_update(range(start, end))
    return len(missing)


def _is_letter(character: str) -> bool:
    """Letters, digits and the marks that carry vowels in Indic scripts; not the selectors of emoji."""
    return unicodedata.category(character)[0] in "LNM" and not "\ufe00" <= character <= "\ufe0f"


def _ranges(continues: list[bool], size: int, overlap: int) -> list[tuple[int, int]]:
    """Token ranges of the windows over one encoded text; one empty range for an empty text."""
    total = len(continues)
    if total <= size:
        return [(0, total)]
    ranges = []
    first = 0
    while True:
        last = min(first + size, total)
        if last < total:
            for candidate in range(last, max(last - _WORD_SEARCH_TOKENS, first + 1), -1):
                if not continues[candidate]:
                    last = candidate
                    break
        ranges.append((first, last))
        if last == total:
            return ranges
        first = last - overlap
        for candidate in range(first, max(first - _WORD_SEARCH_TOKENS, ranges[-1][0] + 1), -1):
            if not continues[candidate]:
                first = candidate
                break


def _blocks(text: str, evidence: Callable[[str], float]) -> list[tuple[int, int]]:
    """The stretches of a text that are tokenized: all of it, or head, tail and suspicious blocks."""
    if len(text) <= _TOKENIZE_CHARACTERS:
        return [(0, len(text))]
    quarter = _TOKENIZE_CHARACTERS // 4
    middle = range(2 * quarter, len(text) - quarter, _BLOCK_CHARACTERS)
    # Head, blocks and tail overlap by a little so that nothing hides across a border.
    blocks = [(i, min(i + _BLOCK_CHARACTERS + _SEAM_CHARACTERS, len(text))) for i in middle]
    blocks.sort(key=lambda b: (-evidence(text[b[0] : b[1]]), b[0]))
    chosen = sorted(blocks[: quarter // _BLOCK_CHARACTERS])
    return [(0, 2 * quarter + _SEAM_CHARACTERS), *chosen, (len(text) - quarter - _SEAM_CHARACTERS, len(text))]


def _sample(text: str, windows: list[Window], limit: int, evidence: Callable[[str], float]) -> list[Window]:
    """Half of the windows from the head, a quarter from the tail, the rest where evidence is strongest."""
    head, tail = limit // 2, limit // 4
    middle = list(range(head, len(windows) - tail))
    middle.sort(key=lambda i: (-evidence(_text_of(text, windows[i])), i))
    chosen = sorted(middle[: limit - head - tail])
    return [*windows[:head], *(windows[i] for i in chosen), *windows[len(windows) - tail :]]


def _text_of(text: str, window: Window) -> str:
    return text[window.offsets[0][0] : window.offsets[-1][1]] if window.offsets else ""


def _covered(windows: list[Window]) -> int:
    """Characters that lie in at least one of the windows, which are in order."""
    covered = reached = 0
    for window in windows:
        if window.offsets:
            start, end = window.offsets[0][0], window.offsets[-1][1]
            covered += max(0, end - max(start, reached))
            reached = max(reached, end)
    return covered
