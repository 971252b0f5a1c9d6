"""The figures of the quality benchmark against values worked out by hand."""

from __future__ import annotations

import builtins
import importlib
import itertools
import json
import random
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from promptguard.bench import quality
from promptguard.bench.baselines import BASELINES, baselines, fit
from promptguard.bench.quality import Scored, ablate, calibration, evaluate, most_confident_errors, score, swap, table
from promptguard.bench.records import Record, limit_per_source, read_records
from promptguard.errors import InputError, MissingExtraError, ModelNotFound, RecordError
from promptguard.intents import INTENTS
from promptguard.types import Context, Message, Tool

ATTACK = frozenset({"prompt_injection"})
BENIGN: frozenset[str] = frozenset()
OUT = frozenset({"out_of_scope"})
numbers = itertools.count()


def record(labels: frozenset[str] = BENIGN, **fields: Any) -> Record:
    given = {"id": f"r{next(numbers)}", "text": "some text", "source_name": "set", "labels": labels} | fields
    return Record(**given)


def said(risk: float, *, flagged: bool | None = None, intents: tuple[str, ...] | None = None, **fields: Any) -> Scored:
    """A verdict: by default flagged from 0.5 on, with prompt_injection as the intent."""
    flagged = risk >= 0.5 if flagged is None else flagged
    intents = (("prompt_injection",) if flagged else ()) if intents is None else intents
    probabilities = {"prompt_injection": risk}
    return Scored(risk, probabilities, "review" if flagged else "allow", intents, **fields)


def figures(risks: list[float], labels: list[frozenset[str]], **settings: Any) -> dict[str, Any]:
    return evaluate([record(label) for label in labels], [said(risk) for risk in risks], **settings)


# --- records ------------------------------------------------------------------------------------


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


FULL = {
    "id": "a",
    "text": "hello \ud800 world",
    "context": {
        "system_prompt": "be kind",
        "source": "email",
        "user_role": None,
        "history": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "send", "description": "sends"}],
    },
    "labels": ["fraud", "tool_misuse"],
    "spans": [[0, 5, "fraud"], [6, 7]],
    "pair_id": "p",
    "factor": "source",
    "lang": "en",
    "origin": "us",
    "license": "CC0-1.0",
    "note": "unknown fields are ignored",
}


def test_reads_a_full_record(tmp_path: Path) -> None:
    (read,) = read_records([write(tmp_path / "set.jsonl", FULL, "", "  ")])
    assert read == Record(
        id="a",
        text="hello \ud800 world",
        context=Context(
            system_prompt="be kind", source="email", history=(Message("user", "hi"),), tools=(Tool("send", "sends"),)
        ),
        labels=frozenset({"fraud", "tool_misuse"}),
        spans=((0, 5, "fraud"), (6, 7, None)),
        pair_id="p",
        source_name="set",
        lang="en",
        factor="source",
        origin="us",
    )
    assert read.risky
    assert read.group == ("set", "p")
    assert "hello" not in repr(read)
    assert "kind" not in repr(read)


def test_reads_a_bare_record_and_knows_unmarked_from_none(tmp_path: Path) -> None:
    bare = {"id": "a", "text": "", "labels": []}
    one, two = read_records([write(tmp_path / "set.jsonl", bare, bare | {"id": "b", "spans": [], "context": None})])
    assert (one.context, one.spans, one.group, one.risky) == (Context(), None, None, False)
    assert two.spans == ()


def test_out_of_scope_is_not_risky() -> None:
    assert not record(OUT).risky
    assert record(ATTACK).risky


def test_folders_are_read_in_order_and_repeated_names_told_apart(tmp_path: Path) -> None:
    row = {"id": "a", "text": "x", "labels": []}
    write(tmp_path / "b" / "set.jsonl", row)
    write(tmp_path / "a" / "set.jsonl", row)
    write(tmp_path / "a" / "other.jsonl", row)
    write(tmp_path / "a" / "notes.txt", "no record")
    both = read_records([tmp_path, tmp_path / "a" / "set.jsonl"])
    assert [r.source_name for r in both] == ["other", "a/set", "b/set"]


