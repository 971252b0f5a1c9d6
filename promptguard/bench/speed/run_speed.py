"""The whole run: which measurements, in which order, and the result."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from promptguard import bundle
from promptguard.bench.provenance import provenance
from promptguard.bench.speed import scenarios, stages, start
from promptguard.bench.speed.ceiling import Shape, highest, product_rates
from promptguard.bench.speed.load import Floats, Layout, Request, Workers
from promptguard.bench.speed.machine import (
    CPU,
    PROVIDERS,
    assigned,
    checked_workers,
    installed,
    machine,
    provider_named,
)
from promptguard.bench.speed.traffic import Sizes, logged, made, sizes
from promptguard.errors import BackendError, InputError
from promptguard.loaded import Loaded
from promptguard.runtime import cores

SCHEMA = "promptguard-speed-2"
"""What a result says it is; the number changes when its keys do."""

PRECISIONS = ("int8", "fp32", "fp16")

Progress: TypeAlias = Callable[[str], None]
"""Called with what is about to be measured."""

REFERENCE = _TEXT, _CONTEXT = 128, 120
"""Tokens of the reference text and its context: the row that everything else is compared with."""

_REQUESTS = 2000
"""Different requests of a mix: more contexts than a guard remembers."""

_SIZED = 20
"""Of made ones, which are all alike, how many are cut to know their tokens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        name: how the user asks for it.
        lengths: tokens of text and context.
        seconds: of one row.
        warm_up: of each row, left out of it.
        longest: seconds of a row whose percentile needs more samples.
        batches: texts of a query, for multi-stream.
        starts: fresh processes.
        probes: rates tried for the server scenario.
        server_seconds: and the time they may take together.
        axes: whether layouts, threads, precisions and providers are measured, too.
        percentile: how far out the reference row is measured.
    """

    name: str
    lengths: tuple[tuple[int, int], ...]
    seconds: float
    warm_up: float
    longest: float
    batches: tuple[int, ...]
    starts: int
    probes: int
    server_seconds: float
    axes: bool
    percentile: float


QUICK = Plan("quick", ((16, _CONTEXT), (_TEXT, _CONTEXT)), 1.2, 0.4, 4, (8,), 3, 4, 20, axes=False, percentile=0.9)
FULL = Plan(
    "full",
    tuple((text, context) for context in (0, _CONTEXT, 250) for text in (16, 64, _TEXT, 256, 512, 2048)),
    5,
    1,
    60,
    (2, 4, 8, 16, 32),
    10,
    9,
    240,
    axes=True,
    percentile=0.99,
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests that are sent in a row, and what is known of them.

    Attributes:
        text_tokens: asked for; None for a log.
        context_tokens: asked for; None for a log.
        context: ``none``, ``new`` (each time), ``seen`` (the same again) or ``log``.
        requests: the texts in their contexts.
        sizes: tokens of the first of them.
    """

    text_tokens: int | None
    context_tokens: int | None
    context: str
    requests: list[Request]
    sizes: Sizes

    def axes(self) -> dict[str, Any]:
        """The row's values on the axes of length."""
        return {"text_tokens": self.text_tokens, "context_tokens": self.context_tokens, "context": self.context}

    def tokens(self) -> Floats:
        """Tokens run for each request that was sized; a context that is known already costs nothing."""
        return (self.sizes.text + np.where(self._context_runs(), self.sizes.context, 0)).astype(np.float64)

    def operations(self, shape: Shape) -> float:
        """Mean operations of a request."""
        with_context = shape.operations(self.sizes, context_runs=True)
        without = shape.operations(self.sizes, context_runs=False)
        return float(np.where(self._context_runs(), with_context, without).mean())

    def _context_runs(self) -> Any:
        return ~self.sizes.known if self.context == "log" else np.full(len(self.sizes.known), self.context == "new")


