"""Views of a text: what a reader, or a model told to decode it, would see in it.

The first view is the text as it is. Every further view is a de-obfuscation: words repaired where they
stand (look-alike letters, leetspeak, letters spaced out, escapes), or a decoded stretch on its own
(base64, hex, hidden HTML, a link's parameters ...). A decoding counts only where it *reads more like
language than what it came from*: a model's vocabulary needs few word pieces for language and many for
anything else, so pieces per letter tell a decoded sentence from a decoded image, hash or product code.

Every character of a view knows the characters of the original it came from. Work is bounded: each
pattern is linear (its repeated classes are disjoint from what may follow them, or its length is
capped), as are the tokenizer calls (``_Reader``) and the characters decoded. Nothing here raises, whatever the text.

What is not covered: ciphers other than ROT13, Morse, archives, text in images, look-alike words in
other languages than English, letters scattered over lines or a table.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias
from urllib.parse import unquote_plus, unquote_to_bytes

Edit: TypeAlias = tuple[int, int, str | None]
"""Characters ``[start, end)`` of a view and what stands for them in the next; None keeps them."""

# Bounds on work; what they cut off is more than a model's windows hold.
_MAX_DEPTH = 3
_MAX_CHARACTERS = 200_000
_MAX_CALLS = 8_000
_MAX_EDITS = 50_000
_MARGIN = 300  # characters kept on each side of a repaired word; about 75 word pieces

# Pieces per letter or digit with all-MiniLM-L6-v2's vocabulary, 5th to 95th percentile over 430 public
# English texts cut at 256 characters: as they are 0.22 to 0.45, backwards 0.51 to 0.70, under ROT13 0.59 to
# 0.78, in base64 0.63 to 0.74, in hex 0.66 to 0.74. Spanish and German (8 texts): 0.35 to 0.42.
_LANGUAGE = 0.5
_CLEARLY_FEWER = 0.7


@dataclass(frozen=True, slots=True)
class View:
    """One way to read a text.

    Attributes:
        name: ``"plain"``, or the decodings in the order they were undone, such as ``"base64+rot13"``.
        text: what the model reads.
        starts: character ``i`` comes from the original characters ``[starts[i], ends[i])``. Rising, but
            in views whose name holds ``reversed``; all characters of a decoded blob name the whole blob.
        ends: see ``starts``.
    """

    name: str
    text: str
    starts: Sequence[int]
    ends: Sequence[int]

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
    reader = _Reader(pieces)
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


def _decodings(outer: View, reader: _Reader) -> Iterator[tuple[View, bool]]:
    """Each decoding of a view, and whether it reads; one that does not may hide another underneath."""
    base = _visible(outer)
    for decode in _DECODERS:
        # Tags and direction overrides are themselves invisible.
        view = decode(outer if decode in _READS_INVISIBLE else base, reader)
        names = view.name.split("+") if view else []
        if view and names[-1:] != names[-2:-1]:  # what is repaired once is not found again in the result
            yield view, True
    for name, find in _BLOBS:
        parts = find(base.text)
        groups: dict[bool, list[Edit]] = {True: [], False: []}
        for part in parts:
            groups[reader.reads(part[2] or "", words=2)].append(part)
        for reads, group in groups.items():
            if group:
                yield _alone(name, base, group), reads


class _Reader:
    """Tells language from what is not, within a budget of tokenizer calls.

    When the budget is spent ``pieces`` gives 0: strictly decoded blobs are then taken unread (a text
    cannot hide one behind thousands of others), single words are left alone.
    """

    def __init__(self, pieces: Callable[[str], int]) -> None:
        self._pieces = pieces
        self._known: dict[str, int] = {}

    def pieces(self, text: str) -> int:
        """Word pieces of a short text; 0 when the budget is spent."""
        if text not in self._known:
            if len(self._known) >= _MAX_CALLS:
                return 0
            # A tokenizer refuses lone surrogates.
            clean = text if text.isascii() else text.encode("utf-8", "replace").decode()
            self._known[text] = self._pieces(clean)
        return self._known[text]

    def rate(self, text: str) -> float:
        """Pieces per letter or digit."""
        # Tokenizers give up on a run of more than 100 characters: one unknown piece.
        return self.pieces(_LONG_RUN.sub(r"\g<0> ", text)) / max(1, sum(map(str.isalnum, text)))

    def is_word(self, text: str) -> bool:
        """Whether the vocabulary holds the text as a whole word, or nearly so when it is long."""
        return 0 < self.pieces(text) <= max(1, len(text) // 6)

    def reads(self, text: str, source: str = "", words: int = 1) -> bool:
        """Whether some part of a text reads like language, and clearly more so than its source.

        Args:
            text: what was decoded.
            source: what it came from; empty where the text stands there as it is.
            words: words it must hold.

        Returns:
            True when at least one of up to 64 evenly spread parts of 256 characters qualifies: noise in
            front of a sentence does not hide it.
        """
        limit = min(_LANGUAGE, _CLEARLY_FEWER * self.rate(source[:256])) if source else _LANGUAGE
        step = max(256, len(text) // 64)
        for at in range(0, len(text), step):
            part = text[at : at + 256]
            latin = sum(c.isascii() and c.isalpha() for c in part)
            if latin < 6 or latin < 0.6 * len(part) or sum(1 for _ in _WORD.finditer(part)) < words:
                continue
            if self.rate(part) <= limit:
                return True
        return False


# A word as prose has it: between blanks or punctuation, not inside an identifier.
_WORD = re.compile(r"(?<![^\s\"'(\[>])[^\W\d_]+(?:['’][^\W\d_]+)?(?![^\s.,;:!?\"')\]<])")
_LONG_RUN = re.compile(r"\S{64}")


def _assemble(name: str, base: View, parts: Iterable[Edit]) -> View:
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
    return View(_join(base.name, name), "".join(text), starts, ends)


def _join(outer: str, inner: str) -> str:
    return "+".join(name for name in (outer, inner) if name and name != "plain") or outer


def _with_gaps(edits: Iterable[Edit], size: int, margin: int | None = None) -> Iterator[Edit]:
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


def _alone(name: str, base: View, parts: Sequence[Edit]) -> View:
    """A view of decoded stretches only, one a line; of two that overlap the first and longest."""
    lines: list[Edit] = []
    room, at = _MAX_CHARACTERS, 0
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
    return _assemble(name, base, lines)


# --- word repairs: made in place, all in one view ------------------------------------------------------


def _repaired(base: View, reader: _Reader) -> View | None:
    """The text with its words repaired, kept with their surroundings."""
    work, names, touched = base, [], []
    for name, repair in _REPAIRS:
        edits = repair(work.text, reader)[:_MAX_EDITS]
        if edits:
            names.append(name)
            touched += [work.original_span(start, end) for start, end, _ in edits]
            work = _assemble("", work, _with_gaps(edits, len(work.text)))
    if not names:
        return None
    name = _join(base.name, "+".join(names))
    if base.name != "plain" or len(work.text) <= 4 * _MARGIN:
        return replace(work, name=name)
    return replace(_assemble("", work, _surroundings(work, touched)), name=name)


def _surroundings(view: View, touched: list[tuple[int, int]]) -> Iterator[Edit]:
    """The stretches of a view around the original characters that were touched."""
    at, room = 0, _MAX_CHARACTERS
    for first, last in sorted(touched):
        start = max(at, bisect_left(view.starts, first - _MARGIN))
        end = min(bisect_right(view.ends, last + _MARGIN), start + room)
        if start < end:
            yield start, end, None
            room -= end - start
            at = end


# Characters that show nothing. BERT's normalizer drops format characters by itself, so removing them is
# no finding; they are removed before decoding so that they cannot break up what is to be decoded.
# Fillers and the blank Braille cell count as letters or symbols to it and would make a word unknown.
_FORMAT = "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f"
_FILLER = "\u115f\u1160\u3164\uffa0\u2800"
_FORMAT_RUN = re.compile(f"[{_FORMAT}]+")
_FILLER_IN_WORD = re.compile(f"(?<=[A-Za-z])[{_FILLER}]+(?=[A-Za-z])")


def _visible(base: View) -> View:
    """The view without format characters, under the same name."""
    if base.text.isascii() or not _FORMAT_RUN.search(base.text):
        return base
    edits = [(m.start(), m.end(), "") for m in _FORMAT_RUN.finditer(base.text)]
    return _assemble("", base, _with_gaps(edits, len(base.text)))


def _fillers(text: str, reader: _Reader) -> list[Edit]:
    """Letters that show nothing, inside words."""
    return [] if text.isascii() else [(m.start(), m.end(), "") for m in _FILLER_IN_WORD.finditer(text)]


_SPLIT_BY_SYMBOLS = re.compile(r"(?<!\w)[A-Za-z]{1,20}(?:[^\w\s\x00-\x7f]{1,4}[A-Za-z]{1,20}){1,8}(?!\w)")
_SYMBOLS = re.compile(r"[^\w\s\x00-\x7f]+")


def _symbols(text: str, reader: _Reader) -> list[Edit]:
    """Emoji and other pictures inside a word, where the word without them is one."""
    edits: list[Edit] = []
    if text.isascii():
        return edits
    for match in _SPLIT_BY_SYMBOLS.finditer(text):
        gaps = list(_SYMBOLS.finditer(match[0]))
        kinds = {unicodedata.category(c) for gap in gaps for c in gap[0]}
        if kinds <= {"So", "Sk", "Mn"} and kinds != {"Mn"}:  # marks alone are dropped by BERT's normalizer
            word = _SYMBOLS.sub("", match[0])
            if len(word) >= 4 and reader.is_word(word):
                edits += [(match.start() + gap.start(), match.start() + gap.end(), "") for gap in gaps]
    return edits


_LEET = {ord(c): letter for c, letter in zip("013456789@$!|+", "oieasgtbgasiit", strict=True)}
_LEET_L = {**_LEET, ord("1"): "l", ord("!"): "l", ord("|"): "l"}
_WORD_OR_LEET = re.compile(r"[\w@$!|+]+")
_NAMED_LETTER = re.compile(r"(?:SMALL CAPITAL|TURNED|SQUARED LATIN CAPITAL LETTER|SYMBOL LETTER) ([A-Z])")
_FAUX = {"п": "n", "и": "n", "η": "n", "я": "r", "ш": "w", "щ": "w", "ω": "w", "λ": "a", "є": "e"}
"""Look-alikes in use that UTS #39 does not list, as they do not deceive a careful eye."""


