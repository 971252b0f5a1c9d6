"""Logits of a network in training, without export: to compare runs and to look at errors early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from promptguard.context import ContextEncoder
from promptguard.intents import is_risky
from promptguard.tokenizer import Tokenizer
from promptguard.training.examples import Example, collate, examples
from promptguard.training.model import OUTPUTS, PairEncoder


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
    result = np.full((len(records), len(OUTPUTS)), -np.inf, np.float32)
    rows = []
    for i, record in enumerate(records):
        # Without spans every window is kept, as at inference.
        for example in examples({**record, "spans": None}, tokenizer, contexts):
            rows += [(i, Example((row,), example.labels, None)) for row in example.rows]
    rows.sort(key=lambda item: len(item[1].rows[0].context) + len(item[1].rows[0].text))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(rows), 48):
            part = rows[start : start + 48]
            batch = collate([example for _, example in part])
            values = model(batch.ids, batch.segments, batch.positions).logits.float().numpy()
            for (i, _), value in zip(part, values, strict=True):
                result[i] = np.maximum(result[i], value)
    return result


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
