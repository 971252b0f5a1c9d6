"""Shortcuts a model must beat: how far length, trigger words or words alone go on the same records.

If a baseline that never sees the context does well on contrasting groups, or one that sees nothing else,
the set is solved by a shortcut (Gururangan et al. 2018), and a good figure on it says little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from promptguard.bench.quality import evaluate
from promptguard.bench.records import Record
from promptguard.bench.scoring import Scored
from promptguard.errors import InputError, MissingExtraError
from promptguard.intents import INTENTS
from promptguard.types import Context

try:
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
except ImportError as missing:
    raise MissingExtraError("bench", "the benchmark's baselines") from missing

Features: TypeAlias = Callable[[Sequence[Record], bool], Any]
"""Records to a matrix of shape (records, features); True on the training records."""
Encoder: TypeAlias = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Texts to vectors of shape (texts, width): a sentence encoder that stays as it is."""

FALSE_POSITIVE_RATE = 0.01
"""Rate of the balanced mode, at which a baseline flags; measured on training records that it was not fitted on."""
KEYWORDS: tuple[str, ...] = (
    "ignore", "disregard", "forget", "override", "bypass", "previous instructions", "instructions above",
    "system prompt", "initial prompt", "reveal", "verbatim", "jailbreak", "developer mode", "do anything now",
    "unrestricted", "no restrictions", "without restrictions", "pretend", "hypothetically", "act as", "uncensored",
    "password", "credential", "api key", "secret", "confidential", "exfiltrate", "dump", "delete", "drop table",
    "sudo", "rm -rf", "transfer", "refund", "urgent", "ceo", "hack", "exploit", "malware", "virus", "phishing",
    "bomb", "weapon", "poison", "kill", "steal", "fake", "forge", "infinite", "forever",
)  # fmt: skip
"""Trigger words and phrases, chosen by hand from the intents' definitions, not fitted."""

