"""How good the verdicts are, on labelled records.

``score`` asks a guard, ``evaluate`` turns what it said into figures, ``table`` prints them.
Definitions that hold throughout:

- *risky* is any label but ``out_of_scope``; everything else is called benign here. *Flagged* is any
  decision but ``allow``.
- A record whose analysis failed stays in every figure as the worst verdict possible: a miss where it
  is risky, a false alarm where it is not, ranked last, every intent wrong. It is counted in ``errors``.
- Thresholds for a false-positive rate are set on all benign records of the *same* set, pooled, and hold
  for every part of it. They describe how well risk ranks; what a user meets are the figures at the mode.
- Intervals are 95 % percentile bootstrap intervals that draw whole contrasting groups (``pair_id``) and
  single records alike, with replacement (Efron and Tibshirani 1993, ch. 13; clusters: Field and Welsh
  2007). A rate of exactly 0 or 1 does not vary under resampling: there the interval is Wilson's (1927),
  with the number of clusters as n.
"""

from __future__ import annotations

import datetime
import os
import platform
import random
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from promptguard import __version__
from promptguard.bench.records import Record
from promptguard.errors import InputError, MissingExtraError, ModelError
from promptguard.intents import INTENTS, RISKY_INTENTS
from promptguard.types import Context

try:
    from sklearn.metrics import average_precision_score, roc_auc_score
