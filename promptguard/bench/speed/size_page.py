"""A sizing as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptguard.bench.speed.page import environment, markup
from promptguard.logs import charts
from promptguard.terminal_size import limit_said


def render(result: Mapping[str, Any]) -> str:
    """The page of a result.

    Args:
        result: what ``promptguard.bench.speed.run_size.run_size`` gives.

    Returns:
        HTML.
    """
    drawn = {"curve": _curve(result), "replicas": _replicas(result), "checks": _checks(result)}
    return (
        environment()
        .get_template("size.html.jinja")
        .render(
            r=result,
            charts={name: markup(chart) for name, chart in drawn.items()},
            limit=limit_said(result),
        )
    )


def _curve(result: Mapping[str, Any]) -> str:
    """Latency of one replica over its load."""
    slo = result["demand"]["slo_ms"]
    highest = max(4 * slo, 2 * result["curve"][0]["p99_ms"])  # what queues without end would make all else look flat
    return charts.lines(
        [
            (called, [(point["rps"], min(point[name], highest)) for point in result["curve"]])
            for called, name in (("p99", "p99_ms"), ("p90", "p90_ms"), ("median", "p50_ms"))
        ],
        across="requests a second",
        up="ms from the arrival",
        marks=[(slo, f"{slo:g} ms asked for")],
        name="curve",
        title="Latency of one replica by its load",
        description=f"Predicted; latencies above {highest:g} ms are drawn there. The table below has the numbers.",
    )


def _replicas(result: Mapping[str, Any]) -> str:
    if not result["loads"]:
        return ""
    return charts.lines(
        [("replicas", [(load["rps"], load["replicas"]) for load in result["loads"]])],
        across="requests a second",
        up="replicas",
        name="replicas",
        title="Replicas by load",
        description="What the answer would be at other loads. The table below has the numbers.",
    )


def _checks(result: Mapping[str, Any]) -> str:
    rows = []
    for check in result["checks"]:
        if check["p99"]["measured_ms"] is not None:
            where = f"{check['mix']}, {check['utilisation']:.0%}"
            rows.append((f"{where}, predicted", [check["p99"]["predicted_ms"], 0.0]))
            rows.append((f"{where}, measured", [0.0, check["p99"]["measured_ms"]]))
    if not rows:
        return ""
    return charts.bars(
        rows,
        ["predicted", "measured"],
        unit="ms",
        name="checks",
        title="Predicted and measured",
        description="The 99th percentile of each load run. The table below has the numbers.",
    )