@lru_cache(maxsize=1)
def _confusables() -> dict[str, str]:
    """Look-alike letters and the ASCII letter they look like: UTS #39's confusables.txt, as packaged."""
    from confusable_homoglyphs.confusables import confusables_data  # 20 ms: only for text that needs it

    table: dict[str, str] = {}
    for letter, alikes in confusables_data.items():
        if not letter.isascii():
            for alike in alikes:
                if len(alike["c"]) == 1 and alike["c"].isascii() and alike["c"].isalpha():
                    table[letter] = alike["c"].lower()
    return table


@lru_cache(maxsize=8192)
def _latin(char: str) -> tuple[str, bool] | None:
    """What ASCII letters a character stands for, if any.

    Args:
        char: one character, not ASCII.

    Returns:
        The letters, and whether the character is their variant (full-width, mathematical, enclosed,
        by compatibility normalisation or by name) rather than a look-alike from another script.
    """
    same = unicodedata.normalize("NFKC", char)
    if same.isascii():
        return (same, True) if same.isalpha() else None
    named = _NAMED_LETTER.search(unicodedata.name(char, ""))
    if named:
        return named[1].lower(), True
    if char == "€":
        return "e", False
    # Latin letters with marks are somebody's spelling, and ideographs resemble nothing.
    if not same[0].isalpha() or ord(char) < 0x250 or 0x2E80 <= ord(char) < 0xA4D0 or 0xAC00 <= ord(char) < 0xFB00:
        return None
    lower, table = same.lower(), _confusables()
    found = (
        _FAUX.get(lower) or table.get(char.lower()) or table.get(lower) or table.get(same.upper()) or table.get(same)
    )
    return (found.upper() if char.isupper() else found, False) if found else None


