"""What attacks may cost: expected loss for each intent, and inference spend burnt by abuse.

Expected loss of a row and an intent = probability × share of attempts that succeed × loss of one that does. The
probabilities are first corrected for the share of risky traffic in these logs, which is estimated from the scan
(Saerens, Latinne and Decaestecker 2002) unless the user states it. Intervals are bootstrap percentiles over groups
of actors, because one actor's rows are not independent; each replicate estimates the share of risky traffic anew
and draws the losses from the ranges the user gave.

What is kept of the rows while they stream by is a histogram of log-odds: its size does not depend on their number.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from promptguard.errors import InputError, MissingExtraError
from promptguard.fusion import log_odds
from promptguard.intents import INTENTS

try:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy.special import expit, logit
except ImportError as missing:
    raise MissingExtraError("report", "the report") from missing

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

EXAMPLE = Path(__file__).parent / "prices.toml"
"""The prices that come with the package: an example, and marked as one."""

GROUPS = 200
"""Groups of actors that the bootstrap draws from."""
REPLICATES = 500
_NODES: Floats = np.linspace(-12.0, 12.0, 193)
_STEP = 0.125
_OUTPUTS = (*INTENTS, "risk")
_LEAST_PRIOR = 1e-6
_Z90 = 1.6448536269514722  # half of a 90 % range, in standard deviations


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a million tokens."""

    input: float
    output: float


@dataclass(frozen=True, slots=True)
class Impact:
    """What one attempt may cost.

    Attributes:
        low: lower end of the 90 % range of the loss of one attempt that succeeds.
        high: upper end; equal to ``low`` where the loss is taken as exact.
        succeeds: share of attempts that would succeed if nothing stopped them.
    """

    low: float
    high: float
    succeeds: float

    @property
    def mean(self) -> float:
        """Mean loss of one attempt that succeeds: of a log-normal with that 90 % range."""
        return self.low if self.low == self.high else math.exp(self._mu + self._sigma**2 / 2)

    @property
    def _mu(self) -> float:
        return (math.log(self.low) + math.log(self.high)) / 2

    @property
    def _sigma(self) -> float:
        return (math.log(self.high) - math.log(self.low)) / (2 * _Z90)

    def draws(self, generator: np.random.Generator, number: int) -> Floats:
        """Losses of one attempt that succeeds, drawn from the range."""
        if self.low == self.high:
            return np.full(number, self.low)
        return generator.lognormal(self._mu, self._sigma, number)


@dataclass(frozen=True, slots=True)
class Prices:
    """What the user's file of prices holds.

    Attributes:
        example: whether the figures are those of an example.
        currency: the name put beside every sum.
        prior: share of risky traffic, or None to estimate it.
        tokens: prices by pattern of the model's name, in the order they are tried.
        impact: what an attempt may cost, by intent.
    """

    example: bool
    currency: str
    prior: float | None
    tokens: Mapping[str, Price]
    impact: Mapping[str, Impact]

    @classmethod
    def load(cls, path: Path | str | None = None) -> Prices:
        """Read a file of prices.

        Args:
            path: a TOML file; None for the example that comes with the package.

        Returns:
            The prices.

        Raises:
            InputError: the file cannot be read, or a key or a value is unusable; the message names it.
        """
        file = EXAMPLE if path is None else Path(path)
        try:
            given = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"there is no file of prices {file}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file.name} is not TOML: {error}") from error
        try:
            return cls.from_mapping(given)
        except InputError as error:
            raise InputError(f"{file.name}: {error}") from None

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Prices:
        """Make prices from a mapping; InputError names the key that is unusable."""
        _only(given, "the file", ("example", "currency", "prior", "tokens", "impact"))
        example, currency, prior = given.get("example", False), given.get("currency", "USD"), given.get("prior")
        if not isinstance(example, bool):
            raise InputError("example must be true or false")
        if not isinstance(currency, str):
            raise InputError("currency must be a string")
        if prior is not None and not 0 < _number(prior, "prior") < 1:
            raise InputError("prior must be between 0 and 1")
        tokens = {}
        for name, row in _table(given.get("tokens", {}), "tokens").items():
            _only(row, f'tokens."{name}"', ("input", "output"))
            tokens[name] = Price(*(_number(row.get(k), f'tokens."{name}".{k}') for k in ("input", "output")))
        impact = {}
        for name, row in _only(given.get("impact", {}), "impact", INTENTS).items():
            _only(row, f"impact.{name}", ("loss", "succeeds"))
            impact[name] = _impact(row, f"impact.{name}")
        return cls(example, currency, prior, tokens, impact)

    def of(self, model: str | None) -> Price | None:
        """Price of a model's tokens; None for a model that no entry fits."""
        name = (model or "").lower()
        return next((price for pattern, price in self.tokens.items() if fnmatchcase(name, pattern.lower())), None)


