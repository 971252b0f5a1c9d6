"""Context and surface that don't decide: given and taken at equal rates for risky and harmless records.

A model that sees system prompts, roles, tools or odd characters mostly beside attacks learns those instead
of the intent. Nothing here changes what a record means: narrow applications are never attached to texts
that were not written for them, and nothing is dropped that a label may rest on.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from promptguard import intents
from promptguard.training.compose_parts import WORDINGS, Record, split_texts

FIELDS = ("system_prompt", "user_role", "history", "tools", "source")
"""Context fields whose rates are made equal, in the order in which they are attached."""

CONTEXT_FREE = frozenset({"prompt_injection", "jailbreak", "prompt_extraction", "resource_abuse", "harmful_content"})
"""Labels that hold whoever asks."""

HOLDOUT = 0.15

HOMOGLYPHS = str.maketrans("aceiopxyABCEHKMOPTX", "асеіорхуАВСЕНКМОРТХ")
LEET = str.maketrans("aeiotsAEIOTS", "431075431075")
ZERO_WIDTH = "\u200b\u200c\u200d\u2060"


@cache
def _wordings(split: str) -> dict[str, Any]:
    found = json.loads(WORDINGS.read_text(encoding="utf-8"))
    side = "train" if split == "train" else "heldout"
    names = ("assistants", "user_roles", "smalltalk", "greetings", "tools", "setups", "emoji")
    chosen = {name: split_texts(name, found[name], HOLDOUT, side) for name in names}
    # Too few applications read each kind of content to keep a source's only one back here.
    chosen["setups"] = found["setups"]
    return {**chosen, "padding": found["padding"]}


@cache
def _general_prompts() -> frozenset[str]:
    found = json.loads(WORDINGS.read_text(encoding="utf-8"))
    return frozenset(p["text"] for p in found["assistants"]) | {p for s in found["setups"] for p in s["prompts"]}


def is_risky(record: Record) -> bool:
    """Whether a record has a label other than ``out_of_scope``."""
    return intents.is_risky(record["labels"])


def is_content(record: Record) -> bool:
    """Whether a text came in by a channel other than the user, or may have."""
    source = record["context"].get("source")
    if source is not None or record.get("kind"):
        return source not in (None, "user") or (source is None and record["kind"].startswith("carrier"))
    family = record.get("family", "")
    return family == "content" or (family == "composed_carriers" and "\n" in record["text"])


def _open(record: Record) -> bool:
    """Whether nothing narrow is known of the application."""
    where = record["context"]
    prompt = where.get("system_prompt")
    return not where.get("purpose") and (not prompt or prompt in _general_prompts())


def _setups(record: Record) -> list[Record]:
    source, prompt = record["context"].get("source"), record["context"].get("system_prompt")
    found = [s for s in _wordings(record.get("split", "train"))["setups"] if source in s["sources"]]
    if prompt:
        return [s for s in found if prompt in s["prompts"]]
    return [s for s in found if s["kinds"] is None]


def can_attach(record: Record, field: str) -> bool:
    """Whether a field may be added without a change of meaning."""
    where = record["context"]
    if where.get(field):
        return False
    if field == "source":
        return not is_content(record) and len(record["text"]) < 600 and "\n\n" not in record["text"]
    if field == "system_prompt" and (where.get("user_role") or where.get("tools")):
        return False
    if field == "history" and not is_content(record):
        return _open(record) or record.get("lang", "en") == "en"
    return _open(record) and (bool(_setups(record)) if is_content(record) else True)


def attach_field(record: Record, field: str, rng: random.Random) -> Record:
    """A copy of a record with one more context field; the record itself if it can't have it."""
    if not can_attach(record, field):
        return record
    words = _wordings(record.get("split", "train"))
    value: Any
    if field == "source":
        value = "user"
    elif is_content(record):
        setup = rng.choice(_setups(record))
        call = rng.choice(setup["calls"])
        turns = [{"role": "user", "content": call["ask"]}, {"role": "assistant", "content": call["call"]}]
        roles = [r for r in setup["roles"] if r] or ["user"]
        value = {
            "system_prompt": rng.choice(setup["prompts"]), "user_role": rng.choice(roles),
            "history": turns[: rng.choice((1, 2))], "tools": setup["tools"],
        }[field]  # fmt: skip
    elif field == "history":
        pool = words["smalltalk"] if _open(record) else words["greetings"]
        turns = rng.sample(pool, min(rng.choice((1, 1, 2, 3)) if _open(record) else 1, len(pool)))
        value = [{"role": r, "content": t} for a in turns for r, t in zip(("user", "assistant"), a, strict=True)]
    elif field == "system_prompt":
        prompts = words["assistants"]
        same = [p for p in prompts if p["lang"] == record.get("lang", "en")]
        value = rng.choice(same if same and rng.random() < 0.7 else prompts)["text"]
    else:
        value = rng.choice(words["user_roles" if field == "user_role" else field])
    return {**record, "context": {**record["context"], field: value}}


