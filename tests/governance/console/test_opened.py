"""What changed since a form of the console was opened is not put back by it, whichever page it is on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import time
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from billing.models import BillingAccount, Plan
from governance.actions import budgets, rate_limits, tenancy
from governance.audit import Actor
from governance.models import AlertChannel, AnomalyRule, Budget, RateLimit, Tenant
from llm.models import Model, ModelAlias, ProviderEndpoint
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db
BY = Actor("boris")
# Columns by the field of a form that shows them in another unit.
SHOWN_AS = {
    "limit": "limit_nanos",
    "dollars_per_minute": "nanos_per_minute",
    "limit_override": "limit_override_nanos",
}
LISTS = {"groups", "kinds", "capabilities", "areas", "tenants"}
# Of some columns not every value can be.
OTHERS = {
    "warn_at": Decimal("0.3"),
    "alert_thresholds": ["0.3"],
    "downgrade_rules": [{"from": ["a"], "to": "b"}],
    "time_zone": "Europe/Paris",
    "quiet_from": time(1),
    "quiet_until": time(2),
}
# What some cannot change without.
BESIDE = {"act": {"degrade_to": ""}}
# What no form shows, or no column keeps.
NOT_SHOWN = {"new_key", "password", "groups", "tenant"}


@pytest.fixture
def owner() -> Client:
    client = Client()
    client.force_login(factories.person("olga", is_superuser=True))
    return client


@pytest.fixture
def rows() -> list[models.Model]:
    """A row of each model that has a form."""
    acme = factories.tenant()
    limits = {"requests_per_minute": 100, "tokens_per_minute": 1_000, "nanos_per_minute": nanos("1")}
    model = Model.objects.earliest("pk")
    # One alone is the default.
    Plan.objects.all().delete()
    return [
        factories.budget("1"),
        RateLimit.objects.create(tenant=acme, scope_type="tenant", scope_key="acme", **limits),
        acme,
        Plan.objects.create(name="Small", limit_nanos=nanos("5")),
        BillingAccount.objects.create(stripe_customer_id="cus_1", tenant=acme, limit_override_nanos=nanos("7")),
        model,
        ModelAlias.objects.create(name="other-name", model=model),
        ProviderEndpoint.objects.create(
            name="ours", kind="openai_compatible", base_url="https://models.example.com/v1", updated_at=timezone.now()
        ),
        factories.person("vera", "viewer"),
        AnomalyRule.objects.create(tenant=acme, agent="*", act="degrade", degrade_to="small"),
        AlertChannel.objects.create(name="owner", kind="email", target="owner@example.com"),
    ]


def page_of(row: models.Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def opened(client: Client, row: models.Model) -> tuple[Any, dict[str, Any]]:
    """A page's form, and what a browser would send of it."""
    answer = client.get(page_of(row))
    form = answer.context["adminform"].form
    sent: dict[str, Any] = {}
    for field in form:
        value = field.value()
        if value is not None and value is not False:
            sent[field.html_name] = [str(getattr(each, "pk", each)) for each in value] if field.name in LISTS else value
    sent |= {"downgrade_rules": ""} if "downgrade_rules" in sent else {}
    for name in ("prices-TOTAL_FORMS", "prices-INITIAL_FORMS"):
        sent[name] = "0"
    token = re.search(r'name="_opened" value="([^"]+)"', answer.content.decode())
    assert token is not None, f"the page of {row!r} does not say how it was opened"
    return form, sent | {"_opened": unescape(token[1])}


