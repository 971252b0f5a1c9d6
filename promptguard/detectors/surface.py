"""Deterministic evidence on the surface of a text: hidden views, marks of hiding, attack vocabulary.

It decides where a text too long to be read whole is read, and what it found is shown; whether it counts
in the risk is for the fitted fusion weights to say.
"""

from __future__ import annotations

import re

from promptguard.detectors import Evidence
from promptguard.types import Signal

# One alternation of literals: linear. Stems an instruction to a model is likely to hold, in lower case; each begins
# with a letter, not with \b, so that re skips to where one can begin.
_STEMS = re.compile(
    r"ignor|disregard|overrid|overrul|bypass|instruction|system prompt|assistant|you are now|pretend|jailbreak|"
    r"developer mode|reveal|password|secret|credential|api[ _-]?key|token|transfer|forward|send (?:it|this|all)|"
    r"delete|sudo|execut|important:|note to (?:ai|the)|language model|chatgpt|llm(?<!\wllm)\b|ai(?<!\wai)\b|<!--|"
    r"base64|anweisung|ignorier|instruc|olvida|oublie|ignora"
)


class Surface:
    """Counts what can be counted without a model."""

    name = "surface"

    def __call__(self, evidence: Evidence) -> Signal:
        """Signal with ``hidden_views`` and ``vocabulary``; detail lists the views."""
        hidden = [view.name for view in evidence.views[1:]]
        scores = {"hidden_views": float(len(hidden)), "vocabulary": vocabulary(evidence.text)}
        return Signal(self.name, scores, {"views": hidden})


def vocabulary(text: str) -> float:
    """Distinct attack stems in the first 100,000 characters of a text."""
    return float(len(set(_STEMS.findall(text[:100_000].lower()))))
