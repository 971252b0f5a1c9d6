from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptguard.errors import BackendError, InputError
from promptguard.intents import INTENTS, RISKY_INTENTS
from promptguard.policy import FALSE_POSITIVE_RATES, MODES, Policy, Thresholds, decide, severity
from promptguard.types import Coverage, Decision, Reason

RISK = {"low-alarm": 0.9, "balanced": 0.6, "strict": 0.3}
THRESHOLDS = Thresholds(risk=RISK, intents=dict.fromkeys(INTENTS, 0.5))
READ = Coverage(characters_read=40, characters_not_read=0, characters_unreadable=0, windows=1)
ALLOW, REVIEW, BLOCK = Decision.ALLOW, Decision.REVIEW, Decision.BLOCK


def verdict(
    risk: float,
    *,
    policy: Policy | None = None,
    coverage: Coverage = READ,
    letters: int = 40,
    thresholds: Thresholds = THRESHOLDS,
    **probabilities: float,
) -> tuple[Decision, Reason, tuple[str, ...]]:
    return decide(
        risk=risk,
        probabilities={name: probabilities.get(name, 0.01) for name in INTENTS},
        thresholds=thresholds,
        policy=policy or Policy(),
        coverage=coverage,
        letters=letters,
    )


# What follows from risk


@pytest.mark.parametrize("mode", MODES)
def test_every_threshold_of_risk_is_where_it_says(mode: str) -> None:
    policy = Policy(mode=mode)
    review_at, block_at = RISK[mode], RISK["low-alarm"]
    coincide = mode == "low-alarm"
    steps = ((review_at, ALLOW, BLOCK if coincide else REVIEW), (block_at, ALLOW if coincide else REVIEW, BLOCK))
    for at, under, over in steps:
        assert verdict(math.nextafter(at, 0), policy=policy, jailbreak=0.9)[0] is under
        assert verdict(at, policy=policy, jailbreak=0.9)[0] is over
        assert verdict(math.nextafter(at, 1), policy=policy, jailbreak=0.9)[0] is over


def test_modes_are_defined_by_their_false_positive_rates() -> None:
    assert FALSE_POSITIVE_RATES == {"low-alarm": 0.001, "balanced": 0.01, "strict": 0.05}
    assert Policy().mode == "balanced"


def test_every_threshold_of_an_intent_is_where_it_says() -> None:
    assert verdict(0.7, jailbreak=0.9, fraud=0.5)[2] == ("jailbreak", "fraud")
    assert verdict(0.7, jailbreak=0.9, fraud=math.nextafter(0.5, 0))[2] == ("jailbreak",)


def test_intents_are_listed_most_likely_first_and_ties_in_the_order_of_the_model() -> None:
    assert verdict(0.7, fraud=0.8, prompt_injection=0.6, tool_misuse=0.8)[2] == (
        "fraud",
        "tool_misuse",
        "prompt_injection",
    )


def test_a_flagged_text_has_an_intent_even_if_none_is_sure() -> None:
    assert verdict(0.95, data_exfiltration=0.4, fraud=0.3) == (BLOCK, Reason.RISK, ("data_exfiltration",))
    # The likeliest of all is no risk: it must not stand for the risk, nor beside it.
    assert verdict(0.7, data_exfiltration=0.4, out_of_scope=0.95)[2] == ("data_exfiltration",)


def test_a_text_that_passes_has_no_risky_intent() -> None:
    assert verdict(0.59, jailbreak=0.99) == (ALLOW, Reason.BELOW_THRESHOLD, ())


# Out of scope


@pytest.mark.parametrize("wanted", list(Decision))
def test_out_of_scope_alone_is_up_to_the_policy(wanted: Decision) -> None:
    policy = Policy(out_of_scope=wanted)
    assert verdict(0.1, policy=policy, out_of_scope=0.5) == (wanted, Reason.OUT_OF_SCOPE, ("out_of_scope",))
    assert verdict(0.1, policy=policy, out_of_scope=math.nextafter(0.5, 0)) == (ALLOW, Reason.BELOW_THRESHOLD, ())


