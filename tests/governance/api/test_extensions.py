"""More for a call that is held already is asked for as a call is: whoever may not call gets none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Sum
from django.utils import timezone

from governance import ledger
from governance.actions import refusal_log, stops
from governance.actions.refusal_log import RefusalLog
from governance.audit import Actor
from governance.ledger.operations import Extend
from governance.models import (
    ApiKey,
    AuditEntry,
    Budget,
    BudgetWindow,
    EmergencyStop,
    PendingReport,
    RateLimit,
    Reservation,
    SpendEntry,
    Tenant,
)
from governance.rules.names import EACH
from governance.rules.scopes import PLATFORM, SCOPES
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import nanos
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced", "nothing_drifts")

BY = Actor("ada")


@pytest.fixture
def nothing_drifts(db: None) -> Any:
    yield
    assert reconcile.check() == []


def stop(*, agent: bool = False, tenant: bool = False) -> EmergencyStop:
    return stops.stop(
        tenant=make.tenant() if agent or tenant else None,
        agent=make.agent() if agent else None,
        reason="runaway",
        by=BY,
        now=timezone.now(),
    )


def revoke_the_holder() -> None:
    """The key that made the hold; another of the tenant asks for more."""
    ApiKey.objects.filter(agent__isnull=False).update(revoked_at=timezone.now())


BLOCKS: dict[str, tuple[Callable[[], Any], int, str]] = {
    "a stop of everything": (stop, 403, "emergency_stop"),
    "a stop of its tenant": (lambda: stop(tenant=True), 403, "emergency_stop"),
    "a stop of its agent": (lambda: stop(agent=True), 403, "emergency_stop"),
    "a tenant on pause": (lambda: Tenant.objects.update(status="paused"), 403, "paused"),
    "an agent on pause": (lambda: make.tenant().agents.update(status="paused"), 403, "paused"),
    "no subscription": (lambda: Tenant.objects.update(status="suspended"), 402, "subscription_inactive"),
    "a revoked key": (revoke_the_holder, 409, "reserve_anew"),
}


@pytest.fixture
def held(agent: Api) -> Any:
    make.budget("10")
    return agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]


@pytest.mark.parametrize("block", BLOCKS)
class TestBlocked:
    @pytest.mark.parametrize("body", [{"more": "5"}, {"more": "0.000000001", "ttl_s": 60}, {"ttl_s": 3600}])
    def test_neither_money_nor_time_is_given(
        self, operator: Api, tenant: Api, held: str, block: str, body: dict[str, Any]
    ) -> None:
        before = Reservation.objects.values().get()
        act, status, code = BLOCKS[block]
        act()
        for api in (operator, tenant):
            refused = api.post(f"/api/reservations/{held}/extend", body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), block
        assert Reservation.objects.values().get() == before
        assert BudgetWindow.objects.get().reserved_nanos == nanos("0.10")

    def test_what_was_held_is_settled_or_released_all_the_same(self, operator: Api, held: str, block: str) -> None:
        BLOCKS[block][0]()
        assert operator.post(f"/api/reservations/{held}/settle", {"cost": "0.04"}).status_code == 200
        assert BudgetWindow.objects.get().settled_nanos == nanos("0.04")

    def test_a_running_call_of_the_gateways_keeps_its_hold_alive_and_gets_no_more(self, block: str) -> None:
        make.budget("10")
        _, key = make.key()
        op = make.reserving("0.10", by=make.caller(agent="invoices", key_id=key.pk))
        other = make.reserving("0.10", by=make.caller(make.tenant("globex")))
        now = timezone.now()
        for each in (op, other):
            assert ledger.reserve(each, now=now).allowed
        BLOCKS[block][0]()
        now = timezone.now()
        alive, refused, stranger = ledger.apply(
            [
                Extend(op.reservation_id, ttl_s=5000),
                Extend(op.reservation_id, more_nanos=1),
                Extend(other.reservation_id, more_nanos=1),
            ],
            now=now,
        )
        assert alive is None
        assert isinstance(refused, ledger.ExtendRefused)
        everybodys = block == "a stop of everything" or block.startswith(("a tenant", "no sub"))
        assert (stranger is None) is not everybodys
        row = Reservation.objects.get(pk=op.reservation_id)
        assert (row.amount_nanos, int((row.expires_at - now).total_seconds())) == (nanos("0.10"), 5000)

    def test_so_it_is_in_a_batch_with_calls_that_begin(self, block: str) -> None:
        make.budget("10")
        _, key = make.key()
        op = make.reserving("0.10", by=make.caller(agent="invoices", key_id=key.pk))
        now = timezone.now()
        assert ledger.reserve(op, now=now).allowed
        globex = make.caller(make.tenant("globex"))
        BLOCKS[block][0]()
        _, refused = ledger.apply(
            [make.reserving("0.01", by=globex), Extend(op.reservation_id, more_nanos=1)], now=timezone.now()
        )
        assert isinstance(refused, ledger.ExtendRefused)


def test_without_a_block_both_are_given(agent: Api, held: str) -> None:
    assert agent.post(f"/api/reservations/{held}/extend", {"more": "5", "ttl_s": 3600}).json()["amount"] == "5.10"
    assert agent.post(f"/api/reservations/{held}/extend", {"ttl_s": 3600}).status_code == 200


def test_what_is_lifted_is_given_again(agent: Api, held: str) -> None:
    active = stop(tenant=True)
    assert agent.post(f"/api/reservations/{held}/extend", {"more": "1"}).status_code == 403
    stops.lift(stop=active, by=BY, now=timezone.now())
    assert agent.post(f"/api/reservations/{held}/extend", {"more": "1"}).status_code == 200


# All that a call can be named by, and each form of a rule: for one, for each of a tenant, for each of every tenant. Of
# its tenant the hold is in a budget already, which goes before one for each.
HELD_FOR = {"model": "large", "estimated_cost": "0.10", "user": "ann", "session": "s1", "task": "t1"}
LATER = [
    (scope, form)
    for scope in SCOPES
    for form in ("one", "each", "each of all")
    if form == "one" or scope not in ("tenant", PLATFORM)
]


def of_scope(scope: str, form: str, agent: Api) -> dict[str, Any]:
    """The fields of a rule that governs the hold made for `HELD_FOR` with the agent's key."""
    assert agent.key is not None
    names = HELD_FOR | {"tenant": "acme", "agent": "invoices", "key": agent.key.scope_key, PLATFORM: ""}
    owner = None if form == "each of all" or scope == PLATFORM else make.tenant()
    return {"tenant": owner, "scope_type": scope, "scope_key": names[scope] if form == "one" else EACH}


