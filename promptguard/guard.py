"""Guard: a text and its context to a verdict. The whole path is in ``analyze_many``, in order."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from promptguard import batching, bundle, messages, policy, spans, text, windows
from promptguard.detectors import Detector, Evidence, Reading
from promptguard.detectors.similarity import Example
from promptguard.errors import InputError
from promptguard.intents import references
from promptguard.loaded import Loaded
from promptguard.policy import Policy, Thresholds
from promptguard.runtime import CACHE_MEGABYTES, Floats, Runtime
from promptguard.text import View
from promptguard.types import Analysis, Context, ContextLike, Coverage, Decision
from promptguard.windows import Window

_LEAST_VIEW_WINDOWS = 4
"""Windows a de-obfuscated view gets even where the views before it have used up theirs."""

_MOST_REDACTIONS = 3
"""Taking an attack out can show the rest of it. With bundle 1 two were enough for all flagged content."""

_OWN_SIGNALS = frozenset(("classifier", "surface", "similarity", "examples", "exceptions"))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A text ready for the model."""

    text: str = field(repr=False)
    context: Context
    context_ids: tuple[int, ...] = field(repr=False)
    views: tuple[View, ...]
    windows: tuple[tuple[View, Window], ...]
    characters_not_read: int
    characters_unreadable: int
    letters: int
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
        max_windows: most windows of a text that are read, at least 4; a longer text is never *allowed*. Hidden
            views have as many again between them, and four each in any case.
        cache_megabytes: most memory for contexts that were read, about 18 kilobytes a token; one that is not kept is
            read again.

    Attributes:
        policy: what decides.

    Raises:
        InputError: an argument is unusable. A bundle or provider that is, is met at the first analysis.
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
        cache_megabytes: int = CACHE_MEGABYTES,
    ) -> None:
        if mode is not None and policy is not None:
            raise InputError("give either mode or policy: a policy has a mode of its own")
        if policy is not None and not isinstance(policy, Policy):
            raise InputError(f"policy must be a Policy, not {type(policy).__name__}")
        if prior is not None and not (isinstance(prior, float) and 0 < prior < 1):
            raise InputError("prior must be a number between 0 and 1")
        if not isinstance(threads, int) or threads < 1:
            raise InputError("threads must be a whole number, at least 1")
        if not isinstance(max_windows, int) or max_windows < 4:
            raise InputError("max_windows must be a whole number, at least 4")
        if not isinstance(cache_megabytes, int) or cache_megabytes < 0:
            raise InputError("cache_megabytes must be a whole number, at least 0")
        if isinstance(providers, str) or not providers:
            raise InputError("providers must be a list of names of onnxruntime execution providers")
        if not all(isinstance(example, Example) for example in (*examples, *exceptions)):
            raise InputError("examples and exceptions must be Example objects")
        if not all(example.labels for example in examples):
            raise InputError("every example needs at least one label: the intent it is an example of")
        names = [detector.name for detector in detectors]
        if len({*names, *_OWN_SIGNALS}) < len(names) + len(_OWN_SIGNALS):
            raise InputError(f"detectors need names of their own, other than {', '.join(sorted(_OWN_SIGNALS))}")
        self.policy = policy or Policy(mode=mode or "balanced")
        self._model, self._prior = model, prior
        self._threads, self._providers, self._max_windows = threads, tuple(providers), max_windows
        self._cache_megabytes = cache_megabytes
        self._more_detectors = tuple(detectors)
        self._own_matches = tuple(examples), tuple(exceptions)
        self._lock = threading.Lock()
        self._ready: Loaded | None = None
        _GUARDS.add(self)

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
        checked = list(_checked(pairs))
        # Where windows run one by one, so may the texts: a caller with one text then waits for no other's thousand.
        groups = [checked] if loaded.runtime.batches else [[pair] for pair in checked]
        analyses = []
        for group in groups:
            with loaded.runtime.turn:
                prepared = [self._prepare(loaded, prompt, Context.of(context)) for prompt, context in group]
                began = time.perf_counter()
                jobs = [(item.context_ids, window.ids) for item in prepared for _, window in item.windows]
                outputs = iter(batching.run(loaded.runtime, jobs))
                model_ms = 1000 * (time.perf_counter() - began) / max(1, len(jobs))
            for item in prepared:
                readings = tuple(Reading(view, window, next(outputs)) for view, window in item.windows)
                item.milliseconds["model"] = model_ms * len(readings)
                analyses.append(self._judge(loaded, item, readings))
        return analyses

    def _prepare(self, loaded: Loaded, prompt: str, context: Context) -> _Prepared:
        """Views, windows and context ids of one text."""
        began = time.perf_counter()
        views = text.views(prompt, loaded.tokenizer.pieces)
        viewed = time.perf_counter()
        cuts = [loaded.cut(prompt, self._max_windows)]
        left = self._max_windows  # what is hidden may be as long as what is not
        for view in views[1:]:
            cuts.append(loaded.cut(view.text, max(left, _LEAST_VIEW_WINDOWS)))
            left -= len(cuts[-1].windows)
        context_ids = loaded.contexts.ids(context, prompt)
        done = time.perf_counter()
        unread = max(len(view.text) - cut.characters_read for view, cut in zip(views, cuts, strict=True))
        return _Prepared(
            prompt,
            context,
            context_ids,
            views,
            tuple((view, window) for view, cut in zip(views, cuts, strict=True) for window in cut.windows),
            min(unread, len(prompt)),
            windows.unread_letters(views, cuts),
            cuts[0].letters,
            {"text": 1000 * (viewed - began), "windows": 1000 * (done - viewed)},
        )

    def _judge(self, loaded: Loaded, item: _Prepared, readings: tuple[Reading, ...]) -> Analysis:
        """Signals, probabilities and decision of one text."""
        began = time.perf_counter()
        evidence = Evidence(item.text, item.context, item.views, readings)
        signals = {detector.name: detector(evidence) for detector in loaded.detectors}
        probabilities, risk = loaded.bundle.fusion.fuse(signals, 0.0)
        coverage = Coverage(
            characters_read=len(item.text) - item.characters_not_read,
            characters_not_read=item.characters_not_read,
            characters_unreadable=item.characters_unreadable,
            windows=len(readings),
            milliseconds=item.milliseconds,
        )
        verdict = policy.decide(
            risk=risk,
            probabilities=probabilities,
            thresholds=loaded.bundle.thresholds,
            policy=self.policy.for_application(item.context.application),
            coverage=coverage,
            letters=item.letters,
        )
        if loaded.shift:  # after the decision, which does not depend on it
            probabilities, risk = loaded.bundle.fusion.fuse(signals, loaded.shift)
        verdict, matched = loaded.matches.apply(
            verdict, evidence, lambda: loaded.plain_vectors(item.context_ids, readings)
        )
        signals |= {detector.name: detector(evidence) for detector in loaded.more_detectors}
        if matched is not None:
            signals[matched.name] = matched
        decision, reason, intents = verdict
        if decision is not Decision.ALLOW:
            signals |= {detector.name: detector(evidence) for detector in loaded.explaining}
        risky = [name for name in intents if name != "out_of_scope"]
        found = spans.find(readings, risky, item.text) if risky else ()
        item.milliseconds["decide"] = 1000 * (time.perf_counter() - began)
        return Analysis(
            intents=intents,
            risk=risk,
            probabilities=probabilities,
            decision=decision,
            reason=reason,
            spans=found,
            signals=signals,
            coverage=coverage,
            references=references(intents, item.context.source),
            model=loaded.bundle.id,
            text=item.text,
        )

    # --- other ways in --------------------------------------------------------------------------

    async def aanalyze(self, prompt: str, context: ContextLike = None) -> Analysis:
        """``analyze`` in a thread, so that the event loop is not blocked: same arguments, verdict and errors."""
        return await asyncio.to_thread(self.analyze, prompt, context)

    def redact(
        self, prompt: str, context: ContextLike = None, *, replacement: str = "[removed]"
    ) -> tuple[str, Analysis]:
        """Take the attack out of a flagged text, and again while what is left is flagged, three times at most.

        Args:
            prompt: as for ``analyze``.
            context: as for ``analyze``.
            replacement: what stands for what was taken out.

        Returns:
            The text that is left, as given if it was not flagged; and the verdict on it, in the same context. That
            can be flagged: look at it. What is flagged for its context or as unreadable cannot be redacted.

        Raises:
            InputError: as ``analyze``, or the replacement is not a string.
            ModelError, BackendError: as ``analyze``.
        """
        analysis = self.analyze(prompt, context)
        for _ in range(_MOST_REDACTIONS):
            left = analysis.redacted(replacement)
            if not analysis.flagged or left == analysis.text:
                break
            analysis = self.analyze(left, context)
        return analysis.text, analysis

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

    def as_map(
        self, text: str = "text", context: str | None = None
    ) -> Callable[[Mapping[str, Sequence[Any]]], dict[str, list[Any]]]:
        """A function for ``datasets.Dataset.map(…, batched=True)``, in one process or several.

        Args:
            text: name of the column with the texts.
            context: name of a column with contexts, each as ``analyze`` takes it; None if there is none.

        Returns:
            A function from a batch's columns to the columns ``decision``, ``reason``, ``risk``, ``intent`` and
            ``probabilities``. It raises as ``analyze`` does, and InputError where a column is missing.
        """
        return partial(_map_batch, self, text, context)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is loaded: a copy in another process loads its own."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_ready")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _ready=None)
        _GUARDS.add(self)

    @property
    def model(self) -> str:
        """Name, version and hash of the bundle.

        Raises:
            ModelError, BackendError: as ``analyze``.
        """
        return self._loaded.bundle.id

    @property
    def prior(self) -> float:
        """Share of risky traffic that probabilities are stated at, in (0, 1).

        Raises:
            ModelError, BackendError: as ``analyze``.
        """
        return self._prior or self._loaded.bundle.prior

    @property
    def thresholds(self) -> Thresholds:
        """Where decisions start, at the prior that probabilities are stated at.

        Raises:
            ModelError, BackendError: as ``analyze``.
        """
        return self._loaded.thresholds

    def encode(self, prompt: str) -> Floats:
        """The model's unit vector of a text without context.

        Args:
            prompt: any string; only its first window is read.

        Returns:
            Array of shape (hidden,), of length 1.

        Raises:
            ModelError, BackendError: as ``analyze``.
        """
        return self._loaded.encode(prompt)

    @property
    def _loaded(self) -> Loaded:
        if self._ready is None:
            with self._lock:
                if self._ready is None:
                    self._ready = self._load()
        return self._ready

    def _load(self) -> Loaded:
        opened = bundle.load(self._model)
        runtime = Runtime(
            opened.path(bundle.GRAPH),
            threads=self._threads,
            providers=self._providers,
            cache_megabytes=self._cache_megabytes,
        )
        return Loaded(
            opened,
            runtime,
            prior=self._prior,
            detectors=self._more_detectors,
            matches=self._own_matches,
        )


