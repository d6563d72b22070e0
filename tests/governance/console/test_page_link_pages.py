"""Links to customers' read-only pages, in the console."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from governance.models import AuditEntry, PageLink, Tenant
from tests import confirmed, factories
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
LIST = "/admin/governance/pagelink/"


@pytest.fixture
def operator() -> Client:
    return signed_in("olga", "operator")


@pytest.fixture
def acme() -> Tenant:
    return factories.tenant()


def make_page(tenant: Tenant) -> str:
    return f"/admin/governance/tenant/{tenant.pk}/page-link/"


def customer_page(client: Client, tenant: Tenant) -> str:
    answer = client.get(f"/admin/governance/tenant/{tenant.pk}/change/")
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_link_is_made_on_the_customers_page_and_shown_once(operator: Client, acme: Tenant) -> None:
    assert make_page(acme) in customer_page(operator, acme)
    form = confirmed.read(operator, make_page(acme)) | {"days": "7", "note": "Ada <b>"}
    answer = operator.post(make_page(acme), form)
    assert "no-store" in answer["Cache-Control"]
    page = answer.content.decode()
    found = re.search(r'id="new-link">http[^<]*(/customers/[^<]+)<', page)
    assert found is not None
    assert Client().get(found[1]).status_code == 200
    link = PageLink.objects.get()
    assert (link.made_by, link.note, link.ends_at - link.made_at) == ("olga", "Ada <b>", timedelta(days=7))
    shown = customer_page(operator, acme)
    assert found[1] not in shown
    assert "Ada &lt;b&gt;" in shown
    assert "made a link to its read-only page" in shown
    again = operator.post(make_page(acme), form, follow=True).content.decode()
    assert "The new link was shown by the first press, once." in again
    assert PageLink.objects.count() == 1


def test_what_is_wrong_is_said_beside_its_field(operator: Client, acme: Tenant) -> None:
    page = operator.post(make_page(acme), {"days": "367"}).content.decode()
    assert "less than or equal to 366" in page
    page = operator.post(make_page(acme), {"days": "3", "note": " \u200b"}).content.decode()
    assert "new-link" not in page
    assert not PageLink.objects.exists()


def test_a_link_is_taken_back_with_a_reason(operator: Client, acme: Tenant) -> None:
    url, link = factories.page_link(acme, now=timezone.now(), note="Ada")
    assert "works" in operator.get(f"{LIST}{link.pk}/change/").content.decode()
    page = f"{LIST}{link.pk}/end/"
    form = confirmed.read(operator, page) | {"_confirmed": "yes", "reason": "Ada left"}
    said = operator.post(page, form, follow=True).content.decode()
    assert "Take back: read-only page of acme for Ada." in said
    assert Client().get(url).status_code == 410
    assert AuditEntry.objects.filter(action="page_link.end", actor="olga", reason="Ada left").count() == 1
    assert f"{link.pk}/end/" not in operator.get(f"{LIST}{link.pk}/change/").content.decode()


def test_all_of_a_customers_are_taken_back_from_the_list(operator: Client, acme: Tenant) -> None:
    links = [factories.page_link(acme, now=timezone.now())[1].pk for _ in range(3)]
    _, other = factories.page_link(factories.tenant("globex"), now=timezone.now())
    page = operator.get(f"{LIST}?q=acme&state=works").content.decode()
    assert (f"/{links[0]}/change/" in page, f"/{other.pk}/change/" in page) == (True, False)
    form = {"action": "end_selected", "_selected_action": links, "_confirmed": "yes", "reason": "all of them"}
    operator.post(f"{LIST}?q=acme", form)
    assert list(PageLink.objects.filter(ended_at=None)) == [other]
    assert f"/{links[0]}/change/" in operator.get(f"{LIST}?state=over").content.decode()


@pytest.mark.parametrize("role", ["viewer", "billing"])
def test_who_may_only_read_makes_none_and_ends_none(acme: Tenant, role: str) -> None:
    _, link = factories.page_link(acme, now=timezone.now())
    client = signed_in("vic", role)
    assert client.get(f"{LIST}{link.pk}/change/").status_code == 200
    assert make_page(acme) not in customer_page(client, acme)
    assert client.post(make_page(acme), {"days": "3"}).status_code == 403
    assert client.post(f"{LIST}{link.pk}/end/", {"_confirmed": "yes", "reason": "x"}).status_code == 403
    assert PageLink.objects.get().works(timezone.now())


def test_a_customers_own_staff_sees_none(acme: Tenant) -> None:
    factories.page_link(acme, now=timezone.now(), note="Ada")
    client = signed_in("tom", "tenant staff", of=acme)
    assert client.get(LIST).status_code == 403
    assert client.post(make_page(acme), {"days": "3"}).status_code == 403
    assert "Read-only page" not in customer_page(client, acme)
