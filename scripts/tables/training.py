"""The training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tables.cells import rows_of


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    return {name: runs(json.loads((results / f"{name}.json").read_text())) for name in ("runs", "runs_3")}


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
