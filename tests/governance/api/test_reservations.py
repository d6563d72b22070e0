"""The two-phase protocol: reserve, settle, extend, release, for agents that call a provider themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from governance import idempotency, ledger
from governance.actions import rate_limits, stops, tenancy
from governance.audit import Actor
from governance.ledger import batch
from governance.models import BudgetWindow, KeptAnswer, RateLimit, Reservation, SpendEntry
from governance.upkeep import reconcile
from tests import factories
from tests.factories import nanos
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced", "nothing_drifts")

ASK: dict[str, Any] = {"model": "large", "estimated_cost": "0.10"}
BY = Actor("test")


@pytest.fixture
def nothing_drifts(db: None) -> Any:
    yield
    assert reconcile.check() == []


def reserve(api: Api, **change: Any) -> dict[str, Any]:
    response = api.post("/api/reservations", ASK | change)
    assert response.status_code == 201, response.content
    return dict(response.json())


def act(api: Api, held: dict[str, Any], what: str, **body: Any) -> Any:
    return api.post(f"/api/reservations/{held['id']}/{what}", body)


def keyed(api: Api, path: str, key: str, body: dict[str, Any]) -> Any:
    return api.client.post(path, body, content_type="application/json", headers={"idempotency-key": key})


def expire(held: dict[str, Any]) -> None:
    ledger.expire_due(now=timezone.now() + timedelta(days=2))
    assert Reservation.objects.get(pk=held["id"]).status == "expired"


def window() -> tuple[int, int]:
    row = BudgetWindow.objects.get()
    return row.settled_nanos, row.reserved_nanos


@pytest.mark.parametrize("hours", [1, 24 * 300])
def test_a_call_did_not_happen_before_it_was_reserved(agent: Api, hours: int) -> None:
    """Its line would lie in an hour that was summed up, and billed, long ago."""
    factories.budget("1")
    held = reserve(agent)
    before = (timezone.now() - timedelta(hours=hours)).isoformat()
    refused = act(agent, held, "settle", cost="0.04", occurred_at=before)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "occurred_at")
    assert "before the call was reserved" in refused.json()["error"]["message"]
    # A clock that is slow by a little is no lie.
    slow = (timezone.now() - timedelta(minutes=2)).isoformat()
    assert act(agent, held, "settle", cost="0.04", occurred_at=slow).status_code == 200


def test_a_call_is_held_at_its_worst_and_settled_at_what_it_cost(agent: Api) -> None:
    factories.budget("1")
    held = reserve(agent, user="u1", session="s1", task="t1", provider="acme-ai", ttl_s=60)
    assert (held["status"], held["amount"], held["model"], held["action"]) == ("pending", "0.10", "large", "allow")
    assert held["budgets"][0]["scope"] == "tenant:acme"
    life = parse_datetime(held["expires_at"]) - parse_datetime(held["reserved_at"])  # type: ignore[operator]
    assert life == timedelta(seconds=60)
    assert window() == (0, nanos("0.10"))
    settled = act(agent, held, "settle", cost="0.04", model="large-2", provider="other").json()
    assert {k: settled[k] for k in ("status", "cost", "overage", "late")} == {
        "status": "settled",
        "cost": "0.04",
        "overage": "0.00",
        "late": False,
    }
    assert window() == (nanos("0.04"), 0)
    entry = SpendEntry.objects.get(pk=settled["entry"])
    assert (entry.agent, entry.user, entry.session, entry.task) == ("invoices", "u1", "s1", "t1")
    assert (entry.model_requested, entry.model_served, entry.provider) == ("large", "large-2", "other")
    shown = agent.get(f"/api/reservations/{held['id']}").json()
    assert (shown["status"], shown["cost"], shown["amount"], shown["provider"]) == (
        "settled",
        "0.04",
        "0.10",
        "acme-ai",
    )


@pytest.mark.parametrize("nested", [False, True])
def test_token_counts_are_held_at_most_and_priced_when_they_are_known(agent: Api, nested: bool) -> None:
    factories.budget("1")
    held = agent.post("/api/reservations", {"model": "large", "input_tokens": 10_000, "max_tokens": 5_000}).json()
    assert (held["amount"], held["max_tokens"]) == ("0.02", 5_000)
    used = {"input_tokens": 9_000, "output_tokens": 100}
    settled = act(agent, held, "settle", **({"usage": used} if nested else used)).json()
    assert settled["cost"] == "0.0092"
    entry = SpendEntry.objects.get()
    assert (entry.input_tokens, entry.output_tokens, entry.price_rule) == (9_000, 100, "test:1")


def test_near_the_soft_cap_the_cheaper_model_is_the_one_to_call(agent: Api) -> None:
    factories.budget("1", downgrade_rules=[{"from": ["large"], "to": "small"}])
    ledger.record(factories.reporting("0.75"), now=timezone.now())
    held = reserve(agent)
    assert (held["model"], held["model_requested"], held["action"]) == ("small", "large", "degrade")
    refused = agent.post("/api/reservations", ASK | {"allow_downgrade": False})
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exhausted")
    act(agent, held, "release")


def refusal(response: Any) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["decision"]["reason"]


def test_a_refusal_has_the_data_planes_status_and_the_decision_in_it(agent: Api) -> None:
    factories.budget("0.15", soft_cap=None)
    held = reserve(agent)
    in_flight = agent.post("/api/reservations", ASK)
    assert refusal(in_flight) == (429, "budget_in_flight", "budget_in_flight")
    # Half of what is held is missing, and all of it is expected back within five seconds.
    assert in_flight["Retry-After"] == "3"
    act(agent, held, "settle", cost="0.10")
    used_up = agent.post("/api/reservations", ASK)
    assert refusal(used_up) == (402, "budget_exhausted", "budget_exhausted")
    assert used_up["x-should-retry"] == "false"
    assert "Retry-After" not in used_up
    decision = used_up.json()["error"]["decision"]
    assert (decision["allowed"], decision["scope"], decision["remaining"]) == (False, "tenant:acme", "0.05")
    assert "tenant:acme per day, $0.10 of $0.15 spent" in used_up.json()["error"]["message"]


def test_windows_that_never_hold_still_are_worth_another_try(
    agent: Api, operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.budget("1")
    monkeypatch.setattr(batch, "LOOKS", 0)
    monkeypatch.setattr(batch, "CALM_LOOKS", 0)
    reports = {"tenant": "acme", "model": "large", "cost": "0.10", "request_id": "r1"}
    for answer in (agent.post("/api/reservations", ASK), operator.post("/api/spend", reports)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable"), answer.content
        assert answer["Retry-After"] == "1"


def test_whom_a_lock_holds_up_is_told_so(agent: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "apply", lambda ops, **_: [ledger.HeldUp("acme") for _ in ops])
    answer = agent.post("/api/reservations", ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert answer.json()["error"]["message"] == "The ledger is locked for acme; nothing was done. Try again."


def test_the_status_of_an_exhausted_budget_is_the_one_that_is_set(agent: Api, settings: Any) -> None:
    settings.OVER_BUDGET_STATUS = 429
    factories.budget("0.05")
    assert refusal(agent.post("/api/reservations", ASK))[:2] == (429, "budget_exhausted")


def test_unpriced_models_and_forced_tools_are_the_requests_own_fault(agent: Api) -> None:
    factories.budget("0.11", disabled_tools=["search"])
    unpriced = agent.post("/api/reservations", {"model": "mystery", "input_tokens": 1, "max_tokens": 1})
    assert refusal(unpriced) == (400, "model_not_priced", "model_not_priced")
    assert unpriced.json()["error"]["param"] == "model"
    forced = agent.post("/api/reservations", ASK | {"tools": ["search"], "forced_tool": "search"})
    assert refusal(forced)[:2] == (400, "tool_disabled")


def test_who_is_paused_stopped_suspended_or_too_fast_is_told_so(agent: Api) -> None:
    now, acme, invoices = timezone.now(), factories.tenant(), factories.agent()
    tenancy.pause_agent(agent=invoices, reason="x", by=BY, now=now)
    assert refusal(agent.post("/api/reservations", ASK)) == (403, "paused", "agent_paused")
    tenancy.resume_agent(agent=invoices, reason="x", by=BY, now=now)
    stop = stops.stop(tenant=acme, reason="x", by=BY, now=now)
    assert refusal(agent.post("/api/reservations", ASK))[:2] == (403, "emergency_stop")
    stops.lift(stop=stop, by=BY, now=now)
    type(acme).objects.update(status="suspended")
    assert refusal(agent.post("/api/reservations", ASK))[:2] == (402, "subscription_inactive")
    type(acme).objects.update(status="active")
    rate_limits.create(scope_type="tenant", tenant=acme, requests_per_minute=1, by=BY, now=now)
    reserve(agent)
    too_fast = agent.post("/api/reservations", ASK)
    assert refusal(too_fast)[:2] == (429, "rate_limit_exceeded")
    assert 1 <= int(too_fast["Retry-After"]) <= 60


def test_a_hold_is_extended_in_money_and_time(agent: Api, settings: Any) -> None:
    factories.budget("1")
    held = reserve(agent, ttl_s=60)
    longer = act(agent, held, "extend", ttl_s=600).json()
    assert (longer["amount"], longer["expires_at"] > held["expires_at"]) == ("0.10", True)
    assert act(agent, held, "extend", more="0.5").json()["amount"] == "0.60"
    assert window() == (0, nanos("0.60"))
    refused = act(agent, held, "extend", more="0.41")
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exhausted")
    assert refused["x-should-retry"] == "false"
    assert window() == (0, nanos("0.60"))
    settings.OVER_BUDGET_STATUS = 429
    refused = act(agent, held, "extend", more="0.41")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exhausted")
    assert (refused["x-should-retry"], "Retry-After" in refused) == ("false", False)
    act(agent, held, "release")
    assert act(agent, held, "extend", more="0.01").status_code == 409


def test_a_hold_that_grows_too_fast_is_told_when_to_come_back(agent: Api) -> None:
    held = reserve(agent)
    acme, now = factories.tenant(), timezone.now()
    rate_limits.create(scope_type="tenant", tenant=acme, nanos_per_minute=nanos("0.15"), by=BY, now=now)
    second = reserve(agent)
    refused = act(agent, second, "extend", more="0.10")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused["Retry-After"]) <= 60
    # The limit does not have what was held before there was one.
    anew = act(agent, held, "extend", more="0.10")
    assert (anew.status_code, anew.json()["error"]["code"]) == (409, "reserve_anew")


def test_a_released_hold_is_given_back_whole_and_charges_nothing(agent: Api) -> None:
    factories.budget("1")
    held = reserve(agent)
    assert act(agent, held, "release").json()["status"] == "released"
    assert (window(), SpendEntry.objects.count()) == ((0, 0), 0)


def test_it_is_resolved_once_and_the_second_is_told_how(agent: Api) -> None:
    factories.budget("1")
    settled, released = reserve(agent), reserve(agent)
    act(agent, settled, "settle", cost="0.01")
    act(agent, released, "release")
    for held, status in ((settled, "settled"), (released, "released")):
        for what, body in (("settle", {"cost": "0.01"}), ("release", {}), ("extend", {"more": "0.01"})):
            again = act(agent, held, what, **body)
            assert (again.status_code, again.json()["error"]["code"]) == (409, "reservation_resolved")
            assert status in again.json()["error"]["message"]
    assert window() == (nanos("0.01"), 0)


def test_a_late_settlement_posts_the_difference_once(agent: Api) -> None:
    factories.budget("1")
    held = reserve(agent, ttl_s=1)
    expire(held)
    assert window() == (nanos("0.10"), 0)
    late = act(agent, held, "settle", cost="0.03")
    assert late.status_code == 200
    assert {k: late.json()[k] for k in ("late", "cost", "status")} == {
        "late": True,
        "cost": "0.03",
        "status": "expired",
    }
    assert window() == (nanos("0.03"), 0)
    assert act(agent, held, "settle", cost="0.03").status_code == 409
    assert agent.get(f"/api/reservations/{held['id']}").json()["cost"] == "0.03"


def test_what_is_released_late_costs_nothing_once(agent: Api) -> None:
    factories.budget("1")
    held = reserve(agent, ttl_s=1)
    expire(held)
    late = act(agent, held, "release").json()
    assert (late["status"], late["cost"], window()) == ("expired", "0.00", (0, 0))
    assert act(agent, held, "release").status_code == 409


def test_what_costs_more_than_was_held_is_posted_in_full(agent: Api) -> None:
    factories.budget("1")
    settled = act(agent, reserve(agent), "settle", cost="0.25").json()
    assert (settled["cost"], settled["overage"], window()) == ("0.25", "0.15", (nanos("0.25"), 0))


def test_strangers_see_nothing_and_colleagues_only_their_own(
    agent: Api, tenant: Api, stranger: Api, operator: Api, viewer: Api
) -> None:
    held = reserve(agent)
    colleague = Api(*factories.key(role="agent", agent_slug="support"))
    for api in (stranger, colleague):
        assert api.get(f"/api/reservations/{held['id']}").status_code == 404
        for what, body in (("settle", {"cost": "1"}), ("extend", {"more": "1"}), ("release", {})):
            assert act(api, held, what, **body).status_code == 404
    for api in (agent, tenant, operator, viewer):
        assert api.get(f"/api/reservations/{held['id']}").json()["status"] == "pending"
    assert agent.get(f"/api/reservations/{uuid4()}").status_code == 404
    assert agent.get("/api/reservations/nonsense").status_code == 404
    assert act(tenant, held, "release").status_code == 200


def test_the_hold_of_a_gateways_call_cannot_be_resolved_from_outside(agent: Api) -> None:
    factories.budget("1")
    operation = factories.reserving(by=factories.caller(agent="invoices"))
    ledger.reserve(operation, now=timezone.now())
    held = {"id": str(operation.reservation_id)}
    assert agent.get(f"/api/reservations/{held['id']}").json()["status"] == "pending"
    for what, body in (("settle", {"cost": "0"}), ("extend", {"more": "1"}), ("release", {})):
        refused = act(agent, held, what, **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "held_by_gateway")
    assert window() == (0, nanos("0.10"))


def test_an_operator_reserves_for_a_named_tenant(operator: Api) -> None:
    factories.tenant()
    assert operator.post("/api/reservations", ASK).json()["error"]["param"] == "tenant"
    held = reserve(operator, tenant="acme", agent="invoices")
    assert (Reservation.objects.get().tenant.slug, Reservation.objects.get().agent) == ("acme", "invoices")
    assert act(operator, held, "settle", cost="0.01").status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": 86_401}, "ttl_s"),
        ({"ttl_s": "soon"}, "ttl_s"),
        ({"model": 5}, "model"),
        ({"estimated_cost": "-1"}, "estimated_cost"),
        ({"input_tokens": 1}, "estimated_cost"),
        ({"agent": "support"}, "agent"),
        ({"tenant": "globex"}, "tenant"),
        ({"provider": "x" * 41}, "provider"),
        ({"user": "a\u0000b"}, "user"),
        ({"ttl": 5}, "ttl"),
    ],
)
def test_a_bad_request_is_a_400_that_names_the_field_and_holds_nothing(
    agent: Api, change: dict[str, Any], param: str
) -> None:
    response = agent.post("/api/reservations", ASK | change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.content
    assert not Reservation.objects.exists()


@pytest.mark.parametrize(
    ("what", "body", "param"),
    [
        ("settle", {}, "cost"),
        ("settle", {"cost": "-0.01"}, "cost"),
        ("settle", {"cost": True}, "cost"),
        ("settle", {"input_tokens": -1}, "input_tokens"),
        ("settle", {"input_tokens": 1, "cached_tokens": 2}, "cached_tokens"),
        ("settle", {"usage": {"input_tokens": 1}, "output_tokens": 1}, "usage"),
        ("settle", {"usage": {"prompt": 1}}, "usage.prompt"),
        ("settle", {"input_tokens": 1, "model": "mystery"}, "model"),
        ("settle", {"cost": "0.01", "price": 1}, "price"),
        ("extend", {}, "more"),
        ("extend", {"more": "-1"}, "more"),
        ("extend", {"ttl_s": 86_401}, "ttl_s"),
        ("release", {"why": "x"}, "why"),
    ],
)
def test_a_bad_act_is_a_400_that_names_the_field_and_leaves_the_hold(
    agent: Api, what: str, body: dict[str, Any], param: str
) -> None:
    held = reserve(agent)
    response = act(agent, held, what, **body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.content
    assert Reservation.objects.get().status == "pending"


# Idempotency-Key ----------------------------------------------------------------------------------------------


def test_a_repeated_reservation_is_the_same_one(agent: Api) -> None:
    factories.budget("1")
    first = keyed(agent, "/api/reservations", "k1", ASK)
    again = keyed(agent, "/api/reservations/", "k1", ASK)
    assert (first.status_code, again.status_code, again["x-idempotent-replay"]) == (201, 201, "true")
    assert "x-idempotent-replay" not in first
    assert again.json() == first.json()
    assert window() == (0, nanos("0.10"))
    other = keyed(agent, "/api/reservations", "k1", ASK | {"estimated_cost": "0.2"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert "detail" not in other.json()


@pytest.mark.parametrize(
    "whose",
    [
        {"tenant": " acme"},
        {"tenant": "acme "},
        {"scopes": ["tenant:acme", "agent:bot"]},
        {"scopes": {"tenant": "acme"}},
        {"scopes": [{"scope_type": "tenant", "scope_key": "acme"}], "agent": "BOT"},
    ],
    ids=str,
)
def test_an_operators_repeat_is_one_however_it_names_the_tenant(operator: Api, whose: dict[str, Any]) -> None:
    factories.tenant()
    factories.budget("1")
    first, again = (keyed(operator, "/api/reservations", "k1", ASK | whose) for _ in range(2))
    assert (first.status_code, again.status_code, again.get("x-idempotent-replay")) == (201, 201, "true")
    assert again.json() == first.json()
    assert window() == (0, nanos("0.10"))


@pytest.mark.parametrize("tenant", [" acme", "acme "])
def test_an_operators_report_is_charged_once_however_it_names_the_tenant(operator: Api, tenant: str) -> None:
    factories.tenant()
    factories.budget("1")
    said = {"tenant": tenant, "agent": "bot", "request_id": "r1", "cost": "0.50"}
    first, again = (keyed(operator, "/api/spend", "k1", said) for _ in range(2))
    assert (first.status_code, again.status_code, again.get("x-idempotent-replay")) == (201, 201, "true")
    assert window() == (nanos("0.50"), 0)


def test_a_repeated_settlement_is_no_conflict_under_its_key(agent: Api) -> None:
    factories.budget("1")
    held = reserve(agent)
    path = f"/api/reservations/{held['id']}/settle"
    first, again = (keyed(agent, path, "k1", {"cost": "0.04"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert keyed(agent, path, "k2", {"cost": "0.04"}).status_code == 409
    assert window() == (nanos("0.04"), 0)


def test_a_repeated_extension_holds_more_once(agent: Api) -> None:
    factories.budget("1")
    held = reserve(agent)
    for _ in range(2):
        assert keyed(agent, f"/api/reservations/{held['id']}/extend", "k1", {"more": "0.1"}).status_code == 200
    assert window() == (0, nanos("0.20"))


def test_a_refusal_is_not_kept_so_that_a_retry_may_succeed(agent: Api) -> None:
    factories.budget("0.15", soft_cap=None)
    held = reserve(agent)
    assert keyed(agent, "/api/reservations", "k1", ASK).status_code == 429
    act(agent, held, "release")
    assert keyed(agent, "/api/reservations", "k1", ASK).status_code == 201


def test_a_bad_request_is_answered_alike(agent: Api) -> None:
    first, again = (keyed(agent, "/api/reservations", "k1", {"model": "x"}) for _ in range(2))
    assert (first.status_code, again.status_code, again["x-idempotent-replay"]) == (400, 400, "true")
    assert first.json() == again.json()


def test_a_run_that_died_after_it_held_goes_on_with_the_same_reservation(agent: Api) -> None:
    factories.budget("1")
    first = keyed(agent, "/api/reservations", "k1", ASK).json()
    died("k1")
    again = keyed(agent, "/api/reservations", "k1", ASK)
    assert (again.status_code, again.json()["id"], again.json()["amount"]) == (201, first["id"], "0.10")
    assert window() == (0, nanos("0.10"))


FULL: dict[str, Callable[[], Any]] = {
    "a budget": lambda: factories.budget("0.15"),
    "a limit a minute": lambda: RateLimit.objects.create(scope_type="platform", requests_per_minute=1),
    "no budget of its own": lambda: None,
    "a stop": lambda: factories.budget("1"),
}


@pytest.mark.parametrize("full_by", FULL)
def test_a_repeat_is_not_refused_for_what_its_first_run_holds(agent: Api, settings: Any, full_by: str) -> None:
    """Nor for what is so by now: it is looked for before anything is decided."""
    settings.REPORT_REVIEW_ABOVE = Decimal("0.15")
    FULL[full_by]()
    first = keyed(agent, "/api/reservations", "k1", ASK).json()
    died("k1")
    if full_by == "a stop":
        stops.stop(tenant=factories.tenant(), agent=None, reason="runaway", by=BY, now=timezone.now())
    assert keyed(agent, "/api/reservations", "k2", ASK).status_code in (400, 402, 403, 429)
    again = keyed(agent, "/api/reservations", "k1", ASK)
    assert (again.status_code, again.json()["id"], again.json()["amount"]) == (201, first["id"], "0.10")
    assert keyed(agent, "/api/reservations", "k1", ASK).json() == again.json()
    assert Reservation.objects.count() == 1


def test_so_it_is_where_an_operator_asks_for_a_tenant(operator: Api) -> None:
    factories.budget("0.15")
    body = ASK | {"tenant": "acme", "agent": "invoices"}
    first = keyed(operator, "/api/reservations", "k1", body).json()
    died("k1")
    assert keyed(operator, "/api/reservations", "k2", body).status_code in (402, 429)
    assert keyed(operator, "/api/reservations", "k1", body).json()["id"] == first["id"]


@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_died_after_it_settled_is_answered_as_settled(agent: Api, late: bool) -> None:
    factories.budget("1")
    held = reserve(agent)
    if late:
        expire(held)
    path = f"/api/reservations/{held['id']}/settle"
    first = keyed(agent, path, "k1", {"cost": "0.04"}).json()
    died("k1")
    again = keyed(agent, path, "k1", {"cost": "0.04"})
    assert (again.status_code, again.json()) == (200, first)
    assert window() == (nanos("0.04"), 0)


@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_died_after_it_released_is_answered_as_released(agent: Api, late: bool) -> None:
    held = reserve(agent)
    if late:
        expire(held)
    path = f"/api/reservations/{held['id']}/release"
    keyed(agent, path, "k1", {})
    died("k1")
    again = keyed(agent, path, "k1", {})
    assert (again.status_code, again.json()["status"]) == (200, "expired" if late else "released")


def died(key: str) -> None:
    """As if the process had gone before it could keep its answer."""
    gone = timezone.now() - idempotency.ALIVE_FOR
    assert KeptAnswer.objects.filter(key=key).update(status="running", response_status=None, alive_until=gone)


def test_a_report_of_spend_is_replayed_under_its_key(agent: Api) -> None:
    body = {"request_id": "r1", "cost": "0.05"}
    first, again = (keyed(agent, "/api/spend", "k1", body) for _ in range(2))
    assert (first.status_code, again.status_code, again["x-idempotent-replay"]) == (201, 201, "true")
    assert first.json() == again.json()
    assert keyed(agent, "/api/spend", "k2", body).status_code == 200


def test_keys_are_a_tenants_own_and_an_agents_answer_is_its_own(agent: Api, stranger: Api, tenant: Api) -> None:
    first = keyed(agent, "/api/reservations", "k1", ASK).json()
    theirs = keyed(stranger, "/api/reservations", "k1", ASK)
    assert (theirs.status_code, theirs.json()["id"] != first["id"]) == (201, True)
    assert keyed(tenant, "/api/reservations", "k1", ASK).status_code == 422


def test_an_operators_key_is_kept_with_the_tenant_it_names(operator: Api) -> None:
    factories.tenant()
    body = ASK | {"tenant": "acme"}
    first, again = (keyed(operator, "/api/reservations", "k1", body).json() for _ in range(2))
    assert first == again
    assert KeptAnswer.objects.get().tenant.slug == "acme"
    for bad in (ASK, ASK | {"tenant": "nobody"}, ASK | {"tenant": 5}):
        assert keyed(operator, "/api/reservations", "k2", bad).status_code == 400
    malformed = operator.client.post(
        "/api/reservations", b"[", content_type="application/json", headers={"idempotency-key": "k3"}
    )
    assert malformed.status_code == 400


def test_a_key_of_more_than_255_characters_is_a_400(agent: Api) -> None:
    assert keyed(agent, "/api/reservations", "k" * 255, ASK).status_code == 201
    refused = keyed(agent, "/api/reservations", "k" * 256, ASK)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert Reservation.objects.count() == 1


def test_a_first_that_does_not_end_is_a_409_to_come_back_on(agent: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "PATIENCE_S", 0.05)
    keyed(agent, "/api/reservations", "k1", ASK)
    KeptAnswer.objects.update(status="running", response_status=None)
    again = keyed(agent, "/api/reservations", "k1", ASK)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_in_progress")
    assert again["Retry-After"] == "1"


def test_a_body_too_large_to_be_read_at_once_is_a_413(agent: Api, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    assert keyed(agent, "/api/reservations", "k1", ASK).status_code == 413


def test_a_line_that_an_agent_settled_says_so(agent: Api, priced: None) -> None:
    """Its usage is the agent's word, whether or not its cost is: see `governance.rules.judgement`."""
    factories.budget("1.00")
    for settled in ({"cost": "0.05"}, {"input_tokens": 10, "output_tokens": 10}):
        held = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
        assert agent.post(f"/api/reservations/{held}/settle", settled).status_code == 200
    assert [entry.reason for entry in SpendEntry.objects.all()] == ["agent_settled"] * 2


def test_names_of_models_without_a_price_are_bounded(agent: Api, operator: Api, settings: Any) -> None:
    factories.budget("5.00")
    settings.NEW_NAMES_PER_HOUR = 1
    nameless = ASK | {"model": "mystery"}
    assert agent.post("/api/reservations", nameless).status_code == 201
    assert agent.post("/api/reservations", nameless).status_code == 201
    refused = agent.post("/api/reservations", nameless | {"provider": "another"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_names")
    # What has a price is in the catalogue, and operators may say what they like.
    held = reserve(agent)
    assert operator.post("/api/reservations", nameless | {"provider": "another", "tenant": "acme"}).status_code == 201
    assert act(agent, held, "settle", cost="0.10", model="one more").status_code == 200
    assert SpendEntry.objects.get().model_served == "large"
