"""Kinds of data: every record where it belongs, and figures of a kind on its records alone."""

from __future__ import annotations

from typing import Any

import pytest
from made import ATTACK, record, said

from promptguard.bench.kinds import KINDS, figures_by_kind, parts_by_kind
from promptguard.bench.quality import evaluate, evaluate_parts
from promptguard.bench.records import Record
from promptguard.errors import InputError
from promptguard.types import Context

HARM = frozenset({"harmful_content"})
PUBLIC = {"deepset", "gsm8k"}


def content(labels: frozenset[str] = frozenset(), **fields: Any) -> Record:
    return record(labels, context=Context(source="email"), **fields)


RECORDS = [
    record(ATTACK, source_name="deepset"),
    record(source_name="deepset"),
    record(source_name="gsm8k"),
    record(source_name="written_benign_b"),
    content(HARM, source_name="written_content"),
    content(source_name="written_content"),
    record(ATTACK, source_name="pairs", text="same", pair_id="1"),
    record(source_name="pairs", text="same", pair_id="1"),
    record(HARM, source_name="twins", text="one way", pair_id="1"),
    record(source_name="twins", text="another way", pair_id="1"),
    record(source_name="everyday", context=Context(source="user")),
]


def test_every_record_is_of_its_kinds() -> None:
    parts = parts_by_kind(RECORDS, PUBLIC)
    assert list(parts) == [*KINDS, "source: deepset"]
    assert parts["all"] == list(range(len(RECORDS)))
    assert parts["public attacks"] == [0]
    assert parts["attacks on the model"] == [0, 1, 2, 3, 5, 6, 7, 9, 10]
    assert parts["trigger words"] == [3]
    assert parts["ordinary traffic"] == [2, 10]
    assert parts["content"] == [4, 5]
    assert parts["context decides"] == [6, 7]
    assert parts["source: deepset"] == [0, 1]


def test_an_attack_of_a_trigger_word_source_is_no_trigger_word_prompt() -> None:
    assert parts_by_kind([record(ATTACK, source_name="hard_negatives")], PUBLIC)["trigger words"] == []


def test_figures_by_kind() -> None:
    risks = [0.9, 0.1, 0.1, 0.8, 0.2, 0.1, 0.3, 0.4, 0.6, 0.2, 0.1]
    figures = figures_by_kind(RECORDS, [said(risk) for risk in risks], PUBLIC, bootstrap=0)
    kinds = figures["kinds"]
    assert kinds["public attacks"]["recall"]["value"] == 1.0
    assert kinds["trigger words"]["false_alarm_rate"]["value"] == 1.0
    assert kinds["trigger words"]["recall"]["value"] is None
    assert kinds["content"]["recall"]["value"] == kinds["content"]["false_alarm_rate"]["value"] == 0.0
    # Cut where no harmless record lies above: that is 0.8, of the trigger word prompt.
    assert kinds["all"]["recall_at_fpr"]["0.01"]["k"] == kinds["public attacks"]["recall_at_fpr"]["0.01"]["k"] == 1
    assert kinds["content"]["recall_at_fpr"]["0.01"]["k"] == 0
    assert figures["text_decides"]["all"]["n"] == 9
    assert figures["text_decides"]["content"] == kinds["content"]
    assert "context decides" not in figures["text_decides"]
    assert figures["pairs"]["ranked"]["value"] == 0.0
    assert figures["twins"]["right"]["value"] == 1.0


def test_one_text_in_two_contexts_does_not_set_the_threshold_of_texts() -> None:
    records = [record(ATTACK), *(record() for _ in range(3))]
    records += [record(labels, text="same", pair_id="1") for labels in (ATTACK, frozenset[str]())]
    rows = [said(0.8), said(0.1), said(0.1), said(0.1), said(0.9), said(0.9)]
    figures = figures_by_kind(records, rows, PUBLIC, bootstrap=0)
    assert figures["kinds"]["all"]["recall_at_fpr"]["0.05"]["k"] == 0
    assert figures["text_decides"]["all"]["recall_at_fpr"]["0.05"]["k"] == 1
    pair = figures_by_kind(records[4:], rows[4:], PUBLIC, bootstrap=0)
    assert pair["text_decides"] == {}


def test_a_set_without_groups_has_no_figures_of_them() -> None:
    figures = figures_by_kind([record(ATTACK)], [said(0.5)], PUBLIC, bootstrap=0)
    assert figures["pairs"] is figures["twins"] is None
    assert "content" not in figures["kinds"]


def test_parts_have_the_figures_that_evaluate_gives_them() -> None:
    scored = [said(i / 10) for i in range(len(RECORDS))]
    whole = evaluate(RECORDS, scored, seed=3, bootstrap=20)
    parts = {"everything": range(len(RECORDS)), "deepset": [0, 1], "nothing": []}
    found = evaluate_parts(RECORDS, scored, parts, seed=3, bootstrap=20)
    assert found == {"everything": whole["overall"], "deepset": whole["by"]["source"]["deepset"]}
    with pytest.raises(InputError, match="one row a record"):
        evaluate_parts(RECORDS, scored[1:], parts)
