"""Figures that no ledger holds: each path by which a number comes in refuses them with a 422 that names the bound."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import connection
from django.test import Client

from governance import ports
from governance.models import Budget, BudgetWindow, PendingReport, Reservation, SpendEntry, SpendRollup
from governance.rules import money
from governance.upkeep import reconcile
from tests import factories
from tests.governance.api.conftest import Api, persona

pytestmark = pytest.mark.usefixtures("priced", "nothing_drifts")

TEN_MILLION = "10,000,000 dollars"
A_BILLION = "1,000,000,000 dollars"
A_TRILLION = "1,000,000,000,000"
AMOUNTS = ["9000000000", 9_000_000_000, "1e400", "1e99999999", "10000000.000000001", 2**70]
COUNTS = [10**12 + 1, 2**62, 2**63, 10**30]


@pytest.fixture
def nothing_drifts(db: None) -> Any:
    yield
    assert reconcile.check() == []


def refused(response: Any, param: str, bound: str) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "out_of_bounds", param), error
    assert bound in error["message"]


@pytest.mark.parametrize("amount", AMOUNTS)
class TestAmounts:
    def test_a_report(self, agent: Api, amount: Any) -> None:
        refused(agent.post("/api/spend", {"request_id": "r", "cost": amount}), "cost", TEN_MILLION)
        assert not SpendEntry.objects.exists()

    def test_an_operators_report(self, operator: Api, amount: Any) -> None:
        factories.tenant()
        body = {"request_id": "r", "cost": amount, "tenant": "acme"}
        refused(operator.post("/api/spend", body), "cost", TEN_MILLION)

    def test_a_hold(self, agent: Api, amount: Any) -> None:
        body = {"model": "large", "estimated_cost": amount}
        refused(agent.post("/api/reservations", body), "estimated_cost", TEN_MILLION)
        refused(agent.post("/api/decisions", body), "estimated_cost", TEN_MILLION)

    def test_what_is_done_with_a_hold(self, agent: Api, amount: Any) -> None:
        held = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
        refused(agent.post(f"/api/reservations/{held}/settle", {"cost": amount}), "cost", TEN_MILLION)
        refused(agent.post(f"/api/reservations/{held}/extend", {"more": amount}), "more", TEN_MILLION)
        assert Reservation.objects.get().amount_nanos == factories.nanos("0.10")

    def test_an_operators_word_on_an_estimate(self, operator: Api, agent: Api, amount: Any) -> None:
        agent.post("/api/spend", {"request_id": "r", "cost": "1"})
        entry = SpendEntry.objects.get()
        body = {"cost": amount, "reason": "why"}
        refused(operator.post(f"/api/spend/{entry.pk}/confirm", body), "cost", TEN_MILLION)


@pytest.mark.parametrize("amount", ["1000000000.01", "9000000000", "1e99", 2**70])
class TestLimits:
    def test_a_budget(self, operator: Api, amount: Any) -> None:
        factories.tenant()
        body = {"tenant": "acme", "scope_type": "tenant", "window": "day", "limit": amount}
        refused(operator.post("/api/budgets", body), "limit", A_BILLION)
        budget = factories.budget("1")
        refused(operator.patch(f"/api/budgets/{budget.pk}", {"limit": amount}), "limit", A_BILLION)

    def test_an_allowance(self, operator: Api, agent: Api, amount: Any) -> None:
        budget = factories.budget("1")
        agent.post("/api/spend", {"request_id": "r", "cost": "1"})
        body = {"amount": amount, "reason": "why"}
        refused(operator.post(f"/api/budgets/{budget.pk}/allowances", body), "amount", A_BILLION)

    def test_a_rate_limit(self, operator: Api, amount: Any) -> None:
        factories.tenant()
        body = {"tenant": "acme", "scope_type": "tenant", "dollars_per_minute": amount}
        refused(operator.post("/api/rate-limits", body), "dollars_per_minute", A_BILLION)


@pytest.mark.parametrize("count", COUNTS)
class TestCounts:
    @pytest.mark.parametrize("name", ["input_tokens", "cached_tokens", "output_tokens"])
    def test_a_report_and_a_settlement(self, agent: Api, count: int, name: str) -> None:
        body = {"request_id": "r", "cost": "0", name: count}
        refused(agent.post("/api/spend", body), name, A_TRILLION)
        held = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
        path = f"/api/reservations/{held}/settle"
        refused(agent.post(path, {"cost": "0", name: count}), name, A_TRILLION)
        refused(agent.post(path, {"cost": "0", "usage": {name: count}}), f"usage.{name}", A_TRILLION)

    def test_a_hold(self, agent: Api, count: int) -> None:
        for name in ("input_tokens", "max_tokens"):
            body = {"model": "large", "input_tokens": 1, "max_tokens": 1, name: count}
            refused(agent.post("/api/reservations", body), name, A_TRILLION)

    def test_a_rate_limit(self, operator: Api, count: int) -> None:
        factories.tenant()
        for name in ("requests_per_minute", "tokens_per_minute"):
            body = {"tenant": "acme", "scope_type": "tenant", name: count}
            refused(operator.post("/api/rate-limits", body), name, A_TRILLION)


def test_tokens_that_come_to_too_much(agent: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    dear = replace(ports.wired, price=lambda usage, *, at: (money.MAX_AMOUNT_NANOS + 1, "dear"))
    monkeypatch.setattr(ports, "wired", dear)
    body = {"request_id": "r", "model": "large", "input_tokens": 10**12}
    refused(agent.post("/api/spend", body), "cost", TEN_MILLION)
    held = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
    refused(agent.post(f"/api/reservations/{held}/settle", {"input_tokens": 10**12}), "cost", TEN_MILLION)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "1999-12-31", "2999-01-01T00:00:00Z"])
def test_a_call_of_another_age_is_refused(agent: Api, at: str) -> None:
    refused(agent.post("/api/spend", {"request_id": "r", "cost": "1", "occurred_at": at}), "occurred_at", "")
    held = agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"]
    path = f"/api/reservations/{held}/settle"
    refused(agent.post(path, {"cost": "0.1", "occurred_at": at}), "occurred_at", "")
    assert Reservation.objects.get().status == "pending"


def test_a_call_of_last_year_may_still_be_reported(agent: Api) -> None:
    at = (datetime.now(UTC) - timedelta(days=399)).isoformat()
    assert agent.post("/api/spend", {"request_id": "r", "cost": "1", "occurred_at": at}).status_code == 201


# Whom an operator's report is for; a tenant's own would wait for review.
OF_ACME = {"tenant": "acme", "agent": "invoices"}


class TestSums:
    """As many of the largest reports as anybody likes: sums stay far below 2^63, and others never notice."""

    @pytest.fixture(autouse=True)
    def _lower_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Two reports, in place of four hundred.
        monkeypatch.setattr(money, "MAX_SUM", 2 * money.MAX_AMOUNT_NANOS)

    def test_a_window_takes_no_report_that_would_bring_it_over_its_bound(self, agent: Api, operator: Api) -> None:
        factories.budget("10")
        Budget.objects.create(scope_type="platform", window="day", limit_nanos=factories.nanos("1000000000"))
        for n in range(2):
            body = {"request_id": f"r{n}", "cost": "10000000", **OF_ACME}
            assert operator.post("/api/spend", body).status_code == 201
        for n in range(3):
            body = {"request_id": f"more{n}", "cost": "0.01", **OF_ACME}
            refused(operator.post("/api/spend", body), "cost", "20,000,000 dollars")
        # A repeat of what was counted is no news, whatever the sums are.
        body = {"request_id": "r0", "cost": "10000000", **OF_ACME}
        assert operator.post("/api/spend", body).json()["duplicate"] is True
        assert {row.settled_nanos for row in BudgetWindow.objects.all()} == {money.MAX_SUM}
        assert agent.get("/api/budgets").status_code == 200

    def test_a_settlement_lands_whatever_the_sums_are(self, agent: Api, operator: Api) -> None:
        factories.budget("10")
        held = [
            agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.10"}).json()["id"] for _ in range(4)
        ]
        for id in held:
            done = operator.post(f"/api/reservations/{id}/settle", {"cost": "9000000"})
            assert (done.status_code, done.json()["cost"]) == (200, "9000000.00")
        window = BudgetWindow.objects.get()
        assert (window.settled_nanos, window.reserved_nanos, window.state) == (money.MAX_SUM, 0, "stopped")
        assert agent.post("/api/reservations", {"model": "large", "estimated_cost": "0"}).status_code == 402


class TestEachHour:
    """The sums of an hour, where no budget's window was before them."""

    def full(self, api: Api) -> None:
        # As 400 reports leave it; the constraint is the database's own.
        body = {"request_id": "first", "cost": "10000000", "model": "large", **OF_ACME}
        assert api.post("/api/spend", body).status_code == 201
        with connection.cursor() as cursor:
            cursor.execute("UPDATE governance_spendrollup SET cost_nanos = %s", [money.MAX_SUM - 5])
            cursor.execute(
                "INSERT INTO governance_purgedspend (tenant_id, hour, agent, provider, model, calls, input_tokens,"
                " cached_tokens, output_tokens, cost_nanos) SELECT tenant_id, hour, agent, provider, model, 0, 0, 0, 0,"
                " %s FROM governance_spendrollup",
                [money.MAX_SUM - 5 - money.MAX_AMOUNT_NANOS],
            )

    @pytest.mark.parametrize("role", ["agent", "operator"])
    def test_an_hour_that_is_full_takes_no_report(self, role: str, agent: Api, operator: Api, stranger: Api) -> None:
        self.full(operator)
        api, who = (operator, OF_ACME) if role == "operator" else (agent, {})
        refused(
            api.post("/api/spend", {"request_id": "r", "cost": "1", "model": "large", **who}),
            "cost",
            "4,000,000,000 dollars",
        )
        assert SpendEntry.objects.count() == 1
        # Another tenant's, and another hour's, are other sums.
        assert stranger.post("/api/spend", {"request_id": "r", "cost": "1"}).status_code == 201
        at = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
        assert agent.post("/api/spend", {"request_id": "r", "cost": "1", "occurred_at": at}).status_code == 201

    def test_a_settlement_lands_and_the_sum_stops_at_its_bound(self, agent: Api, operator: Api) -> None:
        self.full(operator)
        for api in (agent, operator):
            held = agent.post("/api/reservations", {"model": "large", "estimated_cost": "1"}).json()["id"]
            assert api.post(f"/api/reservations/{held}/settle", {"cost": "1"}).status_code == 200
        assert SpendRollup.objects.get().cost_nanos == money.MAX_SUM


