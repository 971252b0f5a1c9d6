"""The arithmetic from one replica's latency to hardware and cost."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("simpy")


from promptguard import Context
from promptguard.bench.speed.mixes import CHAT, DOCUMENTS, numbered
from promptguard.bench.speed.service import ServiceModel
from promptguard.bench.speed.sizing import CHECKED_UTILISATION, Demand, Replica, Shape, cost, plan, price
from promptguard.errors import InputError

SHAPE = Shape(workers=2, threads=2, memory=100_000_000)


@pytest.fixture(scope="module")
def replica() -> Replica:
    """Two workers that take 10 ms for every request: M/D/2."""
    seconds = np.array([0.01, 0.0, 0.0, 0.0, 0.0])
    model = ServiceModel(seconds, 0.0, (1.0, 1.0), jitter=np.ones(50), work=np.full(50, 0.01))
    return Replica(model, np.ones((10, 5)), seed=0)


def test_capacity_is_workers_over_service_time(replica: Replica) -> None:
    assert replica.capacity == pytest.approx(200)
    assert replica.p99_ms(1) == pytest.approx(10, rel=0.01)
    assert replica.p99_ms(200) is None


def test_a_loose_slo_is_limited_by_the_load_that_was_checked(replica: Replica) -> None:
    assert replica.limit(1000) == (CHECKED_UTILISATION * replica.capacity, "utilisation")


def test_a_tight_slo_is_limited_by_the_99th_percentile(replica: Replica) -> None:
    rate, limited_by = replica.limit(20)
    reached, beyond = replica.p99_ms(rate), replica.p99_ms(1.02 * rate)
    assert limited_by == "p99"
    assert 0 < rate < CHECKED_UTILISATION * replica.capacity
    assert reached is not None
    assert beyond is not None
    assert reached <= 20 < beyond


def test_an_slo_shorter_than_a_request_has_no_answer(replica: Replica) -> None:
    found = plan(Demand(100, 9), replica, SHAPE)
    assert found["replica"]["limited_by"] == "service time"
    assert found["replica"]["idle_p99_ms"] == pytest.approx(10, rel=0.01)
    assert found["answer"] is None
    assert found["loads"] == []


def test_answer_by_hand(replica: Replica) -> None:
    found = plan(Demand(1000, 1000, headroom=0.25, price=0.5), replica, SHAPE)
    answer = found["answer"]
    assert found["replica"]["limit_rps"] == pytest.approx(160)
    assert answer["replicas"] == 8  # 1250 / 160 = 7.8
    assert answer["decided_by"] == "load"
    assert (answer["workers"], answer["cores"], answer["memory_bytes"]) == (16, 32, 1_600_000_000)
    assert answer["utilisation"] == pytest.approx(1000 / 1600)
    assert answer["cost_a_month"] == pytest.approx(8 * 0.5 * 730)
    assert answer["cost_a_million_requests"] == pytest.approx(8 * 0.5 / 3.6)
    assert answer["p99_ms"] < answer["p99_one_lost_ms"] < answer["p99_at_headroom_ms"]


def test_at_least_so_many_replicas(replica: Replica) -> None:
    answer = plan(Demand(10, 1000), replica, SHAPE)["answer"]
    assert (answer["replicas"], answer["decided_by"]) == (2, "replicas-min")
    alone = plan(Demand(10, 1000, least_replicas=1), replica, SHAPE)["answer"]
    assert (alone["replicas"], alone["decided_by"]) == (1, "load")
    assert alone["p99_one_lost_ms"] is None


def test_two_nearly_full_replicas_do_not_survive_the_loss_of_one(replica: Replica) -> None:
    answer = plan(Demand(300, 1000, headroom=0), replica, SHAPE)["answer"]
    assert answer["replicas"] == 2
    assert answer["p99_one_lost_ms"] is None


def test_the_answer_moves_with_load(replica: Replica) -> None:
    found = plan(Demand(400, 30, headroom=0), replica, SHAPE)
    loads, curve = found["loads"], found["curve"]
    limit = found["replica"]["limit_rps"]
    assert [load["replicas"] for load in loads] == [max(2, math.ceil(load["rps"] / limit)) for load in loads]
    assert loads[-1]["rps"] == 4000
    assert all(load["p99_ms"] <= 30 for load in loads)
    assert all(a["p99_ms"] <= b["p99_ms"] for a, b in pairwise(curve))


def test_memory_that_is_not_known_stays_so(replica: Replica) -> None:
    assert plan(Demand(10, 1000), replica, Shape(2, 1, None))["answer"]["memory_bytes"] is None


def test_no_price_no_cost() -> None:
    assert cost(3, 100, None) == {"cost_a_month": None, "cost_a_million_requests": None}


@pytest.mark.parametrize(("given", "expected"), [("0.12/h", 0.12), (" 3 / h ", 3.0), ("0/h", 0.0)])
def test_price(given: str, expected: float) -> None:
    assert price(given) == expected


@pytest.mark.parametrize("given", ["", "0.12", "/h", "-1/h", "0.12/month", "$1/h", "1e3/h", "nan/h", "1,2/h", "٣/h"])
def test_price_that_is_none(given: str) -> None:
    with pytest.raises(InputError, match=r"0\.12/h"):
        price(given)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rps": 0.0}, "rps"),
        ({"rps": -1.0}, "rps"),
        ({"rps": math.inf}, "rps"),
        ({"rps": math.nan}, "rps"),
        ({"slo_ms": 0.0}, "slo-ms"),
        ({"slo_ms": -5.0}, "slo-ms"),
        ({"headroom": -0.1}, "headroom"),
        ({"headroom": math.nan}, "headroom"),
        ({"least_replicas": 0}, "replicas-min"),
    ],
)
def test_demand_that_makes_no_sense(arguments: dict[str, float], name: str) -> None:
    with pytest.raises(InputError, match=name):
        Demand(**{"rps": 100.0, "slo_ms": 50.0, **arguments})  # type: ignore[arg-type]


# --- mixes ----------------------------------------------------------------------------------------


def test_a_mix_is_drawn_anew_for_a_seed_and_keeps_its_shares() -> None:
    requests = CHAT.requests(2000, seed=4)
    assert requests == CHAT.requests(2000, seed=4)
    assert requests != CHAT.requests(2000, seed=5)
    contexts = [context for _, context in requests]
    assert sum(context is None for context in contexts) / 2000 == pytest.approx(CHAT.none, abs=0.03)
    often = [contexts.count(context) for context in set(contexts) - {None}]
    assert sum(n == 1 for n in often) / 2000 == pytest.approx(CHAT.new, abs=0.03)
    assert sum(n > 1 for n in often) == CHAT.applications
    assert np.median([len(text.split()) for text, _ in requests]) == pytest.approx(CHAT.text_median, rel=0.1)


def test_documents_are_longer() -> None:
    longer, shorter = (np.median([len(t) for t, _ in mix.requests(200, seed=0)]) for mix in (DOCUMENTS, CHAT))
    assert longer > 2 * shorter


@pytest.mark.parametrize(
    "context", [Context(system_prompt="Shop."), Context(purpose="Shop."), Context(user_role="buyer"), Context()]
)
def test_a_numbered_context_is_another_one(context: Context) -> None:
    assert len({context, numbered(context, 100), numbered(context, 101)}) == 3
    assert numbered(context, 100) == numbered(context, 100)
