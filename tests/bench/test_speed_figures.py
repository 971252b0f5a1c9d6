"""Percentiles that the samples can carry, and ratios with intervals that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from promptguard import Guard
from promptguard.bench.speed import scenarios
from promptguard.bench.speed.ceiling import Shape, highest, product_rates
from promptguard.bench.speed.figures import percentile, ratio_of_medians
from promptguard.bench.speed.load import Run
from promptguard.bench.speed.traffic import made, sizes


@pytest.mark.parametrize(("share", "least"), [(0.5, 20), (0.9, 100), (0.99, 1000)])
def test_a_percentile_needs_ten_samples_beyond_it(share: float, least: int) -> None:
    values = np.random.default_rng(0).permutation(np.arange(float(least)))
    assert percentile(values, share) == round(share * least) - 1
    assert np.sum(values > round(share * least) - 1) == 10
    assert percentile(values[:-1], share) is None
    assert percentile(values[:0], share) is None


def test_what_never_came_counts_as_the_slowest() -> None:
    values = np.concatenate([np.ones(950), np.full(50, np.inf)])
    assert percentile(values, 0.9) == 1
    assert percentile(values, 0.99) == np.inf
    told = scenarios.latencies(values)
    assert (told["p50_ms"], told["p90_ms"], told["p99_ms"]) == (1000, 1000, None)
    assert told["samples_ms"].count(None) == 50


def run_of(latency: np.ndarray) -> Run:
    zero = np.zeros(len(latency))
    return Run(zero, zero, latency, zero.astype(np.int64), zero.astype(np.int64), 1, 1.0)


def test_a_server_meets_its_time_with_99_of_100() -> None:
    quick, slow = np.full(1990, 0.01), np.full(2000, 0.2)
    assert scenarios.meets(run_of(np.concatenate([quick, slow[:20]])), 100, 0.99)
    assert not scenarios.meets(run_of(np.concatenate([quick, slow[:21]])), 100, 0.99)
    assert not scenarios.meets(run_of(quick[:500]), 100, 0.99)  # too few to say


@pytest.mark.parametrize(("budget", "share", "arrivals"), [(900, 0.99, 1200), (30, 0.9, 200), (5, 0.9, None)])
def test_a_machine_too_slow_for_99_of_100_is_asked_for_90(
    monkeypatch: pytest.MonkeyPatch, budget: float, share: float, arrivals: int | None
) -> None:
    """Forty texts a second; a queue that makes an answer late with the square of the load."""
    late = np.random.default_rng(1).exponential(1, 5000)
    start = np.arange(40) / 40
    closed = replace(run_of(start + 0.025), start=start)
    monkeypatch.setattr(scenarios, "closed_loop", lambda *_, **__: closed)

    def arrive(*_: object, rate: float, seconds: float, **__: object) -> Run:
        return run_of(0.02 + 0.1 * (rate / 40) ** 2 * late[: round(rate * seconds)])

    monkeypatch.setattr(scenarios, "open_loop", arrive)
    found = scenarios.server(None, [], slo_ms=100, seed=0, probes=6, budget_seconds=budget, warm_up=0.4)  # type: ignore[arg-type]
    assert (found["share"], {probe["n"] for probe in found["probes"]}) == (share, {arrivals} - {None})
    if arrivals is None:
        assert "200 arrivals does not fit" in found["reason"]
    else:
        beyond = -np.log(1 - share)  # of an exponential
        assert found["rate"] == pytest.approx(40 * (0.8 / beyond) ** 0.5, rel=0.15)


def test_intervals_of_ratios_hold_and_notice() -> None:
    draw = np.random.default_rng(5)
    covered = 0
    for seed in range(100):
        a, b = draw.lognormal(0, 0.3, 150), draw.lognormal(np.log(1.2), 0.3, 150)
        found = ratio_of_medians(a, b, seed=seed, replicates=300)
        assert found["low"] <= found["value"] <= found["high"]
        covered += found["low"] <= 1.2 <= found["high"]
    assert covered >= 87  # 95 expected: fewer than 88 in one draw of a thousand
    same = ratio_of_medians(a, a * 2)
    assert same["value"] == pytest.approx(2)
    assert same == ratio_of_medians(a, a * 2)


def test_intervals_are_wider_where_neighbours_are_alike() -> None:
    draw = np.random.default_rng(1)
    drifting = 10 + np.repeat(draw.standard_normal(20), 20)
    mixed = draw.permutation(drifting)
    calm = 10 + 0.01 * draw.standard_normal(400)
    wide, narrow = ratio_of_medians(calm, drifting), ratio_of_medians(calm, mixed)
    assert wide["high"] - wide["low"] > 1.3 * (narrow["high"] - narrow["low"])


def test_operations_are_those_of_the_tokens_run(tiny_guard: Guard) -> None:
    shape = Shape.of(tiny_guard._loaded)
    assert shape == Shape(layers=2, hidden=64)
    found = sizes(tiny_guard._loaded, made(1, text_tokens=40, context_tokens=20))
    linear, attention = 2 * 2 * 12 * 64**2, 2 * 4 * 64
    assert shape.operations(found, context_runs=False).tolist() == [40 * (linear + attention * (20 + 40))]
    both = 40 * (linear + attention * 60) + 20 * (linear + attention * 20)
    assert shape.operations(found, context_runs=True).tolist() == [both]


def test_the_ceiling_is_the_best_rate() -> None:
    rates = product_rates(Shape(1, 64), 1)
    assert all(rate > 1e6 for rate in rates.values())
    assert highest(rates) == max(rates.values())