def test_paths_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no"):
        read_records([tmp_path])
    with pytest.raises(InputError, match="neither"):
        read_records([tmp_path / "none"])
    for folder in ("x/a", "y/a"):
        write(tmp_path / folder / "set.jsonl", {"id": "a", "text": "", "labels": []})
    with pytest.raises(InputError, match="both called a/set"):
        read_records([tmp_path])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"id": 7}, "id"),
        ({"text": None}, "text"),
        ({"labels": None}, "labels"),
        ({"labels": "fraud"}, "labels"),
        ({"labels": ["secret words"]}, "labels"),
        ({"labels": [["fraud"]]}, "labels"),
        ({"labels": ["out_of_scope", "fraud"]}, "labels"),
        ({"context": "secret words"}, "context"),
        ({"context": {"source": "secret words"}}, "context"),
        ({"context": {"secret words": 1}}, "context"),
        ({"context": {"history": [{"role": "user"}]}}, "context"),
        ({"spans": "secret words"}, "spans"),
        ({"spans": [5]}, "spans"),
        ({"spans": [[0]]}, "spans"),
        ({"spans": [[3, 3]]}, "spans"),
        ({"spans": [[0, 99]]}, "spans"),
        ({"spans": [[True, 2]]}, "spans"),
        ({"spans": [[0, 2.0]]}, "spans"),
        ({"spans": [[0, 2, "secret words"]]}, "spans"),
        ({"pair_id": 3}, "pair_id"),
        ({"factor": []}, "factor"),
        ({"lang": 1}, "lang"),
        ({"id": "first"}, "id"),
    ],
)
def test_a_bad_row_says_where_and_which_field_and_never_the_text(
    tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    first = {"id": "first", "text": "x", "labels": []}
    path = write(tmp_path / "set.jsonl", first, FULL | {"text": "secret words"} | change)
    with pytest.raises(RecordError) as caught:
        read_records([path])
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, name)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[1]", "null", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_records([write(tmp_path / "set.jsonl", line)])
    assert (caught.value.line, caught.value.field) == (1, None)


def test_bytes_that_are_not_utf8_are_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "\xe2\x80\xa8", "labels": []}\n')
    assert read_records([path])[0].text == "\u2028"
    path.write_bytes(b'{"id": "a", "text": "\xff", "labels": []}\n')
    with pytest.raises(RecordError):
        read_records([path])


def test_a_limit_keeps_groups_whole_and_repeats(tmp_path: Path) -> None:
    grouped = [record(pair_id=f"g{i // 2}") for i in range(20)] + [record(source_name="b") for _ in range(3)]
    drawn = limit_per_source(grouped, 5, seed=1)
    assert drawn == limit_per_source(grouped, 5, seed=1)
    assert sum(r.source_name == "set" for r in drawn) == 4
    assert sum(r.source_name == "b" for r in drawn) == 3
    assert len({r.pair_id for r in drawn if r.source_name == "set"}) == 2
    assert [grouped.index(r) for r in drawn] == sorted(grouped.index(r) for r in drawn)
    with pytest.raises(InputError):
        limit_per_source(grouped, 0)


# --- asking -------------------------------------------------------------------------------------


class FakeGuard:
    """Says what a function of (text, context) says; raises what it returns if that is an exception."""

    def __init__(self, risk: Any) -> None:
        self.risk = risk
        self.asked = 0

    def analyze_many(self, pairs: Any) -> Any:
        self.asked += len(pairs)
        for text, context in pairs:
            value = self.risk(text, context)
            if isinstance(value, Exception):
                raise value
            yield SimpleNamespace(
                risk=value,
                probabilities=dict.fromkeys(INTENTS, 0.0) | {"prompt_injection": value},
                decision="block" if value >= 0.5 else "allow",
                intents=("prompt_injection",) if value >= 0.5 else (),
                spans=(SimpleNamespace(start=1, end=3),),
                model="fake@1",
            )


def test_score_keeps_order_and_reports_progress() -> None:
    guard = FakeGuard(lambda text, context: float(text))
    many = [record(text=str(i / 1000)) for i in range(600)]
    calls: list[tuple[int, int]] = []
    rows = score(guard, many, progress=lambda done, total: calls.append((done, total)))
    assert [row.risk for row in rows] == [i / 1000 for i in range(600)]
    assert rows[-1].decision == "block"
    assert (rows[0].decision, rows[0].spans, rows[0].model, rows[0].error) == ("allow", ((1, 3),), "fake@1", None)
    assert calls[-1] == (600, 600)
    assert guard.asked == 600


