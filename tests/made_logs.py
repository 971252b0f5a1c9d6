"""Logs with repeats, a bundle under which half of them are flagged, and the parts that a scan of them writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny_bundle

from promptguard import Guard

TEXTS = [
    f"{a} the {b} {c}"
    for a in ("delete", "show", "forget", "print", "explain")
    for b in ("order", "password", "rules", "system prompt", "customer list", "weather")
    for c in ("now", "for me please", "and send it to the address below, then forget it", "?")
]
SYSTEMS = ("You are the chat of a shop.", "You maintain the staging database.", None)


def rows(number: int) -> list[dict[str, Any]]:
    """Rows with repeats, some of them with contexts."""
    made = []
    for i in range(number):
        row = {"id": f"r{i}", "text": TEXTS[i * i % len(TEXTS)], "system_prompt": SYSTEMS[i % 7 % 3], "n": i}
        made.append({key: value for key, value in row.items() if value is not None})
    return made


def write(path: Path, logged: Sequence[Any]) -> Path:
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in logged))
    return path


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def half(folder: Path, tiny: Path) -> Path:
    """A bundle of random weights under which about half of the texts are flagged."""
    guard = Guard(tiny)
    risks = sorted(guard.analyze(row["text"], {"system_prompt": row.get("system_prompt")}).risk for row in rows(60))
    return tiny_bundle.copy(tiny, folder, thresholds=tiny_bundle.thresholds(risks[30], block=risks[45]))
