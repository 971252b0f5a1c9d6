"""The model as a function: ids in, logits out, through onnxruntime.

A context is run once and its keys and values kept; each window of text is run with them as its past.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from promptguard.errors import BackendError


def _silent_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    From 1.29 its wheels report to their maker by default, from a thread that also keeps a forked
    process from ending. The variable is read once, when the library starts.
    """
    asked_for = os.environ.get("ORT_DISABLE_TELEMETRY")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    finally:
        if asked_for is None:
            del os.environ["ORT_DISABLE_TELEMETRY"]
    if asked_for is None:
        onnxruntime.disable_telemetry_events()  # for where somebody else imported it first
    return onnxruntime


onnxruntime = _silent_onnxruntime()

Floats: TypeAlias = NDArray[np.float32]
Keys: TypeAlias = tuple[NDArray[Any], ...]
"""A context's keys and values, layer by layer: arrays of shape (1, heads, context tokens, 32)."""

CACHE_MEGABYTES = 96
"""Most memory for contexts: 20 of 256 tokens in a network of six layers, 384 wide, in 32 bits."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the model says of one window.

    Attributes:
        logits: ten intents, then risk; shape (11,).
        span_logits: whether each token belongs to an attack, special tokens left out; shape (tokens - 2,).
        embedding: unit vector of the window; shape (hidden,).
    """

    logits: Floats
    span_logits: Floats
    embedding: Floats


