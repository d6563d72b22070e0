"""Real threads on a really committed database: the same event, and the same customer, at the same moment."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client

from billing import dispatch
from billing.accounts import binding, sync
from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, StripeEvent
from governance.models import BudgetWindow, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    invoice_paid,
    standard_plans,
    subscription_created,
    subscription_updated,
)
from tests.billing.signing import PATH, SECRET, signed_headers
from tests.concurrency.test_window_races import meanwhile

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all tasks in threads of their own, released together; their results, or what they raised."""
    barrier, results = threading.Barrier(len(tasks)), [None] * len(tasks)

    def run(number: int, task: Callable[[], Any]) -> None:
        try:
            barrier.wait(30)
            results[number] = task()
        except Exception as error:
            results[number] = error  # type: ignore[call-overload]
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.fixture
def acme(transactional_db: None) -> Tenant:
    standard_plans()
    return factories.tenant("acme")


def test_concurrent_posts_of_one_event_are_one_row_and_one_effect(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "soon", lambda event_id: store.process(event_id, now=START))
    for first in (checkout_completed(), subscription_created()):
        store.store(envelope.parse(json.dumps(first)), now=START)
        store.process(first["id"], now=START)
    body = json.dumps(invoice_paid()).encode()

    def post() -> int:
        headers = signed_headers(body, SECRET, int(time.time()))
        return Client().generic("POST", PATH, body, headers=headers).status_code

    assert at_once([post] * 50) == [200] * 50
    assert StripeEvent.objects.filter(type="invoice.paid").count() == 1
    assert not StripeEvent.objects.waiting().exists()
    assert BudgetWindow.objects.count() == 1


def test_workers_on_one_customers_events_end_in_one_state(acme: Tenant, trusting: None) -> None:
    events = [
        checkout_completed(),
        subscription_created(),
        invoice_paid(),
        subscription_updated(price="price_premium", created=START + DAY),
        invoice_paid(),
        invoice_paid(billing_reason="subscription_update", amount_paid=40),
    ]
    for event in events:
        store.store(envelope.parse(json.dumps(event)), now=START)

    def work(event_id: str) -> Callable[[], bool]:
        return lambda: store.process(event_id, now=START + DAY)

    at_once([work(event["id"]) for event in events for _ in range(2)])
    store.sweep(now=START + 2 * DAY)
    assert not StripeEvent.objects.waiting().exists()
    assert BillingAccount.objects.get().tenant == acme
    assert window_of().limit_nanos == factories.nanos("200")
    assert BudgetWindow.objects.count() == 1


@pytest.mark.postgres_only
def test_of_two_that_store_an_event_at_the_same_moment_one_row_stays(acme: Tenant, monkeypatch: Any) -> None:
    """Both have looked for it, and neither has found it, when they write."""
    save, both_looked = StripeEvent.save, threading.Barrier(2)

    def meet(*args: Any, **kwargs: Any) -> None:
        both_looked.wait(10)
        save(*args, **kwargs)

    monkeypatch.setattr(StripeEvent, "save", meet)
    sent = envelope.parse(json.dumps(invoice_paid()))
    new = at_once([lambda: store.store(sent, now=START), lambda: store.store(sent, now=START + DAY)])
    assert sorted(new) == [False, True]
    assert StripeEvent.objects.count() == 1


def test_the_database_itself_keeps_one_row_for_an_event(acme: Tenant) -> None:
    sent = envelope.parse(json.dumps(invoice_paid()))
    store.store(sent, now=START)
    row = StripeEvent.objects.get()
    row.pk = None
    with pytest.raises(IntegrityError):
        row.save(force_insert=True)


@pytest.mark.postgres_only
def test_an_event_that_a_worker_has_claimed_is_passed_over_by_another(acme: Tenant, monkeypatch: Any) -> None:
    sent = checkout_completed()
    store.store(envelope.parse(json.dumps(sent)), now=START)
    handle, claimed, passed_over = handlers.handle, threading.Event(), threading.Event()
    handled = []

    def hold(event: StripeEvent, *args: Any, **kwargs: Any) -> None:
        handled.append(event.event_id)
        claimed.set()
        assert passed_over.wait(10)
        handle(event, *args, **kwargs)

    def second() -> bool:
        assert claimed.wait(10)
        try:
            return store.process(sent["id"], now=START)
        finally:
            passed_over.set()

    monkeypatch.setattr(handlers, "handle", hold)
    assert at_once([lambda: store.process(sent["id"], now=START), second]) == [True, False]
    assert handled == [sent["id"]]
    assert StripeEvent.objects.get().attempts == 1


@pytest.mark.postgres_only
def test_of_one_customers_events_one_is_written_at_a_time(acme: Tenant, monkeypatch: Any) -> None:
    events = [checkout_completed(), subscription_created()]
    for event in events:
        store.store(envelope.parse(json.dumps(event)), now=START)
    BillingAccount.objects.create(stripe_customer_id="cus_acme")
    apply, inside, together = sync.apply, threading.Semaphore(1), threading.Event()

    def alone(*args: Any, **kwargs: Any) -> Any:
        if not inside.acquire(blocking=False):
            together.set()
        # Without the customer's lock the other would come in meanwhile.
        together.wait(0.3)
        try:
            return apply(*args, **kwargs)
        finally:
            inside.release()

    monkeypatch.setattr(sync, "apply", alone)
    assert at_once([partial(store.process, event["id"], now=START) for event in events]) == [True, True]
    assert not together.is_set()


@pytest.mark.postgres_only
@pytest.mark.parametrize("is_bound", [False, True])
def test_whoever_waits_for_a_customer_has_its_tenant_as_it_is_then(acme: Tenant, is_bound: bool) -> None:
    """A statement that waits for a row sees what it joins as it was before."""
    binding.of_customer("cus_acme")
    BillingAccount.objects.update(tenant=acme if is_bound else None)
    found = []

    def wait() -> None:
        with transaction.atomic():
            found.append(binding.locked("cus_acme").tenant)

    def held_and_changed() -> None:
        list(BillingAccount.objects.select_for_update())
        BillingAccount.objects.update(tenant=acme)
        Tenant.objects.update(status="paused")

    meanwhile(held_and_changed, wait)
    assert [tenant and tenant.status for tenant in found] == ["paused"]
