"""Measure one machine, predict what it takes, check that with load runs, and answer: ``promptguard bench size``.

The model of service times is fitted to load runs at 30 % and 60 % of the capacity, and to requests of all lengths with
all workers busy. It then predicts the 99th percentile of two runs before they are made: at 80 %, and with requests of
other lengths.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from promptguard.bench.provenance import provenance
from promptguard.bench.speed.figures import percentile
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
from promptguard.bench.speed.machine import checked_workers, machine, provider_named
from promptguard.bench.speed.mixes import CHAT, DOCUMENTS, numbered, spread
from promptguard.bench.speed.queueing import simulate
from promptguard.bench.speed.run_speed import Progress, lines
from promptguard.bench.speed.service import TERMS, Bools, Observed, ServiceModel, new_contexts, work_terms
from promptguard.bench.speed.sizing import CHECKED_UTILISATION, Demand, Replica, Shape, plan
from promptguard.bench.speed.traffic import Sizes, logged, sizes
from promptguard.errors import BackendError, InputError
from promptguard.loaded import Loaded
from promptguard.runtime import cores
from promptguard.types import Context

SCHEMA = "promptguard-size-1"
"""What a result says it is; the number changes when its keys do."""

FITTED_AT = (0.3, 0.6)
"""Shares of the capacity that a closed loop shows; those of the checked runs are of the fitted model's."""

OTHER_MIX_AT = 0.7
"""Share of the other mix's capacity."""

AIM = 0.25
"""A prediction further off than this share of what was measured is not confirmed."""

_LEAST_QUERIES = 1100
"""Of a run: more than ten lie beyond the 99th percentile."""

_REQUESTS = 2000
_STREAM = 20_000
_REPEATS = 10
"""Simulations of a run that is predicted."""

_LOGGED = 20_000
"""Most requests of a log that are sent before they come again."""

_FIRST_NUMBER = 100
"""Numbers that make contexts new: of three figures, so that they take as many tokens."""

