"""The columns of a scan's output, version 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptguard.errors import InputError, MissingExtraError
from promptguard.intents import INTENTS

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

try:
    import pyarrow as pa
except ImportError as missing:
    raise MissingExtraError("logs", "reading a scan") from missing

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
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
        (
            "spans",
            pa.list_(
                pa.struct(
                    [
                        ("start", pa.int32()),
                        ("end", pa.int32()),
                        ("intent", pa.string()),
                        ("probability", pa.float32()),
                    ]
                )
            ),
        ),
        ("windows", pa.int32()),
        ("characters_not_read", pa.int32()),
        ("characters_unreadable", pa.int32()),
        ("vector", pa.list_(pa.float16())),
        ("bundle", pa.string()),
        ("original", pa.string()),
        ("text", pa.string()),
        ("context", pa.string()),
    ]
)
"""Every column there can be; ``text`` and ``context`` only where the scan copied them."""


def read_scan(folder: Path | str) -> Dataset:
    """Open the Parquet output of a scan.

    Args:
        folder: the folder a scan wrote.

    Returns:
        The rows, read as they are asked for.

    Raises:
        InputError: the folder holds no finished scan.
    """
    import pyarrow.dataset as ds

    parts = sorted(Path(folder).glob("part-*.parquet"))
    if not parts:
        raise InputError(f"{folder} holds no output of a scan: there is no part-*.parquet")
    return ds.dataset([str(part) for part in parts], format="parquet")


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """What a scan wrote about itself.

    Args:
        folder: the folder a scan wrote.

    Returns:
        The content of ``manifest.json``.

    Raises:
        InputError: there is none, it cannot be read, or it is of another schema version.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} holds no output of a scan: there is no {MANIFEST}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: schema version {manifest.get('schema_version')!r}; this reads {SCHEMA_VERSION}")
    return manifest
