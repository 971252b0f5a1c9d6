"""Where a scan writes: numbered parts, each complete or absent, and what is needed to go on after any interruption.

A part is written under ``.work``, made durable and then renamed; a line in ``.work/progress.jsonl`` says that it is
finished and where the next one starts. What was not finished is done again. At the end ``manifest.json`` says
``finished`` and ``.work`` goes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from promptguard.errors import InputError, MissingExtraError
from promptguard.logs.schema import schema

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError("logs", "scanning logs") from error

OutputFormat: TypeAlias = Literal["parquet", "jsonl"]
FORMATS: tuple[OutputFormat, ...] = ("parquet", "jsonl")

MANIFEST = "manifest.json"
_WORK, _PROGRESS, _LOCK = ".work", "progress.jsonl", "lock"
_GROUP_ROWS = 4096
_GROUP_BYTES = 16 * 2**20


class Output:
    """The folder of a scan. Only one process at a time can hold it.

    Args:
        folder: a new or empty folder, or one that a scan has written to.

    Raises:
        InputError: the folder holds something else, or another scan is writing to it.
        OSError: it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is not a folder")
        foreign = folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists()
        if foreign and {path.name for path in folder.iterdir()} != {_WORK}:
            raise InputError(f"{folder} holds something that is no scan: choose a new or an empty folder")
        self._work = folder / _WORK
        self._work.mkdir(parents=True, exist_ok=True)
        self._held = _hold(self._work / _LOCK)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest as it stands; None if there is none yet."""
        return read_manifest(self.folder) if (self.folder / MANIFEST).exists() else None

    def finished_parts(self) -> list[dict[str, Any]]:
        """What is known of each finished part, by number; a cluster may leave gaps."""
        path = self._work / _PROGRESS
        if not path.exists():
            return []
        parts = []
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # the process ended while writing it: the part is done again
            parts.append(json.loads(line))
        return sorted(parts, key=part_number)

    def clear(self) -> None:
        """Remove the parts, the manifest and the progress of an earlier scan."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for path in self._work.iterdir():
            if path.name != _LOCK:
                path.unlink()
        for path in self.folder.glob("part-*"):
            path.unlink()

    def keep(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Write the progress anew with these parts alone, and remove what is left of unfinished ones."""
        known = {part["file"] for part in parts}
        for path in self.folder.glob("part-*"):
            if path.name not in known:
                path.unlink()
        lines = "".join(json.dumps(part) + "\n" for part in parts)
        _replace(self._work / _PROGRESS, lines, self._work)

    def add(self, part: Mapping[str, Any]) -> None:
        """Note that a part is finished."""
        with (self._work / _PROGRESS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(part) + "\n")
            _flush(file)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, all of it or nothing."""
        _replace(self.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n", self._work)

    def tidy(self) -> None:
        """Remove what was only needed to go on."""
        shutil.rmtree(self._work)

    def close(self) -> None:
        """Let another process have the folder, and leave nothing in it that is not needed to go on."""
        if self._work.exists() and {path.name for path in self._work.iterdir()} == {_LOCK}:
            self.tidy()
        self._held.close()


def begin_part(folder: Path, number: int, form: OutputFormat, *, copy_text: bool, temporary: str = "") -> Part:
    """Begin a part of the scan in a folder that an ``Output`` holds.

    Args:
        folder: where the scan is written.
        number: of the part, from 0.
        form: ``parquet`` or ``jsonl``.
        copy_text: with text and context.
        temporary: prefix of its name until it is complete, so that two processes can write it without harm.
    """
    name = f"part-{number:05}.{form}"
    return Part(folder / _WORK / (temporary + name), folder / name, copy_text=copy_text)


def part_number(part: Mapping[str, Any]) -> int:
    """Number of a finished part."""
    return int(Path(part["file"]).stem.removeprefix("part-"))


class Part:
    """A part that is being written; rows arrive in order.

    Args:
        path: where it is written.
        final: its name once it is complete.
        copy_text: with text and context.
    """

    def __init__(self, path: Path, final: Path, *, copy_text: bool) -> None:
        self._path, self._final = path, final
        self._schema = schema(copy_text=copy_text)
        self._file: IO[bytes] = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, self._schema) if path.suffix == ".parquet" else None
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        if self._writer is None:
            for row in rows:
                self._file.write(_line(row, self._schema))
            return
        batch = record_batch(rows, self._schema)
        self._batches.append(batch)
        self._waiting += batch.nbytes
        if sum(b.num_rows for b in self._batches) >= _GROUP_ROWS or self._waiting >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if self._writer is not None and self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches), row_group_size=2**20)
        self._batches, self._waiting = [], 0

    def abandon(self) -> None:
        """Let go of the files; what was written is of no use, and whether that could be written is of none either."""
        with suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()
        with suppress(OSError):
            self._file.close()

    def finish(self) -> str:
        """Complete the part under its final name, which is returned."""
        self._write_group()
        if self._writer is not None:
            self._writer.close()
        _flush(self._file)
        self._file.close()
        os.replace(self._path, self._final)
        _flush_folder(self._final.parent)
        return self._final.name


def record_batch(rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> pa.RecordBatch:
    """Rows of the output as columns."""
    return pa.RecordBatch.from_arrays(
        [pa.array([row.get(field.name) for row in rows], field.type) for field in columns], schema=columns
    )


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a scan.

    Args:
        folder: the folder it wrote to.

    Returns:
        Its values; ``status`` is ``running`` or ``finished``.

    Raises:
        InputError: there is none, or it is not one.
    """
    path = Path(folder) / MANIFEST
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no scan in {folder}") from None
    except ValueError:
        raise InputError(f"{path} is not the manifest of a scan") from None
    if not isinstance(value, dict) or "schema_version" not in value:
        raise InputError(f"{path} is not the manifest of a scan")
    return value


def _line(row: Mapping[str, Any], columns: pa.Schema) -> bytes:
    values = {field.name: _json_value(row.get(field.name), field.type) for field in columns}
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _json_value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        return value.isoformat()
    if pa.types.is_float32(kind):
        return pa.scalar(value, kind).as_py()
    if pa.types.is_list(kind):
        return [_json_value(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _json_value(value[field.name], field.type) for field in kind}
    return float(value) if pa.types.is_float16(kind) else value


def _hold(path: Path) -> IO[bytes]:
    """An open file that no other process can hold; let go however the process ends."""
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # Windows: two scans into one folder are not kept apart there
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"another scan is writing to {path.parent.parent}") from None
    return file


def _replace(path: Path, content: str, work: Path) -> None:
    new = work / (path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(content)
        _flush(file)
    os.replace(new, path)
    _flush_folder(path.parent)


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
