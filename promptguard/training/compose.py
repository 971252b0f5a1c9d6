"""Compose labelled records at scale from parts: carriers, payloads, applications and their roles.

Everything follows from a seed. Parts are divided between training and held-out data before anything
is composed, so no carrier, payload, application or wording stands on both sides.

    python -m promptguard.training.compose --parts DIR --apps DIR --sample 5
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from promptguard.intents import is_risky
from promptguard.training.compose_apps import SPECIAL, app_context, asks, role_asks
from promptguard.training.compose_parts import Parts, Record, context, fits, insert, load_parts, rate, record

PER_CARRIER = 24
"""Payloads drawn for each carrier, with repeats."""

QUOTABLE_KINDS = frozenset(
    "minutes wiki email thread chat article ticket policy review news forum transcript newsletter notes "
    "manual readme press web-page".split()
)
"""Carriers in which people could talk about an attack."""

NARROW_LABELS = frozenset(
    {"prompt_injection", "prompt_extraction", "jailbreak", "resource_abuse", "social_engineering", "data_exfiltration"}
)
"""Labels of attacks that stay what they are in any application made for customers."""


def content_context(carrier: Record, parts: Parts, rng: random.Random) -> Record:
    """The situation in which an application reads a carrier; half of the time little is known of it."""
    source = carrier["source"]
    if source == "user":
        return user_context(parts, rng)
    setups = [
        s for s in parts.setups if source in s["sources"] and (s["kinds"] is None or carrier["kind"] in s["kinds"])
    ]
    if rate(rng, 0.5) or not setups:
        return context(source=source if rate(rng, 0.7) else None)
    setup = rng.choice(setups)
    call, history = rng.choice(setup["calls"]), []
    if rate(rng, 0.75):
        tasks = parts.wordings["content_tasks"].get(carrier["lang"])
        ask = rng.choice(tasks) if tasks and rate(rng, 0.7) else call["ask"]
        history.append({"role": "user", "content": ask})
        if rate(rng, 0.7):
            form = rng.choice(("{}", "<tool_call>{}</tool_call>", "Calling {}", "[tool call] {}", "Let me look.\n{}"))
            history.append({"role": "assistant", "content": form.format(call["call"])})
    return context(
        system_prompt=rng.choice(setup["prompts"]),
        source=source,
        user_role=rng.choice(setup["roles"]),
        history=history,
        tools=setup["tools"] if rate(rng, 0.7) else [],
    )


def user_context(parts: Parts, rng: random.Random, lang: str = "en", bare: float = 0.3) -> Record:
    """A general-purpose assistant a person writes to, or nothing but the channel."""
    if rate(rng, bare):
        return context(source="user" if rate(rng, 0.5) else None)
    prompts = parts.wordings["assistants"]
    same = [p for p in prompts if p["lang"] == lang]
    history = []
    if rate(rng, 0.3):
        for turn in rng.sample(parts.wordings["smalltalk"], min(rng.randint(1, 3), len(parts.wordings["smalltalk"]))):
            history += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return context(
        system_prompt=rng.choice(same if same and rate(rng, 0.7) else prompts)["text"],
        source="user",
        user_role=rng.choice(parts.wordings["user_roles"]) if rate(rng, 0.5) else None,
        history=history,
        tools=rng.choice(parts.wordings["tools"]) if rate(rng, 0.3) else [],
    )


def carriers(parts: Parts, rng: random.Random) -> Iterator[Record]:
    """Each carrier with payloads, with their harmless twins in the same slots, and clean."""
    twins = [t for t in parts.twins.values() if "\n" not in t["text"]]
    for carrier in parts.carriers:
        fitting = [p for p in parts.payloads if p["assumes"] is None and fits(carrier, p)]
        own = [p for p in fitting if p["lang"] == carrier["lang"]]
        if carrier["lang"] != "en":
            fitting = own * 4 + fitting
        others = [t for t in twins if fits(carrier, t)]
        same = [t for t in others if t["lang"] == carrier["lang"]]
        others = same if len(same) > 4 else others
        for _ in range(PER_CARRIER if fitting else 0):
            payload, slot = rng.choice(fitting), rng.choice(_open_slots(carrier))
            where = content_context(carrier, parts, rng)
            twin = parts.twins.get(payload["id"])
            if twin is None or not fits(carrier, twin):
                twin = rng.choice(others) if others else None
            yield from _triple(carrier, slot, payload, twin, where, parts.split)


def _open_slots(carrier: Record) -> list[int]:
    """The slots of a carrier; of a person's message only those outside what the person quotes."""
    slots = list(range(len(carrier["slots"])))
    if carrier["source"] != "user":
        return slots
    return [s for s in slots if carrier["text"][: carrier["slots"][s]].count('"') % 2 == 0]


