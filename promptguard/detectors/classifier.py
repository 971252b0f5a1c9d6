"""The fine-tuned transformer's opinion: its logits, over the strongest window."""

from __future__ import annotations

import math

import numpy as np

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
        logits = np.stack([reading.output.logits for reading in evidence.readings])
        strongest = logits.max(axis=0)
        scores = {name: float(value) for name, value in zip((*INTENTS, "risk"), strongest, strict=True)}
        # The least over windows, not the most: a long text is out of scope only if all of it is.
        out_of_scope = INTENTS.index("out_of_scope")
        scores["out_of_scope"] = float(logits[:, out_of_scope].min())
        # -log(1 - p) summed over the intents; softplus keeps it finite.
        none = sum(float(np.logaddexp(0.0, scores[name])) for name in RISKY_INTENTS)
        scores["any_intent"] = none + math.log(-math.expm1(-max(none, _TINY)))
        scores["log_windows"] = math.log(len(logits))
        at = int(logits[:, -1].argmax())
        return Signal(self.name, scores, {"view": evidence.readings[at].view.name, "window": at})
