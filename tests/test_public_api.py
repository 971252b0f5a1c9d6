from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle

import promptguard
from promptguard import Analysis, Context, Example, Guard, Message, Policy, PromptGuardError, Signal, Tool
from promptguard.detectors import Evidence
from promptguard.tokenizer import Tokenizer

CANARY = "qwertzcanary"


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_public_is_what_a_wildcard_gives_sorted() -> None:
    assert promptguard.__all__ == sorted(set(promptguard.__all__))
    names: dict[str, Any] = {}
    exec("from promptguard import *", names)  # noqa: S102
    assert sorted(set(names) - {"__builtins__"}) == promptguard.__all__
    assert all(value is not None for value in names.values())


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        promptguard.nothing  # noqa: B018


def test_importing_does_nothing_else() -> None:
    assert (
        run_python("""
import logging, os, socket, sys, threading, warnings

def refuse(*_, **__):
    raise AssertionError("a socket was opened")

socket.socket.connect = refuse
before = dict(os.environ), warnings.filters[:], logging.root.handlers[:], logging.root.level, os.getcwd()
import promptguard
assert (dict(os.environ), warnings.filters[:], logging.root.handlers[:], logging.root.level, os.getcwd()) == before
assert threading.active_count() == 1
heavy = {"numpy", "onnxruntime", "tokenizers", "torch", "transformers", "typer", "rich", "asyncio", "onnx", "scipy"}
print(sorted(heavy & set(sys.modules)))
""")
        == "[]"
    )


def test_analysing_needs_no_training_code_and_no_network(embedded: Guard) -> None:
    assert (
        run_python("""
import socket, sys

def refuse(*_, **__):
    raise AssertionError("a socket was opened")

socket.socket.connect = refuse
import promptguard
analysis = promptguard.analyze("Where is my parcel?", "parcel tracking chat")
heavy = {"torch", "transformers", "onnx", "scipy", "sklearn", "promptguard.training", "promptguard.cli"}
assert analysis.decision in ("allow", "review", "block")
print(sorted(heavy & set(sys.modules)))
""")
        == "[]"
    )


def test_one_guard_is_shared(embedded: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promptguard.api, "_guard", embedded)
    assert promptguard.analyze("hello", "a shop") == embedded.analyze("hello", "a shop")
    assert promptguard.api._guard is embedded


# Nothing that is printed or raised holds the text

FULL = Context(
    system_prompt=CANARY, user_role=CANARY, purpose=CANARY, history=[Message("user", CANARY)],
    tools=[Tool("search", CANARY)],
)  # fmt: skip


def test_no_repr_holds_a_text(tiny: Path) -> None:
    found = Guard(tiny, examples=[Example("mine", CANARY, ("fraud",))]).analyze(CANARY, FULL)
    assert isinstance(found, Analysis)
    for value in (FULL, FULL.history, FULL.tools, Example("id", CANARY), found, found.to_dict(), Guard(tiny)):
        assert CANARY not in repr(value)
        assert CANARY not in str(value)


class Onlooker:
    """Keeps a printout of the evidence, as a detector of somebody's own may log it."""

    name = "onlooker"

    def __call__(self, evidence: Evidence) -> Signal:
        self.printed = repr(evidence)
        return Signal(self.name, None)


def test_no_repr_of_the_evidence_holds_a_text(tiny: Path) -> None:
    onlooker = Onlooker()
    guard = Guard(tiny, detectors=[onlooker])
    guard.analyze(CANARY, FULL)
    assert CANARY not in onlooker.printed
    ids = Tokenizer(tiny / "tokenizer.json").ids(CANARY)
    assert ", ".join(map(str, ids)) not in onlooker.printed


@pytest.mark.parametrize("call", [
    lambda guard: guard.analyze(CANARY.encode()),
    lambda guard: guard.analyze([CANARY]),
    lambda guard: guard.analyze(CANARY, [CANARY]),
    lambda guard: guard.analyze(CANARY, {CANARY: CANARY}),
    lambda guard: guard.analyze(CANARY, {"source": CANARY}),
    lambda guard: guard.analyze(CANARY, {"system_prompt": [CANARY]}),
    lambda guard: guard.analyze(CANARY, {"history": CANARY}),
    lambda guard: guard.analyze(CANARY, {"history": [CANARY]}),
    lambda guard: guard.analyze(CANARY, {"history": [{"role": "user", "content": CANARY, CANARY: 1}]}),
    lambda guard: guard.analyze(CANARY, {"tools": [{"name": CANARY, "description": 3}]}),
    lambda guard: guard.analyze_many([(CANARY, None, CANARY)]),
    lambda guard: guard.analyze_many([CANARY]),
    lambda guard: guard.analyze_many({CANARY: CANARY}),
    lambda guard: guard.analyze_messages([{"role": CANARY, "content": CANARY}]),
    lambda guard: guard.analyze_messages([{"role": "user", "content": {CANARY: CANARY}}]),
    lambda guard: Example("id", CANARY, (CANARY,)),
    lambda guard: Policy(mode=CANARY),
    lambda guard: Guard(mode=CANARY),
])  # fmt: skip
def test_no_error_holds_a_text(tiny_guard: Guard, call: Any) -> None:
    with pytest.raises(PromptGuardError) as caught:
        call(tiny_guard)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in str(error)
        error = error.__cause__


def test_an_engine_that_fails_does_not_quote_the_text(tmp_path: Path) -> None:
    weights = tiny_bundle.weights(vocabulary=2000)  # most ids lie beyond the table
    tiny_bundle.write_bundle(tmp_path, weights, tiny_bundle.TOKENIZER, "int8", tiny_bundle.SETTINGS)
    with pytest.raises(promptguard.BackendError) as caught:
        Guard(tmp_path).analyze(f"{CANARY} unbelievably misconfigured")
    assert CANARY not in str(caught.value)
