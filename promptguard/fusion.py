"""Signals to calibrated probabilities: a linear combination and a logistic function for each output.

The constants come with the model. They were fitted by ``scripts/calibrate.py`` on records the
model was not trained on (logistic calibration, Platt 1999).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptguard.intents import INTENTS
from promptguard.types import Signal


@dataclass(frozen=True, slots=True)
class Fusion:
    """Weights and biases by output.

    Attributes:
        weights: for each of the ten intents and ``risk``, weights by feature, ``detector.score``.
        biases: for each output the constant term, at the bundle's prior.
    """

    weights: Mapping[str, Mapping[str, float]]
    biases: Mapping[str, float]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Fusion:
        """Read the constants from a manifest; KeyError, TypeError or ValueError if some are missing or no numbers."""
        rows = {name: mapping[name] for name in (*INTENTS, "risk")}
        return cls(
            {name: {feature: float(w) for feature, w in row["weights"].items()} for name, row in rows.items()},
            {name: float(row["bias"]) for name, row in rows.items()},
        )

    def fuse(self, signals: Mapping[str, Signal], shift: float) -> tuple[dict[str, float], float]:
        """Combine what the detectors said.

        Args:
            signals: by name of detector. One that did not run adds nothing: its features are
                centred so that 0 is what carries no information.
            shift: difference in log-odds between the prior asked for and the bundle's own.

        Returns:
            Probabilities of the ten intents, and the risk.
        """
        features = {
            f"{signal.name}.{score}": value
            for signal in signals.values()
            if signal.scores is not None
            for score, value in signal.scores.items()
        }
        probabilities = {name: self._probability(name, features, shift) for name in INTENTS}
        return probabilities, self._probability("risk", features, shift)

    def reads(self, detector: str) -> bool:
        """Whether a weight is given for any score of a detector, be it 0."""
        return any(name.startswith(f"{detector}.") for row in self.weights.values() for name in row)

    def _probability(self, output: str, features: Mapping[str, float], shift: float) -> float:
        logit = self.biases[output] + sum(
            weight * features.get(name, 0.0) for name, weight in self.weights[output].items()
        )
        return logistic(logit + shift)


def logistic(x: float) -> float:
    """Log-odds to a probability, without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_odds(p: float) -> float:
    """A probability strictly between 0 and 1 to log-odds."""
    return math.log(p / (1 - p))


def shifted(p: float, shift: float) -> float:
    """A probability moved by a difference in log-odds; 0 and 1 stay."""
    return p if not shift or p in (0.0, 1.0) else logistic(log_odds(p) + shift)
