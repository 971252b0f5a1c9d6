"""Intervals: clusters, extreme rates, and the fast ways against the slow ones."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import ATTACK, BENIGN, figures, record, said
from sklearn.metrics import average_precision_score, roc_auc_score

from promptguard.bench.calibration_error import calibration
from promptguard.bench.intervals import thresholds_at
from promptguard.bench.quality import evaluate
from promptguard.bench.ranking import auroc_replicates, average_precision_replicates
from promptguard.intents import INTENTS


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
    (found,) = auroc_replicates(rank, risky, weights[None, :])
    repeated = np.repeat(risky, weights)
    if repeated.any() and not repeated.all():
        assert found == pytest.approx(roc_auc_score(repeated, np.repeat(rank, weights)))
    else:
        assert np.isnan(found)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30))
def test_weighted_average_precision_is_that_of_repeated_records(rows: list[tuple[int, bool, int]]) -> None:
    rank = np.array([value / 5 for value, _, _ in rows])
    risky = np.array([flag for _, flag, _ in rows])
    weights = np.array([weight for _, _, weight in rows], dtype=np.uint8)
    (found,) = average_precision_replicates(rank, risky, weights[None, :])
    repeated = np.repeat(risky, weights)
    if repeated.any() and not risky.all():
        assert found == pytest.approx(average_precision_score(repeated, np.repeat(rank, weights)))
    else:
        assert np.isnan(found)


def test_the_interval_of_the_calibration_error_holds_the_true_error() -> None:
    # Risks that are .1 too high everywhere. The plain estimate lies above .1: gaps of 15 bins add up their noise.
    generator = np.random.default_rng(4)
    risk = generator.uniform(0.1, 1.0, 600)
    weights = generator.multinomial(600, np.full(600, 1 / 600), size=300).astype(np.uint8)
    inside = 0
    for _ in range(20):
        ece = calibration(risk, generator.random(600) < risk - 0.1, replicates=weights)["ece"]
        inside += ece["low"] <= 0.1 <= ece["high"]
    assert inside >= 16
    assert calibration(risk, generator.random(600) < risk, prior=0.1)["ece"]["low"] is None


def test_a_replicate_without_one_class_says_nothing_of_the_calibration() -> None:
    weights = np.array([[2, 0], [1, 1], [1, 1]], dtype=np.uint8)
    found = calibration(np.array([0.2, 0.8]), np.array([False, True]), prior=0.1, bins=1, replicates=weights)
    assert found["ece"]["low"] == found["ece"]["high"] == pytest.approx(found["ece"]["value"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=60), st.floats(0.001, 0.5))
def test_a_threshold_never_passes_its_rate_and_could_not_be_lower(rows: list[tuple[int, int]], rate: float) -> None:
    ranks = np.repeat([float(value) for value, _ in rows], [weight for _, weight in rows])
    once = np.array([[weight for _, weight in rows]], dtype=np.uint8)
    (threshold,) = thresholds_at(np.array([float(value) for value, _ in rows]), once, rate)
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
