"""The numbers of a report, from the rows of a scan.

One pass over the rows a batch at a time, one more over the narrow columns that behaviour needs (in parts by actor
where there are many rows), and a look at the few rows that are shown. What is kept between batches grows with the
number of applications, actors and different flagged texts, not with the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from promptguard.errors import MissingExtraError
from promptguard.fusion import log_odds
from promptguard.intents import INTENTS, references
from promptguard.logs import behaviour
from promptguard.logs.money import GROUPS, Ledger, Prices, cost
from promptguard.logs.rows import actor, actor_groups, microseconds, plausible, tables
from promptguard.policy import MODES
from promptguard.types import Reason

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy.special import expit, logit
    from sklearn.cluster import AgglomerativeClustering
except ImportError as missing:
    raise MissingExtraError("report", "the report") from missing

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

SCHEMA_VERSION = 1
"""Version of the dictionary made by ``figures``."""

CUTS: tuple[str, ...] = ("application", "source", "user_role", "model", "file")
"""Columns the rows are counted by."""
SHOWN = 20
"""Rows of a table that are shown, at most."""
CLUSTERED = 2_000
"""Different flagged texts that are clustered, at most: those with the smallest hashes, which is a random draw."""
CLUSTER_DISTANCE = 0.35
"""Average cosine distance up to which clusters are joined."""
_DISTINCT = 4_096
_BINS = 1_000
_BARS = 120
_MERGE_AT = 400_000
_COLUMNS = (
    *behaviour.COLUMNS,
    "error",
    "source",
    "user_role",
    "file",
    "reason",
    "intents",
    "probabilities",
    "vector",
    "characters_not_read",
    "characters_unreadable",
)
_SUMS = ("rows", "errors", "flagged", "blocked", "input_tokens", "output_tokens", "cost")


class _Tally:
    """Sums by key over batches."""

    def __init__(self, keys: Sequence[str], sums: Sequence[str] = _SUMS, more: Mapping[str, str] | None = None) -> None:
        self._keys = list(keys)
        self._aggregates = {**dict.fromkeys(sums, "sum"), **(more or {})}
        self._parts: list[pa.Table] = []
        self._merge_at = _MERGE_AT

    def add(self, table: pa.Table) -> None:
        self._parts.append(self._merged(table.select([*self._keys, *self._aggregates])))
        if sum(len(part) for part in self._parts) > self._merge_at:
            merged = self.table()
            self._merge_at = max(_MERGE_AT, 2 * len(merged))

    def table(self) -> pa.Table:
        self._parts = [self._merged(pa.concat_tables(self._parts))]
        return self._parts[0]

    def _merged(self, table: pa.Table) -> pa.Table:
        grouped = table.group_by(self._keys).aggregate(list(self._aggregates.items()))
        return grouped.select(self._keys + [f"{name}_{how}" for name, how in self._aggregates.items()]).rename_columns(
            [*self._keys, *self._aggregates]
        )


class _Flagged:
    """Of the flagged texts those with the smallest hashes: an even draw of the different ones, with their vectors."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, Any]] = {}

    def add(self, table: pa.Table) -> None:
        table = table.filter(pc.and_(pc.is_valid(table["vector"]), pc.is_valid(table["text_hash"])))
        table = table.select(["text_hash", "row", "vector"]).sort_by("text_hash")
        last = max(self._kept) if len(self._kept) >= CLUSTERED else None
        hashes = table["text_hash"].to_pylist()
        for place, name in enumerate(hashes):
            if last is not None and name >= last:
                break
            if name not in self._kept:
                self._kept[name] = (table["row"][place].as_py(), table["vector"][place].values.to_numpy(False))
        self._kept = dict(sorted(self._kept.items())[:CLUSTERED])

    def __len__(self) -> int:
        return len(self._kept)

    def texts(self) -> list[str]:
        return list(self._kept)

    def rows(self) -> list[int]:
        return [row for row, _ in self._kept.values()]

    def vectors(self) -> Any:
        vectors = np.array([vector for _, vector in self._kept.values()], dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


class _Distinct:
    """How many different hashes there are, from the smallest of them (Bar-Yossef et al. 2002)."""

    def __init__(self) -> None:
        self._least: Any = np.zeros(0, dtype=np.uint64)

    def add(self, hashes: pa.ChunkedArray) -> None:
        new = np.array([int(name, 16) for name in pc.unique(hashes.drop_null()).to_pylist()], dtype=np.uint64)
        self._least = np.unique(np.concatenate([self._least, new]))[:_DISTINCT]

    def estimate(self) -> int:
        if len(self._least) < _DISTINCT:
            return len(self._least)
        return int((_DISTINCT - 1) / (float(self._least[-1]) / 2.0**64))


def figures(dataset: Dataset, manifest: Mapping[str, Any], prices: Prices, *, texts: bool = False) -> dict[str, Any]:
    """Every number of the report.

    Args:
        dataset: the rows of a scan.
        manifest: what the scan wrote about itself.
        prices: what tokens and attempts cost.
        texts: show example texts whole; otherwise what their spans mark is removed.

    Returns:
        A JSON-ready dictionary; docs/report.md says what its parts mean.
    """
    scan_prior = float(manifest["prior"])
    thresholds = manifest["thresholds"]["risk"]
    cuts = {name: _Tally([name]) for name in CUTS}
    hours, reasons, errors = _Tally(["hour"]), _Tally(["decision", "reason"], ["rows"]), _Tally(["error"], ["rows"])
    span = {"first": "min", "last": "max", "worst": "max"}
    actors = _Tally(["actor_kind", "actor"], _SUMS, span)
    attacks = _Tally(["text_hash", "actor"], ["rows"])
    intents = _Tally(["intent"], ["rows"])
    absent = _Tally([], ["rows", *_ABSENT])
    ledger, flagged_texts, distinct, distinct_attacks = Ledger(), _Flagged(), _Distinct(), _Distinct()
    histogram = np.zeros(_BINS, dtype=np.int64)
    at_modes = dict.fromkeys(MODES, 0)
    nearest = None
    for batch in tables(dataset, _COLUMNS):
        table = _derived(batch, prices)
        for tally in (*cuts.values(), hours, actors, reasons, absent):
            tally.add(table)
        errors.add(table.filter(pc.equal(table["errors"], 1)))
        ok = table.filter(pc.equal(table["errors"], 0))
        distinct.add(ok["text_hash"])
        risk = np.clip(ok["risk"].to_numpy(), 0, 1)
        histogram += np.bincount(np.minimum((risk * _BINS).astype(int), _BINS - 1), minlength=_BINS)
        for mode in MODES:
            at_modes[mode] += int((risk >= np.float32(thresholds[mode])).sum())
        chances = np.stack([c.to_numpy() for c in ok["probabilities"].combine_chunks().flatten()] + [risk], axis=1)
        named = [f.name for f in ok["probabilities"].type] + ["risk"]
        chances = chances[:, [named.index(name) for name in (*INTENTS, "risk")]]
        is_flagged = ok["flagged"].to_numpy().astype(bool)
        ledger.add(actor_groups(ok, GROUPS), is_flagged, chances, ok["cost"].to_numpy())
        flagged = ok.filter(pa.array(is_flagged))
        attack = flagged.filter(_is_attack(flagged))
        flagged_texts.add(attack)
        distinct_attacks.add(attack["text_hash"])
        attacks.add(attack)
        each = pc.list_flatten(flagged["intents"])
        intents.add(pa.table({"intent": each, "rows": pa.array(np.ones(len(each), dtype=np.int64))}))
        near = flagged.filter(pc.equal(flagged["reason"], "risk")).select(["text_hash", "row", "risk", "application"])
        nearest = _nearest(pa.concat_tables([nearest, near] if nearest is not None else [near]))
    counts = _counts(hours.table())
    by = {name: _cut(tally.table(), name, counts) for name, tally in cuts.items()}
    money = ledger.figures(prices, scan_prior)
    found = list(behaviour.of_scan(dataset, prices=prices))
    clusters = _clusters(flagged_texts, attacks.table(), distinct_attacks.estimate())
    candidates = _candidates(nearest, cuts["application"].table(), counts)
    _show(dataset, [*clusters["clusters"], *candidates], texts)
    every = hours.table()
    return {
        "schema_version": SCHEMA_VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": manifest.get("bundle"),
        "mode": manifest.get("mode"),
        "preset": manifest.get("preset"),
        "counts": {**counts, "different_texts": distinct.estimate()},
        "time": _time(every),
        "reasons": _sorted(reasons.table().filter(pc.is_valid(reasons.table()["decision"])), "rows"),
        "intents": [
            {**row, "references": list(references((row["intent"],), None))} for row in _sorted(intents.table(), "rows")
        ],
        "by": by,
        "actors": _actors(actors.table()),
        "clusters": clusters,
        "candidates": candidates,
        "coverage": _coverage(absent.table(), errors.table(), by),
        "thresholds": _grid(histogram, at_modes, thresholds, money, scan_prior, counts),
        "money": money,
        "behaviour": _found(found, dataset, prices),
    }


# --- rows ---------------------------------------------------------------------------------------


_ABSENT: tuple[str, ...] = (
    "no_time",
    "no_user",
    "no_session",
    "no_application",
    "no_model",
    "no_source",
    "no_user_role",
    "no_tokens",
    "not_whole",
    "unreadable",
)


def _derived(table: pa.Table, prices: Prices) -> pa.Table:
    """The rows with what is summed over them."""

    def number(mask: Any) -> Any:
        return pc.cast(pc.fill_null(mask, False), pa.int64())

    ok = pc.equal(table["status"], "ok")
    time = microseconds(table)
    hour = pc.divide(time, pa.scalar(3_600_000_000, pa.int64()))
    more = {
        "rows": pa.array(np.ones(len(table), dtype=np.int64)),
        "errors": number(pc.invert(ok)),
        "flagged": number(pc.and_(ok, pc.not_equal(table["decision"], "allow"))),
        "blocked": number(pc.and_(ok, pc.equal(table["decision"], "block"))),
        "cost": cost(table, prices),
        "hour": hour,
        "first": time,
        "last": time,
        "worst": table["risk"],
        "actor": actor(table),
        "actor_kind": pc.if_else(
            pc.is_valid(table["user"]), "user", pc.if_else(pc.is_valid(table["key"]), "key", "session")
        ),
        "no_time": number(pc.is_null(time)),
        "no_tokens": number(pc.and_(pc.is_null(table["input_tokens"]), pc.is_null(table["output_tokens"]))),
        "not_whole": number(pc.greater(table["characters_not_read"], 0)),
        "unreadable": number(pc.greater(table["characters_unreadable"], 0)),
    }
    more |= {
        f"no_{n}": number(pc.is_null(table[n]))
        for n in (c[3:] for c in _ABSENT if c[:3] == "no_")
        if n not in ("time", "tokens")
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table


def _is_attack(flagged: pa.Table) -> Any:
    """Not so for a text that is flagged because it was not read whole, whatever it says."""
    return pc.invert(pc.is_in(flagged["reason"], pa.array([Reason.UNREADABLE, Reason.NOT_FULLY_READ], pa.string())))


def _sorted(table: pa.Table, by: str, number: int | None = None) -> list[dict[str, Any]]:
    names = [(name, "ascending") for name in table.column_names if pa.types.is_string(table[name].type)]
    rows: list[dict[str, Any]] = table.sort_by([(by, "descending"), *names]).slice(0, number).to_pylist()
    return rows


def _counts(hours: pa.Table) -> dict[str, int]:
    names = ("rows", "errors", "flagged", "blocked", "input_tokens", "output_tokens")
    counts = {name: pc.sum(hours[name]).as_py() or 0 for name in names}
    return {**counts, "reviewed": counts["flagged"] - counts["blocked"], "scored": counts["rows"] - counts["errors"]}


def _cut(table: pa.Table, name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    rows = _sorted(table.rename_columns(["name", *table.column_names[1:]]), "rows", SHOWN)
    for row in rows:
        row["share_flagged"] = row["flagged"] / max(1, row["rows"] - row["errors"])
    return {
        "number": len(table.filter(pc.is_valid(table[name]))),
        "rows": rows,
        "others": counts["rows"] - sum(r["rows"] for r in rows),
    }


def _time(hours: pa.Table) -> dict[str, Any]:
    """Counts by hour, day, week or month, whichever makes few enough bars."""
    known = hours.filter(pc.is_valid(hours["hour"]))
    unknown = hours.filter(pc.is_null(hours["hour"]))
    result = {"rows_without_time": pc.sum(unknown["rows"]).as_py() or 0, "unit": None, "first": None, "last": None}
    if not len(known):
        return {**result, "buckets": []}
    at = known["hour"].to_numpy()
    span = int(at.max() - at.min())
    unit, size = next(
        ((u, s) for u, s in (("hour", 1), ("day", 24), ("week", 168), ("4 weeks", 672)) if span / s < _BARS),
        ("52 weeks", 8_736),
    )
    start = 96 if size >= 168 else 0  # 1970-01-01 was a Thursday: weeks start on Mondays
    places = (at - start) // size
    numbers = places - places.min()
    sums = {n: np.bincount(numbers, known[n].to_numpy()).astype(int) for n in ("rows", "errors", "flagged", "blocked")}
    buckets = [
        {"start": _hour((i + int(places.min())) * size + start), **{n: int(v[i]) for n, v in sums.items()}}
        for i in range(int(numbers.max()) + 1)
    ]
    return {**result, "unit": unit, "first": _hour(int(at.min())), "last": _hour(int(at.max())), "buckets": buckets}


def _hour(hour: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).isoformat(timespec="minutes")


def _actors(table: pa.Table) -> dict[str, Any]:
    known = table.filter(pc.is_valid(table["actor"]))
    rows = _sorted(known.filter(pc.greater(known["flagged"], 0)), "flagged", SHOWN)
    for row in rows:
        row["share_flagged"] = row["flagged"] / max(1, row["rows"] - row["errors"])
        row["first"], row["last"] = (
            None if row[n] is None else _hour(row[n] // 3_600_000_000) for n in ("first", "last")
        )
    return {"number": len(known), "with_flagged": pc.sum(pc.greater(known["flagged"], 0)).as_py() or 0, "rows": rows}


def _coverage(absent: pa.Table, errors: pa.Table, by: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "numbers": {name: cut["number"] for name, cut in by.items()},
        "rows_without": {name: absent[name][0].as_py() or 0 for name in _ABSENT},
        "errors": _sorted(errors, "rows", SHOWN),
        "different_errors": len(errors),
    }


# --- what is shown ------------------------------------------------------------------------------


def _clusters(flagged: _Flagged, attacks: pa.Table, different: int) -> dict[str, Any]:
    """Clusters of the flagged texts by the cosine of their vectors."""
    texts = flagged.texts()
    result: dict[str, Any] = {
        "different_texts": different,
        "clustered": len(texts),
        "clusters": [],
    }
    if len(texts) < 2:
        return result
    vectors = flagged.vectors()
    model = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=CLUSTER_DISTANCE
    )
    labels = model.fit_predict(vectors)
    place = pc.index_in(attacks["text_hash"], pa.array(texts))
    known = attacks.filter(pc.is_valid(place))
    label = labels[place.drop_null().to_numpy()]
    rows, actors = known["rows"].to_numpy(), known["actor"].combine_chunks().dictionary_encode().indices
    actor = pc.fill_null(actors.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    numbers = np.bincount(label, rows, labels.max() + 1)
    for cluster in np.argsort(-numbers, kind="stable")[:SHOWN]:
        members = np.flatnonzero(labels == cluster)
        centre = vectors[members].mean(axis=0)
        example = members[int(np.argmax(vectors[members] @ centre))]
        result["clusters"].append(
            {
                "rows": int(numbers[cluster]),
                "different_texts": len(members),
                "actors": len(np.unique(actor[(label == cluster) & (actor >= 0)])),
                "row": flagged.rows()[example],
            }
        )
    result["number"] = int(labels.max()) + 1
    return result


def _nearest(table: pa.Table) -> pa.Table:
    """The rows with the least risk, one for each text."""
    order = [("risk", "ascending"), ("row", "ascending")]
    first = table.sort_by(order).group_by("text_hash", use_threads=False)
    chosen = first.aggregate([("row", "first"), ("risk", "first"), ("application", "first")])
    return chosen.rename_columns(["text_hash", "row", "risk", "application"]).sort_by(order).slice(0, 2_000)


def _candidates(nearest: pa.Table | None, applications: pa.Table, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows just above the threshold, in applications with no more flagged rows than there are on the whole."""
    overall = counts["flagged"] / max(1, counts["scored"])
    scored = pc.max_element_wise(pc.subtract(applications["rows"], applications["errors"]), 1)
    share = pc.divide(pc.cast(applications["flagged"], pa.float64()), scored)
    ordinary = set(applications.filter(pc.less_equal(share, overall))["application"].to_pylist())
    if nearest is None:
        return []
    return [{"row": r["row"]} for r in nearest.to_pylist() if r["application"] in ordinary][:SHOWN]


def _show(dataset: Dataset, items: Sequence[dict[str, Any]], texts: bool) -> None:
    """Add to each item what its row holds."""
    names = ["row", "file", "line", "id", "time", "application", "source", "user_role", "risk", "intents", "decision"]
    names += ["characters", "spans"] + (["text"] if "text" in dataset.schema.names else [])
    rows = pa.array([item["row"] for item in items], pa.int64())
    found = {}
    if len(rows):
        import pyarrow.dataset as ds

        table = dataset.to_table(columns=names, filter=ds.field("row").isin(rows))
        found = {row["row"]: row for row in plausible(table).to_pylist()}
    for item in items:
        row = dict(found[item["row"]])
        text, spans = row.pop("text", None), row.pop("spans") or []
        row["time"] = None if row["time"] is None else row["time"].isoformat(timespec="seconds")
        item.update({"example" if name == "rows" else name: value for name, value in row.items()})
        item["text"] = _shown(text, spans, texts)


def _shown(text: str | None, spans: Sequence[Mapping[str, Any]], whole: bool) -> str | None:
    """A text as the report may show it: without what its spans mark; None where nothing may be shown."""
    if text is None:
        return None
    if not whole:
        if not spans:
            return None
        kept, end = [], 0
        for span in sorted(spans, key=lambda span: span["start"]):
            if span["start"] >= end:
                kept.append(text[end : span["start"]] + f"[{span['intent']} removed]")
            end = max(end, span["end"])
        text = "".join(kept) + text[end:]
    return text if len(text) <= 400 else text[:400] + " …"


# --- thresholds and behaviour -------------------------------------------------------------------


def _grid(
    histogram: Any,
    at_modes: Mapping[str, int],
    thresholds: Mapping[str, float],
    money: Mapping[str, Any],
    scan_prior: float,
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """Rows whose risk reaches each threshold, and how many of them are risky by the corrected probabilities."""
    above = np.cumsum(histogram[::-1])[::-1]
    prior = money["prior"]["used"]["value"]
    centres = (np.arange(_BINS) + 0.5) / _BINS
    risky = expit(logit(centres) + log_odds(prior) - log_odds(scan_prior)) * histogram
    risky_above = np.cumsum(risky[::-1])[::-1]
    rows = []
    for risk, mode in [(i / 20, None) for i in range(1, 20)] + [(thresholds[mode], mode) for mode in MODES]:
        place = min(int(risk * _BINS), _BINS - 1)
        flagged = int(above[place]) if mode is None else at_modes[mode]
        row = {"risk": risk, "mode": mode, "rows": flagged, "share": flagged / max(1, counts["scored"])}
        rows.append(row | {"risky": min(float(risky_above[place]), flagged)})
    return {"rows": sorted(rows, key=lambda row: row["risk"])}


def _found(found: Sequence[behaviour.Finding], dataset: Dataset, prices: Prices) -> dict[str, Any]:
    import pyarrow.dataset as ds

    rows = np.unique(np.concatenate([np.array(f.rows, dtype=np.int64) for f in found])) if found else np.zeros(0, int)
    burnt = 0.0
    columns = ["row", "time", "model", "input_tokens", "output_tokens"]
    costly = [f for f in found if f.kind in ("flooding", "spend", "long_output", "fan_out")]
    if costly:
        of_cost = pa.array(np.unique(np.concatenate([np.array(f.rows, dtype=np.int64) for f in costly])))
        for batch in dataset.to_batches(columns=columns, filter=ds.field("row").isin(of_cost)):
            burnt += pc.sum(cost(plausible(pa.Table.from_batches([batch])), prices)).as_py() or 0.0
    return {
        "findings": [finding.to_dict() for finding in found],
        "counts": {kind: sum(f.kind == kind for f in found) for kind in behaviour.KINDS},
        "rows": len(rows),
        "spend": burnt,
    }
