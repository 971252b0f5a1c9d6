"""What a person sees of a measurement of speed, and of two of them compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptguard.terminal import pairs, visible

_SCENARIOS = ("single-stream", "multi-stream", "offline", "server")


def show_speed(out: Console, result: Mapping[str, Any]) -> None:
    """Print the figures of ``promptguard bench speed``."""
    machine, settings, rows = result["provenance"]["machine"], result["settings"], result["rows"]
    facts = pairs()
    out.print()
    facts.add_row("machine", visible(f"{machine['cpu']}, {machine['cores']} cores, {_flags(machine)}"))
    for gpu in machine["gpus"]:
        facts.add_row("", visible(gpu))
    facts.add_row("model", visible(f"{settings['model']}, on {settings['active_provider']}"))
    if len(settings["operators"]) > 1:
        told = ", ".join(f"{number} on {name}" for name, number in settings["operators"].items())
        facts.add_row("operators", visible(told))
    for provider, reason in settings["providers_not_usable"].items():
        facts.add_row("not measured", visible(f"{provider}: {reason}"))
    for threads, rate in result["ceiling"]["by_threads"].items():
        facts.add_row("ceiling", f"{rate / 1e9:,.0f} GOP/s in 8 bits, {threads} thread{'' if threads == '1' else 's'}")
    _start(facts, result["start"])
    out.print(facts)
    for scenario in _SCENARIOS:
        found = [row for row in rows if row["scenario"] == scenario]
        if found:
            out.print()
            out.print(Text(scenario, style="bold"))
            out.print({"offline": _offline, "server": _server}.get(scenario, _streams)(found))
    for row in rows:
        if row.get("reason"):
            out.print(f"no rate for the server scenario: {row['reason']}")
    _stages(out, [row for row in rows if row["scenario"] == "stages"])
    out.print()


def show_comparison(out: Console, compared: Mapping[str, Any]) -> None:
    """Print what ``promptguard.bench.speed.compare.compare`` gave."""
    table = _table("", "text", "context", "setting", "B : A, median", "95 %", "B : A, a second")
    for row in compared["rows"]:
        ratio = row["ratio"]
        table.add_row(
            row["scenario"],
            *_lengths(row),
            f"{_setting(row)}, batch {row['batch']}" if row["batch"] > 1 else _setting(row),
            "–" if ratio is None else f"{ratio['value']:.3f}",
            "–" if ratio is None else f"{ratio['low']:.3f}–{ratio['high']:.3f}",
            "–" if row["rate_ratio"] is None else f"{row['rate_ratio']:.3f}",
        )
    out.print()
    if compared["machines"]:
        out.print(Text(f"different machines: {', '.join(compared['machines'])}", style="bold yellow"))
    out.print(table)
    out.print(f"rows in A alone: {compared['only_a']}, in B alone: {compared['only_b']}")
    out.print()


def _start(facts: Table, start: Mapping[str, Any]) -> None:
    cold, held = start["cold_start"]["ms"], start["cold_start"]["resident_bytes"]
    middle = {step: sorted(times)[len(times) // 2] for step, times in cold.items()}
    whole = sum(took for step, took in middle.items() if step != "second verdict")
    facts.add_row(
        "cold start",
        f"{whole:,.0f} ms to the first verdict: import promptguard {middle['import promptguard']:,.0f}, "
        f"Guard() {middle['Guard()']:,.0f}, loading and first call {middle['first verdict']:,.0f}",
    )
    sizes = start["bytes"]
    memory = held["second verdict"]
    resident = "memory not known" if memory is None else f"{memory / 1e6:,.0f} MB resident"
    facts.add_row(
        "size",
        f"{resident}; package {sizes['package'] / 1e6:,.1f} MB ({sizes['compressed'] / 1e6:,.1f} compressed), "
        f"of the bundle's {sizes['bundle'] / 1e6:,.1f} the graph has {sizes['graph'] / 1e6:,.1f}",
    )


def _streams(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("text", "context", "setting", "batch", "n", "p50 ms", "p90", "p99", "× ceiling")
    for row in rows:
        figures = [_number(row[name]) for name in ("p50_ms", "p90_ms", "p99_ms")]
        times = _number(row.get("times_ceiling"))
        table.add_row(*_lengths(row), _setting(row), str(row["batch"]), f"{row['n']:,}", *figures, times)
    return table


def _offline(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("text", "context", "setting", "texts/s", "tokens/s", "× ceiling")
    for row in rows:
        figures = [f"{row['texts_per_second']:,.1f}", f"{row['tokens_per_second']:,.0f}"]
        table.add_row(*_lengths(row), _setting(row), *figures, _number(row.get("times_ceiling")))
    return table


def _server(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("text", "context", "setting", "within", "texts/s", "fails at", "at capacity")
    for row in rows:
        figures = [
            f"{row['slo_ms']:g} ms: {row['share']:.0%}",
            *(_number(row[name]) for name in ("rate", "fails_at", "capacity")),
        ]
        table.add_row(*_lengths(row), _setting(row), *figures)
    return table


def _stages(out: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    out.print()
    out.print(Text("stages, median ms", style="bold"))
    names = list(rows[0]["ms"])
    table = _table("text", "context", *names)
    for row in rows:
        table.add_row(*_lengths(row), *(f"{row['ms'][name]:.2f}" for name in names))
    out.print(table)


def _lengths(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["text_tokens"] is None:
        return "log", "log"
    context = f"{row['context_tokens']} {row['context']}" if row["context_tokens"] else "none"
    return str(row["text_tokens"]), context


def _setting(row: Mapping[str, Any]) -> str:
    callers = f"×{row['callers']}" if row["callers"] > 1 else ""
    provider = str(row["active_provider"]).removesuffix("ExecutionProvider")
    return visible(f"{row['precision']} {provider} {row['workers']}{callers}×{row['threads']}")


def _flags(machine: Mapping[str, Any]) -> str:
    wanted = [flag for flag in machine["flags"] if "vnni" in flag or "int8" in flag or flag in ("asimddp", "i8mm")]
    safe = "; 8-bit products take the safe, slower kernels" if machine["safe_int8"] else ""
    return (", ".join(wanted) or "no 8-bit instructions known") + safe


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head, justify="left" if head in ("", "text", "context", "setting") else "right")
    return table
