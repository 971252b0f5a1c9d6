"""The report's charts, as SVG that stands in the page: no script, no font, no colour of its own.

Colours come from the page's classes, so that light, dark and print each have theirs. Every chart has a title and
a description for those who hear the page, and a table beside it has the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 960, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 28


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


def _axis(highest: float, called: Any) -> list[str]:
    parts = []
    for share in (0, 0.5, 1):
        y = _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = escape(called(share * highest))
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return parts


def _svg(parts: Sequence[str], name: str, title: str, description: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
        + "".join(parts)
        + "</svg>"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 10 times a power of ten, so that its half is round, too; at least 1."""
    size = 1.0
    while value > size * 10:
        size *= 10
    return max(1.0, next(step * size for step in (1, 2, 4, 5, 10) if step * size >= value))


def _day(start: str) -> str:
    return start[:10] if start[11:16] == "00:00" else start[:16].replace("T", " ")