@pytest.mark.parametrize("bad", [RuntimeError("no"), float("nan"), 1.5])
def test_one_failure_costs_one_row(bad: Any) -> None:
    guard = FakeGuard(lambda text, context: bad if text == "bad" else 0.1)
    rows = score(guard, [record(text="fine"), record(text="bad"), record(text="fine")])
    assert [row.error is None for row in rows] == [True, False, True]
    assert rows[1].decision == "error"


def test_a_model_that_cannot_be_used_is_not_a_row() -> None:
    with pytest.raises(ModelNotFound):
        score(FakeGuard(lambda text, context: ModelNotFound("none")), [record()])


def test_rows_lost_by_the_guard_are_errors() -> None:
    assert score(SimpleNamespace(analyze_many=lambda pairs: []), [record()])[0].error == "ValueError"


# --- ranking ------------------------------------------------------------------------------------


def test_a_perfect_scorer() -> None:
    result = figures([0.9, 0.8, 0.1, 0.2], [ATTACK, ATTACK, BENIGN, OUT])
    overall = result["overall"]
    assert (overall["n"], overall["risky"], overall["benign"], overall["prevalence"]) == (4, 2, 2, 0.5)
    assert overall["auroc"]["value"] == overall["average_precision"] == 1.0
    assert all(part["value"] == 1.0 for part in overall["recall_at_fpr"].values())
    assert overall["recall"]["value"] == 1.0
    assert overall["false_alarm_rate"]["value"] == 0.0
    assert result["intents"]["each"]["prompt_injection"]["f1"] == 1.0