class Runtime:
    """One onnxruntime session and the contexts it has read.

    Safe to share between threads. After a fork the child makes a session of its own at its first run.

    Args:
        graph: the bundle's ONNX file.
        threads: threads for one run.
        providers: onnxruntime execution providers, in order of preference.
        cache_megabytes: most memory for contexts that were read.

    Attributes:
        turn: to be held while a text is read, by as many threads at a time as there are cores: more would push each
            other's data out of the cores' caches. Not by a thread that holds it already.
        takes_batches: whether the graph has a mask and may be given several windows at once.
        active_providers: what onnxruntime runs the graph on.
        safe_int8: whether 8-bit products take the slower way that cannot overflow, with the same results.

    Raises:
        BackendError: a provider is not available, or the session cannot be made.
    """

    def __init__(
        self, graph: Path, *, threads: int, providers: Sequence[str], cache_megabytes: int = CACHE_MEGABYTES
    ) -> None:
        available = onnxruntime.get_available_providers()
        missing = [p for p in providers if p not in available]
        if missing or not providers:
            raise BackendError(f"onnxruntime has no {', '.join(missing) or 'provider'}; here: {', '.join(available)}")
        self._graph = graph
        self._threads = threads
        self._turns = max(1, cores() // threads)
        self._providers = list(providers)
        self._cache_bytes = cache_megabytes * 2**20
        self.safe_int8 = needs_safe_int8()
        self._session: Any = self._open()
        self._forget_contexts()
        self.active_providers: tuple[str, ...] = tuple(self._session.get_providers())
        if self._providers[0] not in self.active_providers:
            raise BackendError(f"onnxruntime fell back from {self._providers[0]} to {self.active_providers[0]}")
        inputs = {i.name: i for i in self._session.get_inputs()}
        if "past_key_0" not in inputs:
            raise BackendError("the graph does not take a context's keys and values: it is not one of this library's")
        self.takes_batches = "mask" in inputs
        past = inputs["past_key_0"]
        dtype = np.float16 if "float16" in past.type else np.float32
        layers = sum(name.startswith("past_key") for name in inputs)
        self._presents = [f"present_{part}_{i}" for i in range(layers) for part in ("key", "value")]
        self._pasts = [name.replace("present", "past") for name in self._presents]
        self._nothing: Keys = (np.zeros((1, past.shape[1], 0, past.shape[3]), dtype),) * (2 * layers)
        _RUNTIMES.add(self)

    def _open(self) -> Any:
        """A session over the graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.safe_int8:
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return onnxruntime.InferenceSession(str(self._graph), options, providers=self._providers)
        except Exception as error:  # onnxruntime raises classes of its own without a common base
            raise BackendError("onnxruntime could not open the model") from error

    def _forget_contexts(self) -> None:
        """An empty cache, and locks that nobody holds."""
        self._lock = threading.Lock()
        self.turn = threading.BoundedSemaphore(self._turns)
        self._contexts: OrderedDict[tuple[int, ...], Keys] = OrderedDict()
        self._cached_bytes = 0

    @property
    def contexts_kept(self) -> int:
        """Tokens of contexts whose keys and values are kept, all contexts together."""
        return int(self._cache_bytes // sum(k.shape[1] * k.shape[3] * k.itemsize for k in self._nothing))

    @property
    def batches(self) -> bool:
        """Whether several windows are best run together.

        Never on a processor: nothing is gained, and a window's last bits would depend on its neighbours.
        """
        return self.takes_batches and self.active_providers[0] != "CPUExecutionProvider"

    def run(self, context: tuple[int, ...], window: tuple[int, ...]) -> Output:
        """Read one window of text in one context.

        Args:
            context: ids of the context; empty where none is known.
            window: ids of the window, special tokens included.

        Returns:
            The window's logits and embedding.

        Raises:
            BackendError: onnxruntime failed, or gave numbers that are not finite.
        """
        return self.run_batch([context], [window])[0]

    def run_batch(self, contexts: Sequence[tuple[int, ...]], windows: Sequence[tuple[int, ...]]) -> list[Output]:
        """Read several windows in one run; more than one only if the graph ``takes_batches``.

        Args:
            contexts: ids of each window's context.
            windows: ids of each window.

        Returns:
            One output a window, in order.

        Raises:
            BackendError: as ``run``.
        """
        longest = max(map(len, windows))
        ids = np.zeros((len(windows), longest), np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
        keys = [self._keys(context) for context in contexts]
        feed = self._feed(ids, 1, _stack(keys))
        if self.takes_batches:
            most = max(map(len, contexts))
            feed["mask"] = np.concatenate([_mask(contexts, most), _mask(windows, longest)], axis=1)
        logits, spans, embedding = self._call(["logits", "span_logits", "embedding"], feed)
        if not math.isfinite(logits.sum() + spans.sum() + embedding.sum()):
            raise BackendError("the model gave numbers that are not finite")
        return [
            Output(logits[row], spans[row, 1 : len(window) - 1], embedding[row]) for row, window in enumerate(windows)
        ]

    def _keys(self, context: tuple[int, ...]) -> Keys:
        """Keys and values of a context, from the cache or from a run; the least recently used give way."""
        if not context:
            return self._nothing
        with self._lock:
            known = self._contexts.get(context)
            if known is not None:
                self._contexts.move_to_end(context)
                return known
        feed = self._feed(np.array([context], np.int64), 0, self._nothing)
        if self.takes_batches:
            feed["mask"] = np.ones((1, len(context)), np.int64)
        keys = tuple(self._call(self._presents, feed))
        size = sum(k.nbytes for k in keys)
        with self._lock:
            # Two threads may have read the same context: the results are equal, one is kept.
            if context not in self._contexts:
                self._contexts[context] = keys
                self._cached_bytes += size
                while self._cached_bytes > self._cache_bytes:
                    _, old = self._contexts.popitem(last=False)
                    self._cached_bytes -= sum(k.nbytes for k in old)
        return keys

    def _feed(self, ids: NDArray[np.int64], segment: int, past: Keys) -> dict[str, NDArray[Any]]:
        """Inputs of the graph but for the mask; segment 0 is context, 1 is text."""
        return {"ids": ids, "segment": np.array([segment]), **dict(zip(self._pasts, past, strict=True))}

    def _call(self, outputs: list[str], feed: dict[str, NDArray[Any]]) -> list[Any]:
        """Run the graph; after a fork on a new session."""
        session = self._session
        if session is None:
            with self._lock:
                session = self._session = self._session or self._open()
        try:
            result: list[Any] = session.run(outputs, feed)
        except Exception as error:  # see _open
            raise BackendError("onnxruntime failed to run the model") from error
        return result


def _stack(keys: Sequence[Keys]) -> Keys:
    """Contexts of a batch in one array a layer, padded to the longest; padding is masked out."""
    if len(keys) == 1:
        return keys[0]
    most = max(k[0].shape[2] for k in keys)
    pads = [((0, 0), (0, 0), (0, most - k[0].shape[2]), (0, 0)) for k in keys]
    return tuple(
        np.concatenate([np.pad(k[i], pad) for k, pad in zip(keys, pads, strict=True)]) for i in range(len(keys[0]))
    )


def _mask(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    """1 where a row has a token, 0 where it is padded; shape (rows, width)."""
    return np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)


def cores() -> int:
    """Processor cores that this process may use: by its affinity and by a quota of its control group."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            usable = min(usable, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no control groups here, or of the first version
        pass
    return max(1, usable)


def needs_safe_int8() -> bool:
    """Whether 8-bit products could overflow here: on x86 without VNNI, or where that cannot be known.

    The instructions before VNNI add pairs of products in 16 bits and saturate.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return False
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return True
    return not ({"avx512_vnni", "avx_vnni"} & set(flags.split()))


_RUNTIMES: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: neither onnxruntime's threads nor the holder of a lock survived the fork."""
    for runtime in list(_RUNTIMES):
        if runtime._session is not None:
            # Never freed: its destructor waits for threads that do not exist here.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime._session))
        runtime._session = None
        runtime._forget_contexts()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
