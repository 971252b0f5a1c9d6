"""Labelled records, one JSON object a line: what the benchmark reads.

A record is a text, the context it arrived in and the intents that apply. Only ``id``, ``text`` and
``labels`` are required; a field the benchmark does not know is ignored.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from promptguard.errors import InputError, RecordError
from promptguard.intents import INTENTS, RISKY_INTENTS
from promptguard.types import Context

GoldSpan: TypeAlias = tuple[int, int, str | None]
"""First character, one past the last, and the intent or None: offsets in the record's text."""

NEAR, RANDOM = "near", "random"
"""How ``promptguard review`` draws: rows near a threshold, or from all rows alike."""

_RISKY = frozenset(RISKY_INTENTS)


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled text in its context.

    Attributes:
        id: stable and unique within its file.
        text: the text under analysis; never shown in a repr.
        context: where it arrived.
        labels: the intents that apply; empty means benign.
        spans: where the attack stands; None means that nobody marked it, which differs from
            an empty tuple: marked, and there is none.
        pair_id: shared by the records of a contrasting group of the same file.
        source_name: stem of the file, preceded by its folder's name where two files share a stem.
        lang: language code, or None.
        factor: the context field in which a contrasting group differs, or None.
        origin: where the text came from, or None.
        family: what the training data call the kind of its source, or None; see ``ordinary.kinds``.
        kind: how a composed record was made, or None; likewise.
        drawn: how ``promptguard review`` chose it: ``near``, ``random``, or None where it did not.
    """

    id: str
    text: str = field(repr=False)
    context: Context = field(default_factory=Context, repr=False)
    labels: frozenset[str] = frozenset()
    spans: tuple[GoldSpan, ...] | None = None
    pair_id: str | None = None
    source_name: str = ""
    lang: str | None = None
    factor: str | None = None
    origin: str | None = None
    family: str | None = None
    kind: str | None = None
    drawn: str | None = None

    @property
    def risky(self) -> bool:
        """Whether any label but ``out_of_scope`` applies."""
        return not self.labels.isdisjoint(_RISKY)

    @property
    def group(self) -> tuple[str, str] | None:
        """Key of the contrasting group, or None; pair ids count within their own file."""
        return None if self.pair_id is None else (self.source_name, self.pair_id)


def read_records(paths: Iterable[str | Path]) -> list[Record]:
    """Read every record of some files and folders.

    Args:
        paths: files, and folders whose ``*.jsonl`` files are taken at any depth, in the order of
            their names.

    Returns:
        The records, in the order of the files and of the lines.

    Raises:
        InputError: a path does not exist, a folder holds no records, or two files of one name in
            folders of one name could not be told apart.
        RecordError: a row is unusable; says which file, line and field, never the text.
    """
    files = _files(paths)
    return [record for path, name in zip(files, _names(files), strict=True) for record in _rows(path, name)]


def limit_per_source(records: Sequence[Record], limit: int, *, seed: int = 0) -> list[Record]:
    """Draw at most so many records of each source, contrasting groups kept whole.

    Args:
        records: any records.
        limit: records of each source, at least 1. A group that would pass the limit is left out, so
            a source may yield somewhat fewer; one larger than the limit is never drawn.
        seed: same seed, same draw.

    Returns:
        The records drawn, in their original order.

    Raises:
        InputError: the limit is below 1.
    """
    if limit < 1:
        raise InputError(f"limit must be at least 1, not {limit}")
    members: dict[str, dict[object, list[int]]] = {}
    for position, record in enumerate(records):
        key: object = record.group if record.group is not None else position
        members.setdefault(record.source_name, {}).setdefault(key, []).append(position)
    kept: list[int] = []
    for source in sorted(members):
        groups = list(members[source].values())
        random.Random(f"{seed}/{source}").shuffle(groups)  # noqa: S311 - a sample, not a secret
        room = limit
        for group in groups:
            if len(group) <= room:
                kept.extend(group)
                room -= len(group)
    return [records[position] for position in sorted(kept)]


def _files(paths: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*.jsonl") if p.is_file())
            if not inside:
                raise InputError(f"{path} holds no .jsonl file")
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[path] = None
        else:
            raise InputError(f"{path} is neither a file nor a folder")
    return list(found)


def _names(files: Sequence[Path]) -> list[str]:
    stems = Counter(path.stem for path in files)
    names = [p.stem if stems[p.stem] == 1 else f"{p.resolve().parent.name}/{p.stem}" for p in files]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"two files are both called {repeated[0]}; rename one, results are kept by file name")
    return names


def _rows(path: Path, name: str) -> Iterator[Record]:
    seen: set[str] = set()
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row = _Row(path, number, line)
            record = row.record(name)
            if record.id in seen:
                raise row.error("id occurs twice in the file", "id")
            seen.add(record.id)
            yield record


class _Row:
    """One line of a file, and the error that names it."""

    def __init__(self, path: Path, number: int, line: bytes) -> None:
        self._path, self._number = path, number
        try:
            values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as problem:
            raise self.error(f"not a line of JSON in UTF-8 ({type(problem).__name__})", None) from None
        if not isinstance(values, dict):
            raise self.error(f"must be a JSON object, not {type(values).__name__}", None)
        self._values: dict[str, Any] = values

    def error(self, message: str, name: str | None) -> RecordError:
        return RecordError(message, file=str(self._path), line=self._number, field=name)

    def record(self, source_name: str) -> Record:
        text = self._string("text")
        return Record(
            id=self._string("id"),
            text=text,
            context=self._context(),
            labels=self._labels(),
            spans=self._spans(len(text)),
            pair_id=self._optional("pair_id"),
            source_name=source_name,
            lang=self._optional("lang"),
            factor=self._optional("factor"),
            origin=self._optional("origin"),
            family=self._optional("family"),
            kind=self._optional("kind"),
            drawn=self._optional("drawn"),
        )

    def _string(self, name: str) -> str:
        if name not in self._values:
            raise self.error(f"{name} is missing", name)
        value = self._values[name]
        if not isinstance(value, str):
            raise self.error(f"{name} must be a string, not {type(value).__name__}", name)
        return value

    def _optional(self, name: str) -> str | None:
        return None if self._values.get(name) is None else self._string(name)

    def _context(self) -> Context:
        value = self._values.get("context")
        if value is not None and not isinstance(value, Mapping):
            raise self.error(f"context must be an object or null, not {type(value).__name__}", "context")
        try:
            return Context.of(value)
        except InputError as problem:
            raise self.error(str(problem), "context") from None

    def _labels(self) -> frozenset[str]:
        value = self._values.get("labels")
        if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
            raise self.error("labels must be a list of names of intents", "labels")
        labels = frozenset(value)
        if not labels <= set(INTENTS):
            raise self.error(f"labels holds an unknown intent; known: {', '.join(INTENTS)}", "labels")
        if "out_of_scope" in labels and len(labels) > 1:
            raise self.error("labels holds out_of_scope beside another intent", "labels")
        return labels

    def _spans(self, length: int) -> tuple[GoldSpan, ...] | None:
        value = self._values.get("spans")
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(f"spans must be a list, not {type(value).__name__}", "spans")
        return tuple(self._span(item, length) for item in value)

    def _span(self, item: object, length: int) -> GoldSpan:
        if not isinstance(item, list) or len(item) not in (2, 3):
            raise self.error("spans must hold [start, end] or [start, end, intent]", "spans")
        start, end = item[0], item[1]
        label = item[2] if len(item) == 3 else None
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
            raise self.error(f"spans holds offsets that are not 0 <= start < end <= {length}", "spans")
        if label is not None and label not in INTENTS:
            raise self.error("spans holds an unknown intent", "spans")
        return (start, end, label)
