"""Put the figures of result files into README.md and docs/model-card.md, between their markers.

    python scripts/write_tables.py

Nothing in those tables is typed by hand: ``<!-- table: NAME -->`` starts one, ``<!-- end -->`` ends it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "model-card.md")


def main() -> None:
    quality = json.loads((RESULTS / "quality.json").read_text())
    tables = {
        "headline": headline(quality, json.loads((RESULTS / "baselines.json").read_text())),
        "sources": slices(quality, "source", least=1),
        "intents": intents(quality),
        "channels": slices(quality, "channel"),
        "languages": slices(quality, "lang"),
        "lengths": slices(quality, "length"),
        "groups": groups(quality),
        "spans": spans(quality),
        "ablations": ablation(quality),
        "latency": latency(json.loads((RESULTS / "latency.json").read_text())),
        "circumstances": circumstances(quality),
        "parity": parity(json.loads((RESULTS / "parity.json").read_text())),
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = pattern.sub(lambda match, table=table: match.group(1) + table + match.group(2), text)
        page.write_text(text, encoding="utf-8")


def rows_of(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(value: Any) -> str:
    """A share, with its interval if it has one."""
    if isinstance(value, dict):
        interval = f" ({100 * value['low']:.0f}–{100 * value['high']:.0f})" if value.get("low") is not None else ""
        return percent(value.get("value")) + interval
    return "–" if value is None else f"{100 * value:.1f} %"


def decimal(value: Any) -> str:
    if isinstance(value, dict):
        interval = f" ({value['low']:.2f}–{value['high']:.2f})" if value.get("low") is not None else ""
        return decimal(value.get("value")) + interval
    return "–" if value is None else f"{value:.3f}"


def recall_at(row: dict[str, Any], rate: str) -> Any:
    found = row["recall_at_fpr"]
    return found.get(rate) if isinstance(found, dict) else None


def headline(quality: dict[str, Any], baselines: dict[str, Any]) -> str:
    withheld = quality["ablations"]["withheld"]["all"]
    body = [figures("promptguard", quality)]
    body.append(
        [
            "promptguard, context withheld",
            decimal(withheld["auroc"]),
            "–",
            percent(withheld["groups"]["ranked"]),
            percent(withheld["groups"]["right"]),
        ]
    )
    names = {
        "words of the text": "TF-IDF + logistic regression: text",
        "words of the context": "the same: context",
        "words of both": "the same: text and context",
    }
    body += [figures(names.get(name, name), result) for name, result in baselines["results"].items()]
    return rows_of(
        ["", "AUROC", "recall at 1 % false positives", "groups ranked right", "groups, every record right"], body
    )


def figures(name: str, result: dict[str, Any]) -> list[str]:
    overall, pairs = result["overall"], result["groups"]["by_kind"].get("one text", result["groups"]["overall"])
    return [
        name,
        decimal(overall["auroc"]),
        percent(recall_at(overall, "0.01")),
        percent(pairs["ranked"]),
        percent(pairs["right"]),
    ]


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
            percent(row["precision"]),
            percent(row["recall"]),
            percent(row["f1"]),
        ]
        for name, row in each.items()
    ]
    body.append(["macro over ten", "", "", "", "", percent(quality["intents"]["macro_f1"])])
    return rows_of(["intent", "records", "AUROC", "precision", "recall", "F1"], body)


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


def ablation(quality: dict[str, Any]) -> str:
    found = quality["ablations"]
    rows = [("as it is", found["full"])]
    rows += [(f"{name} {kind}", row) for kind in ("withheld", "swapped") for name, row in found[kind].items()]
    body = [
        [name, decimal(row["auroc"]), percent(row["groups"]["ranked"]), percent(row["groups"]["right"])]
        for name, row in rows
    ]
    return rows_of(["context", "AUROC", "groups ranked right", "every record right"], body)


def latency(result: dict[str, Any]) -> str:
    body = [
        [
            str(r["text_tokens"]),
            str(r["context_tokens"] or "–"),
            r["context"],
            f"{r['median_ms']:.1f}",
            f"{r['p10_ms']:.1f}–{r['p90_ms']:.1f}",
            f"{r['ratio_to_ceiling']:.1f}",
        ]
        for r in result["rows"]
    ]
    return rows_of(["text tokens", "context tokens", "context", "median ms", "10–90 %", "times the ceiling"], body)


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


def circumstances(quality: dict[str, Any]) -> str:
    facts = quality["provenance"]
    return (
        f"{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {quality['settings']['model']}, {quality['overall']['n']:,} records, "
        f"mode {quality['settings']['mode']}; "
        f"`python {facts['command']}`\n"
    )


if __name__ == "__main__":
    main()
