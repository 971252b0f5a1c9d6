"""A result as one HTML file that needs nothing else, in the style of the report on logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptguard.bench.speed.run_speed import REFERENCE
from promptguard.bench.speed.stages import STAGES
from promptguard.errors import MissingExtraError
from promptguard.logs import charts

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as missing:
    raise MissingExtraError("bench", "the page") from missing

Row = Mapping[str, Any]

_SHARES = tuple(i / 100 for i in range(1, 100))


def render(result: Mapping[str, Any]) -> str:
    """The page of a result.

    Args:
        result: what ``promptguard.bench.speed.run_speed.run_speed`` gives.

    Returns:
        HTML.
    """
    rows = {
        name: [row for row in result["rows"] if row["scenario"] == name]
        for name in ("single-stream", "multi-stream", "offline", "server", "stages")
    }
    drawn = {
        "lengths": _lengths(rows["single-stream"]),
        "spread": _spread(rows["single-stream"]),
        "stages": _stages(rows["stages"]),
        "offline": _offline(rows["offline"]),
        "server": _server(rows["server"]),
    }
    return (
        environment()
        .get_template("speed.html.jinja")
        .render(
            r=result,
            rows=rows,
            charts={name: markup(chart) for name, chart in drawn.items()},
            stages=STAGES,
            main=_main(rows["single-stream"]),
        )
    )


def environment() -> Environment:
    """Where the templates of the pages are, and the filters they use."""
    made = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(charts.__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": lambda value: "–" if value is None else f"{value:,.0f}",
        "figure": lambda value: "–" if value is None else f"{value:,.2f}",
        "tenths": lambda value: "–" if value is None else f"{value:,.1f}",
        "percent": lambda value: "–" if value is None else f"{value:,.0%}",
        "megabytes": lambda value: "–" if value is None else f"{value / 1e6:,.1f}",
        "context": _context,
        "setting": _setting,
        "middle": lambda values: sorted(values)[len(values) // 2],
    }
    return made


def markup(chart: str) -> Markup:
    """A chart, to stand in a page as it is."""
    return Markup(chart)  # noqa: S704 - numbers and escaped text


def _main(rows: Sequence[Row]) -> Row:
    """The row that a user would look at first: the log's, or the reference with a known context."""
    wanted = ("log", "seen", "new", "none")
    usual = [row for row in rows if (row["text_tokens"], row["context_tokens"]) in (REFERENCE, (None, None))] or rows
    return min(usual, key=lambda row: wanted.index(row["context"]))


def _lengths(rows: Sequence[Row]) -> str:
    """Median latency over length, in the setting of the first row."""
    base = rows[0]
    same = [row for row in rows if _setting(row) == _setting(base) and row["text_tokens"] and row["p50_ms"]]
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in same:
        if row["context_tokens"] in (0, 120):
            lines.setdefault(_context(row), []).append((row["text_tokens"], row["p50_ms"]))
    if max(map(len, lines.values()), default=0) < 2:
        return ""
    return charts.lines(
        list(lines.items()),
        across="tokens of text",
        up="ms, median",
        doubling=True,
        name="lengths",
        title="Latency of one call by length",
        description="A line for each kind of context; the table below has the numbers.",
    )


def _spread(rows: Sequence[Row]) -> str:
    """How the samples of the main row are spread."""
    row = _main(rows)
    ordered = sorted(row["samples_ms"])
    if len(ordered) < len(_SHARES):
        return ""
    points = [(100 * share, ordered[int(share * len(ordered))]) for share in _SHARES]
    return charts.lines(
        [("latency", points)],
        across="% of calls below",
        up="ms",
        name="spread",
        title="Latency, from the quickest to the slowest call",
        description=f"{row['n']:,} calls; the slowest hundredth is left out.",
    )


def _stages(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return charts.bars(
        [(f"{_text(row)}, {_context(row)}", [row["ms"][stage] for stage in STAGES]) for row in rows],
        list(STAGES),
        unit="ms",
        name="stages",
        title="Where the time of a call goes",
        description="Medians of the stages, one after the other; the table below has the numbers.",
    )


def _offline(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return charts.bars(
        [(_setting(row), [row["texts_per_second"]]) for row in rows],
        ["texts"],
        unit="texts/s",
        name="offline",
        title="Throughput by setting",
        description="Texts a second; the table below has the numbers.",
    )


def _server(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if len(row["probes"]) > 1), None)
    if row is None:
        return ""
    far = f"p{100 * row['share']:g}"
    measured = [probe for probe in row["probes"] if probe[f"{far}_ms"]]
    probes = sorted((probe["rate"], probe[f"{far}_ms"], probe["p50_ms"]) for probe in measured)
    if len(probes) < 2:
        return ""
    # An overload would make everything else look flat.
    highest = 4 * row["slo_ms"]
    lines = [
        (called, [(probe[0], min(probe[place], highest)) for probe in probes])
        for called, place in ((far, 1), ("median", 2))
    ]
    return charts.lines(
        lines,
        across="texts a second",
        up="ms from the arrival",
        marks=[(row["slo_ms"], f"{row['slo_ms']:g} ms asked for")],
        name="server",
        title="Latency under load, by rate",
        description=f"Poisson arrivals; latencies above {highest:g} ms are drawn there.",
    )


def _text(row: Row) -> str:
    return "log" if row["text_tokens"] is None else f"{row['text_tokens']:,} tokens"


def _context(row: Row) -> str:
    if row["text_tokens"] is None:
        return "as logged"
    return f"{row['context']} context of {row['context_tokens']}" if row["context_tokens"] else "no context"


def _setting(row: Row) -> str:
    provider = str(row["active_provider"]).removesuffix("ExecutionProvider")
    callers = f", {row['callers']} callers each" if row["callers"] > 1 else ""
    return f"{row['precision']}, {provider}, {row['workers']} × {row['threads']} threads{callers}"
