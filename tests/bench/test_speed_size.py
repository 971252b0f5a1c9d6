"""``promptguard bench size``, from load runs on a small bundle to the page."""

from __future__ import annotations

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from command_line import WORD, plain, run  # noqa: F401 - plain is a fixture
from rich.console import Console

pytest.importorskip("simpy")

from promptguard import Context, Guard
from promptguard.bench.speed import run_size as module
from promptguard.bench.speed import size_page, sizing
from promptguard.bench.speed.run_size import SCHEMA, physical_cores
from promptguard.bench.speed.service import TERMS
from promptguard.terminal_size import show_size


def less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as it is, but less of it."""
    monkeypatch.setattr(module, "_LEAST_QUERIES", 150)
    monkeypatch.setattr(module, "_REQUESTS", 200)
    monkeypatch.setattr(module, "_STREAM", 1000)
    monkeypatch.setattr(module, "_REPEATS", 2)
    monkeypatch.setattr(sizing, "_QUERIES", 1000)


@pytest.fixture(scope="module")
def result(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one worker with the small bundle."""
    folder = tmp_path_factory.mktemp("size")
    with pytest.MonkeyPatch.context() as monkeypatch:
        less(monkeypatch)
        arguments = ("--rps", "400", "--slo-ms", "100000", "--price", "0.12/h", "--seconds", "0.6", "--workers", "1")
        files = ("--out", folder / "size.json", "--html", folder / "size.html")
        said = run("bench", "size", *arguments, "--model", tiny, *files)
    assert "80% of capacity" in said.stderr
    assert "99th percentile" in said.stdout
    assert "<h1>Hardware for 400 requests a second" in (folder / "size.html").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads((folder / "size.json").read_text(encoding="utf-8"))
    return found


def test_result_says_what_was_run_and_what_came_of_it(result: dict[str, Any]) -> None:
    assert result["schema"] == SCHEMA
    assert {"commit", "dirty", "date", "machine", "versions", "command"} <= set(result["provenance"])
    assert result["settings"]["mix"]["name"] == "chat"
    assert result["settings"]["other_mix"]["name"] == "documents"
    assert result["replica"]["worker_memory_bytes"] is None or result["replica"]["worker_memory_bytes"] > 10_000_000
    assert result["service"]["slowdown"] == [1.0]
    assert result["capacity_rps"]["measured"] > 0


def test_half_of_the_runs_were_not_fitted_to(result: dict[str, Any]) -> None:
    checks = result["checks"]
    assert [(c["mix"], c["utilisation"], c["fitted"]) for c in checks] == [
        ("chat", 0.3, True),
        ("chat", 0.6, True),
        ("chat", 0.8, False),
        ("documents", 0.7, False),
    ]
    for check in checks:
        assert check["queries"] == len(check["samples_ms"]) + check["unserved"]
        assert check["p50"]["predicted_ms"] > 0
        if check["p50"]["measured_ms"] is not None:
            median = sorted(check["samples_ms"])[math.ceil(0.5 * check["queries"]) - 1]
            assert check["p50"]["measured_ms"] == pytest.approx(median, abs=0.001)


def test_too_few_samples_for_a_99th_percentile_confirm_nothing(result: dict[str, Any]) -> None:
    few = [check for check in result["checks"] if check["queries"] < 1000]
    assert all(check["error"] is None and check["p99"]["measured_ms"] is None for check in few)
    many = [check["error"] for check in result["checks"] if not check["fitted"]]
    assert result["confirmed"] == all(error is not None and abs(error) <= 0.25 for error in many)


def test_answer_follows_from_the_replica(result: dict[str, Any]) -> None:
    limit = result["replica"]["limit_rps"]
    assert result["answer"]["replicas"] == max(2, math.ceil(500 / limit - 1e-9))
    assert result["answer"]["cost_a_month"] == pytest.approx(result["answer"]["replicas"] * 0.12 * 730)


def shown(result: dict[str, Any]) -> str:
    out = Console(file=io.StringIO(), width=110, highlight=False)
    show_size(out, result)
    assert isinstance(out.file, io.StringIO)
    return " ".join(out.file.getvalue().split())


