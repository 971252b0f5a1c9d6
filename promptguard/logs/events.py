"""A scan's flagged rows and findings as OCSF Detection Findings (class 2004), one JSON object a line.

Events follow OCSF 1.5.0 and each is validated by ``py-ocsf-models`` before it is written. ATLAS techniques stand
in ``finding_info.attacks``. Texts are left out unless asked for.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptguard import __version__
from promptguard.errors import InputError, MissingExtraError
from promptguard.intents import references
from promptguard.logs.rows import plausible
from promptguard.terminal import TITLES

try:
    import pyarrow as pa
    import pyarrow.dataset as ds
    from py_ocsf_models.events.findings.detection_finding import DetectionFinding
except ImportError as missing:
    raise MissingExtraError("events", "writing OCSF events") from missing

if TYPE_CHECKING:
    from promptguard.logs.behaviour import Finding

OCSF_VERSION = "1.5.0"
"""Version of the schema that events are validated against."""
AI_PROFILE_VERSION = "1.8.0"
"""Version of the schema whose ``ai_operation`` profile ``ai_profile=True`` borrows from."""

_NAMESPACE = uuid.UUID("6f1f1e0e-6d0c-5c1f-9a53-6f0d9a2b7c11")
_SEVERITY = {"block": (4, "High"), "review": (3, "Medium")}
_LEVELS = ((0.8, 4, "Critical"), (0.6, 3, "High"), (0.3, 2, "Medium"), (0.1, 1, "Low"), (0.0, 0, "Info"))
_BEHAVIOUR_ATTACKS: Mapping[str, tuple[str, ...]] = {
    "flooding": ("AML.T0034",),
    "spend": ("AML.T0034",),
    "long_output": ("AML.T0034",),
    "fan_out": ("AML.T0034",),
    "probing": (),
    "escalation": ("AML.T0054",),
}
_PARENTS = {"AML.T0048": "External Harms", "AML.T0051": "LLM Prompt Injection"}
_COLUMNS = (
    "row file line id time user session application key model source user_role input_tokens output_tokens "
    "characters text_hash decision reason risk intents bundle"
).split()
_EVIDENCE = ("row", "file", "line", "id", "key", "session", "source", "user_role", "text_hash", "characters", "reason")


def write(
    folder: Path | str,
    path: Path | str,
    *,
    findings: Sequence[Finding] = (),
    prompts: bool = False,
    ai_profile: bool = False,
) -> int:
    """Write an event for every row that was not allowed, and one for every finding of behaviour.

    Args:
        folder: the folder a scan wrote.
        path: the file to write, JSON Lines.
        findings: what ``promptguard.logs.behaviour.findings`` found.
        prompts: put the text of a row into its evidence; the scan must have copied it.
        ai_profile: add the attributes ``ai_model`` and ``message_context`` of the profile ``ai_operation``, which
            came with OCSF 1.8.0 and is not among the profiles of class 2004. Events then state version 1.8.0;
            the rest of them is validated at 1.5.0 as before, the additions are not.

    Returns:
        The number of events written.

    Raises:
        InputError: there is no finished scan in the folder, or prompts are asked for that it did not copy.
    """
    from promptguard.logs import read_manifest, read_scan

    read_manifest(folder)
    dataset = read_scan(folder)
    if prompts and "text" not in dataset.schema.names:
        raise InputError("the scan did not copy texts: there are none to put into events")
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    created, number = datetime.now(UTC), 0
    with partial.open("w", encoding="utf-8") as file:
        for event in _events(dataset, findings, created, prompts, ai_profile):
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
            number += 1
    os.replace(partial, target)
    return number


def _events(
    dataset: ds.Dataset, findings: Sequence[Finding], created: datetime, prompts: bool, ai_profile: bool
) -> Iterator[dict[str, Any]]:
    columns = [*_COLUMNS, *(["text"] if prompts else [])]
    flagged = (ds.field("status") == "ok") & (ds.field("decision") != "allow")
    for batch in dataset.to_batches(columns=columns, filter=flagged, batch_size=8_192):
        for row in plausible(pa.Table.from_batches([batch])).to_pylist():
            yield _checked(_row_event(row, created), row if ai_profile else None)
    for finding in findings:
        yield _checked(_finding_event(finding, created), None)


def _checked(event: dict[str, Any], row: Mapping[str, Any] | None) -> dict[str, Any]:
    """An event as the validated model writes it, with the additions of the newer profile where there is a row."""
    checked: dict[str, Any] = DetectionFinding.model_validate(event).model_dump(mode="json", exclude_none=True)
    if row is None:
        return checked
    checked["metadata"] |= {"version": AI_PROFILE_VERSION, "profiles": ["ai_operation"]}
    if row["model"] is not None:
        checked["ai_model"] = {"name": row["model"], "ai_provider": "Unknown"}
    if row["application"] is not None:
        tokens = {"prompt_tokens": row["input_tokens"], "completion_tokens": row["output_tokens"]}
        given = {name: value for name, value in tokens.items() if value is not None}
        if len(given) == 2:
            given["total_tokens"] = sum(given.values())
        session = {} if row["session"] is None else {"uid": row["session"]}
        checked["message_context"] = {"application": {"name": row["application"]}, "ai_role_id": 1, **session, **given}
    return checked


def _row_event(row: Mapping[str, Any], created: datetime) -> dict[str, Any]:
    severity, caption = _SEVERITY[row["decision"]]
    _, level, level_name = next(limit for limit in _LEVELS if row["risk"] >= limit[0])
    intents = tuple(row["intents"] or ())
    what = ", ".join(intent.replace("_", " ") for intent in intents) or row["reason"].replace("_", " ")
    seen = None if row["time"] is None else _milliseconds(row["time"])
    evidence = {name: row[name] for name in (*_EVIDENCE, "text") if row.get(name) is not None}
    uid = uuid.uuid5(_NAMESPACE, f"{row['bundle']} {row['file']} {row['line']} {row['row']}")
    analytic = {"name": "promptguard classifier", "uid": row["bundle"], "type_id": 4, "type": "Learning (ML/DL)"}
    return _event(
        created,
        title=f"Prompt flagged: {what}",
        uid=str(uid),
        analytic={**analytic, "version": __version__},
        attacks=references(intents, row["source"]),
        types=list(intents),
        seen=(seen, seen),
        severity=(severity, caption),
        evidence=evidence,
        actor=row["user"],
        application=row["application"],
        risk_score=round(100 * row["risk"]),
        risk_level_id=level,
        risk_level=level_name,
    )


def _finding_event(finding: Finding, created: datetime) -> dict[str, Any]:
    from promptguard.logs.behaviour import KINDS

    uid = uuid.uuid5(_NAMESPACE, f"{finding.kind} {finding.actor_kind} {finding.actor} {finding.rows}")
    analytic = {"name": f"promptguard {KINDS[finding.kind].lower()}", "uid": f"promptguard.{finding.kind}"}
    evidence: dict[str, Any] = {finding.actor_kind: finding.actor, "rows": list(finding.rows)}
    if finding.session is not None:
        evidence["session"] = finding.session
    return _event(
        created,
        title=f"Behaviour: {KINDS[finding.kind]}",
        uid=str(uid),
        analytic={**analytic, "type_id": 3, "type": "Statistical", "version": __version__},
        attacks=_BEHAVIOUR_ATTACKS[finding.kind],
        types=[finding.kind],
        seen=tuple(None if t is None else _milliseconds(t) for t in (finding.start, finding.end)),
        severity=_SEVERITY["review"],
        evidence={**evidence, "measured": dict(finding.measured), "threshold": dict(finding.threshold)},
        actor=finding.actor,
        application=None,
        desc=finding.why,
        count=len(finding.rows),
    )


def _event(
    created: datetime,
    *,
    title: str,
    uid: str,
    analytic: Mapping[str, Any],
    attacks: Sequence[str],
    types: Sequence[str],
    seen: tuple[int | None, ...],
    severity: tuple[int, str],
    evidence: Mapping[str, Any],
    actor: str | None,
    application: str | None,
    desc: str | None = None,
    **rest: Any,
) -> dict[str, Any]:
    now = _milliseconds(created)
    info: dict[str, Any] = {"title": title, "uid": uid, "analytic": analytic, "created_time": now}
    info |= {"desc": desc, "types": types or None, "first_seen_time": seen[0], "last_seen_time": seen[1]}
    info["attacks"] = [_attack(name) for name in attacks if name.startswith("AML.")] or None
    # The models know no evidences.user: the actor stands in the evidence, and is named as an observable.
    observables = None
    if actor is not None:
        evidence = {"user": actor, **evidence}
        observables = [{"name": "evidences[0].data.user", "type": "User", "type_id": 21, "value": actor}]
    resource = {"name": application, "type": "AI application"}
    return {
        "activity_id": 1,
        "activity_name": "Create",
        "category_name": "Findings",
        "category_uid": 2,
        "class_name": "Detection Finding",
        "class_uid": 2004,
        "type_uid": 200401,
        "type_name": "Detection Finding: Create",
        "time": now,
        "start_time": seen[0],
        "end_time": seen[1],
        "severity_id": severity[0],
        "severity": severity[1],
        "status_id": 1,
        "status": "New",
        "message": desc or title,
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "promptguard", "vendor_name": "promptguard", "version": __version__},
            "uid": uid,
        },
        "finding_info": info,
        "resources": None if application is None else [resource],
        "evidences": [{"data": evidence}],
        "observables": observables,
        **rest,
    }


def _attack(name: str) -> dict[str, Any]:
    parent, _, sub = name[4:].partition(".")
    technique = f"AML.{parent}"
    attack: dict[str, Any] = {"technique": {"uid": technique, "name": TITLES.get(technique) or _PARENTS[technique]}}
    if sub:
        attack["sub_technique"] = {"uid": name, "name": TITLES[name].partition(": ")[2]}
    return {**attack, "version": "ATLAS 2026.09"}


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
