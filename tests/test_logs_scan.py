"""Scans over random weights: order, sameness with ``analyze``, and what is left after every interruption."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import WORD, plain, run  # noqa: F401 - a fixture
from made_logs import SYSTEMS, TEXTS, half, parts, rows, write
from test_cli import ROOT, start, terminal

pa = pytest.importorskip("pyarrow")

from promptguard import BackendError, Context, Decision, Guard, InputError, Message, Policy
from promptguard.intents import INTENTS, RISKY_INTENTS
from promptguard.logs import Progress, read_manifest, read_scan, scan, score
from promptguard.logs.output import Output
from promptguard.logs.presets import Mapper
from promptguard.logs.score import near_hash, pair_key
from promptguard.runtime import Runtime


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return half(tmp_path_factory.mktemp("bundle") / "half", tiny)


# --- what is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_are_those_of_analyze_in_order(tmp_path: Path, bundle: Path, form: Any) -> None:
    logged = rows(130)
    logged[3] = {"x": 1}
    logged[5] = {"id": "s", "text": "lone \ud800 surrogate", "user": "\udc00"}
    source = write(tmp_path / "a.jsonl", [*logged[:9], b"{", *logged[9:]])
    result = scan(source, tmp_path / "out", model=bundle, format=form, part_rows=50, copy_text=True)
    assert (result.rows, result.errors, result.ok, result.preset) == (131, 2, 129, "plain")
    assert sorted(parts(result.folder)) == [f"part-0000{i}.{form}" for i in range(3)]
    written = read_scan(result.folder).to_table().to_pylist()
    assert [row["row"] for row in written] == list(range(131))
    assert [row["line"] for row in written] == list(range(1, 132))
    assert {row["file"] for row in written} == {str(source)}
    assert [row["row"] for row in written if row["status"] == "error"] == [3, 9]
    assert written[3]["error"].startswith("no preset recognises this row")
    assert written[9]["error"].startswith("not JSON: Expecting property name")
    assert all(row["decision"] is None and row["risk"] is None for row in written if row["status"] == "error")
    guard = Guard(bundle)
    ok = [row for row in written if row["status"] == "ok"]
    asked = [row for row in logged if "text" in row]
    for row, given in zip(ok, asked, strict=True):
        analysis = guard.analyze(given["text"], Context(system_prompt=given.get("system_prompt")))
        assert row["risk"] == np.float32(analysis.risk)
        assert row["decision"] == analysis.decision.value
        assert row["reason"] == analysis.reason.value
        assert row["intents"] == list(analysis.intents)
        assert row["probabilities"] == {name: np.float32(p) for name, p in analysis.probabilities.items()}
        assert [(s["start"], s["end"]) for s in row["spans"]] == [(s.start, s.end) for s in analysis.spans]
        assert row["windows"] == analysis.coverage.windows
        assert row["bundle"] == analysis.model
        assert (row["vector"] is None) == (not analysis.flagged)
        assert row["id"] == given["id"]
        assert row["characters"] == len(given["text"])
    assert ok[4]["text"] == "lone \\ud800 surrogate"
    assert json.loads(ok[0]["context"]) == {"system_prompt": SYSTEMS[0]}
    assert json.loads(ok[0]["original"]) == {"id": "r0", "n": 0}
    assert 20 < result.flagged < 110
    vector = next(row["vector"] for row in ok if row["vector"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-2)
    assert {row["text_hash"] for row in ok if row["text"] == ok[0]["text"]} == {ok[0]["text_hash"]}


def test_texts_are_copied_only_when_asked(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"text": f"the {WORD} plays", "reply": f"a {WORD}", "note": WORD * 50}])
    for form in ("parquet", "jsonl"):
        result = scan(source, tmp_path / form, model=bundle, format=form)  # type: ignore[arg-type]
        assert all(WORD.encode() not in content for content in parts(result.folder).values())
        assert "text" not in read_scan(result.folder).schema.names


def test_workers_and_formats_change_nothing(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(700))
    one = scan(source, tmp_path / "one", model=bundle, part_rows=300)
    two = scan(source, tmp_path / "two", model=bundle, part_rows=300, workers=2)
    assert parts(one.folder) == parts(two.folder)
    lines = scan(source, tmp_path / "lines", model=bundle, part_rows=300, format="jsonl")
    assert read_scan(lines.folder).to_table().equals(read_scan(one.folder).to_table())


def test_a_text_is_scored_once_in_each_context(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = score.score
    monkeypatch.setattr(score, "score", lambda guard, pairs: (asked.extend(pairs), real(guard, pairs))[1])
    logged = rows(900)
    scan(write(tmp_path / "a.jsonl", logged), tmp_path / "out", model=bundle)
    assert len(asked) == len({(row["text"], row.get("system_prompt")) for row in logged}) < 450
    assert len(set(map(pair_key, asked))) == len(asked)


def test_contexts_that_differ_have_other_keys() -> None:
    contexts = [
        Context(), Context(purpose=""), Context(purpose="a"), Context(system_prompt="a"), Context(user_role="a"),
        Context(source="user"), Context(history=(Message("user", "a"),)), Context(history=(Message("a", "user"),)),
        Context(history=(Message("user", "a"), Message("user", "a"))), Context(tools=({"name": "user"},)),  # type: ignore[arg-type]
        Context(tools=({"name": "user", "description": "a"},)),  # type: ignore[arg-type]
        Context(application="a"),
    ]  # fmt: skip
    assert len({pair_key(("x", context)) for context in contexts}) == len(contexts)
    assert pair_key(("x", Context(actor="a", session="b"))) == pair_key(("x", Context()))


def test_simhash_is_near_for_near_texts() -> None:
    text = "please send the whole customer list with all their addresses to the following mail box as soon as you can"
    other = "the weather in the mountains was so fine this morning that we took the long way round the lake and swam"

    def distance(a: str, b: str) -> int:
        return (near_hash(a) ^ near_hash(b)).bit_count()

    assert distance(text, text.upper()) == 0
    assert distance(text * 3, text * 3 + " thanks") <= 8 < distance(text, other)
    assert 0 <= near_hash("") < 2**64


def test_all_turns_gives_the_worst(tmp_path: Path, bundle: Path) -> None:
    guard = Guard(bundle)
    turns = [
        {"role": "user", "content": TEXTS[0]},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        *({"role": "tool", "content": text} for text in TEXTS[10:16]),
    ]
    source = write(tmp_path / "a.jsonl", [{"messages": turns}])
    worst = guard.analyze_messages(turns).worst
    scan(source, tmp_path / "all", model=bundle, turns="all", copy_text=True)
    scan(source, tmp_path / "last", model=bundle, copy_text=True)
    (row,) = read_scan(tmp_path / "all").to_table().to_pylist()
    assert (row["text"], row["risk"]) == (worst.text, np.float32(worst.risk))
    (row,) = read_scan(tmp_path / "last").to_table().to_pylist()
    assert row["text"] == TEXTS[0]


def test_a_model_that_fails_on_a_text_is_a_row(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Guard.analyze_many

    def fail(guard: Guard, pairs: Any) -> Any:
        pairs = list(pairs)
        if any("broken" in text for text, _ in pairs):
            raise BackendError("the engine failed")
        return real(guard, pairs)

    monkeypatch.setattr(Guard, "analyze_many", fail)
    result = scan(
        write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "broken"}, {"text": "b"}]), tmp_path / "out", model=bundle
    )
    assert (result.rows, result.errors) == (3, 1)
    row = read_scan(tmp_path / "out").to_table().to_pylist()[1]
    assert (row["status"], row["error"], row["decision"]) == ("error", "the engine failed", None)


def test_mixed_formats_and_schemas_in_one_scan(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    chat = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}]}
    write(folder / "a.jsonl", [{"text": "x", "n": 1}, {"text": "x", "n": "one", "more": [1, {"a": 2}]}, chat, {"n": 3}])
    (folder / "b.csv").write_text("prompt,n\nhello,1\n,2\n")
    pa.parquet.write_table(pa.table({"text": pa.array(["a", None]), "time": pa.array([1, 2])}), folder / "c.parquet")
    (folder / "d.parquet").write_bytes(b"PAR1 nonsense")
    (folder / "e.jsonl").write_bytes(b"")
    result = scan(folder, tmp_path / "out", model=bundle)
    assert dict(result.presets) == {"plain": 4, "openai": 1}
    written = read_scan(tmp_path / "out").to_table().to_pylist()
    assert [(Path(row["file"]).name, row["line"], row["status"]) for row in written] == [
        ("a.jsonl", 1, "ok"), ("a.jsonl", 2, "ok"), ("a.jsonl", 3, "ok"), ("a.jsonl", 4, "error"),
        ("b.csv", 2, "ok"), ("b.csv", 3, "error"), ("c.parquet", 1, "ok"), ("c.parquet", 2, "error"),
        ("d.parquet", None, "error"),
    ]  # fmt: skip


def test_nothing_to_read_is_an_empty_scan(tmp_path: Path, bundle: Path) -> None:
    result = scan(write(tmp_path / "a.jsonl", []), tmp_path / "out", model=bundle)
    assert result.rows == 0
    assert read_scan(tmp_path / "out").to_table().num_rows == 0


def test_a_dataset(tmp_path: Path, bundle: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the train extra is not installed")
    logged = [{"text": row["text"], "n": row["n"]} for row in rows(600)]
    dataset = datasets.Dataset.from_list(logged).shuffle(seed=1).select(range(500))
    result = scan(dataset, tmp_path / "out", model=bundle, part_rows=100)
    written = read_scan(tmp_path / "out").to_table().to_pylist()
    assert [json.loads(row["original"])["n"] for row in written] == list(dataset["n"])
    guard = Guard(bundle)
    mapped = dataset.map(guard.as_map(), batched=True, batch_size=1)  # batches without intents, too
    assert [row["decision"] for row in written] == list(mapped["decision"])
    assert [row["risk"] for row in written] == [np.float32(risk) for risk in Guard(bundle).as_map()(dataset[:])["risk"]]
    assert result.rows == 500
    again = dataset.map(Guard(bundle).as_map(), batched=True, batch_size=1)
    assert again._fingerprint == mapped._fingerprint  # what was computed is found again
    with pytest.raises(InputError, match="no column"):
        guard.as_map("texts")(dataset[:3])
    contexts = {"text": ["a", "a"], "context": [{"source": "email", "user_role": None}, None]}
    assert len(guard.as_map(context="context")(contexts)["probabilities"][0]) == len(INTENTS)


# --- interruptions ------------------------------------------------------------------------------------

PART_ROWS = 100
SCRIPT = """
import sys
from promptguard.logs import scan
if __name__ == "__main__":
    source, out, model, workers = sys.argv[1:]
    scan(source, out, model=model, workers=int(workers), part_rows={part_rows}, resume=True)
