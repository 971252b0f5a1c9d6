"""How many machines a load needs, from what one of them can take: arithmetic over a simulated replica.

A replica is a machine like the one measured, with as many workers as were measured on it. Its limit is the highest
rate at which the predicted 99th percentile keeps the SLO, and at which it is no busier than predictions were checked.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptguard.bench.speed.load import Floats, arrivals
from promptguard.bench.speed.queueing import simulate
from promptguard.bench.speed.service import ServiceModel
from promptguard.errors import InputError

CHECKED_UTILISATION = 0.8
"""Highest share of its capacity that a replica is given: predictions are checked with load runs up to it."""

HOURS_A_MONTH = 730

_QUERIES = 20_000
"""Simulated for one figure: 200 of them beyond the 99th percentile."""

_CURVE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Shares of a replica's capacity at which its latency is given."""

_IDLE = 0.01
"""Share of the capacity at which requests hardly ever wait."""

_LOADS = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10)
"""Multiples of the load asked about, to show how the answer moves."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for.

    Attributes:
        rps: requests a second.
        slo_ms: most milliseconds that the 99th percentile of latency may be.
        headroom: how much more load there must be room for, as a share of ``rps``.
        least_replicas: fewest replicas, whatever the load: with two, one may fail.
        price: of one replica, an hour; None if it is not known.
    """

    rps: float
    slo_ms: float
    headroom: float = 0.25
    least_replicas: int = 2
    price: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("rps", self.rps), ("slo-ms", self.slo_ms)):
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} must be a positive number")
        if not 0 <= self.headroom <= 10:
            raise InputError("headroom must be a number between 0 and 10: 0.25 is room for 25 % more load")
        if self.least_replicas < 1:
            raise InputError("replicas-min must be at least 1")


