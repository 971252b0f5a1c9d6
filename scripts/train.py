"""Train the pair encoder on records built by scripts/build_data.py.

    python scripts/train.py --records runs/data/train.jsonl --base BASE --steps 9000 --out runs/long

BASE is a hub id or a folder with a BERT-like encoder and its tokenizer.json. Run again with the same
``--out`` to go on after an interruption.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from promptguard.context import ContextEncoder
from promptguard.tokenizer import Tokenizer
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS, examples, group
from promptguard.training.train import Settings, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json made by tokenizer.prepare")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights.pt of an earlier run")
    parser.add_argument("--full-mask", action="store_true", help="let context see text (comparison only)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = Tokenizer(arguments.tokenizer)
    contexts = ContextEncoder(tokenizer, CONTEXT_TOKENS)
    began = time.monotonic()
    rows = read_jsonl(arguments.records)
    units = group([(row, examples(row, tokenizer, contexts)) for row in rows])
    print({family: len(items) for family, items in units.items()}, f"{time.monotonic() - began:.0f} s", flush=True)
    settings = Settings(
        base=arguments.base,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        one_way=not arguments.full_mask,
    )
    train(units, settings, arguments.out, start=arguments.start)
    print(f"done after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
