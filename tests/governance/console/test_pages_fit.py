"""The pages of the console lead to each other: a figure of one to as many rows of the next."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client

from governance import ledger
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.models import Tenant
from governance.rules.windows import WindowKind
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.django_db
COUNTED = re.compile(r'<a href="(/admin/calls/\?[^"]*)"[^>]*>([\d,]+)</a>')


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(factories.person("vera", "viewer"))
    return client


@pytest.fixture
def globex() -> Tenant:
    """Its days are not UTC's: each of its links says hours."""
    return factories.tenant("globex", time_zone="America/New_York")


def spent(
    cost: str, *, hours_ago: float = 0, owner: Tenant | None = None, certainty: str = "confirmed", **who: str
) -> None:
    at = NOON - timedelta(hours=hours_ago)
    made = factories.reporting(cost, by=factories.caller(owner, **who), occurred_at=at)
    ledger.record(replace(made, certainty=certainty), now=NOON)


def refused(name: str, owner: Tenant | None = None, **who: str) -> None:
    log = RefusalLog()
    log.note(NotedRefusal(name, factories.caller(owner, **who), "large", (), "stopped", 403, NOON, sentence="Stopped."))
    log.flush()


def rows(client: Client, link: str) -> int:
    answer = client.get(html.unescape(link))
    assert answer.status_code == 200
    assert answer.context["errors"] == []
    return len(answer.context["lines"])


@pytest.mark.parametrize("group", ["tenant", "agent", "model", "provider", "user", "task", "key", "day", "hour"])
def test_a_count_of_spend_leads_to_so_many_calls(viewer: Client, globex: Tenant, group: str) -> None:
    spent("3", agent="support", user="zoe", task="t-1")
    spent("1", agent="support", hours_ago=13, certainty="estimated")
    spent("2", agent="invoices", hours_ago=30)
    spent("4", agent="support", owner=globex, hours_ago=9)
    spent("0.50", agent="support", owner=globex, certainty="estimated", user="zoe")
    refused("r-1", globex, agent="support")
    refused("r-2", agent="invoices", user="zoe")
    for of_whom in ({}, {"tenant": "globex"}):
        page = viewer.get("/admin/spend/", {"group": group, "subgroup": "", **of_whom}).content.decode()
        counts = COUNTED.findall(page)
        assert counts
        assert [(link, count) for link, count in counts if rows(viewer, link) != int(count)] == []


def test_a_budget_leads_to_the_calls_of_its_window(viewer: Client, globex: Tenant) -> None:
    budget = factories.budget("9", tenant=globex, scope_type="agent", scope_key="support", window=WindowKind.DAY)
    for hours_ago in (1, 2, 30):
        spent("0.10", owner=globex, agent="support", hours_ago=hours_ago)
    spent("0.10", owner=globex, agent="invoices")
    page = viewer.get(f"/admin/governance/budget/{budget.pk}/change/")
    assert rows(viewer, page.context["read"]()["calls"]) == 2