def _impact(row: Mapping[str, Any], name: str) -> Impact:
    loss = row.get("loss")
    low, high = loss if isinstance(loss, list) and len(loss) == 2 else (loss, loss)
    low, high = _number(low, f"{name}.loss"), _number(high, f"{name}.loss")
    if low > high or (low != high and low <= 0):
        raise InputError(f"{name}.loss must be a number, or a range of two that rises from above 0")
    succeeds = _number(row.get("succeeds"), f"{name}.succeeds")
    if succeeds > 1:
        raise InputError(f"{name}.succeeds must be at most 1")
    return Impact(low, high, succeeds)


def _table(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a table")
    return value


def _only(value: object, name: str, accepted: tuple[str, ...]) -> Mapping[str, Any]:
    table = _table(value, name)
    for key in table:
        if key not in accepted:
            raise InputError(f"{name} has the unknown key {key!r}; accepted: {', '.join(accepted)}")
    return table


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} must be a number of at least 0")
    return float(value)


def cost(table: pa.Table, prices: Prices) -> pa.ChunkedArray:
    """What each row cost in tokens; null where the model has no price or neither count is known.

    Args:
        table: rows with ``model``, ``input_tokens`` and ``output_tokens``.
        prices: what tokens cost.

    Returns:
        The cost of each row, in the prices' currency.
    """
    names = table["model"].cast(pa.string())
    models = pc.unique(names).to_pylist()
    known = {model: prices.of(model) for model in models}
    place = pc.index_in(names, pa.array(models, pa.string()))
    unpriced = Price(math.nan, math.nan)
    total: Any = None
    for kind in ("input", "output"):
        rates = pa.array([getattr(known[m] or unpriced, kind) / 1e6 for m in models], pa.float64(), from_pandas=True)
        part = pc.multiply(pc.take(rates, place), pc.cast(pc.coalesce(table[f"{kind}_tokens"], 0), pa.float64()))
        total = part if total is None else pc.add(total, part)
    counted = pc.or_(pc.is_valid(table["input_tokens"]), pc.is_valid(table["output_tokens"]))
    return pc.if_else(counted, total, pa.scalar(None, pa.float64()))