class Bench:
    """Measures rows and keeps them.

    Args:
        layout: the guard that is measured unless a row says otherwise.
        plan: how much.
        seed: of texts and arrivals.
        progress: told of each measurement.

    Attributes:
        rows: what was measured.
    """

    def __init__(self, layout: Layout, plan: Plan, *, seed: int, progress: Progress) -> None:
        self.plan, self.seed, self.rows = plan, seed, list[dict[str, Any]]()
        self._layout, self._progress = layout, progress
        self._bundles: dict[Path | str | None, bundle.Bundle] = {}
        self._operators: dict[tuple[str, str], dict[str, int]] = {}
        self._loaded = _open(layout)
        self.operators(layout)
        self._shape = Shape.of(self._loaded)
        self._rates: dict[int, list[dict[str, float]]] = {}
        self._operations: list[tuple[dict[str, Any], float, Layout]] = []

    def made(self, text: int, context: int, kind: str) -> Mix:
        """A mix of given lengths."""
        contexts = None if kind == "new" else 1
        requests = made(_REQUESTS, text_tokens=text, context_tokens=context, contexts=contexts, seed=self.seed)
        return Mix(text, context, kind, requests, sizes(self._loaded, requests[:_SIZED]))

    def logged(self, sources: Sequence[str | Path]) -> Mix:
        """A mix from the user's log."""
        requests = logged(sources, _REQUESTS, seed=self.seed)
        return Mix(None, None, "log", requests, sizes(self._loaded, requests))

    def ceiling(self, threads: int) -> None:
        """Measure the machine's 8-bit product again; the best of all counts."""
        self._progress(f"8-bit product, {_count(threads, 'thread')}")
        self._rates.setdefault(threads, []).append(product_rates(self._shape, threads))

    def streamed(self, workers: Workers, mix: Mix, *, batch: int = 1, share: float = 0.5) -> None:
        """A row of the single-stream or multi-stream scenario, long enough for a percentile."""
        scenario = "single-stream" if batch == 1 else "multi-stream"
        self._tell(scenario, workers.layout, mix, batch)
        plan = self.plan
        found = scenarios.streamed(workers, mix.requests, seconds=plan.seconds, warm_up=plan.warm_up, batch=batch)
        if found[f"p{100 * share:g}_ms"] is None:
            each = plan.seconds / max(1, found["n"])
            longer = min(plan.longest, 1.2 * scenarios.seconds_for(share, each))
            found = scenarios.streamed(workers, mix.requests, seconds=longer, warm_up=0, batch=batch)
        self._keep(scenario, workers, mix, batch, found)

    def offline(self, workers: Workers, mix: Mix, *, batch: int = 1) -> None:
        """A row of the offline scenario."""
        self._tell("offline", workers.layout, mix, batch)
        found = scenarios.offline(
            workers,
            mix.requests,
            seconds=self.plan.seconds,
            warm_up=self.plan.warm_up,
            tokens=mix.tokens(),
            batch=batch,
        )
        self._keep("offline", workers, mix, batch, found)

    def server(self, workers: Workers, mix: Mix, *, slo_ms: float) -> None:
        """A row of the server scenario."""
        self._tell("server", workers.layout, mix, 1)
        plan = self.plan
        found = scenarios.server(
            workers,
            mix.requests,
            slo_ms=slo_ms,
            seed=self.seed,
            probes=plan.probes,
            budget_seconds=plan.server_seconds,
            warm_up=plan.warm_up,
        )
        self._keep("server", workers, mix, 1, found)

    def stages(self, mix: Mix) -> None:
        """The stage split of a mix."""
        self._progress(f"stages, {_said(mix)}")
        axes = {**mix.axes(), **self._axes(self._layout, 1), "active_provider": self.active_provider}
        self.rows.append(
            {"scenario": "stages", **axes, "ms": stages.split(self._layout, mix.requests, seconds=self.plan.seconds)}
        )

    @property
    def active_provider(self) -> str:
        """The first provider of the session in this process."""
        return self._loaded.runtime.active_providers[0]

    def operators(self, layout: Layout) -> dict[str, int]:
        """How many of the model's operators run on which provider; empty where onnxruntime does not say.

        Raises:
            InputError: none runs on the provider that is asked for.
        """
        opened, wanted = self._bundle(layout), layout.providers[0]
        key = (opened.id, wanted)
        if key not in self._operators:
            found = assigned(opened.path(bundle.GRAPH), wanted)
            if found is not None and not found.get(wanted):
                raise InputError(f"onnxruntime runs nothing of this model on {wanted}, but on {', '.join(found)}")
            self._operators[key] = found or {}
        return self._operators[key]

    def finish(self) -> dict[str, Any]:
        """Put the ceiling beside the rows and give it."""
        ceilings = {threads: max(map(highest, rates)) for threads, rates in self._rates.items()}
        for row, operations, layout in self._operations:
            row["operations"] = operations
            if row["active_provider"] == CPU and layout.threads in ceilings:
                row |= _beside(row, operations, ceilings[layout.threads], layout)
        return {
            "what": "8-bit matrix product at the model's own shapes, through onnxruntime; operations a second",
            "by_threads": {str(threads): value for threads, value in ceilings.items()},
            "measured": {str(threads): rates for threads, rates in self._rates.items()},
        }

    def _bundle(self, layout: Layout) -> bundle.Bundle:
        if layout.model not in self._bundles:  # checking its hashes takes a while
            self._bundles[layout.model] = bundle.load(layout.model)
        return self._bundles[layout.model]

    def _axes(self, layout: Layout, batch: int) -> dict[str, Any]:
        opened = self._bundle(layout)
        return {
            "batch": batch,
            "workers": layout.processes,
            "callers": layout.callers,
            "threads": layout.threads,
            "precision": opened.manifest.get("precision"),
            "provider": layout.providers[0],
            "operators": self.operators(layout),
            "model": opened.id,
        }

    def _keep(self, scenario: str, workers: Workers, mix: Mix, batch: int, found: dict[str, Any]) -> None:
        row = {
            "scenario": scenario,
            **mix.axes(),
            **self._axes(workers.layout, batch),
            "active_provider": workers.active_providers[0][0],
            "resident_bytes": workers.memory[0],
            **found,
        }
        self.rows.append(row)
        self._operations.append((row, mix.operations(self._shape), workers.layout))

    def _tell(self, scenario: str, layout: Layout, mix: Mix, batch: int) -> None:
        told = [scenario, _said(mix)]
        told += [f"batch {batch}"] if batch > 1 else []
        told += [f"{_count(layout.processes, 'worker')} of {_count(layout.threads, 'thread')}"]
        self._progress(", ".join(told))


