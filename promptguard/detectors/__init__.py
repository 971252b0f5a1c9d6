"""Detectors: each reads the same evidence and gives one signal; none sees another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from promptguard.types import Context, Signal

if TYPE_CHECKING:
    from promptguard.runtime import Output
    from promptguard.text import View
    from promptguard.windows import Window


@dataclass(frozen=True, slots=True)
class Reading:
    """One window and what the model said of it.

    Attributes:
        view: the view of the text it was cut from.
        window: the window.
        output: logits, span logits and embedding.
    """

    view: View
    window: Window
    output: Output


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was computed about a text, once, for all detectors.

    Attributes:
        text: the text as given; never shown in a repr.
        context: its context.
        views: the text as it is, then each de-obfuscation.
        readings: all windows of all views.
    """

    text: str = field(repr=False)
    context: Context
    views: Sequence[View]
    readings: Sequence[Reading]


class Detector(Protocol):
    """Anything that turns evidence into a signal; pure, and safe to call from several threads."""

    @property
    def name(self) -> str:
        """Its key in ``Analysis.signals``."""

    def __call__(self, evidence: Evidence) -> Signal:
        """Judge the evidence."""
