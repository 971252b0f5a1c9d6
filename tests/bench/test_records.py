"""Reading labelled records: what is taken, what is refused, and where the error says it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import ATTACK, OUT, record, write

from promptguard.bench.records import Record, limit_per_source, read_records
from promptguard.errors import InputError, RecordError
from promptguard.types import Context, Message, Tool

FULL = {
    "id": "a",
    "text": "hello \ud800 world",
    "context": {
        "system_prompt": "be kind",
        "source": "email",
        "user_role": None,
        "history": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "send", "description": "sends"}],
    },
    "labels": ["fraud", "tool_misuse"],
    "spans": [[0, 5, "fraud"], [6, 7]],
    "pair_id": "p",
    "factor": "source",
    "lang": "en",
    "origin": "us",
    "license": "CC0-1.0",
    "note": "unknown fields are ignored",
}


def test_reads_a_full_record(tmp_path: Path) -> None:
    (read,) = read_records([write(tmp_path / "set.jsonl", FULL, "", "  ")])
    assert read == Record(
        id="a",
        text="hello \ud800 world",
        context=Context(
            system_prompt="be kind", source="email", history=(Message("user", "hi"),), tools=(Tool("send", "sends"),)
        ),
        labels=frozenset({"fraud", "tool_misuse"}),
        spans=((0, 5, "fraud"), (6, 7, None)),
        pair_id="p",
        source_name="set",
        lang="en",
        factor="source",
        origin="us",
    )
    assert read.risky
    assert read.group == ("set", "p")
    assert "hello" not in repr(read)
    assert "be kind" not in repr(read)


def test_reads_a_bare_record_and_knows_unmarked_from_none(tmp_path: Path) -> None:
    bare = {"id": "a", "text": "", "labels": []}
    one, two = read_records([write(tmp_path / "set.jsonl", bare, bare | {"id": "b", "spans": [], "context": None})])
    assert (one.context, one.spans, one.group, one.risky) == (Context(), None, None, False)
    assert two.spans == ()


def test_out_of_scope_is_not_risky() -> None:
    assert not record(OUT).risky
    assert record(ATTACK).risky


def test_folders_are_read_in_order_and_repeated_names_told_apart(tmp_path: Path) -> None:
    row = {"id": "a", "text": "x", "labels": []}
    write(tmp_path / "b" / "set.jsonl", row)
    write(tmp_path / "a" / "set.jsonl", row)
    write(tmp_path / "a" / "other.jsonl", row)
    write(tmp_path / "a" / "notes.txt", "no record")
    both = read_records([tmp_path, tmp_path / "a" / "set.jsonl"])
    assert [r.source_name for r in both] == ["other", "a/set", "b/set"]


def test_paths_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no"):
        read_records([tmp_path])
    with pytest.raises(InputError, match="neither"):
        read_records([tmp_path / "none"])
    for folder in ("x/a", "y/a"):
        write(tmp_path / folder / "set.jsonl", {"id": "a", "text": "", "labels": []})
    with pytest.raises(InputError, match="both called a/set"):
        read_records([tmp_path])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"id": 7}, "id"),
        ({"text": None}, "text"),
        ({"labels": None}, "labels"),
        ({"labels": "fraud"}, "labels"),
        ({"labels": ["secret words"]}, "labels"),
        ({"labels": [["fraud"]]}, "labels"),
        ({"labels": ["out_of_scope", "fraud"]}, "labels"),
        ({"context": "secret words"}, "context"),
        ({"context": {"source": "secret words"}}, "context"),
        ({"context": {"secret words": 1}}, "context"),
        ({"context": {"history": [{"role": "user"}]}}, "context"),
        ({"spans": "secret words"}, "spans"),
        ({"spans": [5]}, "spans"),
        ({"spans": [[0]]}, "spans"),
        ({"spans": [[3, 3]]}, "spans"),
        ({"spans": [[0, 99]]}, "spans"),
        ({"spans": [[True, 2]]}, "spans"),
        ({"spans": [[0, 2.0]]}, "spans"),
        ({"spans": [[0, 2, "secret words"]]}, "spans"),
        ({"pair_id": 3}, "pair_id"),
        ({"factor": []}, "factor"),
        ({"lang": 1}, "lang"),
        ({"id": "first"}, "id"),
    ],
)
def test_a_bad_row_says_where_and_which_field_and_never_the_text(
    tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    first = {"id": "first", "text": "x", "labels": []}
    path = write(tmp_path / "set.jsonl", first, FULL | {"text": "secret words"} | change)
    with pytest.raises(RecordError) as caught:
        read_records([path])
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, name)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[1]", "null", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_records([write(tmp_path / "set.jsonl", line)])
    assert (caught.value.line, caught.value.field) == (1, None)


def test_bytes_that_are_not_utf8_are_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "\xe2\x80\xa8", "labels": []}\n')
    assert read_records([path])[0].text == "\u2028"
    path.write_bytes(b'{"id": "a", "text": "\xff", "labels": []}\n')
    with pytest.raises(RecordError):
        read_records([path])


def test_a_limit_keeps_groups_whole_and_repeats(tmp_path: Path) -> None:
    grouped = [record(pair_id=f"g{i // 2}") for i in range(20)] + [record(source_name="b") for _ in range(3)]
    drawn = limit_per_source(grouped, 5, seed=1)
    assert drawn == limit_per_source(grouped, 5, seed=1)
    assert sum(r.source_name == "set" for r in drawn) == 4
    assert sum(r.source_name == "b" for r in drawn) == 3
    assert len({r.pair_id for r in drawn if r.source_name == "set"}) == 2
    assert [grouped.index(r) for r in drawn] == sorted(grouped.index(r) for r in drawn)
    with pytest.raises(InputError):
        limit_per_source(grouped, 0)
