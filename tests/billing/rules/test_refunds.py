"""Refunds, disputes and credit notes: the window is frozen at what is used, and opened again when the money is back."""

from __future__ import annotations

from typing import Any

import pytest

from billing.models import BillingAccount
from governance import ledger
from governance.models import Alert, Tenant
from tests import factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import DAY, START, checkout_completed, event, invoice_paid, seconds, subscription_created

pytestmark = pytest.mark.django_db
STANDARD = factories.nanos("50")
NEXT, AFTER = START + 30 * DAY, START + 60 * DAY
PAID = {"charge": "ch_1", "payment_intent": "pi_1"}


def joined() -> list[dict[str, Any]]:
    return [checkout_completed(), subscription_created(), invoice_paid(**PAID)]


def charge(refunded: int, *, at: Any = START + DAY, **fields: Any) -> dict[str, Any]:
    data = {
        "id": "ch_1",
        "object": "charge",
        "customer": "cus_acme",
        "amount": 5000,
        "amount_refunded": refunded,
        "payment_intent": "pi_1",
        "currency": "usd",
        "created": seconds(START),
        "status": "succeeded",
    }
    return event("charge.refunded", data | fields, created=at)


def failed_refund(amount: int, *, at: Any) -> dict[str, Any]:
    data = {"id": "re_1", "object": "refund", "charge": "ch_1", "amount": amount, "status": "failed"}
    return event("refund.failed", data, created=at)


def dispute(status: str, kind: str = "created", *, at: Any = START + DAY, **fields: Any) -> dict[str, Any]:
    data = {"id": "dp_1", "object": "dispute", "charge": "ch_1", "amount": 5000, "status": status}
    return event(f"charge.dispute.{kind}", data | fields, created=at)


def spend(dollars: str) -> None:
    ledger.record(factories.reporting(dollars), now=START)


def test_a_full_refund_freezes_the_window_at_what_is_used(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined())
    spend("12")
    deliver(charge(5000), now=START + DAY)
    window, account = window_of(), BillingAccount.objects.get()
    assert (window.limit_nanos, window.remaining_nanos) == (factories.nanos("12"), 0)
    assert (account.state, account.reasons) == ("frozen", ["refunded"])
    assert Alert.objects.filter(kind="refunded", cleared_at=None).count() == 1


def test_a_refund_that_failed_opens_it_again_in_either_order(tenant: Tenant, deliver: Deliver) -> None:
    for order in (1, -1):
        deliver(joined())
        spend("1")
        stream = [charge(5000), failed_refund(5000, at=START + 2 * DAY)]
        deliver(stream[::order], now=START + 2 * DAY)
        assert window_of().limit_nanos == STANDARD
        assert BillingAccount.objects.get().state == "active"


def test_a_partial_refund_is_told_and_changes_nothing(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(), charge(2000))
    assert window_of().limit_nanos == STANDARD
    assert [(alert.kind, alert.severity) for alert in Alert.objects.all()] == [("partial_refund", "info")]


@pytest.mark.parametrize("early", [True, False])
def test_a_dispute_freezes_and_a_won_one_restores(tenant: Tenant, deliver: Deliver, early: bool) -> None:
    """Also where it is heard of before the payment it is about: it names a charge and no customer."""
    deliver(*([dispute("needs_response"), joined()] if early else [joined(), dispute("needs_response")]))
    # No limit is less than a billionth of a dollar.
    assert (BillingAccount.objects.get().state, window_of().remaining_nanos) == ("frozen", 1)
    deliver(dispute("won", "closed", at=START + 3 * DAY), now=START + 3 * DAY)
    assert (BillingAccount.objects.get().state, window_of().limit_nanos) == ("active", STANDARD)
    assert not Alert.objects.filter(kind="disputed", cleared_at=None).exists()


def test_a_dispute_whose_funds_came_back_restores(tenant: Tenant, deliver: Deliver) -> None:
    moved = {"balance_transactions": [{"amount": -5000}, {"amount": 5000}]}
    deliver(joined(), dispute("needs_response"))
    deliver(dispute("under_review", "funds_reinstated", at=START + 2 * DAY, **moved))
    assert window_of().limit_nanos == STANDARD


def test_an_inquiry_is_no_dispute_yet(tenant: Tenant, deliver: Deliver) -> None:
    deliver(joined(), dispute("warning_needs_response"))
    assert window_of().limit_nanos == STANDARD


def test_a_lost_dispute_is_owed_by_the_next_period_and_a_refund_is_not(tenant: Tenant, deliver: Deliver) -> None:
    renewal = {"billing_reason": "subscription_cycle", "period_start": NEXT, "period_end": AFTER}
    deliver(joined())
    spend("30")
    deliver(charge(5000), invoice_paid(**renewal), now=NEXT)
    assert window_of().limit_nanos == STANDARD
    deliver(dispute("lost", "closed", at=NEXT + DAY), now=NEXT + DAY)
    assert window_of().limit_nanos == factories.nanos("20")
    assert "owed:30.00" in BillingAccount.objects.get().reasons


@pytest.mark.parametrize("how", ["credit note", "unlinked charge"])
def test_what_goes_back_otherwise_counts_too(tenant: Tenant, deliver: Deliver, how: str) -> None:
    """A credit note names the invoice; a charge that no object ties to one is told by its amount and time."""
    deliver(checkout_completed(), subscription_created(), invoice_paid())
    note = {
        "id": "cn_1",
        "object": "credit_note",
        "customer": "cus_acme",
        "amount": 5000,
        "status": "issued",
        "invoice": invoice_paid()["data"]["object"]["id"],
    }
    deliver(event("credit_note.created", note) if how == "credit note" else charge(5000))
    assert BillingAccount.objects.get().state == "frozen"
