"""A worker is killed with -9 at each point of an event's life: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from billing.inbox import envelope, store
from billing.models import BillingAccount, StripeEvent
from governance.models import AuditEntry, BudgetWindow, Tenant
from tests import factories
from tests.billing import mortal
from tests.billing.conftest import window_of
from tests.billing.events import DAY, START, invoice, invoice_paid, standard_plans, subscription
from tests.fakes import stripe_api
from tests.product import eventually


@pytest.fixture
def acme(live_database: str, settings: Any) -> Iterator[Tenant]:
    """A tenant whose first payment is at Stripe, and an event that tells of it in the inbox."""
    standard_plans()
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    with stripe_api.answering() as stripe:
        stripe.customer()
        stripe.subscriptions, stripe.invoices = [subscription()], [invoice()]
        yield factories.tenant("acme")


@pytest.mark.parametrize("point", mortal.POINTS)
def test_an_event_whose_worker_is_killed_has_its_effect_once(acme: Tenant, point: str) -> None:
    sent = invoice_paid()
    store.store(envelope.parse(json.dumps(sent)), now=START)

    assert mortal.in_a_process(point, sent["id"]) == -signal.SIGKILL

    committed = point == "after_the_commit_before_the_acknowledgement"
    assert StripeEvent.objects.filter(processed_at__isnull=False).exists() is committed
    assert BudgetWindow.objects.exists() is committed

    # The message is lost, and the sweep finds the row; or the broker hands it out again.
    later = itertools.count(1)

    def swept() -> bool:
        store.sweep(now=START + next(later) * store.LEASE)
        return not StripeEvent.objects.waiting().exists()

    assert eventually(swept, within_s=10)
    assert store.process(sent["id"], now=START + DAY)
    window = BudgetWindow.objects.get()
    assert (window.pk, window.limit_nanos) == (window_of().pk, factories.nanos("50"))
    assert BillingAccount.objects.get().tenant == acme
    assert AuditEntry.objects.filter(action="billing.bind").count() == 1


def test_no_point_is_left_out() -> None:
    assert len(mortal.POINTS) == 6
    assert all(callable(getattr(mortal, point)) for point in mortal.POINTS)
