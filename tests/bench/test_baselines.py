"""Baselines: they find the shortcut that is there."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from made import ATTACK, BENIGN, contextual, record

from promptguard.bench.baselines import BASELINES, baselines, fit
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
