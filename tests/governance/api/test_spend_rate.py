from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from tests import factories
from tests.governance.api.conftest import Api


def spend(dollars: str, *, minutes_ago: float, of: str = "acme", agent: str = "invoices") -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    by = factories.caller(factories.tenant(of), agent=agent)
    ledger.record(factories.reporting(dollars, by=by, occurred_at=at), now=timezone.now())


@pytest.fixture
def spent(db: None) -> None:
    spend("0.30", minutes_ago=5)
    spend("0.15", minutes_ago=10, agent="churn")
    spend("0.90", minutes_ago=1, of="globex")
    spend("7.00", minutes_ago=20)


def rate(api: Api, **query: Any) -> tuple[str, str, int]:
    found = api.get("/api/spend/rate", **query).json()
    return found["dollars_per_minute"], found["spent"], found["calls"]


def test_it_is_the_mean_of_the_last_minutes(operator: Api, spent: None) -> None:
    assert rate(operator) == ("0.09", "1.35", 3)
    assert rate(operator, minutes=30) == ("0.278333333", "8.35", 4)
    assert rate(operator, minutes=2, tenant="globex", agent="invoices") == ("0.45", "0.90", 1)
    assert rate(operator, tenant="acme") == ("0.03", "0.45", 2)
    assert rate(operator, minutes=2, tenant="acme") == ("0.00", "0.00", 0)


def test_tenants_and_agents_see_their_own_alone(tenant: Api, agent: Api, stranger: Api, spent: None) -> None:
    assert [rate(reader)[1] for reader in (tenant, agent, stranger)] == ["0.45", "0.30", "0.90"]
    assert rate(stranger, tenant="acme") == ("0.00", "0.00", 0)


@pytest.mark.parametrize(("name", "value"), [("minutes", "0"), ("minutes", "1441"), ("minutes", "x"), ("hours", "1")])
def test_what_cannot_be_names_the_field(operator: Api, name: str, value: str) -> None:
    response = operator.get("/api/spend/rate", **{name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
