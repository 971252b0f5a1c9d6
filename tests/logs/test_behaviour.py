from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("scipy")

import made_scan

from promptguard import InputError
from promptguard.logs import behaviour, read_scan
from promptguard.logs.money import Prices

PRICES = Prices.load()


@pytest.fixture(scope="module")
def planted() -> pa.Table:
    return made_scan.table(made_scan.planted(made_scan.rows(20_000)))


def found(table: pa.Table, kind: str, prices: Prices | None = PRICES) -> list[behaviour.Finding]:
    return [f for f in behaviour.findings(table, prices=prices) if f.kind == kind]


@pytest.mark.parametrize(
    ("kind", "actor", "rows"),
    [
        ("flooding", "flooder", 900),
        ("spend", "spender", 60),
        ("long_output", "writer", 25),
        ("fan_out", "fan", 90),
        ("probing", "prober", 12),
        ("escalation", "climber", 8),
    ],
)
def test_each_planted_behaviour_is_found_with_exactly_its_rows(
    planted: pa.Table, kind: str, actor: str, rows: int
) -> None:
    (finding,) = found(planted, kind)
    assert (finding.actor, finding.actor_kind) == (actor, "user")
    expected = [r for r, u in zip(planted["row"].to_pylist(), planted["user"].to_pylist(), strict=True) if u == actor]
    assert list(finding.rows) == expected
    assert len(finding.rows) == rows
    assert finding.excess >= 1
    assert finding.start is not None
    assert finding.start.isoformat() == "2026-01-21T00:00:00+00:00"


def test_ordinary_traffic_gives_nothing() -> None:
    assert behaviour.findings(made_scan.table(made_scan.rows(20_000)), prices=PRICES) == []


def test_order_of_the_rows_does_not_matter(planted: pa.Table) -> None:
    shuffled = planted.take(np.random.default_rng(0).permutation(len(planted)))
    assert behaviour.findings(shuffled) == behaviour.findings(planted)


def test_without_prices_spend_is_counted_in_output_tokens(planted: pa.Table) -> None:
    assert {f.actor for f in found(planted, "spend", None)} >= {"writer"}
    assert all("output tokens" in f.why for f in found(planted, "spend", None))


def test_probing_says_how_many_variants_were_allowed(planted: pa.Table) -> None:
    (finding,) = found(planted, "probing")
    assert finding.measured == {"variants": 10, "attempts": 10, "allowed": 2}


def test_one_text_repeated_is_not_probing() -> None:
    scan = made_scan.add(
        made_scan.rows(5_000), user="again", risk=[0.95] * 30, near_hash=77, text_id=9_999_999, time=made_scan.START
    )
    assert not found(made_scan.table(scan), "probing")


@pytest.mark.parametrize(
    "risk",
    [
        [0.97, 0.8, 0.5, 0.2, 0.1, 0.05, 0.03, 0.01],  # falls
        [0.97] * 8,  # is high throughout
        [0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5],  # rises, but nothing is flagged
        [0.2, 0.97],  # too few turns
    ],
)
def test_what_is_no_escalation(risk: list[float]) -> None:
    time = made_scan.START + np.arange(len(risk)) * 60_000_000
    scan = made_scan.add(made_scan.rows(2_000), user="x", session="climb", risk=risk, time=time)
    assert not [f for f in found(made_scan.table(scan), "escalation") if f.session == "climb"]


def test_turns_are_ordered_by_time_and_by_row_where_there_is_none() -> None:
    risk = [0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 0.8, 0.97]
    table = made_scan.table(made_scan.add(made_scan.rows(2_000), session="climb", risk=risk))
    at = table.column_names.index("time")
    for timed in (table, table.set_column(at, "time", pa.nulls(len(table), pa.timestamp("us", tz="UTC")))):
        finding = next(f for f in found(timed, "escalation") if f.session == "climb")
        assert finding.actor_kind == "session"
        assert (finding.start is None) == (timed is not table)


def test_rows_in_error_and_rows_without_an_actor_are_left_out(planted: pa.Table) -> None:
    failed = planted.set_column(planted.column_names.index("status"), "status", pa.array(["error"] * len(planted)))
    assert behaviour.findings(failed) == []
    bare = planted
    for name in ("user", "key", "session"):
        bare = bare.set_column(bare.column_names.index(name), name, pa.nulls(len(bare), pa.string()))
    assert behaviour.findings(bare) == []


def test_a_few_rows_are_compared_with_nothing() -> None:
    assert behaviour.findings(made_scan.table(made_scan.rows(10))) == []
    assert behaviour.findings(made_scan.table(made_scan.rows(10)).slice(0, 0)) == []


def test_a_missing_column_is_named(planted: pa.Table) -> None:
    with pytest.raises(InputError, match="near_hash"):
        behaviour.findings(planted.drop_columns(["near_hash"]))


def test_a_scan_searched_in_parts_finds_the_same_actors(
    planted: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read_scan(made_scan.write(tmp_path / "scan", planted))
    whole = list(behaviour.of_scan(dataset, prices=PRICES))
    assert whole == behaviour.findings(planted, prices=PRICES)
    monkeypatch.setattr(behaviour, "ROWS", 8_000)
    parts = list(behaviour.of_scan(dataset, prices=PRICES))
    assert {(f.kind, f.actor, f.rows) for f in parts} == {(f.kind, f.actor, f.rows) for f in whole}


def test_near_groups() -> None:
    base = 0xF0F0F0F0F0F0F0F0
    near, far = base ^ 0xFF, base ^ 0x1FF  # 8 and 9 bits away
    hashes: Any = np.array([far, base, near, base], dtype=np.uint64)
    assert behaviour.near_groups(hashes).tolist() == [1, 0, 0, 0]
