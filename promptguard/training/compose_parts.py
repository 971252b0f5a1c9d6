"""Parts of composed records: loading them, splitting them, and putting one text into another."""

from __future__ import annotations

import hashlib
import html
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]

WORDINGS = Path(__file__).parent / "data" / "compose_wordings.json"
ROLE_ASKS = Path(__file__).parent / "data" / "role_asks.jsonl"
SPLITS = ("train", "heldout")
NO_SPACES = frozenset({"zh", "ja"})


@dataclass
class Parts:
    """Everything that belongs to one split.

    Attributes:
        split: ``train`` or ``heldout``.
        apps: rows of ``apps.jsonl``.
        payloads: attacks.
        twins: harmless neighbours, by the id of their payload.
        carriers: benign contents with slots.
        asks: rows of ``role_asks.jsonl``, by application.
        setups: applications that read content, with the tasks and calls that precede a content.
        wordings: lists of texts, by name; see ``compose_wordings.json``.
    """

    split: str
    apps: list[Record] = field(default_factory=list)
    payloads: list[Record] = field(default_factory=list)
    twins: dict[str, Record] = field(default_factory=dict)
    carriers: list[Record] = field(default_factory=list)
    asks: dict[str, list[Record]] = field(default_factory=dict)
    setups: list[Record] = field(default_factory=list)
    wordings: dict[str, Any] = field(default_factory=dict)


def read_rows(folders: Sequence[Path], name: str) -> list[Record]:
    """Rows of every file called ``name`` or ``written_<name>`` in the folders, sorted by id, ids once."""
    rows: dict[str, Record] = {}
    for folder in folders:
        for path in (folder / name, folder / f"written_{name}"):
            if path.is_file():
                for line in path.read_text(encoding="utf-8").splitlines():
                    row = json.loads(line)
                    rows.setdefault(str(row.get("id") or row.get("app_id")), row)
    return [rows[key] for key in sorted(rows)]


