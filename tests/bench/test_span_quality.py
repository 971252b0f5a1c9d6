"""Spans by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import ATTACK, FakeGuard, record, said

from promptguard.bench.quality import evaluate
from promptguard.bench.scoring import Scored, score, score_redacted
from promptguard.bench.span_quality import merged
from promptguard.types import Context

WEB, USER = Context(source="web"), Context(source="user")
TEXT = "aa bb cc dd. " * 10  # five tokens every 13 characters


def figures(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value["value"] if isinstance(value, dict) else value for name, value in part.items()}


def test_spans_by_hand() -> None:
    records = [
        record(ATTACK, text=TEXT, spans=((0, 12, None),), context=WEB),
        record(ATTACK, text=TEXT, spans=((13, 18, None), (16, 25, None)), source_name="other", context=USER),
        record(ATTACK, text=TEXT, spans=((0, 12, None),), context=WEB),
        record(ATTACK, text=TEXT, spans=((0, 12, None),)),
        record(text=TEXT, spans=()),
        record(text=TEXT, spans=()),
        record(ATTACK, text=TEXT),  # nobody marked it
    ]
    rows = [
        said(0.9, spans=((0, 7), (6, 11))),  # 11 of 12 characters in two pieces, 4 of 5 tokens
        said(0.9, spans=((13, 38),)),  # all 5 tokens, and 5 more
        said(0.1),
        Scored.failed("Boom"),
        said(0.1, spans=((0, 5),)),
        said(0.1),
        said(0.9, spans=((0, 100),)),
    ]
    spans = evaluate(records, rows)["spans"]
    assert figures(spans["overall"]) == {
        "n": 4,
        "token_precision": pytest.approx(9 / 14),
        "token_recall": pytest.approx(9 / 20),
        "token_f1": pytest.approx(18 / 34),
        "overlap": 0.5,
        "contains_90": 0.5,
        "contains_100": 0.25,
        "redacted_clean": None,
    }
    assert figures(spans["content"])["token_recall"] == pytest.approx(4 / 10)
    assert figures(spans["content_flagged"])["token_recall"] == pytest.approx(4 / 5)
    assert [spans[part]["n"] for part in ("content", "content_flagged")] == [2, 1]
    assert spans["by_source"]["other"]["token_precision"]["value"] == 0.5
    assert spans["clean"] == {"n": 2, "with_a_span": 0.5, "characters_marked": 5 / (2 * len(TEXT))}


def test_half_a_token_is_marked_and_a_touching_span_is_not() -> None:
    found = [((0, 4),), ((2, 3),), ((2, 3), (12, 13)), ((12, 13),), ()]
    records = [record(ATTACK, text=TEXT, spans=((3, 12, None),)) for _ in found]
    spans = evaluate(records, [said(0.9, spans=marks) for marks in found])["spans"]["overall"]
    assert (spans["token_precision"]["k"], spans["token_precision"]["n"]) == (1, 2)
    assert spans["overlap"]["k"] == 1


def test_nine_tenths_and_all_of_it() -> None:
    found = [((10, 18),), ((10, 19),), ((10, 20),), ((0, 100),), ((10, 15), (15, 20))]
    records = [record(ATTACK, text=TEXT, spans=((10, 20, None),)) for _ in found]
    spans = evaluate(records, [said(0.9, spans=marks) for marks in found])["spans"]["overall"]
    assert (spans["contains_90"]["k"], spans["contains_100"]["k"], spans["contains_90"]["n"]) == (4, 3, 5)


def test_intervals_hold_their_figures_and_need_replicates() -> None:
    records = [record(ATTACK, text=TEXT, spans=((0, 12, None),)) for _ in range(30)]
    rows = [said(0.9, spans=((0, 12 + 13 * (i % 3)),) if i % 4 else ()) for i in range(30)]
    part = evaluate(records, rows, bootstrap=200)["spans"]["overall"]
    for name in ("token_precision", "token_recall", "token_f1", "contains_100"):
        assert part[name]["low"] < part[name]["value"] < part[name]["high"]
    assert part["redacted_clean"]["low"] is None
    assert evaluate(records, rows, bootstrap=0)["spans"]["overall"]["token_f1"]["low"] is None


class Redactor(FakeGuard):
    """Marks and removes ``bad``; what is left is flagged while it still holds ``worse``."""

    def __init__(self) -> None:
        super().__init__(lambda text, context: 0.9 if "bad" in text or "worse" in text else 0.1)
        self.texts: list[tuple[str, Context]] = []

    def analyze_many(self, pairs: Any) -> Any:
        self.texts += pairs
        for analysis, (text, _) in zip(super().analyze_many(pairs), pairs, strict=True):
            at = text.find("bad")
            analysis.spans = (SimpleNamespace(start=at, end=at + 3),) if at >= 0 else ()
            analysis.redacted = lambda text=text: text.replace("bad", "-")
            yield analysis


def test_what_is_left_of_flagged_content_is_analysed_again_in_its_context() -> None:
    marks = ((0, 3, None),)
    records = [
        record(ATTACK, text="bad one", spans=marks, context=WEB),
        record(ATTACK, text="bad and worse", spans=marks, context=WEB, source_name="other"),
        record(ATTACK, text="missed", spans=marks, context=WEB),
        record(ATTACK, text="bad word of a user", spans=marks, context=USER),
        record(ATTACK, text="bad and unmarked", context=WEB),
        record(text="bad but clean", spans=(), context=WEB),
        record(ATTACK, text="bad from nowhere", spans=marks),
    ]
    guard = Redactor()
    rows = score(guard, records)
    assert [row.redacted for row in rows[:3]] == ["- one", "- and worse", None]
    assert "- one" not in repr(rows[0])
    del guard.texts[:]
    again = score_redacted(guard, records, rows)
    assert guard.texts == [("- one", WEB), ("- and worse", WEB)]
    assert [row is not None for row in again] == [True, True, *[False] * 5]
    spans = evaluate(records, rows, redacted=again)["spans"]
    clean = spans["overall"]["redacted_clean"]
    assert (clean["k"], clean["n"], spans["content_flagged"]["redacted_clean"]["value"]) == (1, 2, 0.5)
    assert spans["by_source"]["other"]["redacted_clean"]["value"] == 0.0


def test_an_analysis_that_fails_the_second_time_is_not_clean() -> None:
    records = [record(ATTACK, text="bad", spans=((0, 3, None),), context=WEB)]
    guard = FakeGuard(lambda text, context: 0.9 if text == "bad" else RuntimeError("no"))
    again = score_redacted(guard, records, score(guard, records))
    assert [row.decision for row in again if row] == ["error"]
    rows = score(guard, records)
    assert evaluate(records, rows, redacted=again)["spans"]["overall"]["redacted_clean"]["value"] == 0.0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_merged_spans_hold_the_same_characters(spans: list[tuple[int, int]]) -> None:
    union = merged(spans)
    assert {c for a, b in union for c in range(a, b)} == {c for a, b in spans for c in range(a, b)}
    assert all(one[1] < two[0] for one, two in itertools.pairwise(union))
