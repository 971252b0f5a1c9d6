"""Guard: a text and its context to a verdict. The whole path is in ``analyze_many``, in order."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptguard import batching, bundle, messages, policy, spans, text, windows
from promptguard.context import ContextEncoder
from promptguard.detectors import Detector, Evidence, Reading
from promptguard.detectors.classifier import Classifier
from promptguard.detectors.similarity import Example, Index, Similarity
from promptguard.detectors.surface import Surface, vocabulary
from promptguard.errors import InputError
from promptguard.fusion import Fusion, log_odds
from promptguard.intents import references
from promptguard.policy import Policy, Thresholds
from promptguard.runtime import Floats, Runtime
from promptguard.text import View
from promptguard.tokenizer import Tokenizer
from promptguard.types import Analysis, Context, ContextLike, Coverage, Decision, Reason, Signal
from promptguard.windows import Cut, Window

_VIEW_WINDOWS = 8
"""Most windows of one de-obfuscated view."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A text ready for the model."""

    text: str
    context: Context
    context_ids: tuple[int, ...]
    plain: Cut
    windows: tuple[tuple[View, Window], ...]
    unreadable: tuple[int, int]
    milliseconds: dict[str, float]


class Guard:
    """Tells what texts are trying to do, in the context they arrive in.

    Safe to use from any number of threads, across forks and from asyncio. The model is loaded at the
    first analysis.

    Args:
        model: folder of a bundle; None for the one that comes with the package.
        mode: ``low-alarm``, ``balanced`` or ``strict``: flags 0.1 %, 1 % or 5 % of held-out benign traffic.
        policy: what to do with which intent; its mode counts if given, and ``mode`` must then be left out.
        prior: share of risky traffic to state probabilities at, in (0, 1); None for the bundle's own.
            Decisions do not depend on it.
        examples: attacks to be flagged, with what resembles them, from now on.
        exceptions: texts to be allowed although the model flags them: these and nothing but close copies.
        detectors: further detectors; they are shown in ``Analysis.signals`` and do not change the risk.
        threads: threads for one run of the model.
        providers: onnxruntime execution providers in order of preference.
        max_windows: most windows of a text that are read; a longer text is never *allowed*.

    Raises:
        InputError: an argument is unusable.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        *,
        mode: str | None = None,
        policy: Policy | None = None,
        prior: float | None = None,
        examples: Sequence[Example] = (),
        exceptions: Sequence[Example] = (),
        detectors: Sequence[Detector] = (),
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        max_windows: int = 64,
    ) -> None:
        if mode is not None and policy is not None:
            raise InputError("give either mode or policy: a policy has a mode of its own")
        if prior is not None and not 0 < prior < 1:
            raise InputError("prior must lie between 0 and 1")
        if threads < 1 or max_windows < 4:
            raise InputError("threads must be at least 1 and max_windows at least 4")
        self.policy = policy or Policy(mode=mode or "balanced")
        self._model, self._prior = model, prior
        self._threads, self._providers, self._max_windows = threads, tuple(providers), max_windows
        self._more_detectors = tuple(detectors)
        self._own_examples, self._own_exceptions = tuple(examples), tuple(exceptions)
        self._lock = threading.Lock()

    # --- the path -------------------------------------------------------------------------------

    def analyze(self, prompt: str, context: ContextLike = None) -> Analysis:
        """Analyse one text in its context.

        Args:
            prompt: any string: a message, a document, a tool result.
            context: a ``Context``, a mapping with its fields, a string (what the application is for) or None.

        Returns:
            The verdict.

        Raises:
            InputError: the prompt is not a string, or the context is malformed.
            ModelError: the bundle cannot be used.
            BackendError: the model could not be run. There is no verdict then, and no *allow*.
        """
        return self.analyze_many([(prompt, context)])[0]

    def analyze_many(self, pairs: Iterable[tuple[str, ContextLike]]) -> list[Analysis]:
        """Analyse texts, each in its context; the verdicts are those of one-by-one analysis.

        Args:
            pairs: texts and contexts.

        Returns:
            One verdict a pair, in order.

        Raises:
            InputError, ModelError, BackendError: as ``analyze``.
        """
        loaded = self._loaded
        prepared = [self._prepare(loaded, prompt, Context.of(context)) for prompt, context in _checked(pairs)]
        began = time.perf_counter()
        jobs = [(item.context_ids, window.ids) for item in prepared for _, window in item.windows]
        outputs = iter(batching.run(loaded.runtime, jobs))
        model_ms = 1000 * (time.perf_counter() - began) / max(1, len(jobs))
        analyses = []
        for item in prepared:
            readings = tuple(Reading(view, window, next(outputs)) for view, window in item.windows)
            item.milliseconds["model"] = model_ms * len(readings)
            analyses.append(self._judge(loaded, item, readings))
        return analyses

    def _prepare(self, loaded: _Loaded, prompt: str, context: Context) -> _Prepared:
        """Views, windows and context ids of one text."""
        began = time.perf_counter()
        views = text.views(prompt, loaded.tokenizer.pieces)
        viewed = time.perf_counter()
        cuts = [
            windows.cut(
                view.text,
                loaded.tokenizer,
                window_tokens=loaded.window_tokens,
                overlap_tokens=loaded.overlap_tokens,
                max_windows=_VIEW_WINDOWS if number else self._max_windows,
                evidence=vocabulary,
            )
            for number, view in enumerate(views)
        ]
        context_ids = loaded.contexts.ids(context, prompt)
        done = time.perf_counter()
        # What a view can read is not unreadable.
        clearest = min(cuts, key=lambda c: c.characters_unreadable / max(1, c.letters))
        return _Prepared(
            prompt,
            context,
            context_ids,
            cuts[0],
            tuple((view, window) for view, cut in zip(views, cuts, strict=True) for window in cut.windows),
            (clearest.characters_unreadable, clearest.letters),
            {"text": 1000 * (viewed - began), "windows": 1000 * (done - viewed)},
        )

    def _judge(self, loaded: _Loaded, item: _Prepared, readings: tuple[Reading, ...]) -> Analysis:
        """Signals, probabilities and decision of one text."""
        began = time.perf_counter()
        views = tuple(dict.fromkeys(reading.view for reading in readings))
        evidence = Evidence(item.text, item.context, views, readings)
        signals = {signal.name: signal for signal in (detector(evidence) for detector in loaded.detectors)}
        probabilities, risk = loaded.fusion.fuse(signals, loaded.shift)
        unreadable, letters = item.unreadable
        coverage = Coverage(
            characters_read=item.plain.characters_read,
            characters_not_read=len(item.text) - item.plain.characters_read,
            characters_unreadable=unreadable,
            windows=len(readings),
            milliseconds=item.milliseconds,
        )
        decision, reason, intents = policy.decide(
            risk=risk,
            probabilities=probabilities,
            thresholds=loaded.thresholds,
            policy=self.policy.for_application(item.context.application),
            coverage=coverage,
            letters=letters,
        )
        decision, reason, intents, matched = loaded.matches.apply(decision, reason, intents, evidence)
        if matched is not None:
            signals[matched.name] = matched
        risky = [name for name in intents if name != "out_of_scope"]
        item.milliseconds["decide"] = 1000 * (time.perf_counter() - began)
        return Analysis(
            intents=intents,
            risk=risk,
            probabilities=probabilities,
            decision=decision,
            reason=reason,
            spans=spans.find(readings, risky, len(item.text)) if risky else (),
            signals=signals,
            coverage=coverage,
            references=references(intents, item.context.source),
            model=loaded.id,
        )

    # --- other ways in --------------------------------------------------------------------------

    async def aanalyze(self, prompt: str, context: ContextLike = None) -> Analysis:
        """``analyze`` in a thread, so that the event loop is not blocked."""
        return await asyncio.to_thread(self.analyze, prompt, context)

    def analyze_messages(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        system: str | Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        context: ContextLike = None,
        include_tools: bool = False,
    ) -> messages.ConversationAnalysis:
        """Analyse an OpenAI- or Anthropic-style conversation as it is.

        Every new untrusted part is analysed with its own source: what the user said last, tool results
        and documents since the last answer.

        Args:
            conversation: the messages, oldest first.
            system: the system prompt where it stands outside the messages.
            tools: tool definitions as the API takes them.
            context: what else is known, for example the user's role.
            include_tools: also analyse the tools' descriptions as content.

        Returns:
            The verdict on the worst part, and those on all parts.

        Raises:
            InputError: for a malformed conversation or one with nothing to analyse.
            ModelError, BackendError: as ``analyze``.
        """
        found = messages.parts(conversation, system=system, tools=tools, context=context, include_tools=include_tools)
        analyses = self.analyze_many((part.text, part.context) for part in found)
        return messages.ConversationAnalysis(
            {part.where: analysis for part, analysis in zip(found, analyses, strict=True)},
            messages.not_read(conversation),
        )

    @property
    def model(self) -> str:
        """Name, version and hash of the bundle."""
        return self._loaded.id

    @property
    def prior(self) -> float:
        """Share of risky traffic that probabilities are stated at."""
        return self._prior or self._loaded.bundle.prior

    def encode(self, prompt: str) -> Floats:
        """The model's unit vector of a text without context, from its first window; shape (hidden,)."""
        return self._loaded.encode(prompt)

    @property
    def _loaded(self) -> _Loaded:
        loaded = self.__dict__.get("_ready")
        if loaded is None:
            with self._lock:
                loaded = self.__dict__.get("_ready")
                if loaded is None:
                    loaded = self._load()
                    self.__dict__["_ready"] = loaded
        return loaded

    def _load(self) -> _Loaded:
        opened = bundle.load(self._model)
        runtime = Runtime(opened.path(bundle.GRAPH), threads=self._threads, providers=self._providers)
        return _Loaded(
            opened,
            Tokenizer(opened.path(bundle.TOKENIZER)),
            runtime,
            self._prior,
            self._more_detectors,
            self._own_examples,
            self._own_exceptions,
        )


