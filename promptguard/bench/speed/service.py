"""How long a request occupies a worker: fitted to load runs, for requests that were not in them.

A request's work is linear in what the encoder does for it: a constant, one more where its context is new, tokens of
text, tokens of a new context, and pairs of tokens that attend to each other; and a constant where its worker had
nothing to do before (``waking``: the worker and its caches). It takes longer while other workers are busy
(``slowdown``), and what is left over, the jitter of the machine, is kept as it was measured and drawn from.

Fitted to is the whole time a request keeps a worker from the next one, from when it is due and the worker free to
its verdict: being dispatched is in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptguard.bench.speed.load import Floats, Integers, Run
from promptguard.errors import InputError, MissingExtraError

try:
    from scipy.optimize import least_squares, nnls
except ImportError as missing:
    raise MissingExtraError("bench", "sizing") from missing

Bools = npt.NDArray[np.bool_]

TERMS = ("call", "new context", "text tokens", "new context tokens", "token pairs")
"""What the work of a request is linear in; ``work_terms`` has a column for each."""

_NEIGHBOURS = 0.02
"""Share of the fitted requests, to each side, that a request of similar work draws its jitter from."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A load run as the model is fitted to it, one row a request.

    Attributes:
        terms: of shape (requests, terms), from ``work_terms``.
        occupied: seconds from when the request was due and its worker free to its verdict.
        woken: 1 where its worker had nothing to do before, else 0.
        busy: share of that time in which 1, 2, … workers were busy, this one included; of shape (requests, workers).
    """

    terms: Floats
    occupied: Floats
    woken: Floats
    busy: Floats

    @classmethod
    def of(cls, run: Run, terms: Floats, workers: int) -> Observed:
        """Take a run apart.

        Args:
            run: of workers that serve one request at a time.
            terms: of each query of the run.
            workers: how many there were.

        Raises:
            InputError: a query has no verdict: the run was overloaded.
        """
        if not np.isfinite(run.end).all():
            raise InputError("a run whose queries were not all served cannot be fitted to")
        free = np.full(len(run.end), -np.inf)
        for worker in range(workers):
            own = np.flatnonzero(run.worker == worker)
            own = own[np.argsort(run.start[own])]
            free[own[1:]] = run.end[own[:-1]]
        begin = np.maximum(run.scheduled, free)
        woken = (run.scheduled > free).astype(np.float64)
        return cls(terms, run.end - begin, woken, _shares(begin, run.end, workers))


def _shares(begin: Floats, end: Floats, workers: int) -> Floats:
    """Share of each interval in which 1, 2, … intervals overlap, itself included."""
    times = np.concatenate([begin, end])
    order = np.argsort(times, kind="stable")
    times = times[order]
    count = np.cumsum(np.repeat([1, -1], len(begin))[order])
    columns = []
    for k in range(1, workers + 1):
        # The last worker may seem to overlap with itself by the width of a clock's tick.
        so_many = (count == k) if k < workers else (count >= k)
        spent = np.concatenate([[0.0], np.cumsum(np.diff(times) * so_many[:-1])])
        columns.append(np.interp(end, times, spent) - np.interp(begin, times, spent))
    shares = np.column_stack(columns)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def work_terms(context: Integers, text: Integers, windows: Integers, new: Bools) -> Floats:
    """What the work of requests is linear in.

    Args:
        context: tokens of each request's context.
        text: tokens of its windows together.
        windows: number of its windows.
        new: whether its context has to be run.

    Returns:
        Array of shape (requests, terms).
    """
    pairs = text * (context + text / np.maximum(windows, 1)) + new * context**2
    return np.column_stack([np.ones(len(text)), new, text, new * context, pairs]).astype(np.float64)


def new_contexts(contexts: Integers, tokens: Integers, workers: Integers, kept: int) -> Bools:
    """Which requests meet a worker that does not know their context, or no longer.

    Args:
        contexts: a number for each request, the same for the same context.
        tokens: of each request's context; 0 for none, which is never new.
        workers: who serves each request.
        kept: tokens of contexts that a worker keeps, the least recently used going first.

    Returns:
        One flag a request.
    """
    caches: dict[int, OrderedDict[int, int]] = {}
    held: dict[int, int] = {}
    new = np.zeros(len(contexts), np.bool_)
    rows = zip(contexts.tolist(), tokens.tolist(), workers.tolist(), strict=True)
    for i, (context, size, worker) in enumerate(rows):
        cache = caches.setdefault(worker, OrderedDict())
        if size == 0:
            continue
        if context in cache:
            cache.move_to_end(context)
            continue
        new[i] = True
        cache[context] = size
        held[worker] = held.get(worker, 0) + size
        while held[worker] > kept:
            held[worker] -= cache.popitem(last=False)[1]
    return new


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Time that requests occupy a worker.

    Attributes:
        seconds: for each of ``TERMS``.
        waking: seconds more where the worker had nothing to do before.
        slowdown: for 1, 2, … busy workers, how many times longer work takes than alone.
        jitter: factor between measured and fitted time of each fitted request, by ``work``.
        work: fitted seconds of each of them, ascending.
    """

    seconds: Floats
    waking: float
    slowdown: tuple[float, ...]
    jitter: Floats
    work: Floats

    @classmethod
    def fit(cls, runs: Sequence[Observed], *, saturates_at: int | None = None) -> ServiceModel:
        """Fit to load runs, by least squares on relative error.

        Args:
            runs: at two loads or more, with the same number of workers.
            saturates_at: number of busy workers beyond which they share cores (hyper-threads), so that the slowdown
                may bend there; None if it is not reached.

        Returns:
            The model.

        Raises:
            InputError: there are fewer than 100 requests.
        """
        terms = np.concatenate([np.column_stack([run.terms, run.woken]) for run in runs])
        occupied = np.concatenate([run.occupied for run in runs])
        busy = np.concatenate([run.busy for run in runs])
        if len(occupied) < 100:
            raise InputError(f"{len(occupied)} requests are too few to fit service times to: at least 100")
        shape = _slowdown_shape(busy.shape[1], saturates_at)
        scale = np.where(terms.mean(axis=0) > 0, terms.mean(axis=0), 1.0)
        scaled = terms / scale
        start, _ = nnls(scaled / occupied[:, None], np.ones(len(occupied)))

        def error(parameters: Floats) -> Floats:
            seconds, rise = np.split(parameters, [terms.shape[1]])
            alone = occupied * (busy / (1 + shape @ rise)).sum(axis=1)
            return np.asarray(np.log(alone) - np.log(np.maximum(scaled @ seconds, 1e-12)), np.float64)

        first = np.concatenate([np.maximum(start, 1e-3 * start.max()), np.full(shape.shape[1], 0.05)])
        found = least_squares(error, first, bounds=(0, np.inf), x_scale=np.maximum(first, 1e-6))
        seconds, rise = np.split(found.x, [terms.shape[1]])
        work = scaled @ seconds
        order = np.argsort(work, kind="stable")
        *per_term, waking = (seconds / scale).tolist()
        return cls(
            seconds=np.array(per_term),
            waking=waking,
            slowdown=tuple((1 + shape @ rise).tolist()),
            jitter=np.exp(error(found.x))[order],
            work=work[order],
        )

    def draw(self, terms: Floats, generator: np.random.Generator) -> Floats:
        """Seconds that requests would occupy a worker that works alone, jitter included.

        Args:
            terms: from ``work_terms``.
            generator: of the jitter, which is that of fitted requests with about as much work.

        Returns:
            Array of shape (requests,).
        """
        work = terms @ self.seconds
        reach = max(10, int(_NEIGHBOURS * len(self.work)))
        place = np.searchsorted(self.work, work) + generator.integers(-reach, reach + 1, len(work))
        return np.asarray(work * self.jitter[np.clip(place, 0, len(self.work) - 1)], np.float64)

    def capacity(self, services: Floats) -> float:
        """Requests a second with every worker always busy.

        Args:
            services: seconds of requests of the mix, from ``draw``.
        """
        return len(self.slowdown) / (float(services.mean()) * self.slowdown[-1])


def _slowdown_shape(workers: int, saturates_at: int | None) -> Floats:
    """What the slowdown of 1, 2, … busy workers is linear in, beyond 1: of shape (workers, 0, 1 or 2)."""
    others = np.arange(workers, dtype=np.float64)
    columns = [others / (workers - 1)] if workers > 1 else []
    if saturates_at is not None and 1 <= saturates_at < workers:
        columns.append(np.maximum(0, others + 1 - saturates_at) / (workers - saturates_at))
    return np.column_stack(columns) if columns else np.zeros((workers, 0))