def attach_context(record: Record, rng: random.Random) -> Record:
    """Give a record some of the context that applications send along with any text.

    A text a user may have typed gets a general-purpose assistant; a content gets an application that
    reads contents of its kind. Applications with a narrow purpose are never attached.

    Args:
        record: a record; returned as it is if its context says what it is about.
        rng: source of the choices.

    Returns:
        A copy with more context, or the record.
    """
    for field, share in zip(FIELDS, (0.8, 0.5, 0.3, 0.35, 0.8), strict=True):
        if rng.random() < share:
            record = attach_field(record, field, rng)
    return record


def can_drop(record: Record, field: str) -> bool:
    """Whether a field may be taken away without a change of meaning."""
    where = record["context"]
    if not where.get(field) or "out_of_scope" in record["labels"]:
        return False
    free = not record["labels"] or CONTEXT_FREE >= set(record["labels"])
    if field == "source":
        return bool(where["source"] == "user")
    if field == "tools":
        return free or _open(record)
    if field == "history":
        return is_content(record) and free
    if field == "user_role":
        return _open(record) or is_content(record)
    return _open(record) or (is_content(record) and "prompt_injection" in record["labels"])


def drop_field(record: Record, field: str) -> Record:
    """A copy of a record without one context field; the record itself if the label may rest on it."""
    if not can_drop(record, field):
        return record
    empty: Any = [] if field in ("history", "tools") else None
    return {**record, "context": {**record["context"], field: empty}}


def drop_context(record: Record, rng: random.Random) -> Record:
    """Take some context away, as applications do that send little of it.

    Args:
        record: a record.
        rng: source of the choices.

    Returns:
        A copy with less context, or the record where every field may matter.
    """
    for field in FIELDS:
        if rng.random() < 0.4:
            record = drop_field(record, field)
    return record


@cache
def _rewordings() -> dict[str, list[str]]:
    return {row["prompt"]: row["rewordings"] for row in _rows("written_rewordings.jsonl")}


@cache
def asides(split: str) -> tuple[str, ...]:
    """Paragraphs that operators put into system prompts and that no verdict turns on, of one side of the split."""
    side = "train" if split == "train" else "heldout"
    return tuple(r["text"] for r in split_texts("asides", _rows("written_asides.jsonl"), HOLDOUT, side))


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WORDINGS.parent / name).read_text(encoding="utf-8").splitlines()]


def add_aside(prompt: str, aside: str, rng: random.Random) -> str:
    """A system prompt with a paragraph that does not matter, before, between or behind its own."""
    parts = prompt.split("\n\n")
    parts.insert(rng.randrange(len(parts) + 1), aside)
    return "\n\n".join(parts)


def reworded(record: Record, rng: random.Random, count: int = 2) -> list[Record]:
    """Further contexts in which a text means the same: the verdict must not move with them.

    Args:
        record: a record.
        rng: source of the choices.
        count: how many contexts.

    Returns:
        Contexts with the system prompt said in other words, set out otherwise, or with a paragraph that does not
        matter; where there is no system prompt, with the context of a general assistant or of a reader of contents.
    """
    where = record["context"]
    prompt = where.get("system_prompt")
    found = []
    for _ in range(count):
        if not prompt:
            found.append(attach_context(record, rng)["context"] if "out_of_scope" not in record["labels"] else where)
            continue
        said = rng.choice([prompt, *_rewordings().get(prompt, ())])
        if rng.random() < 0.25:
            said = _set_out(said, rng)
        if said == prompt or rng.random() < 0.5:
            said = add_aside(said, rng.choice(asides(record.get("split", "train"))), rng)
        found.append({**where, "system_prompt": said})
    return found


