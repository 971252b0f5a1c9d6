r"""Weights of a training run to an uncalibrated bundle, with its example index.

python scripts/export.py --weights runs/long/weights.pt --base BASE --records runs/data/train.jsonl \
        --name promptguard-l6 --version 1 --out runs/bundle
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from promptguard import bundle
from promptguard.context import ContextEncoder
from promptguard.detectors.similarity import Example, Index
from promptguard.guard import Guard
from promptguard.tokenizer import Tokenizer
from promptguard.training.batches import Batch, Collator, Store, group
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS, OVERLAP_TOKENS, WINDOW_TOKENS, examples
from promptguard.training.export import write_bundle
from promptguard.training.model import PairEncoder
from promptguard.training.smoothing import factors, largest_inputs, smooth

SHIPPABLE = frozenset({"CC0-1.0", "MIT", "Apache-2.0"})
"""Licences under which example texts may be shipped verbatim."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True, help="training records, for the example index")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--precision", default="int8", choices=("int8", "fp32", "fp16"))
    parser.add_argument("--examples", type=int, default=250, help="attack examples, and as many harmless ones")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = PairEncoder(arguments.base)
    model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    weights = {k: v.float().numpy() for k, v in model.state_dict().items()}
    records = list(read_jsonl(arguments.records))
    largest = largest_inputs(model.eval(), windows(records, arguments.tokenizer))
    weights, divisors = smooth(weights, factors(weights, largest))
    data = json.loads((arguments.records.parent / "manifest.json").read_text())
    settings = json.loads((arguments.weights.parent / "settings.json").read_text())
    facts = {
        "name": arguments.name,
        "version": arguments.version,
        "window_tokens": WINDOW_TOKENS,
        "overlap_tokens": OVERLAP_TOKENS,
        "context_tokens": CONTEXT_TOKENS,
        "training": {"data": data, "settings": {**settings, "base": Path(settings["base"]).name}},
    }
    for stale in (bundle.EXAMPLES, bundle.VECTORS):
        (arguments.out / stale).unlink(missing_ok=True)
    write_bundle(arguments.out, weights, arguments.tokenizer, arguments.precision, facts, divisors)
    if arguments.examples:
        chosen = choose(records, arguments.examples)
        guard = Guard(arguments.out)
        Index.of(chosen, guard.encode).save(arguments.out / bundle.EXAMPLES, arguments.out / bundle.VECTORS)
        manifest = json.loads((arguments.out / bundle.MANIFEST).read_text())
        bundle.write_manifest(arguments.out, manifest)


def windows(records: list[dict], tokenizer: Path, count: int = 300) -> Iterator[Batch]:
    """Windows of some records, in their contexts, to see what the network's products read."""
    opened = Tokenizer(tokenizer)
    contexts = ContextEncoder(opened, CONTEXT_TOKENS)
    drawn = random.Random(5).sample(records, count)
    store = Store.of(group([(r, examples(r, opened, contexts)) for r in drawn]))
    collate = Collator(store)
    for some in np.array_split(np.argsort(store.lengths()), count // 10):
        yield collate(some)


def choose(records: list[dict], count: int) -> list[Example]:
    """As many attack as harmless texts, spread over sources; only what may be shipped, and short."""
    generator = random.Random(3)
    generator.shuffle(records)
    chosen: list[Example] = []
    for risky in (True, False):
        by_source: dict[str, list[dict]] = {}
        for r in records:
            fits = r["license"] in SHIPPABLE and 20 <= len(r["text"]) <= 400 and r["family"] != "contextual"
            if fits and bool(set(r["labels"]) - {"out_of_scope"}) is risky:
                by_source.setdefault(r["source"], []).append(r)
        share = -(-count // len(by_source))
        rows = [r for _, rows in sorted(by_source.items()) for r in rows[: 2 * share]]
        generator.shuffle(rows)
        seen: dict[str, dict] = {r["text"]: r for r in rows}
        chosen += [Example(r["id"], r["text"], tuple(r["labels"]), r["license"]) for r in list(seen.values())[:count]]
    return chosen


if __name__ == "__main__":
    main()
