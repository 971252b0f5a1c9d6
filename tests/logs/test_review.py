"""Labelling rows of a scan and calibrating on the labels: a round trip over random weights, and each step's rules."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from command_line import plain, run, write  # noqa: F401 - a fixture

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from promptguard import Context, Guard, InputError
from promptguard.bench.records import read_records
from promptguard.logs import read_scan, scan
from promptguard.logs.calibrate import calibrate, proportion, rows_needed, threshold
from promptguard.logs.review import NEAR_ROWS, RANDOM_ROWS, Item, Review, draw

TEXTS = [
    f"{a} the {b} {c}"
    for a in ("delete", "show", "forget", "print", "explain")
    for b in ("order", "password", "rules", "system prompt", "customer list", "weather")
    for c in ("now", "for me please", "?")
]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Random weights under which about half of the texts are flagged."""
    risks = sorted(a.risk for a in Guard(tiny).analyze_many((text, None) for text in TEXTS))
    folder = tmp_path_factory.mktemp("bundle") / "half"
    return tiny_bundle.copy(tiny, folder, thresholds=tiny_bundle.thresholds(risks[45], block=risks[60]))


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, half: Path) -> Path:
    """A scan of 400 rows of 90 texts, the first of which makes up a fifth, and a row in error."""
    folder = tmp_path_factory.mktemp("scanned")
    logged: list[Any] = [{"text": TEXTS[0 if i % 5 == 0 else i % 90], "session": f"s{i}"} for i in range(400)]
    logged.insert(7, {"nothing": 1})
    log = write(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in logged))
    scan(log, folder / "out", model=half, copy_text=True)
    return folder / "out"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the draw -----------------------------------------------------------------------------------


def test_near_rows_are_the_nearest_texts_and_random_rows_are_any(scanned: Path) -> None:
    rows = [row for row in read_scan(scanned).to_table().to_pylist() if row["status"] == "ok"]
    drawn = draw(scanned, near=12, random=40)
    near = [item for item in drawn.items if item.drawn == "near"]
    random = [item for item in drawn.items if item.drawn == "random"]
    assert (len(near), len(random), drawn.mode) == (12, 40, "balanced")
    assert [item.drawn for item in drawn.items[:4]] == ["near", "random"] * 2
    assert len({item.text for item in near}) == 12
    assert not {item.text for item in near} & {item.text for item in random}

    def distance(risk: float) -> float:
        at = drawn.threshold
        return abs(math.log(risk / (1 - risk)) - math.log(at / (1 - at)))

    distances = [distance(item.risk) for item in near]
    assert distances == sorted(distances)
    left = {row["text"]: distance(row["risk"]) for row in rows}
    for item in drawn.items:
        left.pop(item.text, None)
    assert max(distances) <= min(left.values())
    # Rows, not texts, are drawn: the text that makes up a fifth of the log makes up about a fifth of the draw.
    every = draw(scanned, near=0, random=200).items
    assert 0.14 < Counter(item.text for item in every)[TEXTS[0]] / 200 < 0.27
    assert np.corrcoef([item.risk for item in every], range(200))[0, 1] == pytest.approx(0, abs=0.25)
    assert [item.id for item in every[:40]] == [item.id for item in random]


def test_near_rows_lie_on_both_sides(scanned: Path) -> None:
    drawn = draw(scanned, near=20, random=0)
    assert {item.risk >= drawn.threshold for item in drawn.items} == {True, False}
    blocking = draw(scanned, near=1, random=0, mode="low-alarm")
    assert blocking.threshold > drawn.threshold
    assert blocking.items[0].id != drawn.items[0].id


def test_a_scan_without_texts_is_refused(tmp_path: Path, half: Path) -> None:
    log = write(tmp_path / "log.jsonl", {"text": "hello"})
    scan(log, tmp_path / "out", model=half)
    shown = run("review", tmp_path / "out", "--labels", tmp_path / "l.jsonl", status=2).stderr
    assert "--copy-text" in shown
    assert "no scan" in run("review", tmp_path, status=2).stderr
    with pytest.raises(InputError, match="near and random"):
        draw(tmp_path / "out", near=0, random=0)
    with pytest.raises(InputError, match="mode must"):
        draw(tmp_path / "out", mode="lax")


