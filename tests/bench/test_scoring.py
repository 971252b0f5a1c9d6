"""Asking a guard: order, failures, rows that are lost."""

from __future__ import annotations

import builtins
import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from made import FakeGuard, record

from promptguard.bench.scoring import score
from promptguard.errors import MissingExtraError, ModelNotFound


def test_score_keeps_order_and_reports_progress() -> None:
    guard = FakeGuard(lambda text, context: float(text))
    many = [record(text=str(i / 1000)) for i in range(600)]
    calls: list[tuple[int, int]] = []
    rows = score(guard, many, progress=lambda done, total: calls.append((done, total)))
    assert [row.risk for row in rows] == [i / 1000 for i in range(600)]
    assert rows[-1].decision == "block"
    assert (rows[0].decision, rows[0].spans, rows[0].model, rows[0].error) == ("allow", ((1, 3),), "fake@1", None)
    assert calls[-1] == (600, 600)
    assert guard.asked == 600


@pytest.mark.parametrize("bad", [RuntimeError("no"), float("nan"), 1.5])
def test_one_failure_costs_one_row(bad: Any) -> None:
    guard = FakeGuard(lambda text, context: bad if text == "bad" else 0.1)
    rows = score(guard, [record(text="fine"), record(text="bad"), record(text="fine")])
    assert [row.error is None for row in rows] == [True, False, True]
    assert rows[1].decision == "error"


def test_a_model_that_cannot_be_used_is_not_a_row() -> None:
    with pytest.raises(ModelNotFound):
        score(FakeGuard(lambda text, context: ModelNotFound("none")), [record()])


def test_rows_lost_by_the_guard_are_errors() -> None:
    assert score(SimpleNamespace(analyze_many=lambda pairs: []), [record()])[0].error == "ValueError"


@pytest.mark.parametrize("module", ["ranking", "baselines"])
def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    name = f"promptguard.bench.{module}"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"\[bench\]"):
        importlib.import_module(name)