def run_speed(
    *,
    plan: Plan = QUICK,
    model: Path | str | None = None,
    provider: str = "cpu",
    workers: int | None = None,
    threads: int = 1,
    precisions: Sequence[str] = (),
    traffic: Sequence[str | Path] = (),
    slo_ms: float = 50.0,
    seed: int = 0,
    out: Path | None = None,
    command: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Measure how fast this machine gives verdicts.

    Args:
        plan: ``QUICK`` or ``FULL``.
        model: a bundle's folder; None for the embedded one.
        provider: the execution provider: ``cpu``, ``cuda``, ``tensorrt``, ``openvino`` or onnxruntime's name.
        workers: processes of the offline and server scenarios; None for as many as there are cores for their threads,
            and for one on an accelerator.
        threads: of one run of the model.
        precisions: further precisions of the bundle, which are made for the time of the run; ``FULL`` has all.
        traffic: logs to take texts and contexts from; empty for made ones.
        slo_ms: within how long 99 % of a server's answers must come (90 % on a machine too slow for the plan's time).
        seed: of texts and arrivals.
        out: where the result goes, as JSON; None writes none.
        command: the command line, for the circumstances.
        progress: told of each measurement.

    Returns:
        The result; ``docs/bench.md`` describes it.

    Raises:
        InputError: an unusable argument; more threads than cores; a provider that is not there; an empty log.
        ModelError: the bundle cannot be used.
        BackendError: the model could not be run.
        MissingExtraError: an extra is missing.
    """
    if not (slo_ms > 0 and math.isfinite(slo_ms)):
        raise InputError("--slo-ms must be a positive number of milliseconds")
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise InputError(f"--precision must be one of {', '.join(PRECISIONS)}, not {unknown[0]!r:.40}")
    chosen = provider_named(provider)
    workers = checked_workers(workers, threads, chosen)
    circumstances = provenance(command) | {"machine": machine()}
    one = Layout(threads=threads, model=model, providers=(chosen,))
    bench = Bench(one, plan, seed=seed, progress=progress)
    log = bench.logged(traffic) if traffic else None
    progress("fresh processes")
    began = {"cold_start": start.cold_starts(one, plan.starts), "bytes": start.space(one)}
    bench.ceiling(threads)
    many = replace(one, processes=workers)
    _lengths(bench, one, log)
    _server(bench, many, log, slo_ms)
    bench.ceiling(threads)
    if plan.axes:
        _layouts(bench, one)
    with tempfile.TemporaryDirectory(prefix="promptguard-bench-") as folder:
        for precision in precisions or (PRECISIONS if plan.axes else ()):
            _precision(bench, one, cast("Any", precision), Path(folder))
    unusable = _providers(bench, one) if plan.axes else {}
    bench.ceiling(threads)
    result = {
        "schema": SCHEMA,
        "plan": plan.name,
        "provenance": circumstances,
        "settings": {
            "model": bench.rows[0]["model"],
            "provider": chosen,
            "active_provider": bench.active_provider,
            "operators": bench.operators(one),
            "workers": workers,
            "threads": threads,
            "slo_ms": slo_ms,
            "seed": seed,
            "traffic": None if log is None else _described(log),
            "providers_not_usable": unusable,
        },
        "start": began,
        "ceiling": bench.finish(),
        "rows": bench.rows,
    }
    if out is not None:
        out.write_text(lines(result, "rows"), encoding="utf-8")
    return result


def _lengths(bench: Bench, one: Layout, log: Mix | None) -> None:
    """Single-stream by length, multi-stream, stages: one worker."""
    plan = bench.plan
    with Workers(one) as workers:
        if log is not None:
            bench.streamed(workers, log, share=plan.percentile)
            bench.stages(log)
        if log is not None and not plan.axes:
            return
        for text, context in plan.lengths:
            for kind in ("new", "seen") if context else ("none",):
                mix = bench.made(text, context, kind)
                reference = (text, context) == (_TEXT, _CONTEXT)
                bench.streamed(workers, mix, share=plan.percentile if reference else 0.5)
                if reference or (plan.axes and kind == "seen"):
                    bench.stages(mix)
        mix = bench.made(_TEXT, _CONTEXT, "seen")
        for batch in plan.batches:
            bench.streamed(workers, mix, batch=batch)


def _server(bench: Bench, many: Layout, log: Mix | None, slo_ms: float) -> None:
    """Offline and server: all workers."""
    mix = log or bench.made(_TEXT, _CONTEXT, "seen")
    with Workers(many) as workers:
        bench.offline(workers, mix)
        bench.server(workers, mix, slo_ms=slo_ms)


def _layouts(bench: Bench, one: Layout) -> None:
    """Offline over workers, threads and callers; single-stream over threads."""
    mix = bench.made(_TEXT, _CONTEXT, "seen")
    counts = sorted({*(2**i for i in range(cores().bit_length())), cores()})
    for threads in counts:
        if threads != one.threads:
            bench.ceiling(threads)
        for processes in [n for n in counts if n * threads <= cores()]:
            with Workers(replace(one, processes=processes, threads=threads)) as workers:
                bench.offline(workers, mix)
                if processes == 1 and threads != one.threads:
                    bench.streamed(workers, mix)
    for callers in counts[1:]:
        with Workers(replace(one, callers=callers)) as workers:
            bench.offline(workers, mix)


def _precision(bench: Bench, one: Layout, precision: Any, folder: Path) -> None:
    """The reference rows in another precision."""
    from promptguard.training.export import derive

    source = bundle.load(one.model)
    if precision == source.manifest.get("precision"):
        return
    derive(source, folder / precision, precision)
    _reference(bench, replace(one, model=folder / precision))


def _providers(bench: Bench, one: Layout) -> dict[str, str]:
    """The reference rows on the other providers that are installed; why one that is cannot be used."""
    unusable = {}
    for name in [p for p in PROVIDERS.values() if p in installed() and p not in one.providers]:
        layout = replace(one, providers=(name,))
        try:
            _open(layout)
            bench.operators(layout)
        except InputError as error:
            unusable[name] = str(error)
        else:
            _reference(bench, layout)
    return unusable


def _reference(bench: Bench, layout: Layout) -> None:
    with Workers(layout) as workers:
        for text in (16, _TEXT, 512):
            for kind in ("new", "seen"):
                bench.streamed(workers, bench.made(text, _CONTEXT, kind))
        mix = bench.made(_TEXT, _CONTEXT, "seen")
        for batch in bench.plan.batches[-1:]:
            bench.streamed(workers, mix, batch=batch)


def _open(layout: Layout) -> Loaded:
    """The layout's bundle, open on its provider.

    Raises:
        InputError: onnxruntime has the provider, but it does not work here.
    """
    try:
        return layout.guard()._loaded
    except BackendError as error:
        if layout.providers == (CPU,):
            raise
        raise InputError(
            f"{layout.providers[0]} cannot be used here: {error}; is there a GPU, and its libraries?"
        ) from error


def _beside(row: dict[str, Any], operations: float, ceiling: float, layout: Layout) -> dict[str, Any]:
    """A row's figure beside the ceiling: of its latency, or of its throughput by all workers."""
    if row["scenario"] in ("single-stream", "multi-stream"):
        at_ceiling = 1000 * row["batch"] * operations / ceiling
        times = None if row["p50_ms"] is None else row["p50_ms"] / at_ceiling
        return {"at_ceiling_ms": at_ceiling, "times_ceiling": times}
    texts = row["texts_per_second"] if row["scenario"] == "offline" else row["capacity"]
    most = layout.processes * ceiling / operations
    return {"at_ceiling_texts_per_second": most, "times_ceiling": most / texts if texts else None}


