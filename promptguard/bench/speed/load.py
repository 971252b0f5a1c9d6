"""Worker processes under load, in a closed or an open loop; what comes back are raw times.

In the open loop arrivals are drawn before the run. A free worker takes the next arrival, waits until it is due and
serves it, so the workers share one queue, first come, first served, and nothing dispatches that could fall behind.
Latency counts from when a query was *due*: a stalled worker makes the queries behind it late, it does not keep them
from arriving (coordinated omission, Tene 2013). Queries that no worker took up before the run was given up have an
infinite latency, so that an overload cannot look fast.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from promptguard.errors import BackendError, InputError, PromptGuardError
from promptguard.guard import Guard
from promptguard.types import Context

Request: TypeAlias = tuple[str, Context | None]
"""A text and its context."""

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_LEAD_SECONDS = 0.05
"""From the last worker's being ready to the beginning of a run."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a server would be laid out.

    Attributes:
        processes: worker processes, each with a ``Guard`` of its own.
        callers: threads of each process that call its guard at the same time.
        threads: threads for one run of the model, and for numpy's products.
        model: folder of a bundle; None for the one that comes with the package.
        providers: onnxruntime execution providers in order of preference.
    """

    processes: int = 1
    callers: int = 1
    threads: int = 1
    model: Path | str | None = None
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def guard(self) -> Guard:
        """A guard as each of the processes has one."""
        return Guard(self.model, threads=self.threads, providers=self.providers)


@dataclass(frozen=True, slots=True)
class Run:
    """What happened to every query of a run, in the order they were due. Times are seconds from the run's beginning.

    Attributes:
        scheduled: when each was due; in a closed loop the same as ``start``.
        start: when a worker took it up; infinite where none did.
        end: when its verdict was there; infinite where there is none.
        request: position in the list of requests of its (first) text.
        worker: number of the worker process; -1 where none took it up.
        batch: texts of one query.
        seconds: how long queries arrived, or were taken up in a closed loop, warm-up left out.
    """

    scheduled: Floats
    start: Floats
    end: Floats
    request: Integers
    worker: Integers
    batch: int
    seconds: float

    @property
    def latency(self) -> Floats:
        """Seconds from when each query was due to its verdict; infinite where there is none."""
        return self.end - self.scheduled

    @property
    def service(self) -> Floats:
        """Seconds from when a worker took each query up to its verdict; not a number where none did."""
        with np.errstate(invalid="ignore"):
            return self.end - self.start

    @property
    def throughput(self) -> float:
        """Texts a second that were served, from the first start to the last end."""
        served = np.isfinite(self.end)
        if not served.any():
            return 0.0
        return self.batch * int(served.sum()) / float(self.end[served].max() - self.start[served].min())


@dataclass(frozen=True, slots=True)
class _Job:
    """What every worker is told of a run.

    Attributes:
        requests: None where they are those of the run before.
        due: when each query is due; None in a closed loop.
        until: seconds after which nothing more is taken up.
        batch: texts of one query.
    """

    requests: Sequence[Request] | None = field(repr=False)
    due: Floats | None
    until: float
    batch: int


class Workers:
    """Started worker processes, for use in a ``with`` statement; all runs within it meet the same processes.

    Args:
        layout: how many, and with which guard.

    Attributes:
        layout: as given.
        active_providers: what onnxruntime really runs the model on, in each process.

    Raises:
        InputError: a number in the layout is below 1.
        PromptGuardError: on entry, if a guard cannot be made.
    """

    def __init__(self, layout: Layout) -> None:
        if min(layout.processes, layout.callers, layout.threads) < 1:
            raise InputError("processes, callers and threads must be at least 1")
        self.layout = layout
        self.active_providers: list[tuple[str, ...]] = []
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._sent: Sequence[Request] | None = None

    def __enter__(self) -> Workers:
        # Started afresh, not forked: as a server's workers are, and without this process's threads and memory.
        spawn = multiprocessing.get_context("spawn")
        self._taken = spawn.Value("q", 0)
        for number in range(self.layout.processes):
            pipe, theirs = spawn.Pipe()
            process = spawn.Process(
                target=_work, args=(theirs, self._taken, self.layout), daemon=True, name=f"promptguard-bench-{number}"
            )
            process.start()
            theirs.close()
            self._pipes.append(pipe)
            self._processes.append(process)
        try:
            self.active_providers += self._answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker ends when its pipe does, or below in the middle of a run
        for process in self._processes:
            process.join(1)
            if process.is_alive():
                process.terminate()
                process.join()
        self._pipes, self._processes = [], []

    @property
    def memory(self) -> list[int | None]:
        """Resident bytes of each process now; None where that is not known."""
        return [resident_memory(process.pid) for process in self._processes]

    def run(
        self,
        requests: Sequence[Request],
        due: Floats | None,
        *,
        seconds: float,
        until: float,
        warm_up: float,
        batch: int,
    ) -> Run:
        """Drive the workers once; ``closed_loop`` and ``open_loop`` say what the arguments mean."""
        if not requests:
            raise InputError("there are no requests to run")
        job = _Job(None if self._sent is requests else list(requests), due, until, batch)
        self._taken.value = 0
        self._send(job)
        self._answers()
        self._sent = requests
        self._send(time.perf_counter() + _LEAD_SECONDS + warm_up)
        rows = np.concatenate([
            np.column_stack([np.full(len(taken), number), np.asarray(taken, np.float64).reshape(-1, 4)])
            for number, taken in enumerate(self._answers())
        ])  # fmt: skip
        rows = rows[np.argsort(rows[:, 1])]
        if due is not None:
            rows = _with_unserved(rows, due)
        rows = rows[rows[:, 2] >= 0]
        return Run(
            scheduled=rows[:, 2],
            start=rows[:, 3],
            end=rows[:, 4],
            request=rows[:, 1].astype(np.int64) * batch % len(requests),
            worker=rows[:, 0].astype(np.int64),
            batch=batch,
            seconds=seconds,
        )

    def _send(self, message: object) -> None:
        for pipe in self._pipes:
            try:
                pipe.send(message)
            except OSError as error:
                raise BackendError("a worker process has ended") from error

    def _answers(self) -> list[Any]:
        answers = []
        for pipe in self._pipes:
            try:
                answer = pipe.recv()
            except EOFError:
                raise BackendError("a worker process has ended") from None
            if isinstance(answer, _Failed):
                raise BackendError(f"a worker process failed: {answer.message}")
            answers.append(answer)
        return answers


def closed_loop(
    workers: Workers, requests: Sequence[Request], *, seconds: float, warm_up: float = 1.0, batch: int = 1
) -> Run:
    """Each caller sends its next query when it has the verdict on the last.

    This measures service times and capacity. It says nothing of latency under load: a slow verdict delays the
    next query.

    Args:
        workers: entered workers.
        requests: texts in contexts, taken in order and again from the first when they run out. Contexts that are
            meant to be new need a list long enough that the guard has forgotten them by then.
        seconds: how long queries are taken up; those under way are finished.
        warm_up: seconds before that whose queries are not returned.
        batch: texts of one query, analysed in one call.

    Returns:
        Every query taken up after the warm-up.

    Raises:
        InputError: there are no requests.
        BackendError: a worker failed or ended.
    """
    return workers.run(requests, None, seconds=seconds, until=seconds, warm_up=warm_up, batch=batch)


def open_loop(
    workers: Workers,
    requests: Sequence[Request],
    *,
    rate: float,
    seconds: float,
    seed: int,
    warm_up: float = 1.0,
    patience: float | None = None,
) -> Run:
    """Queries arrive when they arrive, whatever has become of those before: a Poisson process of a given rate.

    With the same seed the arrivals at two rates are the same but for their unit of time, so that latencies differ
    for the rate and not for the luck of the draw.

    Args:
        workers: entered workers.
        requests: texts in contexts, one a query, taken in order and again from the first when they run out.
        rate: mean arrivals a second.
        seconds: how long queries arrive; 1,000 of them take ``1000 / rate``.
        seed: of the arrivals.
        warm_up: seconds of arrivals before that, at the same rate, whose queries are not returned.
        patience: seconds after the last arrival at which queries nobody has taken up are given up; None for as long
            as they arrived.

    Returns:
        Every query that arrived after the warm-up, served or not.

    Raises:
        InputError: there are no requests, or the rate or the time is not positive.
        BackendError: a worker failed or ended.
    """
    if not (rate > 0 and seconds > 0 and math.isfinite(rate * seconds)):
        raise InputError("rate and seconds must be positive numbers")
    due = arrivals(rate, warm_up + seconds, seed) - warm_up
    until = seconds + (seconds if patience is None else patience)
    return workers.run(requests, due, seconds=seconds, until=until, warm_up=warm_up, batch=1)


def arrivals(rate: float, seconds: float, seed: int) -> Floats:
    """Times of a Poisson process in ``[0, seconds)``, ascending.

    Args:
        rate: mean arrivals a second.
        seconds: length of the period.
        seed: same seed, same times but for their unit.
    """
    expected = rate * seconds
    number = int(expected + 10 * math.sqrt(expected) + 10)  # ten standard deviations: enough, always
    times = np.cumsum(np.random.default_rng(seed).exponential(size=number)) / rate
    return times[times < seconds]


def _with_unserved(rows: Floats, due: Floats) -> Floats:
    """The rows of an open loop with those that no worker took up, in the order they were due."""
    every = np.column_stack([
        np.full(len(due), -1.0), np.arange(len(due)), due, np.full(len(due), np.inf), np.full(len(due), np.inf)
    ])  # fmt: skip
    every[rows[:, 1].astype(np.int64)] = rows
    return every


# --- in a worker process ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why a worker could not go on; nothing of a text."""

    message: str


