"""Constants and thresholds from records the model was not trained on.

Each output is a logistic regression on the detectors' scores (Platt 1999), fitted with weights that give
risky traffic a stated prior and every source of a family the same say. Thresholds of the modes are
weighted quantiles of the risk of benign traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from promptguard.fusion import logistic
from promptguard.intents import INTENTS
from promptguard.policy import FALSE_POSITIVE_RATES
from promptguard.types import Analysis

PRIOR = 0.1
"""Share of risky traffic that probabilities are calibrated at."""

TRAFFIC = {"messages": 0.50, "applications": 0.20, "everyday": 0.15, "content": 0.15}
"""Shares in the ordinary benign traffic that defines the modes: messages of public sources; traffic and
dialogues of applications; everyday and trigger-word prompts; documents, pages, mails, tool results, code."""

CONTRAST = 0.15
"""Share of benign readings of contrast groups and twins when probabilities are fitted. They are made to be hard,
nobody's traffic, and do not count in the thresholds."""

_FULL_SAY = 50
"""Records from which a source has the same say as larger ones; a smaller one has less, or a single text of it would set
a threshold."""

_APPLICATIONS = ("traffic", "dialogues")
_EVERYDAY = ("everyday", "benign", "hard_negatives")
_MADE_HARD = frozenset({"carrier_twin", "carrier_quote", "user_twin", "user_quote"})
"""Kinds of composed records that stand beside an attack: contrast, though no group shares their text."""

RISK_FEATURES = ("classifier.risk", "classifier.any_intent", "classifier.log_windows", "similarity.margin")

Row = Mapping[str, Any]
Floats = NDArray[np.float64]


def features(analyses: Sequence[Analysis], names: Sequence[str]) -> Floats:
    """Scores of the detectors, 0 where one did not run; shape (texts, names)."""
    table = np.zeros((len(analyses), len(names)))
    for i, analysis in enumerate(analyses):
        for j, name in enumerate(names):
            detector, score = name.split(".")
            signal = analysis.signals.get(detector)
            if signal is not None and signal.scores is not None:
                table[i, j] = signal.scores.get(score, 0.0)
    return table


def is_risky(records: Sequence[Row]) -> NDArray[np.bool_]:
    """Which records have a label other than ``out_of_scope``."""
    return np.array([bool(set(r["labels"]) - {"out_of_scope"}) for r in records])


def kind(record: Row) -> str:
    """Which part of ordinary traffic a record stands for; ``contrast`` for none."""
    if record["family"] not in ("attacks", "benign"):
        if any(word in record["source"] for word in _APPLICATIONS):
            return "applications"
        if any(word in record["source"] for word in _EVERYDAY):
            return "everyday"
    if record["family"] in ("contextual", "neighbours", "composed_apps") or record.get("kind") in _MADE_HARD:
        return "contrast"
    return "messages" if record["context"].get("source") in (None, "user") else "content"


def weights(records: Sequence[Row], *, prior: float = PRIOR, contrast: float = CONTRAST) -> Floats:
    """Weights under which risky records make up ``prior`` and sources of a kind, unless small, count alike."""
    risky = is_risky(records)
    share = {**{name: (1 - contrast) * part for name, part in TRAFFIC.items()}, "contrast": contrast}
    keys = [(bool(x), r["family"] if x else kind(r), r["source"]) for x, r in zip(risky, records, strict=True)]
    size = Counter(keys)
    say: Counter[tuple[bool, str]] = Counter()
    for (x, part, _), count in size.items():
        say[x, part] += min(count, _FULL_SAY)
    result = np.zeros(len(records))
    for i, (x, part, source) in enumerate(keys):
        count = size[x, part, source]
        result[i] = (1.0 if x else share[part]) * min(count, _FULL_SAY) / (count * say[x, part])
    for side, mass in ((risky, prior), (~risky, 1 - prior)):
        result[side] *= mass / result[side].sum()
    return result


def fit(table: Floats, target: NDArray[np.bool_], weight: Floats) -> tuple[Floats, float]:
    """Logistic regression, hardly regularised; returns weights and bias."""
    model = LogisticRegression(C=100.0, max_iter=2000)
    model.fit(table, target, sample_weight=weight * len(target))
    return model.coef_[0], float(model.intercept_[0])


def quantile(values: Floats, weight: Floats, share_above: float) -> float:
    """Smallest threshold that at most ``share_above`` of the weight lies at or above."""
    order = np.argsort(-values)
    above = np.cumsum(weight[order]) / weight.sum()
    inside = int(np.searchsorted(above, share_above, side="right"))
    top = float(values[order[max(inside - 1, 0)]])
    after = float(values[order[min(inside, len(values) - 1)]])
    return top if inside and top > after else float(np.nextafter(after, 1))


