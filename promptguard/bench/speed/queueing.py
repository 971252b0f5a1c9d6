"""Latency of requests that queue for the workers of one machine, simulated with SimPy.

A request takes the first worker that is free, in order of arrival (G/G/c with one queue). Workers on one machine slow
each other down: while ``k`` of them are busy each proceeds at ``1 / slowdown[k - 1]`` of the speed it has alone.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from promptguard.errors import InputError, MissingExtraError

try:
    import simpy
except ImportError as missing:
    raise MissingExtraError("bench", "sizing") from missing

Floats = npt.NDArray[np.float64]


class _Machine:
    """The workers that are busy, all at the speed that their number allows.

    They proceed alike, so that one clock of work done serves them all: whoever has the least work left is next.
    """

    def __init__(self, env: simpy.Environment, slowdown: Sequence[float]) -> None:
        self._env, self._slowdown = env, slowdown
        self._ends: list[tuple[float, int, simpy.Event]] = []
        self._clock = 0.0
        self._read_at = 0.0
        self._alarms = 0

    def work(self, seconds: float, number: int) -> simpy.Event:
        """Begin work of that many seconds alone; the event is its end."""
        if self._ends:
            self._clock += (self._env.now - self._read_at) / self._slowdown[len(self._ends) - 1]
        self._read_at = self._env.now
        done = self._env.event()
        heapq.heappush(self._ends, (self._clock + seconds, number, done))
        self._set_alarm()
        return done

    def _set_alarm(self) -> None:
        """Wake up when the next worker is done, unless another begins or ends before."""
        self._alarms += 1
        if self._ends:
            left = (self._ends[0][0] - self._clock) * self._slowdown[len(self._ends) - 1]
            alarm = self._env.timeout(max(0.0, left), self._alarms)
            assert alarm.callbacks is not None  # noqa: S101 - simpy sets it to None once the event is over
            alarm.callbacks.append(self._end_of_work)

    def _end_of_work(self, alarm: simpy.Event) -> None:
        if alarm.value == self._alarms:
            self._clock, _, done = heapq.heappop(self._ends)
            self._read_at = self._env.now
            self._set_alarm()
            done.succeed()


def simulate(arrivals: Floats, services: Floats, slowdown: Sequence[float], waking: float = 0.0) -> Floats:
    """Let requests queue for workers.

    Args:
        arrivals: when each comes, in seconds, ascending.
        services: how long each would occupy a worker that works alone, in seconds.
        slowdown: for 1, 2, … busy workers, how many times longer work takes than alone; as many as there are workers.
        waking: seconds of work more for a request whose worker had nothing to do before.

    Returns:
        Seconds from each request's arrival to its end.

    Raises:
        InputError: there are no workers, or the arrays do not fit each other.
    """
    if not slowdown or min(slowdown) <= 0:
        raise InputError("slowdown must have a positive number for each worker")
    if arrivals.shape != services.shape or arrivals.ndim != 1 or (np.diff(arrivals) < 0).any():
        raise InputError("arrivals must ascend, and services be as many")
    env = simpy.Environment()
    machine = _Machine(env, slowdown)
    queue: deque[int] = deque()
    idle: deque[simpy.Event] = deque()
    ends = np.zeros(len(arrivals))

    def worker() -> Generator[simpy.Event, None, None]:
        while True:
            seconds = 0.0
            if not queue:
                idle.append(env.event())
                yield idle[-1]
                seconds = waking
            number = queue.popleft()
            yield machine.work(seconds + float(services[number]), number)
            ends[number] = env.now

    def source() -> Generator[simpy.Event, None, None]:
        for number, when in enumerate(arrivals.tolist()):
            yield env.timeout(max(0.0, when - env.now))
            queue.append(number)
            if idle:
                idle.popleft().succeed()

    for _ in slowdown:
        env.process(worker())
    env.process(source())
    env.run()
    return ends - arrivals
