"""What the model says right and wrong: the model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables.cells import circumstances, decimal, percent, rows_of


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    quality, withheld = (json.loads((results / f"{name}.json").read_text()) for name in ("quality", "ablations"))
    return {
        "sources": slices(quality, "source", least=1),
        "intents": intents(quality),
        "channels": slices(quality, "channel"),
        "languages": slices(quality, "lang"),
        "lengths": slices(quality, "length"),
        "groups": groups(quality),
        "spans": spans(quality),
        "pooled": pooled(quality),
        "transfer": once_measured(transfer, quality, "transfer"),
        "modes": once_measured(modes, quality, "modes"),
        "windows": once_measured(windows, quality, "windows"),
        "wording": wording(json.loads((results / "wording.json").read_text())),
        "ablations": ablation(withheld),
        "ablations_circumstances": circumstances(withheld),
        "circumstances": circumstances(quality),
        "parity": parity(json.loads((results / "parity.json").read_text())),
    }


def slices(quality: dict[str, Any], by: str, least: int = 20) -> str:
    """One row a slice of at least ``least`` records: fewer say nothing."""
    body = [
        [
            name,
            str(row["n"]),
            str(row["risky"]),
            decimal(row["auroc"]),
            percent(row["recall"]),
            percent(row["false_alarm_rate"]),
        ]
        for name, row in quality["by"][by].items()
        if row["n"] >= least
    ]
    return rows_of([by, "records", "risky", "AUROC", "caught", "false alarms"], body)


def intents(quality: dict[str, Any]) -> str:
    each = quality["intents"]["each"]
    body = [
        [
            name,
            str(row["n"]),
            decimal(row["auroc"]),
            decimal(row["average_precision"]),
            percent(row["precision"]),
            percent(row["recall"]),
            percent(row["f1"]),
        ]
        for name, row in each.items()
    ]
    body.append(["macro over ten", "", "", "", "", "", percent(quality["intents"]["macro_f1"])])
    return rows_of(["intent", "records", "AUROC", "average precision", "precision", "recall", "F1"], body)


def groups(quality: dict[str, Any]) -> str:
    kinds = quality["groups"]["by_kind"] | {f"factor {k}": v for k, v in quality["groups"]["by_factor"].items()}
    body = [[name, str(row["n"]), percent(row["ranked"]), percent(row["right"])] for name, row in kinds.items()]
    return rows_of(["groups", "number", "risky ranked above harmless", "every record right"], body)


def spans(quality: dict[str, Any]) -> str:
    found = quality["spans"]
    rows = {"all": found["overall"], "content": found.get("content"), "content, flagged": found.get("content_flagged")}
    names = ("token_precision", "token_recall", "token_f1", "contains_90", "contains_100", "redacted_clean")
    body = [
        [name, str(row["n"]), *(percent(row.get(figure)) for figure in names)]
        for name, row in (rows | found["by_source"]).items()
        if row
    ]
    head = ["", "attacks", "precision", "recall", "F1", "contains 90 %", "contains all", "clean once redacted"]
    return rows_of(head, body)


def once_measured(table: Callable[[Any], str], quality: dict[str, Any], part: str) -> str:
    """A table of a part of the results that an older results file may lack."""
    return table(quality[part]) if part in quality else "Not in the results file yet.\n"


def pooled(quality: dict[str, Any]) -> str:
    overall, pairs = quality["overall"], quality["groups"]["overall"]
    body = [["AUROC", decimal(overall["auroc"])], ["average precision", decimal(overall["average_precision"])]]
    body += [
        [f"recall at {100 * float(rate):g} % false positives", percent(found)]
        for rate, found in overall["recall_at_fpr"].items()
    ]
    prior = quality["settings"]["prior"]
    body.append([f"expected calibration error at {100 * prior:g} % risky", decimal(quality["calibration"]["ece"])])
    body.append(["groups, every record right", percent(pairs["right"])])
    return rows_of(["all records", ""], body)


def transfer(found: dict[str, Any]) -> str:
    body = [[name, row["family"], str(row["n"]), percent(row)] for name, row in found["by_source"].items()]
    for family, row in found["summary"].items():
        if row["sources"]:
            body.append([f"mean of {row['sources']} sources", family, "", percent(row["mean"])])
            body.append([f"worst of them, {row['worst']['source']}", family, "", percent(row["worst"])])
    head = ["source of attack", "family", "risky", f"recall at 1 % of {found['benign']:,} ordinary benign records"]
    return rows_of(head, body)


def modes(found: dict[str, Any], least: int = 100) -> str:
    """Kinds of traffic, and sources of at least ``least`` ordinary benign records: of fewer, 1 % is not one."""
    some = next(iter(found.values()))
    body = [["the mix that defines the modes", "", *(percent(part["traffic"]) for part in found.values())]]
    for by in ("by_kind", "by_source"):
        for name, row in some[by].items():
            if by == "by_kind" or row["n"] >= least:
                cells = (percent(part[by][name]) for part in found.values())
                body.append([name if by == "by_kind" else f"`{name}`", str(row["n"]), *cells])
    largest = (f"{part['largest']['ratio']:.1f} ({part['largest']['kind']})" for part in found.values())
    body.append(["largest ratio of a kind to the nominal rate", "", *largest])
    head = [f"{mode}: nominal {percent(part['nominal'])}" for mode, part in found.items()]
    return rows_of(["ordinary benign records", "number", *head], body)


def windows(found: dict[str, Any]) -> str:
    body = []
    for texts, rows in found.items():
        for name, row in rows.items():
            rates = (percent(row["at_modes"][mode]) for mode in ("balanced", "strict"))
            alarms = percent(row["false_alarm_rate"])
            body.append([texts, name, str(row["n"]), alarms, *rates, decimal(row["mean_risk"])])
    head = [
        "ordinary benign texts",
        "windows",
        "number",
        "false alarms",
        "risk at *balanced*",
        "at *strict*",
        "mean risk",
    ]
    return rows_of(head, body)


def wording(result: dict[str, Any]) -> str:
    rows = {**result["each"], **{f"**{name}**": row for name, row in result["kinds"].items()}, "**all**": result["all"]}
    body = [
        [
            name,
            str(row["n"]),
            str(row["prompts"]),
            percent(row["changed"]),
            percent(row["flips"]),
            f"{row['to_flagged']} / {row['to_allowed']}",
        ]
        for name, row in rows.items()
    ]
    head = ["change of the system prompt", "records", "prompts", "decision changed", "*allow* to flagged or back"]
    facts = result["provenance"]
    return (
        rows_of([*head, "to flagged / to *allow*"], body)
        + f"\n{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {result['settings']['model']}, mode {result['settings']['mode']}, {result['records']:,} records, "
        f"{result['flagged']:,} of them flagged as they are; `python {facts['command']}`\n"
    )


def ablation(quality: dict[str, Any]) -> str:
    found = quality["ablations"]
    rows = [("as it is", found["full"])]
    rows += [(f"{name} {kind}", row) for kind in ("withheld", "swapped") for name, row in found[kind].items()]
    body = [
        [name, decimal(row["auroc"]), percent(row["groups"]["ranked"]), percent(row["groups"]["right"])]
        for name, row in rows
    ]
    return rows_of(["context", "AUROC", "groups ranked right", "every record right"], body)


def parity(result: dict[str, Any]) -> str:
    against = result["against_fp32"]
    body = [["fp32", decimal(result["auroc"]["fp32"]), "–", "–", "–"]]
    body += [
        [
            name,
            decimal(result["auroc"][name]),
            f"{row['largest_difference_in_risk']:.3f}",
            f"{row['mean_difference_in_risk']:.4f}",
            percent(row["equal_decisions"]),
        ]
        for name, row in against.items()
    ]
    return rows_of(["precision", "AUROC", "largest difference in risk", "mean difference", "equal decisions"], body)
