"""Other wordings of the context: what is changed, and how changed decisions are counted."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from made import FakeGuard, record, write

from promptguard.bench.records import Record
from promptguard.bench.wording import KINDS, changes, read_asides, read_rewordings, wordings
from promptguard.errors import InputError
from promptguard.types import Context

ROOT = Path(__file__).parents[2]
ASIDES = {"en": ["We have a cat."], "de": ["Wir haben eine Katze."]}


def prompted(prompt: str | None, **fields: Any) -> Record:
    return record(context=Context(system_prompt=prompt, source="email", user_role="clerk"), **fields)


def said(prompt: str, rewordings: dict[str, list[str]] | None = None, **fields: Any) -> dict[str, str | None]:
    made = changes(prompted(prompt, **fields), ASIDES, rewordings or {})
    return {name: other.context.system_prompt for name, other in made}


def test_every_change_by_hand() -> None:
    prompt = "You help. Be kind!\nNever pay."
    assert said(prompt, {prompt: ["Help kindly, pay never."]}) == {
        "paragraph before": f"We have a cat.\n\n{prompt}",
        "paragraph within": "You help. Be kind!\n\nWe have a cat.\n\nNever pay.",
        "paragraph behind": f"{prompt}\n\nWe have a cat.",
        "bullets": "* You help.\n* Be kind!\n* Never pay.",
        "one paragraph": "You help. Be kind! Never pay.",
        "tags": f"<briefing>\n{prompt}\n</briefing>",
        "rephrased": "Help kindly, pay never.",
    }
    assert {name for names in KINDS.values() for name in names} == set(said(prompt, {prompt: ["x"]}))


def test_the_middle_is_between_paragraphs_where_there_are_several() -> None:
    assert said("One. Two. Three.\n\nFour.")["paragraph within"] == "One. Two. Three.\n\nWe have a cat.\n\nFour."
    assert said("no sentence")["paragraph within"] == "no sentence\n\nWe have a cat."


def test_lists_become_a_paragraph_and_what_does_not_change_is_left_out() -> None:
    assert said("# Role\n- Help.\n2. Pay nothing.")["one paragraph"] == "Role Help. Pay nothing."
    assert "one paragraph" not in said("You help. Be kind.")
    assert "bullets" not in said("* You help.\n* Be kind.")


def test_the_paragraph_is_in_the_records_language_and_nothing_else_changes() -> None:
    assert said("Du hilfst.", lang="de")["paragraph before"] == "Wir haben eine Katze.\n\nDu hilfst."
    assert said("你好", lang="zh")["paragraph before"] == "We have a cat.\n\n你好"
    before = prompted("You help.", text="t", pair_id="p")
    for _, after in changes(before, ASIDES, {}):
        assert (after.text, after.group, after.labels) == (before.text, before.group, before.labels)
        assert (after.context.source, after.context.user_role) == ("email", "clerk")
    assert changes(prompted(None), ASIDES, {}) == changes(prompted("  "), ASIDES, {}) == []


def test_moved_decisions_are_counted_by_hand() -> None:
    # Flagged where a cat is mentioned and the prompt is "A."; risk .9 blocks, .1 allows.
    guard = FakeGuard(lambda text, c: 0.9 if "cat" in c.system_prompt and c.system_prompt[-2:] == "A." else 0.1)
    records = [prompted("A."), prompted("A."), prompted("B."), prompted(None)]
    found = wordings(guard, records, ASIDES, {"B.": ["C.", "D."]}, bootstrap=100)
    assert (found["records"], found["flagged"], found["prompts"]) == (3, 0, 2)
    before = found["each"]["paragraph before"]
    assert (before["n"], before["prompts"], before["changed"]["value"]) == (3, 2, pytest.approx(2 / 3))
    assert before["flips"]["value"] == before["changed"]["value"]
    assert (before["to_flagged"], before["to_allowed"]) == (2, 0)
    assert before["mean_risk_moved"] == pytest.approx(2 * 0.8 / 3)
    assert (before["changed"]["low"], before["changed"]["high"]) == (0.0, 1.0)  # two prompts, one of them moved
    assert found["each"]["rephrased"]["n"] == 2
    assert found["each"]["rephrased"]["changed"]["value"] == 0.0
    assert found["kinds"]["irrelevant paragraph"]["changed"]["k"] == 2
    assert found["all"]["n"] == sum(part["n"] for part in found["each"].values())
    json.dumps(found, allow_nan=False)


def test_a_failure_is_another_decision() -> None:
    guard = FakeGuard(lambda text, c: RuntimeError("no") if "<briefing>" in c.system_prompt else 0.9)
    found = wordings(guard, [prompted("A.")], ASIDES, {}, bootstrap=0)
    assert found["each"]["tags"]["changed"] == {"value": 1.0, "low": None, "high": None, "k": 1, "n": 1}
    assert found["each"]["bullets"]["changed"]["value"] == 0.0
    assert found["each"]["rephrased"]["changed"]["value"] is None


def test_a_block_that_becomes_a_review_is_a_change_but_no_flip() -> None:
    class Milder(FakeGuard):
        def analyze_many(self, pairs: Any) -> Any:
            for pair, analysis in zip(pairs, super().analyze_many(pairs), strict=True):
                if "<briefing>" in pair[1].system_prompt:
                    analysis.decision = "review"
                yield analysis

    tags = wordings(Milder(lambda text, c: 0.9), [prompted("A.")], ASIDES, {}, bootstrap=0)["each"]["tags"]
    assert (tags["changed"]["value"], tags["flips"]["value"]) == (1.0, 0.0)


def test_only_the_paragraphs_the_trainer_does_not_use_are_read(tmp_path: Path) -> None:
    rows = [{"text": f"paragraph {i}", "lang": "de" if i % 2 else "en"} for i in range(100)]
    found = read_asides(write(tmp_path / "asides.jsonl", *rows))
    assert set(found) == {"de", "en"}
    assert sum(map(len, found.values())) == 15
    for bad in ({"text": "no language"}, [1], "{"):
        with pytest.raises(InputError):
            read_asides(write(tmp_path / "bad.jsonl", bad))
    with pytest.raises(InputError):
        read_rewordings([tmp_path / "missing.jsonl"])


def test_the_script_writes_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard: Any = FakeGuard(lambda text, c: 0.9 if c.system_prompt == "Z." else 0.1)
    guard.model = "fake@1"
    monkeypatch.setattr("promptguard.guard.Guard", lambda *bundle, mode: guard)
    rows = [{"id": str(i), "text": "t", "labels": [], "context": {"system_prompt": "A."}} for i in range(9)]
    data = write(tmp_path / "set.jsonl", *rows, {"id": "x", "text": "t", "labels": []})
    asides = write(tmp_path / "asides.jsonl", *({"text": f"p{i}", "lang": "en"} for i in range(9)))
    table = write(tmp_path / "table.jsonl", {"prompt": "A.", "rewordings": ["Z."]})
    out = tmp_path / "out.json"
    arguments = ["--data", str(data), "--asides", str(asides), "--rewordings", str(table), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["wording.py", *arguments, "--limit-per-source", "5", "--bootstrap", "10"])
    runpy.run_path(str(ROOT / "scripts" / "wording.py"), run_name="__main__")
    result = json.loads(out.read_text())
    assert (result["records"], result["each"]["rephrased"]["flips"]["value"]) == (5, 1.0)
    assert result["settings"]["mode"] == "balanced"
    assert str(tmp_path) not in out.read_text()
    monkeypatch.setattr(sys, "argv", ["wording.py", *arguments[:3], str(tmp_path), *arguments[4:]])
    with pytest.raises(SystemExit, match="wording: "):
        runpy.run_path(str(ROOT / "scripts" / "wording.py"), run_name="__main__")


def test_the_files_of_the_repository_can_be_read_and_no_rewording_repeats_its_prompt() -> None:
    spec = importlib.util.spec_from_file_location("wording_script", ROOT / "scripts" / "wording.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.ASIDES.exists():
        pytest.skip("the records are not part of the wheel")
    assert len(read_asides(module.ASIDES)["en"]) >= 20
    table = read_rewordings(module.REWORDINGS)
    assert len(table) >= 100
    assert not [prompt for prompt, others in table.items() if prompt in others or not others]
