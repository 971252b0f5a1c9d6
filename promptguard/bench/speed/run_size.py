"""Measure one machine, predict what it takes, check that with load runs, and answer: ``promptguard bench size``.

The model of service times is fitted to load runs at 30 % and 60 % of the capacity. It then predicts the 99th
percentile of two runs before they are made: at 80 %, and with requests of other lengths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from promptguard.bench.speed.load import (
    Floats,
    Integers,
    Layout,
    Request,
    Run,
    Workers,
    arrivals,
    closed_loop,
    open_loop,
)
from promptguard.bench.speed.mixes import CHAT, DOCUMENTS, from_log
from promptguard.bench.speed.queueing import simulate
from promptguard.bench.speed.service import TERMS, Observed, ServiceModel, new_contexts, work_terms
from promptguard.bench.speed.sizing import CHECKED_UTILISATION, Demand, Replica, Shape, plan, pooled
from promptguard.bench.speed.traffic import Sizes, sizes
from promptguard.errors import InputError
from promptguard.loaded import Loaded
from promptguard.types import Context

FITTED_AT = (0.3, 0.6)
OTHER_MIX_AT = 0.7
"""Of the other mix's capacity, which is predicted."""

AIM = 0.25
"""A prediction that is off by more than this share of what was measured is not to be relied on."""

_LEAST_QUERIES = 1000
"""Of a run with a 99th percentile: ten are beyond it."""

_REQUESTS = 4000
_REPEATS = 20
"""Simulations of a run that is checked."""