def _lookalikes(text: str, reader: _Reader) -> list[Edit]:
    """Words spelled with letters that look like Latin ones.

    A word is repaired when all its letters are Latin or look it, and it mixes the two; or when it is
    made of look-alikes only but the text around it is Latin. One word that is then in the vocabulary
    is the evidence asked for; the other such words follow it.
    """
    if text.isascii():
        return []
    letters = {c: latin for c in set(text) if not c.isascii() and (latin := _latin(c))}
    if not letters:
        return []
    skeleton = text.translate({ord(c): latin[0][0] for c, latin in letters.items()})
    words, whole, variants, foreign = [], [], 0, 0
    for match in _WORD_OR_LEET.finditer(skeleton):
        word = text[match.start() : match.end()]
        alike = [c for c in word if c in letters]
        if any(not c.isascii() and c.isalpha() and c not in letters and ord(c) >= 0x250 for c in word):
            foreign += len(word)
        elif alike and (any(c.isascii() and c.isalpha() for c in word) or any(letters[c][1] for c in alike)):
            words.append(match.span())
            variants += len(word)
        elif any(map(str.isalpha, alike)):
            whole.append(match.span())
    latin_count = sum(c.isascii() and c.isalpha() for c in text) + variants
    if latin_count < foreign + sum(end - start for start, end in whole) and variants < 12:
        return []  # another language, with an abbreviation in it
    if foreign > 0.1 * latin_count:
        whole = []  # words of another language stand in it
    new = {span: "".join(letters[c][0] if c in letters else c for c in text[slice(*span)]) for span in words + whole}
    spelled = [(new[span].strip("!|+$@").lower(), 3) for span in words] + [(new[span].lower(), 4) for span in whole]
    if not any(
        len(word) >= least and (reader.is_word(word) or (len(word) >= 5 and reader.is_word(word.translate(_LEET))))
        for word, least in spelled
    ):
        return []
    spans = sorted(words + [s for s in whole if reader.is_word(new[s].lower())])
    return [(*span, new[span]) for span in spans]


