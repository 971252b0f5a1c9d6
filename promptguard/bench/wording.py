"""Whether a verdict survives another wording of the context: the same records, their system prompts said otherwise.

Nothing the changes touch bears on the verdict, so every decision they change is a mistake before or after.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from promptguard.bench.intervals import divide, proportion
from promptguard.bench.records import Record
from promptguard.bench.scoring import Analyzer, Progress, Scored, score
from promptguard.errors import InputError
from promptguard.training.augment import HOLDOUT
from promptguard.training.compose_parts import split_texts

KINDS: Mapping[str, tuple[str, ...]] = {
    "irrelevant paragraph": ("paragraph before", "paragraph within", "paragraph behind"),
    "set out otherwise": ("bullets", "one paragraph", "tags"),
    "rephrased": ("rephrased",),
}
"""Changes, by what they do; ``within`` is at the paragraph or sentence nearest the middle."""

_BREAK = re.compile(r"\n{2,}")
_SENTENCE = re.compile(r"(?<=[^\d\s][.!?])\s+|\n+")  # the dot of "2." ends none
_MARK = re.compile(r"^(?:[-*•#]+|\d+[.)])\s+")


def read_asides(path: Path) -> dict[str, list[str]]:
    """Read the paragraphs that no verdict turns on, and of them those the trainer does not use.

    Args:
        path: JSON Lines of ``text`` and ``lang``.

    Returns:
        The paragraphs, by language.

    Raises:
        InputError: the file cannot be read as such.
    """
    found: dict[str, list[str]] = {}
    for row in split_texts("asides", _rows(path, ("text", "lang")), HOLDOUT, "heldout"):
        found.setdefault(row["lang"], []).append(row["text"])
    return found


def read_rewordings(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Read the table of rephrased system prompts.

    Args:
        paths: files of JSON Lines of ``prompt`` and ``rewordings``, a list.

    Returns:
        What each prompt can be rephrased as.

    Raises:
        InputError: a file cannot be read as such.
    """
    return {row["prompt"]: row["rewordings"] for path in paths for row in _rows(path, ("prompt", "rewordings"))}


