"""Charts of the pages, as SVG that stands in them: no script, no font, no colour of its own.

Colours come from the page's classes, so that light, dark and print each have theirs. Every chart has a title and
a description for those who hear the page, and a table beside it has the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 960, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 28
_LABEL, _BAR_LEFT = 150, 250
_LINE = 14
_DOTS = 40


def columns(
    buckets: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str]], *, name: str, title: str, description: str
) -> str:
    """A column for each bucket of time, its series one upon the other.

    Args:
        buckets: each with ``start`` and a number for each series.
        series: keys of the numbers and what they are called, from the bottom up; the key is the class, too.
        name: id of the chart in the page.
        title: what the chart shows.
        description: what there is to see in it.

    Returns:
        An ``svg`` element.
    """
    highest = _round_up(max((sum(bucket[key] for key, _ in series) for bucket in buckets), default=0))
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(buckets))
    parts = [*_axis(highest, lambda v: f"{v:,.0f}")]
    for i, bucket in enumerate(buckets):
        y = float(_HEIGHT - _BOTTOM)
        told = ", ".join(f"{bucket[key]:,} {called}" for key, called in series)
        parts.append(f"<g><title>{escape(_day(bucket['start']))}: {escape(told)}</title>")
        for key, _ in series:
            height = bucket[key] / highest * (_HEIGHT - _TOP - _BOTTOM)
            y -= height
            if height:
                x = _LEFT + i * step + 0.1 * step
                parts.append(
                    f'<rect class="{key}" x="{x:.1f}" y="{y:.1f}" width="{0.8 * step:.1f}" height="{height:.1f}"/>'
                )
        parts.append("</g>")
    labels = (
        sorted({0, len(buckets) // 4, len(buckets) // 2, 3 * len(buckets) // 4, len(buckets) - 1}) if buckets else []
    )
    for i in labels:
        x = _LEFT + (i + 0.5) * step
        anchor = "start" if i == 0 else "end" if i == len(buckets) - 1 else "middle"
        text = escape(_day(buckets[i]["start"]))
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    return _svg(parts, name, title, description)


def curve(
    points: Sequence[tuple[float, float]],
    marks: Sequence[tuple[float, str]],
    *,
    name: str,
    title: str,
    description: str,
) -> str:
    """A falling line over thresholds from 0 to 1, with marks on the axis.

    Args:
        points: thresholds and shares, by threshold.
        marks: thresholds and what they are called.
        name: id of the chart in the page.
        title: what the chart shows.
        description: what there is to see in it.

    Returns:
        An ``svg`` element.
    """
    highest = _round_up(max((share for _, share in points), default=0) * 100) / 100
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(threshold: float, share: float) -> tuple[float, float]:
        return _LEFT + threshold * across, _HEIGHT - _BOTTOM - share / highest * down

    parts = [*_axis(highest, lambda v: f"{v:.2%}" if highest < 0.05 else f"{v:.0%}")]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    parts.append(f'<polyline class="line" points="{line}"/>')
    for threshold, called in marks:
        x, _ = at(threshold, 0)
        anchor, dx = ("end", -4) if threshold > 0.85 else ("start", 4)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x + dx:.1f}" y="{_TOP + 10}" text-anchor="{anchor}">{escape(called)}</text>')
    for i in range(0, 11, 2):
        x, _ = at(i / 10, 0)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{i / 10:.1f}</text>')
    return _svg(parts, name, title, description)


def lines(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    across: str,
    up: str,
    marks: Sequence[tuple[float, str]] = (),
    doubling: bool = False,
    name: str,
    title: str,
    description: str,
) -> str:
    """Lines through points, at most four, told apart by colour, dashes and a label at their end.

    Args:
        series: what each line is called, and its points, from the left.
        across: what the horizontal axis counts.
        up: what the vertical axis counts, from 0.
        marks: heights of horizontal lines, and what they are called.
        doubling: whether a doubling has the same width everywhere; else a difference has.
        name: id of the chart in the page.
        title: what the chart shows.
        description: what there is to see in it.

    Returns:
        An ``svg`` element.
    """
    points = [point for _, some in series for point in some]
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    top = _round_above(max([*(y for _, y in points), *(height for height, _ in marks)]))
    wide, floor = _WIDTH - _LEFT - _LABEL, _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        scale = math.log2 if doubling else float
        share = (scale(x) - scale(low)) / ((scale(high) - scale(low)) or 1.0)
        return _LEFT + share * wide, floor - y / top * (floor - _TOP)

    parts = [*_axis(top, lambda v: f"{v:,.4g}"), f'<text x="{_LEFT}" y="{_TOP - 3}">{escape(up)}</text>']
    for x in sorted({x for x, _ in points}) if doubling else [low + i / 4 * (high - low) for i in range(5)]:
        parts.append(f'<text x="{at(x, 0)[0]:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{x:,.4g}</text>')
    parts.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 12}" text-anchor="end">{escape(across)}</text>')
    for height, called in marks:
        y = at(low, height)[1]
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{_LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT + wide + 8}" y="{y + 4:.1f}">{escape(called)}</text>')
    taken: list[float] = [at(low, height)[1] for height, _ in marks]
    for i, (called, some) in enumerate(series):
        places = [at(*point) for point in some]
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="series s{i}" points="{told}"/>')
        if len(some) <= _DOTS:
            parts += [
                f'<circle class="dot s{i}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="3">'
                f"<title>{escape(called)}, {x:,.4g}: {y:,.4g}</title></circle>"
                for (x, y), place in zip(some, places, strict=True)
            ]
        # Labels of lines that end near each other make room for each other.
        shifts = (sign * step for step in range(0, _HEIGHT, 2) for sign in (1, -1))
        free = (places[-1][1] + s for s in shifts if all(abs(places[-1][1] + s - other) >= _LINE for other in taken))
        y = next(free, places[-1][1])
        taken.append(y)
        parts.append(f'<text class="label" x="{_LEFT + wide + 8}" y="{y + 4:.1f}">{escape(called)}</text>')
    return _svg(parts, name, title, description)


def bars(
    rows: Sequence[tuple[str, Sequence[float]]],
    series: Sequence[str],
    *,
    unit: str,
    name: str,
    title: str,
    description: str,
) -> str:
    """Lying bars, each of its parts one after the other; the sum stands at its end.

    Args:
        rows: what each bar is called, and its parts.
        series: what the parts are called, at most six.
        unit: of the numbers.
        name: id of the chart in the page.
        title: what the chart shows.
        description: what there is to see in it.

    Returns:
        An ``svg`` element.
    """
    most = max(sum(values) for _, values in rows) or 1.0
    wide, step = _WIDTH - _BAR_LEFT - _LABEL, 30
    parts = []
    for i, (called, values) in enumerate(rows):
        y, x = 8 + i * step, float(_BAR_LEFT)
        told = ", ".join(f"{part} {value:,.3g} {unit}" for part, value in zip(series, values, strict=True))
        parts.append(f"<g><title>{escape(called)}: {escape(told)}</title>")
        parts.append(f'<text class="label" x="{_BAR_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(called)}</text>')
        for j, value in enumerate(values):
            width = value / most * wide
            parts.append(f'<rect class="part s{j}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="20"/>')
            x += width
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 15}">{sum(values):,.4g} {escape(unit)}</text></g>')
    return _svg(parts, name, title, description, height=16 + len(rows) * step)


def _axis(highest: float, called: Any) -> list[str]:
    parts = []
    for share in (0, 0.5, 1):
        y = _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = escape(called(share * highest))
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return parts


def _svg(parts: Sequence[str], name: str, title: str, description: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
        + "".join(parts)
        + "</svg>"
    )


def _round_above(value: float) -> float:
    """``_round_up`` for what may be below 1."""
    scale = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return scale * _round_up(value / scale)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 10 times a power of ten, so that its half is round, too; at least 1."""
    size = 1.0
    while value > size * 10:
        size *= 10
    return max(1.0, next(step * size for step in (1, 2, 4, 5, 10) if step * size >= value))


def _day(start: str) -> str:
    return start[:10] if start[11:16] == "00:00" else start[:16].replace("T", " ")
