"""Text decoded out of a text: hidden characters, encoded blobs, ciphers, what a page or a link carries unseen.

Every pattern is linear: its repeated classes are disjoint from what may follow them, or its length is capped.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote_plus

from promptguard.language import CLEARLY_FEWER, LETTERS, WORD, Reader
from promptguard.view import MARGIN, MAX_CHARACTERS, Edit, View, alone, assemble, with_gaps

# --- hidden characters ---------------------------------------------------------------------------------

_TAGS = re.compile("[\U000e0000-\U000e007f]{3,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")


def _tags(base: View, reader: Reader) -> View | None:
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
    parts = [part for part in parts if WORD.search(part[2] or "")]
    return alone("tags", base, parts) if parts else None


_FROM_TAG = {0xE0000 + i: chr(i) if 32 <= i < 127 else " " for i in range(128)}


_OVERRIDE = re.compile("\u202e([^\u202c\u202d\n]{4,})")


def _bidi(base: View, reader: Reader) -> View | None:
    """Text stored backwards behind a right-to-left override (UAX #9), as it is displayed."""
    if "\u202e" not in base.text:
        return None
    spans = [m.span(1) for m in _OVERRIDE.finditer(base.text) if reader.reads(m[1][::-1], m[1])]
    return _turned("bidi_reversed", base, spans) if spans else None


def _turned(name: str, base: View, spans: Sequence[tuple[int, int]]) -> View:
    """The view with some stretches of it turned round, and what stands near them."""
    parts: list[Edit] = []
    for start, end, new in with_gaps([(a, b, "") for a, b in spans], len(base.text), MARGIN):
        if new is None:
            parts.append((start, end, None))
        else:
            parts += [(i, i + 1, None) for i in range(end - 1, start - 1, -1)]
    return assemble(name, base, parts)


# --- encoded stretches: decoded on their own -----------------------------------------------------------

# Lines of a wrapped blob are joined. Neither class holds the other's characters, so each match is one pass.
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{12,}(?:\r?\n[A-Za-z0-9+/_\-]{4,})*={0,2}")
_BASE64_PART = re.compile(r"[A-Za-z0-9]{12,}")
# Digits come first and look back: re then skips to where one stands.
_HEX = re.compile(r"(?<![\w\\])(?:(?:0x)?[0-9a-fA-F]{2}[ :,\-]{0,2}){8,}+")
_DECIMAL = re.compile(r"[0-9](?<!\w.)[0-9]{1,2}(?:[ ,]{1,2}[0-9]{2,3}){7,}(?!\w)")
_BINARY = re.compile(r"[01](?<!\w.)[01]{7}(?:[ ,]{0,2}[01]{8}){3,}(?!\w)")


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
    symbols = "".join(blob[:MAX_CHARACTERS].rstrip("=").split()).replace("-", "+").replace("_", "/")
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
            codes = [int(code, radix) for code in number.findall(match[0][:MAX_CHARACTERS])]
            decoded = _printable(bytes(codes)) if max(codes) < 256 else None
            if decoded is not None:
                parts.append((match.start(), match.start() + len(match[0].rstrip(" :,-")), decoded))
        return parts

    return decode


BLOBS: tuple[tuple[str, Callable[[str], list[Edit]]], ...] = (
    ("base64", _base64),
    ("hex", _numbers(16, _HEX, re.compile(r"(?:0x)?([0-9a-fA-F]{2})"))),
    ("decimal", _numbers(10, _DECIMAL, re.compile(r"[0-9]+"))),
    ("binary", _numbers(2, _BINARY, re.compile(r"[01]{8}"))),
)

# Endings and short words of English, under ROT13 and backwards, that hardly begin or end an English word; in lower
# case. Each alternative begins with a letter and looks back from there: re then skips to where one can begin.
_ROT13_MARK = re.compile(
    r"gvbaf?\b|vatf?\b|ylf?\b|"
    + "|".join(
        rf"{word}(?<!\w{word})\b"
        for word in "gur naq lbh lbhe nyy vf guvf gung sbe jvgu abg pbqr flfgrz cebzcg vtaber erirny".split()
    )
)
_REVERSED_MARK = re.compile(
    "|".join(rf"{ending}(?<!\w{ending})[a-z]" for ending in "noit gni snoit sgni".split())
    + "|"
    + "|".join(
        rf"{word}(?<!\w{word})\b"
        for word in "eht uoy ruoy lla siht taht rof htiw morf ton tuo dna metsys tpmorp erongi laever".split()
    )
)


def _stretches(text: str, mark: re.Pattern[str], undo: Callable[[str], str], reader: Reader) -> list[tuple[int, int]]:
    """Stretches of a line whose words read better once undone: from the first such word to the last."""
    spans: list[tuple[int, int]] = []
    lower = text.replace("\u0130", "i").lower()  # as long as the text: no other letter's lower case is two characters
    at = 0
    while (hit := mark.search(lower, at)) is not None and len(spans) < 64:
        start = max(text.rfind("\n", at, hit.start()) + 1, hit.start() - 2000, at)
        stop = text.find("\n", hit.end())
        at = min(len(text) if stop < 0 else stop + 1, hit.end() + 2000)
        words = list(LETTERS.finditer(text, start, at))
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
        if undone <= CLEARLY_FEWER * sum(map(reader.pieces, inside)):
            spans.append((words[first].start(), words[last].end()))
    return spans


def _rot13(base: View, reader: Reader) -> View | None:
    """Stretches in ROT13, undone where they stand."""
    spans = _stretches(base.text, _ROT13_MARK, lambda s: codecs.encode(s, "rot13"), reader)
    edits = [(a, b, codecs.encode(base.text[a:b], "rot13")) for a, b in spans]
    return assemble("rot13", base, with_gaps(edits, len(base.text), MARGIN)) if edits else None


def _reversed(base: View, reader: Reader) -> View | None:
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


def _hidden_html(base: View, reader: Reader) -> View | None:
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
    return alone("hidden_html", base, parts) if parts else None


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


def _link(base: View, reader: Reader) -> View | None:
    """Sentences in the path or the parameters of a link (RFC 3986), decoded."""
    parts: list[Edit] = []
    if "://" in base.text:
        for url in _URL.finditer(base.text):
            for part in _URL_PART.finditer(base.text, *url.span()):
                if "%" in part[0] or "+" in part[0]:
                    decoded = unquote_plus(part[0])
                    if decoded.isprintable() and reader.reads(decoded, words=4):
                        parts.append((*part.span(), decoded))
    return alone("link", base, parts) if parts else None


READS_INVISIBLE = frozenset({_tags, _bidi})
DECODERS: tuple[Callable[[View, Reader], View | None], ...] = (
    _tags,
    _hidden_html,
    _link,
    _rot13,
    _bidi,
    _reversed,
)
