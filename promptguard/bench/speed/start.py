"""What it takes before the first verdict: imports, loading, memory, space on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from promptguard import bundle
from promptguard.bench.speed.load import Layout
from promptguard.errors import BackendError

_PACKAGE = Path(bundle.__file__).parent

# Times are seconds on a clock that all processes share: perf_counter is system-wide.
_PROGRAM = """
import json, sys, time
began = float(sys.argv[1])
settings = json.loads(sys.argv[2])
def memory():
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    except OSError:
        return None
marks = [("interpreter", time.perf_counter() - began, memory())]
import promptguard
marks.append(("import promptguard", time.perf_counter() - began, memory()))
from promptguard import Guard
guard = Guard(settings["model"], threads=settings["threads"], providers=settings["providers"])
marks.append(("Guard()", time.perf_counter() - began, memory()))
guard.analyze("Where is my order?")
marks.append(("first verdict", time.perf_counter() - began, memory()))
guard.analyze("Where is my order?")
marks.append(("second verdict", time.perf_counter() - began, memory()))
print(json.dumps(marks))
"""

STEPS = ("interpreter", "import promptguard", "Guard()", "first verdict", "second verdict")
"""Steps of a fresh process, in order."""


def cold_starts(layout: Layout, number: int) -> dict[str, Any]:
    """Start fresh processes, one after the other, up to their second verdict.

    The files are in the system's cache from the second on: what a disk adds is not in it.

    Args:
        layout: with what guard.
        number: of processes.

    Returns:
        ``ms`` by step: how long each step took in each process; ``resident_bytes`` by step: the median over the
        processes, None where the system does not say.

    Raises:
        BackendError: a process failed.
    """
    model = None if layout.model is None else str(Path(layout.model).resolve())
    settings = json.dumps({"model": model, "threads": layout.threads, "providers": layout.providers})
    runs = []
    for _ in range(number):
        command = [sys.executable, "-c", _PROGRAM, repr(time.perf_counter()), settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise BackendError(f"a fresh process could not give a verdict: {reason[0]}")
        runs.append(json.loads(done.stdout))
    took: dict[str, list[float]] = {step: [] for step in STEPS}
    held: dict[str, list[int]] = {step: [] for step in STEPS}
    for marks in runs:
        before = 0.0
        for step, at, memory in marks:
            took[step].append(round(1000 * (at - before), 3))
            before = at
            if memory is not None:
                held[step].append(memory)
    return {
        "ms": took,
        "resident_bytes": {step: sorted(sizes)[len(sizes) // 2] if sizes else None for step, sizes in held.items()},
    }


def space(layout: Layout) -> dict[str, int]:
    """Bytes on disk.

    Args:
        layout: with which bundle.

    Returns:
        ``package``: this package's files, its bundle included; ``compressed``: the same, each file compressed as in a
        wheel; ``bundle``: the files of the bundle in use; ``graph``: its graph alone.
    """
    files = [p for p in _PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    files = [p for p in files if not p.is_relative_to(_PACKAGE / "training" / "data")]  # not in the wheel
    opened = bundle.load(layout.model)
    return {
        "package": sum(p.stat().st_size for p in files),
        "compressed": sum(len(zlib.compress(p.read_bytes())) for p in files),
        "bundle": sum(opened.path(name).stat().st_size for name in (bundle.MANIFEST, *opened.manifest["files"])),
        "graph": opened.path(bundle.GRAPH).stat().st_size,
    }
