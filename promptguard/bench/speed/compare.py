"""Two results of ``promptguard bench speed``: how many times as long, or as much, the second is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from promptguard.bench.speed.figures import ratio_of_medians
from promptguard.bench.speed.machine import SAME
from promptguard.bench.speed.run_speed import SCHEMA
from promptguard.errors import InputError

AXES = (
    "scenario", "text_tokens", "context_tokens", "context", "batch", "workers", "callers", "threads", "precision",
    "active_provider",
)  # fmt: skip
"""What two rows must have in common to be compared; the model may differ, it is what one may want to compare."""

_LEAST = 20
"""Samples of a row; the median of fewer says little."""


def read_result(path: Path | str) -> dict[str, Any]:
    """Read a result of ``promptguard bench speed``.

    Args:
        path: its file.

    Returns:
        The result.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON") from None
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} is not a result of promptguard bench speed, or of another version of it")
    return dict(result)


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], *, force: bool = False, seed: int = 0, replicates: int = 2000
) -> dict[str, Any]:
    """Compare the rows that two results have in common.

    Args:
        a: a result.
        b: another.
        force: compare though the machines differ.
        seed: of the intervals.
        replicates: of the intervals.

    Returns:
        ``machines``: names of the facts in which they differ; ``rows``: each with its axes and ``ratio``, ``b`` over
        ``a``, of the median latency with a 95 % interval (``value``, ``low``, ``high``; none in a row of stages),
        further ``rate_ratio`` of throughput or of a server's rate, None where there is none; ``only_a`` and ``only_b``:
        how many rows one has alone.

    Raises:
        InputError: the machines differ, logs of other lengths were sent, or there is nothing in common.
    """
    here, there = a["provenance"]["machine"], b["provenance"]["machine"]
    different = [name for name in SAME if here.get(name) != there.get(name)]
    if different and not force:
        raise InputError(
            f"the results are of different machines ({', '.join(different)}): times would say nothing of the software; "
            "--force compares them all the same"
        )
    if a["settings"]["traffic"] != b["settings"]["traffic"]:
        raise InputError("the results were made with different traffic logs")
    first, second = (_by_axes(result) for result in (a, b))
    common = [axes for axes in first if axes in second]
    if not common:
        raise InputError("the results have no row in common")
    return {
        "machines": different,
        "rows": [
            dict(zip(AXES, axes, strict=True)) | _ratios(first[axes], second[axes], seed, replicates) for axes in common
        ],
        "only_a": len(first) - len(common),
        "only_b": len(second) - len(common),
    }


def _by_axes(result: Mapping[str, Any]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {tuple(row[name] for name in AXES): row for row in result["rows"] if row["scenario"] != "stages"}


def _ratios(a: Mapping[str, Any], b: Mapping[str, Any], seed: int, replicates: int) -> dict[str, Any]:
    if a["scenario"] == "server":
        same = (a["slo_ms"], a["share"]) == (b["slo_ms"], b["share"]) and a["rate"] and b["rate"]
        return {"ratio": None, "rate_ratio": b["rate"] / a["rate"] if same else None}
    samples = [np.array(row["samples_ms"], np.float64) for row in (a, b)]
    enough = min(map(len, samples)) >= _LEAST
    ratio = ratio_of_medians(*samples, seed=seed, replicates=replicates) if enough else None
    rate, other = a.get("texts_per_second"), b.get("texts_per_second")
    return {"ratio": ratio, "rate_ratio": other / rate if rate and other else None}