class _Loaded:
    """What a guard needs once its bundle is open."""

    def __init__(
        self,
        opened: bundle.Bundle,
        tokenizer: Tokenizer,
        runtime: Runtime,
        prior: float | None,
        detectors: tuple[Detector, ...],
        examples: tuple[Example, ...],
        exceptions: tuple[Example, ...],
    ) -> None:
        manifest = opened.manifest
        self.bundle, self.id = opened, opened.id
        self.tokenizer, self.runtime = tokenizer, runtime
        self.window_tokens = int(manifest["window_tokens"])
        self.overlap_tokens = int(manifest["overlap_tokens"])
        self.contexts = ContextEncoder(tokenizer, int(manifest["context_tokens"]))
        self.fusion = Fusion.from_mapping(manifest["fusion"])
        self.shift = 0.0 if prior is None else log_odds(prior) - log_odds(opened.prior)
        self.thresholds = _shifted(opened.thresholds, self.shift)
        self.detectors: tuple[Detector, ...] = (Classifier(), Surface())
        if opened.path(bundle.EXAMPLES).exists():
            index = Index.load(opened.path(bundle.EXAMPLES), opened.path(bundle.VECTORS))
            self.detectors += (Similarity(index, self.encode),)
        self.detectors += detectors
        self.matches = _Matches(examples, exceptions, self.encode)

    def encode(self, prompt: str) -> Floats:
        """Vector of the first window of a text, read without context."""
        return self.runtime.run((), self._first_window(prompt)).embedding

    def _first_window(self, prompt: str) -> tuple[int, ...]:
        cut = windows.cut(
            prompt[:4000],
            self.tokenizer,
            window_tokens=self.window_tokens,
            overlap_tokens=self.overlap_tokens,
            max_windows=1,
            evidence=vocabulary,
        )
        return cut.windows[0].ids


