"""Train the pair encoder on records built by scripts/build_data.py.

    python scripts/train.py --records runs/data/train.jsonl --base BASE --steps 9000 --out runs/long

BASE is a hub id or a folder with a BERT-like encoder and its tokenizer.json. Run again with the same
``--out`` to go on after an interruption. Records are laid out once, beside their file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from pathlib import Path

import torch

from promptguard.context import ContextEncoder
from promptguard.tokenizer import Tokenizer
from promptguard.training.augment import reworded
from promptguard.training.batches import Store, group
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS, Example, examples
from promptguard.training.train import Settings, train

WORDINGS = 3
"""Wordings of each context that are laid out; every draw takes one of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json made by tokenizer.prepare")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights.pt of an earlier run")
    parser.add_argument("--full-mask", action="store_true", help="let context see text (comparison, teachers)")
    parser.add_argument("--words", action="store_true", help="train the word embeddings as well")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4)
    parser.add_argument("--tokens", type=int, default=4096, help="most padded tokens in a batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    began = time.monotonic()
    settings = Settings(
        base=arguments.base,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        tokens=arguments.tokens,
        seed=arguments.seed,
        one_way=not arguments.full_mask,
        words=arguments.words,
        device=arguments.device,
    )
    store = laid_out(arguments.records, arguments.tokenizer)
    print(f"{len(store.labels):,} examples after {time.monotonic() - began:.0f} s", flush=True)
    train(store, settings, arguments.out, start=arguments.start)
    print(f"done after {time.monotonic() - began:.0f} s")


def laid_out(records: Path, tokenizer: Path, wordings: int = WORDINGS) -> Store:
    """The examples of a file of records, from the file beside it if that is newer."""
    path = records.with_suffix(f".{wordings}.npz")
    if path.exists() and path.stat().st_mtime > records.stat().st_mtime:
        return Store.load(path)
    rows = list(read_jsonl(records))
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
