"""AUROC by family and pair ranking of several weights on one split, straight from torch.

    python scripts/compare_weights.py --base BASE --tokenizer T --records runs/data/calibration.jsonl one.pt two.pt

A file may be ``weights.pt`` or a ``checkpoint.pt`` (its averaged weights are taken); put ``full:`` before one
trained with --full-mask.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from promptguard.context import ContextEncoder
from promptguard.tokenizer import Tokenizer
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS
from promptguard.training.model import PairEncoder
from promptguard.training.score import logits, ranked_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=250, help="records a source")
    parser.add_argument("--out", type=Path)
    parser.add_argument("weights", nargs="+")
    arguments = parser.parse_args()
    tokenizer = Tokenizer(arguments.tokenizer)
    contexts = ContextEncoder(tokenizer, CONTEXT_TOKENS)
    records = []
    by_source: dict[str, list] = {}
    for record in read_jsonl(arguments.records):
        by_source.setdefault(record["source"], []).append(record)
    for rows in by_source.values():
        if rows[0]["pair_id"] is None:
            random.Random(0).shuffle(rows)
        records += rows[: arguments.limit if rows[0]["family"] != "contextual" else None]
    risky = [bool(set(r["labels"]) - {"out_of_scope"}) for r in records]
    results = {}
    for name in arguments.weights:
        model = PairEncoder(arguments.base, one_way=not name.startswith("full:"))
        state = torch.load(name.removeprefix("full:"), weights_only=True)
        model.load_state_dict(state.get("average", state))
        values = logits(model.eval(), records, tokenizer, contexts)[:, -1]
        result = {"all": roc_auc_score(risky, values), **ranked_pairs(records, values)}
        for family in sorted({r["family"] for r in records} - {"attacks", "benign"}):
            at = [i for i, r in enumerate(records) if r["family"] == family]
            result[family] = roc_auc_score([risky[i] for i in at], values[at])
        at = [i for i, r in enumerate(records) if r["family"] in ("attacks", "benign")]
        result["public"] = roc_auc_score([risky[i] for i in at], values[at])
        results[name] = {k: round(float(v), 4) for k, v in result.items()} | {"step": state.get("step")}
        print(name, results[name], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"records": len(records), "weights": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
