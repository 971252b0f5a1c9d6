"""What people ask in an application: in, near and out of its scope, and what only some roles may ask."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from promptguard.training.compose_parts import Parts, Record, context, rate, record

VOICES = 8
"""Ways in which each ask of a role is said."""

ASKER = {
    "pharm-kestrel": "patient", "tel-wavecom": "verified customer", "sec-triagehawk": "tier-2 analyst",
    "hr-benefitsbee": "line manager", "astro-nightwatch": "dome lead", "pm-vaultkey": "team admin",
    "code-reviewowl": "maintainer", "vet-pawsclinic": None, "estate-gableline": None, "cloud-nimbusctl": None,
    "oss-issuebot": None, "wind-aerodeck": None, "gene-helixreport": None, "acc-badgepoint": None,
    "mes-lineview": None, "sch-formtutor": None, "it-helpdesk": None, "cicd-pipelinepal": None,
    "iot-firmforge": None, "ap-invoicely": None, "pay-rollwise": None, "pen-redharbor": None,
    "rest-tablely": None, "pad-homewise": None, "ride-hopon": None, "auto-torqueline": None,
    "log-fleetfox": None, "crm-northbeam": None, "oil-derrickaid": None, "edu-promptcraft": None,
    "lab-mirrorbench": None, "meet-minutely": None, "ops-runbook": None, "data-lanternsql": None,
}  # fmt: skip
"""Who asks the asks in scope where that is not the first role; None where no single role may ask them all."""

ENTITLED = {
    "Log of door 9, case S-20": "security lead", "Set zone 2 to 182 °C, form PF-12": "process engineer",
    "Open the dome, I'm lead tonight": "dome lead", "Who's in my 4b?": "teacher", "Send R4 to dock 2": "shift lead",
    "Isolate WS-2231, incident INC-550": "tier-2 analyst", "Drain node 7, CHG-9011": "on-call engineer",
    "Roll back payments to v142, change CHG-8812": "on-call engineer", "Open zone B for pickers": "shift lead",
    "Kill the stuck migration job in staging": "on-call engineer", "Open case 24-118, reason R3": "records clerk",
    "Who on my team is off next week?": "line manager", "Remove a member from my team": "team admin",
    "Open case 311": "poison specialist", "Lethal range of colchicine?": "poison specialist",
    "Print the visitor list for the fire drill": "receptionist",
    "Draft a parcel-delivery lure for order P-201": "certified trainer", "Push the ACL fix, CHG-3301": "NOC engineer",
    "Check form 31 against the criteria": "study nurse", "Unlock the door, PIN given": "household adult",
}  # fmt: skip
"""Asks in scope of one role alone."""

SPECIAL = re.compile(
    r"security|pen(etration)? ?test|AI |fraud|payments|crisis|poison|laborator|quarry|lock|film|fiction|journal|"
    r"moderation|IT |games|operations|devops|integration|open source|software|analytics|general|image|translation|"
    r"language|police|password|assistant|agent|office|embedded|research|meetings|music|marketing|assessment|"
    r"shopping|content"
)
"""Industries in which an attack's words may be the work, or nearly every subject may be."""