def test_auroc_and_average_precision_by_hand_with_ties() -> None:
    overall = figures([0.9, 0.4, 0.4, 0.1], [ATTACK, ATTACK, BENIGN, BENIGN])["overall"]
    # couples: .9 beats both, .4 ties with one and beats the other: 3.5 of 4
    assert overall["auroc"]["value"] == pytest.approx(3.5 / 4)
    # recall .5 at precision 1, then recall 1 at precision 2/3
    assert overall["average_precision"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_random_scorer_lies_around_a_half() -> None:
    generator = np.random.default_rng(0)
    labels = [ATTACK if risky else BENIGN for risky in generator.random(2000) < 0.5]
    overall = figures(generator.random(2000).tolist(), labels)["overall"]
    auroc = overall["auroc"]
    assert auroc["low"] < 0.5 < auroc["high"]
    assert auroc["high"] - auroc["low"] == pytest.approx(4 * 0.0129, rel=0.2)  # s.e. 1/sqrt(12 * 500)
    assert overall["recall_at_fpr"]["0.05"]["low"] < 0.05 < overall["recall_at_fpr"]["0.05"]["high"]


def test_one_class_only_gives_none_and_not_a_number() -> None:
    for labels in ([BENIGN, BENIGN], [ATTACK, ATTACK]):
        result = figures([0.1, 0.9], labels, prior=0.1)
        assert result["overall"]["auroc"] == {"value": None, "low": None, "high": None}
        assert result["overall"]["average_precision"] is None
        json.dumps(result, allow_nan=False)
    assert result["overall"]["false_alarm_rate"]["value"] is None
    assert result["overall"]["recall_at_fpr"]["0.01"]["value"] is None


def test_recall_at_false_positive_rate_takes_ties_together() -> None:
    # 100 benign: one at .8, two at .6, the rest at .1. At 1 % one may lie above: the threshold is .6,
    # and what equals it is not flagged. At 5 % five may: the threshold is .1.
    risks = [0.8, 0.6, 0.6, *[0.1] * 97, 0.9, 0.7, 0.6, 0.2, 0.1]
    result = figures(risks, [BENIGN] * 100 + [ATTACK] * 5)
    flag_above = result["settings"]["flag_above"]
    assert flag_above == {"0.001": 0.8, "0.005": 0.8, "0.01": 0.6, "0.05": 0.1}
    recalls = {rate: part["value"] for rate, part in result["overall"]["recall_at_fpr"].items()}
    assert recalls == {"0.001": 0.2, "0.005": 0.2, "0.01": 0.4, "0.05": 0.8}


def test_parts_use_the_pooled_threshold() -> None:
    noisy = [record(source_name="noisy") for _ in range(2)] + [record(ATTACK, source_name="noisy")]
    calm = [record(source_name="calm") for _ in range(98)] + [record(ATTACK, source_name="calm")]
    rows = [said(0.9), said(0.8), said(0.85)] + [said(0.1)] * 98 + [said(0.5)]
    result = evaluate(noisy + calm, rows)
    # one of 100 benign may lie above: threshold .8
    assert result["settings"]["flag_above"]["0.01"] == 0.8
    assert result["by"]["source"]["noisy"]["recall_at_fpr"]["0.01"]["value"] == 1.0
    assert result["by"]["source"]["calm"]["recall_at_fpr"]["0.01"]["value"] == 0.0
    assert [row["source"] for row in result["worst"]["false_alarm_rate"]] == ["noisy", "calm"]
    assert result["worst"]["false_alarm_rate"][0]["value"] == 1.0
    assert result["worst"]["recall"][0]["value"] == 1.0


def test_parts_by_language_length_channel_and_intent() -> None:
    records = [
        record(ATTACK, lang="en", text="x" * 63, context=Context(source="email")),
        record(lang="de", text="x" * 64, context=Context(source="user")),
        record(frozenset({"fraud"}), text="x" * 4096),
        record(OUT, lang="en", text="x" * 1024),
    ]
    by = evaluate(records, [said(0.9), said(0.2), said(0.1), said(0.6, flagged=False)])["by"]
    assert {name: part["n"] for name, part in by["lang"].items()} == {"de": 1, "en": 2, "unknown": 1}
    assert {name: part["n"] for name, part in by["length"].items()} == {
        "0-63": 1, "64-255": 1, "1024-4095": 1, "4096+": 1,
    }  # fmt: skip
    assert {name: part["n"] for name, part in by["channel"].items()} == {"email": 1, "user": 1, "unknown": 2}
    # a risky intent stands against all that is not risky
    assert (by["intent"]["fraud"]["n"], by["intent"]["fraud"]["auroc"]["value"]) == (3, 0.0)
    assert by["intent"]["prompt_injection"]["auroc"]["value"] == 1.0
    assert by["intent"]["out_of_scope"]["n"] == by["intent"]["benign"]["n"] == 1
    assert by["intent"]["out_of_scope"]["false_alarm_rate"]["value"] == 0.0


def test_intents_by_hand() -> None:
    records = [record(frozenset({"fraud", "jailbreak"})), record(frozenset({"fraud"})), record(OUT), record()]
    rows = [
        Scored(0.9, {"fraud": 0.9, "jailbreak": 0.2}, "block", ("fraud",)),
        Scored(0.8, {"fraud": 0.4}, "block", ("tool_misuse",)),
        Scored(0.1, {"fraud": 0.5, "out_of_scope": 0.8}, "allow", ("fraud", "out_of_scope")),
        Scored(0.1, {}, "allow", ()),
    ]
    intents = evaluate(records, rows)["intents"]
    fraud = intents["each"]["fraud"]
    assert (fraud["n"], fraud["precision"], fraud["recall"], fraud["f1"]) == (2, 0.5, 0.5, 0.5)
    assert fraud["auroc"] == pytest.approx(3 / 4)
    assert intents["each"]["jailbreak"]["f1"] == 0.0
    assert intents["each"]["out_of_scope"]["f1"] == 1.0
    assert intents["each"]["tool_misuse"]["f1"] is None
    assert (intents["macro_f1"], intents["macro_f1_over"]) == (pytest.approx(1.5 / 3), 3)
    assert intents["exact_labels"] == 0.25


# --- errors -------------------------------------------------------------------------------------


def test_errors_count_as_the_worst_verdict() -> None:
    records = [record(ATTACK), record(ATTACK), record(), record()]
    rows = [said(0.9), Scored.failed("Boom"), said(0.1), Scored.failed("Boom")]
    result = evaluate(records, rows)
    overall = result["overall"]
    assert (overall["n"], overall["errors"]) == (4, 2)
    assert overall["recall"]["value"] == 0.5
    assert overall["false_alarm_rate"]["value"] == 0.5
    assert overall["auroc"]["value"] == 0.25  # only the couple without an error is in order
    assert overall["recall_at_fpr"]["0.05"]["value"] == 0.0
    assert overall["exact_labels"]["value"] == 0.5
    assert result["calibration"]["brier"] == pytest.approx((0.01 + 1 + 0.01 + 1) / 4)
    assert [row["kind"] for row in most_confident_errors(records, rows)] == ["error", "error"]


def test_two_errors_in_a_group_do_not_tie() -> None:
    records = [record(ATTACK, pair_id="p"), record(pair_id="p")]
    overall = evaluate(records, [Scored.failed("Boom")] * 2)["groups"]["overall"]
    assert (overall["ranked"]["value"], overall["right"]["value"], overall["exact"]["value"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("records", "rows", "prior"),
    [([], [], None), ([record()], [], None), ([record()], [said(0.1)], 0.0), ([record()], [said(0.1)], 1.0),
     ([record()], [said(float("nan"))], None), ([record()], [said(1.1)], None)],
)  # fmt: skip
def test_unusable_arguments(records: list[Record], rows: list[Scored], prior: float | None) -> None:
    with pytest.raises(InputError):
        evaluate(records, rows, prior=prior)


# --- calibration --------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    risk = np.array([0.1, 0.3, 0.6, 0.8])
    risky = np.array([False, True, False, True])
    found = calibration(risk, risky, bins=2)
    # bins (.1, .3) with mean .2 and half risky, (.6, .8) with mean .7 and half risky
    assert found["ece"] == pytest.approx((0.3 + 0.2) / 2)
    assert found["mce"] == pytest.approx(0.3)
    assert found["brier"] == pytest.approx((0.01 + 0.49 + 0.36 + 0.04) / 4)
    assert [row["n"] for row in found["reliability"]] == [2, 2]
    assert found["effective_n"] == pytest.approx(4)


def test_calibration_at_a_prior_by_hand() -> None:
    # risky .5 of the set, .1 of the traffic: weights .1 and .9
    found = calibration(np.array([0.2, 0.8]), np.array([False, True]), prior=0.1, bins=1)
    assert found["brier"] == pytest.approx(0.04)
    assert found["ece"] == pytest.approx(abs(0.9 * 0.2 + 0.1 * 0.8 - 0.1))
    assert found["reliability"][0]["risky_share"] == pytest.approx(0.1)
    assert found["effective_n"] == pytest.approx(1 / (0.81 + 0.01))


def test_calibrated_and_constant_risks() -> None:
    assert calibration(np.full(10, 0.3), np.arange(10) < 3)["ece"] == pytest.approx(0.0)
    generator = np.random.default_rng(1)
    risk = generator.random(20_000)
    found = calibration(risk, generator.random(20_000) < risk)
    assert found["ece"] < 0.015
    assert len(found["reliability"]) == 15
    assert all(abs(row["mass"] - 1 / 15) < 1e-3 for row in found["reliability"])


def test_calibration_does_not_depend_on_order() -> None:
    risk = np.array([0.2] * 7 + [0.4] * 5 + [0.9])
    risky = np.array([True, False] * 6 + [True])
    turned = calibration(risk[::-1], risky[::-1], bins=4)
    assert turned["ece"] == pytest.approx(calibration(risk, risky, bins=4)["ece"])


# --- groups -------------------------------------------------------------------------------------


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


# --- intervals ----------------------------------------------------------------------------------


def test_clusters_are_drawn_whole() -> None:
    # 200 records in 4 groups that are all right or all wrong: the interval is that of four draws
    grouped = [record(ATTACK, pair_id=str(i % 4)) for i in range(200)]
    rows = [said(0.9 if i % 4 < 2 else 0.1) for i in range(200)]
    wide = evaluate(grouped, rows)["overall"]["recall"]
    narrow = evaluate([replace(r, pair_id=None) for r in grouped], rows)["overall"]["recall"]
    assert wide["value"] == narrow["value"] == 0.5
    assert (wide["low"], wide["high"]) == (0.0, 1.0)
    assert narrow["high"] - narrow["low"] == pytest.approx(2 * 1.96 * 0.0354, rel=0.25)


def test_a_rate_of_zero_or_one_has_wilsons_interval() -> None:
    overall = figures([0.1] * 96 + [0.9], [BENIGN] * 96 + [ATTACK])["overall"]
    z2 = 1.959964**2
    assert overall["false_alarm_rate"]["low"] == 0.0
    assert overall["false_alarm_rate"]["high"] == pytest.approx(z2 / (96 + z2))
    assert overall["recall"]["low"] == pytest.approx(1 / (1 + z2))
    assert overall["recall"]["high"] == 1.0


def test_seeds_and_no_bootstrap() -> None:
    labels = [ATTACK, BENIGN] * 20
    risks = [(i * 7 % 40) / 40 for i in range(40)]
    records = [record(label) for label in labels]
    rows = [said(risk) for risk in risks]
    assert evaluate(records, rows, seed=1) == evaluate(records, rows, seed=1)
    assert evaluate(records, rows, seed=1) != evaluate(records, rows, seed=2)
    without = evaluate(records, rows, bootstrap=0)
    assert without["overall"]["auroc"]["low"] is without["overall"]["recall"]["low"] is None
    assert without["overall"]["auroc"]["value"] == evaluate(records, rows)["overall"]["auroc"]["value"]
    json.dumps(without, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30))
def test_weighted_auroc_is_that_of_repeated_records(rows: list[tuple[int, bool, int]]) -> None:
    rank = np.array([value / 5 for value, _, _ in rows])
    risky = np.array([flag for _, flag, _ in rows])
    weights = np.array([weight for _, _, weight in rows], dtype=np.uint8)
    (found,) = quality._auroc_replicates(rank, risky, weights[None, :])
    repeated = np.repeat(risky, weights)
    if repeated.any() and not repeated.all():
        assert found == pytest.approx(roc_auc_score(repeated, np.repeat(rank, weights)))
    else:
        assert np.isnan(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=60), st.floats(0.001, 0.5))