def _set_out(prompt: str, rng: random.Random) -> str:
    """The same sentences as a list, as one paragraph, between tags or under a heading."""
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", prompt) if s.strip()]
    form = rng.randrange(4)
    if form == 0:
        return "\n".join(f"- {s}" for s in sentences)
    if form == 1:
        return " ".join(sentences)
    if form == 2:
        return f"<instructions>\n{prompt}\n</instructions>"
    return rng.choice(("# Role\n", "## Instructions\n\n", "SYSTEM PROMPT\n", "You follow this briefing.\n")) + prompt


def swapped(records: Iterable[Record], count: int, rng: random.Random) -> Iterator[Record]:
    """Texts in contexts they were not written for, unlabelled: a teacher says what it makes of them.

    Args:
        records: where texts and contexts come from.
        count: how many to make.
        rng: source of the choices.

    Yields:
        Records of family ``swapped`` whose labels are None. Channels stay what they were.
    """
    rows = [r for r in records if len(r["text"]) < 1500]
    contexts: dict[str | None, list[Record]] = defaultdict(list)
    for row in rows:
        if row["context"].get("system_prompt"):
            contexts[row["context"].get("source")].append(row["context"])
    for number, row in enumerate(rng.choices(rows, k=count)):
        found = contexts[row["context"].get("source")]
        if found:
            yield {
                **row, "id": f"swapped/{number}", "context": rng.choice(found), "labels": None, "spans": None,
                "pair_id": None, "family": "swapped",
            }  # fmt: skip


def equalise(records: Iterable[Record], rng: random.Random) -> list[Record]:
    """Make each context field about as frequent with risky records as with the others.

    Fields are attached on the side that has fewer of them; where too few records can take one, they are
    dropped on the other side. Records that share their text but not their labels are left alone, as
    their contexts decide.

    Args:
        records: the mix.
        rng: source of the choices.

    Returns:
        The mix in the same order, some records with more or less context.
    """
    rows = list(records)
    labels = defaultdict(set)
    for row in rows:
        labels[row["text"]].add(tuple(sorted(row["labels"])))
    free = [i for i, row in enumerate(rows) if len(labels[row["text"]]) == 1]
    sides = {risky: [i for i, row in enumerate(rows) if is_risky(row) is risky] for risky in (True, False)}
    if not sides[True] or not sides[False]:
        return rows
    for _ in range(2):
        for field in FIELDS:
            _equalise_field(rows, sides, set(free), field, rng)
    return rows


def _equalise_field(
    rows: list[Record], sides: dict[bool, list[int]], free: set[int], field: str, rng: random.Random
) -> None:
    def share(risky: bool) -> float:
        return sum(bool(rows[i]["context"].get(field)) for i in sides[risky]) / len(sides[risky])

    poor = share(True) < share(False)
    missing = round((share(not poor) - share(poor)) * len(sides[poor]))
    able = [i for i in sides[poor] if i in free and can_attach(rows[i], field)]
    for i in rng.sample(able, min(missing, len(able))):
        rows[i] = attach_field(rows[i], field, rng)
    surplus = round((share(not poor) - share(poor)) * len(sides[not poor]))
    able = [i for i in sides[not poor] if i in free and can_drop(rows[i], field)]
    for i in rng.sample(able, max(0, min(surplus, len(able)))):
        rows[i] = drop_field(rows[i], field)


def _zero_width(text: str, rng: random.Random) -> str:
    return "".join(c + (rng.choice(ZERO_WIDTH) if c.isalpha() and rng.random() < 0.25 else "") for c in text)


def _homoglyphs(text: str, rng: random.Random) -> str:
    return "".join(c.translate(HOMOGLYPHS) if rng.random() < 0.4 else c for c in text)


def _leet(text: str, rng: random.Random) -> str:
    share = rng.choice((0.4, 0.7, 1.0))
    return "".join(c.translate(LEET) if rng.random() < share else c for c in text)


def _spaced(text: str, rng: random.Random) -> str:
    mark = rng.choice((" ", ".", "-", "_"))
    return re.sub(r"[^\W\d_]{3,}", lambda m: mark.join(m[0]) if rng.random() < 0.6 else m[0], text)


def _typos(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) > 4 and rng.random() < 0.25:
            at = rng.randrange(1, len(word) - 2)
            swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            words[i] = rng.choice((swapped, word[:at] + word[at + 1 :], word[:at] + word[at] * 2 + word[at + 1 :]))
    return " ".join(words)


