"""What a person sees of a sizing: the answer, what limits it, how it moves, and whether it was confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptguard.terminal import count, pairs, visible

_BAR = 24


def show_size(out: Console, result: Mapping[str, Any]) -> None:
    """Print the result of ``promptguard bench size``."""
    out.print()
    out.print(_answer(result))
    out.print()
    out.print(Text("99th percentile, predicted and measured", style="bold"))
    out.print(_checks(result))
    out.print(_verdict(result))
    out.print()
    out.print(Text("one replica, by load", style="bold"))
    out.print(_curve(result))
    if result["loads"]:
        out.print()
        out.print(Text("the answer at other loads", style="bold"))
        out.print(_loads(result))
    out.print()


def limit_said(result: Mapping[str, Any]) -> str:
    """What keeps a replica from taking more, in a sentence."""
    replica, demand = result["replica"], result["demand"]
    most = f"{replica['limit_rps']:,.1f} requests/s, {replica['limit_rps'] / replica['capacity_rps']:.0%} of capacity"
    if replica["limited_by"] == "p99":
        return f"{most}: beyond, the 99th percentile exceeds {demand['slo_ms']:g} ms"
    if replica["limited_by"] == "utilisation":
        return f"{most}: the 99th percentile is below {demand['slo_ms']:g} ms there, but no higher load was checked"
    return (
        f"nothing: a request that waits for nobody takes {replica['idle_p99_ms']:,.1f} ms at the 99th percentile, "
        f"more than {demand['slo_ms']:g}. More replicas do not help; shorter texts, more --threads for a request, a "
        "faster machine or a longer --slo-ms do"
    )


def _answer(result: Mapping[str, Any]) -> Table:
    settings, demand, replica = result["settings"], result["demand"], result["replica"]
    machine, answer = result["provenance"]["machine"], result["answer"]
    facts = pairs()
    facts.add_row("machine", visible(f"{machine['cpu']}, {machine['cores']} cores"))
    facts.add_row("model", visible(f"{settings['model']}, on {settings['active_provider']}"))
    mix = settings["mix"]
    facts.add_row(
        "requests",
        f"{mix['name']}: {mix['text_tokens']['p50']:.0f} tokens of text (99 %: {mix['text_tokens']['p99']:.0f}), "
        f"{mix['share_of_new_contexts']:.0%} in a new context",
    )
    each = f"{count(replica['workers'], 'worker')} of {count(replica['threads'], 'thread')}"
    facts.add_row("replica", f"{each}, {_memory(replica['worker_memory_bytes'])} a worker")
    facts.add_row("takes at most", limit_said(result))
    if answer is None:
        facts.add_row("needed", Text("no number of replicas keeps the SLO", style="bold red"))
        return facts
    why = {"load": f"with room for {demand['headroom']:.0%} more load", "replicas-min": "by --replicas-min"}
    facts.add_row(
        f"needed for {demand['rps']:,g}/s",
        Text(
            f"{count(answer['replicas'], 'replica')} ({why[answer['decided_by']]}): "
            f"{count(answer['workers'], 'worker')}, {count(answer['cores'], 'core')}, "
            f"{_memory(answer['memory_bytes'])}",
            style="bold",
        ),
    )
    lost = _milliseconds(answer["p99_one_lost_ms"]) if answer["replicas"] > 1 else "no verdicts"
    facts.add_row(
        "99th percentile",
        f"{_milliseconds(answer['p99_ms'])}; with the headroom used up {_milliseconds(answer['p99_at_headroom_ms'])}; "
        f"with one replica lost {lost}",
    )
    if answer["cost_a_month"] is not None:
        facts.add_row(
            "cost",
            f"{answer['cost_a_month']:,.2f} a month, {answer['cost_a_million_requests']:,.2f} a million prompts, at "
            f"{demand['price_an_hour']:g} a replica and hour",
        )
    return facts


def _checks(result: Mapping[str, Any]) -> Table:
    table = _table("requests", "load", "a second", "sent", "predicted", "measured", "error", "")
    for check in result["checks"]:
        p99, error = check["p99"], check["error"]
        table.add_row(
            check["mix"],
            f"{check['utilisation']:.0%}",
            f"{check['rps']:,.1f}",
            f"{check['queries']:,}",
            _milliseconds(p99["predicted_ms"]),
            f"{check['unserved']:,} not served" if check["unserved"] else _milliseconds(p99["measured_ms"], "too few"),
            "–" if error is None else f"{error:+.0%}",
            "fitted to" if check["fitted"] else "not seen",
        )
    return table


def _verdict(result: Mapping[str, Any]) -> Text:
    machine = result["provenance"]["machine"]
    if result["confirmed"]:
        return Text(f"confirmed: both runs it was not fitted to within {result['aim']:.0%}", style="green")
    busy = machine["load"] is not None and machine["load"] > 0.3 * machine["cores"]
    why = f": the machine was busy when this began (load {machine['load']:g})" if busy else ""
    return Text(f"not confirmed within {result['aim']:.0%}{why}; do not rely on the answer", style="bold red")


def _curve(result: Mapping[str, Any]) -> Table:
    slo = result["demand"]["slo_ms"]
    table = _table("load", "a second", "p50 ms", "p90", "p99", "")
    most = max(2 * slo, result["curve"][0]["p99_ms"])
    for point in result["curve"]:
        kept = point["p99_ms"] <= slo
        length = max(1, round(_BAR * min(point["p99_ms"], most) / most))
        table.add_row(
            f"{point['utilisation']:.0%}",
            f"{point['rps']:,.1f}",
            *(f"{point[name]:,.1f}" for name in ("p50_ms", "p90_ms", "p99_ms")),
            Text("█" * length, style="green" if kept else "red"),
        )
    return table


def _loads(result: Mapping[str, Any]) -> Table:
    priced = result["demand"]["price_an_hour"] is not None
    heads = ("a month", "a million") if priced else ()
    table = _table("a second", "replicas", "cores", "memory", "p99", *heads)
    for load in result["loads"]:
        costs = [f"{load[name]:,.2f}" for name in ("cost_a_month", "cost_a_million_requests")] if priced else []
        table.add_row(
            f"{load['rps']:,g}",
            f"{load['replicas']:,}",
            f"{load['cores']:,}",
            _memory(load["memory_bytes"]),
            _milliseconds(load["p99_ms"]),
            *costs,
        )
    return table


def _memory(size: int | None) -> str:
    if size is None:
        return "memory not known"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _milliseconds(value: float | None, none: str = "without end") -> str:
    return none if value is None else f"{value:,.1f} ms"


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head, justify="left" if head in ("", "requests") else "right")
    return table
