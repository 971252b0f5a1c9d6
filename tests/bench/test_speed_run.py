"""The whole run on a tiny bundle: rows, result, page, comparison, command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import plain as plain
from command_line import run, write
from html_page import Page

from promptguard import InputError
from promptguard.bench.speed import machine, page
from promptguard.bench.speed.compare import compare, read_result
from promptguard.bench.speed.run_speed import QUICK, Plan, run_speed
from promptguard.runtime import cores

PLAN = Plan("test", ((16, 120), (128, 120)), 0.3, 0.05, 0.6, (2,), 1, 2, 300, axes=False, percentile=0.9)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def measured(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("speed") / "result.json"
    told: list[str] = []
    result = run_speed(
        plan=replace(PLAN, axes=True),
        model=tiny,
        slo_ms=10_000,
        seed=3,
        out=out,
        command=["promptguard", "bench", "speed", str(tiny)],
        progress=told.append,
    )
    assert told
    assert read_result(out) == json.loads(json.dumps(result))
    assert str(tiny.parent) not in out.read_text()
    return result


def rows(result: dict[str, Any], scenario: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["scenario"] == scenario]


def test_the_result_says_what_it_belongs_to(measured: dict[str, Any]) -> None:
    here = measured["provenance"]["machine"]
    assert here["cores"] == cores() >= 1
    assert set(here) >= {*machine.SAME, "load", "memory_bytes", "safe_int8", "platform"}
    assert {"commit", "dirty", "versions", "date", "command"} <= measured["provenance"].keys()
    settings = measured["settings"]
    assert (settings["seed"], settings["slo_ms"], settings["active_provider"]) == (3, 10_000, machine.CPU)
    assert settings["model"].startswith("tiny-1+")
    assert set(settings["operators"]) <= {machine.CPU}
    assert float(measured["ceiling"]["by_threads"]["1"]) > 1e6


def test_every_length_is_measured_with_a_new_and_a_known_context(measured: dict[str, Any]) -> None:
    found = [row for row in rows(measured, "single-stream") if row["precision"] == "int8" and row["threads"] == 1]
    assert {(row["text_tokens"], row["context_tokens"], row["context"]) for row in found} == {
        (text, context, kind) for text, context in PLAN.lengths for kind in ("new", "seen")
    }
    for row in found:
        assert row["n"] == len(row["samples_ms"]) > 0
        assert row["active_provider"] == machine.CPU
        assert row["times_ceiling"] is None or row["times_ceiling"] > 1
        for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
            assert (row[name] is None) == (row["n"] - -(-share * row["n"] // 1) < 10)
    new, seen = (next(r for r in found if r["text_tokens"] == 128 and r["context"] == k) for k in ("new", "seen"))
    assert new["operations"] > seen["operations"]


def test_offline_and_server(measured: dict[str, Any]) -> None:
    offline = rows(measured, "offline")
    assert all(row["tokens_per_second"] == pytest.approx(row["texts_per_second"] * 128, rel=1) for row in offline)
    layouts = {(row["workers"], row["callers"], row["threads"]) for row in offline}
    assert (1, 1, 1) in layouts
    assert len({workers * callers * threads for workers, callers, threads in layouts}) >= min(2, cores())
    (server,) = rows(measured, "server")
    assert len(server["probes"]) == PLAN.probes
    met = [p["rate"] for p in server["probes"] if p["p99_ms"] is not None and p["p99_ms"] <= server["slo_ms"]]
    failed = [p["rate"] for p in server["probes"] if p["rate"] not in met]
    assert all(probe["n"] > 1000 for probe in server["probes"])
    assert (server["rate"], server["fails_at"]) == (max(met, default=None), min(failed, default=None))
    assert all(0 < rate < server["capacity"] for rate in (*met, *failed))
    assert max(met, default=0) < min(failed, default=server["capacity"])


def test_other_precisions_are_measured(measured: dict[str, Any]) -> None:
    assert {row["precision"] for row in rows(measured, "single-stream")} == {"int8", "fp32", "fp16"}


def test_stages_and_start(measured: dict[str, Any]) -> None:
    for row in rows(measured, "stages"):
        assert set(row["ms"]) == {"text", "windows", "run", "fuse", "decide", "rest", "whole"}
        assert all(value >= 0 for value in row["ms"].values())
        assert max(row["ms"], key=row["ms"].get) == "whole"
    start = measured["start"]
    assert all(len(times) == 1 and times[0] > 0 for times in start["cold_start"]["ms"].values())
    sizes = start["bytes"]
    assert sizes["graph"] < sizes["bundle"]
    assert sizes["compressed"] < sizes["package"]


def test_a_time_that_cannot_be_met_has_no_rate(tiny: Path) -> None:
    result = run_speed(plan=PLAN, model=tiny, slo_ms=0.001, workers=1)
    (server,) = rows(result, "server")
    assert (server["rate"], server["probes"]) == (None, [])
    assert "with nothing waiting" in server["reason"]
    assert "with nothing waiting" in page.render(result)


# --- a log --------------------------------------------------------------------------------------


def test_a_log_gives_the_mix_and_none_of_its_text(tiny: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [{"text": f"xylophone {i} " * (1 + i % 9), "context": {"system_prompt": "shop"}} for i in range(40)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run_speed(plan=PLAN, model=tiny, traffic=[log], workers=1, slo_ms=0.001)
    assert "xylophone" not in json.dumps(result)
    assert {row["context"] for row in result["rows"]} == {"log"}
    described = result["settings"]["traffic"]
    assert described["requests"] == 40
    assert described["share_of_known_contexts"] == pytest.approx(39 / 40)
    assert described["text"]["p90"] > described["text"]["p10"]
    assert "The log" in page.render(result)


# --- compare ------------------------------------------------------------------------------------


def test_a_result_equals_itself(measured: dict[str, Any]) -> None:
    found = compare(measured, measured)
    assert (found["machines"], found["only_a"], found["only_b"]) == ([], 0, 0)
    for row in found["rows"]:
        assert row["ratio"] is None or row["ratio"]["low"] <= 1 == row["ratio"]["value"] <= row["ratio"]["high"]
        assert row["rate_ratio"] in (None, 1)
    assert any(row["ratio"] for row in found["rows"])
    assert any(row["rate_ratio"] for row in found["rows"])


def test_a_slower_result_is_seen(measured: dict[str, Any]) -> None:
    slower = deepcopy(measured)
    for row in slower["rows"]:
        row["samples_ms"] = [3 * sample for sample in row.get("samples_ms", ())]
    ratios = [row["ratio"] for row in compare(measured, slower)["rows"] if row["ratio"]]
    assert ratios
    assert all(ratio["value"] == pytest.approx(3) for ratio in ratios)


def changed(result: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    other = deepcopy(result)
    change(other)
    return other


def test_different_machines_are_not_compared(measured: dict[str, Any]) -> None:
    other = changed(measured, lambda r: r["provenance"]["machine"].update(cores=999))
    with pytest.raises(InputError, match=r"different machines \(cores\)"):
        compare(measured, other)
    assert compare(measured, other, force=True)["machines"] == ["cores"]


def test_what_has_nothing_in_common_is_not_compared(measured: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no row in common"):
        compare(measured, changed(measured, lambda r: r.update(rows=[])))
    with pytest.raises(InputError, match="different traffic logs"):
        compare(measured, changed(measured, lambda r: r["settings"].update(traffic={"requests": 1})))


# --- the page -----------------------------------------------------------------------------------


def test_the_page_holds_all_and_asks_for_nothing(measured: dict[str, Any]) -> None:
    def enough(result: dict[str, Any]) -> None:
        """On a slow machine there may be too few samples for a chart."""
        for row in rows(result, "single-stream"):
            row["p50_ms"] = 1 + row["text_tokens"] / 16

    found = Page(page.render(changed(measured, enough)))
    names = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(names) == len(set(names))
    assert not [tag for tag, _ in found.tags if tag in ("script", "link", "img", "iframe")]
    assert not [attrs for _, attrs in found.tags if "src" in attrs or (attrs.get("href") or "#")[0] != "#"]
    charts = [attrs for tag, attrs in found.tags if tag == "svg" and attrs.get("role") == "img"]
    assert {str(chart["aria-labelledby"]).split("-")[0] for chart in charts} >= {"lengths", "stages", "offline"}
    for chart in charts:
        assert all(name in names for name in str(chart["aria-labelledby"]).split())


def test_what_the_machine_says_of_itself_is_escaped(measured: dict[str, Any]) -> None:
    other = changed(measured, lambda r: r["provenance"]["machine"].update(cpu="<b>chip</b>"))
    assert "<b>chip" not in page.render(other)


@pytest.mark.skipif(CHROMIUM is None, reason="NOT LOOKED AT IN A BROWSER: there is no chromium on this machine")
def test_a_browser_shows_the_page_light_and_dark(measured: dict[str, Any], tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="NOT LOOKED AT: needs pillow")
    html = write(tmp_path / "page.html", page.render(measured))
    for name, flags, paper, accent in (
        ("light", (), (0xFB, 0xFB, 0xFA), (0x1F, 0x5F, 0xA8)),
        ("dark", ("--blink-settings=preferredColorScheme=0",), (0x14, 0x17, 0x1A), (0x7D, 0xB4, 0xF0)),
    ):
        target = tmp_path / f"{name}.png"
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / name}", "--window-size=1200,3000", *flags, f"--screenshot={target}",
            html.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        picture = pillow.open(target).convert("RGB")
        assert picture.getpixel((3, 3)) == paper
        drawn = sum(number for number, pixel in picture.getcolors(1 << 24) if pixel == accent)
        assert drawn > 2_000  # the bars of the throughput


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick run, with less of everything."""
    monkeypatch.setattr("promptguard.bench.speed.run_speed.QUICK", replace(PLAN, lengths=PLAN.lengths[1:]))


