"""The training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tables.cells import decimal, percent, recall_at, rows_of


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    made = {name: runs(json.loads((results / f"{name}.json").read_text())) for name in ("runs", "runs_3")}
    before, after = (json.loads((results / f"{name}.json").read_text()) for name in ("quality", "quality_continued"))
    return made | {"continued": continued({"bundle 3": before, "continued": after})}


def runs(results: dict[str, Any]) -> str:
    names = ("auroc", "auroc_public", "auroc_contextual", "auroc_twins")
    body = [
        [
            name,
            f"{run['settings']['steps'] or run['last_line_of_log']['step']:,}",
            str(run["last_line_of_log"]["seconds"]),
            *(f"{run[figure]:.3f}" for figure in names),
            f"{100 * run['ranked_right']:.1f} %",
            f"{100 * run['recall_at_1_percent_of_ordinary']:.1f} %",
        ]
        for name, run in results["runs"].items()
    ]
    head = ["run", "steps", "seconds", "AUROC", "public", "contextual", "harmless neighbours", "ranked right",
            "recall at 1 % of ordinary"]  # fmt: skip
    return rows_of(head, body)


def continued(results: dict[str, dict[str, Any]]) -> str:
    """Two models on the report split, side by side."""
    figures = {
        "AUROC": lambda r: decimal(r["overall"]["auroc"]),
        "recall at 1 % false positives": lambda r: percent(recall_at(r["overall"], "0.01")),
        "recall at 5 % false positives": lambda r: percent(recall_at(r["overall"], "0.05")),
        "default mode: caught": lambda r: percent(r["overall"]["recall"]),
        "default mode: false alarms": lambda r: percent(r["overall"]["false_alarm_rate"]),
        "groups ranked right": lambda r: percent(r["groups"]["overall"]["ranked"]),
        "groups, requester's role: ranked right": lambda r: percent(r["groups"]["by_factor"]["user_role"]["ranked"]),
        "macro-F1 over ten intents": lambda r: percent(r["intents"]["macro_f1"]),
        "spans that hold the attack": lambda r: percent(r["spans"]["overall"]["contains_90"]),
        "calibration error": lambda r: decimal(r["calibration"]["ece"]),
    }
    body = [[name, *(figure(result) for result in results.values())] for name, figure in figures.items()]
    return rows_of(["", *results], body)
