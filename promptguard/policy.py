"""What to do with a text: probabilities in, a decision and its reason out.

Everything here is pure and total: the same numbers give the same decision, every combination of
numbers that are probabilities gives one, and a higher risk never gives a milder one.

*Block* starts at the risk threshold of the mode "low-alarm", *review* at the threshold of the mode in
force. A policy can change what follows from an intent, for all traffic or for one application; it cannot
let pass what was not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from promptguard.errors import BackendError, InputError
from promptguard.intents import INTENTS, RISKY_INTENTS, Intent
from promptguard.types import Coverage, Decision, Reason

FALSE_POSITIVE_RATES: Mapping[str, float] = {"low-alarm": 0.001, "balanced": 0.01, "strict": 0.05}
"""The modes, and the share of held-out benign traffic each of them flags: a definition, not a measurement."""

MODES: tuple[str, ...] = tuple(FALSE_POSITIVE_RATES)
"""Names of the modes, from the fewest false alarms to the most."""

_BLOCKING_MODE = "low-alarm"
_DECISIONS = tuple(Decision)


def severity(decision: Decision) -> int:
    """Rank of a decision: 0 for *allow*, 1 for *review*, 2 for *block*."""
    return _DECISIONS.index(decision)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where decisions start, as calibrated with the model and kept in its manifest.

    Attributes:
        risk: for each mode, the risk in [0, 1] from which a text is flagged; a mode with fewer false
            alarms never has the lower threshold.
        intents: for each of the ten intents, the probability in [0, 1] from which it is listed.

    Raises:
        InputError: a mode or an intent is missing or unknown, a threshold is not in [0, 1], or the
            modes are out of order.
    """

    risk: Mapping[str, float]
    intents: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "risk", _shares(self.risk, "thresholds.risk", MODES))
        object.__setattr__(self, "intents", _shares(self.intents, "thresholds.intents", INTENTS))
        in_order = [self.risk[mode] for mode in MODES]
        if in_order != sorted(in_order, reverse=True):
            raise InputError(f"thresholds.risk must not rise in the order {', '.join(MODES)}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Thresholds:
        """Make thresholds from a mapping with the keys ``risk`` and ``intents``.

        Args:
            mapping: what ``to_dict`` gives, for example from a manifest.

        Returns:
            The thresholds.

        Raises:
            InputError: for an unknown or missing key, or an unusable value; the message names it.
        """
        _known(mapping, "thresholds", ("risk", "intents"))
        return cls(risk=mapping.get("risk", {}), intents=mapping.get("intents", {}))

    def to_dict(self) -> dict[str, Any]:
        """The thresholds as fresh, JSON-ready values."""
        return {"risk": dict(self.risk), "intents": dict(self.intents)}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator wants done.

    Attributes:
        mode: where *review* starts: "low-alarm", "balanced" or "strict". In "low-alarm" it starts where
            *block* does, so that risk never leads to review.
        out_of_scope: what to do when ``out_of_scope`` is the only intent.
        intents: for some of the nine risky intents, the decision wanted when the text's risk reaches the
            review threshold and that intent is listed. Where several intents are listed, the most severe
            decision holds; one without an entry here asks for what the risk asks for.
        unreadable_share: share of a text's letters, in (0, 1], from which it is never *allow* because the
            model's vocabulary does not know them. The default is a choice, not a measurement: a word or a
            name in another script is fine, a third of the text is not.
        applications: policies of their own for some applications, by ``Context.application``.

    Raises:
        InputError: a key or a value is unusable; the message names it and says what is accepted.
    """

    mode: str = "balanced"
    out_of_scope: Decision = Decision.ALLOW
    intents: Mapping[str, Decision] = field(default_factory=dict)
    unreadable_share: float = 0.3
    applications: Mapping[str, Policy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"policy.mode must be one of {', '.join(MODES)}")
        object.__setattr__(self, "out_of_scope", _decision(self.out_of_scope, "policy.out_of_scope"))
        given = _known(self.intents, "policy.intents", RISKY_INTENTS)
        wanted = {name: _decision(value, f"policy.intents.{name}") for name, value in given.items()}
        object.__setattr__(self, "intents", wanted)
        share = _number(self.unreadable_share, "policy.unreadable_share")
        if not 0 < share <= 1:
            raise InputError("policy.unreadable_share must be above 0 and at most 1")
        if not isinstance(self.applications, Mapping):
            raise InputError(f"policy.applications must be a mapping, not {type(self.applications).__name__}")
        for name, policy in self.applications.items():
            if not isinstance(name, str) or not isinstance(policy, Policy) or policy.applications:
                raise InputError(
                    f"policy.applications[{name!r}] must be a policy without applications of its own, under a string"
                )
        object.__setattr__(self, "applications", dict(self.applications))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """Make a policy from a mapping, for example from a JSON file.

        Args:
            mapping: any of the attributes as keys, decisions spelled as strings. An application's entry
                is such a mapping, too: a key it leaves out is taken from the policy around it, a key it
                gives replaces that one entirely.

        Returns:
            The policy.

        Raises:
            InputError: for an unknown key or an unusable value; the message names it.
        """
        _known(mapping, "policy", _POLICY_KEYS)
        given = dict(mapping)
        applications = given.pop("applications", {})
        outer = cls(**given)
        if not isinstance(applications, Mapping):
            raise InputError(f"policy.applications must be a mapping, not {type(applications).__name__}")
        inner = {}
        for name, own in applications.items():
            try:
                _known(own, "policy", _POLICY_KEYS)
                inner[name] = cls.from_mapping({**given, **own})
            except InputError as error:
                raise InputError(f"policy.applications[{name!r}]: {error}") from None
        return cls(**given, applications=inner) if inner else outer

    def to_dict(self) -> dict[str, Any]:
        """The policy as fresh, JSON-ready values; ``from_mapping`` makes an equal policy of them."""
        return {
            "mode": self.mode,
            "out_of_scope": self.out_of_scope.value,
            "intents": {name: decision.value for name, decision in self.intents.items()},
            "unreadable_share": self.unreadable_share,
            "applications": {name: policy.to_dict() for name, policy in self.applications.items()},
        }

    def for_application(self, application: str | None) -> Policy:
        """The policy that holds for an application.

        Args:
            application: ``Context.application``, or None.

        Returns:
            The application's own policy; this one where it has none.
        """
        return self if application is None else self.applications.get(application, self)


_POLICY_KEYS = tuple(f.name for f in fields(Policy))


def decide(
    *,
    risk: float,
    probabilities: Mapping[str, float],
    thresholds: Thresholds,
    policy: Policy,
    coverage: Coverage,
    letters: int,
) -> tuple[Decision, Reason, tuple[str, ...]]:
    """Decide what to do with a text.

    A text whose risk reaches the review threshold always has a risky intent, if only the most likely one;
    below that no risky intent is listed, whatever its own threshold says: verdict and intents never
    contradict one another. ``out_of_scope`` is listed alone or not at all.

    Args:
        risk: calibrated probability in [0, 1] that the text is risky in its context.
        probabilities: calibrated probability in [0, 1] of each of the ten intents.
        thresholds: where decisions start.
        policy: the policy that holds for this text's application (``Policy.for_application``).
        coverage: how much of the text was read.
        letters: letters in the text, readable or not; at least 0.

    Returns:
        The decision; why; and the intents that are listed, most likely first. Ties go by the order of
        ``INTENTS``.

    Raises:
        BackendError: the risk or a probability is NaN or not in [0, 1], or an intent is missing: the model
            has failed, and no verdict must not read as *allow*.
    """
    _require_probabilities(risk, probabilities)
    in_scope = probabilities[Intent.OUT_OF_SCOPE] < thresholds.intents[Intent.OUT_OF_SCOPE]
    scope_decision = Decision.ALLOW if in_scope else policy.out_of_scope
    listed: tuple[str, ...]
    if risk >= thresholds.risk[policy.mode]:
        listed, decision, reason = _decide_risky(risk, probabilities, thresholds, policy)
        # Else a text that is stopped as out of scope would pass on to review by being risky besides.
        if severity(scope_decision) > severity(decision):
            decision, reason = scope_decision, Reason.OUT_OF_SCOPE
    elif in_scope:
        listed, decision, reason = (), Decision.ALLOW, Reason.BELOW_THRESHOLD
    else:
        listed, decision, reason = (Intent.OUT_OF_SCOPE.value,), scope_decision, Reason.OUT_OF_SCOPE
    if decision is Decision.ALLOW:
        if coverage.characters_not_read > 0:
            return Decision.REVIEW, Reason.NOT_FULLY_READ, listed
        if coverage.characters_unreadable / max(1, letters) >= policy.unreadable_share:
            return Decision.REVIEW, Reason.UNREADABLE, listed
    return decision, reason, listed


def _decide_risky(
    risk: float, probabilities: Mapping[str, float], thresholds: Thresholds, policy: Policy
) -> tuple[tuple[str, ...], Decision, Reason]:
    """Intents, decision and reason of a text whose risk reaches the review threshold."""
    by_risk = Decision.BLOCK if risk >= thresholds.risk[_BLOCKING_MODE] else Decision.REVIEW
    ranked = sorted(RISKY_INTENTS, key=lambda name: -probabilities[name])  # a stable sort: ties keep their order
    reached = tuple(name for name in ranked if probabilities[name] >= thresholds.intents[name])
    if reached:
        decision = max((policy.intents.get(name, by_risk) for name in reached), key=severity)
    else:
        # The text is risky but its intent is a guess: a guess may make the decision stricter, never milder.
        decision = max(by_risk, policy.intents.get(ranked[0], by_risk), key=severity)
    return reached or (ranked[0],), decision, Reason.RISK if decision is by_risk else Reason.POLICY


def _require_probabilities(risk: float, probabilities: Mapping[str, float]) -> None:
    if not 0.0 <= risk <= 1.0:  # false for NaN, too
        raise BackendError("the model gave a risk that is not a number in [0, 1]")
    for name in INTENTS:
        value = probabilities.get(name)
        if value is None or not 0.0 <= value <= 1.0:
            raise BackendError(f"the model gave no probability in [0, 1] for {name}")


def _known(value: object, name: str, accepted: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a mapping, not {type(value).__name__}")
    for key in value:
        if key not in accepted:
            raise InputError(f"{name} has the unknown key {key!r}; accepted: {', '.join(accepted)}")
    return value


def _shares(value: object, name: str, keys: tuple[str, ...]) -> dict[str, float]:
    """A mapping checked to hold a number in [0, 1] for exactly these keys, copied in their order."""
    given = _known(value, name, keys)
    for key in keys:
        if key not in given:
            raise InputError(f"{name} lacks the key {key!r}; needed: {', '.join(keys)}")
        if not 0 <= _number(given[key], f"{name}.{key}") <= 1:
            raise InputError(f"{name}.{key} must be in [0, 1]")
    return {key: float(given[key]) for key in keys}


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise InputError(f"{name} must be a number")
    return value


def _decision(value: object, name: str) -> Decision:
    if not isinstance(value, str) or value not in _DECISIONS:
        raise InputError(f"{name} must be one of {', '.join(_DECISIONS)}")
    return Decision(value)
