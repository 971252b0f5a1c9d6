"""Spans by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import ATTACK, record, said

from promptguard.bench.quality import evaluate
from promptguard.bench.scoring import Scored
from promptguard.bench.span_quality import merged


def test_spans_by_hand() -> None:
    text = "x" * 100
    records = [
        record(ATTACK, text=text, spans=((10, 20, None),)),
        record(ATTACK, text=text, spans=((0, 10, None), (5, 20, None)), source_name="other"),
        record(ATTACK, text=text, spans=((0, 10, None),)),
        record(text=text, spans=()),
        record(text=text, spans=()),
        record(ATTACK, text=text),  # nobody marked it
    ]
    rows = [
        said(0.9, spans=((10, 15), (14, 19))),  # 9 of 10 in two pieces
        said(0.9, spans=((0, 40),)),  # all 20, and 20 more
        Scored.failed("Boom"),
        said(0.1, spans=((0, 5),)),
        said(0.1),
        said(0.9, spans=((0, 100),)),
    ]
    spans = evaluate(records, rows)["spans"]
    overall = spans["overall"]
    assert overall["n"] == 3
    assert overall["precision"] == pytest.approx(29 / 49)
    assert overall["recall"] == pytest.approx(29 / 40)
    assert overall["f1"] == pytest.approx(58 / 89)
    assert overall["mean_f1"] == pytest.approx((18 / 19 + 40 / 60 + 0) / 3)
    assert overall["overlap"] == overall["contains"] == pytest.approx(2 / 3)
    assert spans["by_source"]["other"]["precision"] == 0.5
    assert spans["clean"] == {"n": 2, "with_a_span": 0.5, "characters_marked": 5 / 200}


def test_a_touching_span_does_not_overlap_and_less_than_nine_tenths_does_not_contain() -> None:
    records = [record(ATTACK, text="x" * 100, spans=((10, 20, None),)) for _ in range(2)]
    overall = evaluate(records, [said(0.9, spans=((0, 10), (20, 30))), said(0.9, spans=((10, 18),))])["spans"][
        "overall"
    ]
    assert (overall["overlap"], overall["contains"]) == (0.5, 0.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_merged_spans_hold_the_same_characters(spans: list[tuple[int, int]]) -> None:
    union = merged(spans)
    assert {c for a, b in union for c in range(a, b)} == {c for a, b in spans for c in range(a, b)}
    assert all(one[1] < two[0] for one, two in itertools.pairwise(union))
