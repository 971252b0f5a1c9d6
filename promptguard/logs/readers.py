"""Rows of a source, one after the other, in memory that does not grow with it.

What cannot be read is a row, too, with the reason in place of values: a bad line, or the rest of a damaged file.
Lines of JSON and of CSV are read one by one, so that a bad one costs itself alone; Parquet, Arrow and
decompression are pyarrow's.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from promptguard.errors import MissingExtraError
from promptguard.logs.sources import STANDARD_INPUT, Source

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError("logs", "scanning logs") from error

MOST_ROW_BYTES = 32 * 2**20
"""A longer line, field or text is not read: its row carries an error."""

_BATCH_ROWS = 256
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_SPANS = b'"resourceSpans"'
_DAMAGED = (OSError, EOFError, pa.ArrowException, ValueError)
"""What pyarrow raises for a damaged file."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row as it was logged, or why there is none.

    Attributes:
        line: number of its line, or of the row where there are no lines, from 1; None for a file as a whole.
        values: the row's keys and values; empty if it could not be read. Never shown in a repr.
        error: why it could not be read, without any of its content.
        last: whether nothing more can be read of its source.
    """

    line: int | None
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    error: str | None = None
    last: bool = False


class Reader:
    """Reads the rows of a source.

    Args:
        source: what to read.
        skip: rows to pass over, as far as can be without looking into them; a ``last`` one is not counted.
        dataset: the ``datasets.Dataset`` where the source is one.

    Attributes:
        share: how much has been read, in [0, 1]; 0 throughout for standard input.
    """

    def __init__(self, source: Source, *, skip: int = 0, dataset: Any = None) -> None:
        self.share = 0.0
        self._source, self._skip, self._dataset = source, skip, dataset
        self._line = 0

    def __iter__(self) -> Iterator[Record]:
        try:
            for record in self._records():
                self._line = record.line or self._line
                yield record
        except _DAMAGED as error:
            # A full disk or a missing right is the machine's fault and ends the scan; a file's own damage does not.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = f"the file is damaged from here on ({type(error).__name__})"
            yield Record(self._line + 1 if self._line else None, error=reason, last=True)
        self.share = 1.0

    def _records(self) -> Iterator[Record]:
        if self._source.format == "dataset":
            return self._tables()
        if self._source.format == "parquet":
            return self._parquet()
        if self._source.format == "arrow":
            return self._arrow()
        return self._text()

    def _text(self) -> Iterator[Record]:
        source = self._source
        if source.path == STANDARD_INPUT:
            yield from self._lines(sys.stdin.buffer)
            return
        with open(source.path, "rb") as raw:
            stream: Any = raw
            if source.compression is not None:
                inner = pa.CompressedInputStream(pa.PythonFile(raw, "r"), source.compression)
                stream = io.BufferedReader(inner, 2**20)
            for record in self._rows(stream):
                self.share = min(1.0, raw.tell() / max(1, source.size))
                yield record

    def _rows(self, stream: IO[bytes]) -> Iterator[Record]:
        if self._source.format == "json":
            return self._array(stream)
        if self._source.format == "jsonl":
            return self._lines(stream)
        return self._separated(stream, "\t" if self._source.format == "tsv" else ",")

    def _cut(self, stream: IO[bytes]) -> Iterator[bytes | None]:
        """Lines that begin within the size the source had when the scan began; None for one that is too long."""
        most = self._source.size if self._source.may_grow else sys.maxsize
        begins = 0
        while begins < most:
            line = stream.readline(MOST_ROW_BYTES + 1)
            begins += len(line)
            if not line:
                return
            if len(line) <= MOST_ROW_BYTES or line.endswith(b"\n"):
                yield line
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(2**20)
                begins += len(line)
            yield None

    def _lines(self, stream: IO[bytes]) -> Iterator[Record]:
        skipped = 0
        for number, line in enumerate(self._cut(stream), start=1):
            if line is not None and not line.strip():
                continue
            if skipped < self._skip and (line is None or _SPANS not in line):
                skipped += 1
                self._line = number
                continue
            for record in _parsed(line, number):
                if skipped < self._skip:
                    skipped += 1
                else:
                    yield record

    def _array(self, stream: IO[bytes]) -> Iterator[Record]:
        """The objects of one JSON array, or JSON Lines under another name."""
        first = stream.read(1)
        while first.isspace() or (first and first in codecs.BOM_UTF8):
            first = stream.read(1)
        if first != b"[":
            rest = _Chained(first, stream)
            yield from self._lines(io.BufferedReader(rest))
            return
        decoder, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
        held, at, size, number = "", 0, 2**16, 0
        while True:
            at = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if held.startswith("]", at):
                return
            try:
                value, end = decoder.raw_decode(held, at)
                if end == len(held) and not isinstance(value, dict | list | str):
                    raise json.JSONDecodeError("it may go on", held, end)
            except (json.JSONDecodeError, RecursionError) as error:
                hopeless = isinstance(error, RecursionError) or len(held) - at > MOST_ROW_BYTES
                data = b"" if hopeless else stream.read(size)
                if not data:
                    yield Record(number + 1, error=f"not JSON from here on ({type(error).__name__})", last=True)
                    return
                held, at, size = held[at:] + text.decode(data), 0, min(2 * size, 2**24)
                continue
            at, number = end, number + 1
            if number > self._skip:
                yield _record(value, number)
            else:
                self._line = number
            if at > size:
                held, at, size = held[at:], 0, 2**16

    def _separated(self, stream: IO[bytes], delimiter: str) -> Iterator[Record]:
        old = csv.field_size_limit(MOST_ROW_BYTES)
        try:
            # What is too long is replaced by what csv refuses as too long, in quotes or out of them.
            too_long = "x" * (MOST_ROW_BYTES + 1)
            decoded = (too_long if n is None else n.decode("utf-8", "surrogateescape") for n in self._cut(stream))
            rows = csv.reader(decoded, delimiter=delimiter)
            header: list[str] | None = None
            number = 0
            while True:
                line = rows.line_num + 1
                try:
                    cells = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells, reason = [], f"not CSV ({error})"
                else:
                    reason = ""
                    if not cells:
                        continue
                if header is None:
                    if reason:
                        yield Record(line, error=f"the line of column names is {reason}", last=True)
                        return
                    header = [cell.removeprefix("\ufeff").strip() for cell in cells]
                    continue
                number += 1
                if number <= self._skip:
                    self._line = line
                    continue
                if not reason and len(cells) != len(header):
                    reason = f"{len(cells)} columns where the first line names {len(header)}"
                if not reason and any("\udc80" <= c <= "\udcff" for cell in cells if not cell.isascii() for c in cell):
                    reason = "not UTF-8"
                values = {} if reason else dict(zip(header, cells, strict=True))
                yield Record(line, {key: value for key, value in values.items() if value != ""}, reason or None)
        finally:
            csv.field_size_limit(old)

    def _parquet(self) -> Iterator[Record]:
        with pq.ParquetFile(self._source.path, memory_map=True) as file:
            total = file.metadata.num_rows
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            before = 0
            first = 0
            while first < len(groups) and before + groups[first] <= self._skip:
                before += groups[first]
                first += 1
            self._line = before
            batches = file.iter_batches(_BATCH_ROWS, row_groups=range(first, len(groups)))
            yield from self._batches(batches, before, total)

    def _arrow(self) -> Iterator[Record]:
        with pa.memory_map(self._source.path) as mapped:
            is_file = mapped.read(6) == b"ARROW1"
            mapped.seek(0)
            if is_file:
                file = pa.ipc.open_file(mapped)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                batches = iter(pa.ipc.open_stream(mapped))
            yield from self._batches((part for b in batches for part in _sliced(b)), 0, None)

    def _tables(self) -> Iterator[Record]:
        tables = self._dataset.with_format("arrow").iter(_BATCH_ROWS)
        yield from self._batches(tables, 0, len(self._dataset))

    def _batches(self, batches: Iterator[Any], before: int, total: int | None) -> Iterator[Record]:
        for batch in batches:
            if before + batch.num_rows <= self._skip:
                before += batch.num_rows
                self._line = before
                continue
            for values in batch.to_pylist():
                before += 1
                if before > self._skip:
                    yield Record(before, {key: value for key, value in values.items() if value is not None})
            self.share = before / total if total else 0.0


class _Chained(io.RawIOBase):
    """A stream with a byte put back."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first, self._stream = first, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._first or self._stream.read(len(buffer))
        self._first = b""
        buffer[: len(data)] = data
        return len(data)


