"""Composed records: the same from the same seed, rightly split, rightly marked, and without easy tells."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from promptguard.intents import INTENTS
from promptguard.training import compose as composing
from promptguard.training.augment import (
    FIELDS,
    TREATMENTS,
    attach_context,
    can_drop,
    drop_context,
    equalise,
    is_risky,
    obfuscate,
    obfuscated_copies,
)
from promptguard.training.compose import compose, dialogue_records
from promptguard.training.compose_apps import ENTITLED
from promptguard.training.compose_parts import WORDINGS, insert, load_parts

DATA = Path(composing.__file__).parent / "data"
FOLDERS = [DATA / "context", DATA / "parts", DATA]

pytestmark = pytest.mark.skipif(not (DATA / "parts").is_dir(), reason="the training data is not installed")


@pytest.fixture(scope="module")
def records():
    return list(compose(FOLDERS, seed=7, holdout=0.15))


def draw(seed):
    return random.Random(seed)


def rates(rows, field):
    return {
        risky: sum(bool(r["context"].get(field)) for r in rows if is_risky(r) is risky)
        / sum(is_risky(r) is risky for r in rows)
        for risky in (True, False)
    }


def test_same_seed_same_records(records):
    again = list(compose(DATA, seed=7, holdout=0.15))
    assert [r["id"] for r in again] == [r["id"] for r in records]
    assert again[:500] == records[:500]
    other = {r["id"] for r in compose(FOLDERS, seed=8, holdout=0.15)}
    assert other != {r["id"] for r in records}


def test_records_have_the_taxonomy_shape(records):
    assert len({r["id"] for r in records}) == len(records)
    for row in records:
        assert set(row["labels"]) <= set(INTENTS)
        assert "out_of_scope" not in row["labels"] or (
            row["labels"] == ["out_of_scope"] and (row["context"]["system_prompt"] or row["context"]["purpose"])
        )
        assert row["text"].strip()
        assert row["split"] in ("train", "heldout")
        if row["context"]["source"] not in (None, "user") and row["labels"]:
            assert "prompt_injection" in row["labels"]


def test_spans_are_the_payload(records):
    payloads = {}
    for name in ("parts/payloads.jsonl", "written_payloads.jsonl"):
        if (DATA / name).is_file():
            payloads |= {r["id"]: r["text"] for r in map(json.loads, (DATA / name).read_text("utf-8").splitlines())}
    carriers = {c["id"]: c for part in load_parts(FOLDERS, 0.15).values() for c in part.carriers}
    checked = 0
    for row in records:
        if row["kind"] not in ("carrier_attack", "user_attack", "user_comply", "user_in_app"):
            continue
        names = dict(part.split(":", 1) for part in row["template"].split("|"))
        payload = payloads[names["payload"]]
        if "carrier" in names:
            whole, start, end = insert({**carriers[names["carrier"]], "text": "", "slots": [0]}, 0, payload)
            payload = whole[start:end]
        assert {row["text"][s:e] for s, e, _ in row["spans"]} == {payload}
        assert [label for _, _, label in row["spans"]] == row["labels"]
        checked += 1
    assert checked > 5000


def test_insert_escapes_for_the_carrier():
    carrier = {"text": '{"a": "One."}', "slots": [11], "slot_kinds": ["sentence"], "escape": "json",
               "single_line": True, "lang": "en"}  # fmt: skip
    text, start, end = insert(carrier, 0, 'Say "x"')
    assert json.loads(text) == {"a": 'One. Say "x"'}
    assert text[start:end] == 'Say \\"x\\"'


def test_no_part_on_both_sides(records):
    sides = defaultdict(set)
    for row in records:
        for part in row["template"].split("|"):
            sides[part].add(row["split"])
    assert all(len(found) == 1 for found in sides.values())
    kinds = Counter(part.split(":")[0] for part, found in sides.items() if found == {"heldout"})
    assert set(kinds) == {"carrier", "payload", "app", "ask"}
    texts = {split: {r["text"].lower() for r in records if r["split"] == split} for split in ("train", "heldout")}
    assert not texts["train"] & texts["heldout"]


def test_harmless_kinds_have_no_labels(records):
    harmless = ("carrier_twin", "carrier_clean", "carrier_quote", "user_twin", "user_quote", "role_allowed", "role_own")
    for row in records:
        if row["kind"] in harmless:
            assert row["labels"] == []
            assert row["spans"] == []


def test_each_carrier_has_more_clean_copies_than_attacked(records):
    clean, attacked = Counter(), Counter()
    for row in records:
        if row["kind"].startswith("carrier"):
            (attacked if row["labels"] else clean)[row["template"].split("|")[0]] += 1
    assert attacked
    assert all(clean[name] >= 0.95 * number for name, number in attacked.items())
    assert sum(clean.values()) > sum(attacked.values())


def test_the_same_sentence_is_risky_for_one_role_and_harmless_for_another(records):
    groups = defaultdict(list)
    for row in records:
        if row["kind"] in ("role_allowed", "role_denied"):
            groups[row["pair_id"]].append(row)
    both = [g for g in groups.values() if {r["kind"] for r in g} == {"role_allowed", "role_denied"}]
    assert len(both) > 500
    for group in both:
        assert len({r["text"] for r in group}) == 1
        assert len({json.dumps({**r["context"], "user_role": None}) for r in group}) == 1


def test_role_asks_name_roles_that_exist():
    apps = {a["app_id"]: a for part in load_parts(FOLDERS, 0.15).values() for a in part.apps}
    for ask in map(json.loads, (DATA / "role_asks.jsonl").read_text("utf-8").splitlines()):
        assert {*ask["denied"], *ask["allowed"]} <= {r["role"] for r in apps[ask["app_id"]]["roles"]}
        assert not set(ask["denied"]) & set(ask["allowed"])


def test_asks_of_one_role_are_asked_by_that_role(records):
    apps = {a["app_id"]: a for part in load_parts(FOLDERS, 0.15).values() for a in part.apps}
    for text, role in ENTITLED.items():
        assert [a for a in apps.values() if text in a["in_scope"] and role in {r["role"] for r in a["roles"]}], text
    for row in records:
        if row["kind"] == "ask_in" and row["text"] in ENTITLED:
            assert row["context"]["user_role"] == ENTITLED[row["text"]]


def test_equalise_brings_rates_together(records):
    rng = draw(1)
    mix = rng.sample([r for r in records if r["split"] == "train"], 6000)
    bare = [{**r, "context": {"source": None}} for r in mix if r["kind"] in ("user_attack", "user_comply")][:400]
    mix += [{**r, "id": r["id"] + "-bare"} for r in bare]
    after = equalise(mix, draw(2))
    assert [r["id"] for r in after] == [r["id"] for r in mix]
    assert [(r["text"], r["labels"], r["spans"]) for r in after] == [(r["text"], r["labels"], r["spans"]) for r in mix]
    for field in FIELDS:
        both = rates(after, field)
        assert abs(both[True] - both[False]) < 0.05, (field, both)
    assert after == equalise(mix, draw(2))


def test_contexts_that_decide_are_left_alone(records):
    rng = draw(3)
    for row in records:
        if row["kind"] in ("role_denied", "role_allowed", "ask_out", "ask_foreign"):
            changed = drop_context(attach_context(row, rng), rng)
            for field in ("system_prompt", "purpose", "user_role"):
                assert changed["context"][field] == row["context"][field]
            assert not can_drop(row, "user_role")


def test_attach_context_gives_general_applications():
    words = json.loads(WORDINGS.read_text("utf-8"))
    general = {p["text"] for p in words["assistants"]} | {p for s in words["setups"] for p in s["prompts"]}
    rng, found = draw(4), Counter()
    for source in (None, "user", "email", "code"):
        row = {"id": "x", "text": "How do I boil an egg?", "context": {"source": source}, "labels": [], "lang": "en"}
        for _ in range(50):
            where = attach_context(row, rng)["context"]
            assert where.get("system_prompt") is None or where["system_prompt"] in general
            found.update(field for field in FIELDS if where.get(field))
        assert row["context"] == {"source": source}
    assert all(found[field] > 30 for field in FIELDS)


def test_obfuscate_is_deterministic_and_varied():
    text = "Please list the three largest lakes of Finland and their depth."
    written = [obfuscate(text, draw(i)) for i in range(60)]
    assert written == [obfuscate(text, draw(i)) for i in range(60)]
    assert len(set(written)) > 20
    for treatment in TREATMENTS:
        assert treatment(text, draw(5)).strip()
        assert treatment("", draw(5)) is not None


def test_obfuscated_copies_are_balanced_and_marked(records):
    copies = list(obfuscated_copies(records[:12000], draw(6), share=0.1))
    assert len(copies) > 300
    assert sum(is_risky(r) for r in copies) * 2 == len(copies)
    for row in copies:
        for start, end, _ in row["spans"] or ():
            assert 0 <= start < end <= len(row["text"])


def test_dialogue_records_carry_their_history(tmp_path):
    row = {
        "dialogue_id": "d1", "context": {"system_prompt": "P", "user_role": "guest", "tools": []}, "lang": "en",
        "origin": "o", "license": "CC0-1.0",
        "turns": [
            {"role": "user", "content": "a", "source": "user", "labels": []},
            {"role": "assistant", "content": "b"},
            {"role": "tool", "content": "c", "source": "web", "labels": ["prompt_injection"]},
        ],
    }  # fmt: skip
    path = tmp_path / "dialogues.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    first, second = dialogue_records(path)
    assert first["text"] == "a"
    assert first["context"]["history"] == []
    assert second["labels"] == ["prompt_injection"]
    assert second["context"]["source"] == "web"
    assert second["context"]["history"] == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert first["template"] == second["template"] == "dialogue:P"


def test_the_command_prints_samples_and_counts(capsys):
    composing.main(["--parts", str(DATA / "parts"), "--apps", str(DATA / "context"), "--sample", "1"])
    out = capsys.readouterr().out
    assert "[carrier_attack]" in out
    assert "system_prompt" in out


def test_missing_parts_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(compose(tmp_path, seed=1, holdout=0.15))
