"""Baselines: they find the shortcut that is there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from made import ATTACK, BENIGN, contextual, record

from promptguard.bench.baselines import BASELINES, baselines, embedded, fit
from promptguard.bench.records import Record
from promptguard.errors import InputError
from promptguard.types import Context


def shortcut(n: int, seed: int) -> list[Record]:
    """Records whose words give the label away, while length and context do not."""
    generator = random.Random(seed)
    filler = ["please", "summarise", "this", "order", "invoice", "thanks", "today"]
    made = []
    for i in range(n):
        words = generator.choices(filler, k=8) + (["ignore", "everything"] if i % 2 else ["consider", "everything"])
        made.append(record(ATTACK if i % 2 else BENIGN, text=" ".join(words), context=Context(source="user")))
    return made


def test_baselines_find_the_shortcut_that_is_there() -> None:
    found = baselines(shortcut(200, 1), shortcut(100, 2), bootstrap=0)
    assert list(found) == list(BASELINES)
    auroc = {name: result["overall"]["auroc"]["value"] for name, result in found.items()}
    assert auroc["keywords"] == auroc["words of the text"] == auroc["words of both"] == 1.0
    assert auroc["words of the context"] == 0.5
    assert auroc["length"] < 0.9
    assert found["words of the text"]["intents"]["each"]["prompt_injection"]["f1"] == 1.0
    assert found["words of the text"]["overall"]["false_alarm_rate"]["value"] == 0.0
    assert found["keywords"]["settings"]["model"] == "baseline:keywords"


def test_the_context_baseline_reads_every_field() -> None:
    train = contextual() + [replace(r, id=r.id + "x", pair_id=f"x{r.pair_id}") for r in contextual()]
    assert (
        baselines(train, contextual(), names=["words of the context"], bootstrap=0)["words of the context"]["overall"][
            "auroc"
        ]["value"]
        == 1.0
    )
    assert fit("words of both", train).score([]) == []


def test_baselines_refuse_what_they_cannot_fit() -> None:
    with pytest.raises(InputError, match="one of"):
        fit("magic", shortcut(10, 1))
    with pytest.raises(InputError, match="both kinds"):
        fit("length", [record(ATTACK)] * 10)
    with pytest.raises(InputError, match="no word"):
        fit("words of the text", [record(ATTACK if i % 2 else BENIGN, text=f"word{i}") for i in range(40)])


def initials(texts: Sequence[str]) -> np.ndarray:
    """A made-up encoder: how often letters begin a word."""
    return np.array([[float(sum(w[:1] == c for w in t.split())) for c in "abcdefghiv"] for t in texts], np.float32)


def test_embeddings_see_the_text_and_with_it_the_context() -> None:
    shorter = [replace(r, text=r.text.removesuffix(" everything")) for r in shortcut(200, 1)]
    text = fit("initials", shorter, features=embedded(initials), intents=["prompt_injection"])
    rows = text.score(shortcut(20, 2))
    assert [row.decision == "review" for row in rows] == [i % 2 == 1 for i in range(20)]
    assert rows[0].model == "baseline:initials"
    assert set(text.intent_models) == {"prompt_injection"}
    train = contextual() + [replace(r, id=r.id + "x", pair_id=f"x{r.pair_id}") for r in contextual()]
    blind = fit("blind", train, features=embedded(initials), intents=())
    seeing = fit("seeing", train, features=embedded(initials, with_context=True), intents=())
    assert len({row.risk for row in blind.score(train)}) == 1
    assert all((row.risk > 0.5) == r.risky for row, r in zip(seeing.score(train), train, strict=True))
