"""Thresholds of risk from the caller's own labelled traffic, as a bundle of their own.

The threshold for a rate is put just above the order statistic of harmless rows that the rate allows to be flagged: of
n rows drawn at random, k = ⌊rate × n⌋ at most. Whatever the distribution of the risk is, the share of the traffic
above it then has a distribution whose 95 % interval lies inside the one of Clopper and Pearson (1934) for k of n
(Wilks 1941): the interval holds although the same rows chose the threshold.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from promptguard import __version__, bundle
from promptguard.bench.records import RANDOM, Record, read_records
from promptguard.errors import InputError, MissingExtraError
from promptguard.guard import Guard
from promptguard.policy import FALSE_POSITIVE_RATES, MODES, Thresholds

try:
    from scipy.stats import binomtest
except ImportError as error:
    raise MissingExtraError("bench", "calibrating thresholds") from error

CONFIDENCE = 0.95
_CHUNK = 256

Floats = npt.NDArray[np.float64]


def calibrate(
    labels: Path | str,
    out: Path | str,
    *,
    rates: Mapping[str, float] | None = None,
    model: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fit thresholds to labelled traffic and write the bundle with them; ``Guard(out)`` uses it.

    Args:
        labels: records, as ``promptguard review`` writes them. The false-positive rate is that of records that are
            not risky and whose ``drawn`` is ``random``; recall is stated on the risky ones.
        out: a new or empty folder.
        rates: false-positive rate by mode; None for 1 % in ``balanced``. A mode without one keeps its threshold, or
            moves as far as the order of the modes asks.
        model: folder of a bundle; None for the one that comes with the package.
        progress: called with how many records are done, and with all.

    Returns:
        What stands in the new manifest under ``thresholds_from``: for each mode its threshold, where that comes from,
        and the shares of the records that it flags, with 95 % intervals.

    Raises:
        InputError: a rate is unusable, or needs more rows than there are; ``out`` is not empty.
        RecordError: a record is unusable.
        ModelError, BackendError: the bundle cannot be used.
    """
    labels, out = Path(labels), Path(out)
    wanted = dict(rates or {"balanced": FALSE_POSITIVE_RATES["balanced"]})
    _check_rates(wanted)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be a new or an empty folder")
    records = read_records([labels])
    ordinary = np.array([r.drawn == RANDOM and not r.risky for r in records], dtype=bool)
    for mode, rate in wanted.items():
        _check_support(mode, rate, int(ordinary.sum()))
    source = bundle.load(model)
    risk = _risks(Guard(model), records, progress)
    fitted = {mode: threshold(risk[ordinary], rate) for mode, rate in wanted.items()}
    thresholds = Thresholds(risk=_in_order(source.thresholds.risk, fitted), intents=source.thresholds.intents)
    groups = {
        f"recall_{name}": np.array([r.risky and r.drawn == drawn for r in records], dtype=bool)
        for name, drawn in (("random", RANDOM), ("near", "near"), ("other", None))
    }
    facts = {
        "promptguard": __version__,
        "bundle": source.id,
        "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
        "records": len(records),
        "modes": {
            mode: {
                "threshold": value,
                "from": _origin(mode, wanted, value, source),
                "wanted": wanted.get(mode),
                "false_positives": proportion(risk[ordinary] >= value, allowed=_allowed(wanted.get(mode), ordinary)),
                **{name: proportion(risk[group] >= value) for name, group in groups.items()},
            }
            for mode, value in thresholds.risk.items()
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in source.manifest["files"]:
        shutil.copyfile(source.path(name), out / name)
    changed = {"thresholds": thresholds.to_dict(), "thresholds_from": facts, "derived_from": source.id}
    bundle.write_manifest(out, {**source.manifest, **changed})
    return facts


def rows_needed(rate: float) -> int:
    """Harmless rows from which a rate can be supported: fewer could not show it even if none of them were flagged.

    Args:
        rate: a false-positive rate in (0, 1).

    Returns:
        The least n for which the one-sided 95 % upper bound of 0 in n is not above the rate; about 3 / rate.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate))


def threshold(benign: Floats, rate: float) -> float:
    """The lowest threshold that flags at most ``rate`` of these risks: just above the first that must pass."""
    ranked = np.sort(benign)[::-1]
    return float(np.nextafter(ranked[_most(rate, len(ranked))], 1.0))


def proportion(hit: npt.NDArray[np.bool_], *, allowed: int = 0) -> dict[str, Any]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934).

    Args:
        hit: who counts.
        allowed: how many could have counted, where a threshold was fitted to these very rows: with ties it flags
            fewer, and the upper end is that of all of them.

    Returns:
        ``k``, ``n``, and ``value``, ``low`` and ``high``, which are None where n is 0.
    """
    k, n = int(hit.sum()), len(hit)
    if not n:
        return {"k": 0, "n": 0, "value": None, "low": None, "high": None}
    low, _ = binomtest(k, n).proportion_ci(CONFIDENCE)
    _, high = binomtest(max(k, allowed), n).proportion_ci(CONFIDENCE)
    return {"k": k, "n": n, "value": k / n, "low": float(low), "high": float(high)}


def _most(rate: float, n: int) -> int:
    return math.floor(rate * n + 1e-9)


def _allowed(rate: float | None, ordinary: npt.NDArray[np.bool_]) -> int:
    return 0 if rate is None else _most(rate, int(ordinary.sum()))


def _check_rates(rates: Mapping[str, float]) -> None:
    for mode, rate in rates.items():
        if mode not in MODES:
            raise InputError(f"the mode of a false-positive rate must be one of {', '.join(MODES)}")
        if not 0 < rate < 1:
            raise InputError(f"the false-positive rate of {mode} must be between 0 and 1")
    given = [rates[mode] for mode in MODES if mode in rates]
    if given != sorted(given):
        raise InputError(f"false-positive rates must not fall in the order {', '.join(MODES)}")


def _check_support(mode: str, rate: float, n: int) -> None:
    needed = rows_needed(rate)
    if n < needed:
        best = f"{n:,} can show {-math.expm1(math.log(1 - CONFIDENCE) / n):.2%} at best" if n else "there are none"
        raise InputError(
            f"a false-positive rate of {100 * rate:g} % ({mode}) needs at least {needed:,} harmless rows drawn at "
            f"random: {best}, even if none of them were flagged"
        )


def _risks(guard: Guard, records: Sequence[Record], progress: Callable[[int, int], None] | None) -> Floats:
    """Risk at the bundle's own prior, which is what its thresholds are stated at."""
    found: list[float] = []
    for start in range(0, len(records), _CHUNK):
        chunk = [(record.text, record.context) for record in records[start : start + _CHUNK]]
        found += [analysis.risk for analysis in guard.analyze_many(chunk)]
        if progress is not None:
            progress(len(found), len(records))
    return np.array(found, dtype=np.float64)


def _in_order(kept: Mapping[str, float], fitted: Mapping[str, float]) -> dict[str, float]:
    """All thresholds: fitted ones as they are, the others kept between them."""
    result = {}
    for place, mode in enumerate(MODES):
        least = max((fitted[m] for m in MODES[place + 1 :] if m in fitted), default=0.0)
        most = min((fitted[m] for m in MODES[:place] if m in fitted), default=1.0)
        result[mode] = fitted.get(mode, min(max(kept[mode], least), most))
    return result


def _origin(mode: str, wanted: Mapping[str, float], value: float, source: bundle.Bundle) -> str:
    if mode in wanted:
        return "fitted"
    return "kept" if value == source.thresholds.risk[mode] else "moved to keep the order"
