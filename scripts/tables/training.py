"""The training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tables.cells import decimal, percent, recall_at, rows_of


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    made = {name: runs(json.loads((results / f"{name}.json").read_text())) for name in ("runs", "runs_3")}
    measured = ("quality_3", "quality_continued", "quality_3_later", "quality_mixed", "quality_31", "quality_4")
    third, went_on, third_later, half_way, rounded, fourth = (
        json.loads((results / f"{name}.json").read_text()) for name in measured
    )
    return made | {
        "continued": continued({"bundle 3": third, "continued": went_on}),
        "mixed": mixed(json.loads((results / "mixed.json").read_text())),
        "fourth": continued({"bundle 3": third_later, "half way": half_way}),
        "bundle_4": continued({"bundle 3.1": rounded, "bundle 4": fourth}),
    }


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


def mixed(results: dict[str, Any]) -> str:
    """Weights on the way from one run to the next."""
    names = ("all", "public", "contextual", "content", "neighbours")
    body = [
        [name, *(f"{row[figure]:.3f}" for figure in names), f"{100 * row['ranked_right']:.1f} %"]
        for name, row in results["weights"].items()
    ]
    return rows_of(["weights", "AUROC", "public", "contextual", "content", "harmless neighbours", "ranked right"], body)


def continued(results: dict[str, dict[str, Any]]) -> str:
    """Two models on the report split, side by side."""
    figures = {
        "AUROC": lambda r: decimal(r["overall"]["auroc"]),
        "recall at 1 % false positives": lambda r: percent(recall_at(r["overall"], "0.01")),
        "recall at 5 % false positives": lambda r: percent(recall_at(r["overall"], "0.05")),
        "default mode: caught": lambda r: percent(r["overall"]["recall"]),
        "default mode: false alarms": lambda r: percent(r["overall"]["false_alarm_rate"]),
        "groups ranked right": lambda r: percent(r["groups"]["overall"]["ranked"]),
        "groups, every record right": lambda r: percent(r["groups"]["overall"]["right"]),
        "groups, requester's role: ranked right": lambda r: percent(r["groups"]["by_factor"]["user_role"]["ranked"]),
        "macro-F1 over ten intents": lambda r: percent(r["intents"]["macro_f1"]),
        "spans that hold the attack": lambda r: percent(r["spans"]["overall"]["contains_90"]),
        "calibration error": lambda r: decimal(r["calibration"]["ece"]),
    }
    body = [[name, *(figure(result) for result in results.values())] for name, figure in figures.items()]
    return rows_of(["", *results], body)
