"""Withheld and swapped contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import ATTACK, FakeGuard, contextual, record

from promptguard.bench.ablation import CONTEXT_FIELDS, ablate, ablations, swap
from promptguard.bench.scoring import score
from promptguard.errors import InputError
from promptguard.types import Context, Message, Tool

RICH = Context(
    system_prompt="prompt",
    source="email",
    user_role="clerk",
    history=(Message("user", "hi"),),
    tools=(Tool("send"),),
    purpose="help",
    application="shop",
)


@pytest.mark.parametrize("name", CONTEXT_FIELDS)
def test_ablate_takes_one_field(name: str) -> None:
    (bare,) = ablate([record(ATTACK, context=RICH)], name)
    emptied = {name: getattr(Context(), name)} | ({"purpose": None} if name == "system_prompt" else {})
    assert bare.context == replace(RICH, **emptied)
    assert bare.labels == ATTACK


def test_ablate_all_keeps_only_the_opaque_ids() -> None:
    untouched = record()
    bare, same = ablate([record(context=RICH), untouched], "all")
    assert bare.context == Context(application="shop")
    assert same is untouched


def test_swap_gives_everybody_another_value_where_it_can() -> None:
    records = [record(context=Context(user_role=role)) for role in ("a", "a", "b", "b", "c")] + [record()]
    for seed in range(20):
        swapped = swap(records, "user_role", seed)
        assert sorted(str(r.context.user_role) for r in swapped[:5]) == ["a", "a", "b", "b", "c"]
        assert all(old.context != new.context for old, new in zip(records[:5], swapped[:5], strict=True))
        assert swapped[5] is records[5]
    assert swap(records, "user_role", 3) == swap(records, "user_role", 3)


def test_swap_with_a_value_that_fills_most_places_or_all() -> None:
    most = [record(context=Context(source=source)) for source in ("user", "user", "user", "email")]
    assert sorted(str(r.context.source) for r in swap(most, "source")) == ["email", "user", "user", "user"]
    assert sum(old is not new for old, new in zip(most, swap(most, "source"), strict=True)) == 2
    assert swap(most[:1], "source") == most[:1]
    assert swap([], "all") == []


def test_unknown_fields_are_refused() -> None:
    for call in (ablate, swap):
        with pytest.raises(InputError):
            call([record()], "purpose")


def test_ablations_show_what_the_context_does() -> None:
    guard = FakeGuard(lambda text, context: {"admin": 0.1, "visitor": 0.9, None: 0.5}[context.user_role])
    records = contextual()
    full = score(guard, records)
    guard.asked = 0
    found = ablations(guard, records, full, fields=("user_role", "tools"))
    assert guard.asked == 40  # nothing has tools, so nothing more is scored again
    assert found["full"]["auroc"] == found["full"]["groups"]["right"] == 1.0
    withheld = found["withheld"]["user_role"]
    assert (withheld["auroc"], withheld["groups"]["ranked"], withheld["groups"]["right"]) == (0.5, 0.5, 0.0)
    assert withheld["changed"]["n"] == 20
    assert withheld["changed"]["verdicts_moved"] == 0.5
    assert withheld["changed"]["mean_risk_moved"] == pytest.approx(0.4)
    assert found["swapped"]["user_role"]["auroc"] == 0.0
    assert found["withheld"]["tools"]["changed"]["n"] == 0
    assert found["withheld"]["tools"]["auroc"] == 1.0
