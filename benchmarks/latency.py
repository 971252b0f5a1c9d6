"""Whole-call latency of ``Guard.analyze`` on one thread, beside the machine's 8-bit ceiling.

    python benchmarks/latency.py --out benchmarks/results/latency.json

Each length is measured twice: a context never seen before, and the same context again. The ceiling is the
rate of the model's own 8-bit matrix products through the same engine in the same run; the model's time at the
ceiling is its operations, for the tokens really run, at that rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from promptguard import Context, Guard
from promptguard.bench.provenance import provenance
from promptguard.bench.speed.ceiling import Shape, highest, product_rates

LENGTHS = ((0, 16), (0, 64), (0, 128), (0, 512), (120, 64), (120, 128), (120, 512), (180, 60))
RUNS = 60
LAYERS, HIDDEN = 6, 384

VOCABULARY = "the order of a parcel can be sent to our shop on monday and we will check it for you when ".split()


def words(count: int, seed: int) -> str:
    """Ordinary words, one token each."""
    generator = np.random.default_rng(seed)
    return " ".join(generator.choice(VOCABULARY, count))


def ceiling() -> float:
    """Operations a second of the model's own 8-bit products on one thread, at the best of several lengths."""
    return highest(product_rates(Shape(LAYERS, HIDDEN), 1))


def operations(context: int, text: int, *, context_run: bool) -> float:
    """Multiplications and additions of the linear layers and of attention."""
    linear = LAYERS * 2 * (4 * HIDDEN**2 + 8 * HIDDEN**2)
    total = text * (linear + LAYERS * 4 * HIDDEN * (context + text))
    if context_run:
        total += context * (linear + LAYERS * 4 * HIDDEN * context)
    return total


def measure(guard: Guard, context_tokens: int, text_tokens: int, *, repeated: bool) -> dict:
    """Median and spread of the whole call, and of its stages."""
    calls, stages = [], {"text": [], "windows": [], "model": [], "decide": []}
    seen = Context(system_prompt=words(max(context_tokens - 2, 0), 1)) if context_tokens else None
    for run in range(RUNS + 10):
        context = seen
        if context_tokens and not repeated:
            context = Context(system_prompt=words(context_tokens - 2, 1000 + run))
        prompt = words(text_tokens - 2, 5000 + run)
        began = time.perf_counter()
        analysis = guard.analyze(prompt, context)
        if run >= 10:
            calls.append(1000 * (time.perf_counter() - began))
            for stage, values in stages.items():
                values.append(analysis.coverage.milliseconds[stage])
    return {
        "context_tokens": context_tokens,
        "text_tokens": text_tokens,
        "context": "none" if not context_tokens else "seen" if repeated else "new",
        "median_ms": statistics.median(calls),
        "p10_ms": float(np.quantile(calls, 0.1)),
        "p90_ms": float(np.quantile(calls, 0.9)),
        "stages_ms": {stage: statistics.median(values) for stage, values in stages.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    guard = Guard(arguments.model)
    guard.analyze("warm up")
    rows = []
    top = ceiling()
    for context_tokens, text_tokens in LENGTHS:
        for repeated in (False, True) if context_tokens else (True,):
            row = measure(guard, context_tokens, text_tokens, repeated=repeated)
            row["at_ceiling_ms"] = 1000 * operations(context_tokens, text_tokens, context_run=not repeated) / top
            row["ratio_to_ceiling"] = row["median_ms"] / row["at_ceiling_ms"]
            rows.append(row)
            print(
                {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items() if k != "stages_ms"}, flush=True
            )
    top = max(top, ceiling())
    result = {**provenance(sys.argv), "model": guard.model, "ceiling_gops": top / 1e9, "runs": RUNS, "rows": rows}
    print(f"ceiling {top / 1e9:.0f} GOP/s")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