def test_a_threshold_never_passes_its_rate_and_could_not_be_lower(rows: list[tuple[int, int]], rate: float) -> None:
    ranks = np.repeat([float(value) for value, _ in rows], [weight for _, weight in rows])
    once = np.array([[weight for _, weight in rows]], dtype=np.uint8)
    (threshold,) = quality._thresholds(np.array([float(value) for value, _ in rows]), once, rate)
    if not len(ranks):
        assert np.isnan(threshold)
        return
    assert (ranks > threshold).mean() <= rate + 1e-9
    assert (ranks >= threshold).mean() > rate - 1e-9


def test_twenty_thousand_records_take_seconds() -> None:
    generator = np.random.default_rng(3)
    labels = [frozenset({INTENTS[i % 9]}) if i % 2 else BENIGN for i in range(20_000)]
    records = [record(label, source_name=f"s{i % 20}", pair_id=f"p{i // 2}") for i, label in enumerate(labels)]
    rows = [said(float(risk)) for risk in generator.random(20_000)]
    started = time.perf_counter()
    evaluate(records, rows, bootstrap=50)
    assert time.perf_counter() - started < 30  # about 1.5 s; 1,000 replicates take less than a minute


# --- spans --------------------------------------------------------------------------------------


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
    merged = quality._merged(spans)
    assert {c for a, b in merged for c in range(a, b)} == {c for a, b in spans for c in range(a, b)}
    assert all(one[1] < two[0] for one, two in itertools.pairwise(merged))


