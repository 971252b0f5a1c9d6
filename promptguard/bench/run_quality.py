"""The whole run: records in, figures and mistakes out to files. The command line and the script call it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptguard.bench.ablation import ablations
from promptguard.bench.lengths import joined_figures
from promptguard.bench.mistakes import most_confident_errors
from promptguard.bench.provenance import provenance
from promptguard.bench.quality import evaluate
from promptguard.bench.records import limit_per_source, read_records
from promptguard.bench.scoring import Progress, score, score_redacted
from promptguard.guard import Guard


def run_quality(
    paths: Sequence[str | Path],
    *,
    model: str | Path | None = None,
    mode: str = "balanced",
    prior: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    with_ablations: bool = False,
    out: Path | None = None,
    errors: Path | None = None,
    texts: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a bundle on files of records.

    Args:
        paths: files of records, or folders of ``*.jsonl``.
        model: a bundle's folder; None for the embedded one.
        mode: where flagging starts: ``low-alarm``, ``balanced`` or ``strict``.
        prior: share of risky traffic for the calibration figures; None takes the bundle's.
        limit: most records of each source; None takes all.
        seed: of the draw, the intervals and the ablations.
        bootstrap: replicates of the intervals, 0 for none.
        with_ablations: whether to score again without, and with swapped, context: about 8 times the work.
        out: where the figures go, as JSON; None writes none.
        errors: where the most confident mistakes go, as JSON Lines; None writes none.
        texts: whether the mistakes show texts and contexts, which may be private.
        command: the command line, for the circumstances.
        progress: called after each batch.

    Returns:
        What ``evaluate`` returns, with ``provenance``; further ``windows``, of long texts joined from benign content
        (of all records, not only those within the limit); and ``ablations`` if asked for.

    Raises:
        InputError: an unusable argument or path.
        RecordError: an unusable row.
        ModelError: the bundle cannot be used.
    """
    circumstances = provenance(command)  # before the hours of work, in which a checkout may change
    records = everything = read_records(paths)
    if limit is not None:
        records = limit_per_source(records, limit, seed=seed)
    guard = Guard(model, mode=mode)
    scored = score(guard, records, progress=progress)
    redacted = score_redacted(guard, records, scored, progress=progress)
    stated = guard.prior if prior is None else prior
    thresholds = guard.thresholds.risk
    result = evaluate(
        records, scored, redacted=redacted, seed=seed, bootstrap=bootstrap, prior=stated, thresholds=thresholds
    )
    result["windows"] |= joined_figures(
        guard, everything, thresholds, seed=seed, bootstrap=bootstrap, progress=progress
    )
    result["settings"] |= {"mode": mode, "limit_per_source": limit}
    result["provenance"] = circumstances | {"records": dict(Counter(record.source_name for record in records))}
    if with_ablations:
        result["ablations"] = ablations(guard, records, scored, seed=seed, progress=progress)
    if out is not None:
        out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if errors is not None:
        rows = most_confident_errors(records, scored, texts=texts)
        errors.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return result
