"""Fit a bundle's constants and thresholds on the calibration records, in place.

python scripts/calibrate.py --bundle runs/bundle --records runs/data/calibration.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from promptguard import bundle
from promptguard.guard import Guard
from promptguard.runtime import cores
from promptguard.training import calibrate as c
from promptguard.training.data import read_jsonl
from promptguard.training.export import uncalibrated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=500, help="most records a source")
    arguments = parser.parse_args()
    manifest = json.loads((arguments.bundle / bundle.MANIFEST).read_text())
    bundle.write_manifest(arguments.bundle, {**manifest, **uncalibrated()})
    records = sample(arguments.records, arguments.limit)
    guard = Guard(arguments.bundle)
    with ThreadPoolExecutor(cores()) as pool:
        analyses = list(pool.map(guard.analyze, (r["text"] for r in records), (r["context"] for r in records)))
    gain = without_and_with_similarity(records, analyses)
    # The index counts only if it helps on sources it was not fitted on.
    similarity = gain["recall_at_1_percent"][1] > gain["recall_at_1_percent"][0]
    fitted = c.calibrate(records, analyses, similarity=similarity)
    fitted["calibration"]["similarity_without_with"] = gain
    bundle.write_manifest(arguments.bundle, {**manifest, **fitted})
    print(json.dumps({k: fitted[k] for k in ("calibration", "thresholds")}, indent=1))
    print(json.dumps(fitted["fusion"]["risk"]))


def sample(path: Path, limit: int) -> list[dict]:
    by_source: dict[str, list[dict]] = {}
    for record in read_jsonl(path):
        by_source.setdefault(record["source"], []).append(record)
    for rows in by_source.values():
        random.Random(0).shuffle(rows)
    return [r for rows in by_source.values() for r in rows[: limit if rows[0]["family"] != "contextual" else None]]


def without_and_with_similarity(records: list[dict], analyses: list) -> dict[str, list[float]]:
    """AUROC and recall at 1 % false positives, each source scored by constants fitted on the others."""
    risky, weight = c.is_risky(records), c.weights(records)
    traffic = c.weights(records, contrast=0.0)
    groups = np.array([hash_of(r["source"]) for r in records])
    result: dict[str, list[float]] = {"auroc": [], "recall_at_1_percent": []}
    for names in (c.RISK_FEATURES[:-1], c.RISK_FEATURES):
        table, score = c.features(analyses, names), np.zeros(len(records))
        for train, test in GroupKFold(5).split(table, groups=groups):
            coefficients, bias = c.fit(table[train], risky[train], weight[train])
            score[test] = table[test] @ coefficients + bias
        threshold = c.quantile(score[~risky], traffic[~risky], 0.01)
        result["auroc"].append(round(float(roc_auc_score(risky, score, sample_weight=weight)), 4))
        recall = (weight[risky] * (score[risky] >= threshold)).sum() / weight[risky].sum()
        result["recall_at_1_percent"].append(round(float(recall), 4))
    return result


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[:6].ljust(6), "big")


if __name__ == "__main__":
    main()