def another(column: Any, value: Any) -> Any:
    """Some other value that a column may have."""
    if column.name in OTHERS:
        return OTHERS[column.name]
    if column.choices:
        return next(choice for choice, _ in column.choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(column, models.ForeignKey):
        return column.related_model._default_manager.exclude(pk=value.pk).latest("pk").pk
    if isinstance(column, models.JSONField):
        return ["other"]
    if isinstance(column, models.DecimalField):
        return Decimal("0.9")
    if isinstance(column, models.IntegerField):
        return value - 1 if value else 1
    return "https://other.example.com/v1"


def moved(row: models.Model, form: Any) -> Iterator[tuple[str, str, Any]]:
    """Each field of a form that a column keeps, the column, and what it is changed to."""
    columns = {column.name: column for column in row._meta.concrete_fields}
    for name, field in form.fields.items():
        column = columns.get(SHOWN_AS.get(name, name))
        if column is None or name in NOT_SHOWN or field.disabled:
            continue
        yield name, column.name, another(column, getattr(row, column.name))


def test_every_form_is_tried(rows: list[models.Model]) -> None:
    request = RequestFactory().get("/")
    request.user = factories.person("olga", is_superuser=True)
    changed = {model for model, its in admin.site._registry.items() if its.has_change_permission(request)}
    assert changed == {type(row) for row in rows}


@pytest.mark.parametrize("place", range(11))
def test_a_form_that_is_old_puts_nothing_back(owner: Client, rows: list[models.Model], place: int) -> None:
    row = rows[place]
    form, sent = opened(owner, row)
    kept = dict(type(row)._default_manager.filter(pk=row.pk).values()[0])  # type: ignore[attr-defined]
    tried = 0
    for name, column, value in moved(row, form):
        stored = type(row)._default_manager.filter(pk=row.pk)  # type: ignore[attr-defined]
        changed = {column: value} | BESIDE.get(column, {})
        stored.update(**changed)
        answer = owner.post(page_of(row), sent)
        assert answer.status_code == 200, name
        errors = answer.context["adminform"].form.errors
        assert "since you opened this page" in str(errors.get(name)), (name, errors)
        assert stored.values_list(column, flat=True)[0] == value, name
        # Saving again saves no more: the page that is shown says how the first was opened.
        again = re.search(r'name="_opened" value="([^"]+)"', answer.content.decode())
        assert again is not None
        assert unescape(again[1]) == sent["_opened"]
        stored.update(**{each: kept[row._meta.get_field(each).attname] for each in changed})  # type: ignore[union-attr]
        tried += 1
    assert tried


@pytest.mark.parametrize("place", range(11))
def test_a_form_that_is_fresh_is_saved(owner: Client, rows: list[models.Model], place: int) -> None:
    _, sent = opened(owner, rows[place])
    answer = owner.post(page_of(rows[place]), sent)
    assert answer.status_code == 302, answer.context["adminform"].form.errors


def test_a_limit_that_was_lowered_stays_and_it_is_said_who_lowered_it(owner: Client) -> None:
    budget = factories.budget("1")
    _, sent = opened(owner, budget)
    budgets.change(budget=budget, changes={"limit_nanos": nanos("0.2")}, by=BY, now=timezone.now())
    answer = owner.post(page_of(budget), sent | {"alert_thresholds": "70"})
    error = "It is 0.2 now, changed by boris since you opened this page. Open it anew."
    assert answer.context["adminform"].form.errors == {"limit": [error]}
    assert error in answer.content.decode()
    assert Budget.objects.get().limit_nanos == nanos("0.2")


def test_a_rate_limit_and_a_tenant_say_so_too(owner: Client) -> None:
    tenant = factories.tenant()
    limit = RateLimit.objects.create(tenant=tenant, scope_type="tenant", scope_key=tenant.slug, requests_per_minute=100)
    (_, first), (_, second) = opened(owner, limit), opened(owner, tenant)
    rate_limits.change(limit=limit, changes={"requests_per_minute": 5}, by=BY, now=timezone.now())
    tenancy.change_tenant(tenant=tenant, changes={"show_amounts": False}, by=BY, now=timezone.now())
    answer = owner.post(page_of(limit), first | {"tokens_per_minute": "1000"})
    assert "It is 5 now, changed by boris" in str(answer.context["errors"])
    answer = owner.post(page_of(tenant), second | {"name": "Acme"})
    assert "It is off now, changed by boris" in str(answer.context["errors"])
    assert RateLimit.objects.get().requests_per_minute == 5
    assert not Tenant.objects.get().show_amounts


def test_a_role_that_was_taken_away_is_not_given_back(owner: Client) -> None:
    vera = factories.person("vera", "operator")
    _, sent = opened(owner, vera)
    vera.groups.clear()
    assert owner.post(page_of(vera), sent | {"first_name": "Vera"}).status_code == 200
    assert not User.objects.get(username="vera").groups.exists()


def test_what_two_change_alike_is_no_quarrel(owner: Client) -> None:
    """So a form that is posted twice is saved once."""
    budget = factories.budget("1")
    _, sent = opened(owner, budget)
    for _ in range(2):
        assert owner.post(page_of(budget), sent | {"limit": "3"}).status_code == 302
    assert Budget.objects.get().limit_nanos == nanos("3")


@pytest.mark.parametrize("junk", ["", "x", "9" * 30 + " limit:1", "1 limit", ":: ::", "1 limit:0\x00"])
def test_what_no_page_sends_fails_nothing(owner: Client, junk: str) -> None:
    budget = factories.budget("1")
    _, sent = opened(owner, budget)
    assert owner.post(page_of(budget), sent | {"_opened": junk, "limit": "2"}).status_code in (200, 302)