def _checked(pairs: Iterable[tuple[str, ContextLike]]) -> Iterable[tuple[str, ContextLike]]:
    """The pairs, each looked at when it is its turn; InputError for what is none."""
    if not isinstance(pairs, Iterable):
        raise InputError(f"pairs must be (text, context) pairs, not {type(pairs).__name__}")
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError("pairs must hold (text, context) pairs")
        if not isinstance(pair[0], str):
            raise InputError(f"prompt must be a string, not {type(pair[0]).__name__}")
        yield pair[0], pair[1]


def _map_batch(
    guard: Guard, text: str, context: str | None, batch: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    """Columns of verdicts for a batch of columns; see ``Guard.as_map``."""
    for name in (text, context):
        if name is not None and name not in batch:
            raise InputError(f"the batch has no column {name!r}")
    contexts = batch[context] if context is not None else [None] * len(batch[text])
    analyses = guard.analyze_many(zip(batch[text], contexts, strict=True))
    return {
        "decision": [analysis.decision.value for analysis in analyses],
        "reason": [analysis.reason.value for analysis in analyses],
        "risk": [analysis.risk for analysis in analyses],
        "intent": [analysis.intent for analysis in analyses],  # not the list: a batch of empty ones has no type
        "probabilities": [dict(analysis.probabilities) for analysis in analyses],
    }


_GUARDS: weakref.WeakSet[Guard] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: whoever held a lock did not survive the fork."""
    for guard in list(_GUARDS):
        guard._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