def test_being_risky_besides_does_not_free_a_text_that_is_out_of_scope() -> None:
    policy = Policy(out_of_scope=BLOCK, intents={"fraud": ALLOW})
    assert verdict(0.7, policy=policy, jailbreak=0.8, out_of_scope=0.9) == (BLOCK, Reason.OUT_OF_SCOPE, ("jailbreak",))
    assert verdict(0.7, policy=policy, fraud=0.8, out_of_scope=0.9)[0] is BLOCK
    assert verdict(0.95, policy=policy, jailbreak=0.8, out_of_scope=0.9)[:2] == (BLOCK, Reason.RISK)


# Decisions by intent


def test_an_override_holds_for_its_intent_from_review_on() -> None:
    policy = Policy(intents={"fraud": BLOCK, "harmful_content": ALLOW, "jailbreak": REVIEW})
    assert verdict(0.7, policy=policy, fraud=0.8) == (BLOCK, Reason.POLICY, ("fraud",))
    assert verdict(0.59, policy=policy, fraud=0.8) == (ALLOW, Reason.BELOW_THRESHOLD, ())
    assert verdict(0.95, policy=policy, harmful_content=0.8) == (ALLOW, Reason.POLICY, ("harmful_content",))
    assert verdict(0.95, policy=policy, jailbreak=0.8) == (REVIEW, Reason.POLICY, ("jailbreak",))
    assert verdict(0.7, policy=policy, jailbreak=0.8) == (REVIEW, Reason.RISK, ("jailbreak",))


def test_of_several_intents_the_most_severe_decision_holds() -> None:
    policy = Policy(intents={"harmful_content": ALLOW, "fraud": BLOCK})
    assert verdict(0.7, policy=policy, harmful_content=0.9, fraud=0.6)[0] is BLOCK
    # An intent without an entry asks for what the risk asks for.
    assert verdict(0.7, policy=policy, harmful_content=0.9, tool_misuse=0.6)[:2] == (REVIEW, Reason.RISK)
    assert verdict(0.95, policy=policy, harmful_content=0.9, tool_misuse=0.6)[:2] == (BLOCK, Reason.RISK)


def test_an_intent_that_is_only_a_guess_can_make_the_decision_stricter_but_not_milder() -> None:
    policy = Policy(intents={"harmful_content": ALLOW, "fraud": BLOCK})
    assert verdict(0.95, policy=policy, harmful_content=0.4) == (BLOCK, Reason.RISK, ("harmful_content",))
    assert verdict(0.7, policy=policy, fraud=0.4) == (BLOCK, Reason.POLICY, ("fraud",))


# What was not read


def test_what_was_not_read_never_passes() -> None:
    cut = Coverage(characters_read=100_000, characters_not_read=1, characters_unreadable=0, windows=64)
    assert verdict(0.0, coverage=cut) == (REVIEW, Reason.NOT_FULLY_READ, ())
    assert verdict(0.0, coverage=cut, out_of_scope=0.9) == (REVIEW, Reason.NOT_FULLY_READ, ("out_of_scope",))
    lenient = Policy(intents={"fraud": ALLOW})
    assert verdict(0.7, coverage=cut, policy=lenient, fraud=0.9) == (REVIEW, Reason.NOT_FULLY_READ, ("fraud",))
    assert verdict(0.95, coverage=cut, fraud=0.9) == (BLOCK, Reason.RISK, ("fraud",))


@pytest.mark.parametrize(("unreadable", "decision"), [(11, ALLOW), (12, REVIEW), (13, REVIEW)])
def test_the_share_of_unreadable_letters_is_where_it_says(unreadable: int, decision: Decision) -> None:
    coverage = Coverage(characters_read=60, characters_not_read=0, characters_unreadable=unreadable, windows=1)
    reason = Reason.UNREADABLE if decision is REVIEW else Reason.BELOW_THRESHOLD
    assert verdict(0.0, coverage=coverage, letters=40) == (decision, reason, ())


def test_a_text_without_letters_is_not_unreadable() -> None:
    assert verdict(0.0, letters=0)[:2] == (ALLOW, Reason.BELOW_THRESHOLD)


