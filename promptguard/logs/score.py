"""The verdict on a text as columns; what runs in every worker process."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from promptguard.detectors import Evidence
from promptguard.errors import BackendError
from promptguard.guard import Guard
from promptguard.policy import Policy
from promptguard.types import Analysis, Context, Signal

Pair: TypeAlias = tuple[str, Context]
Verdict: TypeAlias = dict[str, Any]
"""Columns of a scored text: ``status`` and ``error``, and for status ``ok`` everything the guard says."""

_WORD = re.compile(r"\w+")
_SIMHASH_CHARACTERS = 65_536

CPU = ("CPUExecutionProvider",)
"""onnxruntime's provider for processors."""

CACHE_MEGABYTES = 256
"""For contexts, in each process that scores: a log goes through many applications, and each verdict needs one's."""


class _Vector:
    """A detector that only shows the vector of the window with the highest risk."""

    name = "vector"

    def __call__(self, evidence: Evidence) -> Signal:
        strongest = max(evidence.readings, key=lambda reading: float(reading.output.logits[-1]))
        return Signal(self.name, None, {"vector": strongest.output.embedding.astype(np.float16)})


@dataclass(frozen=True, slots=True)
class Settings:
    """What a guard is made with.

    Attributes:
        model: folder of a bundle, None for the one that comes with the package.
        mode: where *review* starts; None for the policy's, or else ``balanced``.
        prior: share of risky traffic to state probabilities at, None for the bundle's own.
        policy: what to do with which intent, in place of a mode.
        providers: onnxruntime execution providers in order of preference.
    """

    model: Path | str | None = None
    mode: str | None = None
    prior: float | None = None
    policy: Policy | None = None
    providers: tuple[str, ...] = CPU

    @property
    def batched(self) -> bool:
        """Whether windows are meant to run together, as on an accelerator."""
        return self.providers[:1] != CPU

    def guard(self) -> Guard:
        """A guard that also keeps the vector.

        Raises:
            InputError: a setting is unusable.
        """
        return Guard(
            self.model,
            mode=self.mode,
            policy=self.policy,
            prior=self.prior,
            detectors=(_Vector(),),
            providers=self.providers,
            cache_megabytes=CACHE_MEGABYTES,
        )


def score(guard: Guard, pairs: Sequence[Pair]) -> list[Verdict]:
    """Analyse texts with ``Guard.analyze_many``; a text on which the model fails is an error, never *allow*.

    Args:
        guard: made by ``Settings.guard``.
        pairs: texts and their contexts.

    Returns:
        One verdict a pair, in order.

    Raises:
        ModelError: the bundle cannot be used.
    """
    try:
        analyses = guard.analyze_many(pairs)
    except BackendError:
        return [_one(guard, pair) for pair in pairs]
    return [_columns(text, context, analysis) for (text, context), analysis in zip(pairs, analyses, strict=True)]


def _one(guard: Guard, pair: Pair) -> Verdict:
    try:
        analysis = guard.analyze(*pair)
    except BackendError as error:
        return {"status": "error", "error": str(error)}
    return _columns(*pair, analysis)


def _columns(text: str, context: Context, analysis: Analysis) -> Verdict:
    return {
        "status": "ok",
        "source": context.source,
        "user_role": context.user_role,
        "characters": len(text),
        "text_hash": hashlib.sha256(_bytes(text)).hexdigest()[:16],
        "near_hash": near_hash(text),
        "decision": analysis.decision.value,
        "reason": analysis.reason.value,
        "risk": analysis.risk,
        "intents": list(analysis.intents),
        "probabilities": dict(analysis.probabilities),
        "spans": [
            {"start": s.start, "end": s.end, "intent": s.intent, "probability": s.probability} for s in analysis.spans
        ],
        "windows": analysis.coverage.windows,
        "characters_not_read": analysis.coverage.characters_not_read,
        "characters_unreadable": analysis.coverage.characters_unreadable,
        "vector": analysis.signals["vector"].detail["vector"] if analysis.flagged else None,
        "bundle": analysis.model,
    }


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def near_hash(text: str) -> int:
    """Simhash over lower-cased word 3-grams (Charikar 2002): near duplicates differ in few of its bits.

    Args:
        text: any text; its first 65,536 characters count.

    Returns:
        64 bits as a whole number.
    """
    words = _WORD.findall(text[:_SIMHASH_CHARACTERS].lower())
    grams = [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]
    hashed = b"".join(hashlib.blake2b(_bytes(gram), digest_size=8).digest() for gram in grams)
    bits = np.unpackbits(np.frombuffer(hashed, np.uint8).reshape(-1, 8), axis=1)
    majority = 2 * bits.sum(axis=0, dtype=np.int64) > len(grams)
    return int.from_bytes(np.packbits(majority).tobytes(), "big")


def pair_key(pair: Pair) -> bytes:
    """Digest that is equal for equal texts in contexts that the model reads as equal, under one policy."""
    text, context = pair
    digest = hashlib.blake2b(digest_size=16)
    parts: list[str | None] = [text, context.system_prompt, context.source, context.user_role, context.purpose]
    parts.append(context.application)
    for message in context.history:
        parts += [message.role, message.content]
    parts.append(None)
    for tool in context.tools:
        parts += [tool.name, tool.description]
    for part in parts:
        raw = b"" if part is None else _bytes(part)
        digest.update(b"%d:" % (-1 if part is None else len(raw)))
        digest.update(raw)
    return digest.digest()


# --- in a worker process ----------------------------------------------------------------------------

_guard: Guard | None = None


def start(settings: Settings) -> None:
    """Make this process a worker: it leaves Ctrl-C to its parent and ends when the parent has ended, however."""
    global _guard
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _guard = settings.guard()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work(pairs: Sequence[Pair]) -> list[Verdict]:
    """``score`` with this worker's own guard."""
    assert _guard is not None, "start() makes a process a worker"  # noqa: S101
    return score(_guard, pairs)
