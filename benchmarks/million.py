"""One large log through ``promptguard scan``, killed again and again, gone on with, checked row by row, reported.

    python benchmarks/million.py --work runs/million --out benchmarks/results/million.json

The log is that of ``scripts/make_log.py``: requests to 60 applications in the shape of production traffic, made of our
own CC0 records, with the share of repeats stated. The scan is killed with SIGKILL at the given shares of the rows, the
process that was started alone: its workers must end by themselves. Then the same command goes on. Every few seconds
the memory of all its processes is read from ``/proc``: resident, and proportional, in which pages that are shared count
once. At the end every row of the log must have one row in the output, in order, with the same id and text; and of some
rows drawn at random the verdict must be, bit for bit, that of ``Guard.analyze``. Then the report is written and opened
in a headless browser. Linux alone.

``cpu_seconds`` is what the processes used; it tells how fast the scan is where ``load`` shows that it had not the
machine to itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import BROWSER, opened

from promptguard import Guard
from promptguard.bench.provenance import provenance
from promptguard.logs import read_manifest, read_scan
from promptguard.logs.presets import Mapper

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import make_log

ROOT = Path(__file__).parents[1]
EVERY_SECONDS = 5.0
COMPARED = 300
"""Rows whose verdict is found once more."""


def made(path: Path, rows: int, repeats: float) -> float:
    """The log, made if it is not there; the share of its rows that repeat an earlier text in the same context."""
    counted = path.with_suffix(".repeats")
    if not counted.exists():
        again = 0
        with path.open("w", encoding="utf-8") as file:
            for row, repeated in make_log.log(rows, repeats, 60, 0.02, 0):
                again += repeated
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        counted.write_text(str(again / rows))
    return float(counted.read_text())


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def memory(pid: int) -> tuple[int, int, float]:
    """Kilobytes of a process, resident and proportional, and the processor seconds it has used."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sizes["Rss"], sizes["Pss"], (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def finished_rows(folder: Path) -> int:
    """Rows of the parts that a running scan has finished."""
    path = folder / ".work" / "progress.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return sum(json.loads(line)["rows"] for line in lines if line.endswith(b"\n"))


def leg(command: Sequence[str], folder: Path, until: int | None, say: Any) -> dict[str, Any]:
    """One run of the scan, to its end or until it is killed some seconds after so many rows were finished."""
    began = time.time()
    before = finished_rows(folder)
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    samples: list[dict[str, float]] = []
    used: dict[int, float] = {}
    ends = float("inf")
    killed = False
    while process.poll() is None:
        now = time.time()
        known = family(process.pid)
        measured = []
        for pid in known:
            try:
                resident, proportional, seconds = memory(pid)
            except (OSError, IndexError, KeyError):  # it has just ended
                continue
            measured.append((resident, proportional))
            used[pid] = seconds
        rows = finished_rows(folder)
        samples.append(
            {
                "seconds": round(now - began, 1),
                "rows": rows,
                "processes": len(measured),
                "resident_mb": round(sum(resident for resident, _ in measured) / 1000, 1),
                "proportional_mb": round(sum(proportional for _, proportional in measured) / 1000, 1),
                "largest_mb": round(max((resident for resident, _ in measured), default=0) / 1000, 1),
                "load": os.getloadavg()[0],
            }
        )
        if len(samples) % 12 == 1:
            say(json.dumps(samples[-1]))
        if until is not None and rows >= until and ends == float("inf"):
            ends = now + random.Random(until).uniform(0, 3 * EVERY_SECONDS)
        if now >= ends:
            os.kill(process.pid, signal.SIGKILL)
            killed = True
            break
        time.sleep(EVERY_SECONDS)
    printed, _ = process.communicate()
    workers_ended = None
    if killed:
        limit = time.time() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in used) and time.time() < limit:
            time.sleep(0.1)
        workers_ended = not any(Path(f"/proc/{pid}").exists() for pid in used)
    elif process.returncode:
        raise SystemExit(f"the scan ended with status {process.returncode}")
    return {
        "killed": killed,
        "workers_ended_by_themselves": workers_ended,
        "seconds": time.time() - began,
        "cpu_seconds": sum(used.values()),
        "rows_before": before,
        "rows_after": finished_rows(folder) if killed else json.loads(printed)["rows"],
        "samples": samples,
    }


