"""How numbers are written: amounts, shares and counts in ASCII digits, of a size that can be."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from governance.models import Budget
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced")

ABSURD = ["1e-999999999999", "1e-300000000", "1e999999999999", "0." + "0" * 5000 + "1", "1_0", "١٢", "0_1", "0.٥", "１"]
SHARES = ("soft_cap", "hard_cap", "warn_at")


@pytest.mark.parametrize("text", ABSURD)
@pytest.mark.parametrize("field", [*SHARES, "alert_thresholds", "limit", "at"])
def test_a_budget_refuses_them_and_names_the_field(operator: Api, field: str, text: str) -> None:
    factories.tenant()
    value: Any = {"alert_thresholds": [text], "at": [{"from": ["a"], "to": "b", "at": text}]}.get(field, text)
    named = "downgrade_rules" if field == "at" else field
    body = {"scope_type": "tenant", "tenant": "acme", "window": "day", "limit": "1", named: value}
    answer = operator.post("/api/budgets", body)
    # What is merely too much says its bound.
    expected = (400, 422) if field == "limit" and text == "1e999999999999" else (400,)
    assert answer.status_code in expected, answer.content
    assert answer.json()["error"]["param"].startswith(named)
    assert not Budget.objects.exists()


@pytest.mark.parametrize("text", ABSURD)
def test_so_do_reports_prices_and_plans(agent: Api, operator: Api, text: str) -> None:
    factories.budget("10")
    asked = [
        (agent, "/api/spend", {"request_id": "r", "model": "small"}, "cost"),
        (agent, "/api/spend", {"request_id": "r", "model": "small"}, "input_tokens"),
        (agent, "/api/reservations", {"model": "large"}, "estimated_cost"),
        (operator, "/api/prices", {"model": "mistral-small-latest", "unit": "input"}, "usd_per_million"),
        (
            operator,
            "/api/rate-limits",
            {"scope_type": "agent", "scope_key": "a", "tenant": "acme"},
            "dollars_per_minute",
        ),
        (operator, "/api/plans", {"name": "p", "limit": "1"}, "soft_cap"),
        (operator, "/api/plans", {"name": "p", "limit": "1"}, "grace_days"),
    ]
    for api, path, body, field in asked:
        answer = api.post(path, {**body, field: text})
        assert answer.status_code in (400, 422), (path, field, answer.content)
        assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("text", ABSURD)
def test_so_does_the_consoles_form(admin_client: Client, text: str) -> None:
    tenant = factories.tenant()
    form = {"scope_type": "tenant", "tenant": str(tenant.pk), "window": "day", "limit": text, "hard_cap": text}
    page = admin_client.post("/admin/governance/budget/add/", form)
    assert page.status_code == 200
    assert {"limit", "hard_cap"} <= page.context["adminform"].form.errors.keys()
    assert not Budget.objects.exists()
