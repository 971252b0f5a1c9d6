"""What a person sees of a scan: a bar while it runs, counts at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from promptguard.terminal import visible

if TYPE_CHECKING:
    from promptguard.logs import Progress, ScanResult

_PASSED_OVER_SHOWN = 3


class ScanProgress:
    """A bar with rows a second and the time that is left, on standard error; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("{task.fields[rows]}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True, highlight=False),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._began = time.perf_counter()
        self._first: Progress | None = None

    def __enter__(self) -> ScanProgress:
        self._bar.start()
        self._task = self._bar.add_task("", total=1.0, rows="starting", speed="")
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.refresh()
        self._bar.stop()

    def __call__(self, now: Progress) -> None:
        """Show how far it is."""
        if self._first is None:  # speed is that of this run: what an earlier one did, and loading, do not count
            self._first, self._began = now, time.perf_counter()
        seconds = time.perf_counter() - self._began
        speed = (now.rows - self._first.rows) / seconds if seconds > 0 else 0.0
        said = f"{speed:,.0f} rows/s" if seconds > 1 else ""
        if now.share is not None and self._first.share is not None and now.share > self._first.share and seconds > 1:
            said += f", {_span(seconds * (1 - now.share) / (now.share - self._first.share))} left"
        if self._task is not None:
            rows = f"{now.rows:,} rows, {now.flagged:,} flagged"
            self._bar.update(self._task, completed=now.share or 0.0, rows=rows, speed=said)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def facts(result: ScanResult) -> dict[str, Any]:
    """JSON-ready counts of a scan."""
    return {
        "rows": result.rows,
        "ok": result.ok,
        "errors": result.errors,
        "flagged": result.flagged,
        "resumed": result.resumed,
        "seconds": round(result.seconds, 3),
        "presets": dict(result.presets),
        "passed_over": list(result.passed_over),
        "folder": str(result.folder),
    }


def show_scan(result: ScanResult) -> None:
    """Print the counts."""
    share = f" ({result.flagged / result.ok:.2%})" if result.ok else ""
    typer.echo(
        f"{result.rows:,} rows: {result.ok:,} scored, {result.errors:,} not read; {result.flagged:,} flagged{share}"
    )
    presets = ", ".join(f"{name} ({rows:,})" for name, rows in sorted(result.presets.items(), key=lambda p: -p[1]))
    typer.echo(f"read as {presets or 'nothing'}; {result.seconds:,.1f} s; written to {visible(str(result.folder))}")
    if result.resumed:
        typer.echo(f"{result.resumed:,} rows had been finished before")
    if result.passed_over:
        shown = ", ".join(visible(path) for path in result.passed_over[:_PASSED_OVER_SHOWN])
        more = len(result.passed_over) - _PASSED_OVER_SHOWN
        typer.echo(f"not read, by their names: {shown}{f' and {more:,} more' if more > 0 else ''}", err=True)
