"""Evaluate a model bundle on labelled records and write every figure, with its circumstances, to a file.

    python scripts/evaluate.py --data records/ more.jsonl --model path/to/bundle --out results.json

The logic is ``promptguard.bench.quality``; ``promptguard bench quality`` uses the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from promptguard import Guard
from promptguard.bench import quality
from promptguard.bench.records import limit_per_source, read_records
from promptguard.errors import PromptGuardError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="PATH", help="files of records, or folders of *.jsonl")
    add("--model", metavar="BUNDLE", help="a bundle's folder; the embedded one if left out")
    add("--mode", default="balanced", choices=("low-alarm", "balanced", "strict"))
    add("--out", required=True, type=Path, metavar="JSON", help="where the figures go")
    add("--ablations", action="store_true", help="also withhold and swap parts of the context: about 8 times the work")
    add("--errors", type=Path, metavar="JSONL", help="write the most confident errors here")
    add("--texts", action="store_true", help="with --errors: show texts and contexts, which may be private")
    add("--limit-per-source", type=int, metavar="N", help="draw at most N records of each source")
    add("--prior", type=float, help="share of risky traffic for the calibration figures; the bundle's if left out")
    add("--bootstrap", type=int, default=1000, metavar="N", help="replicates of the intervals, 0 for none")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def _progress(done: int, total: int) -> None:
    print(f"\r{done:,} of {total:,}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> int:
    options = _arguments()
    circumstances = quality.provenance(sys.argv)
    records = read_records(options.data)
    if options.limit_per_source is not None:
        records = limit_per_source(records, options.limit_per_source, seed=options.seed)
    guard = Guard(mode=options.mode) if options.model is None else Guard(options.model, mode=options.mode)
    scored = quality.score(guard, records, progress=_progress)
    prior = options.prior if options.prior is not None else guard.prior
    result = quality.evaluate(records, scored, seed=options.seed, bootstrap=options.bootstrap, prior=prior)
    result["settings"] |= {"mode": options.mode, "limit_per_source": options.limit_per_source}
    result["provenance"] = circumstances | {"records": dict(Counter(record.source_name for record in records))}
    if options.ablations:
        result["ablations"] = quality.ablations(guard, records, scored, seed=options.seed, progress=_progress)
    options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.errors is not None:
        _write_lines(options.errors, quality.most_confident_errors(records, scored, texts=options.texts))
    print(quality.table(result), end="")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PromptGuardError as error:
        sys.exit(f"evaluate: {error}")