_ESCAPES = re.compile(
    r"(?P<u>(?:\\u\{?[0-9a-fA-F]{4}\}?)+)|(?P<x>(?:\\x[0-9a-fA-F]{2})+)"
    r"|(?P<entity>(?:&#(?:x[0-9a-fA-F]{1,6}|[0-9]{1,7});?)+)|(?P<percent>(?:%[0-9a-fA-F]{2})+)"
)
_FOUR_HEX = re.compile(r"[0-9a-fA-F]{4}")


def _unescape(match: re.Match[str]) -> str:
    r"""What a run of escapes stands for: ``\uXXXX``, ``\xXX``, ``&#NN;`` or ``%XX``."""
    if match.lastgroup == "entity":
        return html.unescape(match[0])
    if match.lastgroup == "percent":
        return unquote_to_bytes(match[0]).decode("utf-8", "replace")
    if match.lastgroup == "x":
        return bytes.fromhex(match[0].replace("\\x", "")).decode("utf-8", "replace")
    units = "".join(chr(int(code, 16)) for code in _FOUR_HEX.findall(match[0]))
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _escapes(text: str, reader: _Reader) -> list[Edit]:
    """Escaped letters, where what they belong to is then a word, and escaped prose outside links.

    Software escapes what is special or not ASCII; only somebody who hides something escapes letters.
    """
    edits: list[Edit] = []
    if not ("\\" in text or "&#" in text or "%" in text):
        return edits
    for stretch in re.finditer(r"\S+", text):
        found = list(_ESCAPES.finditer(text, *stretch.span()))
        decoded = _ESCAPES.sub(_unescape, stretch[0]) if found else ""
        if any(c.isascii() and c.isalpha() for match in found for c in _unescape(match)):
            wanted = any(len(w[0]) >= 3 and reader.is_word(w[0]) for w in _LETTERS.finditer(decoded[:4096]))
        else:
            wanted = bool(found) and "://" not in stretch[0] and reader.reads(decoded, words=4)
        if wanted:
            edits += [(match.start(), match.end(), _unescape(match)) for match in found]
    return edits


_SPACED = re.compile(r"(?<!\w)[^\W_](?:[\W_]{1,3}[^\W_]){3,400}(?!\w)")
_SEPARATOR = re.compile(r"[\W_]+")