class _Matches:
    """The operator's own examples and exceptions.

    An example catches what resembles it; an exception lets pass only what is nearly equal to it, in a
    text that is read in one window and hides nothing: it must not become a way round the guard.
    """

    EXAMPLE_COSINE = 0.80
    EXCEPTION_COSINE = 0.97

    def __init__(
        self, examples: Sequence[Example], exceptions: Sequence[Example], encode: Callable[[str], Floats]
    ) -> None:
        self._encode = encode
        self._examples = Index.of(examples, encode) if examples else None
        self._exceptions = Index.of(exceptions, encode) if exceptions else None

    def apply(
        self, decision: Decision, reason: Reason, intents: tuple[str, ...], evidence: Evidence
    ) -> tuple[Decision, Reason, tuple[str, ...], Signal | None]:
        """The decision after examples and exceptions, and a signal if one of them matched."""
        if self._examples is None and self._exceptions is None:
            return decision, reason, intents, None
        # Context-free, like the examples: the context must not decide what text equals what.
        vector = self._encode(evidence.text)
        if self._examples is not None:
            cosines = self._examples.vectors @ vector
            best = int(cosines.argmax())
            if cosines[best] >= self.EXAMPLE_COSINE:
                example = self._examples.examples[best]
                labels = tuple(dict.fromkeys((*example.labels, *(i for i in intents if i != "out_of_scope"))))
                signal = Signal("examples", {"cosine": float(cosines[best])}, {"nearest": example.id})
                return Decision.BLOCK, Reason.EXAMPLE, labels, signal
        if self._exceptions is not None and len(evidence.readings) == 1 and decision is not Decision.ALLOW:
            cosines = self._exceptions.vectors @ vector
            best = int(cosines.argmax())
            if cosines[best] >= self.EXCEPTION_COSINE:
                signal = Signal(
                    "exceptions", {"cosine": float(cosines[best])}, {"nearest": self._exceptions.examples[best].id}
                )
                return Decision.ALLOW, Reason.EXCEPTION, (), signal
        return decision, reason, intents, None


def _shifted(thresholds: Thresholds, shift: float) -> Thresholds:
    """Thresholds at another prior: risks move by the same log-odds, so decisions stay the same."""
    if not shift:
        return thresholds

    def move(p: float) -> float:
        return p if p in (0.0, 1.0) else 1 / (1 + math.exp(-(log_odds(p) + shift)))

    return replace(
        thresholds,
        risk={mode: move(p) for mode, p in thresholds.risk.items()},
        intents={name: move(p) for name, p in thresholds.intents.items()},
    )


def _checked(pairs: Iterable[tuple[str, ContextLike]]) -> Iterable[tuple[str, ContextLike]]:
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError("pairs must hold (text, context) pairs")
        if not isinstance(pair[0], str):
            raise InputError(f"prompt must be a string, not {type(pair[0]).__name__}")
        yield pair[0], pair[1]
