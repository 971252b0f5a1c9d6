"""Which files a scan reads, and whether they are still what they were when it began."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from promptguard.errors import InputError

Format: TypeAlias = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "dataset"]

STANDARD_INPUT = "-"

_FORMATS: Mapping[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_COMPRESSIBLE = ("jsonl", "json", "csv", "tsv")
ACCEPTED = f"{', '.join(_FORMATS)}; those of text also with {', '.join(_COMPRESSIONS)}"
"""Endings of file names that are read."""

_PROBE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Source:
    """A file, standard input or a dataset, as it was when the scan began.

    Attributes:
        path: as it was given or found; ``-`` for standard input, the fingerprint for a dataset.
        format: how its rows are written.
        compression: ``gzip``, ``zstd`` or None.
        size: bytes of a file, rows of a dataset, 0 for standard input. Of a growing file of lines what begins
            after this many bytes is not part of the scan.
        modified: modification time in nanoseconds since 1970; 0 where there is none.
        head: SHA-256 of the first 64 KB.
        tail: SHA-256 of the last 64 KB before ``size``.
    """

    path: str
    format: Format
    compression: str | None = None
    size: int = 0
    modified: int = 0
    head: str = ""
    tail: str = ""

    @property
    def may_grow(self) -> bool:
        """Whether more at its end leaves what was there before as it was."""
        return self.format in ("jsonl", "csv", "tsv") and self.compression is None and self.path != STANDARD_INPUT

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, for a manifest."""
        return asdict(self)

    def check(self) -> None:
        """See that the source is what it was, apart from what may have been added at its end.

        Raises:
            InputError: it is gone or another; the message names it.
        """
        if self.format == "dataset" or self.path == STANDARD_INPUT:
            return
        path = Path(self.path)
        try:
            now = path.stat()
        except OSError:
            raise InputError(f"{self.path} is gone; the scan had begun to read it") from None
        same = now.st_size == self.size and now.st_mtime_ns == self.modified
        grown = self.may_grow and now.st_size > self.size and _probes(path, self.size) == (self.head, self.tail)
        if not same and not grown:
            raise InputError(f"{self.path} has changed since the scan began: choose another folder, or scan it anew")


def find(sources: Sequence[str | Path], *, leave_out: Path | None = None) -> tuple[list[Source], list[str]]:
    """Resolve files, folders and glob patterns to files, each once, those of a folder or pattern sorted.

    Args:
        sources: paths, patterns such as ``logs/**/*.jsonl.gz``, or ``-`` for JSON Lines on standard input.
        leave_out: a folder that is never read: the one the scan writes to, if it writes.

    Returns:
        The sources, and the files of folders that were passed over because their names have another ending.

    Raises:
        InputError: there is no such file, it is of no known format, or nothing is left.
    """
    found: dict[Path, Source] = {}
    passed_over: list[str] = []
    for given in sources:
        if str(given) == STANDARD_INPUT:
            if found or len(sources) > 1:
                raise InputError("standard input must be the only source")
            return [Source(STANDARD_INPUT, "jsonl")], []
        for path, named in _files(given, leave_out):
            if path.resolve() in found:
                continue
            kind = _format(path)
            if kind is not None:
                found[path.resolve()] = _source(path, *kind)
            elif named:
                raise InputError(f"{path}: the name must end in {ACCEPTED}")
            else:
                passed_over.append(str(path))
    if not found:
        raise InputError(f"there is nothing to scan: no file's name ends in {ACCEPTED}")
    return list(found.values()), passed_over


def _files(given: str | Path, leave_out: Path | None) -> list[tuple[Path, bool]]:
    """Files, and whether each was named rather than found in a folder."""
    path = Path(given)
    if path.is_dir():
        inside = (p for p in sorted(path.rglob("*")) if p.is_file())
        visible = (p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))
        return [(p, False) for p in visible if not _inside(p, leave_out)]
    if path.exists():
        return [(path, True)]
    matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]
    if not matches:
        raise InputError(f"there is no file {given}")
    files = [item for match in matches if match.is_dir() for item in _files(match, leave_out)]
    files += [(match, False) for match in matches if not match.is_dir() and not _inside(match, leave_out)]
    return sorted(files)


def _inside(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _format(path: Path) -> tuple[Format, str | None] | None:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    kind = _FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None or (compression is not None and kind not in _COMPRESSIBLE):
        return None
    return kind, compression


def _source(path: Path, kind: Format, compression: str | None) -> Source:
    state = path.stat()
    head, tail = _probes(path, state.st_size)
    return Source(str(path), kind, compression, state.st_size, state.st_mtime_ns, head, tail)


def _probes(path: Path, size: int) -> tuple[str, str]:
    with path.open("rb") as file:
        head = file.read(min(size, _PROBE_BYTES))
        file.seek(max(0, size - _PROBE_BYTES))
        tail = file.read(min(size, _PROBE_BYTES))
    return hashlib.sha256(head).hexdigest(), hashlib.sha256(tail).hexdigest()
