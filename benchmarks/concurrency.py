"""Two processes on two cores against one, and 32 threads that share one Guard. Linux: cores are assigned.

    python benchmarks/concurrency.py --out benchmarks/results/concurrency.json

*Processes*: each has a core and a Guard of its own, one thread, and analyses texts of 60 tokens in a context of 120
that it has seen, for as long as the others; first each alone, then all together, in turns. *Threads*: one Guard on one
core and on two is given the same texts, of many lengths and in new and seen contexts, by one thread for each core and
by 32, in turns; every verdict is compared, bit by bit, with that of a single thread. Intervals come from resampling
rounds. A process that does not answer in ``PATIENCE`` seconds counts as deadlocked and fails the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from latency import words

from promptguard import Analysis, Context, Guard
from promptguard.bench.provenance import provenance

ROUNDS = 8
SECONDS = 4.0
TEXTS = 240
THREADS = 32
PATIENCE = 180


def verdict(analysis: Analysis) -> str:
    """All an analysis says but how long it took; floats are written so that equal spelling is equal bits."""
    content = analysis.to_dict()
    del content["coverage"]["milliseconds"]
    return json.dumps(content, sort_keys=True)


def mixed(count: int) -> list[tuple[str, Context | None]]:
    """Texts of 5 to 250 tokens; a third without context, a third in contexts of few, a third each in its own."""
    lengths = np.random.default_rng(0).integers(5, 250, count)
    contexts = [None, *(Context(system_prompt=words(100, seed)) for seed in range(4))]
    return [
        (words(int(tokens), i), contexts[i % 5] if i % 3 else Context(system_prompt=words(60, 100 + i)))
        for i, tokens in enumerate(lengths)
    ]


def speed(calls: int, began: float, processor: float) -> tuple[float, float]:
    """Calls a second since it began, and the processor's milliseconds for each, which others disturb less."""
    return calls / (time.perf_counter() - began), 1000 * (time.process_time() - processor) / calls


def serve(connection: Connection, cores: set[int], model: Path | None) -> None:
    """A process of its own on its cores: one Guard, and orders until there is none."""
    os.sched_setaffinity(0, cores)
    seen = Context(system_prompt=words(118, 1))
    short = [words(58, seed) for seed in range(200)]
    pairs = mixed(TEXTS)
    guard = Guard(model)
    for text in short[:20]:
        guard.analyze(text, seen)
    connection.send("ready")
    while (order := connection.recv()) is not None:
        if "seconds" in order:
            calls, began, processor = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - began < order["seconds"]:
                guard.analyze(short[calls % len(short)], seen)
                calls += 1
            connection.send(speed(calls, began, processor))
        else:
            guard = Guard(model)  # with no context read yet
            guard.analyze("loads the model")
            texts, contexts = zip(*pairs[: order["texts"]], strict=True)
            began, processor = time.perf_counter(), time.process_time()
            with ThreadPoolExecutor(order["threads"]) as pool:
                analyses = list(pool.map(guard.analyze, texts, contexts))
            found = speed(len(analyses), began, processor)
            connection.send((found, [verdict(analysis) for analysis in analyses]))


class Worker:
    """The other end of ``serve``."""

    def __init__(self, cores: Sequence[int], model: Path | None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs, set(cores), model), daemon=True)
        self._process.start()
        self.answer()

    def order(self, what: dict[str, Any] | None) -> None:
        """Begin; ``answer`` waits for the end. None is the last order."""
        self._connection.send(what)

    def answer(self) -> Any:
        """What came of it."""
        if not self._connection.poll(PATIENCE):
            self._process.kill()
            sys.exit(f"concurrency: no answer in {PATIENCE} seconds")
        return self._connection.recv()


def together(workers: Sequence[Worker], what: dict[str, Any]) -> list[Any]:
    """The same order to several at once."""
    for worker in workers:
        worker.order(what)
    return [worker.answer() for worker in workers]


def ratio(above: Sequence[float], below: Sequence[float], replicates: int = 5000) -> dict[str, float]:
    """Sum over sum, with a 95 % interval from drawing rounds with replacement."""
    a, b = np.asarray(above), np.asarray(below)
    drawn = np.random.default_rng(0).integers(0, len(a), (replicates, len(a)))
    low, high = np.quantile(a[drawn].sum(axis=1) / b[drawn].sum(axis=1), (0.025, 0.975))
    return {"value": float(a.sum() / b.sum()), "low": float(low), "high": float(high)}


def side(turns: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """One side of a comparison, round by round."""
    return {"per_second": [rate for rate, _ in turns], "processor_ms": [ms for _, ms in turns]}


def processes(cores: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Each process alone, on average, against all at once."""
    workers = [Worker([core], options.model) for core in cores]
    few, many = [], []
    for done in range(options.rounds + 1):
        alone = [together([worker], {"seconds": options.seconds})[0] for worker in workers]
        joint = together(workers, {"seconds": options.seconds})
        if done:  # the first round warms up
            (rates, ms), (joint_rates, joint_ms) = zip(*alone, strict=True), zip(*joint, strict=True)
            few.append((sum(rates) / len(rates), sum(ms) / len(ms)))
            many.append((sum(joint_rates), sum(joint_ms) / len(joint_ms)))
    for worker in workers:
        worker.order(None)
    over = ratio([rate for rate, _ in many], [rate for rate, _ in few])
    return {"processes": len(cores), "few": side(few), "many": side(many), "ratio": over}


def threads(cores: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """One thread a core against 32 with the same Guard, and whether their verdicts are those of one thread."""
    worker = Worker(cores, options.model)
    _, expected = together([worker], {"threads": 1, "texts": options.texts})[0]
    few, many, equal = [], [], True
    for _ in range(options.rounds):
        for count, turns in ((len(cores), few), (THREADS, many)):
            found, verdicts = together([worker], {"threads": count, "texts": options.texts})[0]
            turns.append(found)
            equal = equal and verdicts == expected
    worker.order(None)
    over = ratio([rate for rate, _ in many], [rate for rate, _ in few])
    facts = {"cores": len(cores), "threads": THREADS, "texts": options.texts, "verdicts_equal": equal}
    return facts | {"few": side(few), "many": side(many), "ratio": over}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="a bundle; the embedded one if left out")
    add("--rounds", type=int, default=ROUNDS)
    add("--seconds", type=float, default=SECONDS, help="of each turn of a process")
    add("--texts", type=int, default=TEXTS, help=f"that the threads share, {TEXTS} at most")
    add("--out", type=Path)
    options = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("concurrency: this system cannot assign cores to processes")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("concurrency: two cores are needed")
    result = provenance(sys.argv) | {"model": Guard(options.model).model, "load_before": os.getloadavg()[0]}
    result["settings"] = {"rounds": options.rounds, "seconds": options.seconds}
    result["processes"] = processes(cores, options)
    print({k: v for k, v in result["processes"].items() if k not in ("few", "many")}, flush=True)
    result["threads"] = [threads(cores[:count], options) for count in (1, 2)]
    for row in result["threads"]:
        print({k: v for k, v in row.items() if k not in ("few", "many")})
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if not all(row["verdicts_equal"] for row in result["threads"]):
        sys.exit("concurrency: threads changed a verdict")


if __name__ == "__main__":
    main()