_BEFORE = 1000
"""Requests that were served before those looked at, so that the workers know contexts."""


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Requests that are sent again and again, and what each costs the encoder.

    Attributes:
        name: of the mix.
        requests: in the order they are sent.
        contexts: a number for each, the same for the same context.
        alone: where a context stands once among them. It would come again only because they are sent again: ``sent``
            makes another of it each time.
        sizes: tokens of each as it is sent.
        kept: tokens of contexts that a guard keeps.
    """

    name: str
    requests: list[Request] = field(repr=False)
    contexts: Integers
    alone: Bools
    sizes: Sizes
    kept: int

    @classmethod
    def of(cls, name: str, requests: list[Request], loaded: Loaded) -> _Traffic:
        ids = [loaded.contexts.ids(context or Context(), text) for text, context in requests]
        often = Counter(ids)
        numbers = {context: number for number, context in enumerate(often)}
        alone = np.array([len(context) > 0 and often[context] == 1 for context in ids])
        sent = _numbered(requests, alone, len(requests), _FIRST_NUMBER)
        contexts = np.array([numbers[context] for context in ids])
        return cls(name, requests, contexts, alone, sizes(loaded, sent), loaded.runtime.contexts_kept)

    def sent(self, number: int, first: int) -> list[Request]:
        """So many requests, with contexts numbered from ``first`` on where they are to be new."""
        return _numbered(self.requests, self.alone, number, first)

    def terms(self, first: int, served_by: Integers, workers: int) -> Floats:
        """Work of as many requests as there are in ``served_by``, the worker of each, beginning at the ``first``."""
        places = np.arange(first - _BEFORE, first + len(served_by))
        order = places % len(self.requests)
        rounds = places // len(self.requests) * len(self.requests)
        contexts = self.contexts[order] + np.where(self.alone[order], rounds, 0)
        all_served_by = np.concatenate([places[:_BEFORE] % workers, served_by])
        new = new_contexts(contexts, self.sizes.context[order], all_served_by, self.kept)[_BEFORE:]
        order = order[_BEFORE:]
        return work_terms(self.sizes.context[order], self.sizes.text[order], self.sizes.windows[order], new)

    def observed(self, run: Run, workers: int) -> Observed:
        """A run of these requests, to fit to."""
        return Observed.of(run, self.terms(int(run.request[0]), run.worker, workers), workers)

    def stream(self, number: int, workers: int, seed: int) -> Floats:
        """Work of requests that are served by whatever worker is free."""
        return self.terms(0, np.random.default_rng(seed).integers(workers, size=number), workers)

    def facts(self, workers: int) -> dict[str, Any]:
        """Lengths, and how often a context is new to a worker; nothing of a text."""
        places = (0.1, 0.5, 0.9, 0.99)
        return {
            "name": self.name,
            "requests": len(self.requests),
            "text_tokens": {f"p{100 * p:g}": float(np.quantile(self.sizes.text, p)) for p in places},
            "context_tokens": {f"p{100 * p:g}": float(np.quantile(self.sizes.context, p)) for p in places},
            "share_of_new_contexts": float(self.stream(_STREAM, workers, 0)[:, TERMS.index("new context")].mean()),
        }


def _numbered(requests: Sequence[Request], alone: Bools, number: int, first: int) -> list[Request]:
    found = []
    for i in range(number):
        round_, place = divmod(i, len(requests))
        text, context = requests[place]
        found.append((text, numbered(context or Context(), first + round_) if alone[place] else context))
    return found


def run_size(
    demand: Demand,
    *,
    model: Path | str | None = None,
    provider: str = "cpu",
    workers: int | None = None,
    threads: int = 1,
    traffic: Sequence[str | Path] = (),
    seconds: float = 60.0,
    seed: int = 0,
    out: Path | None = None,
    command: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """What hardware a load needs, by load runs on this machine.

    Args:
        demand: the load and the SLO.
        model: a bundle's folder; None for the embedded one.
        provider: the execution provider, as for ``run_speed``.
        workers: processes of a replica; None for as many as there are cores for their threads, and for one on an
            accelerator.
        threads: of one run of the model.
        traffic: logs whose requests are sent; empty for a made-up chat.
        seconds: of a load run; longer where it would have too few requests for a 99th percentile.
        seed: of requests, arrivals and simulation.
        out: where the result goes, as JSON; None writes none.
        command: the command line, for the circumstances.
        progress: told of each step.

    Returns:
        The result; ``docs/bench.md`` describes it.

    Raises:
        InputError: an unusable argument; more threads than cores; a provider that is not there; an empty log.
        ModelError: the bundle cannot be used.
        BackendError: the model could not be run.
        MissingExtraError: an extra is missing.
    """
    if not 0 < seconds < float("inf"):
        raise InputError("--seconds must be a positive number")
    chosen = provider_named(provider)
    workers = checked_workers(workers, threads, chosen)
    circumstances = provenance(command) | {"machine": machine()}
    layout = Layout(processes=workers, threads=threads, model=model, providers=(chosen,))
    progress("reading requests")
    guard = layout.guard()
    loaded = guard._loaded
    if traffic:
        own = _Traffic.of("traffic log", logged(traffic, _LOGGED, seed=seed), loaded)
    else:
        own = _Traffic.of(CHAT.name, CHAT.requests(_REQUESTS, seed), loaded)
    lengths = _Traffic.of("all lengths", spread(_REQUESTS, seed + 2), loaded)
    other = _Traffic.of(DOCUMENTS.name, DOCUMENTS.requests(_REQUESTS, seed + 1), loaded)
    with Workers(layout) as started:
        bench = _Bench(started, workers, seconds, seed, progress)
        by_length = bench.busy(lengths)
        capacity = bench.busy(own).throughput
        fits = [bench.run(own, share, share * capacity) for share in FITTED_AT]
        if not all(np.isfinite(run.end).all() for run in fits):
            raise BackendError(
                "the workers did not keep up with part of the load they had just borne: is the machine busy?"
            )
        observed = [lengths.observed(by_length, workers), *(own.observed(run, workers) for run in fits)]
        fitted = ServiceModel.fit(observed, saturates_at=physical_cores() // threads)
        replica = Replica(fitted, own.stream(_STREAM, workers, seed), seed)
        others = Replica(fitted, other.stream(_STREAM, workers, seed), seed)
        checks = [
            bench.check(fitted, own, share, share * capacity, run) for share, run in zip(FITTED_AT, fits, strict=True)
        ]
        checks.append(bench.check(fitted, own, CHECKED_UTILISATION, CHECKED_UTILISATION * replica.capacity))
        checks.append(bench.check(fitted, other, OTHER_MIX_AT, OTHER_MIX_AT * others.capacity))
        memory = [m for m in started.memory if m is not None]
        active = started.active_providers[0][0]
    progress("simulating other loads")
    errors = [check["error"] for check in checks if not check["fitted"]]
    result = {
        "schema": SCHEMA,
        "provenance": circumstances,
        "settings": {
            "model": guard.model,
            "provider": chosen,
            "active_provider": active,
            "workers": workers,
            "threads": threads,
            "seconds": seconds,
            "seed": seed,
            "mix": own.facts(workers),
            "other_mix": other.facts(workers),
        },
        "demand": {
            "rps": demand.rps,
            "slo_ms": demand.slo_ms,
            "headroom": demand.headroom,
            "least_replicas": demand.least_replicas,
            "price_an_hour": demand.price,
        },
        "service": {
            "seconds": dict(zip(TERMS, fitted.seconds.tolist(), strict=True)),
            "waking_seconds": fitted.waking,
            "slowdown": list(fitted.slowdown),
            "physical_cores": physical_cores(),
            "jitter": {f"p{q}": float(np.quantile(fitted.jitter, q / 100)) for q in (1, 10, 50, 90, 99)},
        },
        "capacity_rps": {"measured": capacity, "predicted": replica.capacity},
        "checks": checks,
        "aim": AIM,
        "confirmed": all(error is not None and abs(error) <= AIM for error in errors),
        **plan(demand, replica, Shape(workers, threads, max(memory, default=None))),
    }
    if out is not None:
        out.write_text(lines(result, "checks"), encoding="utf-8")
    return result


@dataclass(slots=True)
class _Bench:
    """Load runs on started workers, and what the model says of them."""

    started: Workers
    workers: int
    seconds: float
    seed: int
    progress: Progress
    next_number: int = _FIRST_NUMBER

    def busy(self, traffic: _Traffic) -> Run:
        """A run in which every worker is always busy."""
        self.progress(f"{traffic.name}: all workers busy, for {self.seconds / 6:.0f} s")
        return closed_loop(self.started, self._sent(traffic, 2 * len(traffic.requests)), seconds=self.seconds / 6)

    @property
    def warm_up(self) -> float:
        """Seconds of arrivals before each run."""
        return self.seconds / 12

    def due(self, share: float, rate: float) -> tuple[float, int, Floats]:
        """Of a run at a rate, a share of the capacity: its length, its seed and the arrivals that come of it."""
        seconds, seed = max(self.seconds, _LEAST_QUERIES / rate), self.seed + round(1000 * share)
        return seconds, seed, arrivals(rate, self.warm_up + seconds, seed)

    def run(self, traffic: _Traffic, share: float, rate: float) -> Run:
        """A run with Poisson arrivals."""
        seconds, seed, due = self.due(share, rate)
        self.progress(f"{traffic.name}: {share:.0%} of capacity, {rate:,.1f} requests/s, for {seconds:.0f} s")
        requests = self._sent(traffic, len(due))
        return open_loop(self.started, requests, rate=rate, seconds=seconds, seed=seed, warm_up=self.warm_up)

    def _sent(self, traffic: _Traffic, number: int) -> list[Request]:
        """Requests of a run, in contexts that were in none before where they are to be new."""
        requests = traffic.sent(number, self.next_number)
        self.next_number += -(-number // len(traffic.requests))
        return requests

    def check(
        self, model: ServiceModel, traffic: _Traffic, share: float, rate: float, fitted_to: Run | None = None
    ) -> dict[str, Any]:
        """Latency as predicted and as measured in a run, which is made after the prediction unless it is given."""
        predicted = [self._predicted(model, traffic, share, rate, repeat) for repeat in range(_REPEATS)]
        run = fitted_to or self.run(traffic, share, rate)
        found: dict[str, Any] = {
            "mix": traffic.name,
            "utilisation": share,
            "rps": rate,
            "queries": len(run.end),
            "unserved": int(np.isinf(run.end).sum()),
            "fitted": fitted_to is not None,
        }
        for q in (0.5, 0.9, 0.99):
            each = [1000 * float(np.quantile(latency, q)) for latency in predicted]
            measured = percentile(run.latency, q)
            measured = None if measured is None or math.isinf(measured) else 1000 * measured
            found[f"p{100 * q:g}"] = {
                "predicted_ms": 1000 * float(np.quantile(np.concatenate(predicted), q)),
                "range_ms": [min(each), max(each)],
                "measured_ms": measured,
            }
        p99 = found["p99"]
        found["error"] = None if p99["measured_ms"] is None else p99["predicted_ms"] / p99["measured_ms"] - 1
        served = run.latency[np.isfinite(run.latency)]
        found["samples_ms"] = [round(1000 * float(latency), 3) for latency in served]
        return found

    def _predicted(self, model: ServiceModel, traffic: _Traffic, share: float, rate: float, repeat: int) -> Floats:
        """Latencies of the run, simulated: the same requests at the same times, jitter drawn anew for each repeat."""
        due = self.due(share, rate)[2]
        services = model.draw(
            traffic.stream(len(due), self.workers, repeat), np.random.default_rng((self.seed, repeat))
        )
        return simulate(due, services, model.slowdown, model.waking)[due >= self.warm_up]


def physical_cores() -> int:
    """Cores this process may use, those that two hardware threads share counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return cores()
    shared = set()
    for number in os.sched_getaffinity(0):
        file = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        shared.add(file.read_text(encoding="ascii").strip() if file.is_file() else str(number))
    return min(cores(), len(shared))