except ImportError as missing:
    raise MissingExtraError("bench", "the quality benchmark") from missing

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Counts: TypeAlias = npt.NDArray[np.uint8]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of records done and of all."""

FALSE_POSITIVE_RATES: tuple[float, ...] = (0.001, 0.005, 0.01, 0.05)
"""Rates at which recall is given; the first, third and last are those of the three modes."""
LENGTHS: tuple[tuple[str, int], ...] = (("0-63", 64), ("64-255", 256), ("256-1023", 1024), ("1024-4095", 4096))
"""Length buckets in characters, and the first length beyond each; longer texts are ``4096+``."""
CONTEXT_FIELDS: tuple[str, ...] = ("system_prompt", "user_role", "source", "history", "tools")
"""Fields that ``ablate`` and ``swap`` know, besides ``all``."""
BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""
_SPAN_FIGURES = ("precision", "recall", "f1", "mean_f1", "overlap", "contains")
_CHUNK = 256
_CELLS = 4_000_000
_Z95 = 1.959963984540054


class Analyzer(Protocol):
    """What is measured: anything with the method of ``Guard`` that takes many."""

    def analyze_many(self, pairs: Sequence[tuple[str, Context]], /) -> Any:
        """Return one ``Analysis`` a pair, in order."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What was said about one record.

    Attributes:
        risk: in [0, 1]; meaningless where ``error`` is set.
        probabilities: by name of intent, in [0, 1]; an intent left out counts as 0.
        decision: ``allow``, ``review`` or ``block``; ``error`` where the analysis failed.
        intents: those that reached their thresholds.
        spans: character offsets in the text, possibly overlapping.
        model: name and hash of the bundle.
        error: name of the exception's class where the analysis failed, else None.
    """

    risk: float
    probabilities: Mapping[str, float]
    decision: str
    intents: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    model: str = ""
    error: str | None = None

    @classmethod
    def failed(cls, error: str) -> Scored:
        """The row of a record that has no verdict."""
        return cls(risk=0.0, probabilities={}, decision="error", error=error)


# --- asking -------------------------------------------------------------------------------------


def score(guard: Analyzer, records: Sequence[Record], *, progress: Progress | None = None) -> list[Scored]:
    """Analyse every record.

    Where a batch raises, its records are analysed one by one, so that only the guilty one is an error.

    Args:
        guard: a ``Guard``, or anything with its ``analyze_many``.
        records: any records.
        progress: called after each batch.

    Returns:
        One row a record, in order; none is dropped.

    Raises:
        ModelError: the model cannot be used at all.
        MissingExtraError: the guard needs something that is not installed.
    """
    rows: list[Scored] = []
    for start in range(0, len(records), _CHUNK):
        part = [(record.text, record.context) for record in records[start : start + _CHUNK]]
        try:
            rows.extend(_ask(guard, part))
        except (ModelError, MissingExtraError):
            raise
        except Exception:  # a failure of any kind is a figure of the benchmark
            rows.extend(_ask_one(guard, pair) for pair in part)
        if progress is not None:
            progress(len(rows), len(records))
    return rows


def _ask(guard: Analyzer, pairs: Sequence[tuple[str, Context]]) -> list[Scored]:
    analyses = list(guard.analyze_many(pairs))
    if len(analyses) != len(pairs):
        raise ValueError(f"{len(analyses)} analyses for {len(pairs)} texts")
    return [_row(analysis) for analysis in analyses]


def _ask_one(guard: Analyzer, pair: tuple[str, Context]) -> Scored:
    try:
        return _ask(guard, [pair])[0]
    except (ModelError, MissingExtraError):
        raise
    except Exception as problem:
        return Scored.failed(type(problem).__name__)


def _row(analysis: Any) -> Scored:
    probabilities = {str(name): float(value) for name, value in analysis.probabilities.items()}
    risk = float(analysis.risk)
    if not all(0.0 <= value <= 1.0 for value in (risk, *probabilities.values())):
        raise ValueError("a probability outside [0, 1]")
    return Scored(
        risk=risk,
        probabilities=probabilities,
        decision=str(analysis.decision),
        intents=tuple(str(name) for name in analysis.intents),
        spans=tuple((int(span.start), int(span.end)) for span in analysis.spans),
        model=str(analysis.model),
    )


# --- the whole evaluation -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Arrays:
    """Records and rows as columns; errors already hold their worst verdict."""

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
        return np.asarray(self.flagged == self.risky, dtype=np.bool_)

    @property
    def exact(self) -> Bools:
        return np.asarray((self.gold == self.predicted).all(axis=1), dtype=np.bool_)


def evaluate(
    records: Sequence[Record],
    scored: Sequence[Scored],
    *,
    seed: int = 0,
    bootstrap: int = 200,
    prior: float | None = None,
) -> dict[str, Any]:
    """Compute every figure of the benchmark.

    Args:
        records: the labelled records, at least one.
        scored: what was said about each, in the same order.
        seed: of the bootstrap.
        bootstrap: number of replicates; 0 leaves the intervals out, 1,000 is for figures to publish.
        prior: share of risky traffic at which risk is calibrated, in (0, 1), as the bundle's manifest
            states it; None takes the set as it is.

    Returns:
        JSON-ready figures: ``settings``, ``overall``, ``by`` (source, lang, length, channel, intent),
        ``intents``, ``calibration``, ``groups``, ``spans``, ``worst``. What cannot be computed is None.

    Raises:
        InputError: no records, not one row a record, or a prior outside (0, 1).
    """
    if not records or len(records) != len(scored):
        raise InputError(f"evaluate needs one row a record and at least one, not {len(scored)} for {len(records)}")
    if prior is not None and not 0.0 < prior < 1.0:
        raise InputError(f"prior must lie in (0, 1), not {prior}")
    arrays = _arrays(records, scored)
    resamples = _Resamples(arrays, seed, bootstrap)
    everything = np.arange(len(records))
    by_source = _by(arrays, resamples, [record.source_name for record in records])
    return {
        "settings": _settings(scored, seed, bootstrap, prior, resamples.thresholds),
        "overall": _slice(arrays, everything, resamples),
        "by": {
            "source": by_source,
            "lang": _by(arrays, resamples, [record.lang or "unknown" for record in records]),
            "length": _by(arrays, resamples, [_length(record.text) for record in records]),
            "channel": _by(arrays, resamples, [record.context.source or "unknown" for record in records]),
            "intent": _by_intent(arrays, resamples),
        },
        "intents": _intents(arrays),
        "calibration": calibration(arrays.risk, arrays.risky, prior=prior),
        "groups": _groups(records, arrays, seed, bootstrap),
        "spans": _spans(records, scored),
        "worst": _worst(by_source),
    }


def _settings(
    scored: Sequence[Scored], seed: int, bootstrap: int, prior: float | None, thresholds: Mapping[float, float | None]
) -> dict[str, Any]:
    return {
        "seed": seed,
        "bootstrap": bootstrap,
        "prior": prior,
        "model": next((row.model for row in scored if row.model), None),
        "flag_above": {str(rate): threshold for rate, threshold in thresholds.items()},
        "thresholds": "recall at a false-positive rate: thresholds set on the pooled benign records of this very set",
        "errors": "a failed analysis counts as the worst verdict possible",
        "intervals": "95 %, percentile bootstrap over pair_id groups; Wilson where a rate is 0 or 1",
    }


def _arrays(records: Sequence[Record], scored: Sequence[Scored]) -> _Arrays:
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
    return _Arrays(
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


# --- intervals ----------------------------------------------------------------------------------


class _Resamples:
    """Bootstrap weights of every record, and the pooled thresholds in the set and in each replicate."""

    def __init__(self, arrays: _Arrays, seed: int, bootstrap: int) -> None:
        generator = np.random.default_rng(seed)
        clusters = int(arrays.cluster.max()) + 1
        self.weights: Counts = np.empty((bootstrap, len(arrays.cluster)), dtype=np.uint8)
        for replicate in range(bootstrap):
            drawn = np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)
            self.weights[replicate] = drawn[arrays.cluster]
        benign = np.flatnonzero(~arrays.risky)
        ranks = arrays.rank[benign]
        once = np.ones((1, len(benign)), dtype=np.uint8)
        self.thresholds: dict[float, float | None] = {}
        self.replicates: dict[float, Floats] = {}
        for rate in FALSE_POSITIVE_RATES:
            point = _thresholds(ranks, once, rate)[0]
            self.thresholds[rate] = None if np.isnan(point) else float(point)
            self.replicates[rate] = _thresholds(ranks, self.weights[:, benign], rate)

    def rate(self, hit: Bools, among: Integers, cluster: Integers) -> dict[str, Any]:
        """The share of the records ``among`` that are hits, with its interval."""
        n, k = len(among), int(hit[among].sum())
        replicates = _weighted_share(self.weights[:, among], hit[among])
        return _proportion(k, n, replicates, len(np.unique(cluster[among])))


def _thresholds(ranks: Floats, weights: Counts, rate: float) -> Floats:
    """Per replicate, the value above which at most ``rate`` of the benign lie: of shape (replicates,).

    Flagged means strictly above it, so tied records are flagged together or not at all and the rate is
    never exceeded.
    """
    if not len(ranks):
        return np.full(len(weights), np.nan)
    order = np.argsort(-ranks, kind="stable")
    found = np.empty(len(weights))
    step = max(1, _CELLS // len(ranks))
    for start in range(0, len(weights), step):
        above = np.cumsum(weights[start : start + step][:, order], axis=1, dtype=np.int64)
        allowed = np.floor(rate * above[:, -1] + 1e-9)
        position = np.minimum((above <= allowed[:, None]).sum(axis=1), len(ranks) - 1)
        found[start : start + step] = np.where(above[:, -1] > 0, ranks[order][position], np.nan)
    return found


def _weighted_share(weights: Counts, hit: Bools) -> Floats:
    total = weights.sum(axis=1, dtype=np.int64)
    hits = weights[:, hit].sum(axis=1, dtype=np.int64)
    return _divide(hits, total)


def _divide(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below, dtype=np.float64)


def _proportion(k: int, n: int, replicates: Floats, clusters: int) -> dict[str, Any]:
    if not n:
        return {"value": None, "low": None, "high": None, "k": 0, "n": 0}
    low, high = _percentiles(replicates)
    if low is not None and k in (0, n):
        low, high = _wilson(k // n, clusters)
    return {"value": k / n, "low": low, "high": high, "k": k, "n": n}


def _percentiles(replicates: Floats) -> tuple[float | None, float | None]:
    usable = replicates[np.isfinite(replicates)]
    if not len(usable):
        return None, None
    low, high = np.percentile(usable, [2.5, 97.5])
    return float(low), float(high)


def _wilson(rate: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a rate of 0 or 1 (Wilson 1927)."""
    reach = _Z95**2 / (n + _Z95**2)
    return (1.0 - reach, 1.0) if rate else (0.0, reach)


