"""The figures of the quality benchmark against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made import ATTACK, BENIGN, OUT, figures, record, said

from promptguard.bench.calibration_error import calibration
from promptguard.bench.mistakes import most_confident_errors
from promptguard.bench.quality import evaluate
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.errors import InputError
from promptguard.types import Context


def test_a_perfect_scorer() -> None:
    result = figures([0.9, 0.8, 0.1, 0.2], [ATTACK, ATTACK, BENIGN, OUT])
    overall = result["overall"]
    assert (overall["n"], overall["risky"], overall["benign"], overall["prevalence"]) == (4, 2, 2, 0.5)
    assert overall["auroc"]["value"] == overall["average_precision"]["value"] == 1.0
    assert all(part["value"] == 1.0 for part in overall["recall_at_fpr"].values())
    assert overall["recall"]["value"] == 1.0
    assert overall["false_alarm_rate"]["value"] == 0.0
    assert result["intents"]["each"]["prompt_injection"]["f1"] == 1.0


def test_auroc_and_average_precision_by_hand_with_ties() -> None:
    overall = figures([0.9, 0.4, 0.4, 0.1], [ATTACK, ATTACK, BENIGN, BENIGN])["overall"]
    # couples: .9 beats both, .4 ties with one and beats the other: 3.5 of 4
    assert overall["auroc"]["value"] == pytest.approx(3.5 / 4)
    # recall .5 at precision 1, then recall 1 at precision 2/3
    assert overall["average_precision"]["value"] == pytest.approx(0.5 + 0.5 * 2 / 3)


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
        assert result["overall"]["average_precision"]["value"] is None
        assert result["calibration"]["ece"] == {"value": None, "low": None, "high": None}
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
    assert fraud["auroc"]["value"] == pytest.approx(3 / 4)
    assert fraud["average_precision"]["value"] == pytest.approx(0.5 + 0.5 * 2 / 3)  # ranked 1 and 3 of 4
    assert fraud["average_precision"]["low"] < fraud["average_precision"]["high"] == 1.0
    assert intents["each"]["jailbreak"]["f1"] == 0.0
    assert intents["each"]["out_of_scope"]["f1"] == 1.0
    assert intents["each"]["tool_misuse"]["f1"] is None
    assert (intents["macro_f1"], intents["macro_f1_over"]) == (pytest.approx(1.5 / 3), 3)
    assert intents["exact_labels"] == 0.25


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


def test_calibration_by_hand() -> None:
    risk = np.array([0.1, 0.3, 0.6, 0.8])
    risky = np.array([False, True, False, True])
    found = calibration(risk, risky, bins=2)
    # bins (.1, .3) with mean .2 and half risky, (.6, .8) with mean .7 and half risky
    assert found["ece"]["value"] == pytest.approx((0.3 + 0.2) / 2)
    assert found["mce"] == pytest.approx(0.3)
    assert found["brier"] == pytest.approx((0.01 + 0.49 + 0.36 + 0.04) / 4)
    assert [row["n"] for row in found["reliability"]] == [2, 2]
    assert found["effective_n"] == pytest.approx(4)


def test_calibration_at_a_prior_by_hand() -> None:
    # risky .5 of the set, .1 of the traffic: weights .1 and .9
    found = calibration(np.array([0.2, 0.8]), np.array([False, True]), prior=0.1, bins=1)
    assert found["brier"] == pytest.approx(0.04)
    assert found["ece"]["value"] == pytest.approx(abs(0.9 * 0.2 + 0.1 * 0.8 - 0.1))
    assert found["reliability"][0]["risky_share"] == pytest.approx(0.1)
    assert found["effective_n"] == pytest.approx(1 / (0.81 + 0.01))


def test_calibrated_and_constant_risks() -> None:
    assert calibration(np.full(10, 0.3), np.arange(10) < 3)["ece"]["value"] == pytest.approx(0.0)
    generator = np.random.default_rng(1)
    risk = generator.random(20_000)
    found = calibration(risk, generator.random(20_000) < risk)
    assert found["ece"]["value"] < 0.015
    assert len(found["reliability"]) == 15
    assert all(abs(row["mass"] - 1 / 15) < 1e-3 for row in found["reliability"])


def test_calibration_does_not_depend_on_order() -> None:
    risk = np.array([0.2] * 7 + [0.4] * 5 + [0.9])
    risky = np.array([True, False] * 6 + [True])
    turned = calibration(risk[::-1], risky[::-1], bins=4)
    assert turned["ece"]["value"] == pytest.approx(calibration(risk, risky, bins=4)["ece"]["value"])
