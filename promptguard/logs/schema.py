"""The columns a scan writes: documented in ``docs/logs.md``, the same names in Parquet and in JSON Lines."""

from __future__ import annotations

from promptguard.errors import MissingExtraError
from promptguard.intents import INTENTS

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingExtraError("logs", "scanning logs") from error

SCHEMA_VERSION = 1
"""Version of the columns and of ``manifest.json``; a change that breaks a reader raises it."""

_SPAN = pa.struct(
    [("start", pa.int32()), ("end", pa.int32()), ("intent", pa.string()), ("probability", pa.float32())],
)
_COLUMNS = [
    ("row", pa.int64()),
    ("file", pa.string()),
    ("line", pa.int64()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("id", pa.string()),
    ("time", pa.timestamp("us", "UTC")),
    ("user", pa.string()),
    ("session", pa.string()),
    ("application", pa.string()),
    ("key", pa.string()),
    ("model", pa.string()),
    ("source", pa.string()),
    ("user_role", pa.string()),
    ("input_tokens", pa.int64()),
    ("output_tokens", pa.int64()),
    ("characters", pa.int64()),
    ("text_hash", pa.string()),
    ("near_hash", pa.uint64()),
    ("decision", pa.string()),
    ("reason", pa.string()),
    ("risk", pa.float32()),
    ("intents", pa.list_(pa.string())),
    ("probabilities", pa.struct([(name, pa.float32()) for name in INTENTS])),
    ("spans", pa.list_(_SPAN)),
    ("windows", pa.int32()),
    ("characters_not_read", pa.int32()),
    ("characters_unreadable", pa.int32()),
    ("vector", pa.list_(pa.float16())),
    ("bundle", pa.string()),
    ("original", pa.string()),
]
_TEXTS = [("text", pa.string()), ("context", pa.string())]


def schema(*, copy_text: bool = False) -> pa.Schema:
    """The columns, in order.

    Args:
        copy_text: with ``text`` and ``context``.

    Returns:
        A schema of pyarrow's, with the version in its metadata.
    """
    columns = _COLUMNS + _TEXTS if copy_text else _COLUMNS
    return pa.schema(columns, metadata={"promptguard_schema_version": str(SCHEMA_VERSION)})
