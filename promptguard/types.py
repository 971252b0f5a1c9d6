"""The values that go in and come out: Context, Message, Tool; Analysis, Span, Signal, Coverage.

All are frozen. Nothing here computes anything about a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, TypeAlias, get_args

from promptguard.errors import InputError

Source: TypeAlias = Literal["user", "document", "web", "email", "tool", "code"]
SOURCES: tuple[str, ...] = get_args(Source)
"""Channels a text can come in by; all but ``user`` are content, which has no authority to instruct."""


class Decision(StrEnum):
    """What the policy says to do with a text."""

    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"


class Reason(StrEnum):
    """Why the policy decided as it did."""

    BELOW_THRESHOLD = "below_threshold"
    RISK = "risk"
    OUT_OF_SCOPE = "out_of_scope"
    EXAMPLE = "example"
    EXCEPTION = "exception"
    UNREADABLE = "unreadable"
    NOT_FULLY_READ = "not_fully_read"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Message:
    """One earlier turn of the conversation.

    Attributes:
        role: who spoke, for example ``user``, ``assistant`` or ``tool``.
        content: what was said; never shown in a repr.
    """

    role: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """Something the model behind the application can call."""

    name: str
    description: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Context:
    """The situation a text arrives in. A field left out means *unknown*, not *none*.

    Attributes:
        system_prompt: the application's instructions, or a description of what it is for.
        source: the channel the text came in by.
        user_role: who is asking, as the application has authenticated them.
        history: earlier turns, oldest first. Treated as untrusted.
        tools: what the model can call. Descriptions are treated as untrusted.
        purpose: what the application is for, in a sentence; read where there is no system prompt.
        application: opaque id of the application; never shown to the model.
        actor: opaque id of the person or key; never shown to the model.
        session: opaque id of the conversation; never shown to the model.
    """

    system_prompt: str | None = field(default=None, repr=False)
    source: Source | None = None
    user_role: str | None = field(default=None, repr=False)
    history: tuple[Message, ...] = field(default=(), repr=False)
    tools: tuple[Tool, ...] = ()
    purpose: str | None = field(default=None, repr=False)
    application: str | None = None
    actor: str | None = None
    session: str | None = None

    def __post_init__(self) -> None:
        for name in _TEXT_FIELDS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"context.{name} must be a string or None, not {type(value).__name__}")
        if self.source is not None and self.source not in SOURCES:
            raise InputError(f"context.source must be one of {', '.join(SOURCES)} or None")
        object.__setattr__(self, "history", tuple(_message(m) for m in _items(self.history, "history")))
        object.__setattr__(self, "tools", tuple(_tool(t) for t in _items(self.tools, "tools")))

    @classmethod
    def of(cls, value: ContextLike) -> Context:
        """Make a context from whatever the caller has.

        Args:
            value: a ``Context``; a mapping with its fields; a string, taken as the purpose; or None.

        Returns:
            The context.

        Raises:
            InputError: for another type, an unknown field, or a field of the wrong type.
        """
        if isinstance(value, cls):
            return value
        if value is None:
            return cls()
        if isinstance(value, str):
            return cls(purpose=value)
        if isinstance(value, Mapping):
            unknown = sorted(str(key) for key in value if key not in _CONTEXT_FIELDS)
            if unknown:
                raise InputError(f"context has {len(unknown)} unknown field(s); accepted: {', '.join(_CONTEXT_FIELDS)}")
            given = {key: item for key, item in value.items() if item is not None}
            return cls(**given)
        raise InputError(
            f"context must be a Context, a mapping, a string (its purpose) or None, not {type(value).__name__}"
        )


ContextLike: TypeAlias = Context | Mapping[str, Any] | str | None
"""What is accepted wherever a context is asked for."""

_CONTEXT_FIELDS = tuple(f.name for f in fields(Context))
_TEXT_FIELDS = ("system_prompt", "source", "user_role", "purpose", "application", "actor", "session")


def _items(value: object, name: str) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"context.{name} must be a list, not {type(value).__name__}")
    return value


def _message(value: object) -> Message:
    if isinstance(value, Message):
        return value
    if isinstance(value, Mapping):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and isinstance(content, str) and len(value) == 2:
            return Message(role, content)
    raise InputError("context.history must hold Message objects or mappings with the strings 'role' and 'content'")


def _tool(value: object) -> Tool:
    if isinstance(value, Tool):
        return value
    if isinstance(value, Mapping) and set(value) <= {"name", "description"}:
        name, description = value.get("name"), value.get("description") or ""
        if isinstance(name, str) and isinstance(description, str):
            return Tool(name, description)
    raise InputError("context.tools must hold Tool objects or mappings with the strings 'name' and 'description'")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the text that carries the attack.

    Attributes:
        start: first character, an offset in the text as it was given.
        end: one past the last character.
        intent: the intent it is evidence for.
        probability: how sure the model is that these characters belong to an attack, in [0, 1].
    """

    start: int
    end: int
    intent: str
    probability: float


