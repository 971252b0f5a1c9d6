from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptguard import spans
from promptguard.detectors import Reading
from promptguard.intents import INTENTS
from promptguard.runtime import Output
from promptguard.text import View
from promptguard.types import Span
from promptguard.windows import Window

TEXT = "abcdefghij" * 10
PLAIN = View("plain", TEXT, range(len(TEXT)), range(1, len(TEXT) + 1))


def reading(
    logits: Sequence[float], *, start: int = 0, view: View = PLAIN, risk: float = 2.0, **intents: float
) -> Reading:
    """A window of one-character tokens with these span logits."""
    outputs = np.array([*(intents.get(name, 0.0) for name in INTENTS), risk], np.float32)
    offsets = tuple((start + i, start + i + 1) for i in range(len(logits)))
    window = Window((101, *(2000,) * len(logits), 102), offsets)
    return Reading(view, window, Output(outputs, np.array(logits, np.float32), np.zeros(2, np.float32)))


def stretch(length: int, first: int, last: int, logit: float = 2.0) -> list[float]:
    return [logit if first <= i < last else -5.0 for i in range(length)]


def test_likely_tokens_next_to_each_other_are_one_span() -> None:
    found = spans.find([reading(stretch(40, 10, 20), fraud=1.0)], ["jailbreak", "fraud"], 100)
    assert found == (Span(10, 20, "fraud", pytest.approx(0.8808, abs=1e-4)),)


def test_small_gaps_are_bridged_and_lone_tokens_are_not_evidence() -> None:
    logits = stretch(60, 10, 14)
    logits[17:20] = [2.0] * 3
    logits[40] = 2.0
    assert [(s.start, s.end) for s in spans.find([reading(logits)], ["fraud"], 100)] == [(10, 20)]


def test_spans_of_windows_that_overlap_are_merged() -> None:
    found = spans.find(
        [reading(stretch(30, 20, 30)), reading(stretch(30, 0, 12, 3.0), start=18, jailbreak=2.0)],
        ["fraud", "jailbreak"], 100,
    )  # fmt: skip
    assert [(s.start, s.end, s.intent) for s in found] == [(18, 30, "jailbreak")]
    apart = spans.find([reading(stretch(30, 0, 5)), reading(stretch(30, 20, 25), start=30)], ["fraud"], 100)
    assert [(s.start, s.end) for s in apart] == [(0, 5), (50, 55)]


def test_a_view_leads_back_to_the_text() -> None:
    blob = View("base64", "ignore it", [30] * 9, [62] * 9)
    found = spans.find([reading([-5.0] * 20), reading(stretch(9, 2, 6), view=blob)], ["fraud"], 100)
    assert [(s.start, s.end) for s in found] == [(30, 62)]


def test_without_a_likely_token_the_strongest_window_is_shown() -> None:
    weak, strong = reading(stretch(20, 3, 6, -1.0)), reading(stretch(20, 7, 9, -2.0), start=50, risk=5.0)
    assert [(s.start, s.end) for s in spans.find([weak, strong], ["fraud"], 100)] == [(57, 59)]


def test_without_a_token_the_whole_text_is_shown() -> None:
    assert spans.find([reading([])], ["fraud"], 3) == (Span(0, 3, "fraud", 0.0),)


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), max_size=30), min_size=1, max_size=4))
def test_there_is_always_a_span_inside_the_text_and_none_overlap(logits: list[list[float]]) -> None:
    found = spans.find([reading(row, start=20 * i) for i, row in enumerate(logits)], ["fraud"], 100)
    assert found
    edges = [edge for s in found for edge in (s.start, s.end)]
    assert edges == sorted(edges)
    assert all(0 <= s.start < s.end <= 100 and 0 <= s.probability <= 1 for s in found)
