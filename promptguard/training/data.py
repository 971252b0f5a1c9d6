"""Training records: public sources and ours, cleaned, split by source and application, near-duplicates out.

Three splits. *train* fits the weights. *calibration* chooses everything else: probabilities,
thresholds, the number of steps. *report* is looked at last. No public source, application or composed
part stands in more than one of them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from promptguard.errors import RecordError
from promptguard.intents import INTENTS
from promptguard.training.augment import equalise, obfuscated_copies
from promptguard.training.compose import compose, dialogue_records

Record = dict[str, Any]

OURS = Path(__file__).parent / "data"
"""Records written by this project, CC0."""

SPLITS = ("train", "calibration", "report")

CALIBRATION_SOURCES = frozenset(
    "ai_ethical_hacker nullsec giskard garak strongreject ko_multiturn finagent promptwl self_reminder "
    "banking77 sysadmin_devops sgd_tool_results code_asks rasa_financial prompt_libraries "
    "chatterbot llm_security_docs".split()
)
"""Public sources kept out of training to calibrate on."""

REPORT_SOURCES = frozenset(
    "bastioncorpus deepset harmbench agent_injection_bench email_agent_injection supersafe hinglish deepinception "
    "hwu64 metatool abcd recipes enron_sentences gsm8k awesome_prompts policies_guides disfl_qa".split()
)
"""Public sources kept out of training and of every decision."""

NEIGHBOURS = frozenset({"coconot_contrast"})
"""Harmless questions in the words of harmful ones, drawn with our own of that kind: a model trained without them
takes "how can I" for the mark of a harmful ask."""

LEFT_OUT = frozenset({"sms_scam"})
"""Labels scams on people, which the taxonomy calls benign content."""

PARTS = frozenset(
    "apps written_payloads written_carriers written_benign_twins written_asides written_rewordings".split()
)
"""Files of ours that hold no records but what records are made of."""

CAPS = {
    # The taxonomy's own traps: one template or one ask many times over.
    "multijail": 900,
    "red_instruct": 700,
    "aisafetylab": 700,
    "spikee": 700,
    "slabs": 700,
    "asb": 420,
    "bipia_train": 1100,
    "overthink": 190,
    "prompt_extraction_zhang": 450,
    "home_assistant_multi": 350,
    "xsid": 450,
    "tldr_pages": 450,
    "zh_prompts": 450,
    "gpt_system_prompts": 800,
    "clinc150": 1500,
    "sgd_dialogue": 1400,
    "bfcl_tools": 1000,
    "taskmaster4": 400,
    "polyai_nlupp_restaurant": 350,
    "gpteacher": 1100,
    "p3_selfinstruct": 900,
    "xquad": 700,
    "nq_open": 500,
    "cyberseceval_frr": 600,
    "handmade_hard_negatives": 500,
    "software_docs_code": 600,
    "owasp_docs": 600,
    "github_webhook_json": 120,
    "bbh": 300,
    "spider_sql": 450,
}
"""Most records taken of a public source; the others give at most 800."""

BALANCED = frozenset({"bipia_train", "overthink", "asb"})
"""Sources whose carriers mostly hold an attack: as many clean records as attacked ones are kept."""


def read_jsonl(path: Path) -> Iterator[Record]:
    """Yield the rows of a JSON Lines file.

    Args:
        path: the file, in UTF-8.

    Yields:
        Its rows, in order.

    Raises:
        RecordError: a row is not a JSON object, its text is no string, or it names an unknown intent.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:  # bytes that are not UTF-8 included
                raise RecordError("not a JSON object", file=str(path), line=number) from error
            if not isinstance(row, dict):
                raise RecordError("not a JSON object", file=str(path), line=number)
            if not isinstance(row.get("text", ""), str):
                raise RecordError("not a string", file=str(path), line=number, field="text")
            if set(row.get("labels") or ()) - set(INTENTS):
                raise RecordError("unknown intent", file=str(path), line=number, field="labels")
            yield row


