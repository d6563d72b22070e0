"""Every page of the console with queries that no link of its own has: never a 5xx, on either database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.test import Client
from django.urls import NoReverseMatch, URLPattern, reverse
from django.utils import timezone

from governance import ledger
from llm.models import ProviderEndpoint
from tests import factories as make

# A value that breaks a statement breaks the transaction around it, and requests have none.
pytestmark = pytest.mark.django_db(transaction=True)

HUGE = "9" * 30
LOOKUPS = (
    *("", "__exact", "__in", "__gt", "__range", "__contains", "__startswith", "__isnull", "__iregex"),
    *("__year", "__year__gt", "__date", "__week", "__hour", "__time", "__has_key", "__0", "__length"),
)
VALUES = (HUGE, "x", "99999", "9999-12-31T23:59:59-14:00", "null")
# What Django and Unfold read of any list's address.
ANY_LIST = (
    *(f"p={value}" for value in (HUGE, "-1", "x", "2147483647", "9" * 5_000)),
    *(f"o={value}" for value in (HUGE, "-1.x", "1.-99", "9" * 5_000)),
    *("q=%ff%fe", "q=" + "a" * 5_000, "all=", "e=1", "_facets=1", "_popup=1&_to_field=id", "_to_field=x"),
    *(
        f"id={HUGE}",
        f"pk__in={HUGE},x",
        f"id__in={HUGE}",
        "id__gt=x",
        "nothing=1",
        "nothing__nothing__year=1",
        "=",
        "&&",
    ),
    f"_changelist_filters={quote(f'id={HUGE}&p=x')}",
)
# What the site's own pages read, and a form, and the history of a row.
ANY_PAGE = (
    *(f"p={value}" for value in (HUGE, "-1", "x")),
    *("period=x", "s=a&page=x", "s=a&page=-1", f"s=a&page={HUGE}", "s=a&extended=1&page=x", "next=//x.org", "e=1"),
    *("app_label=governance&model_name=budget&field_name=tenant&term=a&page=" + value for value in (HUGE, "x")),
    *("app_label=x&model_name=y&field_name=z", "app_label=governance&model_name=budget&field_name=scope_key&term=a"),
    f"_changelist_filters={quote(f'id={HUGE}')}",
)
ANY_ROW = (f"p={HUGE}", "p=x", f"_changelist_filters={quote(f'id={HUGE}')}")
NULS = ("q=%00", "p=%00", "o=%00", "a=b%00c", "%00=1", "_changelist_filters=%00", "s=%00", "next=%00", "term=%00")


@pytest.fixture
def owner(db: None) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_user("olga", is_staff=True, is_superuser=True))
    return client


def registered() -> dict[str, type[models.Model]]:
    return {model._meta.label_lower: model for model in admin.site._registry}


def address_of(model: type[models.Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_{page}", args=args)


def own_pages() -> Iterator[str]:
    """Every page of the site that is no model's."""
    for pattern in admin.site.get_urls():
        if isinstance(pattern, URLPattern) and pattern.name:
            try:
                yield reverse(f"admin:{pattern.name}")
            except NoReverseMatch:
                continue


OWN_PAGES = sorted({*own_pages()} - {reverse("admin:logout")})


def failures(client: Client, address: str, queries: Any) -> list[tuple[str, int]]:
    answers = [(query, client.get(f"{address}?{query}").status_code) for query in queries]
    assert answers
    return [(query[:80], status) for query, status in answers if status >= 500]


def offered(model: type[models.Model]) -> list[str]:
    """The fields that a list is filtered by."""
    entries = admin.site._registry[model].list_filter
    return [entry if isinstance(entry, str) else entry[0] for entry in entries if isinstance(entry, str | tuple)]


def kinds() -> Iterator[tuple[str, str]]:
    """(model, field): the first of each kind of column that the console's lists are filtered by."""
    seen: set[type] = set()
    for label, model in sorted(registered().items()):
        for name in offered(model):
            if "__" not in name and type(field := model._meta.get_field(name)) not in seen:
                seen.add(type(field))
                yield label, name


@pytest.mark.parametrize("label", sorted(registered()))
def test_a_lists_address_may_say_anything(owner: Client, label: str) -> None:
    make.tenant()
    model = registered()[label]
    fields = {field.name: field for field in model._meta.concrete_fields}
    moments = [name for name, field in fields.items() if isinstance(field, models.DateTimeField)]
    queries = [
        *ANY_LIST,
        *(
            f"{name}{lookup}={quote(value)}"
            for name in offered(model)
            for lookup in ("", "__exact", "__id__exact", "__isempty")
            for value in (HUGE, "x", "9" * 5_000)
        ),
        *(
            f"{name}__{part}={value}"
            for name in moments[:2]
            for part in ("year", "year__gte", "gte", "month")
            for value in ("99999", "-1", "x", HUGE)
        ),
    ]
    assert failures(owner, address_of(model, "changelist"), queries) == []


@pytest.mark.parametrize(("label", "name"), list(kinds()), ids=lambda part: part)
def test_a_column_of_any_kind_may_be_compared_with_anything(owner: Client, label: str, name: str) -> None:
    queries = [f"{name}{lookup}={quote(value)}" for lookup in LOOKUPS for value in VALUES]
    assert failures(owner, address_of(registered()[label], "changelist"), queries) == []


