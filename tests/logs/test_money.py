from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("scipy")

from promptguard import InputError
from promptguard.intents import INTENTS
from promptguard.logs.money import EXAMPLE, Impact, Ledger, Prices, cost

TABLE = {
    "example": False,
    "currency": "EUR",
    "prior": 0.1,
    "tokens": {"big*": {"input": 10, "output": 20}, "*": {"input": 1, "output": 2}},
    "impact": {"fraud": {"loss": 1000, "succeeds": 0.5}},
}


def ledger(risk: list[float], fraud: list[float], flagged: list[bool], spend: list[float], groups: int = 50) -> Ledger:
    chances = np.full((len(risk), len(INTENTS) + 1), 1e-6)
    chances[:, INTENTS.index("fraud")], chances[:, -1] = fraud, risk
    kept = Ledger()
    kept.add(np.arange(len(risk)) % groups, np.array(flagged), chances, np.array(spend))
    return kept


def test_the_example_says_that_it_is_one() -> None:
    assert Prices.load().example
    assert EXAMPLE.read_text(encoding="utf-8").startswith("# EXAMPLE FIGURES. NOT YOURS.")
    assert set(Prices.load().impact) == set(INTENTS)


def test_cost_is_by_the_first_pattern_that_fits() -> None:
    rows = pa.table(
        {
            "model": pa.array(["BIG-1", "small", None, "big-1", "big-1"], pa.string()),
            "input_tokens": pa.array([1_000_000, 1_000_000, 1_000_000, None, None], pa.int64()),
            "output_tokens": pa.array([1_000_000, 0, None, 500_000, None], pa.int64()),
        }
    )
    assert cost(rows, Prices.from_mapping(TABLE)).to_pylist() == [30, 1, 1, 10, None]
    only_big = Prices.from_mapping({"tokens": {"big*": {"input": 10, "output": 20}}})
    assert cost(rows, only_big).to_pylist() == [30, None, None, 10, None]


def test_expected_loss_is_probability_times_share_times_loss() -> None:
    rows = ledger([0.5] * 100, [0.25] * 100, [True] * 60 + [False] * 40, [0.0] * 100)
    money = rows.figures(Prices.from_mapping(TABLE), scan_prior=0.1)
    fraud = money["loss"]["by_intent"]["fraud"]
    assert fraud["attempts"]["value"] == pytest.approx(25, rel=0.01)
    assert fraud["flagged"]["value"] == pytest.approx(60 * 0.25 * 0.5 * 1000, rel=0.01)
    assert fraud["allowed"]["value"] == pytest.approx(40 * 0.25 * 0.5 * 1000, rel=0.01)
    assert money["loss"]["flagged"]["value"] == pytest.approx(fraud["flagged"]["value"])
    assert "flagged" not in money["loss"]["by_intent"]["jailbreak"]  # it has no impact in the file


def test_probabilities_are_corrected_for_the_prior() -> None:
    rows = ledger([0.5] * 100, [0.5] * 100, [True] * 100, [1.0] * 100)
    money = rows.figures(Prices.from_mapping({**TABLE, "prior": 0.01}), scan_prior=0.1)
    expected = (0.01 / 0.99) / (0.1 / 0.9)  # odds of 1 become this
    assert money["risky_rows"]["value"] == pytest.approx(100 * expected / (1 + expected), rel=0.01)
    assert money["spend"]["abuse"]["value"] == pytest.approx(money["risky_rows"]["value"])
    assert money["prior"] == {"scan": 0.1, "stated": True, "used": {"value": 0.01, "low": 0.01, "high": 0.01}}


@pytest.mark.parametrize("share", [0.003, 0.02, 0.3])
def test_the_share_of_risky_traffic_is_recovered(share: float) -> None:
    """A draw of either normal is its own log-likelihood ratio, so that the risks are calibrated by construction."""
    draw = np.random.default_rng(0)
    risky = draw.random(40_000) < share
    ratio = draw.normal(np.where(risky, 2.0, -2.0), 2.0)  # its own log-likelihood ratio
    at_scan = 1 / (1 + np.exp(-(ratio + np.log(0.1 / 0.9))))
    rows = ledger(at_scan.tolist(), at_scan.tolist(), [False] * 40_000, [0.0] * 40_000)
    used = rows.figures(Prices.from_mapping({**TABLE, "prior": None}), scan_prior=0.1)["prior"]["used"]
    assert used["low"] <= risky.mean() <= used["high"]
    assert used["value"] == pytest.approx(risky.mean(), rel=0.4)


def test_intervals_widen_where_one_actor_has_it_all() -> None:
    even = ledger([0.9] * 50, [0.9] * 50, [True] * 50, [1.0] * 50)
    one = ledger([0.9] + [1e-6] * 49, [0.9] + [1e-6] * 49, [True] + [False] * 49, [50.0] + [0.0] * 49)
    prices = Prices.from_mapping(TABLE)
    width = [m["high"] - m["low"] for m in (x.figures(prices, 0.1)["spend"]["flagged"] for x in (even, one))]
    assert width[1] > 5 * width[0]


def test_a_range_of_losses_keeps_its_quantiles() -> None:
    draws = Impact(100, 5000, 1.0).draws(np.random.default_rng(0), 200_000)
    assert np.percentile(draws, [5, 95]) == pytest.approx([100, 5000], rel=0.03)
    assert draws.mean() == pytest.approx(Impact(100, 5000, 1.0).mean, rel=0.03)


def test_rows_without_a_price_are_counted() -> None:
    money = ledger([0.1] * 4, [0.1] * 4, [True] * 4, [1.0, np.nan, 2.0, np.nan]).figures(Prices.load(), 0.1)
    assert (money["spend"]["rows_priced"], money["spend"]["rows_not_priced"]) == (2, 2)
    assert money["spend"]["total"] == money["spend"]["flagged"]["value"] == 3


def test_no_rows_cost_nothing() -> None:
    money = Ledger().figures(Prices.load(), 0.1)
    assert money["loss"]["flagged"] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "colour"),
        ({"prior": 1.5}, "prior"),
        ({"example": "yes"}, "example"),
        ({"tokens": {"a": {"input": 1}}}, "output"),
        ({"tokens": {"a": {"input": -1, "output": 1}}}, "input"),
        ({"impact": {"theft": {}}}, "theft"),
        ({"impact": {"fraud": {"loss": [5, 1], "succeeds": 1}}}, "loss"),
        ({"impact": {"fraud": {"loss": [0, 1], "succeeds": 1}}}, "loss"),
        ({"impact": {"fraud": {"loss": 1, "succeeds": 2}}}, "succeeds"),
        ({"impact": {"fraud": 3}}, "impact.fraud"),
    ],
)
def test_an_unusable_key_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Prices.from_mapping({**TABLE, **change})


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("a = = 1", encoding="utf-8")
    with pytest.raises(InputError, match=r"p\.toml"):
        Prices.load(tmp_path / "p.toml")
    with pytest.raises(InputError, match="no file"):
        Prices.load(tmp_path / "none.toml")
