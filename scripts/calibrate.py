"""Fit a bundle's constants and thresholds on the calibration records, in place.

python scripts/calibrate.py --bundle runs/bundle --records runs/data/calibration.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from promptguard import bundle
from promptguard.guard import Guard
from promptguard.runtime import cores
from promptguard.training import calibrate as c
from promptguard.training.data import read_jsonl
from promptguard.training.export import uncalibrated

SURE = 2 / 3
"""Share of resamples of the sources in which the example index must raise recall to have a part in the risk: what it
raises on average counts more than certainty, and it costs a fraction of a millisecond."""


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
    # The index counts only if it helps on sources it was not fitted on, whichever those are.
    similarity = gain["raises_recall_in"] >= SURE
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


def without_and_with_similarity(records: list[dict], analyses: list, resamples: int = 300) -> dict[str, Any]:
    """AUROC and recall at 1 % false positives, each source scored by constants fitted on the others.

    And in which share of resamples of the sources, drawn with replacement, recall is higher with the index: a few
    benign texts near the threshold move it a lot.
    """
    risky, weight = c.is_risky(records), c.weights(records)
    traffic = c.weights(records, contrast=0.0)
    _, source = np.unique([r["source"] for r in records], return_inverse=True)
    scores = []
    for names in (c.RISK_FEATURES[:-1], c.RISK_FEATURES):
        table, score = c.features(analyses, names), np.zeros(len(records))
        for train, test in GroupKFold(5).split(table, groups=source):
            coefficients, bias = c.fit(table[train], risky[train], weight[train])
            score[test] = table[test] @ coefficients + bias
        scores.append(score)

    def recall(score: np.ndarray, drawn: np.ndarray) -> float:
        threshold = c.quantile(score[~risky], (traffic * drawn)[~risky], 0.01)
        mass = (weight * drawn)[risky]
        return float(mass[score[risky] >= threshold].sum() / mass.sum())

    generator = np.random.default_rng(0)
    draws = generator.multinomial(source.max() + 1, np.full(source.max() + 1, 1 / (source.max() + 1)), resamples)
    higher = [recall(scores[1], draw[source]) > recall(scores[0], draw[source]) for draw in draws]
    return {
        "auroc": [round(float(roc_auc_score(risky, s, sample_weight=weight)), 4) for s in scores],
        "recall_at_1_percent": [round(recall(s, np.ones(len(records))), 4) for s in scores],
        "raises_recall_in": round(float(np.mean(higher)), 3),
    }


if __name__ == "__main__":
    main()