class Ledger:
    """Keeps of the rows what the money needs."""

    def __init__(self) -> None:
        self._counts: Floats = np.zeros((GROUPS, 2, len(_OUTPUTS), len(_NODES)))
        self._spend: Floats = np.zeros((GROUPS, len(_NODES)))
        self._flagged_spend: Floats = np.zeros(GROUPS)
        self.priced = 0
        self.unpriced = 0

    def add(self, group: Integers, flagged: npt.NDArray[np.bool_], probabilities: Floats, spend: Floats) -> None:
        """Add rows.

        Args:
            group: the group of actors of each row, below ``GROUPS``.
            flagged: whether it was not allowed.
            probabilities: rows × (ten intents and the risk), at the scan's prior.
            spend: what it cost; NaN where that is not known.
        """
        # A row is shared by the two nodes its log-odds lie between, in proportion: their mean is its log-odds.
        place = np.clip((logit(np.clip(probabilities, 1e-9, 1 - 1e-9)) - _NODES[0]) / _STEP, 0, len(_NODES) - 1.001)
        lower = place.astype(np.int64)
        upper_share = place - lower
        flat = (((group * 2 + flagged) * len(_OUTPUTS))[:, None] + np.arange(len(_OUTPUTS))) * len(_NODES) + lower
        known = np.isfinite(spend)
        of_risk = group[known] * len(_NODES) + lower[known, -1]
        for up, share in ((0, 1 - upper_share), (1, upper_share)):
            self._counts += _sums(flat.ravel() + up, share.ravel(), self._counts)
            self._spend += _sums(of_risk + up, share[known, -1] * spend[known], self._spend)
        self.priced += int(known.sum())
        self.unpriced += int((~known).sum())
        self._flagged_spend += np.bincount(group[known & flagged], spend[known & flagged], GROUPS)

    def figures(self, prices: Prices, scan_prior: float, seed: int = 0) -> dict[str, Any]:
        """The money, with 95 % intervals.

        Args:
            prices: what tokens and attempts cost.
            scan_prior: share of risky traffic the scan's probabilities are stated at.
            seed: of the bootstrap.

        Returns:
            JSON-ready figures.
        """
        generator = np.random.default_rng(seed)
        used = np.flatnonzero(self._counts[:, :, -1].sum(axis=(1, 2)))
        drawn = np.zeros((REPLICATES + 1, GROUPS))
        drawn[0] = 1  # the first is the sample itself
        if len(used):
            for replicate in range(1, REPLICATES + 1):
                drawn[replicate, used] = np.bincount(generator.integers(0, len(used), len(used)), minlength=len(used))
        counts = np.tensordot(drawn, self._counts, 1)
        prior = np.array([prices.prior or _prior(c.sum(axis=0)[-1], scan_prior) for c in counts])
        shift = logit(prior) - log_odds(scan_prior)
        probability = expit(_NODES[None, :] + shift[:, None])
        attempts = np.einsum("rdoc,rc->rdo", counts, probability)
        losses = {}
        total: Floats = np.zeros((REPLICATES + 1, 2))
        for i, name in enumerate(INTENTS):
            impact = prices.impact.get(name)
            row: dict[str, Any] = {"attempts": _interval(attempts[:, :, i].sum(axis=1))}
            if impact is not None:
                each = np.concatenate([[impact.mean], impact.draws(generator, REPLICATES)]) * impact.succeeds
                loss = attempts[:, :, i] * each[:, None]
                total += loss
                row |= {"loss_each": impact.mean, "succeeds": impact.succeeds}
                row |= {"allowed": _interval(loss[:, 0]), "flagged": _interval(loss[:, 1])}
            losses[name] = row
        spend = drawn @ self._spend
        return {
            "currency": prices.currency,
            "example": prices.example,
            "prior": {"scan": scan_prior, "stated": prices.prior is not None, "used": _interval(prior)},
            "risky_rows": _interval(attempts[:, :, -1].sum(axis=1)),
            "loss": {"allowed": _interval(total[:, 0]), "flagged": _interval(total[:, 1]), "by_intent": losses},
            "spend": {
                "total": float(spend[0].sum()),
                "flagged": _interval(drawn @ self._flagged_spend),
                "abuse": _interval((spend * probability).sum(axis=1)),
                "rows_priced": self.priced,
                "rows_not_priced": self.unpriced,
            },
            "groups": len(used),
            "replicates": REPLICATES,
        }


def _prior(counts: Floats, scan_prior: float) -> float:
    """Share of risky rows by expectation maximisation, from a histogram of the risk's log-odds."""
    total = counts.sum()
    if not total:
        return scan_prior
    prior = scan_prior
    for _ in range(200):
        risky = expit(_NODES + log_odds(prior) - log_odds(scan_prior))
        estimate = min(max(float(counts @ risky / total), _LEAST_PRIOR), 1 - _LEAST_PRIOR)
        if abs(estimate - prior) < 1e-3 * prior:
            return estimate
        prior = estimate
    return prior


def _sums(places: Integers, weights: Floats, like: Floats) -> Floats:
    sums: Floats = np.bincount(places, weights, like.size).astype(np.float64)
    return sums.reshape(like.shape)


def _interval(values: Floats) -> dict[str, float]:
    """The first value, and the 95 % percentile interval of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