def _casing(text: str, rng: random.Random) -> str:
    style = rng.randrange(3)
    if style == 2:
        return "".join(c.upper() if rng.random() < 0.5 else c.lower() for c in text)
    return text.upper() if style else text.lower()


def _emoji(text: str, rng: random.Random) -> str:
    marks = _wordings("train")["emoji"]
    return " ".join(w + (" " + rng.choice(marks) if rng.random() < 0.15 else "") for w in text.split(" "))


def _base64(text: str, rng: random.Random) -> str:
    code = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return str(rng.choice(_wordings("train")["padding"]["decode"])).replace("{b}", code)


def _padding(text: str, rng: random.Random) -> str:
    pads = _wordings("train")["padding"]
    before, after = rng.choice(pads["before"]), rng.choice(pads["after"])
    gap = rng.choice((" ", "\n\n"))
    return str(rng.choice((before + gap + text, text + gap + after, before + gap + text + gap + after)))


CHARACTER_TREATMENTS: tuple[Callable[[str, random.Random], str], ...] = (
    _zero_width, _homoglyphs, _leet, _spaced, _typos, _casing
)  # fmt: skip
# The common ones stand twice.
TREATMENTS = (*CHARACTER_TREATMENTS, _typos, _casing, _emoji, _base64, _padding, _padding)
HIDING = frozenset({_zero_width, _homoglyphs, _leet, _spaced, _base64})


def obfuscate(text: str, rng: random.Random) -> str:
    """Write a text in one of the ways that people use to slip past filters, or out of carelessness.

    Args:
        text: what to write; its meaning stays.
        rng: source of the choices.

    Returns:
        The text with invisible characters, look-alikes, digits for letters, spaced letters, typos, other
        casing, emoji, in Base64 with the request to decode and follow it, or between harmless sentences.
    """
    return rng.choice(TREATMENTS)(text, rng)


def obfuscated_copies(records: Iterable[Record], rng: random.Random, share: float = 0.04) -> Iterator[Record]:
    """Copies of some records with another surface: as many harmless ones as risky ones.

    Args:
        records: the mix; long texts are only treated where their spans are known.
        rng: source of the choices.
        share: share of the risky records to copy.

    Yields:
        Copies with new ids. A harmful ask hidden from filters is a jailbreak besides.
    """
    rows = [r for r in records if _treatable(r)]
    risky, harmless = [r for r in rows if is_risky(r)], [r for r in rows if not is_risky(r)]
    count = min(round(share * len(risky)), len(harmless))
    for row in [*rng.sample(risky, count), *rng.sample(harmless, count)]:
        yield _treat(row, rng)


def _treatable(record: Record) -> bool:
    ranges = {(s[0], s[1]) for s in record.get("spans") or ()}
    if is_content(record):
        return not is_risky(record) or len(ranges) == 1
    return len(record["text"]) < 500


def _passage(record: Record, rng: random.Random) -> tuple[int, int]:
    """What to treat where no span says it: a sentence of a content, all of a message."""
    sentences = list(re.finditer(r"[^\W\d_][^.!?\n<>{}]{25,220}", record["text"])) if is_content(record) else []
    return rng.choice(sentences).span() if sentences else (0, len(record["text"]))


def _treat(record: Record, rng: random.Random) -> Record:
    text, labels = record["text"], list(record["labels"])
    ranges = {(s[0], s[1]) for s in record.get("spans") or ()}
    start, end = next(iter(ranges)) if len(ranges) == 1 else _passage(record, rng)
    partial = is_content(record) or (start, end) != (0, len(text))
    treatment = rng.choice(CHARACTER_TREATMENTS if partial else TREATMENTS)
    new = treatment(text[start:end], rng)
    if "harmful_content" in labels and "jailbreak" not in labels and treatment in HIDING and not partial:
        labels = [*labels, "jailbreak"]  # the span of the harmful ask is the jailbreak's, too
    spans = record.get("spans")
    if ranges:
        shift = new.find(text[start:end]) if treatment is _padding else 0
        length = end - start if treatment is _padding else len(new)
        spans = [[start + shift, start + shift + length, *span[2:]] for span in record["spans"]]
    return {
        **record, "id": f"{record['id']}-o", "text": text[:start] + new + text[end:], "labels": labels, "spans": spans
    }  # fmt: skip
