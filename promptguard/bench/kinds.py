"""Kinds of data, for a comparison of detectors: what each catches, and what it flags in vain.

One pooled figure hides what a detector is made for. The kinds of ``KINDS`` keep apart attacks by whom they come
from and where they stand, and harmless texts by how much they look like attacks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from promptguard.bench.columns import columns_of
from promptguard.bench.groups import contrasting_groups
from promptguard.bench.quality import evaluate_parts
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored

KINDS: dict[str, str] = {
    "all": "every record",
    "public attacks": "attacks of the public sources",
    "attacks on the model": "injections, jailbreaks and prompt extraction, against every harmless record",
    "trigger words": "harmless prompts in the words of attacks",
    "ordinary traffic": "harmless user messages of other sources, one by one",
    "content": "documents, mails, web pages, code and tool results, attacked and clean",
    "context decides": "records that share their text with one of the other label",
}
"""Kinds, and what is in them. A record may be of several."""

TRIGGER_WORD_SOURCES: tuple[str, ...] = ("hard_negatives", "handmade_hard_negatives", "written_benign", "benign_")
"""What the names of sources of harmless prompts with trigger words start with."""

_CONTENT = frozenset({"tool", "email", "web", "document", "code"})
_ON_THE_MODEL = frozenset({"prompt_injection", "jailbreak", "prompt_extraction"})


def parts_by_kind(records: Sequence[Record], public: Collection[str]) -> dict[str, list[int]]:
    """Where the records of each kind stand.

    Args:
        records: the labelled records.
        public: names of the public sources; those of them that hold attacks get a part each, besides.

    Returns:
        Positions by the names of ``KINDS``, then by ``source: <name>``.
    """
    attack_sources = {r.source_name for r in records if r.risky and r.source_name in public}
    labels: dict[tuple[tuple[str, str] | None, str], set[bool]] = {}
    for record in records:
        labels.setdefault((record.group, record.text), set()).add(record.risky)
    parts: dict[str, list[int]] = {name: [] for name in (*KINDS, *(f"source: {s}" for s in sorted(attack_sources)))}
    for position, record in enumerate(records):
        trigger = record.source_name.startswith(TRIGGER_WORD_SOURCES) and not record.risky
        alone = record.group is None and record.source_name not in attack_sources
        chosen = {
            "all": True,
            "public attacks": record.risky and record.source_name in attack_sources,
            "attacks on the model": not record.risky or not record.labels.isdisjoint(_ON_THE_MODEL),
            "trigger words": trigger,
            "ordinary traffic": not record.risky and not trigger and alone and record.context.source in (None, "user"),
            "content": record.context.source in _CONTENT,
            "context decides": record.group is not None and len(labels[record.group, record.text]) == 2,
            f"source: {record.source_name}": record.source_name in attack_sources,
        }
        for name, is_part in chosen.items():
            if is_part:
                parts[name].append(position)
    return parts


def figures_by_kind(
    records: Sequence[Record],
    scored: Sequence[Scored],
    public: Collection[str],
    *,
    seed: int = 0,
    bootstrap: int = 200,
) -> dict[str, Any]:
    """The figures of every kind, thresholds for equal false alarms set on all harmless records given.

    Where the context decides, one text is harmless here and an attack there: whoever reads texts alone flags both or
    neither. The figures are therefore given once more without those records, in the thresholds, too.

    Args:
        records: the labelled records.
        scored: what was said about each, in the same order.
        public: as in ``parts_by_kind``.
        seed: of the bootstrap.
        bootstrap: number of replicates.

    Returns:
        ``kinds``, by name, what ``evaluate`` gives for a part of the set; ``text_decides``, the same without the
        records of ``context decides``; ``pairs``, the figures of the groups that share one text, and ``twins``, of
        those that differ in a few words.

    Raises:
        InputError: no records, or not one row a record.
    """
    parts = parts_by_kind(records, public)
    kinds = evaluate_parts(records, scored, parts, seed=seed, bootstrap=bootstrap)
    rest = sorted(set(parts["all"]) - set(parts["context decides"]))
    text_decides = {}
    if rest:
        left, said = [records[i] for i in rest], [scored[i] for i in rest]
        text_decides = evaluate_parts(left, said, parts_by_kind(left, public), seed=seed, bootstrap=bootstrap)
    groups = contrasting_groups(records, columns_of(records, scored), seed, bootstrap)["by_kind"]
    return {
        "kinds": kinds,
        "text_decides": text_decides,
        "pairs": groups.get("one text"),
        "twins": groups.get("twin texts"),
    }
