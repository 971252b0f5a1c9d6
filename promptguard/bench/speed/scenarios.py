"""The scenarios of MLPerf Inference (Reddi et al. 2020), as this library meets them.

*Single-stream*: one text after the other, as fast as the answers come. *Multi-stream*: the same with several texts in
a query. *Offline*: all there is to do is there from the beginning; what counts is how much is done a second. *Server*:
texts arrive at random, whatever has become of those before; what counts is the highest rate at which 99 % of the
answers come in time, or 90 % where the time there is does not allow for more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from promptguard.bench.speed.figures import LEAST_BEYOND, percentile
from promptguard.bench.speed.load import Floats, Request, Run, Workers, closed_loop, open_loop

PERCENTILES = (0.5, 0.9, 0.99)

_ARRIVALS = {0.99: 1200, 0.9: 200}
"""Share of the answers that must come in time for a server's rate to count, and how many arrivals a probe then expects:
enough for ten beyond that share, whatever the draw."""

_LEAST_SHARE = 0.1
"""Of capacity: the lowest rate that is looked at. Below it a queue hardly exists."""


def streamed(
    workers: Workers, requests: Sequence[Request], *, seconds: float, warm_up: float, batch: int = 1
) -> dict[str, Any]:
    """Single-stream, or multi-stream with a batch above 1: latency where nothing waits.

    Args:
        workers: one process with one caller.
        requests: texts in contexts.
        seconds: how long.
        warm_up: seconds before that which are left out.
        batch: texts of a query.

    Returns:
        ``n`` queries and ``samples_ms``, their latencies, with percentiles: ``p50_ms``, ``p90_ms``, ``p99_ms``, None
        where the samples cannot carry them.
    """
    return latencies(closed_loop(workers, requests, seconds=seconds, warm_up=warm_up, batch=batch).latency)


def offline(
    workers: Workers, requests: Sequence[Request], *, seconds: float, warm_up: float, tokens: Floats, batch: int = 1
) -> dict[str, Any]:
    """Offline: what all workers together get done.

    Args:
        workers: as many as there may be.
        requests: texts in contexts.
        seconds: how long.
        warm_up: seconds before that which are left out.
        tokens: of each request, context included if it is run.
        batch: texts of a call.

    Returns:
        As ``streamed``, and ``texts_per_second``, ``tokens_per_second``.
    """
    run = closed_loop(workers, requests, seconds=seconds, warm_up=warm_up, batch=batch)
    done = sum(float(tokens[(run.request + i) % len(tokens)].sum()) for i in range(batch))
    each = done / max(1, batch * len(run.request))
    return {
        **latencies(run.latency),
        "texts_per_second": run.throughput,
        "tokens_per_second": run.throughput * each,
    }


def server(
    workers: Workers,
    requests: Sequence[Request],
    *,
    slo_ms: float,
    seed: int,
    probes: int,
    budget_seconds: float,
    warm_up: float,
) -> dict[str, Any]:
    """Server: the highest rate of Poisson arrivals at which 99 % of the answers come within a time, by bisection.

    Capacity is measured first, in a closed loop; rates are sought between a tenth of it and all of it. Every probe
    expects 1,200 arrivals, so that more than ten lie beyond its 99th percentile, and all meet the same arrivals in
    another unit of time. Where not even one such probe ends in time, the rate is that of 90 %, with 200 arrivals.

    Args:
        workers: as many as there may be.
        requests: texts in contexts.
        slo_ms: within how long, counted from the arrival.
        seed: of the arrivals.
        probes: most rates that are tried.
        budget_seconds: no probe is begun that would not end in this time.
        warm_up: seconds before each probe which are left out.

    Returns:
        ``capacity`` (texts a second in a closed loop), ``share`` (of the answers, 0.99 or 0.9), ``rate`` (the highest
        that met the time, None if none did or none could be tried), ``fails_at`` (the lowest that did not), ``slo_ms``,
        ``reason`` (why there is no rate, else None) and ``probes``: of each its rate, what ``streamed`` gives, and the
        arrivals that were given up as ``unserved``.
    """
    began = time.perf_counter()
    closed = closed_loop(workers, requests, seconds=max(1.0, 2 * warm_up), warm_up=warm_up)
    capacity = closed.throughput
    low, high = _LEAST_SHARE * capacity, capacity

    def fits(share: float, rate: float) -> bool:
        # A run that falls behind is given up after half its length.
        longest = warm_up + 1.5 * _ARRIVALS[share] / rate
        return time.perf_counter() - began + longest <= budget_seconds

    share = next((share for share in _ARRIVALS if fits(share, (low + high) / 2)), min(_ARRIVALS))
    found: dict[str, Any] = {"slo_ms": slo_ms, "share": share, "capacity": capacity}
    found |= {"rate": None, "fails_at": None, "reason": None, "probes": []}
    quickest = 1000 * float(np.median(closed.service))
    if quickest > slo_ms:
        return {**found, "reason": f"half of the calls take more than {slo_ms:g} ms with nothing waiting"}
    for _ in range(probes):
        rate = (low + high) / 2
        if not fits(share, rate):
            break
        seconds = _ARRIVALS[share] / rate
        run = open_loop(workers, requests, rate=rate, seconds=seconds, seed=seed, warm_up=warm_up, patience=seconds / 2)
        probe = {"rate": rate, "unserved": int(np.isinf(run.end).sum()), **latencies(run.latency)}
        found["probes"].append(probe)
        if meets(run, slo_ms, share):
            low = found["rate"] = rate
        else:
            high = found["fails_at"] = rate
    if not found["probes"]:
        found["reason"] = f"a probe of {_ARRIVALS[share]:,} arrivals does not fit into {budget_seconds:g} s"
    elif found["rate"] is None:
        found["reason"] = f"no rate that was tried meets {slo_ms:g} ms; the lowest was {high:.1f}/s"
    return found


def meets(run: Run, slo_ms: float, share: float) -> bool:
    """Whether that share of the answers came in time, with at least ten samples beyond to say so."""
    reached = percentile(run.latency, share)
    return reached is not None and 1000 * reached <= slo_ms


def latencies(seconds: Floats) -> dict[str, Any]:
    """Samples in milliseconds with their percentiles; what never came, and what cannot be said, is None."""
    found: dict[str, Any] = {"n": len(seconds)}
    for share in PERCENTILES:
        value = percentile(seconds, share)
        found[f"p{100 * share:g}_ms"] = None if value is None or not np.isfinite(value) else 1000 * value
    found["samples_ms"] = [round(1000 * s, 4) if np.isfinite(s) else None for s in seconds.tolist()]
    return found


def seconds_for(share: float, each: float) -> float:
    """How long one must measure calls that take ``each`` seconds for a percentile to have ten samples beyond it."""
    return each * (LEAST_BEYOND + 1) / (1 - share)
