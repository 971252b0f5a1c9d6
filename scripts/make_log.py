"""Make a log of chat requests in the shape of production traffic, from our own CC0 records alone.

    python scripts/make_log.py --rows 1000000 --out runs/log.jsonl.gz

Each row is an OpenAI chat request with time, user, session, key, application and token counts. Which application is
asked and which request is repeated follow Zipf's law, as do the users: a long tail of each. A share ``--repeats`` of
the rows repeats an earlier text in the same context, as retries, shared templates and common questions do; the others
are one of the records with its numbers changed and, half of them, a greeting or a closing of their own. Requests that
carry an attack are ``--attacks`` of the new ones. The shares of what was written are printed.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

DATA = Path(__file__).parents[1] / "promptguard" / "training" / "data"
OPENINGS = (
    "Hi,",
    "Hello,",
    "Good morning,",
    "hey",
    "Hi there,",
    "Quick question:",
    "Sorry to bother you again.",
    "ok so",
)
CLOSINGS = (
    "Thanks!",
    "thx",
    "Thank you in advance.",
    "Reference {n}.",
    "It's about case {n}.",
    "Best, {n}",
    "asap please",
)
MODELS = ("gpt-5-mini", "gpt-5", "claude-5-haiku", "llama-4-scout")
KEPT = 50_000
"""Earlier requests that may come again."""


def records() -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
    """Our records with a system prompt, by that: harmless and risky ones."""
    harmless: dict[str, list[dict[str, Any]]] = defaultdict(list)
    risky: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(DATA.glob("written_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            context = record.get("context") or {}
            if "text" not in record or record.get("license") != "CC0-1.0" or not context.get("system_prompt"):
                continue
            if context.get("source") in (None, "user"):
                (risky if record.get("labels") else harmless)[context["system_prompt"]].append(record)
    return harmless, risky


def zipf(generator: random.Random, number: int) -> int:
    """A rank below ``number``, the first ones most often: exponent 1, by inverting its logarithmic distribution."""
    return min(number - 1, int(math.exp(generator.random() * math.log(number + 1))) - 1)


def varied(generator: random.Random, text: str) -> str:
    """A text with other numbers, and at times an opening and a closing."""
    text = re.sub(r"\d", lambda match: str(generator.randint(0, 9)), text)
    if generator.random() < 0.5:
        text = f"{generator.choice(OPENINGS)} {text}"
    if generator.random() < 0.5:
        text = f"{text} {generator.choice(CLOSINGS).format(n=generator.randint(1000, 999_999))}"
    return text


def requests(generator: random.Random, applications: int, attacks: float) -> Iterator[dict[str, Any]]:
    """New requests without end."""
    harmless, risky = records()
    both = sorted(harmless.keys() & risky.keys(), key=lambda system: (-len(harmless[system]), system))
    systems = both[:applications]
    while True:
        rank = zipf(generator, len(systems))
        record = generator.choice((risky if generator.random() < attacks else harmless)[systems[rank]])
        context = record["context"]
        turns = [{"role": "system", "content": context["system_prompt"]}]
        turns += [{"role": turn["role"], "content": turn["content"]} for turn in context.get("history") or []]
        turns.append({"role": "user", "content": varied(generator, record["text"])})
        tools = [{"type": "function", "function": tool} for tool in context.get("tools") or []]
        request = {"model": MODELS[rank % len(MODELS)], "messages": turns, **({"tools": tools} if tools else {})}
        role = {"metadata": {"user_role": context["user_role"]}} if context.get("user_role") else {}
        yield {"app": f"app-{rank:04}", "request": {**request, **role}}


def log(
    rows: int, repeats: float, applications: int, attacks: float, seed: int
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The rows, and whether each repeats an earlier one."""
    generator = random.Random(seed)
    fresh = requests(generator, applications, attacks)
    known: list[dict[str, Any]] = []
    time = 1_767_225_600.0  # 2026-01-01
    for number in itertools.count():
        if number == rows:
            return
        repeated = bool(known) and generator.random() < repeats
        if repeated:
            made = known[zipf(generator, len(known))]
        else:
            made = next(fresh)
            if len(known) < KEPT:
                known.append(made)
            else:
                known[generator.randrange(KEPT // 10, KEPT)] = made
        time += generator.expovariate(rows / (90 * 86_400))
        user = zipf(generator, max(10, rows // 20))
        written = sum(len(turn["content"]) for turn in made["request"]["messages"])
        yield (
            {
                "id": f"req-{number:08}",
                "created": round(time, 3),
                "user_id": f"user-{user:06}",
                "session_id": f"session-{user:06}-{int(time // 3600)}",
                "key_id": f"key-{user % 40:02}",
                **made,
                "usage": {"prompt_tokens": written // 4, "completion_tokens": int(generator.lognormvariate(5, 1))},
            },
            repeated,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=float, default=0.65, help="share of rows that repeat an earlier text")
    parser.add_argument("--applications", type=int, default=60)
    parser.add_argument("--attacks", type=float, default=0.02, help="share of new requests that carry an attack")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl or .jsonl.gz file")
    given = parser.parse_args()
    opened: TextIO = gzip.open(given.out, "wt", encoding="utf-8") if given.out.suffix == ".gz" else given.out.open("w")
    again = 0
    with opened as file:
        for row, repeated in log(given.rows, given.repeats, given.applications, given.attacks, given.seed):
            again += repeated
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{given.rows:,} rows, {again / max(1, given.rows):.1%} of them repeats, in {given.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
