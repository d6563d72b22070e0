"""The console's pages that are no model's: who sees them, and where."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.urls import reverse

from billing.console import stripe_page
from config.console import menu
from governance.console.base import may
from tests import factories

pytestmark = pytest.mark.django_db
OPERATORS_ONLY = dataclasses.replace(
    stripe_page.PAGE, permission=lambda request: may(request, "governance.change_budget")
)


def asked_by(name: str, *roles: str, **fields: Any) -> HttpRequest:
    request = RequestFactory().get("/admin/")
    request.user = factories.person(name, *roles, **fields)
    return request


@pytest.fixture
def operator() -> HttpRequest:
    return asked_by("olga", is_superuser=True)


@pytest.fixture
def viewer() -> HttpRequest:
    return asked_by("vera", "viewer")


def listed(request: HttpRequest) -> list[str]:
    return [tab.title for _, tabs in menu.shown(request) for tab in tabs]


def test_a_viewer_sees_a_page_and_its_tab_in_the_menu(viewer: HttpRequest) -> None:
    assert stripe_page.PAGE.show(admin.site, viewer).status_code == 200
    assert {"Stripe", "Margin"} <= set(listed(viewer))


def test_a_page_for_operators_is_refused_and_not_listed_to_others(
    operator: HttpRequest, viewer: HttpRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(menu, "pages", lambda: (OPERATORS_ONLY,))
    with pytest.raises(PermissionDenied):
        OPERATORS_ONLY.show(admin.site, viewer)
    assert OPERATORS_ONLY.show(admin.site, operator).status_code == 200
    assert ("Stripe" in listed(operator), "Stripe" in listed(viewer)) == (True, False)


@pytest.mark.parametrize("page", menu.pages(), ids=lambda page: page.name)
def test_each_page_is_there_and_closed_to_strangers(page: Any, operator: HttpRequest, client: Client) -> None:
    url = reverse(f"admin:{page.name}")
    assert client.get(url).status_code == 302
    client.force_login(operator.user)
    shown = client.get(url).content.decode()
    assert ("<html" in shown) != page.is_part


@pytest.mark.parametrize("rest", ["", "7/change/", "?kind=endpoint"])
def test_bookmarks_of_stripe_runs_lead_to_their_present_address(client: Client, rest: str) -> None:
    answer = client.get(f"/admin/billing/stripecheck/{rest}")

    assert (answer.status_code, answer["Location"]) == (302, f"/admin/billing/striperun/{rest}")


def test_a_page_that_is_refused_is_a_line_of_the_log_and_a_failure_has_its_traceback(
    viewer: HttpRequest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(raise_request_exception=False)
    assert isinstance(viewer.user, User)
    client.force_login(viewer.user)
    assert client.get("/admin/axes/accesslog/").status_code == 403
    monkeypatch.setattr(menu, "pages", lambda: 1 / 0)
    assert client.get("/admin/").status_code == 500
    refused, failed = (record for record in caplog.records if record.name == "django.request")
    assert (refused.levelname, refused.exc_info) == ("WARNING", None)
    assert "/admin/axes/accesslog/" in refused.getMessage()
    assert failed.exc_info is not None
