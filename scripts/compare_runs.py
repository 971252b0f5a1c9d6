r"""Figures of training runs on one split, and what they were: benchmarks/results/runs.json.

python scripts/compare_runs.py --records runs/data/calibration.jsonl --out benchmarks/results/runs.json \
        runs/first runs/teacher …

A folder holds ``settings.json``, ``log.jsonl`` and ``logits.npy``: logits of every row of the split, laid out
by ``lay_out`` here and read by ``training.train.predict``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from promptguard.bench.provenance import provenance
from promptguard.context import ContextEncoder
from promptguard.intents import INTENTS, RISKY_INTENTS
from promptguard.tokenizer import Tokenizer
from promptguard.training import calibrate
from promptguard.training.batches import Store
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS, Example, examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=Path("promptguard/model/tokenizer.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    records = drawn(arguments.records)
    store = lay_out(records, arguments.tokenizer)
    found = {}
    for run in arguments.runs:
        logits = np.maximum.reduceat(np.load(run / "logits.npy").astype(float), store.first_row[:-1])
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        found[run.name] = {
            "settings": json.loads((run / "settings.json").read_text()),
            "last_line_of_log": log[-1],
            **figures(records, logits, np.diff(store.first_row)),
        }
        print(run.name, {k: v for k, v in found[run.name].items() if k not in ("settings", "last_line_of_log")})
    result = {"provenance": provenance(sys.argv), "records": len(records), "runs": found}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def drawn(path: Path, limit: int = 300, limit_composed: int = 800) -> list[dict]:
    """Records of a split, at most so many of a source; every contextual one."""
    by_source: dict[str, list[dict]] = defaultdict(list)
    for record in read_jsonl(path):
        by_source[record["source"]].append(record)
    generator, chosen = random.Random(0), []
    for source, rows in by_source.items():
        if rows[0]["family"] == "contextual":
            chosen += rows
            continue
        generator.shuffle(rows)
        chosen += rows[: limit_composed if source == "composed" else limit]
    return chosen


def lay_out(records: list[dict], tokenizer_file: Path) -> Store:
    """One example a record, with its (at most three) windows."""
    tokenizer = Tokenizer(tokenizer_file)
    contexts = ContextEncoder(tokenizer, CONTEXT_TOKENS)
    made = []
    for record in records:
        found = examples({**record, "spans": None}, tokenizer, contexts)
        made.append([Example(tuple(row for e in found for row in e.rows), found[0].labels, None)])
    return Store.of({"records": made})


def figures(records: list[dict], logits: np.ndarray, windows: np.ndarray) -> dict[str, float]:
    """AUROC and ranking of the fused risk; fusion and threshold fitted on these very records."""
    risky, weight = calibrate.is_risky(records), calibrate.weights(records)
    traffic = calibrate.weights(records, contrast=0.0)
    at = [INTENTS.index(name) for name in RISKY_INTENTS]
    none = np.logaddexp(0.0, logits[:, at]).sum(axis=1)
    any_intent = none + np.log(-np.expm1(-np.maximum(none, 1e-12)))
    table = np.stack([logits[:, -1], any_intent, np.log(windows)], axis=1)
    coefficients, bias = calibrate.fit(table, risky, weight)
    risk = table @ coefficients + bias
    threshold = calibrate.quantile(risk[~risky], traffic[~risky], 0.01)
    result = {
        "auroc": roc_auc_score(risky, risk),
        "recall_at_1_percent_of_ordinary": float((risk[risky] >= threshold).mean()),
        "ranked_right": ranked(records, risk, risky),
    }
    for name, family in (
        ("public", ("attacks", "benign")),
        ("contextual", ("contextual",)),
        ("twins", ("neighbours",)),
    ):
        chosen = np.array([r["family"] in family for r in records])
        result[f"auroc_{name}"] = roc_auc_score(risky[chosen], risk[chosen])
    return {k: round(float(v), 4) for k, v in result.items()}


def ranked(records: list[dict], risk: np.ndarray, risky: np.ndarray) -> float:
    """How often the risky member of a group ranks above a harmless one."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        if record["pair_id"]:
            groups[record["pair_id"]].append(i)
    couples = [risk[i] > risk[j] for g in groups.values() for i in g for j in g if risky[i] and not risky[j]]
    return float(np.mean(couples))


if __name__ == "__main__":
    main()
