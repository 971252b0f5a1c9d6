"""Rows a second of ``promptguard.logs.scan`` on one core, beside a loop over ``Guard.analyze`` and beside torch.

    python benchmarks/scan.py --rows 6000 --out benchmarks/results/scan.json

*mix*: what ``scripts/make_log.py`` makes, with the share of repeats stated; with nearly nothing but repeats it shows
what a repeated row costs. *unique*: texts of about 60 tokens, none twice, under one system prompt of about 180 tokens.
The loop reads the same rows, in the same way, and calls ``analyze`` on each. Both run in this process; ``cpu`` counts
the processor's time, which other programs on the machine disturb less than the clock's. The *ceiling* is the time of a
large 8-bit matrix product in the same run, and the share of it that the unique rows reach counts the operations of the
tokens that are really run. Verdicts of both are compared bit by bit. The same network in torch (``torch_rows.py``;
needs the extra ``train``) reads the first ``--torch-rows`` rows of each log, on one thread in the same process. Loading
is in no figure but the scan's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch_rows
from latency import ceiling, operations, words

from promptguard import Context, Guard
from promptguard.bench.provenance import provenance
from promptguard.logs import read_scan, scan
from promptguard.logs.presets import Mapper

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import make_log

TEXT_TOKENS, CONTEXT_TOKENS = 60, 180


def unique(rows: int) -> Iterator[dict[str, Any]]:
    """Rows of 60 tokens, none twice, under one prompt of 180."""
    system = {"role": "system", "content": words(CONTEXT_TOKENS - 3, 0)}
    for seed in range(1, rows + 1):
        turns = [system, {"role": "user", "content": words(TEXT_TOKENS - 2, seed)}]
        yield {"model": "gpt-5", "messages": turns}


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the call gives, and the seconds it takes by the clock and by the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def read(path: Path) -> Iterator[tuple[str, Context]]:
    """Texts and contexts of a log."""
    mapper = Mapper()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield mapper.row(json.loads(line)).parts[0]


def loop(guard: Guard, path: Path) -> list[float]:
    """The risks of the rows, one after the other."""
    return [guard.analyze(text, context).risk for text, context in read(path)]


def rate(rows: int, wall: float, cpu: float) -> dict[str, float]:
    return {"seconds": wall, "cpu": cpu, "rows_per_second": rows / wall, "rows_per_cpu_second": rows / cpu}


def others(scorers: Mapping[str, torch_rows.Scored], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Rates of the network in torch."""
    found = {}
    for name, scored in scorers.items():
        scored(pairs[:2])
        _, wall, cpu = timed(lambda scored=scored: scored(pairs))
        found[name] = {"rows": len(pairs), **rate(len(pairs), wall, cpu)}
    return found


def measure(
    path: Path, folder: Path, model: str | None, scorers: Mapping[str, torch_rows.Scored], torch_number: int
) -> dict[str, Any]:
    """All on one log."""
    rows = sum(1 for _ in path.open("rb"))
    guard = Guard(model)
    guard.analyze("loads the model")
    risks, loop_wall, loop_cpu = timed(lambda: loop(guard, path))
    in_torch = others(scorers, torch_rows.as_pairs(guard, list(itertools.islice(read(path), torch_number))))
    result, wall, cpu = timed(lambda: scan(path, folder, model=model))
    written = read_scan(folder).to_table(columns=["risk", "text_hash"]).to_pylist()
    same = [row["risk"] for row in written] == [float(np.float32(risk)) for risk in risks]
    return {
        "rows": rows,
        "bytes": path.stat().st_size,
        "different_texts": len({row["text_hash"] for row in written}),
        "flagged": result.flagged,
        "verdicts_equal": same,
        "loop": rate(rows, loop_wall, loop_cpu),
        "scan": rate(rows, wall, cpu),
        "torch": in_torch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000, help="of the mix; a third of that of unique texts")
    parser.add_argument("--repeats", type=float, nargs="+", default=[0.65, 0.9, 0.999])
    parser.add_argument("--torch-rows", type=int, default=150, help="0 leaves torch out")
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    logs: dict[str, Any] = {}
    load, best = os.getloadavg()[0], ceiling()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scorers: Mapping[str, torch_rows.Scored] = {}
        if given.torch_rows:
            torch_rows.save(folder / "torch", given.model)
            scorers = torch_rows.scorers(folder / "torch")
        for share in given.repeats:
            path, again = folder / "mix.jsonl", 0
            with path.open("w", encoding="utf-8") as file:
                for row, repeated in make_log.log(given.rows, share, 60, 0.02, 0):
                    again += repeated
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            rates = measure(path, folder / f"out{share}", given.model, scorers, given.torch_rows)
            logs[f"mix {share}"] = {"repeats": again / given.rows, **rates}
            print(f"mix {share}", logs[f"mix {share}"])
        path = folder / "unique.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in unique(given.rows // 3)), encoding="utf-8")
        logs["unique"] = measure(path, folder / "unique", given.model, scorers, given.torch_rows)
    best = max(best, ceiling())
    needed = operations(CONTEXT_TOKENS, TEXT_TOKENS, context_run=False)
    logs["unique"]["share_of_ceiling"] = needed * logs["unique"]["scan"]["rows_per_cpu_second"] / best
    print("unique", logs["unique"])
    if given.out is not None:
        found = {**provenance(sys.argv), "model": Guard(given.model).model, "load_before": load, "logs": logs}
        found["ceiling_gops"] = best / 1e9
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
