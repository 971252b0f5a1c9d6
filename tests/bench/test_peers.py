"""The comparison with other packages: they are asked as they should be. Stand-ins take their place here."""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from made import ATTACK, record

from promptguard.bench.scoring import score

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = module
    spec.loader.exec_module(module)
    return module


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def test_the_confidence_of_prompt_guardrail_becomes_a_risk(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(text: str) -> dict[str, Any]:
        return {"label": "injection", "score": 0.6} if text == "attack" else {"label": "safe", "score": 0.9}

    stand_in(monkeypatch, "guardify", LogisticRegressionGuardrail=lambda: SimpleNamespace(predict=predict))
    attack, safe = score(peers.PromptGuardrail(), [record(ATTACK, text="attack"), record(text="hello")])
    assert (attack.risk, attack.decision) == (0.6, "block")
    assert (round(safe.risk, 6), safe.decision) == (0.1, "allow")


def test_stackone_decides_by_allowed_and_scores_by_its_classifier(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"patterns": (False, 0.2), "classifier": (False, 0.7), "fine": (True, 0.5), "short": (True, None)}
    asked = {}

    def create_prompt_defense(**settings: Any) -> Any:
        asked.update(settings)
        return SimpleNamespace(
            warmup_tier2=lambda: None,
            _config=SimpleNamespace(tier2=SimpleNamespace(high_risk_threshold=0.52)),
            defend_tool_result=lambda text, tool: SimpleNamespace(allowed=said[text][0], tier2_score=said[text][1]),
        )

    stand_in(monkeypatch, "stackone_defender", create_prompt_defense=create_prompt_defense)
    rows = score(peers.StackOneDefender(), [record(text=text) for text in said])
    assert [(row.risk, row.decision) for row in rows] == [
        (1.0, "block"),
        (0.7, "block"),
        (0.5, "allow"),
        (0.0, "allow"),
    ]
    assert asked == {"block_high_risk": True, "require_tier2": True}


def test_a_package_that_is_not_there_is_named(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    every = [peer.distribution for peer in peers.PEERS]
    assert "pip install 'stackone-defender[onnx]'" in peers.missing(Namespace(skip=[], encoder="x"))
    assert "prompt-guardrail" in peers.missing(Namespace(skip=every[:1], encoder="x"))
    assert "--encoder" in peers.missing(Namespace(skip=every, encoder=None))
    assert peers.missing(Namespace(skip=[*every, "embeddings"], encoder=None)) is None


def test_sources_are_those_of_the_ids(peers: ModuleType) -> None:
    records = peers.by_source([record(id="deepset/7", source_name="report"), record(id="7", source_name="mine")])
    assert [r.source_name for r in records] == ["deepset", "mine"]


def test_sessions_get_one_thread(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(peers.onnxruntime, "InferenceSession", lambda path, options: opened.append(options))
    before = peers.onnxruntime.InferenceSession
    with peers.one_thread_sessions():
        peers.onnxruntime.InferenceSession("model.onnx")
    assert opened[0].intra_op_num_threads == 1
    assert peers.onnxruntime.InferenceSession is before


def test_milliseconds_leave_the_warm_up_out(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    clock = iter(range(1000))
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(clock))
    found = peers.milliseconds(asked.append, [record(text=str(i)) for i in range(8)])
    assert found == {"median": 1000.0, "p10": 1000.0, "p90": 1000.0, "n": 8}
    assert [len(part) for part in asked] == [1] * 13