# --- one part of the set ------------------------------------------------------------------------


def _slice(arrays: _Arrays, index: Integers, resamples: _Resamples) -> dict[str, Any]:
    """Every figure of risk on the records of ``index``."""
    risky = arrays.risky[index]
    positive, benign = index[risky], index[~risky]
    recalls: dict[str, Any] = {}
    for rate, threshold in resamples.thresholds.items():
        recalls[str(rate)] = _recall_above(arrays, positive, resamples, rate, threshold)
    replicates = _auroc_replicates(arrays.rank[index], risky, resamples.weights[:, index])
    low, high = _percentiles(replicates)
    auroc = _auroc(risky, arrays.rank[index])
    return {
        "n": len(index),
        "risky": len(positive),
        "benign": len(benign),
        "errors": int(arrays.error[index].sum()),
        "prevalence": len(positive) / len(index),
        "auroc": {"value": auroc, "low": None if auroc is None else low, "high": None if auroc is None else high},
        "average_precision": _average_precision(risky, arrays.rank[index]),
        "recall_at_fpr": recalls,
        "false_alarm_rate": resamples.rate(arrays.flagged, benign, arrays.cluster),
        "recall": resamples.rate(arrays.flagged, positive, arrays.cluster),
        "exact_labels": resamples.rate(arrays.exact, index, arrays.cluster),
    }


