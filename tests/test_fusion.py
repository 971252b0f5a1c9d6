from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptguard.fusion import Fusion, log_odds, logistic, shifted
from promptguard.intents import INTENTS
from promptguard.types import Signal

numbers = st.floats(-50, 50)


def constants(**risk: Any) -> dict[str, Any]:
    plain = {name: {"weights": {f"classifier.{name}": 1.0}, "bias": 0.0} for name in INTENTS}
    return {**plain, "risk": {"weights": risk.get("weights", {}), "bias": risk.get("bias", 0.0)}}


def signal(name: str, **scores: float) -> dict[str, Signal]:
    return {name: Signal(name, scores)}


def test_a_probability_is_the_logistic_of_the_weighted_sum() -> None:
    fusion = Fusion.from_mapping(constants(weights={"classifier.risk": 0.5, "surface.hidden": -2.0}, bias=0.25))
    signals = signal("classifier", risk=3.0, fraud=1.5) | signal("surface", hidden=1.0, unused=99.0)
    probabilities, risk = fusion.fuse(signals, 0.0)
    assert risk == pytest.approx(1 / (1 + math.exp(-(0.25 + 0.5 * 3 - 2 * 1))))
    assert probabilities["fraud"] == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert probabilities["jailbreak"] == 0.5
    assert tuple(probabilities) == INTENTS


def test_a_detector_that_did_not_run_adds_nothing() -> None:
    fusion = Fusion.from_mapping(constants(weights={"classifier.risk": 1.0, "similarity.margin": 5.0}, bias=-1.0))
    alone = fusion.fuse(signal("classifier", risk=2.0), 0.0)
    silent = fusion.fuse(signal("classifier", risk=2.0) | {"similarity": Signal("similarity", None)}, 0.0)
    assert alone == silent
    assert fusion.fuse({}, 0.0)[1] == logistic(-1.0)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), numbers)
def test_the_prior_shifts_odds_by_its_own_odds(was: float, wanted: float, logit: float) -> None:
    fusion = Fusion.from_mapping(constants(weights={"classifier.risk": 1.0}))
    shift = log_odds(wanted) - log_odds(was)
    _, risk = fusion.fuse(signal("classifier", risk=logit), shift)
    likelihood = math.exp(logit) * (1 - was) / was  # Bayes: odds = likelihood ratio times prior odds
    odds = likelihood * wanted / (1 - wanted)
    assert risk == pytest.approx(odds / (1 + odds), rel=1e-9)
    assert shifted(logistic(logit), shift) == pytest.approx(risk, rel=1e-6, abs=1e-12)


@given(numbers, numbers)
def test_more_of_a_risky_signal_never_lowers_the_risk(one: float, two: float) -> None:
    fusion = Fusion.from_mapping(constants(weights={"classifier.risk": 0.7}))
    low, high = (fusion.fuse(signal("classifier", risk=x), 0.0)[1] for x in sorted((one, two)))
    assert low <= high


@given(st.floats(-1e308, 1e308))
def test_the_logistic_never_overflows(x: float) -> None:
    assert 0 <= logistic(x) <= 1
    assert logistic(x) + logistic(-x) == pytest.approx(1)


@given(st.floats(1e-9, 1 - 1e-9))
def test_log_odds_undo_the_logistic(p: float) -> None:
    assert logistic(log_odds(p)) == pytest.approx(p, rel=1e-6)


def test_shifting_keeps_certainty_and_changes_nothing_at_zero() -> None:
    assert (shifted(0.0, 3.0), shifted(1.0, -3.0)) == (0.0, 1.0)
    assert shifted(0.1, 0.0) == 0.1
    assert shifted(0.5, math.log(3)) == pytest.approx(0.75)


@pytest.mark.parametrize("damage", [
    lambda c: c.pop("risk"),
    lambda c: c.pop("fraud"),
    lambda c: c["fraud"].pop("bias"),
    lambda c: c["fraud"].update(bias="high"),
    lambda c: c["fraud"].update(weights={"classifier.fraud": "much"}),
])  # fmt: skip
def test_constants_that_are_missing_or_no_numbers(damage: Any) -> None:
    mapping = constants()
    damage(mapping)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Fusion.from_mapping(mapping)
