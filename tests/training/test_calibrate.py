"""Calibration: weights add up to the prior, thresholds keep their rate, constants are those of the data."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the bench extra")

from promptguard.fusion import Fusion
from promptguard.intents import INTENTS
from promptguard.policy import Thresholds
from promptguard.training import calibrate as module
from promptguard.types import Analysis, Coverage, Decision, Reason, Signal


def record(name: str, family: str, labels: list[str], **context: str) -> dict[str, object]:
    return {"source": name, "family": family, "labels": labels, "context": context}


def analysis(logit: float) -> Analysis:
    scores = dict.fromkeys(INTENTS, logit) | {"risk": logit, "any_intent": logit, "log_windows": 0.0}
    return Analysis(
        intents=(),
        risk=0.0,
        probabilities={},
        decision=Decision.ALLOW,
        reason=Reason.BELOW_THRESHOLD,
        spans=(),
        signals={"classifier": Signal("classifier", scores)},
        coverage=Coverage(0, 0, 0, 1),
        references=(),
        model="test",
        text="",
    )


def traffic(count: int) -> tuple[list[dict[str, object]], list[Analysis]]:
    """Logits for which the true log-odds of risk at equal shares are 2 * logit."""
    generator = random.Random(4)
    records, analyses = [], []
    for i in range(count):
        risky = i % 2 == 0
        logit = generator.gauss(1.0 if risky else -1.0, 1.0)
        labels = ["fraud"] if risky else []
        records.append(record(f"s{i % 4}", "attacks" if risky else "benign", labels))
        analyses.append(analysis(logit))
    return records, analyses


def test_weights_give_the_prior_and_equal_sources() -> None:
    records = [record("a", "attacks", ["fraud"])] * 150 + [record("b", "attacks", ["fraud"])] * 50
    records += [record("c", "benign", [])] * 250 + [record("d", "benign", [])] * 50
    records += [record("everyday", "neighbours", [])]
    weight = module.weights(records, prior=0.2)
    assert weight[:200].sum() == pytest.approx(0.2)
    assert weight[200:].sum() == pytest.approx(0.8)
    assert weight[:150].sum() == pytest.approx(weight[150:200].sum())
    assert weight[200:450].sum() == pytest.approx(weight[450:500].sum())


def test_a_text_of_a_small_source_weighs_no_more_than_others() -> None:
    records = [record("a", "attacks", ["fraud"])] * 50
    records += [record("c", "benign", [])] * 50 + [record("tiny", "benign", [])]
    weight = module.weights(records)
    assert weight[-1] == pytest.approx(weight[-2])


def test_contrast_does_not_count_in_thresholds() -> None:
    assert module.kind(record("pairs", "contextual", [])) == "contrast"
    assert module.kind(record("traffic", "contextual", [])) == "applications"
    assert module.kind(record("tldr", "benign", [], source="web")) == "content"
    records = [record("a", "attacks", ["fraud"]), record("pairs", "contextual", []), record("b", "benign", [])]
    assert module.weights(records, contrast=0.0)[1] == 0


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
def test_quantile_never_exceeds_its_share(share: float) -> None:
    generator = np.random.default_rng(1)
    values, weight = generator.random(5000).round(3), generator.random(5000)
    threshold = module.quantile(values, weight, share)
    assert weight[values >= threshold].sum() <= share * weight.sum() + 1e-9
    lower = values[values < threshold].max()
    assert weight[values >= lower].sum() > share * weight.sum()


def test_calibrated_risk_is_the_share_of_risky_traffic() -> None:
    records, analyses = traffic(8000)
    fitted = module.calibrate(records, analyses, similarity=False)
    fusion = Fusion.from_mapping(fitted["fusion"])
    shift = math.log(module.PRIOR / (1 - module.PRIOR))
    for logit in (-1.5, 0.0, 1.5):
        _, risk = fusion.fuse(analysis(logit).signals, 0.0)
        assert math.log(risk / (1 - risk)) == pytest.approx(2 * logit + shift, abs=0.4)
    Thresholds.from_mapping(fitted["thresholds"])
    assert fitted["calibration"]["flagged_ordinary"] <= 0.01


def test_sources_alike_keep_the_rate_of_each_mode() -> None:
    generator = np.random.default_rng(2)
    records = [record(f"s{i % 6}", "benign", []) for i in range(6000)] + [record("a", "attacks", ["fraud"])] * 10
    records += [record("pairs", "contextual", [])] * 500
    alike = np.concatenate([generator.random(6000), np.ones(510)])
    found = module.across_sources(records, alike)["strict"]
    assert set(found["by_kind"]) == {"messages"}
    assert found["ratio"] == pytest.approx(1.0, abs=0.2)


def test_across_sources_leaves_whole_sources_out() -> None:
    # The one source with high risks: no threshold was fitted on it, so all of it is flagged.
    records = [record("calm", "benign", [])] * 50 + [record("loud", "benign", [], source="email")] * 50
    records += [record("loud", "benign", [])] * 10 + [record("a", "attacks", ["fraud"])]
    risk = np.array([0.1] * 50 + [0.9] * 60 + [1.0])
    found = module.across_sources(records, risk)
    assert found["low-alarm"]["by_kind"] == {"content": 1.0, "messages": round(10 / 60, 4)}
    assert (found["strict"]["kind"], found["strict"]["ratio"]) == ("content", 20.0)
    assert module.across_sources(records[:50] + records[-1:], risk[:51]) == {}
