"""What a person sees in a terminal of an analysis or a conversation.

Nothing that came from outside reaches the terminal as it is: characters that are not printed, or that change
how others are printed, are spelled out (``visible``). Where there is no colour, spans stand in brackets.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from promptguard.bundle import Bundle
from promptguard.messages import ConversationAnalysis
from promptguard.policy import MODES, Thresholds
from promptguard.types import Analysis, Decision, Reason, Span

TITLES: Mapping[str, str] = {
    "LLM01:2025": "Prompt Injection",
    "LLM02:2025": "Sensitive Information Disclosure",
    "LLM06:2025": "Excessive Agency",
    "LLM07:2025": "System Prompt Leakage",
    "LLM10:2025": "Unbounded Consumption",
    "AML.T0034": "Cost Harvesting",
    "AML.T0048": "External Harms",
    "AML.T0048.000": "External Harms: Financial Harm",
    "AML.T0051.000": "LLM Prompt Injection: Direct",
    "AML.T0051.001": "LLM Prompt Injection: Indirect",
    "AML.T0053": "AI Agent Tool Invocation",
    "AML.T0054": "LLM Jailbreak",
    "AML.T0056": "Extract LLM System Prompt",
    "AML.T0057": "LLM Data Leakage",
    "AML.T0073": "Impersonation",
}
"""Titles of the references, from the OWASP Top 10 for LLM Applications 2025 and MITRE ATLAS 2026.09."""

_COLOURS = {Decision.ALLOW: "green", Decision.REVIEW: "yellow", Decision.BLOCK: "red"}
_WIDEST = 120
_INTENTS_SHOWN = 3
_FLOOR = 0.05
_SHORT_TEXT = 1200
_AROUND = 240
_NEAR = 20
_SPANS_SHOWN = 8
_ESCAPES_SHOWN = 8
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols with nothing to see


@dataclass(frozen=True, slots=True)
class Settings:
    """What a verdict was made with.

    Attributes:
        thresholds: at the prior in force.
        mode: where *review* starts.
        prior: share of risky traffic that the probabilities are stated at.
    """

    thresholds: Thresholds
    mode: str
    prior: float

    @classmethod
    def of(cls, bundle: Bundle, *, mode: str, prior: float) -> Settings:
        """The settings under another prior: probabilities and thresholds move by the same log-odds."""
        from promptguard.fusion import log_odds

        def moved(values: Mapping[str, float]) -> dict[str, float]:
            return {
                name: p if p in (0.0, 1.0) or not shift else 1 / (1 + math.exp(-log_odds(p) - shift))
                for name, p in values.items()
            }

        shift = log_odds(prior) - log_odds(bundle.prior)
        given = bundle.thresholds
        return cls(Thresholds(risk=moved(given.risk), intents=moved(given.intents)), mode, prior)


def console() -> Console:
    """Standard output: plain where it is no terminal, without colour under ``NO_COLOR``, never very wide."""
    made = Console(highlight=False, markup=False, emoji=False)
    made.width = min(made.width, _WIDEST)
    return made


# --- text that is safe to show ------------------------------------------------------------------


def visible(text: str, *, keep: str = "") -> str:
    r"""A text whose control, format and unassigned characters are spelled out, such as ``\x1b`` or ``\u202e``.

    Args:
        text: any text.
        keep: characters to leave alone.

    Returns:
        A printable text; a long run of such characters becomes a note of their number.
    """
    return "".join(part for part, _ in _parts(text, keep))


def _parts(text: str, keep: str) -> Iterator[tuple[str, bool]]:
    """Stretches of the text, and whether a stretch stands for characters that are not shown."""
    for hidden, run in groupby(text, key=lambda c: c not in keep and _unprintable(c)):
        characters = "".join(run)
        if not hidden:
            yield characters, False
        elif len(characters) > _ESCAPES_SHOWN:
            yield f"[{len(characters):,} unprintable characters]", True
        else:
            yield "".join(_escape(character) for character in characters), True


def _unprintable(character: str) -> bool:
    code = ord(character)
    if 0xFE00 <= code <= 0xFE0D or 0xE0100 <= code <= 0xE01EF:  # variation selectors but those of emoji
        return True
    return character in _BLANKS or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- one analysis -------------------------------------------------------------------------------


def show(out: Console, text: str, analysis: Analysis, settings: Settings, without: Analysis | None = None) -> None:
    """Print an analysis.

    Args:
        out: where to.
        text: what was analysed; shown, and where it is long only around the spans.
        analysis: the verdict.
        settings: what it was made with.
        without: the verdict without the context, if there is one to compare with.
    """
    out.print()
    out.print(_verdict(analysis, settings, without))
    out.print()
    out.print(_bars(out, analysis, settings))
    out.print()
    show_text(out, text, analysis.spans)
    if analysis.spans:
        out.print(Padding(_span_list(analysis.spans), (1, 0, 0, 2)))
    out.print()
    out.print(_facts(analysis, settings))
    out.print()


def show_text(out: Console, text: str, spans: Sequence[Span]) -> None:
    """Print a text with its spans marked; where it is long only around them."""
    size = f"text, {count(len(text), 'character')}"
    out.print(Text(size if len(text) <= _SHORT_TEXT else f"{size}, in part", style="bold"))
    out.print(Padding(_marked(out, text, spans), (0, 0, 0, 2)))


def show_parts(out: Console, conversation: ConversationAnalysis) -> None:
    """Print one line for each part of a conversation, and what was not read."""
    out.print()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    for where, analysis in conversation.analyses.items():
        decision = Text(analysis.decision.value, style=_COLOURS[analysis.decision])
        name = Text(where, style="bold" if where == conversation.where else "")
        table.add_row(name, decision, f"{analysis.risk:.3f}", ", ".join(analysis.intents) or "benign")
    for where in conversation.not_read:
        table.add_row(where, Text("not read", style="yellow"))
    out.print(table)
    if len(conversation.analyses) > 1:
        out.print(Text(f"\nthe part that decides: {conversation.where}", style="bold"))


def _verdict(analysis: Analysis, settings: Settings, without: Analysis | None) -> RenderableType:
    colour = _COLOURS[analysis.decision]
    lines = Table.grid(padding=(0, 2))
    badge = Text(f" {analysis.decision.value.upper()} ", style=f"bold white on {colour}")
    if analysis.decision is not Decision.BLOCK:
        badge.stylize(f"bold black on {colour}")
    limits = settings.thresholds.intents
    unsure = analysis.intents and all(analysis.probabilities[name] < limits[name] for name in analysis.intents)
    note = " (the likeliest intent; none reaches its mark)" if unsure else ""
    intents = ", ".join(analysis.intents) or "benign"
    lines.add_row(badge, Text.assemble(f"risk {analysis.risk:.3f}, ", (intents, "bold"), (note, "dim")))
    lines.add_row("", Text(_reason(analysis, settings)))
    if without is not None:
        lines.add_row("", _comparison(analysis, without))
    return lines


def _comparison(analysis: Analysis, without: Analysis) -> Text:
    change = analysis.risk - without.risk
    effect = "changes little" if abs(change) < 0.005 else "raises it" if change > 0 else "lowers it"
    return Text.assemble(
        f"without the context: risk {without.risk:.3f}, ",
        (without.decision.value, _COLOURS[without.decision]),
        (f" (the context {effect})", "dim"),
    )


def _reason(analysis: Analysis, settings: Settings) -> str:
    block, review = settings.thresholds.risk[MODES[0]], settings.thresholds.risk[settings.mode]
    if analysis.reason is Reason.RISK:
        name, threshold = ("block", block) if analysis.decision is Decision.BLOCK else ("review", review)
        return f"the risk reaches the {name} threshold {threshold:.3f}"
    read = analysis.coverage
    return {
        Reason.BELOW_THRESHOLD: f"the risk stays below the review threshold {review:.3f}",
        Reason.OUT_OF_SCOPE: "it lies outside what the application is for",
        Reason.EXAMPLE: "it resembles an example of the operator's",
        Reason.EXCEPTION: "it equals an exception of the operator's",
        Reason.UNREADABLE: f"{read.characters_unreadable:,} of its letters are unknown to the model",
        Reason.NOT_FULLY_READ: f"{read.characters_not_read:,} of its characters were not read",
        Reason.POLICY: "the policy asks for it",
    }[analysis.reason]


def _bars(out: Console, analysis: Analysis, settings: Settings) -> RenderableType:
    """Risk with the marks of review and block; then the intents, most likely first."""
    risk, limits = settings.thresholds.risk, settings.thresholds.intents
    marks = (risk[settings.mode], risk[MODES[0]])
    ranked = sorted(analysis.probabilities.items(), key=lambda item: -item[1])
    rows = [(name, p) for place, (name, p) in enumerate(ranked) if place < _INTENTS_SHOWN or p >= _FLOOR]
    cells = max(8, out.width - 20 - 5 - 14 - 3 * 2)
    table = Table.grid(padding=(0, 2, 0, 0))
    for width, style in ((20, ""), (cells, ""), (5, ""), (14, "dim")):
        table.add_column(width=width, style=style, no_wrap=True)
    two = marks[0] < marks[1]
    limit = f"{marks[0]:.3f} / {marks[1]:.3f}" if two else f"{marks[1]:.3f}"
    colour = _COLOURS[analysis.decision]
    bar = _bar(out, analysis.risk, marks, cells, colour)
    table.add_row("", "", "", "review / block" if two else "block")
    table.add_row(Text("risk", style="bold"), bar, Text(f"{analysis.risk:.3f}", style="bold"), limit)
    table.add_row(Text("intents", style="bold"), "", "", "listed from")
    for name, probability in rows:
        listed = name in analysis.intents
        style = (colour if analysis.flagged else "blue") if listed else "bright_black"
        bar = _bar(out, probability, (limits[name],), cells, style)
        label = Text(f"  {name}", style="bold" if listed else "")
        table.add_row(label, bar, f"{probability:.3f}", f"{limits[name]:.3f}")
    return table


def _bar(out: Console, value: float, marks: Iterable[float], cells: int, style: str) -> Text:
    full, empty, mark = ("#", ".", "|") if out.options.ascii_only else ("━", "─", "┃")
    filled = round(value * cells)
    places = {min(cells - 1, int(m * cells)) for m in marks}
    bar = Text()
    for place in range(cells):
        if place in places:
            bar.append(mark, style="bold")
        else:
            bar.append(full if place < filled else empty, style=style if place < filled else "dim")
    return bar


# --- the text with its spans --------------------------------------------------------------------


def _marked(out: Console, text: str, spans: Sequence[Span]) -> Text:
    marked = Text(overflow="fold", tab_size=4)
    end = 0
    for number, (start, stop) in enumerate(_excerpts(text, spans)):
        if start > end:
            marked.append("\n" if number else "")
            marked.append(f"… {count(start - end, 'character')} …\n", style="dim italic")
        _append(marked, text, start, stop, spans, coloured=out.color_system is not None and not out.no_color)
        end = stop
    if end < len(text):
        marked.append(f"\n… {count(len(text) - end, 'character')} …", style="dim italic")
    return marked if len(text) else Text("(empty)", style="dim italic")


def _excerpts(text: str, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """What to show, in order: all of a short text; of a long one the surroundings of both ends of each span."""
    if len(text) <= _SHORT_TEXT:
        return [(0, len(text))] if text else []
    kept: list[tuple[int, int]] = []
    for place in [place for span in spans[:_SPANS_SHOWN] for place in (span.start, span.end)] or [0, len(text)]:
        start, stop = max(0, place - _AROUND), min(len(text), place + _AROUND)
        # At a space, if one is near: a word cut in two reads like another.
        start = max(start, text.find(" ", start, start + _NEAR) + 1) if start else 0
        stop = max(stop - _NEAR, text.rfind(" ", stop - _NEAR, stop)) if stop < len(text) else stop
        if kept and start <= kept[-1][1] + _AROUND // 2:
            kept[-1] = (kept[-1][0], max(kept[-1][1], stop))
        else:
            kept.append((start, stop))
    return kept


def _append(marked: Text, text: str, start: int, stop: int, spans: Sequence[Span], *, coloured: bool) -> None:
    """Append characters ``[start, stop)``, those of the spans marked."""
    inside = [span for span in spans if span.start < stop and span.end > start]
    edges = sorted({start, stop, *(min(max(p, start), stop) for span in inside for p in (span.start, span.end))})
    for left, right in pairwise(edges):
        in_span = any(span.start <= left and right <= span.end for span in inside)
        style = "bold black on bright_yellow" if in_span and coloured else "bold" if in_span else ""
        if in_span and not coloured and any(span.start == left for span in inside):
            marked.append("[[", style="bold")
        for part, escaped in _parts(text[left:right].replace("\r\n", "\n"), "\n\t"):
            marked.append(part, style="bold magenta" if escaped and not in_span else style)
        if in_span and not coloured and any(span.end == right for span in inside):
            marked.append("]]", style="bold")


def _span_list(spans: Sequence[Span]) -> RenderableType:
    listed = Table.grid(padding=(0, 2, 0, 0))
    for span in spans[:_SPANS_SHOWN]:
        listed.add_row(f"{span.start:,}–{span.end:,}", span.intent, f"{span.probability:.3f}", style="dim")
    if len(spans) > _SPANS_SHOWN:
        listed.add_row(f"and {len(spans) - _SPANS_SHOWN:,} more", style="dim")
    return listed


def _facts(analysis: Analysis, settings: Settings) -> RenderableType:
    facts = pairs()
    for number, reference in enumerate(analysis.references):
        facts.add_row("" if number else "references", f"{reference:<14} {TITLES.get(reference, '')}")
    facts.add_row("read", _coverage(analysis))
    views = _detail(analysis, "surface").get("views") or ()
    if views:
        read_in = _detail(analysis, "classifier").get("view", "plain")
        strongest = "" if read_in == "plain" else f"; strongest in {read_in}"
        facts.add_row("hidden", Text(visible(f"{', '.join(views)}{strongest}"), style="magenta"))
    nearest = _detail(analysis, "similarity")
    if nearest:
        labels = ", ".join(nearest["nearest_labels"])
        facts.add_row("nearest", visible(f"{nearest['nearest']} ({labels}), cosine {nearest['cosine']:.3f}"))
    facts.add_row("model", visible(f"{analysis.model}, mode {settings.mode}, prior {settings.prior:g}"))
    return facts


def _coverage(analysis: Analysis) -> Text:
    read = analysis.coverage
    total = read.characters_read + read.characters_not_read
    spent = sum(read.milliseconds.values())
    windows = count(read.windows, "window")
    found = Text(f"{read.characters_read:,} of {count(total, 'character')} in {windows}, {spent:.0f} ms")
    if read.characters_not_read:
        found.append(f"; {read.characters_not_read:,} not read", style="bold red")
    if read.characters_unreadable:
        letters = count(read.characters_unreadable, "letter")
        found.append(f"; {letters} unknown to the model", style="yellow")
    return found


def _detail(analysis: Analysis, name: str) -> Mapping[str, Any]:
    signal = analysis.signals.get(name)
    return signal.detail if signal is not None and signal.scores is not None else {}


def pairs() -> Table:
    """A table of names and values without lines."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    return facts


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