""".replace("{part_rows}", str(PART_ROWS))


def begin(folder: Path, source: Path, out: Path, bundle: Path, workers: int) -> subprocess.Popen[bytes]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(source), str(out), str(bundle), str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)


def wait_for(path: Path, what: bytes, times: int, process: subprocess.Popen[bytes]) -> None:
    """Until a file holds something, or the process has ended."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(what) >= times:
            return
        time.sleep(0.002)
    if process.poll() is None:
        raise AssertionError(f"{path.name} has not come in five minutes")


def alive(group: int) -> list[int]:
    """Processes of a group that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(owner) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def check_ended(group: int) -> None:
    deadline = time.monotonic() + 20
    while Path("/proc").exists() and alive(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(group), "workers outlive the scan"


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_it_gives_the_same(tmp_path: Path, bundle: Path, workers: int) -> None:
    times = 3 if workers == 1 else 2
    source = write(tmp_path / "a.jsonl", [*rows(900 * times // 2), b"{", *rows(900 * times // 2)])
    expected = scan(source, tmp_path / "whole", model=bundle, part_rows=PART_ROWS)
    out = tmp_path / "out"
    kills = 0
    for _ in range(times):
        before = len(parts(out))
        process = begin(tmp_path, source, out, bundle, workers)
        wait_for(out / ".work" / "progress.jsonl", b"\n", before + 3, process)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check_ended(process.pid)
    assert kills == times
    finished = len((out / ".work" / "progress.jsonl").read_bytes().splitlines())
    with pytest.raises(InputError, match="not finished"):
        read_scan(out)
    result = scan(source, out, model=bundle, part_rows=PART_ROWS)
    assert result.resumed == finished * PART_ROWS > 0
    assert (result.rows, result.errors, result.flagged) == (expected.rows, expected.errors, expected.flagged)
    assert parts(out) == parts(expected.folder)
    assert (out / "manifest.json").read_bytes() == (expected.folder / "manifest.json").read_bytes()
    assert not (out / ".work").exists()


def test_a_worker_that_is_killed_ends_the_scan_and_it_goes_on(tmp_path: Path, bundle: Path) -> None:
    logged = [{"text": f"text {i}"} for i in range(2000)]
    source = write(tmp_path / "a.jsonl", logged)

    def kill(now: Progress) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(BackendError, match="worker process ended"):
        scan(source, tmp_path / "out", model=bundle, part_rows=100, workers=2, progress=kill)
    result = scan(source, tmp_path / "out", model=bundle, part_rows=100)
    assert (result.rows, result.errors) == (2000, 0)
    assert result.resumed >= 100


def test_a_bug_costs_a_row_and_not_the_scan(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Mapper.row

    def fail(mapper: Mapper, logged: Any) -> Any:
        if logged["text"] == "b":
            raise KeyError(WORD)
        return real(mapper, logged)

    monkeypatch.setattr(Mapper, "row", fail)
    scan(write(tmp_path / "a.jsonl", [{"text": t} for t in "abc"]), tmp_path / "out", model=bundle)
    found = read_scan(tmp_path / "out").to_table().to_pylist()
    assert [row["error"] for row in found] == [None, "KeyError: a bug in promptguard", None]


def test_every_state_a_kill_can_leave_is_resumed(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(250))
    expected = scan(source, tmp_path / "whole", model=bundle, part_rows=50)

    class Killed(BaseException):
        pass

    for moment in range(0, 60, 3):
        out = tmp_path / f"out{moment}"
        left = moment

        def tick() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "replace"):
                real = getattr(os, name)
                patch.setattr(os, name, lambda *a, real=real: (tick(), real(*a))[1])
            try:
                scan(source, out, model=bundle, part_rows=50)
            except Killed:
                pass
            else:
                break
        scan(source, out, model=bundle, part_rows=50)
        assert parts(out) == parts(expected.folder)
    else:
        raise AssertionError("never undisturbed")
    assert moment > 20


def test_a_torn_line_of_progress_is_done_again(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(120))
    seen: list[Progress] = []

    def stop(now: Progress) -> None:
        seen.append(now)
        if now.rows >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(source, tmp_path / "out", model=bundle, part_rows=50, progress=stop)
    path = tmp_path / "out" / ".work" / "progress.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    result = scan(source, tmp_path / "out", model=bundle, part_rows=50)
    assert (result.rows, result.resumed) == (120, 50)
    assert [now.rows for now in seen] == [50, 100]
    assert seen[-1].share == pytest.approx(100 / 120, abs=0.2)


def test_a_finished_scan_is_left_alone_and_resume_false_starts_anew(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(30))
    first = scan(source, tmp_path / "out", model=bundle)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    again = scan(source, tmp_path / "out", model=bundle)
    assert (again.rows, again.flagged, again.resumed) == (first.rows, first.flagged, first.rows)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
    with pytest.raises(InputError, match="another mode"):
        scan(source, tmp_path / "out", model=bundle, mode="strict")
    with pytest.raises(InputError, match="another map"):
        scan(source, tmp_path / "out", model=bundle, map={"user": "id"})
    assert not (tmp_path / "out" / ".work").exists()
    with pytest.raises(InputError, match="other sources"):
        scan(write(tmp_path / "b.jsonl", rows(3)), tmp_path / "out", model=bundle)
    fresh = scan(write(tmp_path / "b.jsonl", rows(3)), tmp_path / "out", model=bundle, mode="strict", resume=False)
    assert (fresh.rows, fresh.resumed) == (3, 0)
    assert len(parts(tmp_path / "out")) == 1


def interrupted(source: Path | str, out: Path, bundle: Path) -> None:
    def stop(now: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(source, out, model=bundle, part_rows=50, progress=stop)


def test_a_source_that_grew_or_changed_before_the_rest(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(120))
    whole = scan(source, tmp_path / "whole", model=bundle, part_rows=50)
    interrupted(source, tmp_path / "out", bundle)
    with source.open("ab") as file:
        file.write(b'{"text": "later"}\n')
    result = scan(source, tmp_path / "out", model=bundle, part_rows=50)
    assert result.rows == 120
    assert parts(tmp_path / "out") == parts(whole.folder)
    interrupted(source, tmp_path / "other", bundle)
    write(source, rows(121)[1:])
    with pytest.raises(InputError, match=r"a\.jsonl has changed"):
        scan(source, tmp_path / "other", model=bundle, part_rows=50)


def test_an_input_that_grows_while_it_is_read(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(400))

    def grow(now: Progress) -> None:
        with source.open("ab") as file:
            file.write(b'{"text": "later"}\n' * 50)

    assert scan(source, tmp_path / "out", model=bundle, part_rows=50, progress=grow).rows == 400


def test_folders_that_are_no_scan_or_are_in_use(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(3))
    with pytest.raises(InputError, match="no scan"):
        scan(source, tmp_path, model=bundle)
    with pytest.raises(InputError, match="not a folder"):
        scan(source, source, model=bundle)
    held = Output(tmp_path / "out")
    with pytest.raises(InputError, match="another scan"):
        scan(source, tmp_path / "out", model=bundle)
    held.close()
    assert scan(source, tmp_path / "out", model=bundle).rows == 3
    for wrong in ({"format": "xml"}, {"workers": 0}, {"part_rows": 0}, {"preset": "x"}, {"mode": "wild"}):
        with pytest.raises(InputError):
            scan(source, tmp_path / "new", model=bundle, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        read_scan(tmp_path / "new")


# --- the command --------------------------------------------------------------------------------------


def test_the_command_and_its_exit_statuses(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(40))
    shown = run("scan", source, "-o", tmp_path / "out", "--model", bundle, "--workers", "1")
    assert "40 rows: 40 scored, 0 not" in shown.stdout
    assert "read as plain (40)" in shown.stdout
    assert not shown.stderr
    bad = write(tmp_path / "bad.jsonl", [*rows(3), b"{"])
    said = run("scan", bad, "-o", tmp_path / "bad", "--model", bundle, "--workers", "1", "--json", status=3).stdout
    assert {**json.loads(said), "seconds": 0} == {
        "rows": 4, "ok": 3, "errors": 1, "flagged": json.loads(said)["flagged"], "resumed": 0, "seconds": 0,
        "presets": {"plain": 3}, "passed_over": [], "folder": str(tmp_path / "bad"),
    }  # fmt: skip
    options = ["-o", tmp_path / "new", "--model", bundle, "--workers", "1"]
    for wrong in (["missing.jsonl"], [source, "--map", "text"], [source, "--preset", "x"], [source, "--format", "xml"]):
        run("scan", *wrong, *options, status=2)
    run("scan", source, "-o", tmp_path / "out", "--model", bundle, "--workers", "1", "--mode", "strict", status=2)
    mapped = ["--map", "text=id", "--map", "user=n", "--mode", "strict", "--restart", "--copy-text"]
    run("scan", source, "-o", tmp_path / "out", "--model", bundle, "--workers", "1", *mapped)
    assert read_scan(tmp_path / "out").to_table(columns=["text", "user"]).to_pylist()[3] == {"text": "r3", "user": "3"}


def test_standard_input_and_a_pool_from_the_command_line(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(600))
    done = start("scan", "-", "-o", str(tmp_path / "in"), "--model", str(bundle), input=source.read_bytes())
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    whole = read_scan(scan(source, tmp_path / "out", model=bundle).folder).to_table()
    assert read_scan(tmp_path / "in").to_table().drop(["file"]).equals(whole.drop(["file"]))


def test_standard_input_is_read_from_its_start_again(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give(text: str) -> None:
        body = b"".join(json.dumps({"text": f"{text} {i}"}).encode() + b"\n" for i in range(120))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))

    give("one")
    interrupted("-", tmp_path / "out", bundle)
    give("two")
    result = scan("-", tmp_path / "out", model=bundle, part_rows=50, resume=True)
    assert (result.rows, result.resumed) == (120, 0)
    give("two")
    whole = scan("-", tmp_path / "whole", model=bundle, part_rows=50)
    assert parts(whole.folder) == parts(tmp_path / "out")
    with pytest.raises(InputError, match="standard input"):
        scan("-", tmp_path / "whole", model=bundle, part_rows=50)


def test_a_bar_at_a_terminal(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(600))
    options = ("--model", str(bundle), "--workers", "1")
    shown = terminal("scan", str(source), "-o", str(tmp_path / "out"), *options, COLUMNS="120")
    assert "600 rows, " in shown
    assert "600 rows: 600 scored" in shown


def test_ctrl_c(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(20_000))
    command = [sys.executable, "-m", "promptguard", "scan", str(source), "-o", str(tmp_path / "out")]
    command += ["--model", str(bundle), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        # Tests in the background of a shell inherit an ignored SIGINT; a terminal's jobs do not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path / "out" / ".work" / "part-00000.parquet", b"PAR1", 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b"promptguard: interrupted; the same command goes on from there\n"
    check_ended(process.pid)
    assert not parts(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_bytes())["status"] == "running"


def test_a_full_disk(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(3000))
    whole = scan(source, tmp_path / "whole", model=bundle)
    size = len(parts(whole.folder)["part-00000.parquet"])
    arguments = ["scan", str(source), "-o", str(tmp_path / "out"), "--model", str(bundle), "--workers", "1"]
    script = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
        f"sys.argv = ['promptguard', *{arguments!r}]\n"
        "from promptguard.cli import main\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(b"promptguard: File too large")
    assert not parts(tmp_path / "out")
    assert scan(source, tmp_path / "out", model=bundle).rows == 3000
    assert parts(tmp_path / "out") == parts(whole.folder)


def test_a_row_of_100_megabytes(tmp_path: Path, bundle: Path) -> None:
    small = write(tmp_path / "small.jsonl", rows(20))
    big = tmp_path / "big.jsonl"
    with big.open("wb") as file:
        file.write(small.read_bytes() + b'{"text": "')
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + small.read_bytes())
    peaks = {}
    for source, status in ((small, 0), (big, 3)):
        command = [sys.executable, "-m", "promptguard", "scan", str(source), "-o", str(tmp_path / source.stem)]
        command += ["--model", str(bundle), "--workers", "1"]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
        _, waited, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(waited)
        assert process.returncode == status
        peaks[source] = usage.ru_maxrss
    assert peaks[big] - peaks[small] < 120 * 1024  # kilobytes: the limit of a row, three times, and a little
    written = read_scan(tmp_path / "big").to_table(columns=["line", "error"]).to_pylist()
    assert len(written) == 41
    assert written[20] == {"line": 21, "error": "longer than 32 MB"}


def test_without_pyarrow() -> None:
    script = (
        "import sys\nsys.modules['pyarrow'] = None\nimport promptguard\n"
        "try:\n    from promptguard.logs import scan\n"
        "except promptguard.MissingExtraError as error:\n    print(error.extra, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("logs ")
    assert "[logs]" in done.stdout


# --- engines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "extra"), [("ray", "ray"), ("pyspark", "spark")])
def test_an_engine_that_is_not_installed_is_named(module: str, extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import promptguard.logs.{extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "MissingExtraError" in last
    assert f"pip install 'promptguard-intent[{extra}]'" in last


def test_an_unknown_engine_is_refused(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(1))
    with pytest.raises(InputError, match="engine must be one of local, ray"):
        scan(source, tmp_path / "out", model=bundle, engine="dask")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


# --- policies and providers ---------------------------------------------------------------------------


POLICY = {
    "mode": "low-alarm",
    "intents": dict.fromkeys(RISKY_INTENTS, "block"),
    "applications": {"shop": {"mode": "strict"}, "other": {"intents": {}}},
}


def test_a_policy_decides_and_an_application_may_have_its_own(tmp_path: Path, bundle: Path) -> None:
    logged = [{**row, "app": app} for row in rows(30) for app in ("shop", "other", "third", None)]
    source = write(tmp_path / "a.jsonl", logged)
    policy = Policy.from_mapping(POLICY)
    result = scan(source, tmp_path / "out", model=bundle, policy=policy, workers=2)
    guard = Guard(bundle, policy=policy)
    written = read_scan(result.folder).to_table().to_pylist()
    for row, given in zip(written, logged, strict=True):
        context = Context(system_prompt=given.get("system_prompt"), application=given["app"])
        analysis = guard.analyze(given["text"], context)
        assert (row["decision"], row["reason"]) == (analysis.decision.value, analysis.reason.value)
    decisions = [tuple(row["decision"] for row in written[i : i + 4]) for i in range(0, len(written), 4)]
    assert any(len(set(four)) > 1 for four in decisions)
    assert all(third == none for _, _, third, none in decisions)
    assert read_manifest(result.folder)["policy"] == policy.to_dict()


def test_a_scan_goes_on_under_its_own_policy_only(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(120))
    interrupted(source, tmp_path / "out", bundle)
    with pytest.raises(InputError, match="another policy"):
        scan(source, tmp_path / "out", model=bundle, part_rows=50, policy=Policy(out_of_scope=Decision.BLOCK))
    with pytest.raises(InputError, match="either mode or policy"):
        scan(source, tmp_path / "new", model=bundle, mode="strict", policy=Policy())
    same = scan(source, tmp_path / "out", model=bundle, part_rows=50, policy=Policy())
    assert (same.rows, same.resumed) == (120, 50)


def test_a_policy_from_the_command_line(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{**row, "app": "shop"} for row in rows(20)])
    options = ["-o", tmp_path / "out", "--model", bundle, "--workers", "1"]
    policy = tmp_path / "policy.json"
    run("scan", source, *options, "--policy", policy, status=2)
    for wrong in ("{", "[]", '{"mode": "wild"}', '{"applications": {"shop": {"colour": 1}}}'):
        policy.write_text(wrong)
        run("scan", source, *options, "--policy", policy, status=2)
    policy.write_text(json.dumps(POLICY))
    run("scan", source, *options, "--policy", policy, "--mode", "strict", status=2)
    run("scan", source, *options, "--policy", policy)
    assert read_manifest(tmp_path / "out")["mode"] == "low-alarm"


def test_providers_are_those_of_the_guard(tmp_path: Path, bundle: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows(20))
    with pytest.raises(BackendError, match="onnxruntime has no Wish"):
        scan(source, tmp_path / "out", model=bundle, providers=("WishExecutionProvider",))
    with pytest.raises(InputError, match="providers"):
        scan(source, tmp_path / "out", model=bundle, providers="CPUExecutionProvider")
    options = ["-o", tmp_path / "out", "--model", bundle, "--workers", "1"]
    run("scan", source, *options, "--provider", "WishExecutionProvider", status=1)
    run("scan", source, *options, "--provider", "CPUExecutionProvider")
    assert read_manifest(tmp_path / "out")["providers"] == ["CPUExecutionProvider"]


def test_windows_run_together_where_the_provider_is_an_accelerator(
    tmp_path: Path, tiny_fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = Runtime.run_batch

    def run_batch(runtime: Runtime, contexts: Any, windows: Any) -> Any:
        sizes.append(len(windows))
        return real(runtime, contexts, windows)

    logged = rows(700)
    source = write(tmp_path / "a.jsonl", logged)
    alone = scan(source, tmp_path / "alone", model=tiny_fp32, part_rows=600)
    monkeypatch.setattr(Runtime, "run_batch", run_batch)
    monkeypatch.setattr(Runtime, "batches", True)  # no accelerator here: its way of running, on a processor
    monkeypatch.setattr(score.Settings, "batched", True)
    together = scan(source, tmp_path / "together", model=tiny_fp32, part_rows=600)
    assert max(sizes) > 16
    columns = ["row", "text_hash", "risk"]
    one, many = (read_scan(result.folder).to_table(columns=columns) for result in (alone, together))
    assert one.drop(["risk"]).equals(many.drop(["risk"]))
    np.testing.assert_allclose(one["risk"], many["risk"], atol=1e-5)