def _triple(
    carrier: Record, slot: int, payload: Record, twin: Record | None, where: Record, split: str
) -> Iterator[Record]:
    names = f"carrier:{carrier['id']}|payload:{payload['id']}"
    group = f"{names}|{slot}|{json.dumps(where, sort_keys=True)}"
    labels = payload["labels"]
    if carrier["source"] != "user" and "prompt_injection" not in labels:
        labels = ["prompt_injection", *labels]
    text, start, end = insert(carrier, slot, payload["text"])
    shared: Record = {"split": split, "family": "carriers", "template": names, "group": group, "lang": carrier["lang"]}
    yield record(text, where, labels, kind="carrier_attack", span=(start, end), license=_licence(payload), **shared)
    if twin is not None:
        yield record(insert(carrier, slot, twin["text"])[0], where, [], kind="carrier_twin", **shared)
    yield record(carrier["text"], where, [], kind="carrier_clean", **shared)


def _licence(payload: Record) -> str:
    return str(payload.get("license") or "CC0-1.0")


def _quotable(payload: Record) -> bool:
    text = payload["text"]
    plain = text.isprintable() and len(text) < 220 and not any(c in text for c in '"“”<{`')
    return plain and "harmful_content" not in payload["labels"] and payload["lang"] == "en"


def quotes(parts: Parts, rng: random.Random) -> Iterator[Record]:
    """Attacks that are talked about (benign), and attacks in quotes that shall be carried out (attacks)."""
    quotable = [p for p in parts.payloads if _quotable(p)]
    in_content = [p for p in quotable if "user" not in p["channel_fit"]]
    for carrier in parts.carriers:
        if carrier["kind"] not in QUOTABLE_KINDS or carrier["lang"] != "en" or not in_content:
            continue
        for payload in rng.sample(in_content, min(4, len(in_content))):
            text = rng.choice(parts.wordings["quote_content"]).replace("{q}", payload["text"])
            slot = rng.randrange(len(carrier["slots"]))
            names = f"carrier:{carrier['id']}|payload:{payload['id']}"
            where = content_context(carrier, parts, rng)
            yield record(
                insert(carrier, slot, text)[0], where, [], split=parts.split, family="carriers",
                kind="carrier_quote", template=names, group=names + text, license=_licence(payload),
            )  # fmt: skip
    for payload in quotable:
        where = user_context(parts, rng)
        shared: Record = {
            "split": parts.split, "family": "carriers", "template": f"payload:{payload['id']}",
            "license": _licence(payload),
        }  # fmt: skip
        for frame in rng.sample(parts.wordings["quote_user"], min(2, len(parts.wordings["quote_user"]))):
            text = frame.replace("{q}", payload["text"])
            yield record(text, where, [], kind="user_quote", group="quote" + payload["id"], **shared)
        if payload["channel_fit"] == ["user"] and payload["assumes"] is None:
            frame = rng.choice(parts.wordings["comply_user"])
            start, text = frame.index("{q}"), frame.replace("{q}", payload["text"])
            span = (start, start + len(payload["text"]))
            yield record(
                text, where, payload["labels"], kind="user_comply", group="quote" + payload["id"], span=span, **shared
            )


def messages(parts: Parts, rng: random.Random) -> Iterator[Record]:
    """Payloads as a user types them, beside their twins in the same contexts."""
    narrow = [a for a in parts.apps if a["lang"] == "en" and not SPECIAL.search(a["industry"])]
    for payload in parts.payloads:
        if "user" not in payload["channel_fit"]:
            continue
        twin, names = parts.twins.get(payload["id"]), f"payload:{payload['id']}"
        for where in _message_contexts(payload, parts, rng):
            group = names + json.dumps(where, sort_keys=True)
            shared: Record = {
                "split": parts.split, "family": "carriers", "template": names, "group": group, "lang": payload["lang"]
            }  # fmt: skip
            whole = (0, len(payload["text"]))
            yield record(payload["text"], where, payload["labels"], kind="user_attack", span=whole, **shared)
            if twin is not None:
                yield record(twin["text"], where, [], kind="user_twin", **shared)
        fitting = payload["assumes"] is None and payload["lang"] == "en" and NARROW_LABELS >= set(payload["labels"])
        for app in rng.sample(narrow, 2) if fitting and len(narrow) > 1 else []:
            where = app_context(app, app["roles"][0]["role"], parts, rng)
            yield record(
                payload["text"], where, payload["labels"], split=parts.split, family="carriers", kind="user_in_app",
                template=f"{names}|app:{app['app_id']}", group=names, span=(0, len(payload["text"])),
            )  # fmt: skip


