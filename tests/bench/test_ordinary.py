"""Ordinary traffic against contrast, recall by source of attack, false positives at the modes: by hand."""

from __future__ import annotations

from typing import Any

import pytest
from made import ATTACK, record, said

from promptguard.bench.ordinary import kinds
from promptguard.bench.quality import evaluate
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.types import Context

MODES = {"low-alarm": 0.9, "balanced": 0.5, "strict": 0.2}


def test_kinds_follow_family_source_and_channel() -> None:
    records = [
        record(ATTACK, family="attacks"),
        record(family="benign"),
        record(family="benign", context=Context(source="email")),
        record(family="contextual", source_name="pairs"),
        record(family="contextual", source_name="traffic"),
        record(family="neighbours", source_name="everyday"),
    ]
    assert kinds(records) == ["risky", "messages", "content", "contrast", "applications", "everyday"]


def test_without_a_family_a_group_with_a_risky_record_is_contrast() -> None:
    records = [record(ATTACK, pair_id="p"), record(pair_id="p"), record(pair_id="q"), record()]
    assert kinds(records) == ["risky", "contrast", "messages", "messages"]
    assert kinds([record(ATTACK, pair_id="p"), record(pair_id="p", family="benign")]) == ["risky", "messages"]


def test_transfer_by_hand() -> None:
    # 100 ordinary benign, one of them at .8: at 1 % it alone may lie above, so .3 is the threshold. The contrast
    # record at .95 would have raised it.
    rows: list[tuple[Record, Scored]] = [(record(family="benign"), said(0.8))]
    rows += [(record(family="benign"), said(0.3 if i == 1 else 0.1)) for i in range(1, 100)]
    rows += [(record(family="contextual", source_name="pairs"), said(0.95)) for _ in range(20)]
    rows += [(record(ATTACK, family="attacks", source_name="one"), said(0.6 if i < 15 else 0.2)) for i in range(20)]
    rows += [(record(ATTACK, family="attacks", source_name="two"), said(0.6 if i < 5 else 0.3)) for i in range(20)]
    rows += [(record(ATTACK, family="contextual", source_name="pairs"), said(0.4)) for _ in range(20)]
    rows += [(record(ATTACK, family="attacks", source_name="few"), said(0.1)) for _ in range(19)]
    found = evaluate([r for r, _ in rows], [s for _, s in rows])["transfer"]
    assert (found["benign"], found["flag_above"]) == (100, 0.3)
    assert {name: row["value"] for name, row in found["by_source"].items()} == {"one": 0.75, "two": 0.25, "pairs": 1.0}
    assert found["by_source"]["one"]["low"] < 0.75 < found["by_source"]["one"]["high"]
    assert found["summary"]["all"]["mean"]["value"] == pytest.approx(2 / 3)
    attacks = found["summary"]["attacks"]
    assert (attacks["sources"], attacks["mean"]["value"]) == (2, 0.5)
    assert attacks["mean"]["low"] < 0.5 < attacks["mean"]["high"]
    assert (attacks["worst"]["source"], attacks["worst"]["value"]) == ("two", 0.25)
    assert found["summary"]["contextual"]["worst"]["source"] == "pairs"


def test_transfer_without_attacks_or_without_ordinary_records() -> None:
    for label, family in ((frozenset[str](), "benign"), (ATTACK, "attacks")):
        found = evaluate([record(label, family=family)] * 30, [said(0.9)] * 30)["transfer"]
        assert found["by_source"] == {}
        assert found["summary"]["all"] == {
            "sources": 0,
            "mean": {"value": None, "low": None, "high": None},
            "worst": None,
        }


def modes(*rows: tuple[Record, Scored], **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = evaluate([r for r, _ in rows], [s for _, s in rows], **settings)["modes"]
    return found


def test_rates_at_the_modes_by_hand() -> None:
    email = Context(source="email")
    rows = [(record(family="benign", source_name="mail", context=email), said(0.5)) for _ in range(2)]
    rows += [(record(family="benign", source_name="mail", context=email), said(0.1)) for _ in range(8)]
    rows += [(record(family="benign", source_name="chat"), said(0.2 if i < 1 else 0.1)) for i in range(20)]
    rows += [(record(family="contextual", source_name="pairs"), said(1.0)), (record(ATTACK), said(1.0))]
    found = modes(*rows, thresholds=MODES)
    balanced = found["balanced"]
    assert balanced["by_source"]["mail"]["value"] == 0.2  # a threshold is reached, not passed
    assert balanced["by_source"]["mail"]["ratio"] == pytest.approx(20.0)
    assert balanced["by_source"]["chat"]["value"] == 0.0
    assert set(balanced["by_source"]) == {"mail", "chat"}
    assert {name: row["value"] for name, row in balanced["by_kind"].items()} == {"content": 0.2, "messages": 0.0}
    assert balanced["largest"] == {"kind": "content", "ratio": pytest.approx(20.0)}
    # messages weigh .50, content .15
    assert balanced["traffic"]["value"] == pytest.approx(0.15 * 0.2 / 0.65)
    strict = found["strict"]
    assert strict["largest"] == {"kind": "content", "ratio": pytest.approx(4.0)}
    assert strict["by_kind"]["messages"]["ratio"] == pytest.approx(1.0)
    assert found["low-alarm"]["traffic"]["value"] == found["low-alarm"]["traffic"]["low"] == 0.0
    assert found["low-alarm"]["traffic"]["high"] > 0.05


def test_a_failed_analysis_is_a_false_positive_at_every_mode() -> None:
    found = modes((record(), Scored.failed("Boom")), (record(), said(0.1)), thresholds=MODES)
    assert [part["by_kind"]["messages"]["value"] for part in found.values()] == [0.5, 0.5, 0.5]


def test_modes_without_thresholds_or_without_ordinary_records() -> None:
    assert modes((record(), said(0.1))) == {}
    found = modes((record(ATTACK), said(0.9)), thresholds=MODES)
    assert found["strict"]["largest"] is found["strict"]["traffic"]["value"] is None
