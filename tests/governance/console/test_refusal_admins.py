"""NotedRefusal calls in the console."""

from __future__ import annotations

import pytest
from django.test import Client

from governance import ledger
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.models import RefusedCall
from tests import factories
from tests.factories import NOON

LIST = "/admin/governance/refusedcall/"


@pytest.fixture
def viewer(db: None) -> Client:
    client = Client()
    client.force_login(factories.person("vera", "viewer"))
    return client


@pytest.fixture
def kept(db: None) -> RefusedCall:
    factories.budget("1")
    log, caller = RefusalLog(), factories.caller(agent="invoices", user="zoe")
    reserve = factories.reserving("1.50", by=caller)
    decision = ledger.reserve(reserve, now=NOON)
    assert decision.because is not None
    log.note(NotedRefusal("r-1", caller, "large", ("search",), decision.reason.value, 402, NOON, decision=decision))
    log.note(NotedRefusal("r-2", caller, "small", (), "invalid_type", 400, NOON, sentence="No <b>object</b>."))
    log.flush()
    return RefusedCall.objects.get(request_id="r-1")


def test_the_list_says_who_why_and_what_would_have_passed(viewer: Client, kept: RefusedCall) -> None:
    html = viewer.get(LIST).content.decode()
    for text in ("acme / invoices", "zoe", "budget exhausted", "tenant:acme per day", "$1.00 left", "$0.50 more"):
        assert text in html, text


def test_a_call_is_found_by_its_request_id(viewer: Client, kept: RefusedCall) -> None:
    assert list(viewer.get(LIST, {"q": "r-1"}).context["cl"].result_list) == [kept]


def test_the_filter_by_reason_offers_those_of_the_newest_rows(viewer: Client, kept: RefusedCall) -> None:
    page = viewer.get(LIST, {"reason": "budget_exhausted"})
    assert list(page.context["cl"].result_list) == [kept]
    assert "invalid type" in page.content.decode()


def test_its_page_has_the_figures_and_nothing_of_it_is_markup(viewer: Client, kept: RefusedCall) -> None:
    html = viewer.get(f"{LIST}{kept.pk}/change/").content.decode()
    assert "tenant:acme per day" in html
    assert "$1.50" in html
    other = RefusedCall.objects.get(request_id="r-2")
    assert "<b>object" not in viewer.get(f"{LIST}{other.pk}/change/").content.decode()