_TRIGGER = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in KEYWORDS), re.IGNORECASE)
_MOST_FEATURES = 100_000
_HELD_OUT = 5  # one cluster in five sets the thresholds


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        name: its key in ``BASELINES``, or the name of its own features.
        features: what it looks at.
        risk_model: risky or not, from the features.
        intent_models: by name; only intents with records on both sides have one.
        flag_above: the risk above which it flags.
    """

    name: str
    features: Features
    risk_model: Any
    intent_models: Mapping[str, Any]
    flag_above: float

    def score(self, records: Sequence[Record]) -> list[Scored]:
        """Give every record a verdict; intents are those of at least even odds.

        Args:
            records: any records.

        Returns:
            One row a record, in order; without spans.
        """
        if not records:
            return []
        matrix = self.features(records, False)
        risk = _probability(self.risk_model, matrix)
        columns = {name: _probability(model, matrix) for name, model in self.intent_models.items()}
        rows = []
        for position, value in enumerate(risk.tolist()):
            probabilities = dict.fromkeys(INTENTS, 0.0) | {n: float(c[position]) for n, c in columns.items()}
            reached = sorted((n for n in INTENTS if probabilities[n] >= 0.5), key=lambda n: -probabilities[n])
            decision = "review" if value > self.flag_above else "allow"
            rows.append(Scored(value, probabilities, decision, tuple(reached), model=f"baseline:{self.name}"))
        return rows


def fit(
    name: str,
    records: Sequence[Record],
    *,
    seed: int = 0,
    features: Features | None = None,
    intents: Collection[str] = INTENTS,
) -> Baseline:
    """Fit one baseline: logistic regression on its features.

    Four clusters in five fit it; the fifth sets the threshold for ``FALSE_POSITIVE_RATE``.

    Args:
        name: a key of ``BASELINES``; with ``features``, any name.
        records: the training records, of both kinds.
        seed: of the split.
        features: what it looks at, not yet fitted (see ``embedded``); None takes those of ``BASELINES``.
        intents: which get a model of their own, besides the one of risk.

    Returns:
        The fitted baseline.

    Raises:
        InputError: an unknown name, or records of one kind only.
    """
    if features is None and name not in BASELINES:
        raise InputError(f"a baseline is one of {', '.join(BASELINES)}")
    held_out = _held_out(records, seed)
    fitting = [record for record, held in zip(records, held_out, strict=True) if not held]
    setting = [record for record, held in zip(records, held_out, strict=True) if held and not record.risky]
    risky = np.array([record.risky for record in fitting], dtype=bool)
    if not setting or not risky.any() or risky.all():
        raise InputError("a baseline needs training records of both kinds, benign ones in several groups")
    features = BASELINES[name]() if features is None else features
    matrix = features(fitting, True)
    risk_model = _regression(matrix, risky)
    labelled = {i: np.array([i in record.labels for record in fitting], dtype=bool) for i in intents}
    benign = np.sort(_probability(risk_model, features(setting, False)))[::-1]
    return Baseline(
        name=name,
        features=features,
        risk_model=risk_model,
        intent_models={i: _regression(matrix, y) for i, y in labelled.items() if y.any() and not y.all()},
        flag_above=float(benign[int(FALSE_POSITIVE_RATE * len(benign))]),
    )


def baselines(
    train: Sequence[Record],
    records: Sequence[Record],
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    bootstrap: int = 200,
    prior: float | None = None,
) -> dict[str, Any]:
    """Fit each baseline on one list and evaluate it on another.

    Args:
        train: records to fit on; nothing checks that the two lists are disjoint.
        records: records to evaluate on.
        names: which baselines; None means all.
        seed: as in ``fit`` and ``evaluate``.
        bootstrap: as in ``evaluate``.
        prior: as in ``evaluate``.

    Returns:
        What ``evaluate`` returns, by name of the baseline.

    Raises:
        InputError: as ``fit`` and ``evaluate``.
    """
    return {
        name: evaluate(records, fit(name, train, seed=seed).score(records), seed=seed, bootstrap=bootstrap, prior=prior)
        for name in (BASELINES if names is None else names)
    }


def _held_out(records: Sequence[Record], seed: int) -> npt.NDArray[np.bool_]:
    keys: dict[object, int] = {}
    for position, record in enumerate(records):
        keys.setdefault(record.group if record.group is not None else position, len(keys))
    drawn = np.random.default_rng(seed).permutation(len(keys)) % _HELD_OUT == 0
    places = [keys[r.group if r.group is not None else i] for i, r in enumerate(records)]
    return np.asarray(drawn[places], dtype=np.bool_)


def _regression(matrix: Any, target: npt.NDArray[np.bool_]) -> Any:
    return LogisticRegression(solver="liblinear", C=4.0, max_iter=1000).fit(matrix, target)


def _probability(model: Any, matrix: Any) -> npt.NDArray[np.float64]:
    return np.asarray(model.predict_proba(matrix)[:, 1], dtype=np.float64)


# --- what each looks at -------------------------------------------------------------------------


def _length(records: Sequence[Record], fitting: bool) -> Any:
    size = np.log1p([len(record.text) for record in records])
    return np.column_stack([size, size**2])


def _keywords(records: Sequence[Record], fitting: bool) -> Any:
    return np.log1p([[len(_TRIGGER.findall(record.text))] for record in records])


def _text(record: Record) -> str:
    return record.text


def _context(record: Record) -> str:
    """The fields the model reads, with names in front that no word of a text can be taken for."""
    context: Context = record.context
    parts = [f"source_is_{context.source}", f"prompt_is_{context.system_prompt is not None}"]
    parts += [context.system_prompt or context.purpose or ""]
    parts += [f"role_is_{(context.user_role or 'unknown').replace(' ', '_')}", context.user_role or ""]
    parts += [f"turn_by_{turn.role} {turn.content}" for turn in context.history]
    parts += [f"tool_{tool.name} {tool.description}" for tool in context.tools]
    return "\n".join(parts)


def _words(*readers: Callable[[Record], str]) -> Features:
    """TF-IDF of words and pairs of words, each reader with a vocabulary of its own."""
    vectorizers = [
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=_MOST_FEATURES, sublinear_tf=True) for _ in readers
    ]

    def features(records: Sequence[Record], fitting: bool) -> Any:
        blocks = []
        for reader, vectorizer in zip(readers, vectorizers, strict=True):
            texts = [reader(record) for record in records]
            try:
                blocks.append(vectorizer.fit_transform(texts) if fitting else vectorizer.transform(texts))
            except ValueError as problem:  # scikit-learn's word for an empty vocabulary
                raise InputError("no word occurs in two training records") from problem
        return sparse.hstack(blocks, format="csr")

    return features


def embedded(encode: Encoder, *, with_context: bool = False) -> Features:
    """The vectors of a frozen sentence encoder, as features for ``fit``.

    Args:
        encode: the encoder.
        with_context: whether the context's vector stands beside the text's.

    Returns:
        Features that need no fitting.
    """
    readers = (_text, _context) if with_context else (_text,)

    def features(records: Sequence[Record], fitting: bool) -> Any:
        return np.hstack([encode([reader(record) for record in records]) for reader in readers])

    return features


BASELINES: dict[str, Callable[[], Features]] = {
    "length": lambda: _length,
    "keywords": lambda: _keywords,
    "words of the text": lambda: _words(_text),
    "words of the context": lambda: _words(_context),
    "words of both": lambda: _words(_text, _context),
}
"""The baselines; each entry makes fresh, unfitted features."""
