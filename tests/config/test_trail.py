"""The head of a page says where it is, and leads to all that it is below."""

from __future__ import annotations

import html
import re

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from config.console import menu
from config.console.trail import Crumb, Trail, trail
from tests import factories

pytestmark = pytest.mark.django_db
HEADING = re.compile(r"<h1 title=\"([^\"]*)\">")


@pytest.fixture
def owner() -> Client:
    client = Client()
    client.force_login(factories.person("olga", is_superuser=True))
    return client


def trail_of(client: Client, path: str) -> Trail:
    answer = client.get(path)
    assert answer.status_code == 200
    found: Trail = trail(answer.context)
    headings = HEADING.findall(answer.content.decode())
    assert [html.unescape(heading) for heading in headings] == [found.here]
    return found


def test_a_rows_page_is_below_its_table_and_an_act_below_the_row(owner: Client) -> None:
    agent = factories.agent("support")
    page = reverse("admin:governance_agent_change", args=[agent.pk])
    table = [Crumb("Customers", "/admin/governance/tenant/"), Crumb("Agents", "/admin/governance/agent/")]

    assert trail_of(owner, table[1].link) == Trail((table[0],), "Agents")
    assert trail_of(owner, page) == Trail((*table,), "acme/support")
    act = page.replace("change", "pause")
    assert trail_of(owner, act) == Trail((*table, Crumb("acme/support", page)), "Pause agent")


def test_the_first_tab_of_a_section_is_the_section(owner: Client) -> None:
    budget = factories.budget("9", tenant=factories.tenant("acme"))
    budgets = Crumb("Budgets", "/admin/governance/budget/")

    assert trail_of(owner, budgets.link) == Trail((), "Budgets")
    assert trail_of(owner, f"{budgets.link}add/") == Trail((budgets,), "Add budget")
    raised = Crumb(str(budget), f"{budgets.link}{budget.pk}/change/")
    assert trail_of(owner, f"{budgets.link}{budget.pk}/allow/") == Trail((budgets, raised), "Raise or top up")


def test_a_page_that_is_no_models_is_its_tab(owner: Client) -> None:
    billing = Crumb("Billing", reverse("admin:stripe-health"))
    assert trail_of(owner, reverse("admin:margin")) == Trail((billing,), "Margin")
    none = owner.get(reverse("admin:call", args=["nobody"]))
    assert trail(none.context) == Trail((Crumb("Calls", reverse("admin:calls")),), "Call")
    assert trail_of(owner, reverse("admin:second-factor")).above == ()


def test_every_page_and_table_has_one_heading_that_is_its_tab(owner: Client) -> None:
    found = {}
    for page in menu.pages():
        if not page.is_part and page.name not in ("story", "report-mail"):
            found[page.name] = trail_of(owner, reverse(f"admin:{page.name}")).above
    for model in admin.site._registry:
        path = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        found[path] = trail_of(owner, path).above
    assert [(name, above) for name, above in found.items() if len(above) > 1] == []