# --- answers ------------------------------------------------------------------------------------


def review(scanned: Path, labels: Path, keys: str, *options: str) -> str:
    return run("review", scanned, "--labels", labels, *options, stdin=keys).stdout


def test_answers_become_records_at_once_and_it_goes_on_where_it_stopped(scanned: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    options = ("--near", "3", "--random", "0", "--license", "CC0-1.0")
    items = draw(scanned, near=3, random=0).items
    shown = review(scanned, labels, "x\nb\nr\n1, 9\nq\n", *options)
    assert "none of the keys" in shown
    assert "1 of 3, near the threshold, log.jsonl" in shown
    assert "2 of 3 rows have a label" in shown
    first, second = lines(labels)
    assert (first["id"], first["text"], first["labels"]) == (items[0].id, items[0].text, [])
    assert second["labels"] == ["prompt_injection", "harmful_content"]
    assert (first["license"], first["lang"], first["drawn"], first["pair_id"]) == ("CC0-1.0", "und", "near", None)
    assert first["origin"] == f"log.jsonl:{items[0].line}"
    assert first["context"] == {}
    shown = review(scanned, labels, "risky\n\nr 10\nr 4\n", *options)
    assert "1 of 3" not in shown
    assert "3 of 3, near" in shown
    assert "from 1 to 9" in shown
    assert lines(labels)[2]["labels"] == ["data_exfiltration"]
    before = labels.read_bytes()
    assert "3 of 3 rows have a label" in review(scanned, labels, "", *options)
    assert labels.read_bytes() == before
    assert [r.drawn for r in read_records([labels])] == ["near"] * 3


def test_skip_and_back(scanned: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    shown = review(scanned, labels, "p\nb\ns\nback\np\nr 2\nskip\nb\n", "--near", "3", "--random", "0")
    assert "no earlier answer" in shown
    assert [r["labels"] for r in lines(labels)] == [["jailbreak"], []]
    assert "2 of 3 rows have a label" in shown
    assert "1 near the threshold, 0 drawn at random" in shown


def item(number: int, text: str, drawn: str = "random") -> Item:
    return Item(f"s/{number}/{drawn}", drawn, "f", number, text, Context(), "allow", 0.1, (), ())


def test_an_answer_serves_the_same_text_when_its_turn_comes(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    items = [item(0, "a"), item(1, "b", "near"), item(2, "c"), item(3, "a"), item(4, "c"), item(5, "b"), item(6, "d")]
    made = Review(items, labels)
    made.label(())
    made.label(("fraud",))
    assert [r["id"] for r in lines(labels)] == ["s/0/random", "s/1/near"]  # not s/3: the beginning of the draw
    made.skip()
    assert made.current == items[6]
    assert [(r["id"], r["labels"]) for r in lines(labels)[2:]] == [("s/3/random", []), ("s/5/random", ["fraud"])]
    assert made.without_label == {"near": 0, "random": 2}
    assert made.back()
    assert made.current == items[2]
    assert len(lines(labels)) == 2
    made.label(("jailbreak",))
    assert [r["id"] for r in lines(labels)[2:]] == ["s/2/random", "s/3/random", "s/4/random", "s/5/random"]
    # In another context it is another question.
    other = replace(items[0], id="s/9/random", context=Context(purpose="a shop"))
    assert Review([other], labels).current == other
    assert Review([replace(other, context=Context(session="x"))], labels).current is None


def test_a_line_without_its_end_is_not_continued(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"id": "mine", "text": "x", "labels": []}), encoding="utf-8")
    Review([item(0, "a")], labels).label(())
    assert [r.id for r in read_records([labels])] == ["mine", "s/0/random"]


def test_a_file_that_cannot_be_is_refused_before_anything_is_asked(scanned: Path, tmp_path: Path) -> None:
    for labels in (tmp_path, tmp_path / "none" / "labels.jsonl"):
        assert "folder that exists" in run("review", scanned, "--labels", labels, stdin="b\n", status=2).stderr
    broken = write(tmp_path / "labels.jsonl", '{"id": "1"')
    assert "labels.jsonl:1" in run("review", scanned, "--labels", broken, stdin="b\n", status=1).stderr


def test_ctrl_c_keeps_what_was_answered(scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(out: Any, drawn: Any, answers: Review, read: Any) -> None:
        answers.label(())
        raise KeyboardInterrupt

    monkeypatch.setattr("promptguard.terminal_review.walk", interrupted)
    labels = tmp_path / "labels.jsonl"
    assert "1 of 3 rows have a label" in review(scanned, labels, "", "--near", "3", "--random", "0")
    assert len(lines(labels)) == 1


def test_nothing_in_a_log_acts_on_the_terminal(half: Path, tmp_path: Path) -> None:
    row = {"text": "\x1b[2Jhello", "system_prompt": "\x1b]0;title\x07 shop", "history": [
        {"role": "user", "content": "\u202eturn"}]}  # fmt: skip
    scan(write(tmp_path / "log.jsonl", row), tmp_path / "out", model=half, copy_text=True)
    shown = review(tmp_path / "out", tmp_path / "labels.jsonl", "w\no\n")
    assert "\\x1b[2Jhello" in shown
    assert "\\u202eturn" in shown
    assert not set("\x1b\x07\u202e") & set(shown)
    (record,) = lines(tmp_path / "labels.jsonl")
    assert (record["text"], record["labels"]) == (row["text"], ["out_of_scope"])
    assert record["context"]["history"] == row["history"]


def test_out_of_scope_needs_a_purpose(scanned: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    assert "needs a purpose" in review(scanned, labels, "o\n", "--near", "1", "--random", "0")
    assert not labels.exists()


def test_the_command_draws_what_the_library_draws(scanned: Path, tmp_path: Path) -> None:
    shown = run("review", "--help").stdout
    assert str(NEAR_ROWS) in shown
    assert str(RANDOM_ROWS) in shown


# --- thresholds ---------------------------------------------------------------------------------


def test_threshold_flags_what_the_rate_allows_and_ties_together() -> None:
    risk = np.arange(1, 301) / 1000
    assert (risk >= threshold(risk, 0.01)).sum() == 3
    assert threshold(risk, 0.01) <= risk[297]
    tied = np.array([0.5] * 10 + [0.1] * 290)
    assert (tied >= threshold(tied, 0.01)).sum() == 0


def test_interval_is_that_of_clopper_and_pearson() -> None:
    hit = np.arange(300) < 3
    found = proportion(hit)
    assert (found["k"], found["n"], found["value"]) == (3, 300, 0.01)
    assert found["low"] == pytest.approx(0.002068, abs=2e-5)  # binom.test(3, 300) of R
    assert found["high"] == pytest.approx(0.02894, abs=2e-4)
    assert proportion(hit, allowed=6)["high"] > found["high"]
    assert proportion(hit[:0])["value"] is None


def test_interval_holds_for_the_rows_that_chose_the_threshold() -> None:
    generator = np.random.default_rng(1)
    missed = 0
    for _ in range(2000):
        risk = generator.random(400)  # uniform: the true rate of a threshold t is 1 - t
        at = threshold(risk, 0.01)
        found = proportion(risk >= at, allowed=4)
        missed += not found["low"] <= 1 - at <= found["high"]
    assert missed / 2000 < 0.06


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 299), (0.05, 59), (0.001, 2995)])
def test_rows_a_rate_needs(rate: float, needed: int) -> None:
    assert rows_needed(rate) == needed
    assert (1 - rate) ** needed <= 0.05 < (1 - rate) ** (needed - 1)


