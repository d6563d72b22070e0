"""What tenants pay beside what their models cost: the rules, the API, the table."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from billing.console import margin_page
from billing.models import BillingAccount
from billing.queries import margin
from governance import ledger
from governance.models import Tenant
from governance.queries.spend import TimeRange
from tests import factories
from tests.billing.conftest import Deliver
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice,
    invoice_paid,
    seconds,
    subscription_created,
)

pytestmark = pytest.mark.django_db
END = START + 30 * DAY
PAID_PERIOD = TimeRange(START, END)


def pays(deliver: Deliver, slug: str, amount: int, **fields: Any) -> Tenant:
    """A tenant of this name with one paid invoice of `amount` cents."""
    tenant = factories.tenant(slug)
    names = {"customer": f"cus_{slug}", "subscription": f"sub_{slug}"}
    deliver(
        checkout_completed(tenant=slug, customer=f"cus_{slug}"),
        subscription_created(**names),
        invoice_paid(**names, amount_paid=amount, **fields),
    )
    return tenant


def spend(slug: str, cost: str, *, at: Any = START + DAY) -> None:
    by = factories.caller(factories.tenant(slug))
    ledger.record(factories.reporting(cost, by=by, occurred_at=at), now=at)


def test_revenue_less_cost_with_the_plan(tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "acme", 5000)
    spend("acme", "12.50")
    [row] = margin.of([tenant], period=PAID_PERIOD)
    assert (row.plan, row.state) == ("Standard", "active")
    assert (row.revenue_nanos, row.cost_nanos) == (factories.nanos("50"), factories.nanos("12.50"))
    assert (row.margin_nanos, row.margin_e4) == (factories.nanos("37.50"), 7500)


def test_a_period_has_its_part_of_both(tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "acme", 5000)
    spend("acme", "1", at=START + DAY)
    spend("acme", "2", at=START + 20 * DAY)
    halves = [TimeRange(START, START + 15 * DAY), TimeRange(START + 15 * DAY, END)]
    found = [margin.of([tenant], period=half)[0] for half in halves]
    assert [row.revenue_nanos for row in found] == [factories.nanos("25")] * 2
    assert [row.cost_nanos for row in found] == [factories.nanos("1"), factories.nanos("2")]


def test_refunds_and_tax_are_taken_off(tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "acme", 6000, total_excluding_tax=5000, charge="ch_1")
    charge = {
        "id": "ch_1",
        "object": "charge",
        "customer": "cus_acme",
        "amount": 6000,
        "amount_refunded": 3000,
        "currency": "usd",
        "created": seconds(START),
        "refunded": False,
    }
    deliver(event("charge.refunded", charge, created=START + DAY))
    [row] = margin.of([tenant], period=PAID_PERIOD)
    assert row.revenue_nanos == factories.nanos("25")


def test_unpaid_invoices_are_no_revenue(tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "acme", 5000)
    later = {"period_start": END, "period_end": END + 30 * DAY, "billing_reason": "subscription_cycle"}
    deliver(event("invoice.payment_failed", invoice(**later, status="open"), created=END))
    assert margin.of([tenant])[0].revenue_nanos == factories.nanos("50")


def test_other_currencies_are_shown_and_never_converted(tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "acme", 4500, currency="eur")
    spend("acme", "9")
    [row] = margin.of([tenant], period=PAID_PERIOD)
    assert (row.revenue_nanos, row.other) == (0, {"eur": factories.nanos("45")})
    assert (row.margin_nanos, row.margin_e4) == (None, None)
    assert margin.worst(period=PAID_PERIOD) == []


def test_a_tenant_that_only_spends_is_a_loss(db: None) -> None:
    spend("free", "3")
    factories.tenant("idle")
    assert [row.tenant for row in margin.every()] == ["free"]
    [row] = margin.worst()
    assert (row.state, row.margin_nanos, row.margin_e4) == ("none", -factories.nanos("3"), None)


def test_the_five_worst_lose_most_first(tenant: Tenant, deliver: Deliver) -> None:
    for number in range(7):
        pays(deliver, f"t{number}", 5000)
        spend(f"t{number}", str(10 * number))
    found = margin.worst(period=PAID_PERIOD)
    assert [row.tenant for row in found] == ["t6", "t5", "t4", "t3", "t2"]
    assert found[0].margin_nanos == -factories.nanos("10")


def test_a_page_of_many_costs_as_many_queries_as_one_of_few(
    tenant: Tenant, deliver: Deliver, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    rows = [pays(deliver, f"t{number}", 5000) for number in range(6)]
    with django_assert_num_queries(4):
        margin.of(rows[:1])
    with django_assert_num_queries(4):
        margin.of(rows)


def test_all_tenants_cost_as_many_queries_as_few(
    deliver: Deliver, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(margin, "CHUNK", 2)
    for number in range(7):
        pays(deliver, f"t{number}", 5000 + number, charge=f"ch_{number}")
        spend(f"t{number}", "1")
    # Of no customer: its invoice names it.
    charge = {"id": "ch_3", "object": "charge", "amount": 5003, "amount_refunded": 2000, "currency": "usd"}
    deliver(event("charge.refunded", charge | {"created": seconds(START)}, created=START + DAY))
    with django_assert_num_queries(6):
        found = margin.every(period=PAID_PERIOD)
    assert found == margin.of(list(margin.tenants()), period=PAID_PERIOD)
    paid = {row.tenant: row.revenue_nanos for row in found}
    assert (paid["t2"], paid["t3"]) == (factories.nanos("50.02"), factories.nanos("30.03"))


class TestApi:
    @pytest.fixture
    def operator(self, client: Client) -> Any:
        key, _ = factories.key(role="operator")

        def get(query: str = "", **headers: str) -> Any:
            return client.get(f"/api/billing/margin{query}", headers={"Authorization": f"Bearer {key}", **headers})

        return get

    @pytest.fixture(autouse=True)
    def _some(self, tenant: Tenant, deliver: Deliver) -> None:
        pays(deliver, "acme", 5000)
        spend("acme", "60")
        pays(deliver, "globex", 4500, currency="eur")

    def test_rows_are_pages_newest_first(self, operator: Any) -> None:
        body = operator("?page_size=1").json()
        assert body["results"] == [
            {
                "tenant": "globex",
                "plan": "Standard",
                "state": body["results"][0]["state"],
                "revenue": "0.00",
                "other_revenue": {"eur": "45.00"},
                "cost": "0.00",
                "margin": None,
                "margin_ratio": None,
            }
        ]
        following = body["next"].split("?")[1]
        [row] = operator(f"?{following}").json()["results"]
        assert (row["tenant"], row["revenue"], row["cost"], row["margin"]) == ("acme", "50.00", "60.00", "-10.00")
        assert row["margin_ratio"] == -0.2

    def test_filters(self, operator: Any) -> None:
        assert [row["tenant"] for row in operator("?tenant=acme").json()["results"]] == ["acme"]
        middle = (START + 15 * DAY).date()
        [row] = operator(f"?tenant=acme&from={middle}").json()["results"]
        assert (row["revenue"], row["cost"]) == ("25.00", "0.00")
        [row] = operator(f"?tenant=acme&from={START.date()}&to={middle}").json()["results"]
        assert (row["revenue"], row["cost"]) == ("25.00", "60.00")

    def test_the_worst(self, operator: Any) -> None:
        assert [row["tenant"] for row in operator("?worst=5").json()["results"]] == ["acme"]

    @pytest.mark.parametrize("query", ["?worst=0", "?from=x", "?from=2026-02-01&to=2026-01-01", "?tenants=acme"])
    def test_a_bad_query_is_a_400(self, operator: Any, query: str) -> None:
        assert operator(query).status_code == 400

    def test_the_same_as_a_table(self, operator: Any) -> None:
        response = operator(Accept="text/csv")
        text = b"".join(response.streaming_content).decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["tenant"] for row in rows] == ["globex", "acme"]
        assert (rows[1]["margin"], rows[0]["other_revenue"]) == ("-10.00", '{"eur": "45.00"}')


def test_an_annual_payment_counts_month_by_month(tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "acme", 36500, period_end=START + timedelta(days=365))
    [row] = margin.of([tenant], period=PAID_PERIOD)
    assert row.revenue_nanos == factories.nanos("30")
    assert BillingAccount.objects.count() == 1


class TestPage:
    @pytest.fixture
    def staff(self, client: Client) -> Client:
        client.force_login(factories.person("vera", "viewer"))
        return client

    @pytest.mark.parametrize("period", ["", "month", "last", "30", "all", "<odd>"])
    def test_it_renders_for_every_period_also_without_figures(self, staff: Client, db: None, period: str) -> None:
        response = staff.get("/admin/margin/", {"period": period})
        assert response.status_code == 200
        assert "Nobody has paid or spent" in response.content.decode()

    def test_it_shows_who_loses_and_what_is_in_other_money(
        self, staff: Client, tenant: Tenant, deliver: Deliver
    ) -> None:
        pays(deliver, "acme", 5000)
        spend("acme", "60")
        pays(deliver, "globex", 4500, currency="eur")
        pays(deliver, "initech", 700, currency="jpy")
        page = staff.get("/admin/margin/?period=all").content.decode()
        for words in ("-$10.00", "45.00 EUR", "700 JPY", "not known", "and EUR, JPY, not converted", "-20%"):
            assert words in page
        assert page.index("acme") < page.index("globex")

    def test_what_nobody_knows_is_no_loss(self, staff: Client, tenant: Tenant, deliver: Deliver) -> None:
        spend("globex", "60")
        alone = staff.get("/admin/margin/", {"period": "all"})
        assert [card.value for card in alone.context["cards"]] == ["Not known", "$60.00", "Not known"]
        assert "connect Stripe" in alone.content.decode()
        pays(deliver, "acme", 5000)
        spend("acme", "12.50")
        found = staff.get("/admin/margin/", {"period": "all"})
        assert [card.value for card in found.context["cards"]] == ["$50.00", "$72.50", "$37.50", "0", "1"]
        rows = found.context["lines"]
        assert [(row.tenant, row.margin, row.tone) for row in rows] == [
            ("acme", "$37.50", "ok"),
            ("globex", "not known", "off"),
        ]
        only = staff.get("/admin/margin/", {"period": "all", "show": "unconnected"}).context["lines"]
        assert [row.tenant for row in only] == ["globex"]

    def test_rows_lead_to_customers_and_to_as_much_spend(self, staff: Client, tenant: Tenant, deliver: Deliver) -> None:
        pays(deliver, "acme", 5000)
        spend("acme", "12.50")
        asked = {"from": START.date().isoformat(), "to": (START + 20 * DAY).date().isoformat()}
        [row] = staff.get("/admin/margin/", asked).context["lines"]
        assert row.link == f"/admin/governance/tenant/{tenant.pk}/change/"
        assert "/admin/billing/billingaccount/" in row.revenue_link
        assert "$12.50" in staff.get(row.cost_link).content.decode()
        odd = staff.get("/admin/margin/", {"from": "2026-02-31"})
        assert "is a day such as" in odd.content.decode()

    def test_it_asks_as_often_for_many_customers(
        self, staff: Client, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(margin, "CHUNK", 2)

        def asked() -> int:
            with CaptureQueriesContext(connection) as queries:
                assert staff.get("/admin/margin/", {"period": "all"}).status_code == 200
            return len(queries)

        pays(deliver, "acme", 5000)
        spend("acme", "1")
        few = asked()
        for number in range(6):
            pays(deliver, f"t{number}", 5000)
            spend(f"t{number}", "1")
        assert asked() == few <= 20

    def test_strangers_do_not_see_it(self, client: Client, db: None) -> None:
        assert client.get("/admin/margin/").status_code == 302

    def test_the_link_to_the_table_works(self, staff: Client, tenant: Tenant) -> None:
        link = margin_page.context(RequestFactory().get("/", {"period": "last"}), START)["csv"]
        response = staff.get(link)
        assert response["Content-Type"].startswith("text/csv")
