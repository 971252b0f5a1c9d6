"""Records and verdicts that the tests of the benchmark make up."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from promptguard.bench.quality import evaluate
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.intents import INTENTS
from promptguard.types import Context

ATTACK = frozenset({"prompt_injection"})
BENIGN: frozenset[str] = frozenset()
OUT = frozenset({"out_of_scope"})
numbers = itertools.count()


def record(labels: frozenset[str] = BENIGN, **fields: Any) -> Record:
    given = {"id": f"r{next(numbers)}", "text": "some text", "source_name": "set", "labels": labels} | fields
    return Record(**given)


def said(risk: float, *, flagged: bool | None = None, intents: tuple[str, ...] | None = None, **fields: Any) -> Scored:
    """A verdict: by default flagged from 0.5 on, with prompt_injection as the intent."""
    flagged = risk >= 0.5 if flagged is None else flagged
    intents = (("prompt_injection",) if flagged else ()) if intents is None else intents
    probabilities = {"prompt_injection": risk}
    return Scored(risk, probabilities, "review" if flagged else "allow", intents, **fields)


def figures(risks: list[float], labels: list[frozenset[str]], **settings: Any) -> dict[str, Any]:
    return evaluate([record(label) for label in labels], [said(risk) for risk in risks], **settings)


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


class FakeGuard:
    """Says what a function of (text, context) says; raises what it returns if that is an exception."""

    def __init__(self, risk: Any) -> None:
        self.risk = risk
        self.asked = 0

    def analyze_many(self, pairs: Any) -> Any:
        self.asked += len(pairs)
        for text, context in pairs:
            value = self.risk(text, context)
            if isinstance(value, Exception):
                raise value
            yield SimpleNamespace(
                risk=value,
                probabilities=dict.fromkeys(INTENTS, 0.0) | {"prompt_injection": value},
                decision="block" if value >= 0.5 else "allow",
                intents=("prompt_injection",) if value >= 0.5 else (),
                spans=(SimpleNamespace(start=1, end=3),),
                redacted=lambda text=text: text[:1] + text[3:],
                model="fake@1",
                coverage=SimpleNamespace(windows=1 + len(text) // 1000),
            )


def contextual() -> list[Record]:
    roles = {"admin": BENIGN, "visitor": ATTACK}
    return [
        record(label, text=f"t{i}", pair_id=str(i), factor="user_role", context=Context(user_role=role))
        for i in range(10)
        for role, label in roles.items()
    ]
