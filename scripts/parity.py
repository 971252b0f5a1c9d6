r"""What export and 8 bits cost: torch against fp32, and fp16 and int8 against fp32, on the same records.

python scripts/parity.py --weights runs/long/weights.pt --base BASE --bundle promptguard/model \
        --records runs/data/report.jsonl --out benchmarks/results/parity.json
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from promptguard import bundle
from promptguard.bench.provenance import provenance
from promptguard.context import ContextEncoder
from promptguard.guard import Guard
from promptguard.tokenizer import Tokenizer
from promptguard.training.batches import Collator, Store
from promptguard.training.calibrate import is_risky
from promptguard.training.data import read_jsonl
from promptguard.training.examples import CONTEXT_TOKENS, examples
from promptguard.training.export import write_bundle
from promptguard.training.model import PairEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--bundle", type=Path, required=True, help="the calibrated 8-bit bundle")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    records = list(read_jsonl(arguments.records))
    random.Random(5).shuffle(records)
    records = records[: arguments.count]
    pairs = [(r["text"], r["context"]) for r in records]
    model = PairEncoder(arguments.base)
    model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    weights = {k: v.float().numpy() for k, v in model.eval().state_dict().items()}
    manifest = json.loads((arguments.bundle / bundle.MANIFEST).read_text())
    tokenizer = arguments.bundle / bundle.TOKENIZER
    risky = is_risky(records)
    risks, decisions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "fp16"):
            made = Path(folder) / precision
            write_bundle(made, weights, tokenizer, precision, manifest)
            # The example index may have a part in the risk.
            for name in (bundle.EXAMPLES, bundle.VECTORS):
                if (arguments.bundle / name).exists():
                    shutil.copyfile(arguments.bundle / name, made / name)
            bundle.write_manifest(made, json.loads((made / bundle.MANIFEST).read_text()))
        for name, place in {
            "fp32": Path(folder) / "fp32",
            "fp16": Path(folder) / "fp16",
            "int8": arguments.bundle,
        }.items():
            analyses = Guard(place).analyze_many(pairs)
            risks[name] = np.array([a.risk for a in analyses])
            decisions[name] = [a.decision for a in analyses]
        largest = torch_against(Guard(Path(folder) / "fp32"), model, records, tokenizer)
    result = {
        "provenance": provenance(sys.argv),
        "records": len(records),
        "torch_fp32_largest_difference_in_logits": largest,
        "auroc": {name: float(roc_auc_score(risky, risk)) for name, risk in risks.items()},
        "against_fp32": {
            name: {
                "largest_difference_in_risk": float(np.abs(risks[name] - risks["fp32"]).max()),
                "mean_difference_in_risk": float(np.abs(risks[name] - risks["fp32"]).mean()),
                "equal_decisions": float(
                    np.mean([a == b for a, b in zip(decisions[name], decisions["fp32"], strict=True)])
                ),
            }
            for name in ("fp16", "int8")
        },
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "provenance"}, indent=1))


def torch_against(guard: Guard, model: PairEncoder, records: list[dict], tokenizer_file: Path) -> float:
    """Largest difference of a logit between torch and the fp32 graph, on texts of one window and one view."""
    tokenizer = Tokenizer(tokenizer_file)
    contexts = ContextEncoder(tokenizer, CONTEXT_TOKENS)
    largest = 0.0
    for record in [r for r in records if len(r["text"]) < 500][:100]:
        made = examples({**record, "spans": None}, tokenizer, contexts)
        signal = guard.analyze(record["text"], record["context"]).signals["classifier"]
        if len(made) != 1 or len(made[0].rows) != 1 or signal.scores["log_windows"] > 0:
            continue
        batch = Collator(Store.of({"record": [made]}))(np.arange(1))
        with torch.inference_mode():
            logits = model(batch.ids, batch.segments, batch.positions).logits[0]
        largest = max(largest, abs(float(logits[-1]) - signal.scores["risk"]))
    return largest


if __name__ == "__main__":
    main()
