"""The page of what would have saved money: from an agent's own calls and today's prices."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from governance import ledger
from governance.ledger.operations import Record
from governance.rules.calls import Usage
from llm.queries import advice
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db
LARGE = "mistral-large-2512"


def record(minutes_ago: int, *, of: str = "acme", agent: str = "invoices", output: int = 2_000, **fields: Any) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    by = factories.caller(factories.tenant(of), agent=agent, session=fields.pop("session", "s-1"))
    factories.agent(agent, of=factories.tenant(of))
    usage = Usage("mistral", fields.pop("model", LARGE), 100_000, 0, output)
    made: Record = factories.reporting("0.06", by=by, occurred_at=at, model_requested=LARGE)
    ledger.record(Record(**{**_fields(made), "usage": usage, "cost_nanos": fields.pop("cost", nanos("0.06"))}), now=at)


def _fields(made: Record) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


@pytest.fixture
def calls() -> None:
    """Sixty calls of one session, a minute apart, two of which say very much."""
    for number in range(60):
        record(number + 1, output=90_000 if number in (7, 8) else 2_000)
    record(5, of="globex", agent="<b>bold")


def test_each_agents_saving_is_listed_and_leads_to_its_arithmetic(admin_client: Client, calls: None) -> None:
    shown = admin_client.get("/admin/savings/").content.decode()
    assert "acme / invoices" in shown
    assert f"{LARGE} →" in shown
    assert "<b>bold" not in shown
    one = admin_client.get("/admin/savings/", {"tenant": "acme", "agent": "invoices"}).content.decode()
    for words in (
        "6,000,000 tokens of input × $",
        "where $3.60 was spent",
        "60 calls at ",
        "59 calls to",
        "could have read what the call before them had",
        "max_tokens of 2,000 at",
        "2 answers would have been cut short",
        "all 60 of its calls",
    ):
        assert words in one


def test_the_arithmetic_adds_up(calls: None) -> None:
    found = advice.of_agent(reader=advice.Reader(tenant=factories.tenant(), agent="invoices"), now=timezone.now())
    assert found is not None
    (model,), (cache,), (cap,) = found.models, found.cache, found.caps
    rates = model.other.rates
    assert rates is not None
    assert model.nanos == (6_000_000 * rates.input_picos + (58 * 2_000 + 180_000) * rates.output_picos) // 1000
    assert model.saved_nanos == nanos("3.60") - model.nanos
    # All but the first could have read what the one before had, which is all of their input.
    assert (cache.calls, cache.tokens) == (59, 59 * 100_000)
    assert (cap.calls, cap.tokens) == (2, 2 * 88_000)


def test_a_tenants_staff_is_told_of_its_own(client: Client, calls: None) -> None:
    client.force_login(factories.person("tess", "tenant staff", of=factories.tenant("globex")))
    shown = client.get("/admin/savings/").content.decode()
    assert "acme" not in shown
    other = client.get("/admin/savings/", {"tenant": "acme", "agent": "invoices"}).content.decode()
    assert "There is no such agent." in other
    assert "3.60" not in other


def test_without_calls_it_says_what_to_do(admin_client: Client) -> None:
    assert "advice comes with calls" in admin_client.get("/admin/savings/").content.decode()
    factories.agent("idle")
    idle = admin_client.get("/admin/savings/", {"tenant": "acme", "agent": "idle"}).content.decode()
    assert "It made no call in the last 30 days" in idle


def test_models_that_nobody_knows_are_left_out(admin_client: Client) -> None:
    record(1, model="unknown-model", cost=nanos("1"))
    assert "no cheaper model can do the same" in admin_client.get("/admin/savings/").content.decode()
    one = admin_client.get("/admin/savings/", {"tenant": "acme", "agent": "invoices"}).content.decode()
    assert one.count("Nothing worth saying") == 2


def test_the_list_takes_few_queries(
    admin_client: Client, calls: None, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    admin_client.get("/admin/savings/")
    with django_assert_max_num_queries(14):
        admin_client.get("/admin/savings/")
