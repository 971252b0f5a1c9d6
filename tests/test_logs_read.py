"""Sources, readers and presets: what is read, and what becomes of what cannot be read."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq

from promptguard import InputError
from promptguard.logs import readers
from promptguard.logs.presets import PRESETS, Mapper, Row
from promptguard.logs.readers import Reader, Record
from promptguard.logs.sources import Source, find

ROWS: list[dict[str, Any]] = [{"id": str(i), "text": f"text {i}", "n": i} for i in range(7)]


def read(path: Path, skip: int = 0) -> list[Record]:
    (source,), _ = find([path], leave_out=path.parent / "out")
    return list(Reader(source, skip=skip))


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table() -> Any:
    return pa.Table.from_pylist(ROWS)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def separated(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def arrow(new: Any) -> bytes:
    sink = io.BytesIO()
    with new(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=3)
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(), sink, row_group_size=3)
    return sink.getvalue()


FILES: dict[str, bytes] = {
    "a.jsonl": lines(ROWS),
    "a.ndjson": lines(ROWS).replace(b"\n", b"\r\n\n"),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "b.json": lines(ROWS),
    "a.csv": b"\xef\xbb\xbf" + separated(","),
    "a.tsv": separated("\t"),
    "a.jsonl.gz": gzip.compress(lines(ROWS[:3])) + gzip.compress(lines(ROWS[3:])),
    "a.csv.zst": zstd(separated(",")),
    "a.parquet": parquet(),
    "a.arrow": arrow(pa.ipc.new_file),
    "a.arrows": arrow(pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows_from_any_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    found = read(path)
    assert [record.error for record in found] == [None] * 7
    assert [(r.values["id"], r.values["text"], int(r.values["n"])) for r in found] == [tuple(r.values()) for r in ROWS]
    for skip in (1, 3, 4, 7):
        assert read(path, skip) == found[skip:]


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n{bad\n{"text": "b"}')
    assert [(r.line, r.error is None) for r in read(path)] == [(1, True), (3, False), (4, True)]
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\n"two\nlines",1\nshort\nlast,2\n')
    assert [(r.line, r.error is None) for r in read(path)] == [(2, True), (4, False), (5, True)]
    assert read(path)[0].values == {"text": "two\nlines", "n": "1"}


@pytest.mark.parametrize(
    "line",
    [b"{", b"3", b"null", b"\xff\xfe", b'{"text": "\xff"}', b"[" * 200_000, b"1" * 5000, b'{"a": 1}{"b": 2}'],
)
def test_a_bad_line_is_one_row_and_is_not_quoted(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    found = read(path)
    assert [r.error is None for r in found] == [True, False, True]
    assert len(found[1].error or "") < 80


def test_a_large_array_is_read_in_pieces(tmp_path: Path) -> None:
    values = [{"n": i, "text": "é" * (3_000_000 if i == 5 else 700)} for i in range(2000)]
    path = tmp_path / "a.json"
    for indent in (None, 1):
        path.write_text(json.dumps(values, ensure_ascii=False, indent=indent), encoding="utf-8")
        assert [r.values for r in read(path)] == values
        assert [r.line for r in read(path, 1990)] == list(range(1991, 2001))
    path.write_bytes(path.read_bytes()[:-20])
    found = read(path)
    assert [r.last for r in found] == [False] * 1999 + [True]


def test_a_string_and_a_list_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'"hello"\n[{"role": "user", "content": "hi"}]\n')
    assert [r.values for r in read(path)] == [{"text": "hello"}, {"messages": [{"role": "user", "content": "hi"}]}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "quoted.csv", "a.jsonl.gz"])
def test_a_row_that_is_too_long_costs_itself_alone(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MOST_ROW_BYTES", 2**20)
    rows = ["a", "x" * (3 * 2**20), "b"]
    body = lines([{"text": row} for row in rows])
    if name == "a.csv":
        body = "\n".join(["text", *rows]).encode()
    if name == "quoted.csv":
        body = "\n".join(["text", *(f'"{row}"' for row in rows)]).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    found = read(path)
    assert [r.error is None for r in found] == [True, False, True]
    assert found[2].values == {"text": "b"}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.zst", "a.parquet", "a.arrow", "a.arrows"])
def test_a_damaged_file_is_a_row_that_says_so(tmp_path: Path, name: str) -> None:
    whole = FILES[name]
    for damaged in (b"", whole[: len(whole) // 2], whole[:-9], b"nonsense" * 20):
        path = tmp_path / name
        path.write_bytes(damaged)
        found = read(path)
        assert [r.error is None for r in found][:-1] == [True] * (len(found) - 1)
        if damaged and name != "a.arrows":
            assert found[-1].error is not None
            assert "damaged" in found[-1].error


def test_a_corrupt_gzip_member_after_a_whole_one(tmp_path: Path) -> None:
    rows = [{"text": "x" * 1000, "n": i} for i in range(20_000)]
    second = bytearray(gzip.compress(lines(rows)))
    second[len(second) // 2 :] = bytes(len(second) - len(second) // 2)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(ROWS)) + bytes(second))
    found = read(path)
    assert [r.values["n"] for r in found[:7]] == list(range(7))
    assert found[-1].error is not None
    assert all(r.error is None for r in found[:-1])
    assert found == read(path)
    assert found[5:] == read(path, 5)


def test_what_was_added_after_the_start_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROWS) + b'{"text": "half')
    (source,), _ = find([path], leave_out=tmp_path / "out")
    with path.open("ab") as file:
        file.write(b' a line"}\n' + lines(ROWS))
    found = list(Reader(source))
    assert len(found) == 8
    assert found[-1].values == {"text": "half a line"}
    source.check()


# --- sources ----------------------------------------------------------------------------------------


def test_folders_patterns_and_names(tmp_path: Path) -> None:
    out = tmp_path / "logs" / "out"
    for name in (
        "b.jsonl",
        "a.csv",
        "notes.txt",
        ".hidden.jsonl",
        "in/c.jsonl.gz",
        "out/part-00000.parquet",
        "d.csv.lz",
    ):
        (tmp_path / "logs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "logs" / name).write_bytes(b"x")
    found, passed_over = find([tmp_path / "logs"], leave_out=out)
    assert [Path(s.path).name for s in found] == ["a.csv", "b.jsonl", "c.jsonl.gz"]
    assert [Path(p).name for p in passed_over] == ["d.csv.lz", "notes.txt"]
    found, _ = find([tmp_path / "logs/b.jsonl", str(tmp_path / "logs/**/*.gz"), tmp_path / "logs"], leave_out=out)
    assert [Path(s.path).name for s in found] == ["b.jsonl", "c.jsonl.gz", "a.csv"]
    found, _ = find([str(tmp_path / "logs/**/*"), str(tmp_path / "logs/*/*.parquet")], leave_out=out)
    assert [Path(s.path).name for s in found] == ["a.csv", "b.jsonl", "c.jsonl.gz"]
    for wrong in ("missing.jsonl", "*.nothing", "notes.txt", "in/../notes.txt"):
        with pytest.raises(InputError):
            find([tmp_path / "logs" / wrong], leave_out=out)
    with pytest.raises(InputError):
        find(["-", tmp_path / "logs/b.jsonl"], leave_out=out)


def test_a_source_that_changed_is_an_error_unless_it_grew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    def source(content: bytes) -> Source:
        path.write_bytes(content)
        return find([path], leave_out=tmp_path / "out")[0][0]

    content = lines(ROWS) * 10_000
    for changed in (content[:-1], b"X" + content[1:] + b"\n", content[:-1] + b"X" + b"\n", b""):
        before = source(content)
        path.write_bytes(changed)
        with pytest.raises(InputError, match="has changed"):
            before.check()
    before = source(content)
    path.write_bytes(content + b"more\n")
    before.check()
    path.unlink()
    with pytest.raises(InputError, match="is gone"):
        before.check()


# --- presets ----------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Who am I?"},
]
TOOLS = [{"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {}}}]
FLAT_TOOLS = [{"name": "find", "description": "Finds.", "input_schema": {"type": "object"}}]
PARTS = [{"role": m["role"], "parts": [{"type": "text", "content": m["content"]}]} for m in CHAT]
WHEN = "2026-03-01T12:00:00Z"
EPOCH = 1772366400

LOGGED: dict[str, dict[str, Any]] = {
    "openai": {
        "request": {"model": "gpt-5", "messages": CHAT, "tools": TOOLS, "user": "u1", "metadata": {"session_id": "s1"}},
        "response": {"id": "r1", "choices": [{"message": {"content": "A SECRET"}}],
                     "usage": {"prompt_tokens": 5, "completion_tokens": 7}},
        "created": EPOCH, "app": "shop", "team": "red",
    },
    "openai-responses": {
        "id": "r1", "created_at": EPOCH, "model": "gpt-5", "instructions": "Be brief.", "input": CHAT[1:],
        "tools": [{"type": "function", "name": "find", "description": "Finds."}], "user": "u1",
        "output": [{"content": "A SECRET"}], "conversation": {"id": "s1"}, "application": "shop", "team": "red",
        "usage": {"input_tokens": 5, "output_tokens": 7},
    },
    "anthropic": {
        "id": "r1", "timestamp": WHEN, "team": "red", "application": "shop", "session_id": "s1",
        "body": {"model": "claude-5", "system": [{"type": "text", "text": "Be brief."}], "messages": CHAT[1:],
                 "tools": FLAT_TOOLS, "metadata": {"user_id": "u1"}},
        "response": {"content": [{"type": "text", "text": "A SECRET"}],
                     "usage": {"input_tokens": 5, "output_tokens": 7}},
    },
    "litellm": {
        "id": "r1", "call_type": "acompletion", "startTime": float(EPOCH), "model": "gpt-5", "messages": CHAT,
        "model_parameters": {"tools": TOOLS}, "end_user": "u1", "trace_id": "s1", "prompt_tokens": 5,
        "completion_tokens": 7, "team": "red", "response": {"choices": "A SECRET"},
        "metadata": {"user_api_key_team_alias": "shop", "user_api_key_alias": "k1"},
    },
    "langfuse": {
        "id": "r1", "trace_id": "t1", "session_id": "s1", "user_id": "u1", "trace_name": "shop", "type": "GENERATION",
        "start_time": "2026-03-01 12:00:00.000000", "provided_model_name": "gpt-5",
        "input": json.dumps({"messages": CHAT, "tools": TOOLS}), "output": "A SECRET", "team": "red",
        "usage_details": {"input": 5, "output": 7, "total": 12},
    },
    "otel": {
        "spanId": "r1", "traceId": "t1", "startTimeUnixNano": str(EPOCH * 10**9), "team": "red",
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "attributes": [
            {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-5"}},
            {"key": "gen_ai.input.messages", "value": {"stringValue": json.dumps(PARTS)}},
            {"key": "gen_ai.output.messages", "value": {"stringValue": "A SECRET"}},
            {"key": "gen_ai.tool.definitions", "value": {"stringValue": json.dumps(FLAT_TOOLS)}},
            {"key": "gen_ai.conversation.id", "value": {"stringValue": "s1"}},
            {"key": "user.id", "value": {"stringValue": "u1"}},
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": 7}},
        ],
    },
    "plain": {
        "text": "Who am I?", "system_prompt": "Be brief.", "history": json.dumps(CHAT[1:3]), "team": "red",
        "tools": json.dumps([{"name": "find", "description": "Finds."}]), "time": WHEN, "user_id": "u1", "id": "r1",
        "session": "s1", "app": "shop", "model": "gpt-5", "prompt_tokens": "5", "completion_tokens": "7",
        "answer": "A SECRET",
    },
}  # fmt: skip


def check(row: Row, name: str) -> None:
    ((text, context),) = row.parts
    assert row.preset == name
    assert text == "Who am I?"
    assert context.system_prompt == "Be brief."
    assert [(m.role, m.content) for m in context.history] == [("user", "Hi"), ("assistant", "Hello")]
    assert [(t.name, t.description) for t in context.tools] == [("find", "Finds.")]
    assert context.source == (None if name == "plain" else "user")
    about = dict(row.about)
    assert about["time"] == datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    assert {n: about[n] for n in ("id", "user", "session", "application")} == {
        "id": "r1", "user": "u1", "session": "s1", "application": "shop",
    }  # fmt: skip
    assert about["model"] in ("gpt-5", "claude-5")
    assert (about["input_tokens"], about["output_tokens"]) == (5, 7)
    assert json.loads(about["original"])["team"] == "red"
    assert "SECRET" not in about["original"]
    assert "Who am I" not in about["original"]
    assert "Be brief" not in about["original"]


@pytest.mark.parametrize("name", LOGGED)
def test_presets_find_everything_and_are_recognised(name: str) -> None:
    assert set(LOGGED) == set(PRESETS)
    check(Mapper("auto").row(LOGGED[name]), name)
    check(Mapper(name).row(LOGGED[name]), name)
    # As a table holds it: what is nested is a string of JSON.
    flat = {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in LOGGED[name].items()}
    check(Mapper("auto").row(flat), name)


def test_spans_in_other_shapes() -> None:
    attributes = {
        "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": "Weather?"}, {"type": "uri", "uri": "x"}]},
            {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "find", "arguments": {"q": 1}}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": {"rain": True}}]},
        ],
        "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
    }
    row = Mapper().row({"attributes": attributes})
    assert [text for text, _ in row.parts] == ["Weather?"]
    assert row.parts[0][1].system_prompt == "Be brief."
    both = Mapper(turns="all").row({"attributes": json.dumps(attributes)}).parts
    assert [(text, context.source) for text, context in both] == [("Weather?", "user"), ('{"rain": true}', "tool")]
    assert [m.content for m in both[1][1].history][2] == '<tool_call>find({"q": 1})</tool_call>'
    legacy = {"gen_ai.prompt.0.role": "system", "gen_ai.prompt.0.content": "Be brief.",
              "gen_ai.prompt.1.role": "user", "gen_ai.prompt.1.content": "Who am I?"}  # fmt: skip
    ((text, context),) = Mapper().row({"attributes": legacy}).parts
    assert (text, context.system_prompt) == ("Who am I?", "Be brief.")


def test_a_batch_of_spans_is_a_row_a_span(tmp_path: Path) -> None:
    spans = [{k: v for k, v in LOGGED["otel"].items() if k != "resource"}] * 3
    resource = LOGGED["otel"]["resource"]
    batch = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans[:2]}, {"spans": spans[2:]}]}]}
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([batch, {"text": "x"}]))
    found = read(path)
    assert [r.line for r in found] == [1, 1, 1, 2]
    check(Mapper().row(found[0].values), "otel")
    for skip in range(5):
        assert read(path, skip) == found[skip:]


def test_maps_come_first() -> None:
    logged = {
        "event": {"who": {"id": 7}, "say": "hello", "sys": "Be kind."},
        "text": "other",
        "user": "u",
        "c": "email",
    }
    paths = {"text": "event.say", "user": "event.who.id", "system_prompt": "event.sys", "source": "c"}
    row = Mapper(map=paths).row(logged)
    assert row.parts[0][0] == "hello"
    assert row.parts[0][1].system_prompt == "Be kind."
    assert row.parts[0][1].source == "email"
    assert row.about["user"] == "7"
    with pytest.raises(InputError, match="no text"):
        Mapper(map=paths).row({"text": "other"})
    for wrong in ({"texts": "a"}, {"": "a"}):
        with pytest.raises(InputError, match="fields:"):
            Mapper(map=wrong)
    for arguments in (("gpt",), ("auto", None, "first")):
        with pytest.raises(InputError):
            Mapper(*arguments)


@pytest.mark.parametrize(
    "logged",
    [
        {}, {"x": 1}, {"text": 3}, {"text": None}, {"messages": 3}, {"messages": []}, {"messages": [{"role": "king"}]},
        {"text": "a", "tools": 3}, {"text": "a", "tools": [3]}, {"text": "a", "history": [3]},
        {"messages": [3]}, {"text": "a", "system_prompt": 3},
    ],
)  # fmt: skip
def test_rows_without_a_text_that_can_be_scored(logged: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Mapper().row(logged)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (EPOCH, WHEN), (EPOCH * 1000, WHEN), (f"{EPOCH}.0", WHEN), (WHEN, WHEN), ("2026-03-01T13:00:00+01:00", WHEN),
        ("2026-03-01 12:00:00", WHEN), (datetime.datetime(2026, 3, 1, 12), WHEN), ("soon", None), (True, None),
        (float("nan"), None), (-5, None), ([], None), ("9999-12-31T23:59:59-14:00", None),
    ],
)  # fmt: skip
def test_times(value: Any, expected: str | None) -> None:
    found = Mapper().row({"text": "a", "time": value}).about["time"]
    assert found == (None if expected is None else datetime.datetime.fromisoformat(expected))


# --- anything -----------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    ["text", "messages", "role", "content", "type", "input", "attributes", "gen_ai.input.messages", "parts", "tools",
     "system", "history", "context", "key", "value", "request", "body", "resource", "metadata", "time", "a.b"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from(["auto", *PRESETS]))
def test_any_row_is_mapped_or_refused(logged: dict[str, Any], preset: str) -> None:
    for turns in ("last", "all"):
        try:
            row = Mapper(preset, turns=turns).row(logged)
        except InputError:
            continue
        assert all(isinstance(text, str) for text, _ in row.parts)
        assert row.parts


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 10_000), st.binary(max_size=6), st.booleans())
def test_any_bytes_are_read_to_their_end(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, put: bytes, cut: bool
) -> None:
    whole = FILES[name]
    at %= len(whole)
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(whole[:at] + put + (b"" if cut else whole[at + len(put) :]))
    found = read(path)
    assert len(found) <= 2 * len(whole)
    assert all(isinstance(r.values, dict) for r in found)
    good = sum(not record.last for record in found)
    assert good >= len(found) - 1
    for skip in {min(1, good), good // 2, good}:
        assert repr(read(path, skip)) == repr(found[skip:])


@pytest.mark.fuzz
def test_nothing_breaks_the_readers_that_a_fuzzer_finds(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed: nothing but hypothesis fuzzes the readers")
    script = Path(__file__).parents[1] / "scripts" / "fuzz_readers.py"
    known = re.search(r"ENDINGS = \((.*?)\)", script.read_text(encoding="utf-8"), re.DOTALL)
    assert known is not None
    endings = re.findall(r'"([\w.]+)"', known[1])
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, content in FILES.items():
        ending = name.partition(".")[2]
        if ending in endings:
            (corpus / name).write_bytes(bytes([endings.index(ending)]) + content)
    assert len(list(corpus.iterdir())) >= 8
    command = [sys.executable, str(script), str(corpus), "-max_total_time=30", "-max_len=4096", "-timeout=20"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.findall(r"Done (\d+) runs", done.stderr)[-1]) > 100