class TestABudgetThatCameAfterTheHold:
    """Its windows do not have the hold, so that more of it would be in none of them."""

    @pytest.fixture(params=LATER, ids=" ".join, autouse=True)
    def later(self, held: str, agent: Api, request: pytest.FixtureRequest) -> None:
        Budget.objects.create(window="month", limit_nanos=nanos("1"), **of_scope(*request.param, agent))

    @pytest.fixture
    def held(self, agent: Api) -> Any:
        make.budget("10")
        return agent.post("/api/reservations", HELD_FOR).json()["id"]

    def test_gets_no_more(self, agent: Api, held: str) -> None:
        refused = agent.post(f"/api/reservations/{held}/extend", {"more": "0.5"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reserve_anew")
        assert agent.post(f"/api/reservations/{held}/extend", {"ttl_s": 3600}).status_code == 200

    def test_what_it_cost_beyond_waits_for_an_operator(self, agent: Api, held: str) -> None:
        assert agent.post(f"/api/reservations/{held}/settle", {"cost": "0.6"}).status_code == 409
        assert list(SpendEntry.objects.values_list("cost_nanos", flat=True)) == [nanos("0.10")]
        waiting = PendingReport.objects.get()
        assert (waiting.cost_nanos, waiting.charged_nanos) == (nanos("0.6"), nanos("0.10"))

    def test_what_it_cost_within_is_charged(self, agent: Api, held: str) -> None:
        assert agent.post(f"/api/reservations/{held}/settle", {"cost": "0.1"}).status_code == 200

    def test_late_the_rest_waits_too(self, agent: Api, held: str) -> None:
        ledger.expire_due(now=timezone.now() + timedelta(hours=1))
        assert agent.post(f"/api/reservations/{held}/settle", {"cost": "0.05"}).status_code == 200
        assert SpendEntry.objects.aggregate(sum=Sum("cost_nanos"))["sum"] == nanos("0.05")


@pytest.mark.parametrize("scope", LATER, ids=" ".join)
def test_a_rate_limit_that_came_after_the_hold_lets_it_have_no_more(agent: Api, scope: tuple[str, str]) -> None:
    make.budget("10")
    held = agent.post("/api/reservations", HELD_FOR).json()["id"]
    RateLimit.objects.create(nanos_per_minute=nanos("0.01"), **of_scope(*scope, agent))
    assert agent.post(f"/api/reservations/{held}/extend", {"more": "0.5"}).status_code == 409
    assert agent.post(f"/api/reservations/{held}/extend", {"ttl_s": 3600}).status_code == 200


class TestARotatedKey:
    """The holder is the agent, or the tenant, not the key that it had."""

    @pytest.fixture(params=["agent", "tenant"])
    def holder(self, request: pytest.FixtureRequest) -> Api:
        make.budget("10")
        api: Api = request.getfixturevalue(request.param)
        return api

    @pytest.mark.parametrize(
        ("what", "body"),
        [("extend", {"more": "1"}), ("extend", {"ttl_s": 3600}), ("settle", {"cost": "0.04"}), ("release", {})],
    )
    def test_its_successor_goes_on_with_what_it_held(
        self, holder: Api, operator: Api, what: str, body: dict[str, Any]
    ) -> None:
        id = holder.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
        fresh = Api(operator.post(f"/api/keys/{holder.key.pk}/rotate", {"grace_s": 0}).json()["key"])
        assert holder.post(f"/api/reservations/{id}/{what}", body).status_code == 401
        assert fresh.post(f"/api/reservations/{id}/{what}", body).status_code == 200

    def test_a_stop_holds_for_the_successor_too(self, agent: Api, operator: Api) -> None:
        make.budget("10")
        id = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
        fresh = Api(operator.post(f"/api/keys/{agent.key.pk}/rotate", {"grace_s": 0}).json()["key"])
        stop(agent=True)
        assert fresh.post(f"/api/reservations/{id}/extend", {"more": "1"}).status_code == 403


class TestRefusedAsACall:
    """What refuses a call of so much at that moment refuses the extension, in the same words, headers and figures."""

    @pytest.fixture
    def log(self, monkeypatch: pytest.MonkeyPatch) -> RefusalLog:
        own = RefusalLog()
        monkeypatch.setattr(refusal_log, "log", own)
        return own

    def held(self, api: Api, cost: str = "1") -> str:
        return str(api.post("/api/reservations", {"model": "large", "estimated_cost": cost}).json()["id"])

    def told(self, api: Api, log: RefusalLog, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What is answered, and the row of it."""
        answer = api.post(path, body)
        error = answer.json()["error"]
        log.flush()
        row = api.get(f"/api/refusals/{answer['x-request-id']}").json()
        assert (row["status"], row["reason"]) == (answer.status_code, error["decision"]["reason"])
        return {
            "status": answer.status_code,
            "code": error["code"],
            "said": error["message"].partition("; it resets")[0].rstrip("."),
            "headers": {name: answer[name] for name in ("retry-after", "x-should-retry") if name in answer},
            **{name: row[name] for name in ("reason", "message", "agent", "model", "scope", "window", "cost")},
            "budgets": [(one["spent"], one["reserved"], one["missing"]) for one in row["budgets"]],
        }

    def extended(self, api: Api, log: RefusalLog, id: str, more: str) -> dict[str, Any]:
        return self.told(api, log, f"/api/reservations/{id}/extend", {"more": more})

    def called(self, api: Api, log: RefusalLog, cost: str) -> dict[str, Any]:
        return self.told(api, log, "/api/reservations", {"model": "large", "estimated_cost": cost})

    def test_where_others_calls_hold_the_rest(self, agent: Api, log: RefusalLog) -> None:
        make.budget("10")
        id = self.held(agent)
        self.held(agent, "8")
        extended = self.extended(agent, log, id, "5")
        assert (extended["status"], extended["reason"], extended["model"]) == (429, "budget_in_flight", "large")
        assert extended["headers"] == {"retry-after": "3"}
        # As a call of the hold's new size, were it not there yet; what it wanted is what it has not.
        assert agent.post(f"/api/reservations/{id}/release").status_code == 200
        assert extended == self.called(agent, log, "6") | {"cost": "5.00"}

    def test_where_the_money_is_spent(self, agent: Api, log: RefusalLog) -> None:
        make.budget("10")
        id = self.held(agent)
        report = {"provider": "mistral", "model": "large", "cost": "8", "request_id": "r"}
        assert agent.post("/api/spend", report).status_code == 201
        extended = self.extended(agent, log, id, "2")
        assert (extended["status"], extended["headers"]) == (402, {"x-should-retry": "false"})
        assert extended["said"].endswith("$8.00 of $10.00 spent")
        assert (extended["cost"], extended["budgets"]) == ("2.00", [("8.00", "0.00", "1.00")])
        assert agent.post(f"/api/reservations/{id}/release").status_code == 200
        assert extended == self.called(agent, log, "3") | {"cost": "2.00"}

    def test_no_later_period_has_anything_for_it(self, agent: Api, log: RefusalLog) -> None:
        make.budget("10")
        id = self.held(agent)
        answer = agent.post(f"/api/reservations/{id}/extend", {"more": "10"})
        log.flush()
        assert agent.get(f"/api/refusals/{answer['x-request-id']}").json()["would_pass"] == "$1.00 more"

    def test_where_a_rate_limit_is_full(self, agent: Api, log: RefusalLog) -> None:
        make.budget("100")
        RateLimit.objects.create(
            tenant=make.tenant(), scope_type="agent", scope_key="invoices", nanos_per_minute=nanos("2")
        )
        id = self.held(agent, "2")
        extended = self.extended(agent, log, id, "2")
        assert (extended["status"], extended["reason"], extended["scope"]) == (
            429,
            "rate_limit_exceeded",
            "agent:invoices",
        )
        called = self.called(agent, log, "2")
        wait_s = int(extended["headers"].pop("retry-after"))
        assert 0 <= wait_s - int(called["headers"].pop("retry-after")) <= 5
        same = ("status", "code", "headers", "reason", "agent", "model", "scope", "window", "budgets")
        assert [extended[name] for name in same] == [called[name] for name in same]

    @pytest.mark.parametrize("block", [name for name, (_, status, _) in BLOCKS.items() if status != 409])
    @pytest.mark.parametrize("body", [{"more": "1"}, {"ttl_s": 60}])
    def test_whom_nothing_is_held_for(self, agent: Api, log: RefusalLog, block: str, body: dict[str, Any]) -> None:
        make.budget("10")
        id = self.held(agent)
        BLOCKS[block][0]()
        rows = []
        for path, asked in (
            (f"/api/reservations/{id}/extend", body),
            ("/api/reservations", {"model": "large", "estimated_cost": "1"}),
        ):
            answer = agent.post(path, asked)
            log.flush()
            row = agent.get(f"/api/refusals/{answer['x-request-id']}").json()
            rows.append({name: row[name] for name in ("reason", "status", "model", "message", "would_pass", "agent")})
        assert rows[0] == rows[1]
        assert rows[0]["would_pass"]

    def test_a_malformed_one_is_a_row_of_the_hold_too(self, agent: Api, log: RefusalLog) -> None:
        make.budget("10")
        id = self.held(agent)
        answer = agent.post(f"/api/reservations/{id}/extend", {"more": "x"})
        log.flush()
        row = agent.get(f"/api/refusals/{answer['x-request-id']}").json()
        assert (row["status"], row["model"], row["agent"]) == (400, "large", "invoices")

    def test_an_operator_is_told_as_much_and_no_row_of_an_act_is_written(self, operator: Api, agent: Api) -> None:
        make.budget("10")
        id = self.held(agent)
        refused = operator.post(f"/api/reservations/{id}/extend", {"more": "10"})
        assert (refused.status_code, refused.json()["error"]["decision"]["reason"]) == (402, "budget_exhausted")
        assert not AuditEntry.objects.filter(action="reservation.extend").exists()