def test_many_full_hours_can_still_be_summed_up(operator: Api) -> None:
    """No row is beyond its bound, and their sum is beyond 64 bits."""
    for name in ("one", "two", "three"):
        api = persona("agent", of=factories.tenant(name))
        assert api.post("/api/spend", {"request_id": "r", "cost": "0.000000001"}).status_code == 201
    with connection.cursor() as cursor:
        cursor.execute("UPDATE governance_spendrollup SET cost_nanos = %s", [money.MAX_SUM])
        summary = operator.get("/api/spend/summary", group_by="day")
        assert (summary.status_code, summary.json()["total"]) == (200, "12000000000.00")
        assert operator.get("/api/spend/summary", group_by="agent").status_code == 200
        cursor.execute("UPDATE governance_spendrollup SET cost_nanos = 1")


def test_any_number_of_waiting_reports_can_be_summed_up(
    agent: Api, operator: Api, admin_client: Client, settings: Any
) -> None:
    """Each is within its bound, and 64 bits hold 922 of the largest."""
    factories.budget("10")
    most = str(money.MAX_AMOUNT_NANOS // money.NANOS_PER_DOLLAR)
    assert agent.post("/api/spend", {"request_id": "first", "cost": most}).status_code == 409
    [row] = PendingReport.objects.all()
    fields = {field.attname: getattr(row, field.attname) for field in PendingReport._meta.concrete_fields}
    PendingReport.objects.bulk_create(
        PendingReport(**fields | {"id": uuids.uuid7(), "request_id": f"r-{number}"}) for number in range(930)
    )
    settings.METRICS_TOKEN = "t0k"
    assert agent.post("/api/spend", {"request_id": "one-more", "cost": most}).status_code == 409
    metrics = operator.client.get("/metrics", headers={"authorization": "Bearer t0k"})
    assert (metrics.status_code, b"spend_governor_reports_waiting_dollars 9.32e+09" in metrics.content) == (200, True)
    assert admin_client.get("/admin/").status_code == 200