def public_records(folder: Path, rng: random.Random) -> Iterator[Record]:
    """Records of the public sources in ``attacks/`` and ``benign/``, capped and balanced."""
    # Labels that confident learning (Northcutt et al. 2021) doubted and a reader found wrong.
    dropped = {row["id"] for row in read_jsonl(OURS / "label_review.jsonl")}
    for kind in ("attacks", "benign"):
        for path in sorted((folder / kind).glob("*.jsonl")):
            if path.stem in LEFT_OUT:
                continue
            rows = list(read_jsonl(path))
            rng.shuffle(rows)
            if path.stem in BALANCED:
                clean = [r for r in rows if not r["labels"]]
                rows = clean + [r for r in rows if r["labels"]][: int(len(clean) * 1.1)]
            for row in (r for r in rows[: CAPS.get(path.stem, 800)] if f"{path.stem}/{r['id']}" not in dropped):
                family = "neighbours" if path.stem in NEIGHBOURS else kind
                yield _tidy(row, source=path.stem, family=family, split=_public_split(path.stem))


def public_payloads(records: Iterable[Record]) -> Iterator[Record]:
    """Attacks on instructions that users typed, from training sources, to be placed in content besides."""
    for record in records:
        text, where = record["text"], record["context"]
        if record["split"] == "train" and "prompt_injection" in record["labels"] and "\n" not in text:
            if 15 <= len(text) <= 260 and where.get("source") in (None, "user") and not where.get("history"):
                yield {
                    "id": record["id"], "text": text, "labels": record["labels"], "lang": record["lang"],
                    "channel_fit": ["document", "web", "email", "tool"], "assumes": None,
                    "license": record["license"],
                }  # fmt: skip


def own_records(folder: Path, seed: int, payloads: Iterable[Record] = ()) -> Iterator[Record]:
    """Records this project wrote or composes from its parts, and from further payloads."""
    written: list[Record] = []
    for path in [*sorted((folder / "context").glob("*.jsonl")), *sorted(folder.glob("written_*.jsonl"))]:
        if path.stem in PARTS:
            continue
        rows = list(dialogue_records(path)) if "dialogues" in path.stem else list(read_jsonl(path))
        written += [_tidy(row, source=path.stem, family=_family(path.stem), split="") for row in rows]
    yield from _split_by_application(written)
    yield from obfuscated_copies([r for r in written if r["split"] == "train"], random.Random(seed))  # noqa: S311
    folders = [folder / "context", folder / "parts", folder]
    for row in compose(folders, seed=seed, holdout=0.15, payloads=payloads):
        held_out = ("calibration", "report")[_hash(row["template"].split("|")[0]) % 2]
        split = "train" if row["split"] == "train" else held_out
        yield _tidy(row, source="composed", family="composed_" + row.get("family", "apps"), split=split)


def _public_split(source: str) -> str:
    if source in CALIBRATION_SOURCES:
        return "calibration"
    return "report" if source in REPORT_SOURCES else "train"


def _family(source: str) -> str:
    """What a file of ours is sampled as: see ``train.SHARES``."""
    if any(word in source for word in ("hard_negatives", "everyday", "benign", "twins", "harmful", "longprompts")):
        return "neighbours"
    if source == "tool_results" or "content" in source:
        return "content"
    return "contextual"


def _tidy(row: Record, *, source: str, family: str, split: str) -> Record:
    """One shape for every source: only the fields the trainer reads, contexts without nulls."""
    context = {k: v for k, v in (row.get("context") or {}).items() if v not in (None, "", [])}
    for field in ("application", "actor", "session"):
        context.pop(field, None)
    # Some converters put a role or content of another type; the reader of the product would refuse it.
    if "history" in context:
        context["history"] = [
            {"role": str(m.get("role") or "user"), "content": str(m.get("content") or "")} for m in context["history"]
        ]
    if "tools" in context:
        context["tools"] = [
            {"name": str(t.get("name") or ""), "description": str(t.get("description") or "")} for t in context["tools"]
        ]
    return {
        "id": f"{source}/{row['id']}",
        "text": row["text"],
        "context": context,
        "labels": list(row["labels"]),
        "spans": [[int(s[0]), int(s[1])] for s in row["spans"]] if row.get("spans") is not None else None,
        "pair_id": f"{source}/{row['pair_id']}" if row.get("pair_id") else None,
        "source": source,
        "family": family,
        "split": split,
        "lang": row.get("lang") or "und",
        "license": row.get("license") or "",
        "kind": row.get("kind"),
        "factor": row.get("factor"),
    }


