"""Build the training, calibration and report records.

    python scripts/build_data.py --data FOLDER --out runs/data

FOLDER holds ``attacks/`` and ``benign/``: docs/data.md says where each file comes from. Without the flag it
is taken from the environment variable PROMPTGUARD_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path

from datasets import Dataset

from promptguard.training.data import SPLITS, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PROMPTGUARD_DATA"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the data folder with --data or PROMPTGUARD_DATA")
    records, manifest = build(Path(arguments.data), seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        rows = [r for r in records if r["split"] == split]
        Dataset.from_list(rows).to_json(arguments.out / f"{split}.jsonl", force_ascii=False)
    # One file a source: the evaluation reports by file.
    (arguments.out / "report").mkdir(exist_ok=True)
    for source in sorted({r["source"] for r in records if r["split"] == "report"}):
        rows = [r for r in records if r["split"] == "report" and r["source"] == source]
        Dataset.from_list(rows).to_json(arguments.out / "report" / f"{source}.jsonl", force_ascii=False)
    (arguments.out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for key, count in sorted(Counter((r["split"], r["family"], bool(r["labels"])) for r in records).items()):
        print(*key, count)


if __name__ == "__main__":
    main()