def calibrate(records: Sequence[Row], analyses: Sequence[Analysis], *, similarity: bool) -> dict[str, Any]:
    """Fit fusion and thresholds.

    Args:
        records: held-out records.
        analyses: what an uncalibrated bundle said of them, in the same order.
        similarity: whether the example index may count in the risk.

    Returns:
        ``prior``, ``fusion``, ``thresholds`` and ``calibration`` for the manifest.
    """
    risky, weight = is_risky(records), weights(records)
    traffic = weights(records, contrast=0.0)
    names = [n for n in RISK_FEATURES if similarity or not n.startswith("similarity")]
    table = features(analyses, names)
    coefficients, bias = fit(table, risky, weight)
    risk = np.array([logistic(z) for z in table @ coefficients + bias])
    fusion = {"risk": _constants(names, coefficients, bias)}
    thresholds: dict[str, Any] = {"risk": _mode_thresholds(risk[~risky], traffic[~risky]), "intents": {}}
    flagged = risk >= thresholds["risk"]["balanced"]
    for intent in INTENTS:
        target = np.array([intent in r["labels"] for r in records])
        chosen = [f"classifier.{intent}"]
        rows = features(analyses, chosen)
        if target.all() or not target.any():  # nothing to fit: the logit as it is
            fusion[intent] = _constants(chosen, np.ones(1), 0.0)
            thresholds["intents"][intent] = 0.5
            continue
        coefficients, bias = fit(rows, target, weight)
        probability = np.array([logistic(z) for z in rows @ coefficients + bias])
        fusion[intent] = _constants(chosen, coefficients, bias)
        among = ~flagged if intent == "out_of_scope" else flagged
        thresholds["intents"][intent] = _best_f1(probability[among], target[among])
    balanced = flagged[~risky]
    return {
        "prior": PRIOR,
        "fusion": fusion,
        "thresholds": thresholds,
        "calibration": {
            "records": len(records),
            "risky": int(risky.sum()),
            "auroc": round(float(roc_auc_score(risky, risk)), 4),
            "average_precision": round(float(average_precision_score(risky, risk, sample_weight=weight)), 4),
            "flagged_ordinary": round(float((traffic[~risky] * balanced).sum() / traffic[~risky].sum()), 4),
            "flagged_contrast": _share(balanced[traffic[~risky] == 0]),
            "recall_balanced": round(float(flagged[risky].mean()), 4),
            "across_sources": across_sources(records, risk),
        },
    }


def across_sources(records: Sequence[Row], risk: Floats, *, folds: int = 5) -> dict[str, Any]:
    """False-positive rates of thresholds on sources they were not fitted on.

    The ordinary benign sources of each kind are dealt out to the folds in turn. Thresholds are fitted on the other
    folds' and applied to this one's; a kind's rate is the share of all its records that were flagged so.

    Args:
        records: held-out records.
        risk: their risk, in the same order.
        folds: how many parts.

    Returns:
        By mode: ``by_kind``, the rate of each kind of traffic; ``kind`` and ``ratio``, where it is largest and how
        many times the mode's nominal rate it is. Empty where there are fewer ordinary sources than two.
    """
    traffic = weights(records, contrast=0.0)
    chosen = np.flatnonzero(~is_risky(records) & (traffic > 0))
    kinds = np.array([kind(records[i]) for i in chosen.tolist()])
    sources = np.array([records[i]["source"] for i in chosen.tolist()])
    if len(set(sources)) < 2:
        return {}
    in_turn = dict.fromkeys(source for _, source in sorted(set(zip(kinds, sources, strict=True))))
    numbers = {source: number % folds for number, source in enumerate(in_turn)}
    fold = np.array([numbers[source] for source in sources])
    flagged: dict[str, NDArray[np.bool_]] = {mode: np.zeros(len(chosen), dtype=bool) for mode in FALSE_POSITIVE_RATES}
    for number in range(folds):
        held = fold == number
        rest = np.setdiff1d(np.arange(len(records)), chosen[held])
        rows = [records[i] for i in rest.tolist()]
        benign = ~is_risky(rows)
        fitted = _mode_thresholds(risk[rest][benign], weights(rows, contrast=0.0)[benign])
        for mode, threshold in fitted.items():
            flagged[mode][held] = risk[chosen[held]] >= threshold
    result = {}
    for mode, hits in flagged.items():
        rates = {name: round(float(hits[kinds == name].mean()), 4) for name in sorted(set(kinds))}
        worst = max(rates, key=lambda name: rates[name])
        result[mode] = {
            "by_kind": rates,
            "kind": worst,
            "ratio": round(rates[worst] / FALSE_POSITIVE_RATES[mode], 2),
        }
    return result


def _share(flags: NDArray[np.bool_]) -> float | None:
    return round(float(flags.mean()), 4) if len(flags) else None


def _constants(names: Sequence[str], coefficients: Floats, bias: float) -> dict[str, Any]:
    return {"weights": {n: round(float(c), 6) for n, c in zip(names, coefficients, strict=True)}, "bias": bias}


def _mode_thresholds(benign_risk: Floats, weight: Floats) -> dict[str, float]:
    return {mode: quantile(benign_risk, weight, rate) for mode, rate in FALSE_POSITIVE_RATES.items()}


def _best_f1(probability: Floats, target: NDArray[np.bool_]) -> float:
    """Threshold of the highest F1; one half where there is nothing to choose by."""
    if not target.any():
        return 0.5
    best, at = 0.0, 0.5
    for threshold in np.quantile(probability, np.linspace(0.01, 0.999, 200)):
        chosen = probability >= threshold
        f1 = 2 * (chosen & target).sum() / (chosen.sum() + target.sum())
        if f1 > best:
            best, at = float(f1), float(threshold)
    return min(max(at, 0.005), 0.995)