def price(given: str) -> float:
    """Price of a replica an hour.

    Args:
        given: an amount, in whatever currency, and ``/h``, as in ``0.12/h``.

    Raises:
        InputError: it is not of that form.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*h", given.strip())
    if match is None:
        raise InputError(f"the price must be an amount an hour, as in 0.12/h, not {given!r}")
    return float(match[1])


class Replica:
    """One machine, simulated.

    Args:
        model: of the time requests occupy a worker.
        terms: of a stream of requests, in the order they come; from ``service.work_terms``.
        seed: of arrivals and jitter. Two rates meet the same requests, with the same jitter, spread differently.

    Attributes:
        capacity: requests a second with all workers always busy.
    """

    def __init__(self, model: ServiceModel, terms: Floats, seed: int) -> None:
        self._model, self._seed = model, seed
        generator = np.random.default_rng(seed)
        self._services = model.draw(terms[np.arange(_QUERIES) % len(terms)], generator)
        self.capacity = model.capacity(self._services)

    def _latency(self, rate: float) -> Floats:
        """Seconds from arrival to verdict of a long run of requests."""
        times = arrivals(rate, 1.2 * _QUERIES / rate, self._seed)[:_QUERIES]
        return simulate(times, self._services[: len(times)], self._model.slowdown, self._model.waking)

    def p99_ms(self, rate: float) -> float | None:
        """The 99th percentile of latency in milliseconds; None where it would grow without end.

        Args:
            rate: requests a second.
        """
        if rate >= 0.99 * self.capacity:
            return None
        return 1000 * float(np.quantile(self._latency(rate), 0.99))

    def limit(self, slo_ms: float) -> tuple[float, str]:
        """The most that it takes, and what limits it.

        Args:
            slo_ms: most milliseconds of the 99th percentile.

        Returns:
            Requests a second, and ``utilisation``, ``p99``, or ``service time`` with a rate of 0: there is no load
            so low that the SLO would be kept.
        """
        low, high = _IDLE * self.capacity, CHECKED_UTILISATION * self.capacity
        if self._keeps(high, slo_ms):
            return high, "utilisation"
        if not self._keeps(low, slo_ms):
            return 0.0, "service time"
        while high - low > 0.005 * self.capacity:
            middle = (low + high) / 2
            low, high = (middle, high) if self._keeps(middle, slo_ms) else (low, middle)
        return low, "p99"

    def _keeps(self, rate: float, slo_ms: float) -> bool:
        reached = self.p99_ms(rate)
        return reached is not None and reached <= slo_ms

    def curve(self) -> list[dict[str, float]]:
        """Latency at shares of its capacity: utilisation, rate and percentiles in milliseconds."""
        points = []
        for utilisation in _CURVE:
            latency = 1000 * self._latency(utilisation * self.capacity)
            p50, p90, p99 = (float(q) for q in np.quantile(latency, (0.5, 0.9, 0.99)))
            points.append(
                {
                    "utilisation": utilisation,
                    "rps": utilisation * self.capacity,
                    "p50_ms": p50,
                    "p90_ms": p90,
                    "p99_ms": p99,
                }
            )
        return points


@dataclass(frozen=True, slots=True)
class Shape:
    """What a replica is made of.

    Attributes:
        workers: worker processes.
        threads: of one run of the model.
        memory: bytes of one worker; None where that is not known.
    """

    workers: int
    threads: int
    memory: int | None


def plan(demand: Demand, replica: Replica, shape: Shape) -> dict[str, Any]:
    """Answer a demand.

    Args:
        demand: what is asked for.
        replica: what one machine can take.
        shape: what it is made of.

    Returns:
        ``replica`` (its capacity, its limit and what limits it), ``answer`` (replicas, workers, cores, memory, cost and
        the 99th percentile as planned, with the headroom used up and with one replica lost), ``loads`` (the answer
        at other loads) and ``curve``. Where no number of replicas would do, ``answer`` is None and ``loads`` empty.
    """
    limit, limited_by = replica.limit(demand.slo_ms)
    answer, loads = None, []
    if limit > 0:
        loads = [_answer(demand, replica, shape, limit, multiple * demand.rps) for multiple in _LOADS]
        answer = _answer(demand, replica, shape, limit, demand.rps)
        each = demand.rps / answer["replicas"]
        answer["p99_at_headroom_ms"] = replica.p99_ms(each * (1 + demand.headroom))
        lost = demand.rps / (answer["replicas"] - 1) if answer["replicas"] > 1 else math.inf
        answer["p99_one_lost_ms"] = replica.p99_ms(lost)
    return {
        "replica": {
            "workers": shape.workers,
            "threads": shape.threads,
            "cores": shape.workers * shape.threads,
            "worker_memory_bytes": shape.memory,
            "capacity_rps": replica.capacity,
            "limit_rps": limit,
            "limited_by": limited_by,
            "idle_p99_ms": replica.p99_ms(_IDLE * replica.capacity),
        },
        "answer": answer,
        "loads": loads,
        "curve": replica.curve(),
    }


def _answer(demand: Demand, replica: Replica, shape: Shape, limit: float, rps: float) -> dict[str, Any]:
    """What a load of ``rps`` needs when a replica takes at most ``limit`` of it."""
    needed = math.ceil(rps * (1 + demand.headroom) / limit - 1e-9)
    replicas = max(demand.least_replicas, needed)
    workers = replicas * shape.workers
    return {
        "rps": rps,
        "replicas": replicas,
        "decided_by": "load" if needed >= demand.least_replicas else "replicas-min",
        "workers": workers,
        "cores": workers * shape.threads,
        "memory_bytes": None if shape.memory is None else workers * shape.memory,
        "utilisation": rps / replicas / replica.capacity,
        "p99_ms": replica.p99_ms(rps / replicas),
        **cost(replicas, rps, demand.price),
    }


def cost(replicas: int, rps: float, an_hour: float | None) -> dict[str, float | None]:
    """What replicas cost, in the currency of the price.

    Args:
        replicas: how many.
        rps: requests a second that they serve, day and night.
        an_hour: price of one.

    Returns:
        ``cost_a_month`` of 730 hours and ``cost_a_million_requests``; None without a price.
    """
    if an_hour is None:
        return {"cost_a_month": None, "cost_a_million_requests": None}
    hourly = replicas * an_hour
    return {"cost_a_month": HOURS_A_MONTH * hourly, "cost_a_million_requests": hourly / (3600 * rps) * 1e6}
