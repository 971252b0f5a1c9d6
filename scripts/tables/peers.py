"""promptguard beside other packages and shortcuts, on the same records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tables.cells import decimal, percent, recall_at, rows_of


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    others = json.loads((results / "peers.json").read_text())
    makers = (peers, peers_kinds, peers_equal, peers_sources, peers_circumstances)
    return {make.__name__: make(others) for make in makers}


BASELINES = {
    "words of the text": "TF-IDF + logistic regression: text",
    "words of the context": "the same: context",
    "words of both": "the same: text and context",
    "embeddings of the text": "embeddings + logistic regression: text",
    "embeddings of both": "the same: text and context",
}
"""How the tables call the baselines; length and keywords keep their names."""


def peers(others: dict[str, Any]) -> str:
    """At its own default, at equal false alarms, and where only the context decides."""
    body = []
    for name, row in others["results"].items():
        whole = row["kinds"]["all"]
        body.append(
            [
                BASELINES.get(name, name),
                percent(whole["recall"]),
                percent(whole["false_alarm_rate"]),
                percent(recall_at(whole, "0.01")),
                percent(recall_at(whole, "0.05")),
                decimal(whole["auroc"]),
                percent(row["pairs"] and row["pairs"]["ranked"]),
                percent(row["pairs"] and row["pairs"]["right"]),
                f"{row['milliseconds']['median']:.1f}",
            ]
        )
    head = ["", "caught, own default", "false alarms, own default", "caught at 1 % false alarms", "at 5 %", "AUROC"]
    return rows_of([*head, "same text: ranked right", "every record right", "ms"], body)


def part(kinds: dict[str, Any], kind: str, figure: str) -> str:
    """A share of one kind of data; a dash where there is none."""
    return percent(kinds[kind][figure] if kind in kinds else None)


def peers_kinds(others: dict[str, Any]) -> str:
    columns = {
        "public attacks: caught": ("public attacks", "recall"),
        "injection, jailbreak, extraction: caught": ("attacks on the model", "recall"),
        "trigger words: flagged": ("trigger words", "false_alarm_rate"),
        "ordinary traffic: flagged": ("ordinary traffic", "false_alarm_rate"),
        "content: attacked, caught": ("content", "recall"),
        "content: clean, flagged": ("content", "false_alarm_rate"),
    }
    body = [
        [BASELINES.get(name, name), *(part(row["kinds"], *column) for column in columns.values())]
        + [percent(row[groups] and row[groups]["right"]) for groups in ("pairs", "twins")]
        for name, row in others["results"].items()
    ]
    return rows_of(["own default", *columns, "same text: every record right", "twin texts: every record right"], body)


def peers_equal(others: dict[str, Any]) -> str:
    """Without the records where the context decides, in the thresholds, too."""
    kinds = {
        "all": "all",
        "public attacks": "public attacks",
        "injection, jailbreak, extraction": "attacks on the model",
        "attacked content": "content",
    }
    body = []
    for name, row in others["results"].items():
        found = row["text_decides"]
        cells = [percent(recall_at(found[kind], rate)) for kind in kinds.values() for rate in ("0.01", "0.05")]
        areas = [decimal(found[kind]["auroc"]) for kind in ("all", "attacks on the model", "content")]
        body.append([BASELINES.get(name, name), *cells, *areas])
    head = [f"{name}: caught at {rate}" for name in kinds for rate in ("1 %", "5 %")]
    head += ["AUROC, all", "AUROC, injection, jailbreak, extraction", "AUROC, content"]
    return rows_of(["equal false alarms", *head], body)


def peers_sources(others: dict[str, Any]) -> str:
    first = next(iter(others["results"].values()))["kinds"]
    sources = [kind for kind in first if kind.startswith("source: ")]
    body = [
        [BASELINES.get(name, name), *(part(row["kinds"], source, "recall") for source in sources)]
        for name, row in others["results"].items()
    ]
    head = [f"{source.removeprefix('source: ')} ({first[source]['risky']})" for source in sources]
    return rows_of(["caught, own default", *head], body)


def peers_circumstances(others: dict[str, Any]) -> str:
    facts, rows, settings = others["provenance"], others["results"], others["settings"]
    versions = [f"{name} {row['version']}" for name, row in rows.items() if row["version"] and ", " not in name]
    fitted = f"baselines fitted on {settings['fitted_on']:,} training records"
    if "embeddings of the text" in rows:
        fitted += f", embeddings on {settings['embeddings_fitted_on']:,}"
    return (
        f"{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {rows['promptguard']['model']}, {rows['promptguard']['kinds']['all']['n']:,} records, "
        f"{', '.join(versions)}; {fitted}; `python {facts['command']}`\n"
    )
