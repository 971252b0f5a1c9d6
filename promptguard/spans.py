"""Token probabilities to stretches of the original text."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from promptguard.detectors import Reading
from promptguard.intents import INTENTS
from promptguard.runtime import Floats
from promptguard.types import Span

# Choices, not measurements.
_LIKELY = 0.5
_SHARE_OF_STRONGEST = 0.6  # of the strongest token's probability, where no token is likely
_GAP_TOKENS = 4  # longest gap within a stretch
_LEAST_TOKENS = 3  # shorter stretches are noise

_SHARE_OF_SENTENCE = 0.4
"""A sentence is part of a span from this share of its characters on. Chosen on the calibration split: a lower share
holds more attacks whole and takes more of their neighbours. Boundaries of JSON fields, table cells or tags, tried as
well, cut more attacks than they saved neighbours."""

_BOUNDARY = re.compile(r"""(?<=[.!?])["'”’)\]]*\s+|(?<=[。！？])|[\n\r]""")


def find(readings: Sequence[Reading], intents: Sequence[str], text: str) -> tuple[Span, ...]:
    """Where a flagged text carries the attack.

    Args:
        readings: all windows of all views.
        intents: the risky intents of the text, most likely first.
        text: the text as given.

    Returns:
        Spans in offsets of the original text, in order, not overlapping, of whole sentences where they
        hold enough of one and of whole words elsewhere; where no token is likely to be part of an
        attack, the strongest window's own strongest stretch. At least one.
    """
    found = [span for reading in readings for span in _stretches(reading, intents, _LIKELY)]
    if not found:
        strongest = max(readings, key=lambda r: float(r.output.logits[-1]))
        probabilities = _probabilities(strongest)
        if len(probabilities):
            found = _stretches(strongest, intents, float(probabilities.max()) * _SHARE_OF_STRONGEST, least=1)
    return _merged(_whole(_merged(found), text)) or (Span(0, len(text), intents[0], 0.0),)


def _probabilities(reading: Reading) -> Floats:
    """Of each token, special ones left out, to belong to an attack; shape (tokens - 2,)."""
    logits = np.clip(reading.output.span_logits, -30, 30)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _stretches(reading: Reading, intents: Sequence[str], threshold: float, least: int = _LEAST_TOKENS) -> list[Span]:
    """A window's runs of tokens at or above a threshold, under the intent most likely in that window."""
    probabilities = _probabilities(reading)
    likely = np.flatnonzero(probabilities >= threshold)
    if not len(likely):
        return []
    logits = reading.output.logits
    intent = max(intents, key=lambda name: float(logits[INTENTS.index(name)]))
    spans = []
    for run in np.split(likely, np.flatnonzero(np.diff(likely) > _GAP_TOKENS) + 1):
        if len(run) < least:
            continue
        first, last = int(run[0]), int(run[-1])
        offsets = reading.window.offsets
        start, end = reading.view.original_span(offsets[first][0], offsets[last][1])
        spans.append(Span(start, end, intent, round(float(probabilities[first : last + 1].mean()), 4)))
    return spans


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans in order; of those that overlap one, with the intent of the likeliest."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            better = max(last, span, key=lambda s: s.probability)
            merged[-1] = Span(last.start, max(last.end, span.end), better.intent, better.probability)
        else:
            merged.append(span)
    return tuple(merged)


def _whole(spans: Sequence[Span], text: str) -> list[Span]:
    """Each span as the sentences that are part of it, or else as the words it touches; spans as ``_merged``."""
    sentences = _marked_sentences(spans, text)
    starts, ends = [start for start, _ in sentences], [end for _, end in sentences]
    whole = []
    for span in spans:
        first, beyond = bisect_right(ends, span.start), bisect_left(starts, span.end)
        if first < beyond:
            start, end = starts[first], ends[beyond - 1]
        else:
            start, end = _words(span.start, span.end, text)
        whole.append(replace(span, start=start, end=end))
    return whole


def _marked_sentences(spans: Sequence[Span], text: str) -> list[tuple[int, int]]:
    """The sentences of which the spans, disjoint and in order, hold the share it takes."""
    marked = []
    first = 0
    for start, end in _sentences(text):
        while first < len(spans) and spans[first].end <= start:
            first += 1
        if first == len(spans):
            break
        held, at = 0, first
        while at < len(spans) and spans[at].start < end:
            held += min(end, spans[at].end) - max(start, spans[at].start)
            at += 1
        if held >= _SHARE_OF_SENTENCE * (end - start):
            marked.append((start, end))
    return marked


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Sentences and lines, without the space around them; none is empty."""
    at = 0
    for end in chain((match.end() for match in _BOUNDARY.finditer(text)), (len(text),)):
        sentence = text[at:end]
        start = at + len(sentence) - len(sentence.lstrip())
        if start < end:
            yield start, at + len(sentence.rstrip())
        at = end


def _words(start: int, end: int, text: str) -> tuple[int, int]:
    """The stretch, with the rest of a word that it begins or ends in."""
    while 0 < start < len(text) and _in_word(text[start - 1]) and _in_word(text[start]):
        start -= 1
    while 0 < end < len(text) and _in_word(text[end - 1]) and _in_word(text[end]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    """Letters and digits, and what stands in a word without ending it: marks, format characters, ``_``."""
    return character.isalnum() or character == "_" or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