def test_terminal_and_page_say_whether_it_is_confirmed(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    changed["confirmed"], changed["provenance"]["machine"]["load"] = True, 0.0
    assert "confirmed: both runs it was not fitted to within 25%" in shown(changed)
    assert "Not confirmed" not in size_page.render(changed)
    changed["confirmed"], changed["provenance"]["machine"]["load"] = False, 9.0
    assert "not confirmed within 25%: the machine was busy when this began (load 9)" in shown(changed)
    page = size_page.render(changed)
    assert "Not confirmed" in page
    assert "The machine was busy" in page


def test_an_overload_has_no_percentile(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    changed["checks"][2] |= {"unserved": 77, "error": None}
    changed["checks"][2]["p99"]["measured_ms"] = None
    assert "77 not served" in shown(changed)
    assert "77 not served" in size_page.render(changed)


def test_what_limits_a_replica_is_said(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    for limited_by, words in (("utilisation", "no higher load was checked"), ("p99", "exceeds 100000 ms")):
        changed["replica"]["limited_by"] = limited_by
        assert words in shown(changed)
        assert words in size_page.render(changed)


def test_an_slo_no_number_of_replicas_keeps(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result) | {"answer": None, "loads": []}
    changed["demand"]["slo_ms"] = 0.01
    changed["replica"] |= {"limited_by": "service time", "limit_rps": 0.0}
    said = shown(changed)
    assert "no number of replicas keeps the SLO" in said
    assert "more than 0.01" in said
    assert "No number of replicas keeps the SLO" in size_page.render(changed)


def test_a_log_is_replayed_and_nothing_of_it_is_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    less(monkeypatch)
    log = tmp_path / "log.jsonl"
    rows = [{"text": f"{WORD} {'word ' * (i % 7)}", "context": {"purpose": f"{WORD} {i % 3}"}} for i in range(40)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = run(
        "bench", "size", "--rps", "1", "--slo-ms", "100000", "--seconds", "0.6", "--workers", "1",
        "--model", tiny, "--traffic", log, "--json",
    )  # fmt: skip
    result = json.loads(said.stdout)
    assert result["settings"]["mix"]["name"] == "traffic log"
    assert result["settings"]["mix"]["requests"] == 40
    assert result["answer"]["cost_a_month"] is None
    assert WORD not in said.output
    assert WORD not in size_page.render(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rps", "0", "--slo-ms", "50"),
        ("--rps", "-3", "--slo-ms", "50"),
        ("--rps", "nan", "--slo-ms", "50"),
        ("--rps", "400", "--slo-ms", "0"),
        ("--rps", "400", "--slo-ms", "-1"),
        ("--rps", "400", "--slo-ms", "50", "--price", "12"),
        ("--rps", "400", "--slo-ms", "50", "--price", "cheap/h"),
        ("--rps", "400", "--slo-ms", "50", "--headroom", "-1"),
        ("--rps", "400", "--slo-ms", "50", "--replicas-min", "0"),
        ("--rps", "400", "--slo-ms", "50", "--seconds", "0"),
        ("--rps", "400", "--slo-ms", "50", "--workers", "0"),
        ("--rps", "400", "--slo-ms", "50", "--threads", "100000"),
        ("--rps", "400", "--slo-ms", "50", "--provider", "abacus"),
        ("--rps", "400", "--slo-ms", "50", "--provider", "cuda"),
        ("--rps", "400", "--slo-ms", "50", "--out", "/no/such/folder/size.json"),
        ("--rps", "400"),
        ("--slo-ms", "50"),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...]) -> None:
    run("bench", "size", *arguments, status=2)


def test_what_stands_once_is_new_each_time_it_is_sent(tiny: Path) -> None:
    known, alone = Context(system_prompt="the shop"), Context(system_prompt="the office")
    requests = [("one", known), ("two", alone), ("three", known), ("four", None)]
    traffic = module._Traffic.of("made", requests, Guard(tiny)._loaded)
    sent = traffic.sent(8, 300)
    assert [text for text, _ in sent] == ["one", "two", "three", "four"] * 2
    assert [c and c.system_prompt for _, c in sent] == [
        "the shop", "300 the office", "the shop", None, "the shop", "301 the office", "the shop", None
    ]  # fmt: skip
    new = traffic.stream(12, 1, seed=0)[:, TERMS.index("new context")]
    assert new.tolist() == [0, 1, 0, 0] * 3


def test_a_log_without_texts_is_a_wrong_call(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("pyarrow")
    log = tmp_path / "empty.jsonl"
    log.write_text("")
    run("bench", "size", "--rps", "1", "--slo-ms", "50", "--model", tiny, "--traffic", log, status=2)


def test_cores_are_counted() -> None:
    assert 1 <= physical_cores() <= module.cores()