def _rows(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as problem:
        raise InputError(f"{path} cannot be read as JSON Lines ({type(problem).__name__})") from None
    if not all(isinstance(row, dict) and set(names) <= set(row) for row in rows):
        raise InputError(f"{path} needs {' and '.join(names)} in every row")
    return rows


def changes(
    record: Record, asides: Mapping[str, Sequence[str]], rewordings: Mapping[str, Sequence[str]], seed: int = 0
) -> list[tuple[str, Record]]:
    """Say a record's system prompt otherwise.

    Args:
        record: a record.
        asides: irrelevant paragraphs, by language; one is drawn for the record, an English one where its own
            language has none.
        rewordings: rephrased prompts, by prompt.
        seed: of the draw.

    Returns:
        The name of each change and the record after it; none without a system prompt, and none that leaves the
        prompt as it is.
    """
    prompt = record.context.system_prompt
    if not prompt or not prompt.strip():
        return []
    said: list[tuple[str, str]] = []
    usable = asides.get(record.lang or "en") or asides.get("en") or ()
    if usable:
        aside = random.Random(f"{seed}/{record.source_name}/{record.id}").choice(usable)  # noqa: S311 - a sample
        before, behind = _halves(prompt)
        within = "\n\n".join(part for part in (before, aside, behind) if part)
        placed = (f"{aside}\n\n{prompt}", within, f"{prompt}\n\n{aside}")
        said += zip(KINDS["irrelevant paragraph"], placed, strict=True)
    lines = (_MARK.sub("", line.strip()) for line in prompt.splitlines())
    sentences = [part for line in lines for part in _SENTENCE.split(line) if part]
    forms = ("\n".join(f"* {s}" for s in sentences), " ".join(sentences), f"<briefing>\n{prompt}\n</briefing>")
    said += zip(KINDS["set out otherwise"], forms, strict=True)
    said += (("rephrased", other) for other in rewordings.get(prompt, ()))
    return [
        (name, replace(record, context=replace(record.context, system_prompt=other)))
        for name, other in said
        if other != prompt
    ]


def _halves(prompt: str) -> tuple[str, str]:
    """A prompt in two, between paragraphs if it has several, else between sentences; the second may be empty."""
    for border in (_BREAK, _SENTENCE):
        places = [match for match in border.finditer(prompt) if match.end() < len(prompt)]
        if places:
            middle = min(places, key=lambda match: abs(match.start() + match.end() - len(prompt)))
            return prompt[: middle.start()], prompt[middle.end() :]
    return prompt, ""


def wordings(
    guard: Analyzer,
    records: Sequence[Record],
    asides: Mapping[str, Sequence[str]],
    rewordings: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    bootstrap: int = 200,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Analyse records with a system prompt as they are and after each change, and count what moved.

    Args:
        guard: what is measured.
        records: any records; those without a system prompt are left out.
        asides: as in ``changes``.
        rewordings: as in ``changes``.
        seed: of the paragraphs and of the bootstrap.
        bootstrap: number of replicates, drawn by system prompt.
        progress: called after each batch.

    Returns:
        How many ``records``, of them ``flagged`` as they are, and ``prompts``; ``each`` change, ``kinds`` of changes
        and ``all`` with ``n``, ``prompts``, ``changed`` (share of other decisions), ``flips`` (share that went from
        *allow* to *review* or *block* or back), ``to_flagged``, ``to_allowed`` (how many), ``mean_risk_moved``. A
        failed analysis is another decision, unless it failed before, too.
    """
    chosen = [record for record in records if changes(record, asides, {}, seed)]
    made = [(i, name, other) for i, r in enumerate(chosen) for name, other in changes(r, asides, rewordings, seed)]
    before = score(guard, chosen, progress=progress)
    after = score(guard, [other for _, _, other in made], progress=progress)
    moved = [_Moved(chosen[i], before[i], row, name) for (i, name, _), row in zip(made, after, strict=True)]

    def figures(names: Sequence[str]) -> dict[str, Any]:
        return _figures([one for one in moved if one.name in names], seed, bootstrap)

    return {
        "records": len(chosen),
        "flagged": sum(row.decision != "allow" for row in before),
        "prompts": len({record.context.system_prompt for record in chosen}),
        "each": {name: figures([name]) for names in KINDS.values() for name in names},
        "kinds": {kind: figures(names) for kind, names in KINDS.items()},
        "all": figures([name for names in KINDS.values() for name in names]),
    }


class _Moved:
    """One record before and after one change."""

    def __init__(self, record: Record, before: Scored, after: Scored, name: str) -> None:
        self.name = name
        self.prompt = record.context.system_prompt
        self.changed = before.decision != after.decision
        self.to_flagged = before.decision == "allow" != after.decision
        self.to_allowed = before.decision != "allow" == after.decision
        self.risk_moved = abs(before.risk - after.risk)


def _figures(moved: Sequence[_Moved], seed: int, bootstrap: int) -> dict[str, Any]:
    numbers: dict[str | None, int] = {}
    cluster = np.array([numbers.setdefault(one.prompt, len(numbers)) for one in moved], dtype=np.int64)
    drawn = np.random.default_rng(seed).integers(0, max(1, len(numbers)), (bootstrap, len(numbers)))
    size = np.bincount(cluster, minlength=len(numbers))

    def share(hits: Sequence[bool]) -> dict[str, Any]:
        inside = np.bincount(cluster, weights=np.array(hits, dtype=np.float64), minlength=len(numbers))
        replicates = divide(inside[drawn].sum(axis=1), size[drawn].sum(axis=1)) if moved else np.empty(0)
        return proportion(sum(hits), len(moved), replicates, len(numbers))

    return {
        "n": len(moved),
        "prompts": len(numbers),
        "changed": share([one.changed for one in moved]),
        "flips": share([one.to_flagged or one.to_allowed for one in moved]),
        "to_flagged": sum(one.to_flagged for one in moved),
        "to_allowed": sum(one.to_allowed for one in moved),
        "mean_risk_moved": float(np.mean([one.risk_moved for one in moved])) if moved else None,
    }
