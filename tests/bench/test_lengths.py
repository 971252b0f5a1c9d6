"""False alarms by number of windows, and the long texts made for it."""

from __future__ import annotations

import pytest
from made import ATTACK, FakeGuard, record, said

from promptguard.bench import lengths
from promptguard.bench.lengths import joined, joined_figures
from promptguard.bench.quality import evaluate
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.types import Context

MODES = {"balanced": 0.5, "strict": 0.2}


def content(text: str, **fields: object) -> Record:
    return record(text=text, family="benign", context=Context(source="document"), **fields)


def test_buckets_by_hand() -> None:
    records = [content("x") for _ in range(10)]
    risks = [0.1, 0.3, 0.9, 0.1, 0.3, 0.3, 0.1, 0.2, 0.6, 0.1]
    windows = [1, 1, 2, 3, 4, 8, 9, 64, 9, 9]
    rows = [said(risk, windows=count) for risk, count in zip(risks, windows, strict=True)]
    rows[9] = said(0.1, flagged=True, windows=64)  # not read whole: reviewed at a low risk
    records.append(record(family="contextual", source_name="pairs"))
    rows.append(said(0.9, windows=1))  # contrast does not count
    records.append(record())
    rows.append(Scored.failed("Boom"))
    found = evaluate(records, rows, thresholds=MODES)["windows"]["records"]
    assert list(found) == ["1", "2-3", "4-8", "9+", "unknown"]
    assert {name: part["n"] for name, part in found.items()} == {"1": 2, "2-3": 2, "4-8": 2, "9+": 4, "unknown": 1}
    assert found["1"]["mean_risk"]["value"] == pytest.approx(0.2)
    assert found["1"]["false_alarm_rate"]["value"] == 0.0
    assert found["2-3"]["false_alarm_rate"]["value"] == 0.5
    assert found["4-8"]["at_modes"]["strict"]["value"] == 1.0
    assert found["9+"]["false_alarm_rate"]["value"] == 0.5
    assert found["9+"]["at_modes"]["balanced"]["value"] == 0.25
    assert found["unknown"]["false_alarm_rate"]["value"] == found["unknown"]["mean_risk"]["value"] == 1.0


def test_joined_texts_are_long_benign_and_use_no_piece_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "LONG_TEXTS", ((40, 5), (100, 3)))
    usable = [content(f"{name}{i:02d} {'x' * 10}", source_name=name) for name in "ab" for i in range(40)]
    others = [
        content("risky one", labels=ATTACK),
        record(text="a message to join", family="benign"),
        content("too long " * 20, source_name="a"),
        record(ATTACK, pair_id="p", source_name="a"),
        content("in a contrasting group", pair_id="p", source_name="a"),
    ]
    made, used = joined([*usable, *others], seed=1)
    assert [len(text.text) >= size for text, size in zip(made, [100] * 3 + [40] * 5, strict=True)] == [True] * 8
    assert {piece.id for piece in used} <= {piece.id for piece in usable}
    assert len({piece.id for piece in used}) == len(used)
    assert sorted(part for text in made for part in text.text.split("\n\n")) == sorted(piece.text for piece in used)
    for text in made:
        assert len({part[0] for part in text.text.split("\n\n")}) == 1  # of one source
        assert (text.risky, text.source_name, text.context.source) == (False, "joined", "document")
    assert {text.text[0] for text in made[:3]} == {"a", "b"}  # sources take turns
    assert joined([*usable, *others], seed=1) == (made, used)
    assert joined([*usable, *others], seed=2) != (made, used)


def test_a_small_set_gives_fewer_texts_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "LONG_TEXTS", ((40, 5), (100, 3)))
    pieces = [content("x" * 15) for _ in range(3)]
    made, used = joined(pieces)
    assert (len(made), len(used)) == (1, 3)
    assert joined(pieces[:2]) == ([], [])
    assert joined_figures(FakeGuard(lambda text, context: 0.1), pieces[:2], MODES) == {}


def test_a_guard_that_grows_with_length_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "LONG_TEXTS", ((4_500, 4), (12_000, 4)))
    pieces = [content("word " * 100) for _ in range(200)]
    guard = FakeGuard(lambda text, context: min(0.99, len(text) / 10_000))
    found = joined_figures(guard, pieces, MODES, bootstrap=20)
    assert found["pieces"]["1"]["false_alarm_rate"]["value"] == 0.0
    assert found["joined"]["4-8"]["n"] == found["joined"]["9+"]["n"] == 4
    assert found["joined"]["4-8"]["at_modes"]["strict"]["value"] == 1.0
    assert found["joined"]["9+"]["false_alarm_rate"]["value"] == 1.0
    assert found["joined"]["9+"]["mean_risk"]["value"] == pytest.approx(0.99)