def _work(pipe: Connection, taken: Any, layout: Layout) -> None:
    """What a worker process does: load a guard, then a run whenever it is told to, until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    try:
        guard = layout.guard()
        guard.analyze("warm up")
        pipe.send(guard._loaded.runtime.active_providers)
        requests: Sequence[Request] = ()
        while True:
            job: _Job = pipe.recv()
            requests = requests if job.requests is None else job.requests
            pipe.send(None)
            pipe.send(_drive(guard, taken, job, requests, layout.callers, pipe.recv()))
    except (EOFError, BrokenPipeError):  # the parent has gone
        return
    except PromptGuardError as error:
        pipe.send(_Failed(str(error)))
    except Exception as error:  # its message may quote a text
        pipe.send(_Failed(f"{type(error).__name__}: a bug in promptguard"))


def _drive(
    guard: Guard, taken: Any, job: _Job, requests: Sequence[Request], callers: int, origin: float
) -> list[tuple[int, float, float, float]]:
    """Serve queries of a run until there are none left: number, due, start and end of each, in seconds from origin."""
    rows: list[tuple[int, float, float, float]] = []
    failed: list[Exception] = []

    def call() -> None:
        try:
            while not failed:
                with taken.get_lock():
                    number = taken.value
                    taken.value += 1
                if job.due is not None:
                    if number >= len(job.due):
                        return
                    wait = origin + job.due[number] - time.perf_counter()
                    if wait > 0:
                        time.sleep(wait)
                first = number * job.batch
                pairs = [requests[i % len(requests)] for i in range(first, first + job.batch)]
                start = time.perf_counter() - origin
                if start >= job.until:
                    return
                guard.analyze_many(pairs)
                end = time.perf_counter() - origin
                rows.append((number, start if job.due is None else float(job.due[number]), start, end))
        except Exception as error:  # raised again below, in the thread that can tell the parent
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return rows


def resident_memory(process: int | None = None) -> int | None:
    """Resident bytes of a process, by default of this one; None where the system does not say."""
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    sizes = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return next((1024 * int(size) for size in sizes), None)