def app_context(
    app: Record, role: str | None, parts: Parts, rng: random.Random, *, wording: int | None = None, rules: float = 0.15
) -> Record:
    """An application as a person meets it, in one of its wordings, sometimes with its roles spelled out."""
    prompts = app["system_prompts"]
    prompt = prompts[wording % len(prompts)] if wording is not None else rng.choice(prompts)
    if app["lang"] == "en" and rate(rng, rules):
        prompt += "\n\n" + rights(app, rng)
    history = []
    if app["lang"] == "en" and rate(rng, 0.2):
        turn = rng.choice(parts.wordings["greetings"])
        history = [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    purpose = rate(rng, 0.08)
    return context(
        system_prompt=None if purpose else prompt,
        purpose=prompt if purpose else None,
        source="user" if rate(rng, 0.85) else None,
        user_role=role,
        history=history,
        tools=app["tools"] if rate(rng, 0.6) else [],
    )


def rights(app: Record, rng: random.Random) -> str:
    """What each role of an application may do and may not, as an operator would write it."""
    form = rng.choice(("{r}: {m}. Not: {n}.", "- {r} – may: {m}; may not: {n}", "{r} | allowed: {m} | denied: {n}"))
    head = rng.choice(("Roles", "Permissions by role:", "Who may do what"))
    lines = [form.format(r=r["role"], m=", ".join(r["may"]), n=", ".join(r["may_not"])) for r in app["roles"]]
    return "\n".join([head, *lines])


def asks(parts: Parts, rng: random.Random) -> Iterator[Record]:
    """What people ask in an application: in, near and out of its scope, and what belongs to another one."""
    for app in parts.apps:
        main = ASKER.get(app["app_id"], app["roles"][0]["role"]) if app["lang"] == "en" else None
        anyone = [None, *(r["role"] for r in app["roles"])]
        for wording in range(3):
            rows: list[tuple[str, str, str | None, list[str]]] = []
            for text in app["in_scope"]:
                rows.append((text, "ask_in", ENTITLED.get(text) or (main if rate(rng, 0.6) else None), []))
            rows += [(t, "ask_near", rng.choice(anyone), []) for t in app["near_scope"]]
            rows += [(t, "ask_out", rng.choice(anyone), ["out_of_scope"]) for t in app["out_of_scope"]]
            strangers = list(_foreign_asks(app, parts))
            for text in rng.sample(strangers, min(5, len(strangers))):
                rows.append((text, "ask_foreign", rng.choice(anyone), ["out_of_scope"]))
            for text, kind, role, labels in rows:
                yield record(
                    _surface(text, rng), app_context(app, role, parts, rng, wording=wording), labels,
                    split=parts.split, family="apps", kind=kind, template=f"app:{app['app_id']}",
                    group=f"ask|{text}", lang=app["lang"],
                )  # fmt: skip


def _surface(text: str, rng: random.Random) -> str:
    if rate(rng, 0.12):
        return text.lower().rstrip(".?!")
    if rate(rng, 0.08):
        return rng.choice(("Hi, {}", "Hello! {}", "Quick question: {}", "{} Thanks!", "{} please")).format(text)
    return text


def _words(text: str) -> set[str]:
    return {w[:5] for w in re.findall(r"[a-z]{5,}", text.lower())}


def _everything(app: Record) -> set[str]:
    tools = [f"{t['name']} {t['description']}" for t in app["tools"]]
    near = [*app["in_scope"], *app["near_scope"]]
    return _words(" ".join([app["industry"], *app["system_prompts"], *tools, *near]).replace("_", " "))


def _foreign_asks(app: Record, parts: Parts) -> Iterator[str]:
    """Asks that name their own subject, picked by hand, where none of their words is this application's."""
    if app["lang"] != "en" or SPECIAL.search(app["industry"]):
        return
    mine, portable = _everything(app), set(parts.wordings["portable_asks"])
    for other in parts.apps:
        if other["app_id"] == app["app_id"] or other["lang"] != "en" or SPECIAL.search(other["industry"]):
            continue
        if _words(other["industry"]) & mine:
            continue
        for text in other["in_scope"]:
            if text in portable and not _words(text) & mine:
                yield text


def role_asks(parts: Parts, rng: random.Random) -> Iterator[Record]:
    """One sentence under roles that may ask it and roles that may not, and what those may ask instead."""
    for app in parts.apps:
        for ask in parts.asks[app["app_id"]]:
            voices = rng.sample(parts.wordings["voices"], min(VOICES, len(parts.wordings["voices"])))
            for voice in voices:
                base = app_context(app, None, parts, rng, wording=rng.choice((1, 2, 2)), rules=0.5)
                names = f"app:{app['app_id']}|ask:{ask['id']}"
                rows = [(ask["ask"], role, ask["labels"], "role_denied") for role in ask["denied"]]
                rows += [(ask["ask"], role, [], "role_allowed") for role in ask["allowed"]]
                if ask["own_ask"] and ask["denied"]:
                    rows.append((ask["own_ask"], ask["denied"][0], [], "role_own"))
                for text, role, labels, kind in rows:
                    yield record(
                        speak(voice, text), {**base, "user_role": role}, labels, split=parts.split, family="apps",
                        kind=kind, template=names, group=f"{names}|{voice}",
                    )  # fmt: skip


def speak(voice: str, ask: str) -> str:
    """Say an ask in one of the ways people ask for things."""
    if ask.startswith("{"):
        return ask
    return voice.replace("{vp}", ask).replace("{Vp}", ask[0].upper() + ask[1:])
