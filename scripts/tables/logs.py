"""Rows a second over logs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tables.cells import percent, rows_of


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    rows = json.loads((results / "scan.json").read_text())
    return {
        "scan": scan(rows),
        "workers": workers(json.loads((results / "workers.json").read_text())),
        "million": million(results / "million.json"),
        "scale": scale(rows),
    }


TORCH = {"transformers pipeline": "`pipeline` of transformers", "CrossEncoder": "`CrossEncoder.predict`"}
"""How the tables call what reads the same rows in torch."""


PLAN_ROWS, NODE_CORES, PLAN_HOURS, CORE_HOUR = 10_000_000_000, 64, 24, 0.05
"""The plan of docs/scale.md. What a core hour costs, in dollars, is an assumption and no measurement."""


def scan(result: dict[str, Any]) -> str:

    def speed(row: dict[str, Any]) -> str:
        return f"{row['rows_per_cpu_second']:,.0f} ({row['rows_per_second']:,.0f})"

    body = []
    for name, log in result["logs"].items():
        in_torch = log.get("torch", {})
        fastest = max((row["rows_per_cpu_second"] for row in in_torch.values()), default=None)
        body.append(
            [
                "unique texts of 60 tokens under one context of 180" if name == "unique" else "mix",
                f"{log['rows']:,}",
                percent(log.get("repeats", 0.0)),
                *(speed(in_torch[other]) if other in in_torch else "–" for other in TORCH),
                speed(log["loop"]),
                speed(log["scan"]),
                f"{log['scan']['rows_per_cpu_second'] / fastest:.1f}" if fastest else "–",
                f"{log['scan']['rows_per_cpu_second'] / log['loop']['rows_per_cpu_second']:.1f}",
                "yes" if log["verdicts_equal"] else "no",
            ]
        )
    head = ["log", "rows", "repeats", *(f"{name}: rows a processor second (a second)" for name in TORCH.values())]
    head += ["loop over `analyze`", "scan", "scan / faster in torch", "scan / loop", "verdicts equal"]
    share = percent(result["logs"]["unique"]["share_of_ceiling"])
    return rows_of(head, body) + (
        f"\n{result['date'][:10]}, {result['machine']['cpu']} ({result['machine']['cores']} cores, "
        f"load {result['load_before']:.1f} before the start), {result['model']}; the unique texts reach {share} of "
        f"the machine's 8-bit ceiling; `python {result['command']}`\n"
    )


def workers(result: dict[str, Any]) -> str:
    """What a worker process of a scan takes."""
    names = {
        "spawn": "as it is: started afresh (*spawn*)",
        "forkserver": "forked from a process with the modules (*forkserver*)",
        "fork": "forked from a process with the model (*fork*)",
    }
    body = [
        [names[way], number, *(f"{row[kind]:.0f}" for kind in ("resident", "proportional", "own"))]
        for way in names
        for number, ways in result["workers"].items()
        if (row := ways[way])
    ]
    head = ["MB a worker", "workers", "resident", "shared pages in parts", "its own"]
    versions, alone = result["versions"], result["session_mb"]
    return rows_of(head, body) + (
        f"\nOf its own {alone['one file']:.0f} MB are the session's; with the weights beside the graph, in a file that "
        f"is mapped, they would be {alone['weights beside it']:.0f} MB.\n"
        f"\n{result['date'][:10]}, {result['machine']['platform'].split('-')[0]}, Python {versions['python']}, "
        f"onnxruntime {versions['onnxruntime']}, {result['model']}, a graph of {result['graph_mb']:.0f} MB; "
        f"`python {result['command']}`\n"
    )


def million(path: Path) -> str:
    """One scan of a large log, killed and gone on with."""
    if not path.exists():
        return "Not in the results file yet.\n"
    found = json.loads(path.read_text())
    memory, page = found["memory"], found["report"]
    body = [
        ["rows, each with its own row in the output, once and in order", f"{found['check']['rows']:,}"],
        ["repeats among them", percent(found["repeats"])],
        ["different texts in their contexts", f"{found['rows'] * (1 - found['repeats']):,.0f}"],
        ["killed with SIGKILL", f"{found['kills']} times"],
        ["rows a second, kills and all", f"{found['rows_per_second']:,.0f} ({found['workers']} workers)"],
        ["rows a processor second", f"{found['rows_per_cpu_second']:,.0f}"],
        ["verdicts drawn at random that equal those of `Guard.analyze`", f"{found['verdicts']['equal']}"],
        ["memory of all processes after the last kill, most", f"{memory['most_mb']:,.0f} MB"],
        ["its growth a 100,000 rows, after the first tenth", f"{memory['growth_mb_per_100000_rows']:+.1f} MB"],
        ["flagged", f"{found['flagged']:,}"],
        ["report: seconds, most memory", f"{page['seconds']:.0f} s, {page['most_mb']:,.0f} MB"],
    ]
    if "browser_opens_s" in page:
        opens = f"{page['browser_opens_s']:.1f} s (an empty page: {page['browser_opens_blank_s']:.1f} s)"
        body.append([f"report of {page['page_kb']:.0f} kB opens in Chromium, its start included", opens])
    busy = ": others used it, rows a second are a lower bound" if found["mean_load"] > found["workers"] + 1 else ""
    return rows_of(["", ""], body) + (
        f"\n{found['date'][:10]}, {found['machine']['cpu']} ({found['machine']['cores']} cores, mean load "
        f"{found['mean_load']:.1f}{busy}), {found['model']}; "
        f"`python {found['command']}`\n"
    )


def scale(result: dict[str, Any]) -> str:
    """Ten billion rows on paper, from rows a processor second of one core."""
    body = []
    for name, log in result["logs"].items():
        if log.get("repeats", 0.0) > 0.95:
            continue  # measured for what a repeated row costs
        speed = log["scan"]["rows_per_cpu_second"]
        core_hours = PLAN_ROWS / speed / 3600
        nodes = math.ceil(core_hours / PLAN_HOURS / NODE_CORES)
        body.append(
            [
                "unique texts" if name == "unique" else f"mix, {percent(log['repeats'])} repeats",
                f"{speed:,.0f}",
                f"{core_hours:,.0f}",
                f"{nodes:,}",
                f"{core_hours / NODE_CORES / 10:,.0f}",
                f"{core_hours * CORE_HOUR:,.0f}",
                f"{PLAN_ROWS * log['bytes'] / log['rows'] / 1e12:,.1f}",
            ]
        )
    head = ["log", "rows a second a core", "core hours", f"nodes of {NODE_CORES} cores for {PLAN_HOURS} hours"]
    head += ["hours on 10 nodes", f"dollars at {CORE_HOUR} a core hour", "TB to read"]
    return rows_of(head, body) + (
        f"\n{PLAN_ROWS:,} rows, from `benchmarks/results/scan.json` of {result['date'][:10]} "
        f"({result['machine']['cpu']}, {result['model']})\n"
    )