@dataclass(frozen=True, slots=True)
class Signal:
    """What one detector said.

    Attributes:
        name: the detector.
        scores: named numbers, unbounded, higher means more suspicious; None means that the
            detector did not run, which is never the same as a score of 0.
        detail: what a person would want to know besides, for example the nearest example's id.
    """

    name: str
    scores: Mapping[str, float] | None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the text was read.

    Attributes:
        characters_read: characters inside a window that the model read.
        characters_not_read: characters beyond the window limit.
        characters_unreadable: letters the model's vocabulary does not know.
        windows: windows the model read, all views of the text together.
        milliseconds: wall time by stage; differs from call to call and is not part of the verdict.
    """

    characters_read: int
    characters_not_read: int
    characters_unreadable: int
    windows: int
    milliseconds: Mapping[str, float] = field(default_factory=dict, compare=False)


SCHEMA_VERSION = 1
"""Version of the dictionary made by ``Analysis.to_dict``."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """The verdict on one text in one context.

    Attributes:
        intents: the intents that reach their thresholds, most likely first; empty means benign.
        risk: calibrated probability in [0, 1] that the text is risky in this context.
        probabilities: all ten intents and their calibrated probabilities.
        decision: what the policy says to do.
        reason: why.
        spans: where the attack stands, in offsets of the text as given.
        signals: what each detector said, by name.
        coverage: what was read and what was not.
        references: identifiers in OWASP's and MITRE's lists.
        model: name and hash of the bundle.
        text: the text as given; never shown in a repr, not in ``to_dict``, not compared. Copies and pickles
            hold it.
    """

    intents: tuple[str, ...]
    risk: float
    probabilities: Mapping[str, float]
    decision: Decision
    reason: Reason
    spans: tuple[Span, ...]
    signals: Mapping[str, Signal]
    coverage: Coverage
    references: tuple[str, ...]
    model: str
    text: str = field(repr=False, compare=False)

    @property
    def intent(self) -> str:
        """The most likely intent that reaches its threshold, or ``"benign"``."""
        return self.intents[0] if self.intents else "benign"

    @property
    def flagged(self) -> bool:
        """Whether the decision is anything but *allow*."""
        return self.decision is not Decision.ALLOW

    def redacted(self, replacement: str = "[removed]") -> str:
        """The text without what the spans mark.

        What is left has not been analysed: ``Guard.redact`` does so. A text that is flagged for something else than
        a part of it, such as its context or its being unreadable, stays flagged.

        Args:
            replacement: what stands for each span; once for spans with nothing but space between them.

        Returns:
            The text as given where there is no span; only the replacement where the spans leave no letter or digit.

        Raises:
            InputError: the replacement is not a string.
        """
        if not isinstance(replacement, str):
            raise InputError(f"replacement must be a string, not {type(replacement).__name__}")
        kept: list[str] = []
        end = 0
        for span in sorted(self.spans, key=lambda span: span.start):
            if span.start == span.end:
                continue
            between = self.text[end : span.start]
            if not kept or between.strip():
                kept.append(between)
            end = max(end, span.end)
        if not kept:
            return self.text
        kept.append(self.text[end:])
        if not any(character.isalnum() for part in kept for character in part):
            return replacement
        return replacement.join(kept)

    def to_dict(self) -> dict[str, Any]:
        """The analysis as fresh, JSON-ready values, under the names of the attributes."""
        return {
            "schema_version": SCHEMA_VERSION,
            "intent": self.intent,
            "intents": list(self.intents),
            "risk": self.risk,
            "probabilities": dict(self.probabilities),
            "decision": self.decision.value,
            "reason": self.reason.value,
            "spans": [
                {"start": s.start, "end": s.end, "intent": s.intent, "probability": s.probability} for s in self.spans
            ],
            "signals": {
                name: {
                    "scores": None if s.scores is None else dict(s.scores),
                    "detail": dict(s.detail),
                }
                for name, s in self.signals.items()
            },
            "coverage": {
                "characters_read": self.coverage.characters_read,
                "characters_not_read": self.coverage.characters_not_read,
                "characters_unreadable": self.coverage.characters_unreadable,
                "windows": self.coverage.windows,
                "milliseconds": dict(self.coverage.milliseconds),
            },
            "references": list(self.references),
            "model": self.model,
        }
