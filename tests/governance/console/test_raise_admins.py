"""Raises that were asked for, in the console."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from governance.actions import raises
from governance.audit import Actor
from governance.models import Allowance, AuditEntry, RaiseRequest
from tests import confirmed, factories
from tests.governance.console.clients import signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
LIST = "/admin/governance/raiserequest/"


@pytest.fixture
def operator() -> Client:
    return signed_in("olga", "operator")


@pytest.fixture
def row() -> RaiseRequest:
    return factories.raise_request(now=timezone.now())


def test_open_ones_are_listed_first(operator: Client, row: RaiseRequest) -> None:
    later = factories.raise_request(factories.budget("7", window="week"), now=timezone.now())
    raises.decline(asked=later, reason="no", by=Actor("ann"), now=timezone.now())
    page = operator.get(LIST).content.decode()
    assert page.index(f"{row.pk}/change/") < page.index(f"{later.pk}/change/")
    assert "Ada" in page
    assert "a big batch" in page


def test_one_button_approves_and_it_is_done_once(operator: Client, row: RaiseRequest) -> None:
    page = f"{LIST}{row.pk}/approve/"
    shown = operator.get(page).content.decode()
    assert "Ada asks, by the link of a refused call: a big batch" in shown
    assert "has $2.00 more than $1.00 then" in shown
    assert not Allowance.objects.exists()
    said = confirmed.press(operator, page).content.decode()
    assert "Approved: $2.00 more for acme per month." in said
    given = Allowance.objects.get()
    assert (given.window_id, given.actor, given.reason) == (row.window_id, "olga", "Ada: a big batch")
    assert "It was approved by olga." in operator.get(page, follow=True).content.decode()
    assert AuditEntry.objects.filter(action="raise.approve", actor="olga").count() == 1


def test_the_second_of_two_operators_is_told(operator: Client, row: RaiseRequest) -> None:
    page = f"{LIST}{row.pk}/approve/"
    form = confirmed.read(operator, page)
    raises.decline(asked=row, reason="no", by=Actor("ann"), now=timezone.now())
    said = operator.post(page, form, follow=True).content.decode()
    assert "It was declined by ann." in said
    assert not Allowance.objects.exists()


def test_a_decline_needs_a_reason(operator: Client, row: RaiseRequest) -> None:
    page = f"{LIST}{row.pk}/decline/"
    operator.post(page, {"_confirmed": "yes", "reason": ""})
    assert RaiseRequest.objects.get().status == "open"
    operator.post(page, {"_confirmed": "yes", "reason": "Next month."})
    assert "Next month." in operator.get(f"{LIST}{row.pk}/change/").content.decode()
    assert RaiseRequest.objects.get().status == "declined"


@pytest.mark.parametrize("role", ["viewer", "billing"])
def test_who_may_raise_no_budget_decides_nothing(row: RaiseRequest, role: str) -> None:
    client = signed_in("vic", role)
    assert client.get(LIST).status_code == 200
    for act in ("approve", "decline"):
        assert client.post(f"{LIST}{row.pk}/{act}/", {"_confirmed": "yes", "reason": "x"}).status_code == 403
    assert RaiseRequest.objects.get().status == "open"


def test_a_customers_own_staff_does_not_see_them(row: RaiseRequest) -> None:
    client = signed_in("tom", "tenant staff", of=factories.tenant())
    assert client.get(LIST).status_code == 403


def test_its_page_says_how_the_window_stands(operator: Client, row: RaiseRequest) -> None:
    page = operator.get(f"{LIST}{row.pk}/change/").content.decode()
    assert "$0.01 of $1.00 is spent, and $0.00 is held." in page