def _spaced(text: str, reader: _Reader) -> list[Edit]:
    """Letters set apart: ``i g n o r e``, ``i.g.n.o.r.e``; a wider or another separator ends a word."""
    edits: list[Edit] = []
    for match in _SPACED.finditer(text):
        written = _SEPARATOR.sub("", match[0])
        if len(set(written)) < 3 or sum(map(str.isalpha, written)) < 0.6 * len(written):
            continue
        letters = "".join(c if c.isascii() else (_latin(c) or (c,))[0][0] for c in written.translate(_LEET))
        if not letters.isascii():
            continue
        gaps = list(_SEPARATOR.finditer(match[0]))
        usual = Counter(gap[0] for gap in gaps).most_common(1)[0][0]
        ends = {i for i, gap in enumerate(gaps, 1) if gap[0] != usual} or _word_ends(letters, reader)
        cuts = [0, *sorted(ends), len(letters)]
        words = [letters[a:b] for a, b in pairwise(cuts) if a < b]
        known = sum(len(w) for w in words if len(w) >= 3 and reader.is_word(w))
        if known < 0.6 * len(letters) or len(letters) < 6 or max(map(len, words)) < 4 or len(letters) < 3 * len(words):
            continue
        at = match.start()
        for i, letter in enumerate(letters):
            edits.append((at, at + 1, letter))
            if i < len(gaps):
                gap_end = match.start() + gaps[i].end()
                edits.append((at + 1, gap_end, " " if i + 1 in ends else ""))
                at = gap_end
    return edits


def _word_ends(letters: str, reader: _Reader) -> set[int]:
    """Where to cut a run of letters into the fewest, then the most unequal words; dynamic programming."""
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(letters) + 1):
        options = []
        for start in range(max(0, end - 14), end):
            size = end - start
            cost = 2 if size >= 3 and reader.pieces(letters[start:end]) == 1 else 2 + 2 * size
            options.append((best[start][0] + cost, best[start][1] - size * size, start))
        best.append(min(options))
    ends, at = set(), len(letters)
    while (at := best[at][2]) > 0:
        ends.add(at)
    return ends


_LEET_TOKEN = re.compile(r"(?<![\w@$!|+.\-/\\])[A-Za-z0-9@$!|+]{1,23}[A-Za-z0-9](?!\.?[\w@$|+])")
_LEET_HINT = re.compile(r"[013456789@$!|+][A-Za-z]")
_CONSONANTS = re.compile(r"[b-df-hj-np-tv-xz]{5}|^[^aeiouy]+$")


def _leetspeak(text: str, reader: _Reader) -> list[Edit]:
    """Words spelled with digits and signs.

    The evidence asked for is one word of five letters or more with a sign before a letter (which spares
    ``report5``, ``covid19`` and ``a11y``) that is in the vocabulary once spelled with letters. Then
    whatever becomes a word follows.
    """
    if not _LEET_HINT.search(text):
        return []
    tokens = [m for m in _LEET_TOKEN.finditer(text) if not m[0].isalpha() and not m[0].isdigit()]
    new: dict[str, str] = {}
    for token in {match[0] for match in tokens}:
        for table in (_LEET, _LEET_L):
            word = token.translate(table).lower()
            if word.isalpha() and not _CONSONANTS.search(word) and reader.pieces(word) * 2 <= reader.pieces(token):
                if token not in new or reader.pieces(word) < reader.pieces(new[token]):
                    new[token] = word
    if not any(_is_leet(token, word, reader) for token, word in new.items()):
        return []
    return [(m.start(), m.end(), new[m[0]]) for m in tokens if m[0] in new]


def _is_leet(token: str, word: str, reader: _Reader) -> bool:
    signs = [i for i, c in enumerate(token[:-1]) if not c.isalpha() and (token[i + 1].isalpha() or i + 2 < len(token))]
    inside = [i for i in signs if (i and token[i] not in "+|") or token[i].isdigit()]
    return len(word) >= 5 and bool(inside) and reader.is_word(word) and len(signs) <= 0.6 * len(token)