@pytest.mark.parametrize("label", sorted(registered()))
def test_a_form_begins_with_whatever_an_address_says(owner: Client, label: str) -> None:
    make.tenant()
    model = registered()[label]
    names = [field.name for field in (*model._meta.concrete_fields, *model._meta.many_to_many)]
    queries = [f"{name}={quote(value)}" for name in names for value in ("x", HUGE)]
    assert failures(owner, address_of(model, "add"), [*queries, *ANY_PAGE]) == []


def test_a_rows_pages_are_asked_anything(owner: Client) -> None:
    make.budget("1", scope_type="agent", scope_key="invoices")
    by = make.caller(agent="invoices")
    ledger.record(make.reporting("0.85", by=by), now=timezone.now())
    ledger.reserve(make.reserving("0.05", by=by), now=timezone.now())
    make.key()
    walked = set()
    for model, model_admin in admin.site._registry.items():
        for row in model._default_manager.all()[:1]:
            for pattern in model_admin.get_urls():
                try:
                    address = reverse(f"admin:{pattern.name}", args=[row.pk])
                except NoReverseMatch:
                    continue
                assert failures(owner, address, ANY_ROW) == [], address
                walked.add(pattern.name)
    assert {"governance_budget_change", "governance_budget_history", "governance_budget_reset_one"} <= walked


@pytest.mark.parametrize("address", OWN_PAGES)
def test_a_page_of_the_sites_own_is_asked_anything(owner: Client, address: str) -> None:
    make.budget("1")
    ledger.record(make.reporting("0.85"), now=timezone.now())
    assert failures(owner, address, ANY_PAGE) == []


@pytest.mark.parametrize("signed_in", [True, False])
def test_a_query_with_a_nul_is_a_400_on_any_page(owner: Client, signed_in: bool) -> None:
    client = owner if signed_in else Client(raise_request_exception=False)
    lists = [address_of(model, page) for model in registered().values() for page in ("changelist", "add")]
    for address in (*lists, *OWN_PAGES, "/billing/top-up/x", "/metrics", "/nowhere"):
        for query in NULS:
            assert client.get(f"{address}?{query}").status_code == 400, (address, query)


def test_whoever_asks_for_what_cannot_be_is_told_and_led_to_the_page(owner: Client) -> None:
    make.budget("1")
    for address, query in (
        ("/admin/billing/meterevent/", "hour__year=99999"),
        ("/admin/llm/price/add/", "effective_from=x"),
    ):
        answer = owner.get(f"{address}?{query}")
        assert (answer.status_code, answer.headers.get("Location")) == (302, address), query
    assert "cannot be looked up" in owner.get("/admin/billing/meterevent/").content.decode()


def test_a_list_takes_no_patterns(owner: Client) -> None:
    for address in ("/admin/governance/budget/?scope_key__regex=a", "/admin/auth/user/?username__iregex=a"):
        assert owner.get(address).status_code == 400


@pytest.mark.parametrize("label", sorted(registered()))
def test_a_list_is_filtered_by_nothing_but_what_it_offers(owner: Client, label: str) -> None:
    model = registered()[label]
    names = {field.name for field in model._meta.concrete_fields} - {*offered(model)}
    assert names
    queries = [f"{name}{lookup}=1" for name in names for lookup in ("__exact", "__startswith")]
    address = address_of(model, "changelist")
    assert [query for query in queries if owner.get(f"{address}?{query}").status_code != 400] == []
    assert owner.get(address).status_code == 200


@pytest.mark.parametrize("role", ["viewer", "billing", "operator"])
def test_a_secret_that_no_page_shows_is_not_read_by_guesses(role: str) -> None:
    make.key(role="operator")
    ProviderEndpoint.objects.create(
        name="own", base_url="https://x.test/v1", sealed_key="abc", updated_at=timezone.now()
    )
    client = Client()
    client.force_login(make.person("eve", role))
    assert client.get("/admin/governance/apikey/?role__exact=operator").status_code == 200
    for guess in (
        "governance/apikey/?digest__startswith=",
        "governance/apikey/?role__exact=operator&digest__gte=0",
        "llm/providerendpoint/?sealed_key__startswith=a",
        "llm/providerendpoint/?sealed_key=abc",
    ):
        assert client.get(f"/admin/{guess}").status_code == 400, guess


@pytest.mark.parametrize("role", ["viewer", "tenant staff"])
def test_a_list_is_filtered_as_it_offers_and_as_links_lead_to_it(role: str) -> None:
    client = Client()
    client.force_login(make.person("eve", role, of=make.tenant() if role == "tenant staff" else None))
    for address in (
        "governance/spendentry/?estimates=open&kind__exact=charge",
        "governance/budgetwindow/?budget__window__exact=day",
        "governance/budgetwindow/?budget__id__exact=1",
        "governance/budgetevent/?budget__id__exact=1",
        "governance/alert/?cleared_at__isempty=1",
    ):
        if "alert" not in address or role == "viewer":
            assert client.get(f"/admin/{address}").status_code == 200, address


def test_a_page_that_fails_by_itself_is_a_500(owner: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("a defect")

    monkeypatch.setattr("config.console.overview.context", broken)
    assert owner.get("/admin/", follow=True).status_code == 500
    # What is asked for is left out, and what is left fails.
    assert owner.get("/admin/?a=1").status_code == 302