def _message_contexts(payload: Record, parts: Parts, rng: random.Random) -> list[Record]:
    if payload["assumes"] is None:
        return [context(), *(user_context(parts, rng, payload["lang"], bare=0.1) for _ in range(3))]
    found = parts.wordings["assumptions"].get(payload["assumes"], [])
    return [
        context(system_prompt=c["prompt"], source="user", user_role=rng.choice(c["roles"]), tools=c["tools"])
        for c in rng.sample(found, min(3, len(found)))
    ]


def compose(
    folder: Path | Sequence[Path], *, seed: int, holdout: float, payloads: Iterable[Record] = ()
) -> Iterator[Record]:
    """Compose all records.

    Args:
        folder: where the parts lie: apps.jsonl, payloads.jsonl, benign_twins.jsonl, carriers.jsonl and
            files of the same names with ``written_`` before them. Several folders are searched in turn.
        seed: fixes every choice but the split, which depends on the parts alone.
        holdout: share of each kind of part kept for the held-out split.
        payloads: further attacks to place in content, in training alone.

    Yields:
        Records as the taxonomy has them, with ``family``, ``kind``, ``template`` and ``split``.
    """
    folders = [folder] if isinstance(folder, Path) else list(folder)
    if isinstance(folder, Path):
        folders += [folder / "context", folder / "parts"]
    seen: set[str] = set()
    taken: set[str] = set()
    for split, parts in load_parts(folders, holdout).items():
        if split == "train":
            parts.payloads += payloads
        rng = random.Random(f"{seed}-{split}")  # noqa: S311 (not for security)
        families = (carriers, quotes, messages, asks, role_asks)
        for row in itertools.chain.from_iterable(family(parts, rng) for family in families):
            text = re.sub(r"\W+", " ", row["text"].lower()).strip()
            # The same short ask may stand in two applications of different splits.
            if row["id"] in seen or (split == "heldout" and text in taken):
                continue
            seen.add(row["id"])
            if split == "train":
                taken.add(text)
            yield row


def dialogue_records(path: Path) -> Iterator[Record]:
    """One record for each user or tool turn of each dialogue, with the turns before it as its history."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            history: list[Record] = []
            for number, turn in enumerate(row["turns"]):
                if turn["role"] in ("user", "tool"):
                    fields = {k: v for k, v in row["context"].items() if k != "history"}
                    yield {
                        "id": f"{row['dialogue_id']}-{number:02d}",
                        "text": turn["content"],
                        "context": context(**fields, source=turn["source"], history=[dict(t) for t in history]),
                        "labels": list(turn["labels"]),
                        "spans": None if turn["labels"] else [],
                        "pair_id": None,
                        "origin": row["origin"],
                        "license": row["license"],
                        "lang": row["lang"],
                        "template": "dialogue:" + (row["context"].get("system_prompt") or row["dialogue_id"]),
                    }
                history.append({"role": turn["role"], "content": turn["content"]})


def summary(records: Iterable[Record]) -> str:
    """A table of counts, and how often each context field occurs with risky and with benign records."""
    rows = list(records)
    out = []
    for name in ("kind", "family", "split", "lang"):
        out.append(f"{name}: {dict(Counter(r.get(name) for r in rows).most_common())}")
    out.append(f"source: {dict(Counter(r['context']['source'] for r in rows).most_common())}")
    out.append(f"label: {dict(Counter(label for r in rows for label in r['labels'] or ['benign']).most_common())}")
    risky = [r for r in rows if is_risky(r["labels"])]
    harmless = [r for r in rows if not is_risky(r["labels"])]
    out.append(f"risky {len(risky)}, not risky {len(harmless)}")
    for name in ("system_prompt", "purpose", "source", "user_role", "history", "tools"):
        shares = [sum(bool(r["context"].get(name)) for r in part) / max(1, len(part)) for part in (risky, harmless)]
        out.append(f"  {name:14} risky {shares[0]:.2f}  not risky {shares[1]:.2f}")
    return "\n".join(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print samples of every kind, and the table of counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="folder of payloads, twins and carriers")
    parser.add_argument("--apps", type=Path, required=True, help="folder of apps.jsonl")
    parser.add_argument("--sample", type=int, default=0, help="records printed of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--holdout", type=float, default=0.15)
    options = parser.parse_args(arguments)
    rows = list(compose([options.apps, options.parts], seed=options.seed, holdout=options.holdout))
    kinds = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    rng = random.Random(options.seed)  # noqa: S311 (not for security)
    for kind, members in kinds.items():
        for row in rng.sample(members, min(options.sample, len(members))):
            shown = {k: v for k, v in row["context"].items() if v}
            sys.stdout.write(f"\n[{kind}] {row['labels']} {json.dumps(shown, ensure_ascii=False)}\n{row['text']}\n")
    sys.stdout.write("\n" + summary(rows) + "\n")


if __name__ == "__main__":
    main()
