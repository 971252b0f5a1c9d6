"""What is sent: lengths as asked, or as in a log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptguard import Guard, InputError
from promptguard.bench.speed.traffic import logged, made, sizes


def test_made_texts_have_the_tokens_asked_for(tiny_guard: Guard) -> None:
    loaded = tiny_guard._loaded
    requests = made(6, text_tokens=40, context_tokens=20, contexts=2)
    found = sizes(loaded, requests)
    assert found.text.tolist() == [40] * 6
    assert found.context.tolist() == [20] * 6
    assert found.windows.tolist() == [1] * 6
    assert found.known.tolist() == [False, False, True, True, True, True]
    assert len({text for text, _ in requests}) == 6
    assert requests == made(6, text_tokens=40, context_tokens=20, contexts=2)
    assert requests != made(6, text_tokens=40, context_tokens=20, contexts=2, seed=1)


def test_made_contexts_are_new_or_none(tiny_guard: Guard) -> None:
    new = sizes(tiny_guard._loaded, made(5, text_tokens=10, context_tokens=30, contexts=None))
    assert not new.known.any()
    without = sizes(tiny_guard._loaded, made(5, text_tokens=10, context_tokens=0))
    assert without.known.all()
    assert without.context.tolist() == [0] * 5


def test_a_long_text_costs_more_tokens_than_it_has(tiny_guard: Guard) -> None:
    found = sizes(tiny_guard._loaded, made(1, text_tokens=300, context_tokens=0))
    assert found.windows[0] > 5
    assert found.text[0] > 300


@pytest.mark.parametrize(
    "wrong",
    [
        {"text_tokens": 2, "context_tokens": 0},
        {"text_tokens": 9, "context_tokens": 2},
        {"text_tokens": 9, "context_tokens": 9, "contexts": 0},
    ],
)
def test_lengths_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least"):
        made(1, **wrong)


def log(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_log_gives_its_texts_in_its_order(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "context": {"system_prompt": "shop"}} for i in range(50)]
    path = log(tmp_path / "log.jsonl", *rows[:20], "no JSON", *rows[20:])
    every = logged([path], 1000)
    assert [text for text, _ in every] == [row["text"] for row in rows]
    assert all(context is not None and context.system_prompt == "shop" for _, context in every)
    some = [int(text.split()[1]) for text, _ in logged([path], 10, seed=1)]
    assert len(set(some)) == 10
    assert some == sorted(some)
    assert some != [int(text.split()[1]) for text, _ in logged([path], 10, seed=2)]


def test_a_log_without_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 rows"):
        logged([log(tmp_path / "empty.jsonl")], 10)
    with pytest.raises(InputError, match="holds no text: 2 rows"):
        logged([log(tmp_path / "bad.jsonl", "xylophone", {"a": "b"})], 10)
    with pytest.raises(InputError, match="there is no file"):
        logged([tmp_path / "none.jsonl"], 10)
