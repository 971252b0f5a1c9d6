"""The script and the run behind it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made import FakeGuard, write


def test_the_script_writes_figures_with_their_circumstances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": str(i), "text": "attack" if i % 2 else "greeting", "labels": ["prompt_injection"] if i % 2 else []}
        for i in range(8)
    ]
    rows[1] |= {"spans": [[0, 6]], "context": {"source": "web"}}
    rows.append({"id": "miss", "text": "greeting", "labels": ["fraud"], "context": {"user_role": "clerk"}})
    guard = FakeGuard(lambda text, context: 0.9 if text == "attack" else 0.1)
    asked: list[Any] = []

    def make(*bundle: str, mode: str) -> Any:
        asked.append((bundle, mode))
        return guard

    guard.prior = 0.05  # type: ignore[attr-defined]
    guard.thresholds = SimpleNamespace(risk={"low-alarm": 0.95, "balanced": 0.9, "strict": 0.1})  # type: ignore[attr-defined]
    monkeypatch.setattr("promptguard.bench.run_quality.Guard", make)
    data, out, errors = write(tmp_path / "set.jsonl", *rows), tmp_path / "out.json", tmp_path / "errors.jsonl"
    arguments = ["evaluate.py", "--data", str(data), "--model", "bundle", "--out", str(out), "--errors", str(errors)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--mode", "strict", "--ablations", "--bootstrap", "20"])
    script = Path(__file__).parents[2] / "scripts" / "evaluate.py"
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(script), run_name="__main__")
    assert done.value.code == 0
    assert asked == [(("bundle",), "strict")]
    result = json.loads(out.read_text())
    assert (result["overall"]["n"], result["settings"]["prior"], result["settings"]["mode"]) == (9, 0.05, "strict")
    assert result["provenance"]["records"] == {"set": 9}
    assert str(tmp_path) not in out.read_text()
    clean = result["spans"]["content_flagged"]["redacted_clean"]
    assert (clean["k"], clean["n"]) == (1, 1)  # without its characters it is no attack any more
    assert result["ablations"]["withheld"]["user_role"]["changed"]["n"] == 1
    assert [json.loads(line)["id"] for line in errors.read_text().splitlines()] == ["miss"]
    shown = capsys.readouterr()
    assert "| overall" in shown.out
    assert "9 of 9" in shown.err


def test_the_script_says_what_is_wrong_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptguard.bench.run_quality.Guard", None)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(tmp_path), "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match=r"evaluate: .* holds no"):
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "evaluate.py"), run_name="__main__")
