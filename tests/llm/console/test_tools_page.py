"""The page of tools: what a call costs, what was spent on them, and setting a price."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from governance import ledger
from governance.rules.calls import tool_usage
from llm.catalogue import snapshot, tools
from llm.models import Model, Price
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db
PAGE = "/admin/models/tools/"
SEARCH = {"name": "web-search", "usd_per_call": "0.005"}


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    snapshot.forget()
    with time_machine.travel(NOON, tick=False):
        yield
    snapshot.forget()


def signed_in(role: str) -> Client:
    client = Client()
    client.force_login(factories.person(role, role))
    return client


@pytest.fixture
def operator() -> Client:
    return signed_in("operator")


def words(answer: Any) -> str:
    assert answer.status_code == 200
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def test_a_tool_is_priced_by_its_name_and_listed_with_what_was_spent(operator: Client) -> None:
    assert "No tool has a price yet. Name the first below" in words(operator.get(PAGE))
    answer = operator.post(PAGE, SEARCH)
    assert (answer.status_code, answer["Location"]) == (302, PAGE)
    assert "A call of web-search costs $0.005." in words(operator.get(PAGE))
    assert tools.price_of("web-search") == nanos("0.005")

    spent = replace(factories.reporting("0.015"), usage=tool_usage("web-search", calls=3))
    ledger.record(spent, now=NOON)
    operator.post(PAGE, {**SEARCH, "usd_per_call": "0.006", "since": "2026-04-01T00:00", "source": "contract"})
    found = operator.get(PAGE)
    row = found.context["rows"][0]
    assert (row.name, row.coming, row.calls) == ("web-search", "$0.006 from 2026-04-01 00:00 UTC", "1")
    assert [badge.word for badge in row.badges] == ["served"]
    assert "$0.005 a call" in words(found)
    assert Price.objects.get(source="contract").effective_from is not None
    for link in (row.link, row.calls_link, row.spend_link):
        assert "web-search" in words(operator.get(link))


def test_a_model_s_page_shows_what_a_tool_costs(operator: Client) -> None:
    operator.post(PAGE, SEARCH)
    page = words(operator.get(reverse("admin:llm_model_change", args=[Model.objects.get(name="web-search").pk])))
    assert "$0.005 a call" in page
    assert "$0.005 a call" in words(operator.get("/admin/llm/model/?provider=tool"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"usd_per_call": "-1"}, "Dollars a call"),
        ({"usd_per_call": "a lot"}, "Dollars a call"),
        ({"usd_per_call": "0.0000000001"}, "Dollars a call"),
        ({"usd_per_call": "1000001"}, "Dollars a call"),
        ({"name": "x" * 101}, "Name"),
        ({"name": "a\u0007b"}, "Name"),
        ({"since": "yesterday"}, "From"),
    ],
)
def test_what_is_no_price_is_said_and_stays_in_the_form(operator: Client, change: dict[str, str], said: str) -> None:
    answer = operator.post(PAGE, SEARCH | change)
    assert answer.status_code == 200
    assert answer.context["problems"][0].startswith(said)
    assert not Price.objects.filter(unit="call").exists()


def test_a_price_that_is_set_twice_is_set_once(operator: Client) -> None:
    operator.post(PAGE, SEARCH)
    assert "is what it costs then already" in words(operator.post(PAGE, SEARCH))
    coming = SEARCH | {"usd_per_call": "1", "since": "2026-04-01T00:00"}
    operator.post(PAGE, coming)
    assert "There is a price from that very moment on" in words(operator.post(PAGE, coming | {"usd_per_call": "2"}))
    assert Price.objects.filter(unit="call").count() == 2


def test_a_viewer_looks_and_a_tenants_staff_does_not(operator: Client) -> None:
    operator.post(PAGE, SEARCH)
    viewer = signed_in("viewer")
    assert "Set the price" not in words(viewer.get(PAGE))
    assert viewer.post(PAGE, SEARCH).status_code == 403
    staff = Client()
    staff.force_login(factories.person("tina", "tenant staff", of=factories.tenant()))
    assert staff.get(PAGE).status_code == 403