# A model that failed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.001, 1.001])
def test_a_number_that_is_no_probability_is_an_error(bad: float) -> None:
    with pytest.raises(BackendError):
        verdict(bad)
    with pytest.raises(BackendError, match="fraud"):
        verdict(0.1, fraud=bad)


def test_a_missing_intent_is_an_error() -> None:
    with pytest.raises(BackendError, match="out_of_scope"):
        decide(
            risk=0.1,
            probabilities=dict.fromkeys(RISKY_INTENTS, 0.1),
            thresholds=THRESHOLDS,
            policy=Policy(),
            coverage=READ,
            letters=1,
        )


# Properties

shares = st.floats(0, 1)
decisions = st.sampled_from(list(Decision))
policies = st.builds(
    Policy,
    mode=st.sampled_from(MODES),
    out_of_scope=decisions,
    intents=st.dictionaries(st.sampled_from(RISKY_INTENTS), decisions),
    unreadable_share=st.floats(0.01, 1),
)
all_thresholds = st.builds(
    lambda risk, intents: Thresholds(
        risk=dict(zip(MODES, sorted(risk, reverse=True), strict=True)), intents=dict(zip(INTENTS, intents, strict=True))
    ),
    st.lists(shares, min_size=3, max_size=3),
    st.lists(shares, min_size=10, max_size=10),
)
coverages = st.builds(Coverage, st.integers(0, 9), st.integers(0, 1), st.integers(0, 9), st.integers(0, 9))
probability_maps = st.fixed_dictionaries(dict.fromkeys(INTENTS, shares))
situations = st.fixed_dictionaries(
    {
        "probabilities": probability_maps,
        "thresholds": all_thresholds,
        "policy": policies,
        "coverage": coverages,
        "letters": st.integers(0, 9),
    }
)


@given(risk=shares, situation=situations)
def test_every_situation_has_a_verdict_that_agrees_with_its_intents(risk: float, situation: dict[str, Any]) -> None:
    decision, reason, intents = decide(risk=risk, **situation)
    assert decide(risk=risk, **situation) == (decision, reason, intents)
    risky = risk >= situation["thresholds"].risk[situation["policy"].mode]
    assert bool(set(intents) & set(RISKY_INTENTS)) == risky
    assert "out_of_scope" not in intents or intents == ("out_of_scope",)
    likely = [situation["probabilities"][name] for name in intents]
    assert likely == sorted(likely, reverse=True)
    if decision is ALLOW:
        assert situation["coverage"].characters_not_read == 0
        assert reason is not Reason.RISK
    if reason is Reason.BELOW_THRESHOLD:
        assert decision is ALLOW
        assert not intents


@given(risks=st.tuples(shares, shares), situation=situations)
def test_a_higher_risk_never_has_a_milder_decision(risks: tuple[float, float], situation: dict[str, Any]) -> None:
    low, high = (severity(decide(risk=risk, **situation)[0]) for risk in sorted(risks))
    assert low <= high


@given(risk=shares, situation=situations)
def test_a_stricter_mode_flags_whatever_a_laxer_one_flags(risk: float, situation: dict[str, Any]) -> None:
    # Only without overrides: one that says "allow" may free a text that the stricter mode gives an intent.
    scope = situation["policy"].out_of_scope
    policies_by_mode = [Policy(mode=mode, out_of_scope=scope) for mode in MODES]
    ranks = [severity(decide(risk=risk, **{**situation, "policy": policy})[0]) for policy in policies_by_mode]
    assert ranks == sorted(ranks)


@given(policy=policies, inner=st.dictionaries(st.text(max_size=3), policies, max_size=2))
def test_a_policy_survives_json(policy: Policy, inner: dict[str, Policy]) -> None:
    whole = Policy(policy.mode, policy.out_of_scope, policy.intents, policy.unreadable_share, inner)
    assert Policy.from_mapping(json.loads(json.dumps(whole.to_dict()))) == whole


# Policies by application, and what is accepted


