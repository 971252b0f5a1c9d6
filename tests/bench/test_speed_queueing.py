"""The simulation against what queueing theory knows in closed form."""

from __future__ import annotations

from math import factorial, log

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("simpy")

from promptguard.bench.speed.queueing import simulate
from promptguard.errors import InputError

REQUESTS = 40_000


def poisson(rate: float, seed: int = 0) -> NDArray[np.float64]:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, REQUESTS))


def exponential(seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).exponential(1.0, REQUESTS)


def erlang_c(workers: int, load: float) -> float:
    """Share of requests that wait in M/M/c; the load is in Erlang."""
    full = load**workers / factorial(workers) * workers / (workers - load)
    return full / (sum(load**k / factorial(k) for k in range(workers)) + full)


@pytest.mark.parametrize(("workers", "utilisation"), [(1, 0.5), (2, 0.7), (4, 0.8), (16, 0.8)])
def test_mean_wait_is_erlang_c(workers: int, utilisation: float) -> None:
    load = workers * utilisation
    services = exponential()
    latency = simulate(poisson(load), services, [1.0] * workers)
    expected = erlang_c(workers, load) / (workers - load)
    batches = (latency - services).reshape(20, -1).mean(axis=1)
    error = batches.std(ddof=1) / np.sqrt(20)
    assert error < 0.15 * expected
    assert batches.mean() == pytest.approx(expected, abs=3.5 * error)


def test_99th_percentile_of_one_exponential_worker() -> None:
    latency = simulate(poisson(0.6), exponential(), [1.0])
    assert np.quantile(latency, 0.99) == pytest.approx(log(100) / (1 - 0.6), rel=0.06)


def test_mean_wait_with_constant_service_is_half_that_with_exponential() -> None:
    utilisation = 0.7
    latency = simulate(poisson(utilisation), np.ones(REQUESTS), [1.0])
    assert latency.mean() - 1 == pytest.approx(utilisation / (2 * (1 - utilisation)), rel=0.04)


def test_two_workers_that_halve_each_others_speed_are_one_worker() -> None:
    """M/M/2 that serves at one rate whatever its number busy has the queue of M/M/1."""
    latency = simulate(poisson(0.7), exponential(), [1.0, 2.0])
    assert latency.mean() == pytest.approx(1 / (1 - 0.7), rel=0.05)


def test_mean_latency_with_slowdown_is_that_of_the_birth_death_chain() -> None:
    rate, slowdown = 2.0, [1.0, 1.1, 1.3, 1.6]
    deaths = [(k + 1) / s for k, s in enumerate(slowdown)]
    weights = [1.0]
    for k in range(400):
        weights.append(weights[-1] * rate / deaths[min(k, len(deaths) - 1)])
    expected = sum(k * w for k, w in enumerate(weights)) / sum(weights) / rate
    assert simulate(poisson(rate), exponential(), slowdown).mean() == pytest.approx(expected, rel=0.05)


def test_work_that_overlaps_by_hand() -> None:
    # Alone from 0 to 1; both at half speed from 1 to 5 (2 done each); then the first alone for its last second.
    latency = simulate(np.array([0.0, 1.0]), np.array([4.0, 2.0]), [1.0, 2.0])
    assert latency == pytest.approx([6.0, 4.0])


def test_waking_costs_those_who_come_to_an_idle_worker() -> None:
    latency = simulate(np.array([0.0, 0.5, 9.0]), np.array([1.0, 1.0, 1.0]), [1.0], 0.25)
    assert latency == pytest.approx([1.25, 1.75, 1.25])


def test_in_order_of_arrival() -> None:
    latency = simulate(np.array([0.0, 0.5, 0.6]), np.array([2.0, 1.0, 1.0]), [1.0])
    assert latency == pytest.approx([2.0, 2.5, 3.4])


def test_same_numbers_same_result() -> None:
    first, second = (simulate(poisson(1.0)[:500], exponential()[:500], [1.0, 1.2]) for _ in range(2))
    assert (first == second).all()


@pytest.mark.parametrize(
    ("arrivals", "services", "slowdown"),
    [([0.0, 1.0], [1.0], [1.0]), ([1.0, 0.0], [1.0, 1.0], [1.0]), ([0.0], [1.0], []), ([0.0], [1.0], [0.0])],
)
def test_arrays_that_do_not_fit(arrivals: list[float], services: list[float], slowdown: list[float]) -> None:
    with pytest.raises(InputError):
        simulate(np.array(arrivals), np.array(services), slowdown)
