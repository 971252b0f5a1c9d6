"""What a person sees while labelling rows of a scan, and the keys that answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from promptguard.intents import RISKY_INTENTS
from promptguard.terminal import count, pairs, show_text, visible

if TYPE_CHECKING:
    from promptguard.logs.review import Draw, Item, Review
    from promptguard.types import Context

KEYS = "b benign, o out of scope, r risky, s skip, w whole text, p back, q quit"
_WORDS = {
    "benign": "b",
    "out of scope": "o",
    "risky": "r",
    "skip": "s",
    "whole": "w",
    "back": "p",
    "quit": "q",
}
_SHORT, _TURNS = 240, 2
_DRAWN = {"near": "near the threshold", "random": "drawn at random"}


def walk(out: Console, drawn: Draw, review: Review, read: Callable[[], str]) -> None:
    """Show row after row and take the answers, until they are all given, the reader quits or the input ends.

    Args:
        out: where to.
        drawn: what is labelled.
        review: where answers go.
        read: gives the next line of input with its line break; an empty string at its end.
    """
    while (item := review.current) is not None:
        _show(out, item, f"{review.place:,} of {review.total:,}", drawn)
        if not _answer(out, item, review, read):
            break


def _answer(out: Console, item: Item, review: Review, read: Callable[[], str]) -> bool:
    """Take one answer; False to quit."""
    while True:
        out.print(Text(KEYS, style="dim"))
        given = _ask(out, "label", read)
        if given is None:
            return False
        key, _, rest = given.partition(" ")
        key = _WORDS.get(given, key)
        if key == "q":
            return False
        if key == "b":
            review.label(())
        elif key == "o" and not (item.context.purpose or item.context.system_prompt):
            out.print("out of scope needs a purpose or a system prompt in the context")
            continue
        elif key == "o":
            review.label(("out_of_scope",))
        elif key == "r":
            labels = _intents(out, rest if given not in _WORDS else "", read)
            if not labels:
                continue
            review.label(labels)
        elif key == "s":
            review.skip()
        elif key == "w":
            _whole(out, item)
            continue
        elif key == "p":
            if not review.back():
                out.print("there is no earlier answer of this session")
                continue
        else:
            out.print("that is none of the keys")
            continue
        return True


def _intents(out: Console, given: str, read: Callable[[], str]) -> tuple[str, ...]:
    """The intents whose numbers are given or asked for; none where none is a number of an intent."""
    names = {str(number): name for number, name in enumerate(RISKY_INTENTS, start=1)}
    if not given.strip():
        for number, name in names.items():
            out.print(f"  {number} {name}")
        given = _ask(out, "numbers of intents", read) or ""
    numbers = given.replace(",", " ").split()
    if not numbers or not set(numbers) <= set(names):
        out.print(f"give one or more numbers from 1 to {len(names)}")
        return ()
    return tuple(name for number, name in names.items() if number in numbers)


def _ask(out: Console, what: str, read: Callable[[], str]) -> str | None:
    """A line of input in lower case; None at its end."""
    out.print(f"{what}> ", end="")
    line = read()
    return line.strip().lower() if line else None


def _show(out: Console, item: Item, place: str, drawn: Draw) -> None:
    where = item.file if item.line is None else f"{item.file}, line {item.line:,}"
    out.print()
    out.print(Text(visible(f"{place}, {_DRAWN[item.drawn]}, {where}"), style="bold"))
    facts = pairs()
    for name, value in _lines(item.context):
        facts.add_row(name, _short(value))
    out.print(Padding(facts, (0, 0, 0, 2)))
    show_text(out, item.text, item.spans)
    intents = ", ".join(item.intents) or "benign"
    said = f"said: {item.decision}, risk {item.risk:.3f} (threshold of {drawn.mode}: {drawn.threshold:.3f}), {intents}"
    out.print(Text(visible(said)))


def _lines(context: Context) -> list[tuple[str, str]]:
    """The context's fields, the last turns of the history among them."""
    fields = [
        ("system prompt", context.system_prompt),
        ("purpose", context.purpose),
        ("source", context.source),
        ("role", context.user_role),
        ("tools", ", ".join(tool.name for tool in context.tools)),
    ]
    left_out = len(context.history[:-_TURNS])
    if left_out:
        fields.append(("history", count(left_out, "earlier turn")))
    fields += [(f"turn of {turn.role}", turn.content) for turn in context.history[-_TURNS:]]
    return [(visible(name), value) for name, value in fields if value] or [("context", "unknown")]


def _short(text: str) -> str:
    return visible(text if len(text) <= _SHORT else f"{text[:_SHORT]} …", keep="\n\t")


def _whole(out: Console, item: Item) -> None:
    context = item.context
    turns = [(f"turn of {turn.role}", turn.content) for turn in context.history]
    tools = [(f"tool {tool.name}", tool.description) for tool in context.tools]
    fields = [("system prompt", context.system_prompt), ("purpose", context.purpose), *tools, *turns]
    for name, value in [*fields, ("text", item.text)]:
        if value:
            out.print(Text(visible(name), style="bold"))
            out.print(Padding(Text(visible(value, keep="\n\t")), (0, 0, 0, 2)))


def show_end(out: Console, review: Review, labels: Path) -> None:
    """Print how much is done, and what it means that some of it is not."""
    without = review.without_label
    left = review.total - review.place + 1
    labelled = review.total - left - sum(without.values())
    out.print()
    out.print(visible(f"{labelled:,} of {review.total:,} rows have a label, in {labels}; {left:,} not yet asked"))
    if without["near"] or without["random"]:
        out.print(f"passed over: {without['near']:,} near the threshold, {without['random']:,} drawn at random")
    if without["random"]:
        out.print("calibrate takes the random rows without a label to be like those with one")


def show_thresholds(out: Console, known: Mapping[str, Any]) -> None:
    """Print thresholds and what they flag, with 95 % intervals."""
    table = pairs()
    for mode, row in known["modes"].items():
        wanted = f" for {row['wanted']:.2%}" if row["wanted"] is not None else ""
        table.add_row(mode, f"risk from {row['threshold']:.4f}, {row['from']}{wanted}")
        table.add_row("", f"false positives {_proportion(row['false_positives'])}")
        for name, group in (
            ("recall, risky rows of the random draw", "recall_random"),
            ("recall, risky rows near the threshold (not the traffic's)", "recall_near"),
            ("recall, other risky records", "recall_other"),
        ):
            if row[group]["n"]:
                table.add_row("", f"{name} {_proportion(row[group])}")
    out.print(table)


def _proportion(share: Mapping[str, Any]) -> str:
    if not share["n"]:
        return "unknown: there are no such rows"
    return f"{share['value']:.2%} ({share['low']:.2%}–{share['high']:.2%}), {share['k']:,} of {share['n']:,}"