def fraction(*keys: str) -> float:
    """A number in [0, 1) that depends on the keys alone, never on the seed."""
    digest = hashlib.sha256("\x1f".join(keys).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_heldout(kind: str, key: str, holdout: float) -> bool:
    """Whether a whole part is kept out of training."""
    return fraction("split", kind, key) < holdout


def split_texts(kind: str, items: Iterable[Any], holdout: float, split: str) -> list[Any]:
    """The items of a short list that belong to a split; each split gets at least one if there are two."""
    ranked = sorted(items, key=lambda item: fraction("split", kind, json.dumps(item, sort_keys=True)))
    count = min(math.ceil(holdout * len(ranked)), len(ranked) - 1) if holdout else 0
    return ranked[:count] if split == "heldout" else ranked[count:]


def load_parts(folders: Sequence[Path], holdout: float) -> dict[str, Parts]:
    """Load all parts and divide each kind between the splits.

    Args:
        folders: where apps.jsonl, payloads.jsonl, benign_twins.jsonl and carriers.jsonl are looked for.
        holdout: share of each kind of part kept out of training.

    Returns:
        The parts of each split; no part is in both.

    Raises:
        FileNotFoundError: there are neither applications nor carriers in the folders.
    """
    wordings = json.loads(WORDINGS.read_text(encoding="utf-8"))
    asks = read_rows([ROLE_ASKS.parent], ROLE_ASKS.name)
    twins = {row["twin_of"]: row for row in read_rows(folders, "benign_twins.jsonl")}
    rows = {
        "apps": read_rows(folders, "apps.jsonl"),
        "payloads": read_rows(folders, "payloads.jsonl"),
        "carriers": read_rows(folders, "carriers.jsonl"),
    }
    if not rows["apps"] and not rows["carriers"]:
        raise FileNotFoundError("no apps.jsonl or carriers.jsonl in the folders given")
    result = {}
    for split in SPLITS:
        parts = Parts(split)
        for kind, items in rows.items():
            key = "app_id" if kind == "apps" else "id"
            held = [r for r in items if is_heldout(kind, r[key], holdout) == (split == "heldout")]
            setattr(parts, kind, held)
        parts.twins = {p["id"]: twins[p["id"]] for p in parts.payloads if p["id"] in twins}
        for app in parts.apps:
            parts.asks[app["app_id"]] = [a for a in asks if a["app_id"] == app["app_id"]]
        parts.setups = _split_setups(wordings["setups"], holdout, split)
        parts.wordings = {
            name: split_texts(name, value, holdout, split) if isinstance(value, list) else value
            for name, value in wordings.items()
            if name not in ("setups", "assumptions", "portable_asks")
        }
        parts.wordings["portable_asks"] = wordings["portable_asks"]
        parts.wordings["assumptions"] = {
            key: split_texts("assumptions", value, holdout, split) for key, value in wordings["assumptions"].items()
        }
        result[split] = parts
    return result


def _split_setups(setups: list[Record], holdout: float, split: str) -> list[Record]:
    by_source: dict[str, list[Record]] = {}
    for setup in setups:
        by_source.setdefault(setup["sources"][0], []).append(setup)
    return [s for source in sorted(by_source) for s in split_texts("setups", by_source[source], holdout, split)]


def fits(carrier: Record, item: Record) -> bool:
    """Whether a payload or twin can stand in a carrier: channel, language, line breaks, escaping."""
    if carrier["source"] not in item["channel_fit"] or item["lang"] not in (carrier["lang"], "en"):
        return False
    if (carrier["single_line"] or carrier["escape"] == "csv") and "\n" in item["text"]:
        return False
    return not (carrier["escape"] == "xml" and "--" in item["text"])


def insert(carrier: Record, slot: int, text: str) -> tuple[str, int, int]:
    """Put a text into a slot of a carrier.

    Args:
        carrier: a row of ``carriers.jsonl``.
        slot: index of the slot.
        text: what to insert.

    Returns:
        The whole, and where in it the inserted text stands.
    """
    body, at = carrier["text"], carrier["slots"][slot]
    before, after = body[:at], body[at:]
    text = _escape(text, carrier["escape"])
    loose = carrier["slot_kinds"][slot] == "line" or "\n" in text
    # After a signature or another line without a full stop, a sentence starts a line of its own.
    unfinished = bool(before) and (before[-1].isalnum()) and not carrier["single_line"] and carrier["escape"] is None
    if loose or unfinished:
        lead = "" if not before or before.endswith("\n") else "\n"
        tail = "" if not after or after.startswith("\n") else "\n"
    else:
        gap = "" if carrier["lang"] in NO_SPACES else " "
        lead = "" if not before or before[-1].isspace() or before[-1] in "\"'(>" else gap
        tail = gap if after and (after[0].isalnum() or after[0] in "(\"'") and carrier["escape"] is None else ""
    start = len(before) + len(lead)
    return before + lead + text + tail + after, start, start + len(text)


def _escape(text: str, escape: str | None) -> str:
    if escape == "json":
        return json.dumps(text, ensure_ascii=False)[1:-1]
    if escape == "xml":
        return html.escape(text, quote=True)
    if escape == "csv":
        return text.replace('"', '""')
    return text


def context(**fields: Any) -> Record:
    """A context with all its fields."""
    empty: Record = {
        "system_prompt": None, "source": None, "user_role": None, "history": [], "tools": [], "purpose": None
    }  # fmt: skip
    return {**empty, **fields}


def record(
    text: str,
    where: Record,
    labels: Sequence[str],
    *,
    split: str,
    family: str,
    kind: str,
    template: str,
    group: str,
    span: tuple[int, int] | None = None,
    lang: str = "en",
    license: str = "CC0-1.0",
) -> Record:
    """A labelled record as the taxonomy has it.

    Args:
        text: the text under analysis.
        where: its context.
        labels: intents; empty is benign.
        split: ``train`` or ``heldout``.
        family: ``carriers`` or ``apps``: what the trainer samples by.
        kind: finer than the family, for tables.
        template: the parts the record is made of.
        group: what the records of a pair have in common.
        span: where the attack stands; None means that it is not known.
        lang: language code.
        license: of the part that is not ours, if there is one.
    """
    where = json.loads(json.dumps(where))
    key = json.dumps([text, where, sorted(labels), kind], sort_keys=True, ensure_ascii=False)
    spans = [[*span, label] for label in labels] if span else ([] if not labels else None)
    return {
        "id": "cmp-" + hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:16],
        "text": text,
        "context": where,
        "labels": list(labels),
        "spans": spans,
        "pair_id": "cmp-" + hashlib.sha256(group.encode("utf-8", "replace")).hexdigest()[:16],
        "origin": "promptguard-composed",
        "license": license,
        "lang": lang,
        "family": family,
        "kind": kind,
        "template": template,
        "split": split,
    }


def rate(rng: random.Random, share: float) -> bool:
    """True in a share of the cases."""
    return rng.random() < share
