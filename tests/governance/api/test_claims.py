"""What a key that holds and settles for calls of its own can do to others, and to an operator's word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from governance import idempotency, ledger
from governance.actions import corrections, rate_limits
from governance.audit import Actor
from governance.models import BudgetWindow, KeptAnswer, RateBucket, RateLimit, Reservation, SpendEntry
from governance.upkeep import reconcile
from tests import factories
from tests.factories import nanos
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced", "at_noon")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
OPS = Actor("ops")


@pytest.fixture
def at_noon(db: None) -> Any:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock
    assert reconcile.check() == []


@pytest.fixture
def other(db: None) -> Api:
    """An agent of another tenant, which has a budget of its own."""
    globex = factories.tenant("other")
    factories.budget("10", tenant=globex)
    return Api(factories.key(of=globex, agent_slug="o")[0])


def hold(api: Api, cost: str, **more: Any) -> Any:
    return api.post("/api/reservations", {"model": "large", "estimated_cost": cost, **more})


def act(api: Api, held: Any, what: str, **body: Any) -> Any:
    return api.post(f"/api/reservations/{held.json()['id']}/{what}", body)


class TestRateLimits:
    @pytest.mark.parametrize("claim", [{"cost": "0", "output_tokens": 10**12}, {"cost": "9"}])
    def test_a_claim_beyond_the_hold_makes_no_other_tenant_wait(
        self, agent: Api, other: Api, claim: dict[str, Any]
    ) -> None:
        factories.budget("10")
        limits = {"tokens_per_minute": 1_000_000, "nanos_per_minute": nanos("5")}
        rate_limits.create(scope_type="platform", **limits, by=OPS, now=NOON)
        assert act(agent, hold(agent, "0.01"), "settle", **claim).status_code == 200
        assert hold(other, "0.01").status_code == 201

    def test_within_its_own_limit_it_counts_as_it_says(self, agent: Api) -> None:
        factories.budget("10")
        rate_limits.create(scope_type="tenant", tenant=factories.tenant(), tokens_per_minute=1000, by=OPS, now=NOON)
        held, next_one = hold(agent, "0.01"), {"input_tokens": 10, "max_tokens": 10}
        assert act(agent, held, "settle", cost="0.01", output_tokens=5000).status_code == 200
        refused = agent.post("/api/reservations", {"model": "large", **next_one})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")


class TestWithoutABudgetOfItsOwn:
    """Only a claim says that there is a call, and it is bounded as reports are: by REPORT_REVIEW_ABOVE a day."""

    @pytest.fixture(autouse=True)
    def at_most(self, db: None, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("10")
        factories.budget("50", scope_type="platform", window="month")

    def test_holds_together_stay_within_a_days_worth(self, agent: Api, other: Api) -> None:
        assert [hold(agent, "4").status_code for _ in range(4)] == [201, 201, 402, 402]
        refused = hold(agent, "4").json()["error"]
        assert (refused["code"], refused["param"]) == ("hold_beyond_bound", "estimated_cost")
        assert "at most $10.00 in 24 hours by itself, and $2.00 of that is left" in refused["message"]
        assert hold(agent, "2").status_code == 201
        assert hold(other, "0.01").status_code == 201
        assert BudgetWindow.objects.get(budget__scope_type="platform").reserved_nanos == nanos("10.01")

    def test_a_refused_one_opens_nothing_for_a_new_name(self, agent: Api) -> None:
        RateLimit.objects.create(tenant=factories.tenant(), scope_type="user", scope_key="*", requests_per_minute=9)
        factories.budget("50", tenant=None, scope_type="user", scope_key="*")
        assert hold(agent, "11", user="new").json()["error"]["code"] == "hold_beyond_bound"
        windows = BudgetWindow.objects.filter(budget__scope_type="user")
        assert (windows.count(), RateBucket.objects.count()) == (0, 0)
        assert hold(agent, "1", user="new").status_code == 201
        assert (windows.count(), RateBucket.objects.count()) == (1, 1)

    def test_nor_does_a_hold_grow_beyond_it(self, agent: Api) -> None:
        held = hold(agent, "6")
        refused = act(agent, held, "extend", more="4.01")
        assert (refused.status_code, refused.json()["error"]["param"]) == (402, "more")
        assert act(agent, held, "extend", more="4").json()["amount"] == "10.00"

    @pytest.mark.parametrize("end", ["settle", "expire"])
    def test_what_was_charged_for_one_counts_for_a_day(self, agent: Api, at_noon: Any, end: str) -> None:
        held = hold(agent, "8", ttl_s=60)
        if end == "settle":
            assert act(agent, held, "settle", cost="8").status_code == 200
        else:
            ledger.expire_due(now=NOON + timedelta(minutes=2))
        at_noon.shift(timedelta(hours=1))
        assert [hold(agent, cost).status_code for cost in ("2.01", "2")] == [402, 201]
        at_noon.shift(timedelta(hours=24))
        assert hold(agent, "8").status_code == 201

    def test_what_was_released_leaves_its_room(self, agent: Api) -> None:
        assert act(agent, hold(agent, "10"), "release").status_code == 200
        assert hold(agent, "10").status_code == 201

    def test_reports_and_holds_share_it(self, agent: Api) -> None:
        hold(agent, "8")
        assert agent.post("/api/spend", {"request_id": "r1", "cost": "2", "model": "m"}).status_code == 201
        assert hold(agent, "0.01").status_code == 402
        assert agent.post("/api/spend", {"request_id": "r2", "cost": "0.01", "model": "m"}).status_code == 409

    def test_a_budget_for_each_user_bounds_nothing(self, agent: Api) -> None:
        factories.budget("10", scope_type="user", scope_key="*")
        assert [hold(agent, "6", user=f"u{n}").status_code for n in range(3)] == [201, 402, 402]

    def test_a_budget_of_its_own_bounds_it_in_place_of_that(self, agent: Api) -> None:
        factories.budget("30")
        assert [hold(agent, "12").status_code for _ in range(3)] == [201, 201, 429]

    def test_operators_hold_what_they_say(self, operator: Api, agent: Api) -> None:
        assert hold(operator, "40", tenant="acme").status_code == 201


def test_no_hold_is_kept_alive_for_longer_than_a_day(agent: Api, at_noon: Any) -> None:
    factories.budget("10", window="month")
    held = hold(agent, "1", ttl_s=86_400)
    at_noon.shift(timedelta(hours=23))
    refused = act(agent, held, "extend", ttl_s=86_400)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reserve_anew")
    assert act(agent, held, "extend", more="1", ttl_s=86_400).json()["expires_at"] == "2026-03-11T12:00:00Z"
    assert Reservation.objects.get().expires_at == NOON + timedelta(days=1)


def test_an_extension_that_may_have_been_made_is_not_made_twice(agent: Api) -> None:
    factories.budget("10")
    held = hold(agent, "1")
    path, headers = f"/api/reservations/{held.json()['id']}/extend", {"idempotency-key": "k1"}

    def extend() -> Any:
        return agent.client.post(path, {"more": "2"}, content_type="application/json", headers=headers)

    assert extend().json()["amount"] == "3.00"
    # The run died after the ledger's commit, before its answer was kept.
    KeptAnswer.objects.update(status="running", response_status=None, alive_until=NOON - idempotency.ALIVE_FOR)
    again = extend()
    assert (again.status_code, again.json()["error"]["param"]) == (409, "more")
    assert Reservation.objects.get().amount_nanos == nanos("3")


def test_a_request_id_of_another_agent_swallows_no_report(agent: Api) -> None:
    factories.budget("10")
    another = Api(factories.key(agent_slug="churn")[0])
    said = {"request_id": "call-1", "model": "m", "cost": "0"}
    assert another.post("/api/spend", said).status_code == 201
    refused = agent.post("/api/spend", said | {"cost": "3"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "request_id_reused")
    assert refused.json()["error"]["param"] == "request_id"
    assert another.post("/api/spend", said).json()["duplicate"] is True


def test_a_late_settlement_does_not_lower_what_an_operator_confirmed(agent: Api) -> None:
    factories.budget("10")
    held = hold(agent, "5", ttl_s=60)
    ledger.expire_due(now=NOON + timedelta(minutes=2))
    corrections.confirm(entry=SpendEntry.objects.get(), reason="seen on the invoice", by=OPS, now=NOON)
    refused = act(agent, held, "settle", cost="0")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reservation_resolved")
    assert BudgetWindow.objects.get().settled_nanos == nanos("5")
