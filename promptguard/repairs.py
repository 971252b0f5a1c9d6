"""Words repaired where they stand: look-alike letters, leetspeak, letters spaced out, escapes.

Each repair gives its edits to a text; all of them together make one view. The evidence asked for is a word that is
in the vocabulary once it is repaired, unless what is repaired has no innocent use (fillers inside words, escaped
prose). Every pattern is linear: its repeated classes are disjoint from what may follow them, or its length is capped.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from urllib.parse import unquote_to_bytes

from promptguard.language import LETTERS, Reader
from promptguard.view import MARGIN, MAX_CHARACTERS, Edit, View, assemble, joined_name, with_gaps

_MAX_EDITS = 50_000  # by one repair


def repaired(base: View, reader: Reader) -> View | None:
    """The text with its words repaired, kept with their surroundings."""
    work, names, touched = base, [], []
    for name, repair in _REPAIRS:
        edits = repair(work.text, reader)[:_MAX_EDITS]
        if edits:
            names.append(name)
            touched += [work.original_span(start, end) for start, end, _ in edits]
            work = assemble("", work, with_gaps(edits, len(work.text)))
    if not names:
        return None
    name = joined_name(base.name, "+".join(names))
    if base.name != "plain" or len(work.text) <= 4 * MARGIN:
        return replace(work, name=name)
    return replace(assemble("", work, _surroundings(work, touched)), name=name)


def _surroundings(view: View, touched: list[tuple[int, int]]) -> Iterator[Edit]:
    """The stretches of a view around the original characters that were touched."""
    at, room = 0, MAX_CHARACTERS
    for first, last in sorted(touched):
        start = max(at, bisect_left(view.starts, first - MARGIN))
        end = min(bisect_right(view.ends, last + MARGIN), start + room)
        if start < end:
            yield start, end, None
            room -= end - start
            at = end


# Fillers and the blank Braille cell show nothing but count as letters or symbols to BERT's normalizer, and would
# make a word unknown.
_FILLER = "\u115f\u1160\u3164\uffa0\u2800"
_FILLER_IN_WORD = re.compile(f"(?<=[A-Za-z])[{_FILLER}]+(?=[A-Za-z])")


def _fillers(text: str, reader: Reader) -> list[Edit]:
    """Letters that show nothing, inside words."""
    return [] if text.isascii() else [(m.start(), m.end(), "") for m in _FILLER_IN_WORD.finditer(text)]


_SPLIT_BY_SYMBOLS = re.compile(r"(?<!\w)[A-Za-z]{1,20}(?:[^\w\s\x00-\x7f]{1,4}[A-Za-z]{1,20}){1,8}(?!\w)")
_SYMBOLS = re.compile(r"[^\w\s\x00-\x7f]+")


def _symbols(text: str, reader: Reader) -> list[Edit]:
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


def _lookalikes(text: str, reader: Reader) -> list[Edit]:
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


def _escapes(text: str, reader: Reader) -> list[Edit]:
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
            wanted = any(len(w[0]) >= 3 and reader.is_word(w[0]) for w in LETTERS.finditer(decoded[:4096]))
        else:
            wanted = bool(found) and "://" not in stretch[0] and reader.reads(decoded, words=4)
        if wanted:
            edits += [(match.start(), match.end(), _unescape(match)) for match in found]
    return edits


_SPACED = re.compile(r"(?<!\w)[^\W_](?:[\W_]{1,3}[^\W_]){3,400}(?!\w)")
_SEPARATOR = re.compile(r"[\W_]+")


def _spaced(text: str, reader: Reader) -> list[Edit]:
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


def _word_ends(letters: str, reader: Reader) -> set[int]:
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


def _leetspeak(text: str, reader: Reader) -> list[Edit]:
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


def _is_leet(token: str, word: str, reader: Reader) -> bool:
    signs = [i for i, c in enumerate(token[:-1]) if not c.isalpha() and (token[i + 1].isalpha() or i + 2 < len(token))]
    inside = [i for i in signs if (i and token[i] not in "+|") or token[i].isdigit()]
    return len(word) >= 5 and bool(inside) and reader.is_word(word) and len(signs) <= 0.6 * len(token)


_REPAIRS: tuple[tuple[str, Callable[[str, Reader], list[Edit]]], ...] = (
    ("fillers", _fillers),
    ("symbols", _symbols),
    ("confusables", _lookalikes),
    ("escapes", _escapes),
    ("spaced", _spaced),
    ("leetspeak", _leetspeak),
)
