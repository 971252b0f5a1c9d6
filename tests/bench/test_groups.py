"""Contrasting groups by hand."""

from __future__ import annotations

from typing import Any

import pytest
from made import ATTACK, BENIGN, OUT, figures, record, said

from promptguard.bench.quality import evaluate
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored


def test_groups_by_hand() -> None:
    def pair(name: str, high: float, low: float, **fields: Any) -> list[tuple[Record, Scored]]:
        fields = {"pair_id": name, "text": name} | fields
        return [(record(ATTACK, **fields), said(high)), (record(**fields), said(low))]

    rows = [
        *pair("right", 0.9, 0.1, factor="source"),
        *pair("ranked, not right", 0.9, 0.6, factor="source"),
        *pair("tie", 0.6, 0.6, factor="tools"),
        *pair("wrong", 0.2, 0.7, source_name="other"),
        (record(pair_id="all benign"), said(0.1)),
        (record(pair_id="all benign"), said(0.1)),
        (record(ATTACK, pair_id="alone"), said(0.9)),
        (record(ATTACK, pair_id="right", source_name="third"), said(0.9)),  # another file: another group
        (record(OUT, pair_id="scope"), said(0.1, intents=("out_of_scope",))),
        (record(pair_id="scope"), said(0.1)),
    ]
    groups = evaluate([r for r, _ in rows], [s for _, s in rows])["groups"]
    overall = groups["overall"]
    assert overall["n"] == 4
    assert overall["right"]["value"] == 0.25
    assert overall["ranked"]["value"] == pytest.approx(2.5 / 4)
    assert overall["strict"]["value"] == 0.5
    assert overall["exact"]["value"] == 0.25
    assert {name: part["ranked"]["value"] for name, part in groups["by_factor"].items()} == {
        "source": 1.0, "tools": 0.5, "not stated": 0.0,
    }  # fmt: skip
    assert {name: part["n"] for name, part in groups["by_source"].items()} == {"set": 3, "other": 1}
    assert (groups["label_sets"]["exact"]["k"], groups["label_sets"]["exact"]["n"]) == (2, 5)


def test_large_groups_count_every_couple() -> None:
    records = [record(label, pair_id="p", text=str(i)) for i, label in enumerate([ATTACK, ATTACK, BENIGN, OUT])]
    groups = evaluate(records, [said(0.9), said(0.3), said(0.4), said(0.1)])["groups"]
    assert (groups["overall"]["ranked"]["value"], groups["overall"]["ranked"]["n"]) == (0.75, 4)
    assert groups["overall"]["strict"]["value"] == 0.0
    assert list(groups["by_kind"]) == ["twin texts"]


def test_no_groups() -> None:
    groups = figures([0.1, 0.9], [BENIGN, ATTACK])["groups"]
    assert groups["overall"]["n"] == 0
    assert groups["overall"]["right"]["value"] is groups["overall"]["ranked"]["value"] is None