def records(path: Path, *, benign: int, near: int = 0, risky: int = 5) -> Path:
    made = []
    for drawn, labels, number in (("random", [], benign), ("near", [], near), ("random", ["fraud"], risky)):
        made += [{"text": f"{TEXTS[i % 90]} {i}", "labels": labels, "drawn": drawn} for i in range(number)]
    made.append({"text": "mine", "labels": ["jailbreak"]})
    return write(path, "".join(json.dumps({"id": str(i), **record}) + "\n" for i, record in enumerate(made)))


def test_a_rate_that_the_rows_cannot_support_is_refused(tmp_path: Path, half: Path) -> None:
    labels = records(tmp_path / "l.jsonl", benign=298, near=500)
    out = tmp_path / "new"
    shown = run("calibrate", labels, "-o", out, "--model", half, status=2).stderr
    assert "at least 299" in shown
    assert "298 can show 1.00%" in shown
    assert not out.exists()
    none = records(tmp_path / "none.jsonl", benign=0, near=500)
    assert "there are none" in run("calibrate", none, "-o", out, "--model", half, status=2).stderr
    for wrong, said in (("x", "MODE=NUMBER"), ("lax=0.1", "mode"), ("1", "between"), ("nan", "between")):
        shown = run("calibrate", labels, "-o", out, "--false-positive-rate", wrong, status=2).stderr
        assert said in shown
    with pytest.raises(InputError, match="order"):
        calibrate(labels, out, rates={"balanced": 0.2, "strict": 0.1})
    with pytest.raises(InputError, match="empty folder"):
        calibrate(labels, tmp_path, rates={"strict": 0.05}, model=half)


