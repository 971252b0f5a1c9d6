"""Look for bytes that break the readers of logs, led by the lines that inputs reach (atheris, libFuzzer).

    python scripts/fuzz_readers.py CORPUS -max_total_time=600

``CORPUS`` is a folder where inputs that reach something new are kept; it may hold some to begin with. The first byte of
an input says which format the rest of it is read as. Whatever the bytes, a reader must come to an end, give at most one
row that is ``last``, give the same rows when it begins behind some of them; and each row must be mapped or refused.
Needs ``pip install atheris``. An input that breaks this is written to the working directory as ``crash-…``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["promptguard.logs", "promptguard.messages"]):
    from promptguard.errors import InputError
    from promptguard.logs.presets import Mapper
    from promptguard.logs.readers import Reader
    from promptguard.logs.sources import find

ENDINGS = (
    "jsonl", "json", "csv", "tsv", "jsonl.gz", "csv.gz", "jsonl.zst", "parquet", "arrow", "arrows",
)  # fmt: skip

FOLDER = Path(tempfile.mkdtemp())
MAPPERS = Mapper(), Mapper(turns="all")


def one(data: bytes) -> None:
    """Read an input; an exception from here is a finding."""
    if not data:
        return
    path = FOLDER / f"log.{ENDINGS[data[0] % len(ENDINGS)]}"
    path.write_bytes(data[1:])
    (source,), _ = find([path], leave_out=FOLDER / "out")
    found = list(Reader(source))
    if any(record.last for record in found[:-1]):
        raise AssertionError("rows after the last one")
    half = sum(not record.last for record in found) // 2
    if repr(list(Reader(source, skip=half))) != repr(found[half:]):
        raise AssertionError("other rows from the middle on")
    for record in found:
        for mapper in MAPPERS:
            try:
                mapper.row(record.values)
            except InputError:
                continue
            except RecursionError:  # run.read_row says so in the row
                continue


def main() -> None:
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
