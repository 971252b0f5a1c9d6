"""The ten intents, in the order of the model's outputs, and where the security frameworks list them.

Identifiers are those of the OWASP Top 10 for LLM Applications 2025 and of MITRE ATLAS.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Intent(StrEnum):
    """What a text is trying to do, in the context it arrived in."""

    PROMPT_INJECTION = "prompt_injection"
    JAILBREAK = "jailbreak"
    PROMPT_EXTRACTION = "prompt_extraction"
    DATA_EXFILTRATION = "data_exfiltration"
    SOCIAL_ENGINEERING = "social_engineering"
    FRAUD = "fraud"
    TOOL_MISUSE = "tool_misuse"
    RESOURCE_ABUSE = "resource_abuse"
    HARMFUL_CONTENT = "harmful_content"
    OUT_OF_SCOPE = "out_of_scope"


INTENTS: tuple[str, ...] = tuple(intent.value for intent in Intent)
"""Names of the intents, in the order of the model's outputs."""

RISKY_INTENTS: tuple[str, ...] = tuple(name for name in INTENTS if name != Intent.OUT_OF_SCOPE)
"""The intents that make a text risky: all but ``out_of_scope``."""


def is_risky(labels: Iterable[str]) -> bool:
    """Whether names of intents hold one that makes a text risky: any but ``out_of_scope``."""
    return any(label != Intent.OUT_OF_SCOPE for label in labels)


_REFERENCES: dict[str, tuple[str, ...]] = {
    Intent.PROMPT_INJECTION: ("LLM01:2025",),
    Intent.JAILBREAK: ("LLM01:2025", "AML.T0054"),
    Intent.PROMPT_EXTRACTION: ("LLM07:2025", "AML.T0056"),
    Intent.DATA_EXFILTRATION: ("LLM02:2025", "AML.T0057"),
    Intent.SOCIAL_ENGINEERING: ("AML.T0073",),
    Intent.FRAUD: ("AML.T0048.000",),
    Intent.TOOL_MISUSE: ("LLM06:2025", "AML.T0053"),
    Intent.RESOURCE_ABUSE: ("LLM10:2025", "AML.T0034"),
    Intent.HARMFUL_CONTENT: ("AML.T0048",),
    Intent.OUT_OF_SCOPE: (),
}


def references(intents: tuple[str, ...], source: str | None) -> tuple[str, ...]:
    """Framework identifiers for a set of intents, without repeats, in order.

    Args:
        intents: names of intents.
        source: the channel the text came in by; it decides between ATLAS' direct and
            indirect prompt injection.

    Returns:
        Identifiers such as ``"LLM01:2025"`` and ``"AML.T0051.001"``.
    """
    found: dict[str, None] = {}
    for intent in intents:
        for reference in _REFERENCES[intent]:
            found[reference] = None
        if intent == Intent.PROMPT_INJECTION:
            found["AML.T0051.000" if source in (None, "user") else "AML.T0051.001"] = None
    return tuple(found)