def _recall_above(
    arrays: _Arrays, positive: Integers, resamples: _Resamples, rate: float, threshold: float | None
) -> dict[str, Any]:
    n = len(positive)
    if threshold is None or not n:
        return {"value": None, "low": None, "high": None, "k": 0, "n": n}
    ranks = arrays.rank[positive]
    weights, per_replicate = resamples.weights[:, positive], resamples.replicates[rate]
    shares = np.empty(len(weights))
    step = max(1, _CELLS // n)
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        above = ranks > per_replicate[rows, None]
        shares[rows] = _divide((weights[rows] * above).sum(axis=1, dtype=np.int64), weights[rows].sum(axis=1))
    shares[np.isnan(per_replicate)] = np.nan
    clusters = len(np.unique(arrays.cluster[positive]))
    return _proportion(int((ranks > threshold).sum()), n, shares, clusters)


def _auroc(risky: Bools, rank: Floats) -> float | None:
    """Area under the ROC curve: the chance that a risky record outranks a benign one, ties half."""
    return float(roc_auc_score(risky, rank)) if risky.any() and not risky.all() else None


def _average_precision(risky: Bools, rank: Floats) -> float | None:
    """Mean precision over the risky records, by falling rank; None with one class only, where it says nothing."""
    return float(average_precision_score(risky, rank)) if risky.any() and not risky.all() else None


def _auroc_replicates(rank: Floats, risky: Bools, weights: Counts) -> Floats:
    """AUROC under each row of weights (the Mann-Whitney statistic over tied groups): of shape (replicates,)."""
    found = np.full(len(weights), np.nan)
    if not risky.any() or risky.all():
        return found
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(rank[order]) > 0])
    sign = risky[order]
    step = max(1, _CELLS // len(rank))
    for start in range(0, len(weights), step):
        rows = weights[start : start + step][:, order]
        positive = np.add.reduceat(rows * sign, starts, axis=1, dtype=np.int64).astype(np.float64)
        negative = np.add.reduceat(rows * ~sign, starts, axis=1, dtype=np.int64).astype(np.float64)
        below = np.cumsum(negative, axis=1) - negative / 2
        couples = positive.sum(axis=1) * negative.sum(axis=1)
        found[start : start + step] = _divide(np.einsum("ij,ij->i", positive, below), couples)
    return found


def _by(arrays: _Arrays, resamples: _Resamples, names: Sequence[str]) -> dict[str, Any]:
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        members.setdefault(name, []).append(position)
    return {name: _slice(arrays, np.array(members[name]), resamples) for name in sorted(members)}


def _by_intent(arrays: _Arrays, resamples: _Resamples) -> dict[str, Any]:
    """A risky intent's records against all benign ones; ``out_of_scope`` and ``benign`` on their own."""
    found: dict[str, Any] = {}
    for column, name in enumerate(INTENTS):
        members = arrays.gold[:, column]
        if members.any():
            chosen = members | ~arrays.risky if name in RISKY_INTENTS else members
            found[name] = _slice(arrays, np.flatnonzero(chosen), resamples)
    unlabelled = np.flatnonzero(~arrays.gold.any(axis=1))
    if len(unlabelled):
        found["benign"] = _slice(arrays, unlabelled, resamples)
    return found


def _length(text: str) -> str:
    return next((name for name, beyond in LENGTHS if len(text) < beyond), "4096+")


def _intents(arrays: _Arrays) -> dict[str, Any]:
    """Each intent against all records without it, and the sets of labels."""
    each: dict[str, Any] = {}
    for column, name in enumerate(INTENTS):
        gold, predicted = arrays.gold[:, column], arrays.predicted[:, column]
        hits, n, found = int((gold & predicted).sum()), int(gold.sum()), int(predicted.sum())
        each[name] = {
            "n": n,
            "auroc": _auroc(gold, arrays.probability[:, column]),
            "average_precision": _average_precision(gold, arrays.probability[:, column]),
            "precision": hits / found if found else None,
            "recall": hits / n if n else None,
            "f1": 2 * hits / (n + found) if n else None,
        }
    known = [figures["f1"] for figures in each.values() if figures["f1"] is not None]
    return {
        "each": each,
        "macro_f1": sum(known) / len(known) if known else None,
        "macro_f1_over": len(known),
        "exact_labels": float(arrays.exact.mean()),
    }


def _worst(by_source: Mapping[str, Any]) -> dict[str, Any]:
    def ranked(figure: str, sign: int) -> list[dict[str, Any]]:
        rows = [{"source": name, **part[figure]} for name, part in by_source.items() if part[figure]["n"]]
        return sorted(rows, key=lambda row: (sign * row["value"], row["source"]))

    return {"false_alarm_rate": ranked("false_alarm_rate", -1), "recall": ranked("recall", 1)}


# --- calibration --------------------------------------------------------------------------------


def calibration(risk: Floats, risky: Bools, *, prior: float | None = None, bins: int = BINS) -> dict[str, Any]:
    """Whether a risk of 0.7 is right seven times in ten.

    The expected calibration error (Naeini et al. 2015) over bins of equal mass (Nixon et al. 2019), and
    the Brier score (Brier 1950). Records are weighted so that ``prior`` of the mass is risky, as in
    correcting for a shifted class prior (Saerens et al. 2002). Records of equal risk share a bin, so a bin
    may be empty.

    Args:
        risk: in [0, 1], of shape (n,).
        risky: of shape (n,).
        prior: share of risky traffic to weight to, or None for equal weights.
        bins: how many.

    Returns:
        ``ece``, ``mce`` (the worst bin's gap), ``brier``, ``effective_n`` (Kish 1965), ``prior`` and
        ``reliability``, a list of bins with ``n``, ``mass``, ``mean_risk``, ``risky_share``. The figures
        are None where a prior is given and only one class is there.
    """
    n, positive = len(risk), int(risky.sum())
    if prior is not None and positive in (0, n):
        return {"ece": None, "mce": None, "brier": None, "effective_n": 0.0, "prior": prior, "reliability": []}
    weights = np.ones(n)
    if prior is not None:
        weights = np.where(risky, prior / positive, (1 - prior) / (n - positive))
    weights = weights / weights.sum()
    _, inverse = np.unique(risk, return_inverse=True)
    mass = np.bincount(inverse, weights=weights)
    place = np.minimum(((np.cumsum(mass) - mass / 2) * bins).astype(np.int64), bins - 1)[inverse]
    reliability = []
    for number in np.unique(place):
        inside = place == number
        part = weights[inside]
        reliability.append(
            {
                "n": int(inside.sum()),
                "mass": float(part.sum()),
                "mean_risk": float(np.average(risk[inside], weights=part)),
                "risky_share": float(np.average(risky[inside], weights=part)),
            }
        )
    gaps = [(row["mass"], abs(row["mean_risk"] - row["risky_share"])) for row in reliability]
    return {
        "ece": float(sum(mass * gap for mass, gap in gaps)),
        "mce": float(max(gap for _, gap in gaps)),
        "brier": float(weights @ (risk - risky) ** 2),
        "effective_n": float(1 / (weights**2).sum()),
        "prior": prior,
        "reliability": reliability,
    }


# --- contrasting groups -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """One contrasting group's figures."""

    source: str
    factor: str
    kind: str
    contrast: bool  # risky flags differ; otherwise only the label sets do
    right: bool
    exact: bool
    won: float
    couples: int

    @property
    def strict(self) -> bool:
        return self.won == self.couples


def _groups(records: Sequence[Record], arrays: _Arrays, seed: int, bootstrap: int) -> dict[str, Any]:
    groups = _contrasting(records, arrays)
    mixed = [group for group in groups if group.contrast]

    def summary(chosen: list[_Group]) -> dict[str, Any]:
        return _group_figures(chosen, seed, bootstrap)

    def split(name: str) -> dict[str, Any]:
        keys = sorted({str(getattr(group, name)) for group in mixed})
        return {key: summary([group for group in mixed if getattr(group, name) == key]) for key in keys}

    return {
        "overall": summary(mixed),
        "by_kind": split("kind"),
        "by_factor": split("factor"),
        "by_source": split("source"),
        "label_sets": {
            "note": "groups whose label sets differ, in scope against out of scope included: every set exact",
            "exact": summary(groups)["exact"],
        },
    }


def _contrasting(records: Sequence[Record], arrays: _Arrays) -> list[_Group]:
    """Groups of at least two records whose label sets differ."""
    members: dict[tuple[str, str], list[int]] = {}
    for position, record in enumerate(records):
        if record.group is not None:
            members.setdefault(record.group, []).append(position)
    right, exact = arrays.right, arrays.exact
    groups = []
    for positions in members.values():
        if len({records[position].labels for position in positions}) < 2:
            continue
        index = np.array(positions)
        high, low = arrays.rank[index[arrays.risky[index]]], arrays.rank[index[~arrays.risky[index]]]
        first = records[positions[0]]
        groups.append(
            _Group(
                source=first.source_name,
                factor=first.factor or "not stated",
                kind="one text" if len({records[position].text for position in positions}) == 1 else "twin texts",
                contrast=len(high) > 0 and len(low) > 0,
                right=bool(right[index].all()),
                exact=bool(exact[index].all()),
                won=float((high[:, None] > low).sum() + (high[:, None] == low).sum() / 2),
                couples=len(high) * len(low),
            )
        )
    return groups


def _group_figures(groups: Sequence[_Group], seed: int, bootstrap: int) -> dict[str, Any]:
    """Shares of groups and of (risky, harmless) couples, intervals by resampling groups."""
    n = len(groups)
    drawn = np.random.default_rng(seed).integers(0, max(n, 1), (bootstrap, n))
    figures: dict[str, Any] = {"n": n}
    for name in ("right", "strict", "exact"):
        hits = np.array([getattr(group, name) for group in groups], dtype=bool)
        replicates = hits[drawn].mean(axis=1) if n else np.empty(0)
        figures[name] = _proportion(int(hits.sum()), n, replicates, n)
    won = np.array([group.won for group in groups], dtype=np.float64)
    couples = np.array([group.couples for group in groups], dtype=np.int64)
    low, high = _percentiles(_divide(won[drawn].sum(axis=1), couples[drawn].sum(axis=1)) if n else np.empty(0))
    figures["ranked"] = {
        "value": float(won.sum() / couples.sum()) if couples.sum() else None,
        "low": low,
        "high": high,
        "n": int(couples.sum()),
    }
    return figures


# --- spans --------------------------------------------------------------------------------------


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union as disjoint spans, in order."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def _characters(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)


def _shared(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> int:
    return sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in one for b in other)


def _spans(records: Sequence[Record], scored: Sequence[Scored]) -> dict[str, Any]:
    """Figures on the records whose attack somebody marked; a failed analysis has found nothing."""
    by_source: dict[str, list[tuple[int, int, int]]] = {}
    everything: list[tuple[int, int, int]] = []
    clean: list[tuple[int, int]] = []
    for record, row in zip(records, scored, strict=True):
        if record.spans is None:
            continue
        found = _merged(row.spans)
        gold = _merged([(start, end) for start, end, _ in record.spans])
        if gold:
            counts = (_shared(gold, found), _characters(gold), _characters(found))
            everything.append(counts)
            by_source.setdefault(record.source_name, []).append(counts)
        elif not record.risky:
            clean.append((_characters(found), len(record.text)))
    return {
        "overall": _span_figures(everything),
        "by_source": {name: _span_figures(by_source[name]) for name in sorted(by_source)},
        "clean": {
            "n": len(clean),
            "with_a_span": sum(found > 0 for found, _ in clean) / len(clean) if clean else None,
            "characters_marked": sum(found for found, _ in clean) / max(1, sum(size for _, size in clean))
            if clean
            else None,
        },
    }


def _span_figures(counts: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """From (shared, gold, found) characters of each attacked text."""
    n = len(counts)
    if not n:
        return {"n": 0, **dict.fromkeys(_SPAN_FIGURES)}
    shared, gold, found = (int(sum(column)) for column in zip(*counts, strict=True))
    return {
        "n": n,
        "precision": shared / found if found else None,
        "recall": shared / gold,
        "f1": 2 * shared / (gold + found),
        "mean_f1": sum(2 * s / (g + f) for s, g, f in counts) / n,
        "overlap": sum(s > 0 for s, _, _ in counts) / n,
        "contains": sum(s >= 0.9 * g for s, g, _ in counts) / n,
    }


# --- what the context does ----------------------------------------------------------------------


def ablate(records: Sequence[Record], field: str) -> list[Record]:
    """The same records with part of the context withheld, that is, made unknown.

    Args:
        records: any records; their labels are left as they are.
        field: one of ``CONTEXT_FIELDS``, or ``all``. ``system_prompt`` takes ``purpose`` with it, which
            stands in for it.

    Returns:
        New records, in order.

    Raises:
        InputError: another field.
    """
    _check_field(field)
    empty = Context()
    return [_with(record, empty, field) for record in records]


def swap(records: Sequence[Record], field: str, seed: int = 0) -> list[Record]:
    """The same records with part of the context exchanged among those that have it.

    Every record gets another one's value; a different value wherever no single value fills more than half
    of the places. Records without the field stay as they are.

    Args:
        records: any records; their labels are left as they are, so they may no longer be true.
        field: as in ``ablate``.
        seed: same seed, same exchange.

    Returns:
        New records, in order.

    Raises:
        InputError: another field.
    """
    _check_field(field)
    places: dict[object, list[int]] = {}
    for position, record in enumerate(records):
        value = _value(record.context, field)
        if value != _value(Context(), field):
            places.setdefault(value, []).append(position)
    generator = random.Random(seed)  # noqa: S311 - an experiment, not a secret
    values = list(places.values())
    generator.shuffle(values)
    for positions in values:
        generator.shuffle(positions)
    takers = [position for positions in values for position in positions]
    shift = max((len(positions) for positions in values), default=0)
    swapped = list(records)
    for place, taker in enumerate(takers):
        giver = takers[(place + shift) % len(takers)] if shift < len(takers) else takers[place - 1]
        swapped[taker] = _with(records[taker], records[giver].context, field)
    return swapped


def _check_field(field: str) -> None:
    if field not in (*CONTEXT_FIELDS, "all"):
        raise InputError(f"field must be one of all, {', '.join(CONTEXT_FIELDS)}")


def _value(context: Context, field: str) -> object:
    if field == "all":
        return (context.system_prompt, context.purpose, *(getattr(context, name) for name in CONTEXT_FIELDS[1:]))
    return (context.system_prompt, context.purpose) if field == "system_prompt" else getattr(context, field)


def _with(record: Record, giver: Context, field: str) -> Record:
    names = (*CONTEXT_FIELDS, "purpose") if field == "all" else (field,)
    if field == "system_prompt":
        names = (field, "purpose")
    changed = replace(record.context, **{name: getattr(giver, name) for name in names})
    return record if changed == record.context else replace(record, context=changed)


def ablations(
    guard: Analyzer,
    records: Sequence[Record],
    full: Sequence[Scored],
    *,
    seed: int = 0,
    fields: Sequence[str] = ("all", *CONTEXT_FIELDS),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score again with each part of the context withheld, and swapped, and put the figures side by side.

    Labels are those of the true context, so a model that reads the context must get worse; one that ignores
    it stays where it is. Only records that change are scored again.

    Args:
        guard: what is measured.
        records: the records.
        full: what ``score`` gave for them.
        seed: of the exchange.
        fields: which parts.
        progress: called after each batch of each part.

    Returns:
        ``full``, and by field ``withheld`` and ``swapped``: AUROC, rates at the mode, group figures on the
        whole set; and on the records that changed, AUROC before and after and the share of verdicts that moved.
    """
    result: dict[str, Any] = {"full": _brief(records, full), "withheld": {}, "swapped": {}}
    for name in fields:
        for kind, other in (("withheld", ablate(records, name)), ("swapped", swap(records, name, seed))):
            places = [i for i, (old, new) in enumerate(zip(records, other, strict=True)) if old is not new]
            rows = list(full)
            again = score(guard, [other[i] for i in places], progress=progress)
            for place, row in zip(places, again, strict=True):
                rows[place] = row
            figures = _brief(records, rows)
            figures["changed"] = _moved([records[i] for i in places], [full[i] for i in places], again)
            result[kind][name] = figures
    return result


def _brief(records: Sequence[Record], scored: Sequence[Scored]) -> dict[str, Any]:
    arrays = _arrays(records, scored)
    groups = _group_figures([g for g in _contrasting(records, arrays) if g.contrast], 0, 0)
    return {
        "auroc": _auroc(arrays.risky, arrays.rank),
        "recall": _mean(arrays.flagged[arrays.risky]),
        "false_alarm_rate": _mean(arrays.flagged[~arrays.risky]),
        "errors": int(arrays.error.sum()),
        "groups": {name: groups[name]["value"] for name in ("right", "ranked", "strict")},
    }


def _moved(records: Sequence[Record], before: Sequence[Scored], after: Sequence[Scored]) -> dict[str, Any]:
    if not records:
        return {"n": 0, "auroc_full": None, "auroc": None, "verdicts_moved": None, "mean_risk_moved": None}
    old, new = _arrays(records, before), _arrays(records, after)
    return {
        "n": len(records),
        "auroc_full": _auroc(old.risky, old.rank),
        "auroc": _auroc(new.risky, new.rank),
        "verdicts_moved": _mean(old.flagged != new.flagged),
        "mean_risk_moved": float(np.abs(old.risk - new.risk).mean()),
    }


def _mean(values: Bools) -> float | None:
    return float(values.mean()) if len(values) else None


# --- reading the mistakes -----------------------------------------------------------------------


def most_confident_errors(
    records: Sequence[Record], scored: Sequence[Scored], *, per_source: int = 10, texts: bool = False
) -> list[dict[str, Any]]:
    """The wrong verdicts that were surest, for a person to read.

    Args:
        records: the records.
        scored: what was said, in the same order.
        per_source: at most so many of each source.
        texts: whether to show text and context, which may be private.

    Returns:
        By source, the surest first: ``id``, ``source``, ``kind`` (``miss``, ``false_alarm``, ``error``),
        ``risk`` (None for an error), ``decision``, ``labels``, ``intents``; with ``texts`` also ``text`` and
        ``context``.
    """
    arrays = _arrays(records, scored)
    distance = np.abs(arrays.rank - arrays.risky)
    wrong = sorted(np.flatnonzero(~arrays.right).tolist(), key=lambda i: (records[i].source_name, -distance[i], i))
    taken: dict[str, int] = {}
    rows = []
    for position in wrong:
        record, row = records[position], scored[position]
        taken[record.source_name] = taken.get(record.source_name, 0) + 1
        if taken[record.source_name] > per_source:
            continue
        entry: dict[str, Any] = {
            "id": record.id,
            "source": record.source_name,
            "kind": "error" if row.error is not None else "miss" if record.risky else "false_alarm",
            "risk": None if row.error is not None else row.risk,
            "decision": row.decision,
            "labels": sorted(record.labels),
            "intents": list(row.intents),
        }
        if texts:
            entry |= {"text": record.text, "context": asdict(record.context)}
        rows.append(entry)
    return rows


# --- circumstances ------------------------------------------------------------------------------


def provenance(arguments: Sequence[str]) -> dict[str, Any]:
    """When, with what and where the figures were made: what a results file must say.

    Args:
        arguments: the command line; of absolute paths only the last part is kept.

    Returns:
        ``date``, ``command``, ``machine``, ``commit``, ``dirty`` (both None outside a checkout), ``versions``.
    """
    here = Path(__file__).resolve()
    tracked = _git(here, "ls-files", "--error-unmatch", here.name)
    changes = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ":/") if tracked else None
    versions = {"promptguard": __version__, "python": platform.python_version()}
    for name in ("numpy", "onnxruntime", "tokenizers", "scikit-learn", "scipy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(_last_part(argument) for argument in arguments),
        "machine": {"platform": platform.platform(), "cpu": _processor(), "cores": os.cpu_count()},
        "commit": _git(here, "rev-parse", "HEAD") if tracked else None,
        "dirty": None if changes is None else bool(changes),
        "versions": versions,
    }


def _last_part(argument: str) -> str:
    """An argument without the folders of this machine."""
    option, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _git(file: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    done = subprocess.run(  # noqa: S603 - git, with fixed arguments
        [program, "-C", str(file.parent), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# --- printing -----------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown tables, in per cent except AUROC, average precision and the errors of risk.

    Args:
        result: what ``evaluate`` returned; what ``ablations`` returned under ``ablations`` is printed, too.

    Returns:
        Text that ends with a newline.
    """
    settings = result["settings"]
    parts = [
        f"model {settings['model'] or 'unknown'}; prior {settings['prior']}; bootstrap {settings['bootstrap']}",
        f"{settings['thresholds']}; {settings['errors']}.",
        _slice_table({"all": result["overall"]}, "overall"),
    ]
    parts += [_slice_table(rows, name) for name, rows in result["by"].items()]
    parts += [_intent_table(result["intents"]), _calibration_table(result["calibration"])]
    parts += [_group_table(result["groups"]), _span_table(result["spans"])]
    if "ablations" in result:
        parts.append(_ablation_table(result["ablations"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _slice_table(rows: Mapping[str, Any], name: str) -> str:
    head = [name, "n", "risky", "errors", "AUROC", "AP", "recall @ .1 %", "@ .5 %", "@ 1 %", "@ 5 %"]
    head += ["recall at mode", "false alarms at mode", "exact labels"]
    body = []
    for key, part in rows.items():
        cells = [key, str(part["n"]), str(part["risky"]), str(part["errors"])]
        cells += [_number(part["auroc"]), _decimal(part["average_precision"])]
        cells += [_percent(part["recall_at_fpr"][str(rate)]["value"]) for rate in FALSE_POSITIVE_RATES]
        cells += [_share(part["recall"]), _share(part["false_alarm_rate"]), _percent(part["exact_labels"]["value"])]
        body.append(cells)
    return _markdown(head, body)


def _intent_table(intents: Mapping[str, Any]) -> str:
    head = ["intent", "n", "AUROC", "AP", "precision", "recall", "F1"]
    body = [
        [name, str(part["n"]), _decimal(part["auroc"]), _decimal(part["average_precision"])]
        + [_percent(part[figure]) for figure in ("precision", "recall", "f1")]
        for name, part in intents["each"].items()
    ]
    body.append([f"macro over {intents['macro_f1_over']}", "", "", "", "", "", _percent(intents["macro_f1"])])
    return _markdown(head, body)


def _calibration_table(figures: Mapping[str, Any]) -> str:
    line = f"Calibration at prior {figures['prior']}: ECE {_decimal(figures['ece'])}, worst bin "
    line += f"{_decimal(figures['mce'])}, Brier {_decimal(figures['brier'])}, effective n {figures['effective_n']:.0f}"
    body = [
        [str(row["n"]), _decimal(row["mass"]), _decimal(row["mean_risk"]), _decimal(row["risky_share"])]
        for row in figures["reliability"]
    ]
    return f"{line}\n\n{_markdown(['n', 'mass', 'mean risk', 'risky share'], body)}"


def _group_table(groups: Mapping[str, Any]) -> str:
    if not groups["overall"]["n"]:
        return ""
    head = ["groups", "n", "every record right", "couples ranked", "group ranked", "every label set exact"]
    rows = {"all": groups["overall"]}
    for name in ("by_kind", "by_factor", "by_source"):
        rows |= {f"{name[3:]}: {key}": part for key, part in groups[name].items()}
    body = [
        [key, str(part["n"]), _share(part["right"]), _share(part["ranked"])]
        + [_percent(part[figure]["value"]) for figure in ("strict", "exact")]
        for key, part in rows.items()
    ]
    return _markdown(head, body)


def _span_table(spans: Mapping[str, Any]) -> str:
    if not spans["overall"]["n"]:
        return ""
    head = ["spans (characters)", "n", "precision", "recall", "F1", "mean F1", "overlaps", "contains 90 %"]
    body = [
        [key, str(part["n"]), *(_percent(part[figure]) for figure in _SPAN_FIGURES)]
        for key, part in ({"all": spans["overall"]} | spans["by_source"]).items()
    ]
    clean = spans["clean"]
    note = f"Clean texts with marks: {clean['n']}, with a predicted span {_percent(clean['with_a_span'])}"
    return f"{_markdown(head, body)}\n\n{note}, characters marked {_percent(clean['characters_marked'])}"


def _ablation_table(figures: Mapping[str, Any]) -> str:
    rows = {"full context": figures["full"]}
    rows |= {f"{name} {kind}": part for kind in ("withheld", "swapped") for name, part in figures[kind].items()}
    head = ["context", "AUROC", "recall", "false alarms", "every record right", "couples ranked"]
    head += ["changed", "AUROC full", "AUROC then", "verdicts moved"]
    body = []
    for key, part in rows.items():
        groups, changed = part["groups"], part.get("changed", {})
        cells = [key, _decimal(part["auroc"]), _percent(part["recall"]), _percent(part["false_alarm_rate"])]
        cells += [_percent(groups["right"]), _percent(groups["ranked"]), str(changed.get("n", ""))]
        cells += [_decimal(changed.get("auroc_full")), _decimal(changed.get("auroc"))]
        body.append([*cells, _percent(changed.get("verdicts_moved"))])
    return _markdown(head, body)


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *(line(row) for row in body)])


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _number(figure: Mapping[str, Any]) -> str:
    interval = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return _decimal(figure["value"]) + interval


def _share(figure: Mapping[str, Any]) -> str:
    interval = "" if figure["low"] is None else f" [{_percent(figure['low'])}, {_percent(figure['high'])}]"
    return _percent(figure["value"]) + interval
