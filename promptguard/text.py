"""Views of a text: what a reader, or a model told to decode it, would see in it.

The first view is the text as it is. Every further view is a de-obfuscation: words repaired where they
stand (``repairs``: look-alike letters, leetspeak, letters spaced out, escapes), or a decoded stretch on
its own (``decodings``: base64, hex, hidden HTML, a link's parameters ...). A decoding counts only where
it *reads more like language than what it came from* (``language``).

Work is bounded: each pattern is linear, and there are limits on the depth, the views, the tokenizer calls
and the characters decoded. Nothing here raises, whatever the text.

What is not covered: ciphers other than ROT13, Morse, archives, text in images, look-alike words in
other languages than English, letters scattered over lines or a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from promptguard.decodings import BLOBS, DECODERS, READS_INVISIBLE
from promptguard.language import Reader
from promptguard.repairs import repaired
from promptguard.view import Edit, View, alone, assemble, with_gaps

__all__ = ["View", "views"]

_MAX_DEPTH = 3  # decodings undone one inside the other

# Characters that show nothing. BERT's normalizer drops format characters by itself, so removing them is
# no finding; they are removed before decoding so that they cannot break up what is to be decoded.
_FORMAT = "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f"
_FORMAT_RUN = re.compile(f"[{_FORMAT}]+")


def views(text: str, pieces: Callable[[str], int], *, max_views: int = 6) -> tuple[View, ...]:
    """All the ways to read a text that are worth a model's time.

    Args:
        text: any text, of any length; lone surrogates and NUL included.
        pieces: number of word pieces of a text, unknown ones counted; called for what looks decodable only.
        max_views: most views returned, at least 1.

    Returns:
        The text as it is, first; then each de-obfuscation that reads more like language than what it
        came from, outermost first. Ordinary text gives one view.
    """
    reader = Reader(pieces)
    found = [View("plain", text, range(len(text)), range(1, len(text) + 1))]
    seen = {_FORMAT_RUN.sub("", text).strip()}
    level = found[:]
    for _ in range(_MAX_DEPTH):
        deeper: list[View] = []
        for view, reads in (decoding for outer in level for decoding in _decodings(outer, reader)):
            shown = _FORMAT_RUN.sub("", view.text).strip()
            if shown in seen or len(deeper) == 2 * max_views:
                continue
            if reads and len(found) >= max_views:
                return tuple(found)
            seen.add(shown)
            deeper.append(view)
            if reads:
                found.append(view)
        level = deeper
    return tuple(found)


def _decodings(outer: View, reader: Reader) -> Iterator[tuple[View, bool]]:
    """Each decoding of a view, and whether it reads; one that does not may hide another underneath."""
    base = _visible(outer)
    for decode in (repaired, *DECODERS):
        # Tags and direction overrides are themselves invisible.
        view = decode(outer if decode in READS_INVISIBLE else base, reader)
        names = view.name.split("+") if view else []
        if view and names[-1:] != names[-2:-1]:  # what is repaired once is not found again in the result
            yield view, True
    for name, find in BLOBS:
        parts = find(base.text)
        groups: dict[bool, list[Edit]] = {True: [], False: []}
        for part in parts:
            groups[reader.reads(part[2] or "", words=2)].append(part)
        for reads, group in groups.items():
            if group:
                yield alone(name, base, group), reads


def _visible(base: View) -> View:
    """The view without format characters, under the same name."""
    if base.text.isascii() or not _FORMAT_RUN.search(base.text):
        return base
    edits = [(m.start(), m.end(), "") for m in _FORMAT_RUN.finditer(base.text)]
    return assemble("", base, with_gaps(edits, len(base.text)))