def texts(log: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each row of the log, as they were written."""
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["id"], row["request"]["messages"][-1]["content"]


def checked(log: Path, folder: Path) -> dict[str, Any]:
    """Whether each row of the log has its own row, and only that; raises if not."""
    expected = texts(log)
    number = 0
    columns = ["row", "line", "id", "status", "text_hash"]
    for batch in read_scan(folder).scanner(columns=columns, batch_size=8192).to_batches():
        for row in batch.to_pylist():
            name, text = next(expected)
            hashed = hashlib.sha256(text.encode()).hexdigest()[:16]
            wanted = {"row": number, "line": number + 1, "id": name, "status": "ok", "text_hash": hashed}
            if row != wanted:
                raise SystemExit(f"row {number} is {row}, not {wanted}")
            number += 1
    left = sum(1 for _ in expected)
    if left:
        raise SystemExit(f"{left} rows are missing at the end")
    return {"rows": number, "each_once_and_in_order": True}


def compared(log: Path, folder: Path, rows: int, bundle: Path | None) -> dict[str, Any]:
    """Some verdicts beside those of a guard; raises where one differs in a bit."""
    wanted = set(random.Random(0).sample(range(rows), min(COMPARED, rows)))
    given = {}
    with log.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number in wanted:
                given[number] = json.loads(line)
    guard, mapper, same = Guard(bundle), Mapper(), 0
    for batch in read_scan(folder).scanner(columns=["row", "risk", "decision"], batch_size=8192).to_batches():
        for row in batch.to_pylist():
            if row["row"] in wanted:
                analysis = guard.analyze(*mapper.row(given[row["row"]]).parts[0])
                if (row["risk"], row["decision"]) != (np.float32(analysis.risk), analysis.decision.value):
                    raise SystemExit(f"row {row['row']} has another verdict than Guard.analyze gives")
                same += 1
    return {"drawn": len(wanted), "equal": same}


def flat(samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Memory over a run that is not killed: the most in each tenth of its rows, and how it grows from the next on."""
    rows, sizes = (np.array([sample[name] for sample in samples]) for name in ("rows", "proportional_mb"))
    tenth = np.minimum(9, 10 * (rows - rows[0]) // max(1, rows[-1] - rows[0]))
    later = tenth > 0
    return {
        "most_in_each_tenth_mb": [float(sizes[tenth == i].max()) if (tenth == i).any() else None for i in range(10)],
        "most_in_a_process_mb": max(sample["largest_mb"] for sample in samples),
        "most_mb": float(sizes.max()),
        "growth_mb_per_100000_rows": float(np.polyfit(rows[later], sizes[later], 1)[0] * 100_000)
        if len(set(rows[later])) > 1
        else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=float, default=0.9, help="share of rows meant to repeat an earlier one")
    parser.add_argument("--kills", type=float, nargs="*", default=[0.05, 0.15, 0.3], help="shares of the rows")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the log and the scan")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    log, folder, page = given.work / "log.jsonl", given.work / "out", given.work / "report.html"

    def say(what: str) -> None:
        print(time.strftime("%H:%M:%S", time.gmtime()), what, flush=True)

    found: dict[str, Any] = {**provenance(sys.argv), "load_before": os.getloadavg()[0]}
    found |= {"rows": given.rows, "repeats": made(log, given.rows, given.repeats), "bytes": log.stat().st_size}
    found |= {"workers": given.workers, "model": Guard(given.model).model}
    say(f"{given.rows:,} rows, {found['repeats']:.1%} repeats")
    command = [sys.executable, "-m", "promptguard", "scan", str(log), "-o", str(folder), "--json"]
    command += ["--workers", str(given.workers), *(["--model", str(given.model)] if given.model else [])]
    legs = []
    for until in [*(int(share * given.rows) for share in sorted(given.kills)), None]:
        legs.append(leg(command, folder, until, say))
        say(json.dumps({name: value for name, value in legs[-1].items() if name != "samples"}))
    wall, cpu = (sum(run[name] for run in legs) for name in ("seconds", "cpu_seconds"))
    found |= {
        "kills": sum(run["killed"] for run in legs),
        "seconds": wall,
        "cpu_seconds": cpu,
        "rows_per_second": given.rows / wall,
        "rows_per_cpu_second": given.rows / cpu,
        "mean_load": float(np.mean([sample["load"] for run in legs for sample in run["samples"]])),
        "legs": [{name: value for name, value in run.items() if name != "samples"} for run in legs],
        "memory": flat(legs[-1]["samples"]),
        "flagged": read_manifest(folder)["flagged"],
    }
    say("checking every row")
    found["check"] = checked(log, folder)
    found["verdicts"] = compared(log, folder, given.rows, given.model)
    say("report")
    began = time.time()
    command = [sys.executable, "-m", "promptguard", "report", str(folder), "--html", str(page)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the report ended with status {process.returncode}")
    found["report"] = {
        "seconds": time.time() - began,
        "most_mb": usage.ru_maxrss / 1000,
        "page_kb": page.stat().st_size / 1000,
        "json_kb": page.with_suffix(".json").stat().st_size / 1000,
    }
    if BROWSER is None:
        say("no browser here: not opened")
    else:
        found["report"]["browser_opens_s"] = min(opened(page.as_uri()) for _ in range(3))
        found["report"]["browser_opens_blank_s"] = min(opened("about:blank") for _ in range(3))
    say(json.dumps(found))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