_REPAIRS: tuple[tuple[str, Callable[[str, _Reader], list[Edit]]], ...] = (
    ("fillers", _fillers),
    ("symbols", _symbols),
    ("confusables", _lookalikes),
    ("escapes", _escapes),
    ("spaced", _spaced),
    ("leetspeak", _leetspeak),
)


# --- hidden characters ---------------------------------------------------------------------------------

_TAGS = re.compile("[\U000e0000-\U000e007f]{3,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")


def _tags(base: View, reader: _Reader) -> View | None:
    """Text in Unicode tag characters (a copy of ASCII) or in variation selectors (a byte each)."""
    if base.text.isascii():
        return None
    parts: list[Edit] = []
    for match in _TAGS.finditer(base.text):
        # After a black flag, tags name a region (UTS #51): the flags of England, Scotland, Wales, Texas.
        if base.text[match.start() - 1 : match.start()] != "\U0001f3f4" or len(match[0]) > 7:
            parts.append((match.start(), match.end(), match[0].translate(_FROM_TAG)))
    for match in _SELECTORS.finditer(base.text):
        data = bytes(ord(c) - (0xFE00 if ord(c) < 0xE0100 else 0xE0100 - 16) for c in match[0])
        decoded = _printable(data)
        if decoded:
            parts.append((match.start(), match.end(), decoded))
    parts = [part for part in parts if _WORD.search(part[2] or "")]
    return _alone("tags", base, parts) if parts else None


_FROM_TAG = {0xE0000 + i: chr(i) if 32 <= i < 127 else " " for i in range(128)}


_OVERRIDE = re.compile("\u202e([^\u202c\u202d\n]{4,})")


def _bidi(base: View, reader: _Reader) -> View | None:
    """Text stored backwards behind a right-to-left override (UAX #9), as it is displayed."""
    if "\u202e" not in base.text:
        return None
    spans = [m.span(1) for m in _OVERRIDE.finditer(base.text) if reader.reads(m[1][::-1], m[1])]
    return _turned("bidi_reversed", base, spans) if spans else None


def _turned(name: str, base: View, spans: Sequence[tuple[int, int]]) -> View:
    """The view with some stretches of it turned round, and what stands near them."""
    parts: list[Edit] = []
    for start, end, new in _with_gaps([(a, b, "") for a, b in spans], len(base.text), _MARGIN):
        if new is None:
            parts.append((start, end, None))
        else:
            parts += [(i, i + 1, None) for i in range(end - 1, start - 1, -1)]
    return _assemble(name, base, parts)


# --- encoded stretches: decoded on their own -----------------------------------------------------------

# Lines of a wrapped blob are joined. Neither class holds the other's characters, so each match is one pass.
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{12,}(?:\r?\n[A-Za-z0-9+/_\-]{4,})*={0,2}")
_BASE64_PART = re.compile(r"[A-Za-z0-9]{12,}")
_HEX = re.compile(r"(?<![\w\\])(?:(?:0x)?[0-9a-fA-F]{2}[ :,\-]{0,2}){8,}+")
_DECIMAL = re.compile(r"(?<!\w)[0-9]{2,3}(?:[ ,]{1,2}[0-9]{2,3}){7,}(?!\w)")
_BINARY = re.compile(r"(?<!\w)[01]{8}(?:[ ,]{0,2}[01]{8}){3,}(?!\w)")


