"""Every form of the console with what no browser sends: never a 5xx, and nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.test import Client, RequestFactory
from django.urls import reverse

from governance.models import Budget
from llm.models import Model
from tests import factories as make

# A value that breaks a statement breaks the transaction around it, and requests have none.
pytestmark = pytest.mark.django_db(transaction=True)
HOSTILE = ["[]", "9" * 30, "a\x00b"]
NAMES = re.compile(r'<(?:input|select|textarea)[^>]*\bname="([^"]+)"')


@pytest.fixture
def owner() -> Client:
    make.budget("1.00")
    make.key()
    client = Client(raise_request_exception=False)
    client.force_login(make.person("olga", is_superuser=True))
    return client


def address(model: type[models.Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_{page}", args=args)


def forms(owner: Client) -> Iterator[tuple[str, list[str]]]:
    """Where each form is, and the names of its fields."""
    for model in admin.site._registry:
        first = model._default_manager.first()  # type: ignore[attr-defined]
        for url in [address(model, "add"), *([address(model, "change", first.pk)] if first else [])]:
            page = owner.get(url)
            if page.status_code == 200:
                yield url, sorted(set(NAMES.findall(page.content.decode())))


def test_a_form_with_what_no_field_can_have_fails_nothing(owner: Client) -> None:
    failed, tried = [], 0
    for url, fields in forms(owner):
        for name in fields:
            for value in HOSTILE:
                tried += 1
                if owner.post(url, dict.fromkeys(fields, "1") | {name: value}).status_code >= 500:
                    failed.append((url, name, value[:20]))
    assert failed == []
    assert tried > 200


@pytest.mark.parametrize("value", [*HOSTILE, "x", "-1"])
def test_an_act_on_rows_of_a_list_that_cannot_be_fails_nothing(owner: Client, value: str) -> None:
    request = RequestFactory().get("/")
    request.user = User.objects.get(username="olga")
    failed, tried = [], 0
    for model, its in admin.site._registry.items():
        for act in its.get_actions(request):
            tried += 1
            chosen = {"action": act, "_selected_action": value, "index": "0", "select_across": "0"}
            if owner.post(address(model, "changelist"), chosen).status_code >= 500:
                failed.append((model, act))
    assert failed == []
    assert tried > 5


@pytest.mark.parametrize("value", ["[]", "*", "9223372036854775808"])
def test_it_is_a_400_where_the_form_cannot_be_drawn_again(owner: Client, value: str) -> None:
    before = Budget.objects.count()
    posted = owner.post(reverse("admin:llm_modelalias_add"), {"name": "zz9", "model": value})
    assert (posted.status_code, Budget.objects.count()) == (400, before)


@pytest.mark.parametrize("count", ["0", "7", "NaN"])
def test_rows_that_are_not_there_are_none(owner: Client, count: str) -> None:
    url = reverse("admin:llm_model_change", args=[Model.objects.earliest("pk").pk])
    fields = {"prices-INITIAL_FORMS": count, "prices-TOTAL_FORMS": "7"}
    assert owner.post(url, fields).status_code < 500
