"""Logits of a network in training, without export: to compare runs and to look at errors early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptguard.context import ContextEncoder
from promptguard.intents import is_risky
from promptguard.tokenizer import Tokenizer
from promptguard.training.batches import Store
from promptguard.training.examples import Example, examples
from promptguard.training.model import OUTPUTS, PairEncoder
from promptguard.training.train import predict


def logits(
    model: PairEncoder, records: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, contexts: ContextEncoder
) -> NDArray[np.float32]:
    """Strongest logits of each record over its (at most three) windows.

    Args:
        model: the network, in evaluation mode.
        records: as ``data.build`` gives them.
        tokenizer: the one the network was trained with.
        contexts: the encoder of contexts.

    Returns:
        Array of shape (records, 11).
    """
    made = []
    for record in records:
        # Without spans every window is kept, as at inference.
        rows = [row for e in examples({**record, "spans": None}, tokenizer, contexts) for row in e.rows]
        made.append([Example(tuple(rows), (0.0,) * len(OUTPUTS), None)])
    store = Store.of({"records": made})
    found: NDArray[np.float32] = np.maximum.reduceat(predict(model, store).numpy(), store.first_row[:-1], axis=0)
    return found


def ranked_pairs(records: Sequence[Mapping[str, Any]], risk: NDArray[np.float32]) -> dict[str, float]:
    """How often the risky reading of a text ranks above the harmless one, over groups of one text."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        if record["pair_id"]:
            groups[record["pair_id"] + "|" + record["text"]].append(i)
    right = couples = 0.0
    for group in groups.values():
        risky = [i for i in group if is_risky(records[i]["labels"])]
        for i in risky:
            for j in set(group) - set(risky):
                right += float(risk[i] > risk[j])
                couples += 1
    return {"couples": couples, "ranked_right": right / max(1.0, couples)}
