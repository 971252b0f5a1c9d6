"""The terminal view of verdicts that are made up, at several widths, with and without colour."""

from __future__ import annotations

import io
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from promptguard import intents
from promptguard.intents import INTENTS
from promptguard.messages import ConversationAnalysis
from promptguard.policy import Thresholds
from promptguard.terminal import TITLES, Settings, show, show_parts, visible
from promptguard.types import SOURCES, Analysis, Coverage, Decision, Reason, Signal, Span

LIMITS = Thresholds({"low-alarm": 0.8, "balanced": 0.4, "strict": 0.1}, dict.fromkeys(INTENTS, 0.3))
SETTINGS = Settings(LIMITS, "balanced", 0.05)


def analysis(**given: Any) -> Analysis:
    made: dict[str, Any] = {
        "intents": ("fraud",),
        "risk": 0.6,
        "probabilities": dict.fromkeys(INTENTS, 0.01) | {"fraud": 0.5, "jailbreak": 0.2},
        "decision": Decision.REVIEW,
        "reason": Reason.RISK,
        "spans": (),
        "signals": {},
        "coverage": Coverage(10, 0, 0, 1, {"model": 3.0}),
        "references": (),
        "model": "made-up-1",
        "text": "",
    }
    return Analysis(**made | given)


def shown(text: str = "some text", without: Analysis | None = None, width: int = 80, **given: Any) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width, color_system=None), text, analysis(**given), SETTINGS, without)
    return stream.getvalue()


@given(st.text())
def test_visible_text_holds_nothing_that_is_not_printed(text: str) -> None:
    assert not [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb\u200b", "a\\u202eb\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("x\ufe01y", "x\\ufe01y"),
        ("❤\ufe0f", "❤\ufe0f"),  # what emoji need
        ("a\nb\tc", "a\\x0ab\\x09c"),
        ("\u200b" * 1234, "[1,234 unprintable characters]"),
        ("grüße 漢字 🙂", "grüße 漢字 🙂"),
        ("\u3164", "\\u3164"),
    ],
)
def test_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_every_reference_has_a_title() -> None:
    given = {r for name in INTENTS for source in SOURCES for r in intents.references((name,), source)}
    assert given <= set(TITLES)
    assert "LLM06:2025     Excessive Agency" in shown(references=("LLM06:2025", "NEW.1"))


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("decision", Decision)
def test_every_reason_is_a_sentence(reason: Reason, decision: Decision) -> None:
    assert decision.value.upper() in shown(reason=reason, decision=decision)


def test_reasons_name_the_threshold_that_counted() -> None:
    assert "the risk reaches the review threshold 0.400" in shown()
    assert "the risk reaches the block threshold 0.800" in shown(decision=Decision.BLOCK, risk=0.9)
    below = shown(decision=Decision.ALLOW, reason=Reason.BELOW_THRESHOLD, intents=(), risk=0.1)
    assert "stays below the review threshold 0.400" in below
    assert "benign" in below
    assert "none reaches its mark" not in shown()
    assert "none reaches its mark" in shown(probabilities=dict.fromkeys(INTENTS, 0.2))


def test_intents_above_the_floor_and_always_three() -> None:
    def listed(**given: Any) -> list[str]:
        return [line.split()[0] for line in shown(**given).splitlines() if line.startswith("  ") and "┃" in line]

    assert listed() == ["fraud", "jailbreak", "prompt_injection"]
    assert len(listed(probabilities=dict.fromkeys(INTENTS, 0.06))) == 10
    assert len(listed(probabilities=dict.fromkeys(INTENTS, 0.0))) == 3


def test_bars_are_as_long_as_the_probability_and_marked_at_the_thresholds() -> None:
    (bar,) = (line[22:57] for line in shown().splitlines() if line.startswith("risk "))
    cells = bar.rstrip()
    assert [i for i, c in enumerate(cells) if c == "┃"] == [int(0.4 * len(cells)), int(0.8 * len(cells))]
    assert cells.count("━") == round(0.6 * len(cells)) - 1  # one lies under a mark
    assert "0.400 / 0.800" in shown()


def test_the_context_is_compared() -> None:
    less = analysis(risk=0.12, decision=Decision.ALLOW)
    assert "without the context: risk 0.120, allow (the context raises it)" in shown(without=less)
    assert "lowers it" in shown(without=analysis(risk=0.9))
    assert "changes little" in shown(without=analysis(risk=0.601))
    assert "without the context" not in shown()


# --- the text -----------------------------------------------------------------------------------


