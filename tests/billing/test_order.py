"""Order and repetition do not matter: any permutation of a stream, with any duplicates, ends in the same state."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.accounts import sync
from billing.models import BillingAccount, Invoice, StripeEvent, Subscription
from governance.models import Budget, BudgetWindow, Tenant
from tests import factories
from tests.billing.conftest import Deliver
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice_paid,
    recorded,
    subscription_created,
    subscription_updated,
)

pytestmark = pytest.mark.django_db
NEXT = START + 30 * DAY
Stream = list[dict[str, Any]]


class Undo(Exception):
    """Rolls a run back, so that the next one starts from the same database."""


def outcome(deliver: Deliver, events: Iterable[dict[str, Any]], *, now: Any) -> dict[str, Any]:
    """The state that a stream ends in, in a database that is left as it was."""
    found: dict[str, Any] = {}
    try:
        with transaction.atomic():
            deliver(list(events), now=now)
            # What news of a price or product asks for is done with what is due.
            sync.due(now=now)
            found = state()
            raise Undo
    except Undo:
        return found


def state() -> dict[str, Any]:
    """What a stream ends in, as far as anything can be spent.

    Closed windows are history: a period that came too late never had one. So is what is left of a suspended tenant.
    """
    assert not StripeEvent.objects.waiting().exists()
    spending = Tenant.objects.exclude(status="suspended")
    windows = BudgetWindow.objects.filter(closed_at=None, tenant__in=spending)
    budgets = Budget.objects.filter(tenant__in=spending)
    account = (
        "stripe_customer_id",
        "tenant__slug",
        "state",
        "plan",
        "limit_nanos",
        "period_start",
        "period_end",
        "subscription_id",
        "reasons",
    )
    window = ("tenant__slug", "starts_at", "ends_at", "limit_nanos", "source_id", "state")
    return {
        "accounts": list(BillingAccount.objects.order_by("stripe_customer_id").values_list(*account)),
        "windows": list(windows.order_by("tenant").values_list(*window)),
        "budgets": list(budgets.order_by("tenant").values_list("tenant__slug", "limit_nanos", "source")),
        "tenants": list(Tenant.objects.order_by("slug").values_list("slug", "status")),
        "subscriptions": list(Subscription.objects.order_by("stripe_id").values_list("stripe_id", "version")),
        "invoices": list(Invoice.objects.order_by("stripe_id").values_list("stripe_id", "status")),
    }


@pytest.mark.parametrize("name", ["current_shapes", "old_shapes"])
def test_recorded_streams_shuffled_and_repeated_end_in_the_same_state(
    tenant: Tenant, deliver: Deliver, name: str
) -> None:
    factories.tenant("t1")
    stream: Stream = recorded(name)
    # Nothing in the recordings names this tenant; the other old customer names "t1" in its metadata.
    customer = "cus_znERGeU423w7ZT" if name == "current_shapes" else "cus_8LUcpvOJ0mENoz"
    stream.append({**checkout_completed(customer=customer), "created": stream[-1]["created"]})
    now = START.fromtimestamp(max(one["created"] for one in stream), tz=START.tzinfo)
    expected = outcome(deliver, stream, now=now)
    assert expected["windows"], "the stream must come to something"
    shuffle = random.Random(7)
    for _ in range(6):
        again = stream + shuffle.choices(stream, k=10)
        shuffle.shuffle(again)
        assert outcome(deliver, again, now=now) == expected


def test_recorded_current_stream_comes_to_what_was_paid(tenant: Tenant, deliver: Deliver) -> None:
    deliver(recorded("current_shapes"), checkout_completed(customer="cus_znERGeU423w7ZT"), now=START)
    account = BillingAccount.objects.get(stripe_customer_id="cus_znERGeU423w7ZT")
    # Two subscriptions are paid, a third only has a draft invoice; nothing maps their prices: the default plan once.
    assert (account.state, account.limit_nanos) == ("active", factories.nanos("50"))
    assert account.reasons == ["awaiting_first_payment", "unmapped_plan"]


def test_recorded_old_stream_closes_what_was_cancelled(tenant: Tenant, deliver: Deliver) -> None:
    first = factories.tenant("t1")
    deliver(recorded("old_shapes"), now=START)
    account = BillingAccount.objects.get(stripe_customer_id="cus_PSzeJKUqf7HeVI")
    assert (account.tenant, account.state) == (first, "closed")
    first.refresh_from_db()
    assert first.status == "suspended"


def year_of_a_customer() -> Stream:
    """Joined, upgraded within the same second, renewed, with a proration and an invoice by hand."""
    renewed = {"period_start": NEXT, "period_end": NEXT + 30 * DAY}
    product = {"id": "prod_extra", "object": "product", "metadata": {"llm_budget_usd": "5"}}
    return [
        checkout_completed(id="evt_a"),
        subscription_created(status="incomplete", id="evt_b"),
        subscription_updated(id="evt_c"),
        invoice_paid(id="evt_d"),
        event("invoice.payment_succeeded", invoice_paid()["data"]["object"], id="evt_e"),
        subscription_updated(price="price_premium", created=START + DAY, id="evt_f"),
        invoice_paid(billing_reason="subscription_update", amount_paid=40, period_start=START + DAY, id="evt_g"),
        invoice_paid(subscription=None, billing_reason="manual", amount_paid=777, id="evt_h"),
        subscription_updated(price="price_premium", created=NEXT, id="evt_i", **renewed),
        invoice_paid(
            billing_reason="subscription_cycle",
            amount_paid=0,
            price="price_premium",
            created=NEXT,
            id="evt_j",
            **renewed,
        ),
        subscription_created(subscription="sub_extra", price="price_extra", created=START + 2 * DAY, id="evt_k"),
        invoice_paid(subscription="sub_extra", price="price_extra", id="evt_l"),
        event("product.created", product, id="evt_m"),
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_made_up_stream_in_any_order_with_repetitions_ends_in_the_same_state(
    tenant: Tenant, deliver: Deliver, data: st.DataObject
) -> None:
    stream = year_of_a_customer()
    expected = outcome(deliver, stream, now=NEXT)
    repeated = data.draw(st.lists(st.sampled_from(stream), max_size=6))
    order = data.draw(st.permutations(stream + repeated))
    assert outcome(deliver, order, now=NEXT) == expected
    assert [window[3] for window in expected["windows"]] == [factories.nanos("200")]
