"""/api/raises, the link that a refusal names, and the page that it leads to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from governance import ledger
from governance.models import Allowance, BudgetWindow, RaiseRequest, Tenant
from governance.rules import raises as rules
from tests import factories
from tests.factories import NOON
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.django_db
GIVEN = {"amount": "2.50", "asker": "Ada", "reason": "a <b>big</b> batch"}


@pytest.fixture(autouse=True)
def noon() -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def budget(db: None) -> Any:
    made = factories.budget("1.00", scope_type="agent", scope_key="invoices")
    ledger.record(factories.reporting("1.00", by=factories.caller(agent="invoices")), now=timezone.now())
    return made


def refused(by: Api) -> dict[str, Any]:
    answer = by.post("/api/reservations", {"model": "m", "estimated_cost": "0.50"})
    assert answer.status_code == 402
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.fixture
def path(agent: Api, budget: Any) -> str:
    """Of the page that a refusal of acme's agent leads to."""
    url = refused(agent)["raise_url"]
    return "/raises/" + url.rpartition("/raises/")[2]


def html(path: str, status: int = 200) -> str:
    answer = Client().get(path)
    assert answer.status_code == status
    assert "no-store" in answer["Cache-Control"]
    return answer.content.decode()


def ask(path: str, **changes: str) -> Any:
    return Client().post(path, GIVEN | changes)


def test_a_refusal_leads_to_a_request_and_the_answer_to_whoever_asked(
    operator: Api, viewer: Api, agent: Api, path: str, budget: Any
) -> None:
    page = html(path)
    assert "agent:invoices per day" in page
    assert "$1.00 of $1.00 is spent. It begins anew at 2026-03-11T00:00:00Z." in page
    assert (ask(path).status_code, ask(path, amount="9").status_code) == (302, 302)
    page = html(path)
    assert "Ada asked for $2.50 more: a &lt;b&gt;big&lt;/b&gt; batch" in page
    assert "<form" not in page

    [row] = viewer.get("/api/raises", status="open", tenant="acme").json()["results"]
    assert (row["amount"], row["asker"], row["budget"]) == ("2.50", "Ada", budget.pk)
    assert (row["scope"], row["window"], row["subject"]) == ("acme agent:invoices", "day", "invoices")
    assert viewer.post(f"/api/raises/{row['id']}/approve").status_code == 403
    done = operator.post(f"/api/raises/{row['id']}/approve")
    assert (done.status_code, done.json()["status"]) == (200, "approved")
    again = operator.post(f"/api/raises/{row['id']}/decline", {"reason": "no"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert "$2.50 more, for which Ada asked, was approved." in html(path)
    assert agent.post("/api/reservations", {"model": "m", "estimated_cost": "0.50"}).status_code == 201


def test_who_decided_is_not_told_and_why_is(operator: Api, path: str) -> None:
    ask(path)
    [row] = operator.get("/api/raises").json()["results"]
    assert operator.post(f"/api/raises/{row['id']}/decline").status_code == 400
    assert (
        operator.post(f"/api/raises/{row['id']}/decline", {"reason": "Next month."}).json()["answer"] == "Next month."
    )
    page = html(path)
    assert "$2.50 more, for which Ada asked, was declined: Next month." in page
    assert operator.key is not None
    assert operator.key.prefix not in page
    assert "<form" in page


def test_the_page_shows_no_amounts_where_the_keys_are_told_none(path: str) -> None:
    Tenant.objects.update(show_amounts=False)
    page = html(path)
    assert "agent:invoices per day" in page
    assert "1.00" not in page


def test_a_call_that_asks_for_more_than_its_hold_is_led_there_too(agent: Api) -> None:
    factories.budget("1.00", scope_type="agent", scope_key="invoices", soft_cap=None)
    held = agent.post("/api/reservations", {"model": "m", "estimated_cost": "0.50"}).json()["id"]
    ledger.record(factories.reporting("0.50", by=factories.caller(agent="invoices")), now=timezone.now())
    error = agent.post(f"/api/reservations/{held}/extend", {"more": "5"}).json()["error"]
    assert (error["code"], "/raises/" in error["raise_url"]) == ("budget_exhausted", True)


def test_a_dry_run_and_a_wait_have_no_link(agent: Api, budget: Any) -> None:
    answer = agent.post("/api/decisions", {"model": "m", "estimated_cost": "0.50"}).json()
    assert (answer["allowed"], "raise_url" in answer) == (False, False)
    BudgetWindow.objects.update(settled_nanos=0, reserved_nanos=factories.nanos("1"))
    answer = agent.post("/api/reservations", {"model": "m", "estimated_cost": "0.50"})
    assert (answer.status_code, answer.json()["error"]["raise_url"]) == (429, None)
    BudgetWindow.objects.update(settled_nanos=factories.nanos("1"), reserved_nanos=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "0"},
        {"amount": "-1"},
        {"amount": "much"},
        {"amount": "100000.01"},
        {"amount": "1e30"},
        {"amount": ""},
        {"asker": ""},
        {"asker": "\u200b"},
        {"asker": "a" * 91},
        {"reason": "r" * 201},
        {"reason": "a\0b"},
    ],
)
def test_what_may_not_be_asked_is_said_beside_its_field(path: str, changes: dict[str, str]) -> None:
    answer = ask(path, **changes)
    assert answer.status_code == 400
    assert 'class="error"' in answer.content.decode()
    assert not RaiseRequest.objects.exists()


def test_too_many_are_told_to_come_tomorrow(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_A_DAY", 0)
    answer = ask(path)
    assert (answer.status_code, "Ask again tomorrow" in answer.content.decode()) == (429, True)


def test_a_form_from_elsewhere_is_refused(path: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert strict.post(path, GIVEN).status_code == 403
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', strict.get(path).content.decode())
    assert found is not None
    elsewhere = strict.post(path, GIVEN | {"csrfmiddlewaretoken": found[1]}, headers={"origin": "https://evil.test"})
    assert elsewhere.status_code == 403
    assert strict.post(path, GIVEN | {"csrfmiddlewaretoken": found[1]}).status_code == 302


def test_links_that_are_no_more_or_never_were(path: str, noon: Any) -> None:
    html(path[:-1], 404)
    html("/raises/x", 404)
    assert Client().get("/raises/%00", headers={"accept": "text/html"}).status_code == 404
    assert Client().head(path).status_code == 200
    assert Client().put(path).status_code == 405
    noon.shift(timedelta(days=1))
    assert "The period that this was for is over." in html(path, 410)
    assert Client().post(path, GIVEN).status_code == 410


def test_the_list_is_filtered_and_a_table(operator: Api, path: str) -> None:
    ask(path)
    assert operator.get("/api/raises", status="approved").json()["results"] == []
    assert operator.get("/api/raises", tenant="globex").json()["results"] == []
    assert operator.get("/api/raises", **{"from": "2026-03-11"}).json()["results"] == []
    assert operator.get("/api/raises", status="maybe").status_code == 400
    assert operator.post("/api/raises/999/approve").status_code == 404
    table = operator.client.get("/api/raises", headers={"accept": "text/csv"}).getvalue().decode()
    assert table.startswith("id,status,tenant,budget,")
    assert not Allowance.objects.exists()
