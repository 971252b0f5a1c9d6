"""Scoring a Spark DataFrame of logs: the scorer of ``promptguard.logs.run`` in ``mapInArrow``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from promptguard.errors import BackendError, InputError, MissingExtraError
from promptguard.logs.output import record_batch
from promptguard.logs.presets import Mapper
from promptguard.logs.readers import Record
from promptguard.logs.run import CHUNK_CHARACTERS, CHUNK_ROWS, Chunk, ChunkScorer, Serial, chunk_size, read_row
from promptguard.logs.schema import schema
from promptguard.logs.score import Settings
from promptguard.policy import Policy

try:
    import pyarrow as pa
    from pyspark import TaskContext
    from pyspark.sql import functions as sf
    from pyspark.sql.pandas.types import from_arrow_schema
except ImportError as error:
    raise MissingExtraError("spark", "scoring with Spark") from error


def score(
    df: Any,
    *,
    preset: str = "auto",
    map: Mapping[str, str] | None = None,
    turns: str = "last",
    model: Path | str | None = None,
    mode: str | None = None,
    policy: Policy | None = None,
    prior: float | None = None,
    copy_text: bool = False,
) -> Any:
    """A verdict for every row of a DataFrame, in its order, found when Spark asks for it.

    Rows are numbered from the first partition's first: for that one job counts the rows of each partition. A
    DataFrame whose partitions do not come out the same twice, after ``orderBy(rand())`` for example, must be written
    first.

    Args:
        df: a ``pyspark.sql.DataFrame`` with the columns of a log.
        preset: format of the rows; ``auto`` recognises each row's.
        map: paths of fields by name, before those of the preset, as in ``{"text": "event.prompt"}``.
        turns: ``last`` or ``all``, as in ``scan``.
        model: folder of a bundle, the same on every node; None for the one that comes with the package.
        mode: ``low-alarm``, ``balanced`` or ``strict``; None for the policy's, or else ``balanced``.
        policy: what to do with which intent, for some applications by themselves, by the log's ``application``.
        prior: share of risky traffic to state probabilities at, in (0, 1); None for the bundle's own.
        copy_text: also give the text and its context.

    Returns:
        A DataFrame with the columns of ``docs/logs.md``. ``file`` and ``line`` are null. Spark has neither unsigned nor
        16-bit numbers: ``near_hash`` is the signed number with the same bits, ``vector`` the same values in 32 bits.

    Raises:
        InputError: an argument is unusable.
        ModelError: the model cannot be used.
    """
    Mapper(preset, map, turns)
    settings = Settings(model, mode, prior, policy)
    guard = settings.guard()
    bundle = guard.model
    counts = dict(df.mapInArrow(_count, "part int, rows bigint").groupBy("part").agg(sf.sum("rows")).collect())
    before, first = 0, {}
    for part in sorted(counts):
        first[part] = (before, counts[part])
        before += counts[part]
    read_as = (preset, dict(map or {}), turns, tuple(guard.policy.applications))
    work = _partition(settings, bundle, read_as, first, copy_text)
    return df.mapInArrow(work, from_arrow_schema(_columns(copy_text)))


def _columns(copy_text: bool) -> pa.Schema:
    """The schema of a scan in Spark's types."""
    columns = schema(copy_text=copy_text)
    for name, kind in (("near_hash", pa.int64()), ("vector", pa.list_(pa.float32()))):
        columns = columns.set(columns.get_field_index(name), pa.field(name, kind))
    return columns


def _number() -> int:
    context = TaskContext.get()
    assert context is not None, "only Spark's own tasks come here"  # noqa: S101
    number: int = context.partitionId()
    return number


def _count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """In a task: how many rows this partition has."""
    rows = sum(batch.num_rows for batch in batches)
    yield pa.RecordBatch.from_pydict({"part": pa.array([_number()], pa.int32()), "rows": pa.array([rows], pa.int64())})


def _partition(
    settings: Settings,
    bundle: str,
    read_as: tuple[str, Mapping[str, str], str, Collection[str]],
    first: Mapping[int, tuple[int, int]],
    copy_text: bool,
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What a task does with its partition; ``first`` has each partition's first row and number of rows."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = _scorer(settings, bundle, copy_text)
        mapper = Mapper(*read_as)
        begin, expected = first[_number()]
        chunk = Chunk(begin)
        for batch in batches:
            # A row at a time: to_pylist of a whole batch would hold every text of it twice.
            for at in range(batch.num_rows):
                (values,) = batch.slice(at, 1).to_pylist()
                record = Record(None, {key: value for key, value in values.items() if value is not None})
                row, error = read_row(record, mapper)
                chunk.rows.append((None, None, row, error))
                chunk.characters += chunk_size(row)
                if len(chunk.rows) >= CHUNK_ROWS or chunk.characters >= CHUNK_CHARACTERS:
                    yield _scored(scorer, chunk, copy_text)
                    chunk = Chunk(chunk.next_row + len(chunk.rows))
        if chunk.rows:
            yield _scored(scorer, chunk, copy_text)
        if chunk.next_row + len(chunk.rows) != begin + expected:
            raise BackendError("a partition had another number of rows when it was counted: write the DataFrame first")

    return work


def _scored(scorer: ChunkScorer, chunk: Chunk, copy_text: bool) -> pa.RecordBatch:
    scorer.ask(chunk)
    batch = record_batch(scorer.rows(chunk), schema(copy_text=copy_text))
    columns = _columns(copy_text)
    arrays = [
        array.view(field.type) if field.name == "near_hash" else array.cast(field.type)
        for array, field in zip(batch.columns, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


@cache
def _scorer(settings: Settings, bundle: str, copy_text: bool) -> ChunkScorer:
    """This process's model, and the verdicts it remembers from partition to partition."""
    guard = settings.guard()
    if guard.model != bundle:
        raise InputError("this node has another model under that path")
    return ChunkScorer(Serial(guard), copy_text=copy_text)
