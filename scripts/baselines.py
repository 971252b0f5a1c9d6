"""Fit the shortcut baselines on training records and evaluate them on the report records.

python scripts/baselines.py --train runs/data/train.jsonl --data runs/data/report --out baselines.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from promptguard.bench.baselines import baselines
from promptguard.bench.provenance import provenance
from promptguard.bench.records import limit_per_source, read_records
from promptguard.training.calibrate import PRIOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-records", type=int, default=30_000)
    parser.add_argument("--limit-per-source", type=int)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    train = limit_per_source(read_records([arguments.train]), arguments.train_records, seed=0)
    records = read_records([arguments.data])
    if arguments.limit_per_source:
        records = limit_per_source(records, arguments.limit_per_source, seed=0)
    results = baselines(train, records, bootstrap=200, prior=PRIOR)
    for result in results.values():
        result.pop("by", None)
    content = {"provenance": provenance(sys.argv), "fitted_on": len(train), "results": results}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    for name, result in results.items():
        print(name, result["overall"]["auroc"])


if __name__ == "__main__":
    main()