def test_the_command_measures_and_writes(tiny: Path, tmp_path: Path, short: None) -> None:
    out, html = tmp_path / "a.json", tmp_path / "a.html"
    done = run("bench", "speed", "--model", tiny, "--workers", 1, "--out", out, "--html", html, "--slo-ms", 0.001)
    for word in ("single-stream", "offline", "server", "stages", "cold start", "GOP/s", "no rate"):
        assert word in done.stdout
    assert "single-stream, 128 tokens" in done.stderr
    assert read_result(out)["plan"] == "test"
    Page(html.read_text(encoding="utf-8"))
    assert "1.000" in run("bench", "compare", out, out).stdout
    assert json.loads(run("bench", "compare", out, out, "--json").stdout)["only_a"] == 0


def test_unusable_arguments_are_said_at_once(tiny: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", "")
    for arguments, said in (
        (("--provider", "abacus"), "'abacus' is unknown: one of cpu, cuda, tensorrt, openvino"),
        (("--threads", 4096), "4096 threads are more than the"),
        (("--workers", 4096), "4096 workers with 1 threads each are more than the"),
        (("--workers", 0), "at least 1"),
        (("--precision", "fp1"), "--precision must be one of int8, fp32, fp16"),
        (("--slo-ms", 0), "--slo-ms must be a positive"),
        (("--traffic", empty), "holds no text"),
        (("--traffic", tmp_path / "none.jsonl"), "there is no file"),
        (("--out", tmp_path / "no" / "where.json"), "there is no folder for"),
        (("--html", tmp_path / "no" / "where.html"), "there is no folder for"),
    ):
        assert said in run("bench", "speed", "--model", tiny, *arguments, status=2).stderr


def test_a_gpu_that_is_not_there(tiny: Path) -> None:
    if "CUDAExecutionProvider" in machine.installed():
        pytest.skip("this onnxruntime has CUDA")
    stderr = run("bench", "speed", "--model", tiny, "--provider", "cuda", status=2).stderr
    assert "the installed onnxruntime has no CUDAExecutionProvider; it has" in stderr


def test_a_provider_that_gets_nothing_of_the_model(tiny: Path) -> None:
    """One that is installed, that a session accepts, and that runs no operator."""
    if (
        "AzureExecutionProvider" not in machine.installed()
        or machine.assigned(tiny / "model.onnx", machine.CPU) is None
    ):
        pytest.skip("this onnxruntime has no such provider, or does not say")
    stderr = run("bench", "speed", "--model", tiny, "--provider", "AzureExecutionProvider", status=2).stderr
    assert "onnxruntime runs nothing of this model on AzureExecutionProvider, but on CPUExecutionProvider" in stderr


def test_results_that_cannot_be_compared(tmp_path: Path) -> None:
    good = write(tmp_path / "other.json", {"schema": "else"})
    for content, said in ((good, "is not a result"), (write(tmp_path / "bad.json", "{"), "is not JSON")):
        assert said in run("bench", "compare", content, good, status=2).stderr
    assert "cannot be read" in run("bench", "compare", tmp_path / "none.json", good, status=2).stderr
    assert "cannot be read" in run("bench", "compare", tmp_path, good, status=2).stderr


def test_quick_is_planned_for_less_than_a_minute() -> None:
    """By its own seconds, on a machine of any speed; starting processes comes on top."""
    rows_measured = sum(2 if context else 1 for _, context in QUICK.lengths) + len(QUICK.batches) + 1
    longest = rows_measured * (QUICK.seconds + QUICK.warm_up) + 2 * QUICK.longest + 2 * QUICK.seconds
    assert longest + QUICK.server_seconds < 50
