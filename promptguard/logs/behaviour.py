"""What an actor does over many rows: flooding, spend, long outputs, fan-out, probing, escalation.

The actor of a row is its user, else its key, else its session. "Unusual" means far above what is usual in the same
logs, on a logarithmic scale: above median + 3 × the median absolute deviation scaled to a standard deviation
(Hampel 1974), and never below a floor that is stated with the finding. Medians, because the abuse that is looked
for must not move the measure of what is usual.

All of this describes; none of it proves an intention. A nightly batch job floods, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from promptguard.errors import InputError, MissingExtraError
from promptguard.logs.rows import actor, actor_groups, codes, microseconds, plausible, tables

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

    from promptguard.logs.money import Prices

try:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy import stats
    from scipy.special import logit
except ImportError as missing:
    raise MissingExtraError("report", "findings of behaviour") from missing

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

KINDS: Mapping[str, str] = {
    "flooding": "Scripted flooding",
    "spend": "Spend (denial of wallet)",
    "long_output": "Long outputs",
    "fan_out": "Near-duplicate fan-out",
    "probing": "Probing",
    "escalation": "Escalation within a session",
}
"""Kinds of finding, and what they are called."""

COLUMNS: tuple[str, ...] = (
    "row",
    "status",
    "time",
    "user",
    "session",
    "application",
    "key",
    "model",
    "input_tokens",
    "output_tokens",
    "text_hash",
    "near_hash",
    "decision",
    "risk",
)
"""Columns of a scan that ``findings`` reads."""

DEVIATIONS = 3.0
"""How many scaled median absolute deviations above the median are unusual."""
LEAST_DEVIATION = 0.5
"""The least scaled deviation, in natural logarithms: where all are alike, 4.5 times the median is unusual."""
LEAST_POPULATION = 20
"""Below this many values to compare with, nothing is called unusual."""
FLOORS: Mapping[str, float] = {
    "flooding": 120,
    "spend": 1.0,
    "spend_tokens": 50_000,
    "long_output": 2_000,
    "fan_out": 30,
    "probing": 5,
}
"""Rows an hour, money a day, output tokens a day, output tokens a row, near-duplicates an hour, variants."""
NEAR = 8
"""Near-duplicates differ in at most this many of the 64 bits of ``near_hash``."""
ROWS = 1_000_000
"""Rows of a scan that are searched at once."""
TURNS = 5
"""Fewest turns of a session that are called an escalation."""
LEAST_TAU, MOST_P = 0.5, 0.01
"""Least rank correlation (Kendall's tau) of turn and risk, and the most its one-sided p may be."""
SESSIONS = 5_000
"""Most sessions that are tested for escalation: those whose risk ends highest."""
_HOUR, _DAY = 3_600_000_000, 86_400_000_000
_MOST_HASHES = 2_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an actor did over several rows.

    Attributes:
        kind: one of ``KINDS``.
        actor: the user, key or session.
        actor_kind: which of them.
        session: the session, for an escalation.
        rows: numbers of the rows, in order.
        start: time of the first of them, if known.
        end: time of the last.
        measured: what was measured, by name.
        threshold: what it was compared with, by name.
        why: the same in a sentence.
        excess: the measurement as a multiple of its threshold; what findings of a kind are ordered by.
    """

    kind: str
    actor: str
    actor_kind: str
    session: str | None
    rows: tuple[int, ...]
    start: datetime | None
    end: datetime | None
    measured: Mapping[str, float]
    threshold: Mapping[str, float]
    why: str
    excess: float

    def to_dict(self) -> dict[str, Any]:
        """The finding as fresh, JSON-ready values."""
        start, end = (None if t is None else t.isoformat() for t in (self.start, self.end))
        return {**asdict(self), "rows": list(self.rows), "start": start, "end": end}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that can be judged, as arrays sorted by actor, time and row."""

    row: Integers
    actor: Integers
    time: Integers
    timed: npt.NDArray[np.bool_]
    output: Floats
    cost: Floats
    text: Integers
    near: Hashes
    flagged: npt.NDArray[np.bool_]
    application: Integers
    applications: list[str]
    names: list[str]
    kinds: list[str]

    def application_name(self, code: int) -> str:
        """The name of an application, for a sentence."""
        return "no application" if code < 0 else self.applications[code]

    def finding(self, kind: str, at: Integers, **rest: Any) -> Finding:
        """A finding over the rows at these places, all of one actor."""
        actor = int(self.actor[at[0]])
        times = self.time[at][self.timed[at]]
        return Finding(
            kind=kind,
            actor=self.names[actor],
            actor_kind=self.kinds[actor],
            session=None,
            rows=tuple(sorted(self.row[at].tolist())),
            start=_moment(times.min()) if len(times) else None,
            end=_moment(times.max()) if len(times) else None,
            **rest,
        )


def findings(table: pa.Table, *, prices: Prices | None = None) -> list[Finding]:
    """Look for behaviour over the rows of a scan.

    Args:
        table: rows with ``COLUMNS``; rows in error and rows without user, key and session are left out.
        prices: what tokens cost; without them spend is counted in output tokens.

    Returns:
        Findings, by kind and then by how far they exceed their threshold.

    Raises:
        InputError: a column is missing.
    """
    absent = [name for name in COLUMNS if name not in table.column_names]
    if absent:
        raise InputError(f"the table lacks the columns {', '.join(absent)}")
    table = plausible(table.filter(pc.equal(table["status"].cast(pa.string()), "ok")))
    for name in ("user", "key", "session", "decision"):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    found = list(_escalations(table))
    rows = _rows(table, prices)
    if len(rows.row):
        for part in (_flooding(rows), _spend(rows, prices), _long_outputs(rows), _fan_out(rows), _probing(rows)):
            found.extend(part)
    order = list(KINDS)
    return sorted(found, key=lambda f: (order.index(f.kind), -f.excess, f.rows))


def of_scan(dataset: Dataset, *, prices: Prices | None = None) -> Iterator[Finding]:
    """Look for behaviour over all rows of a scan, at most about ``ROWS`` of them in memory.

    Args:
        dataset: the rows of a scan. Where there are more than ``ROWS``, the actors are split into parts, and what
            is usual is what is usual in a part.
        prices: what tokens cost.

    Yields:
        What ``findings`` finds in each part.
    """
    parts = -(-dataset.count_rows() // ROWS) or 1
    repeated = ("status", "user", "session", "application", "key", "model", "decision")
    for part in range(parts):
        kept = []
        for table in tables(dataset, COLUMNS):
            if parts > 1:
                table = table.filter(pa.array(actor_groups(table, parts) == part))
            for name in repeated:  # strings that repeat take little room as a dictionary
                table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
            kept.append(table)
        yield from findings(pa.concat_tables(kept).unify_dictionaries(), prices=prices)


def _rows(table: pa.Table, prices: Prices | None) -> _Rows:
    kind = pc.if_else(pc.is_valid(table["user"]), "user", pc.if_else(pc.is_valid(table["key"]), "key", "session"))
    table = table.append_column("actor", pc.binary_join_element_wise(kind, actor(table), " "))
    table = table.filter(pc.is_valid(table["actor"]))
    if prices is None:
        spend: Any = pa.nulls(len(table), pa.float64())
    else:
        from promptguard.logs.money import cost

        spend = cost(table, prices)
    code, names = codes(table["actor"])
    application, applications = codes(table["application"])
    time, timed = _times(table)
    row = _array(table["row"])
    order = np.lexsort((row, time, code))
    both = [name.split(" ", 1) for name in names.to_pylist()]
    return _Rows(
        row=row[order],
        actor=code[order],
        time=time[order],
        timed=timed[order],
        output=_array(pc.cast(table["output_tokens"], pa.float64()), np.nan)[order],
        cost=_array(spend, np.nan)[order],
        text=codes(table["text_hash"])[0][order],
        near=_array(pc.fill_null(table["near_hash"], 0))[order].astype(np.uint64),
        flagged=_array(pc.fill_null(pc.not_equal(table["decision"], "allow"), False))[order],
        application=application[order],
        applications=applications.to_pylist(),
        names=[name for _, name in both],
        kinds=[kind for kind, _ in both],
    )


# --- one actor ----------------------------------------------------------------------------------


def _flooding(rows: _Rows) -> Iterator[Finding]:
    at = np.flatnonzero(rows.timed)
    groups = _Groups(rows.actor[at], rows.time[at] // _HOUR)
    limit = _unusual(groups.counts, FLOORS["flooding"])
    if limit is None:
        return
    for hours in groups.by_first(groups.counts > limit[1]):
        peak = float(groups.counts[hours].max())
        involved = at[np.concatenate([groups.members(h) for h in hours])]
        gaps = np.diff(np.sort(rows.time[involved])) / 1e6
        gap = float(np.median(gaps))
        even = float(stats.median_abs_deviation(gaps)) / gap if gap else 0.0
        yield rows.finding(
            "flooding",
            involved,
            measured={"rows_in_busiest_hour": peak, "hours": len(hours), "median_gap_s": gap, "gap_variation": even},
            threshold={"rows_in_an_hour": limit[1], "usual": limit[0]},
            why=f"{peak:,.0f} rows in one hour (median {limit[0]:,.0f}, limit {limit[1]:,.0f}); one every {gap:.3g} s"
            + (", evenly, as a script does" if even < 0.2 or gap < 1 else ""),
            excess=peak / limit[1],
        )


def _spend(rows: _Rows, prices: Prices | None) -> Iterator[Finding]:
    priced = prices is not None and bool(np.isfinite(rows.cost).any())
    amount = rows.cost if priced else rows.output
    at = np.flatnonzero(rows.timed & np.isfinite(amount))
    groups = _Groups(rows.actor[at], rows.time[at] // _DAY)
    sums = groups.sums(amount[at])
    limit = _unusual(sums, FLOORS["spend" if priced else "spend_tokens"])
    if limit is None:
        return
    unit = prices.currency if prices is not None and priced else "output tokens"
    name = "spend" if priced else "output_tokens"
    for days in groups.by_first(sums > limit[1]):
        peak = float(sums[days].max())
        involved = at[np.concatenate([groups.members(d) for d in days])]
        yield rows.finding(
            "spend",
            involved,
            measured={f"{name}_on_worst_day": peak, "days": len(days), f"{name}_forecast_30_days": 30 * peak},
            threshold={f"{name}_a_day": limit[1], "usual": limit[0]},
            why=f"{_amount(peak)} {unit} in a day (median {_amount(limit[0])}, limit {_amount(limit[1])}); "
            f"at that pace {_amount(30 * peak)} in 30 days",
            excess=peak / limit[1],
        )


def _long_outputs(rows: _Rows) -> Iterator[Finding]:
    known = np.flatnonzero(np.isfinite(rows.output))
    limits: dict[int, tuple[float, float]] = {}
    long: npt.NDArray[np.bool_] = np.zeros(len(rows.row), dtype=bool)
    applications = _Groups(rows.application[known])
    for i in range(len(applications)):
        members = known[applications.members(i)]
        limit = _unusual(rows.output[members], FLOORS["long_output"])
        if limit is not None:
            limits[int(applications.first[i])] = limit
            long[members] = rows.output[members] > limit[1]
    groups = _Groups(rows.actor[known], rows.application[known])
    for number in np.flatnonzero(groups.sums(long[known].astype(np.float64)) >= 10):
        members = known[groups.members(number)]
        at, application = members[long[members]], int(groups.second[number])
        if len(at) < len(members) / 2:
            continue
        usual, most = limits[application]
        typical = float(np.median(rows.output[at]))
        yield rows.finding(
            "long_output",
            at,
            measured={"rows": len(at), "share_of_rows": len(at) / len(members), "median_output_tokens": typical},
            threshold={"output_tokens": most, "usual": usual, "rows": 10, "share_of_rows": 0.5},
            why=f"{len(at):,} of {len(members):,} rows in {rows.application_name(application)} have outputs above "
            f"{most:,.0f} tokens, typically {typical:,.0f} (median of all {usual:,.0f})",
            excess=typical / most,
        )


def _fan_out(rows: _Rows) -> Iterator[Finding]:
    at = np.flatnonzero(rows.timed & (rows.near != 0))
    groups = _Groups(rows.actor[at], rows.time[at] // _HOUR)
    limit = _unusual(groups.most_frequent(rows.near[at]), FLOORS["fan_out"])
    if limit is None:
        return
    largest: Floats = np.zeros(len(groups))
    alike: dict[int, Integers] = {}
    for i in np.flatnonzero(groups.counts > limit[1]):
        members = at[groups.members(i)]
        group = near_groups(rows.near[members])
        best = members[group == np.argmax(np.bincount(group[group >= 0]))]
        if len(best) > limit[1] and len(best) >= len(members) / 2 and len(np.unique(rows.text[best])) > 1:
            largest[i], alike[int(i)] = len(best), best
    for hours in groups.by_first(largest > 0):
        peak = float(largest[hours].max())
        involved = np.concatenate([alike[int(h)] for h in hours])
        texts = len(np.unique(rows.text[involved]))
        yield rows.finding(
            "fan_out",
            involved,
            measured={"near_duplicates_in_an_hour": peak, "hours": len(hours), "different_texts": texts},
            threshold={"near_duplicates_in_an_hour": limit[1], "usual": limit[0], "bits": NEAR},
            why=f"{peak:,.0f} rows of one hour are near-duplicates of one another (median {limit[0]:,.0f}, limit "
            f"{limit[1]:,.0f}); {texts:,} different texts in all",
            excess=peak / limit[1],
        )


def _probing(rows: _Rows) -> Iterator[Finding]:
    flagged = np.flatnonzero(rows.flagged & (rows.near != 0))
    actors = _Groups(rows.actor[flagged])
    best: list[Integers] = []
    for i in range(len(actors)):
        members = flagged[actors.members(i)]
        group = near_groups(rows.near[members])
        different = np.unique(np.stack([group, rows.text[members]]), axis=1)[0]
        best.append(members[group == np.argmax(np.bincount(different[different >= 0]))])
    variants = np.array([len(np.unique(rows.text[group])) for group in best], dtype=np.float64)
    # A few actors cannot tell what is usual: there the floor alone decides.
    usual, most = _unusual(variants, FLOORS["probing"] - 1) or (1.0, FLOORS["probing"] - 1)
    for group, number in zip(best, variants, strict=True):
        if number <= most:
            continue
        actor = rows.actor[group[0]]
        first, last = np.searchsorted(rows.actor, [actor, actor + 1])
        own = np.arange(first, last)
        passed = own[~rows.flagged[own] & (rows.near[own] != 0) & _near(rows.near[own], rows.near[group])]
        yield rows.finding(
            "probing",
            np.concatenate([group, passed]),
            measured={"variants": number, "attempts": len(group), "allowed": len(passed)},
            threshold={"variants": most + 1, "usual": usual, "bits": NEAR},
            why=f"{number:,.0f} variants of one flagged text in {len(group):,} attempts "
            f"(median {usual:,.0f}, limit {most:,.0f}); "
            + (f"{len(passed):,} near-duplicates were allowed" if len(passed) else "none was allowed"),
            excess=number / (most + 1),
        )


# --- one session --------------------------------------------------------------------------------


def _escalations(table: pa.Table) -> Iterator[Finding]:
    table = table.filter(pc.is_valid(table["session"]))
    code, names = codes(table["session"])
    flagged = _array(pc.fill_null(pc.not_equal(table["decision"], "allow"), False))
    risk = _array(pc.cast(table["risk"], pa.float64()), np.nan)
    time, timed = _times(table)
    row = _array(table["row"])
    order = np.lexsort((row, time, code))
    order = order[(np.bincount(code, flagged)[code[order]] > 0) & np.isfinite(risk[order])]
    candidates = []
    sessions = _Groups(code[order])
    for i in np.flatnonzero(sessions.counts >= TURNS):
        at, session = order[sessions.members(i)], int(sessions.first[i])
        half, third = len(at) // 2, len(at) - len(at) // 3
        if not flagged[at[:half]].any() and flagged[at[third:]].any():
            candidates.append((session, at))
    candidates.sort(key=lambda candidate: -float(risk[candidate[1][-1]]))
    for session, at in candidates[:SESSIONS]:
        turns, odds = np.arange(len(at)), logit(np.clip(risk[at], 1e-6, 1 - 1e-6))
        test = stats.kendalltau(turns, odds, alternative="greater")
        tau, p = float(test.statistic), float(test.pvalue)
        if not (tau >= LEAST_TAU and p <= MOST_P):  # not so for the NaN of a constant risk, either
            continue
        kind = next((name for name in ("user", "key") if table[name][int(at[0])].is_valid), "session")
        times = time[at][timed[at]]
        first, worst = float(risk[at[0]]), float(risk[at].max())
        slope = float(stats.theilslopes(odds, turns).slope)
        yield Finding(
            kind="escalation",
            actor=table[kind][int(at[0])].as_py(),
            actor_kind=kind,
            session=names[session].as_py(),
            rows=tuple(sorted(row[at].tolist())),
            start=_moment(times.min()) if len(times) else None,
            end=_moment(times.max()) if len(times) else None,
            measured={"turns": len(at), "tau": tau, "p": p, "log_odds_a_turn": slope, "first": first, "worst": worst},
            threshold={"turns": TURNS, "tau": LEAST_TAU, "p": MOST_P},
            why=f"the risk rises over {len(at)} turns from {first:.2f} to {worst:.2f} (Kendall's tau {tau:.2f}); "
            "nothing in the first half was flagged",
            excess=tau / LEAST_TAU,
        )


# --- arrays -------------------------------------------------------------------------------------


def _unusual(values: Floats, floor: float) -> tuple[float, float] | None:
    """What is usual, and above what it is unusual; None for too few values to say."""
    if len(values) < LEAST_POPULATION:
        return None
    logs = np.log(np.maximum(values, 1e-9))
    median = float(np.median(logs))
    deviation = max(float(stats.median_abs_deviation(logs, scale="normal")), LEAST_DEVIATION)
    return float(np.exp(median)), max(float(np.exp(median + DEVIATIONS * deviation)), floor)


class _Groups:
    """Places grouped by a pair of numbers."""

    def __init__(self, first: Integers, second: Integers | None = None) -> None:
        second = np.zeros_like(first) if second is None else second
        self._order = np.lexsort((second, first))
        first, second = first[self._order], second[self._order]
        new = np.ones(len(first), dtype=bool)
        new[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
        self._starts = np.append(np.flatnonzero(new), len(first))
        self.first, self.second = first[new], second[new]
        self.counts: Floats = np.diff(self._starts).astype(np.float64)

    def __len__(self) -> int:
        return len(self.first)

    def members(self, number: int | np.integer[Any]) -> Integers:
        """Places in a group."""
        return self._order[self._starts[number] : self._starts[number + 1]]

    def sums(self, values: Floats) -> Floats:
        """Sum of the values in each group."""
        return np.add.reduceat(values[self._order], self._starts[:-1]) if len(self) else np.zeros(0)

    def most_frequent(self, values: Hashes) -> Floats:
        """How often the most frequent value of each group is in it."""
        group = np.repeat(np.arange(len(self)), self.counts.astype(np.int64))
        values = values[self._order]
        order = np.lexsort((values, group))
        group, values = group[order], values[order]
        new = np.ones(len(group), dtype=bool)
        new[1:] = (np.diff(group) != 0) | (values[1:] != values[:-1])
        starts = np.flatnonzero(new)
        most: Floats = np.zeros(len(self))
        np.maximum.at(most, group[starts], np.diff(starts, append=len(group)))
        return most

    def by_first(self, chosen: npt.NDArray[np.bool_]) -> list[Integers]:
        """Numbers of the chosen groups, those with the same first number together."""
        numbers = np.flatnonzero(chosen)
        changes = np.flatnonzero(np.diff(self.first[numbers])) + 1
        return np.split(numbers, changes) if len(numbers) else []


def near_groups(hashes: Hashes) -> Integers:
    """Groups of near-duplicates, each around the most frequent hash that is not yet in one.

    Args:
        hashes: ``near_hash`` of each row.

    Returns:
        The number of each row's group. Of more than 2,000 different hashes the most frequent are grouped, the
        rest have -1.
    """
    values, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    left = np.argsort(-counts, kind="stable")[:_MOST_HASHES]
    group: Integers = np.full(len(values), -1)
    number = 0
    while len(left):
        joins = np.bitwise_count(values[left] ^ values[left[0]]) <= NEAR
        group[left[joins]] = number
        number, left = number + 1, left[~joins]
    return group[inverse]


def _near(hashes: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
    """Which hashes are near one of the others."""
    near: npt.NDArray[np.bool_] = np.zeros(len(hashes), dtype=bool)
    for other in np.unique(others)[:_MOST_HASHES]:
        near |= np.bitwise_count(hashes ^ other) <= NEAR
    return near


def _array(column: Any, null: Any = None) -> Any:
    """A column as numpy; ``null`` in place of its nulls."""
    if null is not None:
        column = pc.fill_null(column, null)
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)


def _times(table: pa.Table) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Microseconds since 1970, 0 where there is no time; and where there is one."""
    known = microseconds(table)
    return _array(pc.fill_null(known, 0)), _array(pc.is_valid(known))


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _moment(micros: Any) -> datetime:
    return datetime.fromtimestamp(int(micros) / 1e6, UTC)
