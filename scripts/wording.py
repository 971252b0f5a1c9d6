"""Analyse records again with their system prompts said otherwise, and write how many decisions changed.

    python scripts/wording.py --data runs/data/report --limit-per-source 40 --out benchmarks/results/wording.json

Paragraphs are those the trainer does not use; rephrased are only the records whose prompts the tables hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from promptguard.bench.provenance import provenance
from promptguard.bench.records import limit_per_source, read_records
from promptguard.bench.wording import read_asides, read_rewordings, wordings
from promptguard.errors import PromptGuardError
from promptguard.guard import Guard

ROOT = Path(__file__).parent.parent
ASIDES = ROOT / "promptguard" / "training" / "data" / "written_asides.jsonl"
REWORDINGS = [ASIDES.with_name("written_rewordings.jsonl"), ROOT / "benchmarks" / "rewordings.jsonl"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="PATH", help="files of records, or folders of *.jsonl")
    add("--model", metavar="BUNDLE", help="a bundle's folder; the embedded one if left out")
    add("--mode", default="balanced", choices=("low-alarm", "balanced", "strict"))
    add("--asides", type=Path, default=ASIDES, metavar="JSONL", help="irrelevant paragraphs")
    add("--rewordings", nargs="+", type=Path, default=REWORDINGS, metavar="JSONL", help="rephrased system prompts")
    add("--limit-per-source", type=int, metavar="N", help="draw at most N records of each source")
    add("--bootstrap", type=int, default=1000, metavar="N", help="replicates of the intervals, 0 for none")
    add("--seed", type=int, default=0)
    add("--out", type=Path, required=True, metavar="JSON")
    options = parser.parse_args()
    circumstances = provenance(sys.argv)
    asides, rewordings = read_asides(options.asides), read_rewordings(options.rewordings)
    records = [record for record in read_records(options.data) if record.context.system_prompt]
    if options.limit_per_source is not None:
        records = limit_per_source(records, options.limit_per_source, seed=options.seed)
    guard = Guard(options.model, mode=options.mode)
    result = wordings(
        guard, records, asides, rewordings, seed=options.seed, bootstrap=options.bootstrap, progress=progress
    )
    settings = {"model": guard.model, "mode": options.mode, "limit_per_source": options.limit_per_source}
    result = {"provenance": circumstances, "settings": settings | {"bootstrap": options.bootstrap}, **result}
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for name, row in (result["each"] | result["kinds"]).items():
        if row["n"]:
            print(f"{name}: {row['changed']['value']:.1%} of {row['n']} changed, {row['flips']['value']:.1%} flipped")


def progress(done: int, total: int) -> None:
    print(f"\r{done:,} of {total:,}", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except PromptGuardError as error:
        sys.exit(f"wording: {error}")