def test_modes_that_are_not_named_stay_or_keep_the_order(tmp_path: Path, half: Path) -> None:
    labels = records(tmp_path / "l.jsonl", benign=100)
    known = calibrate(labels, tmp_path / "new", rates={"strict": 0.05}, model=half)["modes"]
    old = Guard(half).thresholds.risk
    assert known["strict"]["from"] == "fitted"
    assert known["strict"]["false_positives"]["k"] == 5
    for mode in ("low-alarm", "balanced"):
        moved = known["strict"]["threshold"] > old[mode]
        assert known[mode]["threshold"] == max(old[mode], known["strict"]["threshold"])
        assert known[mode]["from"] == ("moved to keep the order" if moved else "kept")
    assert known["balanced"]["from"] == "moved to keep the order"
    assert known["strict"]["recall_random"]["n"] == 5
    assert known["strict"]["recall_other"]["n"] == 1
    assert known["strict"]["recall_near"] == {"k": 0, "n": 0, "value": None, "low": None, "high": None}


def test_calibrating_without_its_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    monkeypatch.delitem(sys.modules, "promptguard.logs.calibrate")
    labels = records(tmp_path / "l.jsonl", benign=3)
    assert "[bench]" in run("calibrate", labels, "-o", tmp_path / "new", status=1).stderr


def test_round_trip(scanned: Path, tmp_path: Path, half: Path) -> None:
    labels, out = tmp_path / "labels.jsonl", tmp_path / "mine"
    asked = draw(scanned, near=20, random=380).items
    risky = {text for text in TEXTS if text.startswith("delete the password")}
    script, answered = "", set()
    for row in asked:  # one answer for each text: no context sets rows apart
        if row.text not in answered:
            answered.add(row.text)
            script += "r 7\n" if row.text in risky else "b\n"
    review(scanned, labels, script[: len(script) // 2], "--near", "20", "--random", "380")
    done = len(lines(labels))
    assert 0 < done < len(asked)
    given = len({r["text"] for r in lines(labels)})
    review(scanned, labels, "".join(script.splitlines(keepends=True)[given:]), "--near", "20", "--random", "380")
    assert Counter(r["drawn"] for r in lines(labels)) == Counter(i.drawn for i in asked)
    shown = run("calibrate", labels, "-o", out, "--model", half).stdout
    assert "fitted for 1.00%" in shown
    harmless = [r for r in lines(labels) if r["drawn"] == "random" and not r["labels"]]
    old, new = Guard(half), Guard(out)
    flagged = [sum(g.analyze(r["text"]).flagged for r in harmless) for g in (old, new)]
    assert flagged[0] > 0.2 * len(harmless)
    assert flagged[1] <= 0.01 * len(harmless)
    manifest = json.loads((out / "manifest.json").read_text())
    facts = manifest["thresholds_from"]
    assert facts["bundle"] == manifest["derived_from"] == old.model
    assert new.model != old.model
    assert facts["modes"]["balanced"]["false_positives"]["n"] == len(harmless)
    assert facts["modes"]["balanced"]["false_positives"]["k"] == flagged[1]
    assert manifest["thresholds"]["intents"] == dict(old.thresholds.intents)
    again = json.loads(run("calibrate", labels, "-o", tmp_path / "b", "--model", half, "--json").stdout)
    assert again == facts
    assert "as labelled" in run("model", "info", "--model", out).stdout
