"""Train the pair encoder on records built by scripts/build_data.py.

    python scripts/train.py --records runs/data/train.jsonl --base BASE --steps 9000 --out runs/long

BASE is a hub id or a folder with a BERT-like encoder. Run again with the same ``--out`` to go on after an
interruption. Records are laid out once, beside their file.

A larger model can teach: train it with ``--full-mask --words``, let scripts/teach.py write its logits, and name
them with ``--teacher``. ``--swapped`` adds texts in contexts they were not written for, which only a teacher
labels; give the same number to all three commands.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from promptguard.context import ContextEncoder
from promptguard.tokenizer import Tokenizer
from promptguard.training.augment import reworded, swapped
from promptguard.training.batches import Store, group
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS, Example, examples
from promptguard.training.train import SHARES, Settings, train

WORDINGS = 3
"""Wordings of each context that are laid out; every draw takes one of them, or two."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json made by tokenizer.prepare")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, help="train so long instead; --steps is then the most of them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights.pt of an earlier run, or a bundle's model.onnx")
    parser.add_argument("--full-mask", action="store_true", help="let context see text (comparison, teachers)")
    parser.add_argument("--words", action="store_true", help="train the word embeddings as well")
    parser.add_argument("--swapped", type=int, default=0, help="unlabelled texts in other contexts to add")
    parser.add_argument("--swapped-share", type=float, default=0.1, help="their share of the draws beside the others'")
    parser.add_argument("--fresh", nargs="+", default=(), metavar="SOURCE", help="sources to draw more of: what is new")
    parser.add_argument("--fresh-share", type=float, default=0.5, help="their share of all draws")
    parser.add_argument("--teacher", type=Path, help="logits written by scripts/teach.py")
    parser.add_argument(
        "--consistency", type=float, default=0.0, help="weight of what other wordings of a context move"
    )
    parser.add_argument("--eight-bits-from", type=float, default=0.8, help="share of the steps; above 1 for never")
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--learning-rate", type=float, default=1.5e-4)
    parser.add_argument("--tokens", type=int, default=4096, help="most padded tokens in a batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.teacher and arguments.fresh:
        parser.error("--fresh lays records out in another order than the teacher's logits")
    if not 0 < arguments.fresh_share < 1:
        parser.error("--fresh-share must lie between 0 and 1")
    torch.set_num_threads(arguments.threads)
    began = time.monotonic()
    shares = SHARES | ({"swapped": arguments.swapped_share} if arguments.teacher else {})
    if arguments.fresh:
        shares["fresh"] = sum(shares.values()) * arguments.fresh_share / (1 - arguments.fresh_share)
    settings = Settings(
        base=arguments.base,
        steps=arguments.steps,
        seconds=arguments.seconds,
        learning_rate=arguments.learning_rate,
        tokens=arguments.tokens,
        seed=arguments.seed,
        one_way=not arguments.full_mask,
        words=arguments.words,
        average=arguments.average,
        consistency_weight=arguments.consistency,
        eight_bits_from=arguments.eight_bits_from,
        shares=shares,
        device=arguments.device,
    )
    store = laid_out(arguments.records, arguments.tokenizer, swapped_records=arguments.swapped, fresh=arguments.fresh)
    if arguments.teacher:
        # The teacher read the first wording of each context; what it says holds for all.
        store.teacher = np.repeat(np.load(arguments.teacher)[:, None], WORDINGS, axis=1)
    print(f"{len(store.labels):,} examples after {time.monotonic() - began:.0f} s", flush=True)
    train(store, settings, arguments.out, start=arguments.start)
    print(f"done after {time.monotonic() - began:.0f} s")


def laid_out(
    records: Path, tokenizer: Path, wordings: int = WORDINGS, swapped_records: int = 0, fresh: Sequence[str] = ()
) -> Store:
    """The examples of a file of records, from the file beside it if that is newer."""
    # A name of all the sources would be longer than a file's may be.
    named = f"-{hashlib.sha256(' '.join(sorted(fresh)).encode()).hexdigest()[:8]}" if fresh else ""
    path = records.with_suffix(f".{wordings}-{swapped_records}{named}.npz")
    if path.exists() and path.stat().st_mtime > records.stat().st_mtime:
        return Store.load(path)
    rows = list(read_jsonl(records))
    # Composed contents have setups that fit them; a text in a foreign carrier says nothing.
    movable = [r for r in rows if r["family"] != "composed_carriers"]
    rows += swapped(movable, swapped_records, random.Random(11))
    if unknown := set(fresh) - {r["source"] for r in rows}:
        sys.exit(f"train: {records} has no records of {', '.join(sorted(unknown))}")
    rows = [{**r, "family": "fresh"} if r["source"] in fresh else r for r in rows]
    with multiprocessing.Pool(initializer=_open, initargs=(tokenizer, wordings)) as pool:
        made = pool.map(_examples, rows, chunksize=500)
    store = Store.of(group(list(zip(rows, made, strict=True))), wordings)
    store.save(path)
    return store


def _open(tokenizer: Path, wordings: int) -> None:
    global _tokenizer, _contexts, _further
    _tokenizer, _further = Tokenizer(tokenizer), wordings - 1
    _contexts = ContextEncoder(_tokenizer, CONTEXT_TOKENS)


def _examples(record: dict) -> list[Example]:
    further = reworded(record, random.Random(record["id"]), _further)
    return examples(record, _tokenizer, _contexts, further)


if __name__ == "__main__":
    main()
