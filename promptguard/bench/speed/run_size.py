"""Measure one machine, predict what it takes, check that with load runs, and answer: ``promptguard bench size``.

The model of service times is fitted to load runs at 30 % and 60 % of the capacity. Then, before they are made, it
predicts the 99th percentile of two runs it was not fitted to: at 80 %, and with requests of other lengths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptguard.bench.speed.load import Floats, Integers, Layout, Request, Run, Workers, closed_loop, open_loop
from promptguard.bench.speed.mixes import CHAT, DOCUMENTS, from_log
from promptguard.bench.speed.service import Observed, ServiceModel, new_contexts, work_terms
from promptguard.bench.speed.sizing import Demand, Replica, Shape, error, plan, pooled
from promptguard.bench.speed.traffic import sizes
from promptguard.errors import InputError
from promptguard.loaded import Loaded

FITTED_AT = (0.3, 0.6)
CHECKED_AT = 0.8
OTHER_MIX_AT = 0.7
"""Shares of capacity; that of the other mix is predicted, not measured."""

_LEAST_QUERIES = 1000
"""Of a checked run: ten of them lie beyond the 99th percentile."""

_REQUESTS = 4000
_REPEATS = 20
"""Simulations of a checked run."""

_BEFORE = 1000
"""Requests that a machine served before those looked at: its contexts are known."""


@dataclass(frozen=True, slots=True)
class _Mix:
    """Requests, and what each costs the encoder."""

    name: str
    requests: list[Request]
    context_number: Integers
    context: Integers
    text: Integers
    windows: Integers
    cache_tokens: float

    @classmethod
    def of(cls, name: str, requests: list[Request], loaded: Loaded) -> _Mix:
        found = sizes(loaded, requests)
        numbers: dict[tuple[int, ...], int] = {}
        of_context = [
            numbers.setdefault(loaded.contexts.ids(context or Context(), text), len(numbers))
            for text, context in requests
        ]
        return cls(name, requests, np.array(of_context), found.context, found.text, found.windows, loaded.runtime.kept)
