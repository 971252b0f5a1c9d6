r"""Logits of trained weights on the laid-out records, for scripts/train.py --teacher.

python scripts/teach.py --weights runs/teacher/weights.pt --base BASE --records runs/data/train.jsonl \
        --tokenizer promptguard/model/tokenizer.json --swapped 30000 --out runs/teacher/logits.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from train import laid_out

from promptguard.training.model import PairEncoder
from promptguard.training.train import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--swapped", type=int, default=0, help="as given to scripts/train.py")
    parser.add_argument("--one-way", action="store_true", help="if the weights were trained without --full-mask")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = PairEncoder(arguments.base, one_way=arguments.one_way)
    model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    store = laid_out(arguments.records, arguments.tokenizer, swapped_records=arguments.swapped)
    logits = predict(model.eval().to(arguments.device), store, device=arguments.device)
    np.save(arguments.out, logits.numpy().astype(np.float16))
    print(f"{len(logits):,} rows")


if __name__ == "__main__":
    main()
