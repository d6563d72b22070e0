"""The inbox of Stripe's events in the console: by state, and what each said beside what came of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from billing import dispatch
from billing.inbox import envelope, store
from billing.models import BillingAccount, StripeEvent
from billing.queries import effects
from governance.models import AuditEntry, Tenant
from tests import confirmed, factories
from tests.billing.conftest import Deliver
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice_paid,
    subscription_created,
    subscription_updated,
)

pytestmark = pytest.mark.django_db
LIST = "/admin/billing/stripeevent/"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(factories.person("bea", "billing"))
    return client


@pytest.fixture
def inbox(tenant: Tenant, deliver: Deliver) -> None:
    """One event of each state."""
    deliver(checkout_completed(id="evt_done"))
    for id, of in (("evt_waiting", {}), ("evt_failing", {}), ("evt_dead", {}), ("evt_foreign", {"account": "acct_x"})):
        store.store(envelope.parse(json.dumps({**invoice_paid(id=id), **of})), now=START)
    rows = StripeEvent.objects
    rows.filter(event_id="evt_failing").update(attempts=3, error="StripeUnavailable: 500")
    aside = {"dead_at": START, "quarantine_reason": "gave up after 12 tries", "attempts": 12}
    rows.filter(event_id="evt_dead").update(**aside, error=f"ValueError: {HOSTILE}")


def page_of(staff: Client, id: str) -> Any:
    return staff.get(f"{LIST}{StripeEvent.objects.get(event_id=id).pk}/change/")


def listed(staff: Client, **asked: str) -> list[str]:
    return [row.event.event_id for row in staff.get(LIST, asked).context["cl"].rows]


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("waiting", ["evt_waiting"]),
        ("failing", ["evt_failing"]),
        ("put aside", ["evt_dead"]),
        ("not ours", ["evt_foreign"]),
        ("done", ["evt_done"]),
        ("odd", ["evt_foreign", "evt_dead", "evt_failing", "evt_waiting", "evt_done"]),
    ],
)
def test_events_are_listed_by_state_with_counts(staff: Client, inbox: None, state: str, shown: list[str]) -> None:
    assert listed(staff, state=state) == shown
    tabs = {words: count for _, words, count, _ in staff.get(LIST).context["cl"].tabs}
    assert tabs == {"All": None, "Waiting": 1, "Failing": 1, "Put aside": 1, "Not ours": 1, "Done": None}


def test_events_are_found_by_id_customer_and_tenant(staff: Client, inbox: None) -> None:
    assert listed(staff, q="evt_dead") == ["evt_dead"]
    for text in ("cus_acme", "acme"):
        assert len(listed(staff, q=text)) == 5
    assert listed(staff, q="cus_nobody") == []
    page = staff.get(LIST).content.decode()
    assert "acme" in page
    assert "<script>alert" not in page


def test_the_list_asks_as_often_however_long_it_is(
    staff: Client, inbox: None, deliver: Deliver, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    deliver(*(subscription_updated(created=START + number * DAY) for number in range(10)))
    with django_assert_max_num_queries(16):
        staff.get(LIST)


def test_an_event_stands_beside_what_came_of_it(
    staff: Client, tenant: Tenant, deliver: Deliver, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    deliver(checkout_completed(id="evt_checkout"), subscription_created(), invoice_paid(id="evt_paid"))
    with django_assert_max_num_queries(24):
        page = page_of(staff, "evt_paid").content.decode()
    assert "opened a window of $50.00" in page
    assert "&quot;billing_reason&quot;: &quot;subscription_create&quot;" in page
    assert "The same as in the event." in page
    bound = page_of(staff, "evt_checkout").content.decode()
    assert "bound the customer to acme" in bound
    assert "named by Stripe" in bound


@pytest.mark.parametrize("created", [2**62, 10**12, -(10**12)])
def test_an_event_of_a_time_that_is_none_is_shown(staff: Client, inbox: None, created: int) -> None:
    StripeEvent.objects.update(created=created)
    assert f"{created}, which is no time" in page_of(staff, "evt_done").content.decode()
    assert len(listed(staff, q="acme")) == 5


def test_what_an_object_says_by_now_is_told_apart_from_what_it_said(
    staff: Client, tenant: Tenant, deliver: Deliver
) -> None:
    deliver(checkout_completed(), subscription_created(id="evt_first"))
    later = START + DAY
    deliver(subscription_updated(created=later, status="past_due", collection_method=None), now=later)
    page = page_of(staff, "evt_first").content.decode()
    assert "<del>active</del> → <ins>past_due</ins>" in page
    found = effects.differences({"a": 1, "b": [1], "c": None, "livemode": True}, {"a": 2, "b": [2], "c": True, "d": 1})
    assert [(one.name, one.then, one.now) for one in found] == [("a", "1", "2"), ("b", "", ""), ("c", "none", "yes")]


@pytest.mark.parametrize(
    ("id", "says"),
    [
        ("evt_waiting", "Nothing yet."),
        ("evt_failing", "It failed and is tried again by itself."),
        ("evt_dead", "Mend the cause that stands below, then replay it."),
        ("evt_foreign", "it is of the connected account acct_x."),
        ("evt_done", "bound the customer to acme"),
    ],
)
def test_each_state_says_what_to_do(staff: Client, inbox: None, id: str, says: str) -> None:
    page = page_of(staff, id).content.decode()
    assert says in page
    assert "<script>alert" not in page


def test_what_asks_for_nothing_and_what_concerns_nobody_say_so(staff: Client, tenant: Tenant, deliver: Deliver) -> None:
    deliver(event("payout.paid", {"id": "po_1", "object": "payout"}, id="evt_idle"))
    deliver(event("product.updated", {"id": "prod_1", "object": "product", "name": HOSTILE}, id="evt_product"))
    assert "Nothing here asks for events of this type." in page_of(staff, "evt_idle").content.decode()
    page = page_of(staff, "evt_product").content.decode()
    assert "is about Stripe&#x27;s prices and products" in page
    assert "<script>alert" not in page


def test_an_event_is_replayed_once_that_is_confirmed(
    staff: Client, inbox: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(dispatch, "soon", sent.append)
    row = StripeEvent.objects.get(event_id="evt_dead")
    path = f"{LIST}{row.pk}/replay/"
    assert "nothing is done twice" in staff.get(path).content.decode()
    assert sent == []
    assert confirmed.press(staff, path).status_code == 200
    row.refresh_from_db()
    assert (row.dead_at, row.attempts, sent) == (None, 0, ["evt_dead"])
    assert AuditEntry.objects.get(action="billing.process_again").actor == "bea"
    foreign = StripeEvent.objects.get(event_id="evt_foreign")
    answer = confirmed.press(staff, f"{LIST}{foreign.pk}/replay/").content.decode()
    assert "1 event: not ours, and left as it is." in answer
    assert sent == ["evt_dead"]


def test_whoever_only_reads_replays_nothing(client: Client, inbox: None) -> None:
    client.force_login(factories.person("vera", "viewer"))
    row = StripeEvent.objects.get(event_id="evt_dead")
    assert "Replay selected" not in client.get(LIST).content.decode()
    assert client.post(f"{LIST}{row.pk}/replay/").status_code == 403
    client.post(LIST, {"action": "process_again", "_selected_action": [row.pk]})
    row.refresh_from_db()
    assert row.dead_at is not None


def test_with_nothing_in_it_it_says_what_to_do(staff: Client) -> None:
    assert "Stripe has sent nothing yet." in staff.get(LIST).content.decode()
    assert BillingAccount.objects.count() == 0
