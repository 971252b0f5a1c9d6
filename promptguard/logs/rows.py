"""The rows of a scan as tables, a batch at a time, without what can only be a mistake in the log."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from promptguard.errors import MissingExtraError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

try:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as missing:
    raise MissingExtraError("logs", "reading the rows of a scan") from missing

Integers: TypeAlias = npt.NDArray[np.int64]

_YEAR_2200, _MOST_TOKENS = 7_258_118_399_999_999, 1_000_000_000


def tables(dataset: Dataset, columns: Iterable[str]) -> Iterator[pa.Table]:
    """The plausible rows of a scan, a batch at a time; one table without rows where there are none."""
    names, empty = list(columns), True
    for batch in dataset.to_batches(columns=names, batch_size=65_536, batch_readahead=1, fragment_readahead=1):
        if len(batch):
            empty = False
            yield plausible(pa.Table.from_batches([batch]))
    if empty:
        yield dataset.schema.empty_table().select(names)


def plausible(table: pa.Table) -> pa.Table:
    """The table without what can only be a mistake in the log, which becomes null.

    That is a time before 1970 or after 2199, and a number of tokens below 0 or above 10⁹.
    """
    limits = {"time": _YEAR_2200, "input_tokens": _MOST_TOKENS, "output_tokens": _MOST_TOKENS}
    for name, most in limits.items():
        if name not in table.column_names:
            continue
        column = table[name].cast(pa.timestamp("us", tz="UTC")) if name == "time" else table[name]
        value = column.cast(pa.int64())
        fits = pc.and_(pc.greater_equal(value, 0), pc.less_equal(value, most))
        column = pc.if_else(fits, column, pa.scalar(None, column.type))
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def microseconds(table: pa.Table) -> Any:
    """The time of each row in microseconds since 1970."""
    return table["time"].cast(pa.int64())


def actor(table: pa.Table) -> Any:
    """The actor of each row: its user, else its key, else its session."""
    return pc.coalesce(*(table[name].cast(pa.string()) for name in ("user", "key", "session")))


def actor_groups(table: pa.Table, number: int) -> Integers:
    """A group below ``number`` for each row, the same for all rows of an actor; without one, by the thousand rows."""
    places, names = codes(table["actor"] if "actor" in table.column_names else actor(table))
    groups = np.array([zlib.crc32(name.encode()) % number for name in names.to_pylist()] + [0])
    return np.where(places >= 0, groups[places], table["row"].to_numpy() // 1_000 % number)


def codes(column: Any) -> tuple[Integers, pa.Array]:
    """A column of strings as numbers, and what they stand for; null is -1."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    places = pc.fill_null(encoded.indices.cast(pa.int64()), -1)
    return places.to_numpy(zero_copy_only=False), encoded.dictionary