# --- context ------------------------------------------------------------------------------------

RICH = Context(
    system_prompt="prompt",
    source="email",
    user_role="clerk",
    history=(Message("user", "hi"),),
    tools=(Tool("send"),),
    purpose="help",
    application="shop",
)


@pytest.mark.parametrize("name", quality.CONTEXT_FIELDS)
def test_ablate_takes_one_field(name: str) -> None:
    (bare,) = ablate([record(ATTACK, context=RICH)], name)
    emptied = {name: getattr(Context(), name)} | ({"purpose": None} if name == "system_prompt" else {})
    assert bare.context == replace(RICH, **emptied)
    assert bare.labels == ATTACK


def test_ablate_all_keeps_only_the_opaque_ids() -> None:
    untouched = record()
    bare, same = ablate([record(context=RICH), untouched], "all")
    assert bare.context == Context(application="shop")
    assert same is untouched


def test_swap_gives_everybody_another_value_where_it_can() -> None:
    records = [record(context=Context(user_role=role)) for role in ("a", "a", "b", "b", "c")] + [record()]
    for seed in range(20):
        swapped = swap(records, "user_role", seed)
        assert sorted(str(r.context.user_role) for r in swapped[:5]) == ["a", "a", "b", "b", "c"]
        assert all(old.context != new.context for old, new in zip(records[:5], swapped[:5], strict=True))
        assert swapped[5] is records[5]
    assert swap(records, "user_role", 3) == swap(records, "user_role", 3)


def test_swap_with_a_value_that_fills_most_places_or_all() -> None:
    most = [record(context=Context(source=source)) for source in ("user", "user", "user", "email")]
    assert sorted(str(r.context.source) for r in swap(most, "source")) == ["email", "user", "user", "user"]
    assert sum(old is not new for old, new in zip(most, swap(most, "source"), strict=True)) == 2
    assert swap(most[:1], "source") == most[:1]
    assert swap([], "all") == []