def test_spans_stand_in_brackets_where_there_is_no_colour() -> None:
    spans = (Span(0, 3, "fraud", 0.9), Span(3, 5, "fraud", 0.7), Span(8, 9, "jailbreak", 0.8))
    text = shown("abcdefghi", spans=spans)
    assert "  [[abc]][[de]]fgh[[i]]" in text
    assert "0–3  fraud      0.900" in text


def test_spans_are_coloured_where_there_is() -> None:
    stream = io.StringIO()
    out = Console(file=stream, width=80, force_terminal=True, color_system="standard", _environ={})
    show(out, "abcdef", analysis(spans=(Span(2, 4, "fraud", 0.9),)), SETTINGS)
    assert "ab\x1b[1;30;103mcd\x1b[0mef" in stream.getvalue()
    assert "[[" not in stream.getvalue()


def test_escapes_inside_spans_keep_the_offsets() -> None:
    assert "a[[\\x1bb]]c" in shown("a\x1bbc", spans=(Span(1, 3, "fraud", 0.9),))


def test_lines_and_tabs_stay() -> None:
    assert "  one\n" in "\n".join(line.rstrip() for line in shown("one\r\ntwo\tthree").splitlines())
    assert "\r" not in shown("one\r\ntwo\rthree")
    assert "\\x0d" in shown("two\rthree")


def test_a_long_text_is_shown_around_its_spans() -> None:
    words = " ".join(f"word{i}" for i in range(3000))
    first, last = words.index("word1000 "), words.index("word2000 ")
    text = shown(words, spans=(Span(first, first + 8, "fraud", 0.9), Span(last, last + 8, "fraud", 0.9)))
    assert "[[word1000]]" in text
    assert "[[word2000]]" in text
    assert "word999" in text
    assert "word1001" in text
    assert text.count("characters …") == 3
    assert "in part" in text
    for there in ("word1500", "word0 ", "word2999"):
        assert there not in text
    assert len(text) < 4000


def test_a_long_text_without_spans_is_shown_at_its_ends() -> None:
    text = shown("start " + "x" * 50_000 + " end")
    assert "start" in text
    assert "end" in text
    assert text.count("characters …") == 1


def test_a_long_span_and_many_spans_stay_readable() -> None:
    assert len(shown("y" * 100_000, spans=(Span(0, 100_000, "fraud", 0.9),))) < 4000
    spans = tuple(Span(i, i + 10, "fraud", 0.9) for i in range(0, 90_000, 1000))
    text = shown("z" * 100_000, spans=spans)
    assert "and 82 more" in text
    assert len(text) < 12_000


def test_an_empty_text() -> None:
    assert "(empty)" in shown("")


def test_markup_in_a_text_is_text() -> None:
    assert "[bold]x[/bold] :smile:" in shown("[bold]x[/bold] :smile:")


# --- facts --------------------------------------------------------------------------------------


def test_what_was_not_read_is_said() -> None:
    text = shown(coverage=Coverage(1000, 2500, 7, 64), width=120)
    assert "1,000 of 3,500 characters in 64 windows" in text
    assert "2,500 not read" in text
    assert "7 letters unknown to the model" in text
    assert "not read" not in shown()


def test_signals() -> None:
    signals = {
        "surface": Signal("surface", {"hidden_views": 1.0}, {"views": ["base64"]}),
        "classifier": Signal("classifier", {"risk": 1.0}, {"view": "base64", "window": 0}),
        "similarity": Signal(
            "similarity", {"margin": 0.1}, {"nearest": "set/1", "nearest_labels": ["fraud"], "cosine": 0.81}
        ),
    }
    text = shown(signals=signals)
    assert "base64; strongest in base64" in text
    assert "set/1 (fraud), cosine 0.810" in text
    silent = {name: Signal(name, None) for name in signals}
    assert "nearest" not in shown(signals=silent)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = shown("long " * 100, width=width, references=("LLM01:2025",), without=analysis())
    assert max(len(line) for line in text.splitlines()) <= width


def test_parts_of_a_conversation() -> None:
    stream = io.StringIO()
    parts = {"messages[0]": analysis(risk=0.2), "messages[1]": analysis(risk=0.7)}
    show_parts(Console(file=stream, width=80), ConversationAnalysis(parts, ("messages[2]",)))
    assert "the part that decides: messages[1]" in stream.getvalue()
    assert "messages[2]  not read" in stream.getvalue()
    alone = io.StringIO()
    show_parts(Console(file=alone, width=80), ConversationAnalysis({"messages[0]": analysis()}))
    assert "the part that decides" not in alone.getvalue()
