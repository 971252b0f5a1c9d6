"""Records and what was said about them, as columns of numbers; failed analyses hold their worst verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.errors import InputError
from promptguard.intents import INTENTS

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Counts: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Columns:
    """One row a record; intents are columns of their own, in the order of ``INTENTS``."""

    risky: Bools
    risk: Floats  # for calibration: an error is a confident mistake
    rank: Floats  # for ranking: an error lies beyond every verdict, on the wrong side
    flagged: Bools
    error: Bools
    gold: Bools  # n x 10
    probability: Floats  # n x 10
    predicted: Bools  # n x 10
    cluster: Integers

    @property
    def right(self) -> Bools:
        """Whether it is flagged exactly where it is risky."""
        return np.asarray(self.flagged == self.risky, dtype=np.bool_)

    @property
    def exact(self) -> Bools:
        """Whether every intent is right."""
        return np.asarray((self.gold == self.predicted).all(axis=1), dtype=np.bool_)


def columns_of(records: Sequence[Record], scored: Sequence[Scored]) -> Columns:
    """Put records and what was said about them side by side.

    Args:
        records: the labelled records.
        scored: a row for each, in the same order.

    Returns:
        The columns.

    Raises:
        InputError: a risk outside [0, 1].
    """
    risky = np.array([record.risky for record in records], dtype=bool)
    error = np.array([row.error is not None for row in scored], dtype=bool)
    risk = np.array([row.risk for row in scored], dtype=np.float64)
    if not bool(np.all(error | ((risk >= 0.0) & (risk <= 1.0)))):
        raise InputError("scored holds a risk outside [0, 1]")
    gold = np.array([[name in record.labels for name in INTENTS] for record in records], dtype=bool)
    probability = np.array([[row.probabilities.get(name, 0.0) for name in INTENTS] for row in scored], dtype=np.float64)
    predicted = np.array([[name in row.intents for name in INTENTS] for row in scored], dtype=bool)
    flagged = np.array([row.decision != "allow" for row in scored], dtype=bool)
    keys: dict[object, int] = {}
    cluster = [
        keys.setdefault(record.group if record.group is not None else position, len(keys))
        for position, record in enumerate(records)
    ]
    return Columns(
        risky=risky,
        risk=np.where(error, np.where(risky, 0.0, 1.0), risk),
        rank=np.where(error, np.where(risky, -1.0, 2.0), risk),
        flagged=np.where(error, ~risky, flagged),
        error=error,
        gold=gold,
        probability=np.where(error[:, None], np.where(gold, -1.0, 2.0), probability),
        predicted=np.where(error[:, None], ~gold, predicted),
        cluster=np.array(cluster, dtype=np.int64),
    )
