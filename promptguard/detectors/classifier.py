"""The fine-tuned transformer's opinion: its logits, over the strongest window."""

from __future__ import annotations

import math

from promptguard.detectors import Evidence
from promptguard.intents import INTENTS, RISKY_INTENTS
from promptguard.types import Signal

_TINY = 1e-12
"""Keeps the logarithm finite where no intent has any probability at all."""


class Classifier:
    """Takes each logit's maximum over the windows of all views.

    A maximum grows with the number of windows even where nothing is wrong; ``log_windows`` lets fusion
    correct for it.
    """

    name = "classifier"

    def __call__(self, evidence: Evidence) -> Signal:
        """Signal with the ten intents, ``risk``, ``any_intent`` and ``log_windows``.

        ``any_intent`` is the log-odds that at least one risky intent is there, were they independent; detail
        names the strongest view.
        """
        windows = [reading.output.logits.tolist() for reading in evidence.readings]
        logits = dict(zip((*INTENTS, "risk"), zip(*windows, strict=True), strict=True))
        scores = {name: max(values) for name, values in logits.items()}
        # The least over windows, not the most: a long text is out of scope only if all of it is.
        scores["out_of_scope"] = min(logits["out_of_scope"])
        # -log(1 - p) summed over the intents; softplus keeps it finite.
        none = sum(_softplus(scores[name]) for name in RISKY_INTENTS)
        scores["any_intent"] = none + math.log(-math.expm1(-max(none, _TINY)))
        scores["log_windows"] = math.log(len(windows))
        at = logits["risk"].index(scores["risk"])
        return Signal(self.name, scores, {"view": evidence.readings[at].view.name, "window": at})


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