def lines(result: Mapping[str, Any], rows: str) -> str:
    """The result as JSON, a row a line: a thousand samples on a line each would help nobody.

    Args:
        result: JSON-ready.
        rows: key of the rows.
    """
    head = json.dumps({key: value for key, value in result.items() if key != rows}, indent=1, allow_nan=False)
    found = ",\n  ".join(json.dumps(row, allow_nan=False) for row in result[rows])
    return head.removesuffix("\n}") + f',\n "{rows}": [\n  {found}\n ]\n}}\n'


def _described(log: Mix) -> dict[str, Any]:
    """A log's lengths: nothing of its texts."""
    places = (0.1, 0.5, 0.9, 0.99)
    found: dict[str, Any] = {"requests": len(log.requests), "share_of_known_contexts": float(log.sizes.known.mean())}
    for name, values in (("text", log.sizes.text), ("context", log.sizes.context), ("windows", log.sizes.windows)):
        found[name] = {f"p{100 * place:g}": float(np.quantile(values, place)) for place in places}
        found[name]["mean"] = float(values.mean())
    return found


def _said(mix: Mix) -> str:
    if mix.text_tokens is None:
        return "texts of the log"
    context = f" in {mix.context_tokens} of a {mix.context} context" if mix.context_tokens else ""
    return f"{mix.text_tokens} tokens{context}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
