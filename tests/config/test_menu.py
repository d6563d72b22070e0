"""The console's menu: nine entries, and a tab for everything that can be seen."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.http import HttpRequest
from django.test import RequestFactory
from django.urls import reverse

from config.console import menu
from tests import factories

pytestmark = pytest.mark.django_db


def asked_by(path: str, *roles: str, is_superuser: bool = False) -> HttpRequest:
    request = RequestFactory().get(path)
    request.user = factories.person("pat", *roles, is_superuser=is_superuser)
    return request


def test_it_has_nine_entries_for_who_may_see_everything() -> None:
    [group] = menu.navigation(asked_by("/admin/", is_superuser=True))
    titles = [item["title"] for item in group["items"]]
    assert titles == [
        *("Overview", "Spend", "Calls", "Budgets", "Customers", "Keys", "Models", "Billing", "Settings"),
    ]
    assert [item["title"] for item in group["items"] if item["active"]] == ["Overview"]


def test_every_registered_model_has_one_tab() -> None:
    tabs = [tab.model for _, tabs in menu.shown(asked_by("/admin/", is_superuser=True)) for tab in tabs if tab.model]
    assert sorted(tabs) == sorted(model._meta.label_lower for model in admin.site._registry)


def test_a_row_is_in_its_tables_section() -> None:
    request = asked_by(f"{reverse('admin:governance_budget_changelist')}7/change/", is_superuser=True)
    assert menu.section_at(request) == "Budgets"
    [tab] = [
        item for each in menu.tabs(request) if each["page"] == "Budgets" for item in each["items"] if item["active"]
    ]
    assert tab["title"] == "Budgets"


def test_an_address_in_no_section_has_none() -> None:
    assert menu.section_at(asked_by(reverse("admin:second-factor"), is_superuser=True)) == ""


def test_who_has_no_role_is_led_to_nothing_of_the_businesss() -> None:
    titles = [section.title for section, _ in menu.shown(asked_by("/admin/"))]
    assert titles == ["Overview", "Settings"]