def test_unknown_fields_are_refused() -> None:
    for call in (ablate, swap):
        with pytest.raises(InputError):
            call([record()], "purpose")


def contextual() -> list[Record]:
    roles = {"admin": BENIGN, "visitor": ATTACK}
    return [
        record(label, text=f"t{i}", pair_id=str(i), factor="user_role", context=Context(user_role=role))
        for i in range(10)
        for role, label in roles.items()
    ]


def test_ablations_show_what_the_context_does() -> None:
    guard = FakeGuard(lambda text, context: {"admin": 0.1, "visitor": 0.9, None: 0.5}[context.user_role])
    records = contextual()
    full = score(guard, records)
    guard.asked = 0
    found = quality.ablations(guard, records, full, fields=("user_role", "tools"))
    assert guard.asked == 40  # nothing has tools, so nothing more is scored again
    assert found["full"]["auroc"] == found["full"]["groups"]["right"] == 1.0
    withheld = found["withheld"]["user_role"]
    assert (withheld["auroc"], withheld["groups"]["ranked"], withheld["groups"]["right"]) == (0.5, 0.5, 0.0)
    assert withheld["changed"]["n"] == 20
    assert withheld["changed"]["verdicts_moved"] == 0.5
    assert withheld["changed"]["mean_risk_moved"] == pytest.approx(0.4)
    assert found["swapped"]["user_role"]["auroc"] == 0.0
    assert found["withheld"]["tools"]["changed"]["n"] == 0
    assert found["withheld"]["tools"]["auroc"] == 1.0


# --- reading and printing -----------------------------------------------------------------------


def test_most_confident_errors_hide_texts_unless_asked() -> None:
    records = [record(ATTACK, text="private"), record(ATTACK), record(), record(), record(source_name="a")]
    rows = [said(0.3), said(0.1), said(0.8), said(0.1), said(0.7)]
    found = most_confident_errors(records, rows)
    assert [(row["id"], row["kind"]) for row in found] == [
        (records[4].id, "false_alarm"),
        (records[1].id, "miss"),
        (records[2].id, "false_alarm"),
        (records[0].id, "miss"),
    ]
    assert "private" not in json.dumps(found)
    assert len(most_confident_errors(records, rows, per_source=1)) == 2
    shown = most_confident_errors(records, rows, texts=True)
    assert shown[3]["text"] == "private"
    json.dumps(shown)


def test_the_table_holds_every_part() -> None:
    records = [*contextual(), record(ATTACK, spans=((0, 4, None),)), record(spans=())]
    guard = FakeGuard(lambda text, context: 0.9 if context.user_role == "visitor" else 0.2)
    full = score(guard, records)
    result = evaluate(records, full, prior=0.05)
    assert "withheld" not in table(result)
    result["ablations"] = quality.ablations(guard, records, full)
    text = table(result)
    for part in ("fake@1", "pooled benign", "| overall", "| channel", "| out_of_scope", "ECE", "Brier",
                 "factor: user_role", "contains 90 %", "user_role withheld", "all swapped"):  # fmt: skip
        assert part in text
    assert text.endswith("\n")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_table_of_a_small_set() -> None:
    assert "| groups" not in table(figures([0.1], [BENIGN], bootstrap=0))


def test_provenance_says_when_where_and_with_what() -> None:
    found = quality.provenance(
        ["evaluate.py", "--data", "/somewhere/else/set.jsonl", "--out=/deep/down/x.json", "--n", "3"]
    )
    assert found["command"] == "evaluate.py --data set.jsonl --out=x.json --n 3"
    assert set(found) == {"date", "command", "machine", "commit", "dirty", "versions"}
    assert {"python", "numpy", "promptguard"} <= set(found["versions"])
    assert found["machine"]["cpu"]
    json.dumps(found)


def test_provenance_without_git_and_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def refuse(path: Path, *rest: Any, **more: Any) -> str:
        if path.name == "cpuinfo":
            raise OSError(path)
        return read_text(path, *rest, **more)

    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "read_text", refuse)
    found = quality.provenance([])
    assert found["commit"] is found["dirty"] is None
    assert found["machine"]["cpu"]


