"""Deterministic evidence on the surface of a text: hidden views, marks of hiding, attack vocabulary.

It decides where a text too long to be read whole is read, and what it found is shown; whether it counts
in the risk is for the fitted fusion weights to say.
"""

from __future__ import annotations

from promptguard.detectors import Evidence
from promptguard.language import AnyCase
from promptguard.types import Signal

# One alternation of literals: linear. Stems an instruction to a model is likely to hold.
_STEMS = AnyCase(
    r"ignor|disregard|overrid|overrul|bypass|instruction|system prompt|assistant|you are now|pretend|jailbreak|"
    r"developer mode|reveal|password|secret|credential|api[ _-]?key|token|transfer|forward|send (?:it|this|all)|"
    r"delete|sudo|execut|important:|note to (?:ai|the)|language model|chatgpt|\bllm\b|\bai\b|<!--|base64|"
    r"anweisung|ignorier|instruc|olvida|oublie|ignora"
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
    pattern, searched = _STEMS.over(text[:100_000])
    return float(len({stem.lower() for stem in pattern.findall(searched)}))
