"""Token probabilities to stretches of the original text."""

from __future__ import annotations

from collections.abc import Sequence

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


def find(readings: Sequence[Reading], intents: Sequence[str], length: int) -> tuple[Span, ...]:
    """Where a flagged text carries the attack.

    Args:
        readings: all windows of all views.
        intents: the risky intents of the text, most likely first.
        length: characters in the text.

    Returns:
        Spans in offsets of the original text, in order, not overlapping; where no token is likely to
        be part of an attack, the strongest window's own strongest stretch. At least one.
    """
    found = [span for reading in readings for span in _stretches(reading, intents, _LIKELY)]
    if not found:
        strongest = max(readings, key=lambda r: float(r.output.logits[-1]))
        probabilities = _probabilities(strongest)
        if len(probabilities):
            found = _stretches(strongest, intents, float(probabilities.max()) * _SHARE_OF_STRONGEST, least=1)
    return _merged(found) or (Span(0, length, intents[0], 0.0),)


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
