"""The comparison of architectures: its arithmetic, and with the train extra a run of one small peer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from promptguard import Context, Guard

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def architectures() -> Any:
    sys.path.insert(0, str(BENCHMARKS))  # it imports its neighbours, as a script does
    try:
        import architectures
    finally:
        sys.path.remove(str(BENCHMARKS))
    return architectures


class Stub:
    """Counts its calls; the nth takes n ms, or so it says."""

    name, engine, precision, weights = "peer", "onnxruntime", "int8", "random"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def call(self, case: Any, seed: int) -> dict[str, float]:
        self.asked.append((case, seed))
        return {"model": float(len(self.asked))}


@pytest.fixture(scope="module")
def ours(architectures: ModuleType) -> Any:
    return architectures.Ours(None, "int8")


def test_texts_and_contexts_have_the_tokens_they_should(architectures: ModuleType, ours: Any) -> None:
    for case in architectures.CASES:
        context, windows = ours.ids(case, 7)
        assert len(context) == case.context
        if len(windows) == 1:
            assert len(windows[0]) == case.tokens - case.context
        else:  # windows overlap: every token is in one of them at least
            assert sum(map(len, windows)) > case.tokens - case.context


def test_only_a_seen_context_stays_the_same(architectures: ModuleType) -> None:
    new, seen = architectures.Case(248, 120), architectures.Case(248, 120, True)
    assert architectures.inputs(new, 1)[1] != architectures.inputs(new, 2)[1]
    assert architectures.inputs(seen, 1)[1] == architectures.inputs(seen, 2)[1]
    assert architectures.inputs(seen, 1)[0] != architectures.inputs(seen, 2)[0]


def test_the_models_share_is_part_of_the_whole_call(architectures: ModuleType, ours: Any) -> None:
    times = ours.call(architectures.Case(64), 3)
    assert 0 < times["model"] < times["whole"]


def test_a_turn_leaves_its_first_call_out(architectures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    times = architectures.turn(stub, architectures.Case(64), count())
    assert times == {"model": [float(n) for n in range(2, architectures.MOST_CALLS + 1)]}
    assert len({seed for _, seed in stub.asked}) == architectures.MOST_CALLS
    monkeypatch.setattr(architectures, "TURN_MS", 0)
    assert architectures.turn(Stub(), architectures.Case(64), count()) == {"model": [1.0]}
    # A context that is to be seen is shown once more before the turn.
    assert architectures.turn(Stub(), architectures.Case(248, 120, True), count()) == {"model": [2.0]}


def test_ratios_have_intervals_over_rounds(architectures: ModuleType) -> None:
    same = architectures.ratio([[8.0, 8.0]] * 5, [[2.0]] * 5)
    assert same == {"value": 4.0, "low": 4.0, "high": 4.0}
    # A machine that was slow for some rounds was so for both: the ratio does not move.
    slow = architectures.ratio([[8.0], [80.0]] * 5, [[2.0], [20.0]] * 5)
    assert slow["value"] == slow["low"] == slow["high"] == 4.0
    uneven = architectures.ratio([[8.0], [16.0], [8.0], [12.0]] * 3, [[2.0], [2.0], [4.0], [3.0]] * 3)
    assert uneven["low"] < uneven["value"] < uneven["high"]


def test_operations_of_known_networks(architectures: ModuleType) -> None:
    # docs: a 6-layer, 384-wide encoder does about 21 MFLOP a token in its linear layers; 128 tokens are 2.9 GOP.
    assert architectures.operations([(1, 0)], 6, 384) == pytest.approx(21.2e6, rel=0.01)
    assert architectures.operations([(128, 0)], 6, 384) == pytest.approx(2.87e9, rel=0.01)
    assert architectures.operations([(8, 120)], 6, 384) > architectures.operations([(8, 0)], 6, 384)


def test_like_is_compared_with_like(architectures: ModuleType) -> None:
    def row(name: str, ms: float, **other: Any) -> dict[str, Any]:
        facts = {"engine": "onnxruntime", "precision": "int8", "timed": "model", "tokens": 128, "context": "none"}
        return {"name": name, **facts, "times": [[ms]] * 3, **other}

    rows = [
        row("promptguard", 10.0),
        row("promptguard", 12.0, context="seen"),
        row("promptguard", 20.0, precision="fp32"),
        row("promptguard", 11.0, timed="whole"),
        row("promptguard", 5.0, engine="OpenVINO"),
        row("Prompt Guard 2 22M", 50.0),
        row("Prompt Guard 2 22M", 80.0, precision="fp32"),
        row("stackone-defender", 22.0, timed="whole"),
    ]
    found = [(r["name"], r["precision"], r["context"], r["value"], r["target"]) for r in architectures.compared(rows)]
    assert found == [
        ("Prompt Guard 2 22M", "int8", "none", 5.0, 4.0),
        ("Prompt Guard 2 22M", "int8", "seen", 50 / 12, None),
        ("Prompt Guard 2 22M", "fp32", "none", 4.0, 3.0),
        ("stackone-defender", "int8", "none", 2.0, 1.0),
    ]


def test_what_is_not_installed_is_named(architectures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    assert architectures.missing([]) == "openvino is not installed; or --skip openvino"
    assert architectures.missing(["openvino"]) is None


def test_openvino_runs_the_same_network(architectures: ModuleType, ours: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the comparison of engines needs openvino")
    from promptguard import bundle
    from promptguard.training.export import derive

    derive(bundle.load(None), tmp_path, "fp32")
    exact = architectures.Ours(tmp_path, "fp32")
    openvino = architectures.OursInOpenVINO(exact, tmp_path / bundle.GRAPH)
    assert architectures.check_ours(exact, openvino, None)["OpenVINO"] < 1e-3


@pytest.mark.train
def test_a_small_peer_is_exported_quantized_and_timed(tmp_path: Path) -> None:
    for module in ("torch", "transformers", "onnxscript"):
        pytest.importorskip(module, reason=f"exporting a peer's architecture needs {module}")
    out, plot = tmp_path / "result.json", tmp_path / "plot.svg"
    skip = [
        option
        for option, module in (("openvino", "openvino"), ("stackone-defender", "stackone_defender"))
        if importlib.util.find_spec(module) is None
    ]
    command = [sys.executable, str(BENCHMARKS / "architectures.py"), "--quick", "--out", str(out), "--skip", *skip]
    if importlib.util.find_spec("matplotlib"):
        command += ["--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["quick"] is True
    rows = {(row["name"], row["engine"], row["precision"], row["timed"]): row for row in result["rows"]}
    assert rows["Prompt Guard 2 22M", "onnxruntime", "int8", "model"]["weights"] == "random"
    assert rows["promptguard", "torch", "fp32", "model"]["tokens_run"] == 64
    assert all(row["p10_ms"] <= row["median_ms"] <= row["p90_ms"] for row in rows.values())
    assert result["logits_differ_from_onnxruntime"]["fp32"]["torch"] < 1e-3
    assert result["model"] == Guard().model
    assert "--plot" not in command or plot.read_text().startswith("<?xml")


def test_the_context_of_a_case_is_a_system_prompt(architectures: ModuleType) -> None:
    assert architectures.inputs(architectures.Case(64), 1)[1] is None
    context = architectures.inputs(architectures.Case(248, 120), 1)[1]
    assert isinstance(context, Context)
    assert context.system_prompt
