r"""Labels of training records that a bundle contradicts, most doubtful first, for a reader.

python scripts/doubt_labels.py --model promptguard/model --records runs/data/train.jsonl --limit-per-source 800 \
        --out runs/doubts.jsonl

Confident learning (Northcutt et al. 2021, cleanlab) wants predictions from a model that did not see the labels. A
bundle that saw them once or never comes near enough; one that trained long on them agrees with their mistakes.
What a reader finds wrong goes into promptguard/training/data/label_review.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues

from promptguard.guard import Guard
from promptguard.training.calibrate import is_risky
from promptguard.training.data import read_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--limit-per-source", type=int, default=800)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    by_source: dict[str, list[dict]] = defaultdict(list)
    for record in read_jsonl(arguments.records):
        if record["source"] != "composed":  # composed labels follow from their parts
            by_source[record["source"]].append(record)
    records = [r for rows in by_source.values() for r in rows[: arguments.limit_per_source]]
    # A prior of one half: the records are about that, ordinary traffic is not.
    guard = Guard(arguments.model, prior=0.5)
    risk = np.array([a.risk for a in guard.analyze_many((r["text"], r["context"]) for r in records)])
    labels = is_risky(records).astype(int)
    ranked = find_label_issues(labels, np.stack([1 - risk, risk], axis=1), return_indices_ranked_by="self_confidence")
    with arguments.out.open("w", encoding="utf-8") as lines:
        for i in ranked:
            shown = {name: records[i][name] for name in ("id", "labels", "text", "context")}
            lines.write(json.dumps({"risk": round(float(risk[i]), 3), **shown}, ensure_ascii=False) + "\n")
    print(f"{len(ranked):,} of {len(records):,} labels doubted")


if __name__ == "__main__":
    main()
