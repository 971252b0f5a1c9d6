"""Memory of the worker processes of a scan, and what they could share.

    python benchmarks/workers.py --out benchmarks/results/workers.json

*spawn* is what ``scan`` does: each worker starts afresh and loads its model. *forkserver* forks workers from a process
that has imported the modules but opened no model; *fork* from one that has a model, against the library's own rule that
a process opens its model after a fork: it shows what could be shared, not what is safe. Megabytes a worker, after the
same texts, read from ``/proc``: Linux alone. *Own* pages belong to that process alone; *proportional* counts a shared
page in parts. Last, what a session alone takes of its own: from the bundle's one file, and from a graph whose weights
lie in a file beside it, which onnxruntime maps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from promptguard import Context, bundle, runtime
from promptguard.bench.provenance import provenance
from promptguard.logs import score

TEXTS = 8
"""For each worker."""


def megabytes(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) / 1000 for name, _, rest in (line.partition(":") for line in lines)}
    return {
        "resident": sizes["Rss"],
        "proportional": sizes["Pss"],
        "own": sizes["Private_Dirty"] + sizes["Private_Clean"],
    }


def measure(context: BaseContext, workers: int, settings: score.Settings | None) -> dict[str, float]:
    """Means over the workers; without settings they have a model already."""
    start = {} if settings is None else {"initializer": score.start, "initargs": (settings,)}
    with ProcessPoolExecutor(workers, context, **start) as executor:
        situation = Context(system_prompt="You are the chat of a shop.")
        jobs = [executor.submit(score.work, [(f"Where is order {i}?", situation)]) for i in range(TEXTS * workers)]
        for job in jobs:
            job.result()
        found = [megabytes(pid) for pid in executor._processes]
    return {name: sum(row[name] for row in found) / len(found) for name in found[0]}


def session_megabytes(graph: Path) -> float:
    """Own memory that opening a graph takes."""
    before = megabytes(os.getpid())["own"]
    opened = runtime.Runtime(graph, threads=1, providers=score.CPU)
    return megabytes(os.getpid())["own"] - before if opened.active_providers else 0.0


def sessions(graph: Path) -> dict[str, float]:
    """Of the graph in one file, and with its weights beside it, each in a process of its own."""
    with TemporaryDirectory() as folder:
        mapped = Path(folder) / graph.name
        onnx.save_model(onnx.load(graph), mapped, save_as_external_data=True, location="weights", size_threshold=1024)
        found = {}
        for name, path in {"one file": graph, "weights beside it": mapped}.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
                found[name] = executor.submit(session_megabytes, path).result()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    settings = score.Settings()
    found: dict[str, Any] = {}
    sessions_mb = sessions(bundle.load().path(bundle.GRAPH))
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["promptguard.logs.score"])
    for number in given.workers:
        found[str(number)] = {
            "spawn": measure(multiprocessing.get_context("spawn"), number, settings),
            "forkserver": measure(server, number, settings),
        }
    score._guard = settings.guard()
    score._guard.analyze("loads the model")
    runtime._RUNTIMES.clear()  # else a fork opens its own
    for number in given.workers:
        found[str(number)]["fork"] = measure(multiprocessing.get_context("fork"), number, None)
    opened = bundle.load()
    result = {
        **provenance(sys.argv),
        "model": opened.id,
        "graph_mb": opened.path(bundle.GRAPH).stat().st_size / 1e6,
        "contexts_mb": score.CACHE_MEGABYTES,
        "workers": found,
        "session_mb": sessions_mb,
    }
    print(json.dumps(result, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # the guard's own handlers of forks were taken away


if __name__ == "__main__":
    main()
