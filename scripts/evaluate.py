"""Evaluate a model bundle on labelled records and write every figure, with its circumstances, to a file.

    python scripts/evaluate.py --data records/ more.jsonl --model path/to/bundle --out results.json

``promptguard bench quality`` is the same: both call ``promptguard.bench.run_quality``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from promptguard.bench.run_quality import run_quality
from promptguard.bench.tables import table
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


def main() -> int:
    options = _arguments()
    result = run_quality(
        options.data,
        model=options.model,
        mode=options.mode,
        prior=options.prior,
        limit=options.limit_per_source,
        seed=options.seed,
        bootstrap=options.bootstrap,
        with_ablations=options.ablations,
        out=options.out,
        errors=options.errors,
        texts=options.texts,
        command=sys.argv,
        progress=_progress,
    )
    print(table(result), end="")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PromptGuardError as error:
        sys.exit(f"evaluate: {error}")