@pytest.mark.parametrize("module", ["quality", "baselines"])
def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    name = f"promptguard.bench.{module}"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"\[bench\]"):
        importlib.import_module(name)


# --- baselines ----------------------------------------------------------------------------------


def shortcut(n: int, seed: int) -> list[Record]:
    """Records whose words give the label away, while length and context do not."""
    generator = random.Random(seed)  # noqa: S311 - made-up texts
    filler = ["please", "summarise", "this", "order", "invoice", "thanks", "today"]
    made = []
    for i in range(n):
        words = generator.choices(filler, k=8) + (["ignore", "everything"] if i % 2 else ["consider", "everything"])
        made.append(record(ATTACK if i % 2 else BENIGN, text=" ".join(words), context=Context(source="user")))
    return made


def test_baselines_find_the_shortcut_that_is_there() -> None:
    found = baselines(shortcut(200, 1), shortcut(100, 2), bootstrap=0)
    assert list(found) == list(BASELINES)
    auroc = {name: result["overall"]["auroc"]["value"] for name, result in found.items()}
    assert auroc["keywords"] == auroc["words of the text"] == auroc["words of both"] == 1.0
    assert auroc["words of the context"] == 0.5
    assert auroc["length"] < 0.9
    assert found["words of the text"]["intents"]["each"]["prompt_injection"]["f1"] == 1.0
    assert found["words of the text"]["overall"]["false_alarm_rate"]["value"] == 0.0
    assert found["keywords"]["settings"]["model"] == "baseline:keywords"


def test_the_context_baseline_reads_every_field() -> None:
    train = contextual() + [replace(r, id=r.id + "x", pair_id=f"x{r.pair_id}") for r in contextual()]
    assert (
        baselines(train, contextual(), names=["words of the context"], bootstrap=0)["words of the context"]["overall"][
            "auroc"
        ]["value"]
        == 1.0
    )
    assert fit("words of both", train).score([]) == []


def test_baselines_refuse_what_they_cannot_fit() -> None:
    with pytest.raises(InputError, match="one of"):
        fit("magic", shortcut(10, 1))
    with pytest.raises(InputError, match="both kinds"):
        fit("length", [record(ATTACK)] * 10)
    with pytest.raises(InputError, match="no word"):
        fit("words of the text", [record(ATTACK if i % 2 else BENIGN, text=f"word{i}") for i in range(40)])


# --- the script ---------------------------------------------------------------------------------


def test_the_script_writes_figures_with_their_circumstances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": str(i), "text": "attack" if i % 2 else "greeting", "labels": ["prompt_injection"] if i % 2 else []}
        for i in range(8)
    ]
    rows.append({"id": "miss", "text": "greeting", "labels": ["fraud"], "context": {"user_role": "clerk"}})
    guard = FakeGuard(lambda text, context: 0.9 if text == "attack" else 0.1)
    asked: list[Any] = []

    def make(*bundle: str, mode: str) -> Any:
        asked.append((bundle, mode))
        return guard

    guard.prior = 0.05  # type: ignore[attr-defined]
    monkeypatch.setattr("promptguard.Guard", make, raising=False)
    data, out, errors = write(tmp_path / "set.jsonl", *rows), tmp_path / "out.json", tmp_path / "errors.jsonl"
    arguments = ["evaluate.py", "--data", str(data), "--model", "bundle", "--out", str(out), "--errors", str(errors)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--mode", "strict", "--ablations", "--bootstrap", "20"])
    script = Path(__file__).parents[2] / "scripts" / "evaluate.py"
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(script), run_name="__main__")
    assert done.value.code == 0
    assert asked == [(("bundle",), "strict")]
    result = json.loads(out.read_text())
    assert (result["overall"]["n"], result["settings"]["prior"], result["settings"]["mode"]) == (9, 0.05, "strict")
    assert result["provenance"]["records"] == {"set": 9}
    assert str(tmp_path) not in out.read_text()
    assert result["ablations"]["withheld"]["user_role"]["changed"]["n"] == 1
    assert [json.loads(line)["id"] for line in errors.read_text().splitlines()] == ["miss"]
    shown = capsys.readouterr()
    assert "| overall" in shown.out
    assert "9 of 9" in shown.err


def test_the_script_says_what_is_wrong_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptguard.Guard", None, raising=False)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(tmp_path), "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match=r"evaluate: .* holds no"):
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "evaluate.py"), run_name="__main__")
