"""Tells what a prompt is trying to do, in the context it arrives in.

    >>> import promptguard
    >>> promptguard.analyze("Delete all rows in staging", "support chat of a shoe shop").decision

Importing this package loads neither numpy nor onnxruntime; the first analysis does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptguard.api import analyze
from promptguard.errors import (
    BackendError,
    InputError,
    MissingExtraError,
    ModelCorrupt,
    ModelError,
    ModelIncompatible,
    ModelNotFound,
    PromptGuardError,
    RecordError,
)
from promptguard.intents import Intent
from promptguard.policy import Policy
from promptguard.types import Analysis, Context, Coverage, Decision, Message, Reason, Signal, Span, Tool

if TYPE_CHECKING:
    from promptguard.detectors import Detector
    from promptguard.detectors.similarity import Example
    from promptguard.guard import Guard
    from promptguard.messages import ConversationAnalysis

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "BackendError",
    "Context",
    "ConversationAnalysis",
    "Coverage",
    "Decision",
    "Detector",
    "Example",
    "Guard",
    "InputError",
    "Intent",
    "Message",
    "MissingExtraError",
    "ModelCorrupt",
    "ModelError",
    "ModelIncompatible",
    "ModelNotFound",
    "Policy",
    "PromptGuardError",
    "Reason",
    "RecordError",
    "Signal",
    "Span",
    "Tool",
    "analyze",
]

# What needs numpy is imported when it is first asked for.
_LATER = {
    "ConversationAnalysis": "promptguard.messages",
    "Detector": "promptguard.detectors",
    "Example": "promptguard.detectors.similarity",
    "Guard": "promptguard.guard",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        value = getattr(import_module(_LATER[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'promptguard' has no attribute {name!r}")
