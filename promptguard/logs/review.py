"""Rows of a scan for a person to label: which ones, in which order, and the records that the answers become.

Two draws. Rows *near* the threshold say most about where it cuts, and are anything but ordinary: what share of them
is harmless says nothing about the traffic. Rows drawn at *random* are the traffic: the false-positive rate is a share
of them alone. Each record says which draw it comes from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from promptguard.bench.records import NEAR, RANDOM, read_records
from promptguard.errors import InputError, MissingExtraError
from promptguard.intents import INTENTS
from promptguard.logs.output import read_manifest
from promptguard.logs.read import read_scan
from promptguard.logs.score import pair_key
from promptguard.policy import MODES
from promptguard.types import Context, Span

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds
except ImportError as error:
    raise MissingExtraError("logs", "reviewing a scan") from error

NEAR_ROWS = 100
"""Rows near the threshold that are drawn unless the caller says otherwise."""
RANDOM_ROWS = 330
"""Rows drawn at random unless the caller says otherwise: 299 harmless ones support a rate of 1 %."""

_SHOWN = ["row", "file", "line", "decision", "risk", "intents", "spans", "text", "context"]
_LEAST_ODDS = 1e-9


@dataclass(frozen=True, slots=True)
class Item:
    """A row to label.

    Attributes:
        id: of the record it becomes: the scan's sources, the row and the draw.
        drawn: ``near`` or ``random``.
        file: name of the file it came from.
        line: its line there, where that is known.
        text: the text.
        context: the context it was analysed in.
        decision: what was said of it.
        risk: the same, at the scan's prior.
        intents: the same.
        spans: the same.
    """

    id: str
    drawn: str
    file: str
    line: int | None
    text: str = field(repr=False)
    context: Context = field(repr=False)
    decision: str
    risk: float
    intents: tuple[str, ...]
    spans: tuple[Span, ...]

    @property
    def pair(self) -> bytes:
        """Equal for rows of the same text in the same context, which one answer serves."""
        return pair_key((self.text, self.context))

    def record(self, labels: Iterable[str], license: str) -> dict[str, Any]:
        """The record of an answer."""
        return {
            "id": self.id,
            "text": self.text,
            "context": {name: value for name, value in asdict(self.context).items() if value},
            "labels": list(labels),
            "pair_id": None,
            "origin": self.file if self.line is None else f"{self.file}:{self.line}",
            "license": license,
            "lang": "und",
            "drawn": self.drawn,
        }


@dataclass(frozen=True, slots=True)
class Draw:
    """The rows of a scan that are to be labelled.

    Attributes:
        items: in order, near and random ones by turns.
        threshold: the risk they are near to.
        mode: whose threshold that is.
    """

    items: tuple[Item, ...]
    threshold: float
    mode: str


def draw(folder: Path | str, *, near: int = NEAR_ROWS, random: int = RANDOM_ROWS, mode: str | None = None) -> Draw:
    """Choose the rows of a scan that are to be labelled; the same scan gives the same ones.

    Args:
        folder: what ``scan`` wrote with ``copy_text``.
        near: rows whose risk is nearest the threshold, on both sides, in log-odds; each text once.
        random: rows drawn from all that have a verdict, each row as likely as any other, whatever its risk and
            however often its text occurs. A larger draw begins with the smaller one.
        mode: whose threshold; None for the scan's own.

    Returns:
        The rows.

    Raises:
        InputError: there is no finished scan, it did not copy the texts, or an argument is unusable.
    """
    if near < 0 or random < 0 or near + random == 0:
        raise InputError("near and random must be whole numbers, one of them above 0")
    manifest, dataset = read_manifest(folder), read_scan(folder)
    mode = manifest["mode"] if mode is None else mode
    if mode not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}")
    if not manifest["copy_text"]:
        raise InputError(f"the scan in {folder} holds no texts: scan again with --copy-text")
    threshold = float(manifest["thresholds"]["risk"][mode])
    table = dataset.to_table(columns=["row", "risk", "text_hash"], filter=ds.field("status") == "ok")
    row, risk = table["row"].to_numpy(), table["risk"].to_numpy().astype(np.float64)
    at_random = np.random.default_rng(0).permutation(len(row))[:random]
    seen = set(table["text_hash"].take(pa.array(at_random, pa.int64())).to_pylist())
    at_threshold: list[int] = []
    distance = np.abs(_log_odds(risk) - _log_odds(np.array(threshold)))
    for place in np.argsort(distance, kind="stable").tolist():
        if len(at_threshold) >= near:
            break
        text = table["text_hash"][place].as_py()
        if text not in seen:
            seen.add(text)
            at_threshold.append(place)
    chosen = pa.array(row[np.concatenate([np.array(at_threshold, np.int64), at_random])], pa.int64())
    found = {r["row"]: r for r in dataset.to_table(columns=_SHOWN, filter=ds.field("row").isin(chosen)).to_pylist()}
    name = hashlib.sha256(json.dumps(manifest["sources"], sort_keys=True).encode()).hexdigest()[:12]
    near_items, random_items = (
        [_item(found[int(row[place])], name, drawn) for place in places]
        for drawn, places in ((NEAR, at_threshold), (RANDOM, at_random.tolist()))
    )
    by_turns = chain.from_iterable(zip_longest(near_items, random_items))
    return Draw(tuple(item for item in by_turns if item is not None), threshold, mode)


def _log_odds(p: Any) -> Any:
    inside = np.clip(p, _LEAST_ODDS, 1 - _LEAST_ODDS)
    return np.log(inside / (1 - inside))


def _item(row: dict[str, Any], name: str, drawn: str) -> Item:
    return Item(
        id=f"{name}/{row['row']}/{drawn}",
        drawn=drawn,
        file=Path(row["file"]).name,
        line=row["line"],
        text=row["text"],
        context=Context.of(json.loads(row["context"])),
        decision=row["decision"],
        risk=row["risk"],
        intents=tuple(row["intents"]),
        spans=tuple(Span(**span) for span in row["spans"]),
    )


class Review:
    """The answers to a draw, each in the file as soon as it is given.

    A row of a text and context that has been answered gets the same answer when its turn comes, and not before: what
    has been labelled of the random draw is its beginning at any time, and so a random draw, too.

    Args:
        items: the rows, in order.
        labels: a file of records; what it holds already is not asked again.
        license: of the records that are added.

    Raises:
        InputError: the file cannot be one.
        RecordError: it holds something that is no record.
    """

    def __init__(self, items: Iterable[Item], labels: Path, *, license: str = "proprietary") -> None:
        self._labels, self._license = labels, license
        self._known: dict[bytes, tuple[str, ...]] = {}
        done = set()
        if not labels.parent.is_dir() or labels.is_dir():
            raise InputError(f"{labels} is no file in a folder that exists")
        if labels.exists():
            for record in read_records([labels]):
                done.add(record.id)
                self._known[pair_key((record.text, record.context))] = tuple(sorted(record.labels, key=INTENTS.index))
            if labels.stat().st_size and not labels.read_bytes().endswith(b"\n"):
                self._append(b"\n")
        every = tuple(items)
        self.total, self.before = len(every), len({item.id for item in every} & done)
        self._items = [item for item in every if item.id not in done]
        self._skipped: set[bytes] = set()
        self._at = 0
        self._steps: list[tuple[int, int]] = []
        self._follow()

    @property
    def current(self) -> Item | None:
        """The row to label now; None at the end."""
        return self._items[self._at] if self._at < len(self._items) else None

    @property
    def place(self) -> int:
        """Number of the current row among all of the draw, from 1."""
        return self.before + self._at + 1

    @property
    def without_label(self) -> dict[str, int]:
        """Rows of each draw that have been passed over."""
        skipped = [item.drawn for item in self._items[: self._at] if item.pair in self._skipped]
        return {drawn: skipped.count(drawn) for drawn in (NEAR, RANDOM)}

    def label(self, labels: Iterable[str]) -> None:
        """Write the current row's record and go on."""
        item = self._items[self._at]
        self._steps.append((self._at, self._size()))
        self._known[item.pair] = tuple(labels)
        self._write(item)
        self._at += 1
        self._follow()

    def skip(self) -> None:
        """Go on without an answer; the row is asked again next time."""
        self._steps.append((self._at, self._size()))
        self._skipped.add(self._items[self._at].pair)
        self._at += 1
        self._follow()

    def back(self) -> bool:
        """Take back the last answer of this session, and what followed from it; whether there was one."""
        if not self._steps:
            return False
        self._at, size = self._steps.pop()
        if self._labels.exists():
            with self._labels.open("r+b") as file:
                file.truncate(size)
        pair = self._items[self._at].pair
        self._known.pop(pair, None)
        self._skipped.discard(pair)
        return True

    def _follow(self) -> None:
        """Go on over rows whose text and context have been answered or passed over."""
        while self.current is not None:
            if self.current.pair in self._known:
                self._write(self.current)
            elif self.current.pair not in self._skipped:
                break
            self._at += 1

    def _write(self, item: Item) -> None:
        record = item.record(self._known[item.pair], self._license)
        self._append(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with self._labels.open("ab") as file:
            file.write(line)

    def _size(self) -> int:
        return self._labels.stat().st_size if self._labels.exists() else 0