def _printable(data: bytes) -> str | None:
    """Bytes as text, or None where they are not text: strict UTF-8, or UTF-16 as PowerShell has it."""
    try:
        text = data.decode("utf-16-le" if len(data) % 2 == 0 and data[1:2] == b"\0" else "utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:
            return None
        text = data[: error.start].decode("utf-8", "ignore")  # a character cut in two at the end
    return text if text and all(c.isprintable() or c in "\t\n\r" for c in text) else None


def _from_base64(blob: str) -> str | None:
    """What a blob of base64 or base64url (RFC 4648), padded or not, holds, if that is text."""
    symbols = "".join(blob[:_MAX_CHARACTERS].rstrip("=").split()).replace("-", "+").replace("_", "/")
    whole = symbols[: len(symbols) - (len(symbols) % 4 == 1)]
    try:
        return _printable(base64.b64decode(whole + "=" * (-len(whole) % 4)))
    except binascii.Error:
        return None


def _base64(text: str) -> list[Edit]:
    """What is encoded in base64 in a text, where it is text."""
    parts: list[Edit] = []
    for match in _BASE64.finditer(text):
        decoded = _from_base64(match[0])
        if decoded is not None:
            parts.append((*match.span(), decoded))
            continue
        for part in _BASE64_PART.finditer(text, *match.span()):  # in a path, behind a prefix, a line of its own
            decoded = _from_base64(part[0])
            if decoded is not None:
                parts.append((*part.span(), decoded))
    return parts


def _numbers(radix: int, stretch: re.Pattern[str], number: re.Pattern[str]) -> Callable[[str], list[Edit]]:
    """The decoder for characters written as numbers."""

    def decode(text: str) -> list[Edit]:
        parts: list[Edit] = []
        for match in stretch.finditer(text):
            codes = [int(code, radix) for code in number.findall(match[0][:_MAX_CHARACTERS])]
            decoded = _printable(bytes(codes)) if max(codes) < 256 else None
            if decoded is not None:
                parts.append((match.start(), match.start() + len(match[0].rstrip(" :,-")), decoded))
        return parts

    return decode


_BLOBS: tuple[tuple[str, Callable[[str], list[Edit]]], ...] = (
    ("base64", _base64),
    ("hex", _numbers(16, _HEX, re.compile(r"(?:0x)?([0-9a-fA-F]{2})"))),
    ("decimal", _numbers(10, _DECIMAL, re.compile(r"[0-9]+"))),
    ("binary", _numbers(2, _BINARY, re.compile(r"[01]{8}"))),
)


# Endings and short words of English, under ROT13 and backwards, that hardly begin or end an English word.
_ROT13_MARK = re.compile(
    r"(?:gvba|vat|yl)f?\b|\b(?:gur|naq|lbhe?|nyy|vf|guvf|gung|sbe|jvgu|abg|pbqr|flfgrz|cebzcg|vtaber|erirny)\b", re.I
)
_REVERSED_MARK = re.compile(
    r"\bs?(?:noit|gni)[a-z]|\b(?:eht|uoy|ruoy|lla|siht|taht|rof|htiw|morf|ton|tuo|dna|metsys|tpmorp|erongi|laever)\b",
    re.I,
)
_LETTERS = re.compile(r"[A-Za-z]{1,40}")


def _stretches(text: str, mark: re.Pattern[str], undo: Callable[[str], str], reader: _Reader) -> list[tuple[int, int]]:
    """Stretches of a line whose words read better once undone: from the first such word to the last."""
    spans: list[tuple[int, int]] = []
    at = 0
    while (hit := mark.search(text, at)) is not None and len(spans) < 64:
        start = max(text.rfind("\n", at, hit.start()) + 1, hit.start() - 2000, at)
        stop = text.find("\n", hit.end())
        at = min(len(text) if stop < 0 else stop + 1, hit.end() + 2000)
        words = list(_LETTERS.finditer(text, start, at))
        better = [i for i, w in enumerate(words) if len(w[0]) > 2 and reader.pieces(undo(w[0])) < reader.pieces(w[0])]
        if len(better) < 3:
            continue
        first, last = better[0], better[-1]
        while first and len(words[first - 1][0]) < 3:
            first -= 1
        while last + 1 < len(words) and len(words[last + 1][0]) < 3:
            last += 1
        inside = [word[0] for word in words[first : last + 1]]
        undone = sum(reader.pieces(undo(word)) for word in inside)
        if undone <= _CLEARLY_FEWER * sum(map(reader.pieces, inside)):
            spans.append((words[first].start(), words[last].end()))
    return spans


def _rot13(base: View, reader: _Reader) -> View | None:
    """Stretches in ROT13, undone where they stand."""
    spans = _stretches(base.text, _ROT13_MARK, lambda s: codecs.encode(s, "rot13"), reader)
    edits = [(a, b, codecs.encode(base.text[a:b], "rot13")) for a, b in spans]
    return _assemble("rot13", base, _with_gaps(edits, len(base.text), _MARGIN)) if edits else None


def _reversed(base: View, reader: _Reader) -> View | None:
    """Stretches written backwards, turned where they stand."""
    spans = _stretches(base.text, _REVERSED_MARK, lambda s: s[::-1], reader)
    return _turned("reversed", base, spans) if spans else None


# --- what a page or a link carries unseen --------------------------------------------------------------

# One pass each: what is repeated cannot hold the character that ends it, or begin another match.
_ELEMENT = re.compile(r"<(/?)([A-Za-z][^<>]*)>")
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity|max-height)\s*:\s*0(?![.\d]*[1-9])"
    r"|(?<![\w-])color\s*:\s*(?:white|transparent|\#fff(?:fff)?)\b"
    r"|(?:left|top|text-indent)\s*:\s*-\d{3}|\saria-hidden\s*=\s*.?true|\shidden(?=[\s=/>]|$)|type\s*=\s*.?hidden",
    re.I,
)
_CARRIED = re.compile(r"""(?:value|alt|title|content|aria-label)\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)')""", re.I)
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_MARKDOWN_COMMENT = re.compile(r"""^\[[^\]\n]{0,40}\]:[ \t]{0,9}<?#>?[ \t]{0,9}["'(](.+)["')]""", re.M)


