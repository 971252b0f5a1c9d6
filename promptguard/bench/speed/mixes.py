"""What the requests of a service look like: their lengths, and how often a context comes again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from promptguard.bench.speed.load import Request
from promptguard.bench.speed.traffic import made
from promptguard.types import Context

_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests of a made-up service.

    Attributes:
        name: what it is called in results.
        text_median: tokens of the median text; lengths are log-normal.
        text_sigma: standard deviation of the logarithm of a text's length.
        context_tokens: fewest and most tokens of a context.
        applications: contexts that come again and again, each as often as the next.
        new: share of requests in a context never seen before.
        none: share of requests without a context.
    """

    name: str
    text_median: float
    text_sigma: float
    context_tokens: tuple[int, int]
    applications: int
    new: float
    none: float

    def requests(self, number: int, seed: int) -> list[Request]:
        """Draw requests.

        Args:
            number: how many.
            seed: same seed, same requests.
        """
        draw = np.random.default_rng(seed)
        lengths = np.clip(draw.lognormal(np.log(self.text_median), self.text_sigma, number), 3, _LONGEST).astype(int)
        kinds = draw.choice(3, number, p=(1 - self.new - self.none, self.new, self.none))
        known = [self._context(draw) for _ in range(self.applications)]
        return [
            (
                made(1, text_tokens=int(length), context_tokens=0, seed=int(draw.integers(2**32)))[0][0],
                (known[int(draw.integers(len(known)))], self._context(draw), None)[kind],
            )
            for length, kind in zip(lengths, kinds, strict=True)
        ]

    def _context(self, draw: np.random.Generator) -> Context | None:
        tokens = int(draw.integers(self.context_tokens[0], self.context_tokens[1] + 1))
        return made(1, text_tokens=3, context_tokens=tokens, seed=int(draw.integers(2**32)))[0][1]


CHAT = Mix("chat", 50, 0.9, (60, 180), applications=8, new=0.15, none=0.1)
"""The default: short messages, most of them in the system prompt of one of eight applications."""

DOCUMENTS = Mix("documents", 200, 0.6, (60, 180), applications=4, new=0.5, none=0.1)
"""The other one, which predictions are checked with: longer texts, half of them in a new context."""


def spread(number: int, seed: int) -> list[Request]:
    """Requests of all lengths, half of them in a new context: what service times by length are measured with.

    Args:
        number: how many.
        seed: same seed, same requests.
    """
    draw = np.random.default_rng(seed)
    requests = []
    for length in np.exp(draw.uniform(np.log(4), np.log(800), number)).astype(int):
        context_tokens = int(draw.integers(8, 240)) if draw.random() < 0.5 else 0
        requests += made(
            1, text_tokens=int(length), context_tokens=context_tokens, contexts=None, seed=int(draw.integers(2**32))
        )
    return requests


def numbered(context: Context, number: int) -> Context:
    """A context that no worker has met, though hardly longer than the one given: with a number at its head."""
    if context.system_prompt:
        return replace(context, system_prompt=f"{number} {context.system_prompt}")
    if context.purpose:
        return replace(context, purpose=f"{number} {context.purpose}")
    return replace(context, user_role=f"{number} {context.user_role or ''}".strip())
