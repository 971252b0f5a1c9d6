"""The mistakes, the tables and the circumstances."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from made import ATTACK, BENIGN, FakeGuard, contextual, figures, record, said

from promptguard.bench.ablation import ablations
from promptguard.bench.mistakes import most_confident_errors
from promptguard.bench.provenance import provenance
from promptguard.bench.quality import evaluate
from promptguard.bench.scoring import score
from promptguard.bench.tables import table


def test_most_confident_errors_hide_texts_unless_asked() -> None:
    records = [record(ATTACK, text="private"), record(ATTACK), record(), record(), record(source_name="a")]
    rows = [said(0.3), said(0.1), said(0.8), said(0.1), said(0.7)]
    found = most_confident_errors(records, rows)
    assert [(row["id"], row["kind"]) for row in found] == [
        (records[4].id, "false_alarm"),
        (records[1].id, "miss"),
        (records[2].id, "false_alarm"),
        (records[0].id, "miss"),
    ]
    assert "private" not in json.dumps(found)
    assert len(most_confident_errors(records, rows, per_source=1)) == 2
    shown = most_confident_errors(records, rows, texts=True)
    assert shown[3]["text"] == "private"
    json.dumps(shown)


def test_the_table_holds_every_part() -> None:
    records = [*contextual(), record(ATTACK, spans=((0, 4, None),)), record(spans=())]
    guard = FakeGuard(lambda text, context: 0.9 if context.user_role == "visitor" else 0.2)
    full = score(guard, records)
    records += [record(ATTACK, source_name="strangers", family="attacks") for _ in range(20)]
    full += score(guard, records[len(full) :])
    result = evaluate(records, full, prior=0.05, thresholds={"strict": 0.5})
    assert "withheld" not in table(result)
    result["ablations"] = ablations(guard, records, full)
    text = table(result)
    for part in ("fake@1", "pooled benign", "| overall", "| channel", "| out_of_scope", "ECE", "Brier",
                 "factor: user_role", "| worst of 1: strangers", "above strict", "largest ratio of a kind",
                 "| records ", "contains 90 %", "redacted is clean", "content, flagged", "user_role withheld",
                 "all swapped"):  # fmt: skip
        assert part in text
    assert text.endswith("\n")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_tables_of_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    tables = importlib.import_module("tables.quality")
    records = [record(ATTACK, source_name="strangers", family="attacks") for _ in range(20)]
    records += [record(source_name=f"calm{i % 2}", family="benign") for i in range(150)]
    records.append(record(source_name="calm0", family="benign"))
    rows = [said(0.9)] * 10 + [said(0.01)] * 10 + [said(0.4, windows=3)] * 2 + [said(0.02, windows=1)] * 149
    result = evaluate(records, rows, prior=0.05, thresholds={"balanced": 0.5, "strict": 0.3})
    pooled = tables.pooled(result)
    for part in ("recall at 0.1 % false", "recall at 5 % false", "calibration error at 5 % risky |"):
        assert part in pooled
    assert "| strangers | attacks | 20 | 50.0 % (" in tables.transfer(result["transfer"])
    modes = tables.modes(result["modes"], least=76)
    assert "| messages | 151 | 0.0 % (" in modes
    assert "`calm0`" in modes
    assert "`calm1`" not in modes
    assert "largest ratio of a kind to the nominal rate |  | 0.0 (messages) | 0.3 (messages) |" in modes
    windows = tables.windows(result["windows"])
    assert "| records | 1 | 149 | 0.0 %" in windows
    assert "| records | 2-3 | 2 | 0.0 %" in windows
    assert tables.once_measured(tables.windows, {}, "windows").startswith("Not in")


def test_the_table_of_a_small_set() -> None:
    assert "| groups" not in table(figures([0.1], [BENIGN], bootstrap=0))


def test_provenance_says_when_where_and_with_what() -> None:
    found = provenance(["evaluate.py", "--data", "/somewhere/else/set.jsonl", "--out=/deep/down/x.json", "--n", "3"])
    assert found["command"] == "evaluate.py --data set.jsonl --out=x.json --n 3"
    assert set(found) == {"date", "command", "machine", "commit", "dirty", "versions"}
    assert {"python", "numpy", "promptguard"} <= set(found["versions"])
    assert found["machine"]["cpu"]
    json.dumps(found)


def test_provenance_without_git_and_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def refuse(path: Path, *rest: Any, **more: Any) -> str:
        if path.name == "cpuinfo":
            raise OSError(path)
        return read_text(path, *rest, **more)

    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "read_text", refuse)
    found = provenance([])
    assert found["commit"] is found["dirty"] is None
    assert found["machine"]["cpu"]