def _sliced(batch: Any) -> Iterator[Any]:
    batch.validate(full=True)  # Arrow files are mapped as they are: a damaged offset would point anywhere
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)


def _parsed(line: bytes | None, number: int) -> Iterator[Record]:
    if line is None:
        yield Record(number, error=f"longer than {MOST_ROW_BYTES // 2**20} MB")
        return
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except json.JSONDecodeError as error:
        yield Record(number, error=f"not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError:
        yield Record(number, error="not UTF-8")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested too deeply
        yield Record(number, error=f"not JSON that can be read ({type(error).__name__})")
    else:
        if isinstance(value, dict) and isinstance(value.get("resourceSpans"), list):
            yield from (_record(span, number) for span in _spans(value["resourceSpans"]))
        else:
            yield _record(value, number)


def _record(value: Any, number: int) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    if isinstance(value, str):
        return Record(number, {"text": value})
    if isinstance(value, list):
        return Record(number, {"messages": value})
    return Record(number, error=f"a JSON object is needed, not {type(value).__name__}")


def _spans(resources: list[Any]) -> Iterator[Any]:
    """The spans of a batch as OTLP's JSON writes it, each with its resource's attributes beside its own."""
    for resource in resources:
        if not isinstance(resource, dict):
            yield resource
            continue
        about = resource.get("resource") or {}
        for scope in resource.get("scopeSpans") or []:
            for span in (scope.get("spans") or []) if isinstance(scope, dict) else [scope]:
                yield {**span, "resource": about} if isinstance(span, dict) else span


def dataset_source(dataset: Any) -> Source:
    """The source that a ``datasets.Dataset`` is."""
    return Source(f"dataset:{dataset._fingerprint}", "dataset", size=len(dataset))


def is_dataset(value: object) -> bool:
    """Whether a value is a ``datasets.Dataset``, without importing that library."""
    return hasattr(value, "with_format") and hasattr(value, "_fingerprint") and hasattr(value, "num_rows")
