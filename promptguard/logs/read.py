"""What a scan has written, as a dataset of pyarrow's."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptguard.errors import InputError, MissingExtraError
from promptguard.logs.output import read_manifest
from promptguard.logs.schema import SCHEMA_VERSION, schema

try:
    import pyarrow as pa
    import pyarrow.dataset as ds
except ImportError as error:
    raise MissingExtraError("logs", "reading a scan") from error


def read_scan(folder: Path | str) -> ds.Dataset:
    """Open a finished scan.

    Args:
        folder: what ``scan`` wrote to. Parts of JSON Lines are read into memory, those of Parquet are not.

    Returns:
        Its rows, in order, with the columns of ``docs/logs.md``.

    Raises:
        InputError: there is no scan, it is not finished, or a later version of promptguard wrote it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise InputError(f"{folder}: schema version {manifest['schema_version']!r:.20}, not {SCHEMA_VERSION}")
    if manifest["status"] != "finished":
        raise InputError(f"the scan in {folder} is not finished: run it again to go on")
    columns = schema(copy_text=manifest["copy_text"])
    paths = [folder / part["file"] for part in manifest["parts"]]
    if manifest["format"] == "parquet":
        return ds.dataset([str(path) for path in paths], schema=columns, format="parquet")
    return ds.dataset(pa.Table.from_pylist([row for path in paths for row in _rows(path)], columns))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["time"] is not None:
                row["time"] = datetime.datetime.fromisoformat(row["time"])
            yield row