def _hidden_html(base: View, reader: _Reader) -> View | None:
    """What a page holds but does not show: comments and hidden elements with a sentence in them.

    Elements are found by their tags, as the HTML standard's tokenizer does for well-formed tags; an
    unclosed comment or element runs to the end.
    """
    text = base.text
    parts: list[Edit] = [(*m.span(1), None) for m in _MARKDOWN_COMMENT.finditer(text)] if "]:" in text else []
    at = text.find("<!--")
    while at >= 0:
        end = text.find("-->", at + 4)
        parts.append((at + 4, len(text) if end < 0 else end, None))
        at = -1 if end < 0 else text.find("<!--", end)
    if "<" in text and _HIDING.search(text):
        parts += _hidden_elements(text)
    parts = [part for part in parts if reader.reads(part[2] or text[part[0] : part[1]], words=5)]
    return _alone("hidden_html", base, parts) if parts else None


def _hidden_elements(text: str) -> Iterator[Edit]:
    """The contents of hidden elements, tags blanked out; of void ones, the texts in their attributes."""
    name, depth, start = "", 0, 0
    for match in _ELEMENT.finditer(text):
        opened = match[2].split(None, 1)[0].rstrip("/").lower()
        if depth:
            depth += (-1 if match[1] else 1) * (opened == name)
            if not depth:
                yield start, match.start(), _blanked(text[start : match.start()])
        elif not match[1] and _HIDING.search(match[2]):
            if opened in _VOID:
                for attribute in _CARRIED.finditer(text, *match.span(2)):
                    yield (*attribute.span(attribute.lastindex or 1), None)
            else:
                name, depth, start = opened, 1, match.end()
    if depth:
        yield start, len(text), _blanked(text[start:])


def _blanked(markup: str) -> str:
    """Markup with as many blanks for each tag, so that offsets stay."""
    return _ELEMENT.sub(lambda tag: " " * len(tag[0]), markup)


_URL = re.compile(r"[A-Za-z]{2,12}://[^\s<>\"'`()\[\]]+")
_URL_PART = re.compile(r"[^?&#;/=]+")


def _link(base: View, reader: _Reader) -> View | None:
    """Sentences in the path or the parameters of a link (RFC 3986), decoded."""
    parts: list[Edit] = []
    if "://" in base.text:
        for url in _URL.finditer(base.text):
            for part in _URL_PART.finditer(base.text, *url.span()):
                if "%" in part[0] or "+" in part[0]:
                    decoded = unquote_plus(part[0])
                    if decoded.isprintable() and reader.reads(decoded, words=4):
                        parts.append((*part.span(), decoded))
    return _alone("link", base, parts) if parts else None


_READS_INVISIBLE = frozenset({_tags, _bidi})
_DECODERS: tuple[Callable[[View, _Reader], View | None], ...] = (
    _repaired,
    _tags,
    _hidden_html,
    _link,
    _rot13,
    _bidi,
    _reversed,
)