_BEFORE = 1000
"""Requests that were served before those looked at, so that the workers know contexts."""


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Requests, and what each costs the encoder."""

    name: str
    requests: list[Request] = field(repr=False)
    contexts: Integers
    sizes: Sizes
    kept: int

    @classmethod
    def of(cls, name: str, requests: list[Request], loaded: Loaded) -> _Traffic:
        numbers: dict[tuple[int, ...], int] = {}
        contexts = [
            numbers.setdefault(loaded.contexts.ids(context or Context(), text), len(numbers))
            for text, context in requests
        ]
        return cls(name, requests, np.array(contexts), sizes(loaded, requests), loaded.runtime.contexts_kept)

    def terms(self, places: Integers, served_by: Integers, workers: int) -> Floats:
        """Work of the requests at some places, in the order they are served, and by whom."""
        before = np.arange(places[0] - _BEFORE, places[0])
        order = np.concatenate([before, places]) % len(self.requests)
        new = new_contexts(
            self.contexts[order], self.sizes.context[order], np.concatenate([before % workers, served_by]), self.kept
        )[_BEFORE:]
        return work_terms(self.sizes.context[places], self.sizes.text[places], self.sizes.windows[places], new)

    def stream(self, number: int, workers: int, seed: int) -> Floats:
        """Work of requests that go to whatever worker is free."""
        served_by = np.random.default_rng(seed).integers(workers, size=number)
        return self.terms(np.arange(number) % len(self.requests), served_by, workers)


def size(
    demand: Demand,
    layout: Layout,
    *,
    traffic: Sequence[Path] = (),
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """What a load needs, by measurements of this machine.

    Args:
        demand: the load and the SLO.
        layout: the workers of a replica; each serves one request at a time.
        traffic: logs whose requests are sent; empty for a made-up chat.
        seconds: of a load run; longer where it would have less than 1,000 requests.
        seed: of requests, arrivals and simulation.
        progress: told what is being done.

    Returns:
        What ``sizing.plan`` returns, with ``demand``, ``layout``, ``mix``, ``model`` (of service times), ``checks`` and
        ``confirmed``.

    Raises:
        InputError: the log has no text, or the layout does not suit.
        BackendError: a worker failed.
    """
    if layout.callers != 1:
        raise InputError("a worker serves one request at a time: use more processes instead of callers")
    loaded = layout.guard()._loaded
    progress("reading requests")
    requests = from_log(traffic, _REQUESTS, seed) if traffic else CHAT.requests(_REQUESTS, seed)
    own = _Traffic.of("traffic log" if traffic else CHAT.name, requests, loaded)
    other = _Traffic.of(DOCUMENTS.name, DOCUMENTS.requests(_REQUESTS, seed + 1), loaded)
    quiet = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with Workers(layout) as workers:
        bench = _Bench(workers, layout.processes, seconds, seed, progress)
        saturated = closed_loop(workers, own.requests, seconds=seconds / 6)
        capacity = saturated.throughput
        fits = [bench.run(own, share * capacity, share) for share in FITTED_AT]
        model = ServiceModel.fit([bench.observed(own, run) for run in fits], saturates_at=_cores_shared_from(layout))
        streams = {t.name: t.stream(20_000, layout.processes, seed) for t in (own, other)}
        replica = Replica(model, streams[own.name], seed)
        plans = [
            (own, CHECKED_UTILISATION * capacity, CHECKED_UTILISATION),
            (other, OTHER_MIX_AT * Replica(model, streams[other.name], seed).capacity, OTHER_MIX_AT),
        ]
        checks = [
            bench.figures(model, own, run, share, share * capacity, fitted=True)
            for share, run in zip(FITTED_AT, fits, strict=True)
        ]
        for mix, rate, share in plans:
            checks.append(bench.figures(model, mix, bench.run(mix, rate, share), share, rate, fitted=False))
        memory = [m for m in workers.memory if m is not None]
        providers = workers.active_providers[0]
    progress("simulating")
    shape = Shape(layout.processes, layout.threads, max(memory, default=None))
    unseen = [check["error"] for check in checks if not check["fitted"]]
    return {
        "demand": {
            "rps": demand.rps,
            "slo_ms": demand.slo_ms,
            "headroom": demand.headroom,
            "least_replicas": demand.least_replicas,
            "price_an_hour": demand.price,
        },
        "layout": {"workers": layout.processes, "threads": layout.threads, "providers": list(providers)},
        "mix": _mix_facts(own),
        "other_mix": _mix_facts(other),
        "seed": seed,
        "seconds": seconds,
        "load_average_before": quiet,
        "model": {
            "seconds": dict(zip(TERMS, model.seconds.tolist(), strict=True)),
            "slowdown": list(model.slowdown),
            "jitter": {f"p{q}": float(np.quantile(model.jitter, q / 100)) for q in (1, 10, 50, 90, 99)},
            "dispatch_ms": 1000 * float(np.median(_dispatch(fits))),
        },
        "capacity_rps": {"measured": capacity, "predicted": replica.capacity},
        "checks": checks,
        "aim": AIM,
        "confirmed": all(e is not None and abs(e) <= AIM for e in unseen),
        **plan(demand, replica, shape),
    }


@dataclass(frozen=True, slots=True)
class _Bench:
    """Load runs and what was foretold of them."""

    workers: Workers
    number: int
    seconds: float
    seed: int
    progress: Callable[[str], None]

    def run(self, traffic: _Traffic, rate: float, share: float) -> Run:
        """An open loop at a rate, long enough for a 99th percentile."""
        seconds = max(self.seconds, 1.1 * _LEAST_QUERIES / rate)
        self.progress(f"{traffic.name} at {share:.0%} of capacity: {rate:,.1f} requests/s for {seconds:.0f} s")
        seed = self.seed + round(1000 * share)
        return open_loop(self.workers, traffic.requests, rate=rate, seconds=seconds, seed=seed)

    def observed(self, traffic: _Traffic, run: Run) -> Observed:
        return Observed.of(run, traffic.terms(run.request, run.worker, self.number), self.number)

    def figures(
        self, model: ServiceModel, traffic: _Traffic, run: Run, share: float, rate: float, *, fitted: bool
    ) -> dict[str, Any]:
        """Predicted and measured latency of a run."""
        number = len(run.scheduled)
        predicted = []
        for repeat in range(_REPEATS):
            generator = np.random.default_rng((self.seed, repeat))
            services = model.draw(traffic.stream(number, self.number, self.seed + repeat), generator)
            times = arrivals(rate, 1.2 * number / rate + 1, self.seed + 7919 * (repeat + 1))[:number]
            predicted.append(simulate(times, services[: len(times)], model.slowdown))
        result: dict[str, Any] = {
            "mix": traffic.name,
            "utilisation": share,
            "rps": rate,
            "queries": number,
            "fitted": fitted,
        }
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            point, low, high = (1000 * v for v in pooled(predicted, q))
            measured = 1000 * float(np.quantile(run.latency, q))
            result[name] = {"predicted_ms": point, "range_ms": [low, high], "measured_ms": measured}
        measured = result["p99"]["measured_ms"]
        supported = number >= _LEAST_QUERIES and np.isfinite(measured)
        result["error"] = (result["p99"]["predicted_ms"] - measured) / measured if supported else None
        return result


def _dispatch(runs: Sequence[Run]) -> Floats:
    """Seconds from when queries were due to when a worker, which was free, took them up."""
    waits = np.concatenate([run.start - run.scheduled for run in runs[:1]])
    return waits


def _cores_shared_from(layout: Layout) -> int | None:
    """Number of workers from which on they share cores as hyper-threads; None where there are no such."""
    return None


def _mix_facts(traffic: _Traffic) -> dict[str, Any]:
    """Lengths of a mix, and how often its contexts are new to a worker."""
    text, context = traffic.sizes.text, traffic.sizes.context
    return {
        "name": traffic.name,
        "requests": len(traffic.requests),
        "text_tokens": {f"p{q}": float(np.quantile(text, q / 100)) for q in (10, 50, 90, 99)},
        "context_tokens": {f"p{q}": float(np.quantile(context, q / 100)) for q in (10, 50, 90, 99)},
    }