def _hash(key: str) -> int:
    """A number that depends on the key alone, the same in every process."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "replace")).digest()[:4], "big")


def _split_by_application(records: list[Record]) -> list[Record]:
    """Records linked by a pair or by an identical system prompt fall into one split."""
    parent = list(range(len(records)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[str, int] = {}
    for i, record in enumerate(records):
        system = record["context"].get("system_prompt")
        for key in (record["pair_id"] and "p" + record["pair_id"], system and len(system) > 20 and "s" + system):
            if key:
                parent[root(i)] = root(seen.setdefault(key, i))
    for i, record in enumerate(records):
        draw = _hash(records[root(i)]["id"]) % 100
        record["split"] = "train" if draw < 80 else "calibration" if draw < 90 else "report"
    return records


def drop_near_duplicates(records: list[Record], threshold: float = 0.6) -> tuple[list[Record], int]:
    """Remove training records whose text nearly occurs in the calibration or report split.

    MinHash over 4-word shingles (Broder 1997). Records that must share a text (groups) are in one
    split by construction, so only strangers are compared.

    Args:
        records: all records, splits assigned.
        threshold: Jaccard similarity of the shingles, in (0, 1], from which two texts are the same.

    Returns:
        What stays, and how many were removed.
    """
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        words = text.lower().split()[:400]
        grams = {" ".join(words[i : i + 4]) for i in range(max(1, len(words) - 3))}
        minhash = MinHash(num_perm=32, seed=1)
        minhash.update_batch([g.encode("utf-8", "replace") for g in grams])
        return minhash

    index = MinHashLSH(threshold=threshold, num_perm=32)
    for number, record in enumerate(r for r in records if r["split"] != "train"):
        index.insert(number, sketch(record["text"]))
    kept = [r for r in records if r["split"] != "train" or not index.query(sketch(r["text"]))]
    return kept, len(records) - len(kept)


def build(public: Path, *, seed: int = 7) -> tuple[list[Record], dict[str, Any]]:
    """All records, and a manifest of what they are.

    Args:
        public: folder with ``attacks/`` and ``benign/`` (see ``docs/data.md``).
        seed: fixes every choice.

    Returns:
        The records, and counts, licences and a hash of each split.

    Raises:
        RecordError: a row of a file cannot be read.
    """
    rng = random.Random(seed)  # noqa: S311 (not for security)
    records = list(public_records(public, rng))
    records += own_records(OURS, seed, public_payloads(records))
    records = _without_conflicts(records)
    records = _without_known_applications(records)
    records, removed = drop_near_duplicates(records)
    kept = [r for r in records if r["split"] != "train"]
    records = kept + equalise([r for r in records if r["split"] == "train"], rng)
    manifest: dict[str, Any] = {"seed": seed, "near_duplicates_removed": removed, "splits": {}}
    for split in SPLITS:
        rows = [r for r in records if r["split"] == split]
        digest = hashlib.sha256("\n".join(json.dumps(r, sort_keys=True) for r in rows).encode()).hexdigest()
        manifest["splits"][split] = {
            "records": len(rows),
            "sha256": digest,
            "sources": dict(Counter(r["source"] for r in rows)),
            "licences": dict(Counter(r["license"] for r in rows)),
        }
    return records, manifest


def _without_conflicts(records: Iterable[Record]) -> list[Record]:
    """Of records equal in text and context keep the first; drop all where their labels disagree."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[json.dumps([record["text"].strip().lower(), record["context"]], sort_keys=True)].append(record)
    kept = []
    for group in groups.values():
        if len({bool(set(r["labels"]) - {"out_of_scope"}) for r in group}) == 1:
            kept.append(group[0])
    return kept


def _without_known_applications(records: list[Record]) -> list[Record]:
    """Drop held-out composed records whose application the training split knows from elsewhere."""
    known = {
        r["context"].get("system_prompt") for r in records if r["split"] == "train" and r["family"] == "contextual"
    }
    known.discard(None)
    return [
        r
        for r in records
        if r["split"] == "train" or r["source"] != "composed" or r["context"].get("system_prompt") not in known
    ]