def test_an_application_inherits_what_its_entry_leaves_out() -> None:
    policy = Policy.from_mapping(
        {
            "mode": "strict",
            "intents": {"fraud": "block"},
            "applications": {"fraud-desk": {"intents": {"fraud": "allow"}}, "kiosk": {"out_of_scope": "block"}},
        }
    )
    assert policy.for_application("fraud-desk") == Policy(mode="strict", intents={"fraud": ALLOW})
    assert policy.for_application("kiosk") == Policy(mode="strict", intents={"fraud": BLOCK}, out_of_scope=BLOCK)
    assert policy.for_application("unknown") is policy
    assert policy.for_application(None) is policy


def test_decisions_may_be_spelled_as_strings() -> None:
    policy = Policy(out_of_scope="review", intents={"fraud": "block"})  # type: ignore[arg-type,dict-item]
    assert policy.out_of_scope is REVIEW
    assert policy.intents == {"fraud": BLOCK}


@pytest.mark.parametrize("applications", [["shop"], {"shop": {"mode": "strict"}}, {7: Policy()}])
def test_applications_hold_policies_under_strings(applications: Any) -> None:
    with pytest.raises(InputError, match=r"policy\.applications"):
        Policy(applications=applications)


def test_a_policy_does_not_change_with_the_mapping_it_was_made_of() -> None:
    intents = {"fraud": ALLOW}
    policy = Policy(intents=intents)
    intents["fraud"] = BLOCK
    assert policy.intents == {"fraud": ALLOW}


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"mdoe": "strict"}, "'mdoe'.*mode"),
        ({"mode": "paranoid"}, "policy.mode.*low-alarm, balanced, strict"),
        ({"mode": ["strict"]}, "policy.mode"),
        ({"out_of_scope": "deny"}, "policy.out_of_scope.*allow, review, block"),
        ({"out_of_scope": None}, "policy.out_of_scope"),
        ({"intents": {"phishing": "block"}}, "policy.intents.*'phishing'.*fraud"),
        ({"intents": {"out_of_scope": "block"}}, "policy.intents.*'out_of_scope'"),
        ({"intents": {"fraud": 1}}, "policy.intents.fraud.*allow"),
        ({"intents": ["fraud"]}, "policy.intents must be a mapping, not list"),
        ({"unreadable_share": 0}, "policy.unreadable_share"),
        ({"unreadable_share": 1.5}, "policy.unreadable_share"),
        ({"unreadable_share": True}, "policy.unreadable_share"),
        ({"unreadable_share": math.nan}, "policy.unreadable_share"),
        ({"unreadable_share": "0.3"}, "policy.unreadable_share"),
        ({"applications": []}, "policy.applications"),
        ({"applications": {"shop": "strict"}}, r"policy.applications\['shop'\].*mapping"),
        ({"applications": {"shop": {"mode": "lax"}}}, r"policy.applications\['shop'\]: policy.mode"),
        ({"applications": {"shop": {"applications": {"x": {}}}}}, "applications of its own"),
        ("strict", "policy must be a mapping, not str"),
    ],
)
def test_a_bad_policy_says_which_key_and_what_is_accepted(mapping: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Policy.from_mapping(mapping)


def test_thresholds_survive_json() -> None:
    assert Thresholds.from_mapping(json.loads(json.dumps(THRESHOLDS.to_dict()))) == THRESHOLDS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"risk": {"balanced": 0.5, "strict": 0.3}}, "lacks the key 'low-alarm'"),
        ({"risk": {**RISK, "lax": 0.99}}, "unknown key 'lax'"),
        ({"risk": {**RISK, "strict": 0.7}}, "order"),
        ({"risk": {**RISK, "low-alarm": 1.1}}, r"thresholds.risk.low-alarm must be in \[0, 1\]"),
        ({"risk": {**RISK, "low-alarm": "0.9"}}, "thresholds.risk.low-alarm must be a number"),
        ({"intents": dict.fromkeys(RISKY_INTENTS, 0.5)}, "lacks the key 'out_of_scope'"),
        ({"intents": dict.fromkeys(INTENTS, math.nan)}, "prompt_injection must be a number"),
        ({"riks": {}}, "unknown key 'riks'"),
    ],
)
def test_bad_thresholds_say_which_key_and_what_is_accepted(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Thresholds.from_mapping({**THRESHOLDS.to_dict(), **change})
