"""/api/plans and /api/billing/accounts through HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from billing.models import Plan
from governance.models import AuditEntry, Tenant
from tests import factories
from tests.billing.conftest import Deliver
from tests.billing.events import checkout_completed, invoice_paid, subscription_created

pytestmark = pytest.mark.django_db


@pytest.fixture
def as_role(client: Client) -> Any:
    def run(role: str) -> Client:
        text, _ = factories.key(role=role)
        client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {text}"
        return client

    return run


def test_accounts_show_what_subscriptions_come_to(tenant: Tenant, deliver: Deliver, as_role: Any) -> None:
    deliver(checkout_completed(), subscription_created(), invoice_paid())
    deliver(checkout_completed(customer="cus_other", tenant="nobody"))
    rows = as_role("viewer").get("/api/billing/accounts").json()["results"]
    assert rows[1] == {
        "tenant": "acme",
        "stripe_customer_id": "cus_acme",
        "plan": "Standard",
        "state": "active",
        "limit": "50.00",
        "period_start": "2026-03-01T00:00:00Z",
        "period_end": "2026-03-31T00:00:00Z",
        "reasons": [],
    }
    assert (rows[0]["tenant"], rows[0]["limit"]) == (None, None)
    assert rows[0]["reasons"] == ["unknown_tenant:nobody"]


def test_accounts_can_be_filtered_by_tenant(tenant: Tenant, deliver: Deliver, as_role: Any) -> None:
    deliver(checkout_completed(), checkout_completed(customer="cus_other", tenant="nobody"))
    rows = as_role("operator").get("/api/billing/accounts/?tenant=acme").json()["results"]
    assert [row["stripe_customer_id"] for row in rows] == ["cus_acme"]


def test_customers_whose_tenant_nobody_knows_are_listed(tenant: Tenant, deliver: Deliver, as_role: Any) -> None:
    deliver(checkout_completed(), checkout_completed(customer="cus_other", tenant="nobody"))
    for bound, customers in (("false", ["cus_other"]), ("true", ["cus_acme"])):
        rows = as_role("operator").get(f"/api/billing/accounts?bound={bound}").json()["results"]
        assert [row["stripe_customer_id"] for row in rows] == customers


def test_a_plans_own_terms_are_percentages_and_days(tenant: Tenant, as_role: Any) -> None:
    operator = as_role("operator")
    path = f"/api/plans/{Plan.objects.get(name='Standard').pk}"
    for body in ({"trial_percent": 101}, {"grace_days": -1}, {"provisional_percent": "some"}):
        assert operator.patch(path, body, content_type="application/json").status_code == 400
    good = {"trial_percent": 0, "grace_days": 14}
    assert operator.patch(path, good, content_type="application/json").json()["grace_days"] == 14


@pytest.mark.parametrize("path", ["/api/billing/accounts", "/api/plans"])
def test_agents_and_strangers_see_no_billing(tenant: Tenant, as_role: Any, path: str) -> None:
    assert as_role("agent").get(path).status_code == 403
    assert Client().get(path).status_code == 401


def test_operators_make_and_change_plans_with_an_audit_row(tenant: Tenant, as_role: Any) -> None:
    operator = as_role("operator")
    body = {"name": "Huge", "limit": "1000.50", "price_ids": ["price_huge"]}
    made = operator.post("/api/plans", body, content_type="application/json")
    assert (made.status_code, made.json()["limit"]) == (201, "1000.50")
    path = f"/api/plans/{made.json()['id']}"
    assert operator.patch(path, {"soft_cap": "0.5"}, content_type="application/json").status_code == 200
    assert str(Plan.objects.get(name="Huge").soft_cap) == "0.5000"
    actions = list(AuditEntry.objects.filter(action__startswith="plan.").values_list("action", flat=True))
    assert actions == ["plan.change", "plan.create"]


def test_a_plan_shows_and_takes_a_budgets_whole_policy(tenant: Tenant, as_role: Any) -> None:
    operator = as_role("operator")
    path = f"/api/plans/{Plan.objects.get(name='Standard').pk}"
    said = {
        "soft_cap": None,
        "hard_cap": 0.9,
        "warn_at": None,
        "alert_thresholds": [0.25],
        "downgrade_rules": [{"from": ["a"], "to": "b"}],
        "disabled_tools": ["web_search"],
        "clamp": False,
        "clamp_min_tokens": 16,
    }
    answer = operator.patch(path, said, content_type="application/json").json()
    assert {name: answer[name] for name in said} == said
    assert list(answer)[:4] == ["id", "name", "limit", "soft_cap"]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"limit": "0"}, 400, "limit"),
        ({"limit": "a lot"}, 400, "limit"),
        ({"soft_cap": "1"}, 400, "soft_cap"),
        ({"lookup_keys": ["premium"]}, 409, "lookup_keys"),
        ({"lookup_keys": ["a\0b"]}, 400, "lookup_keys.0"),
        ({"lookup_keys": ["a\nb"]}, 400, "lookup_keys"),
        ({"price_ids": [str(number) for number in range(101)]}, 400, "price_ids"),
        ({"product_ids": ["p" * 256]}, 400, "product_ids.0"),
        ({"name": "Premium"}, 409, "name"),
        ({"downgrade_rules": [{"from": []}]}, 400, "downgrade_rules.0.from"),
        ({"limits": "5"}, 400, "limits"),
    ],
)
def test_plans_that_cannot_be_are_refused_by_field(
    tenant: Tenant, as_role: Any, change: dict[str, Any], status: int, param: str
) -> None:
    body = {"name": "Huge", "limit": "5", **change}
    response = as_role("operator").post("/api/plans", body, content_type="application/json")
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert not Plan.objects.filter(name="Huge").exists()


def test_viewers_change_no_plan(tenant: Tenant, as_role: Any) -> None:
    response = as_role("viewer").post("/api/plans", {"name": "x", "limit": "1"}, content_type="application/json")
    assert response.status_code == 403


def test_new_default_plan_takes_the_place_of_the_old(tenant: Tenant, as_role: Any) -> None:
    body = {"name": "Free", "limit": "1", "is_default": True}
    assert as_role("operator").post("/api/plans", body, content_type="application/json").status_code == 201
    assert list(Plan.objects.filter(is_default=True).values_list("name", flat=True)) == ["Free"]
