"""Handling once: crashes, tries, the dead letter, and workers that overtake each other."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from billing import tasks
from billing.accounts import past_windows
from billing.inbox import envelope, handlers, store
from billing.models import BillingAccount, StripeEvent
from billing.stripe_api import client
from governance.audit import Actor
from governance.models import Alert, AuditEntry, BudgetWindow, Tenant
from tests import factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import START, checkout_completed, invoice_paid, subscription_created

pytestmark = pytest.mark.django_db


def stored(event: dict[str, Any]) -> StripeEvent:
    store.store(envelope.parse(json.dumps(event)), now=START)
    return StripeEvent.objects.get(event_id=event["id"])


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *, kind: str = "invoice.paid") -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setitem(handlers.EVENT_TYPES, kind, handlers.EventType(fail))


def test_event_whose_worker_died_is_found_by_the_sweep(tenant: Tenant) -> None:
    stored(checkout_completed())
    stored(invoice_paid())
    assert store.sweep(now=START) == 0
    assert store.sweep(now=START + store.HEAD_START) == 2
    assert window_of().limit_nanos == factories.nanos("50")
    assert store.sweep(now=START + store.HEAD_START) == 0


def test_effect_and_mark_are_one_transaction(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    store.process(stored(checkout_completed()).event_id, now=START)
    event = stored(invoice_paid())
    known = handlers.EVENT_TYPES["invoice.paid"]

    def crash_after(*args: Any) -> None:
        known.handler(*args)
        raise RuntimeError("killed between effect and mark")

    monkeypatch.setitem(handlers.EVENT_TYPES, "invoice.paid", handlers.EventType(crash_after))
    assert not store.process(event.event_id, now=START)
    assert not BudgetWindow.objects.exists()
    monkeypatch.setitem(handlers.EVENT_TYPES, "invoice.paid", known)
    assert store.sweep(now=START + timedelta(minutes=1)) == 1
    assert BudgetWindow.objects.count() == 1


def test_failures_back_off_and_end_in_the_dead_letter(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    event = stored(invoice_paid())
    failing(monkeypatch, client.StripeUnavailable("500"))
    at, waits = START, []
    for attempt in range(1, store.MOST_ATTEMPTS):
        assert not store.process(event.event_id, now=at)
        event.refresh_from_db()
        assert event.attempts == attempt
        assert event.error == "StripeUnavailable: 500"
        assert event.next_attempt_at is not None
        waits.append(event.next_attempt_at - at)
        at = event.next_attempt_at
    assert waits[0] < timedelta(seconds=7)
    assert waits[-1] > timedelta(minutes=45)
    store.process(event.event_id, now=at)
    event.refresh_from_db()
    assert (event.quarantine_reason, event.dead_at) == ("gave up after 12 tries", at)
    assert store.sweep(now=at + timedelta(days=9)) == 0
    alert = Alert.objects.get(kind="dead_letter", cleared_at=None)
    assert (alert.subject, alert.severity) == (event.event_id, "critical")
    assert "gave up after 12 tries" in alert.message


def test_final_refusal_is_put_aside_at_once_and_an_operator_can_try_again(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = stored(invoice_paid())
    with monkeypatch.context() as patched:
        failing(patched, client.StripeRefused("no such customer"))
        store.process(event.event_id, now=START)
    event.refresh_from_db()
    assert event.quarantine_reason.startswith("Stripe refuses")
    assert list(StripeEvent.objects.dead()) == [event]
    store.replay(events=StripeEvent.objects.filter(pk=event.pk), by=Actor("ann"), now=START)
    assert not Alert.objects.filter(cleared_at=None).exists()
    assert store.sweep(now=START) == 1


def test_a_worker_that_failed_late_does_not_bury_what_another_has_handled(tenant: Tenant) -> None:
    event = stored(invoice_paid())
    event.attempts = store.MOST_ATTEMPTS - 1
    store.process(event.event_id, now=START)
    store._try_later(event, ValueError("late"), START)
    event.refresh_from_db()
    assert (event.quarantine_reason, event.error) == ("", "")
    assert not Alert.objects.exists()


def test_replay_takes_many_and_leaves_what_is_not_ours_where_it_is(tenant: Tenant, settings: Any) -> None:
    ours = [stored(checkout_completed()), stored(invoice_paid())]
    foreign = stored({**invoice_paid(), "account": "acct_other"})
    for event in ours:
        store.process(event.event_id, now=START)
    replayed = store.replay(events=StripeEvent.objects.all(), by=Actor("ann"), now=START)
    assert replayed == [event.event_id for event in ours]
    foreign.refresh_from_db()
    assert foreign.quarantine_reason == "of the connected account acct_other"
    assert store.handle_all(replayed, now=START) == 2
    assert AuditEntry.objects.filter(action="billing.process_again").count() == 3


def test_events_of_a_mode_that_has_become_ours_can_be_replayed(tenant: Tenant, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    event = stored({**checkout_completed(), "livemode": True})
    assert event.quarantine_reason
    assert not event.dead_at
    assert store.replay(events=StripeEvent.objects.all(), by=Actor("ann"), now=START) == []
    settings.STRIPE_SECRET_KEY = ""
    assert store.replay(events=StripeEvent.objects.all(), by=Actor("ann"), now=START) == [event.event_id]


def test_what_one_sweep_has_taken_no_other_takes_until_its_lease_is_over(tenant: Tenant) -> None:
    event = stored(invoice_paid())
    due = START + store.HEAD_START
    taken = store._take_due(10, due)
    assert taken == [event.event_id]
    # That sweep dies here.
    assert store.sweep(now=due + store.LEASE - timedelta(seconds=1)) == 0
    assert store.sweep(now=due + store.LEASE) == 1


def test_a_sweep_takes_the_oldest_first_and_no_more_than_asked_for(tenant: Tenant) -> None:
    young = stored(invoice_paid(created=START + timedelta(hours=1)))
    old = [stored(invoice_paid(created=START - timedelta(hours=n))) for n in range(30)]
    handled: list[str] = []

    def handle(event_id: str, *, now: Any) -> bool:
        handled.append(event_id)
        return True

    assert store.sweep(now=START + timedelta(hours=1), limit=30, handle=handle) == 30
    assert handled == [event.event_id for event in reversed(old)]
    assert store.sweep(now=START + timedelta(hours=1), handle=handle) == 1
    assert handled[-1] == young.event_id


def test_unforeseen_errors_are_kept_and_tried_again(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    event = stored(invoice_paid())
    failing(monkeypatch, KeyError("surprise"))
    assert not store.process(event.event_id, now=START)
    event.refresh_from_db()
    assert (event.attempts, event.processed_at) == (1, None)
    assert "surprise" in event.error


def test_one_broken_event_does_not_stop_the_sweep(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(checkout_completed())
    stored(subscription_created())
    stored(invoice_paid())
    failing(monkeypatch, ValueError("broken"), kind="customer.subscription.created")
    assert store.sweep(now=START + timedelta(minutes=1)) == 2
    assert window_of().limit_nanos == factories.nanos("50")


def test_handling_an_event_again_changes_nothing(tenant: Tenant, deliver: Deliver) -> None:
    paid = invoice_paid()
    deliver(checkout_completed(), paid)
    factories.agent()
    before = list(BudgetWindow.objects.values()), list(BillingAccount.objects.values())
    store.replay(events=StripeEvent.objects.filter(event_id=paid["id"]), by=Actor("ann"), now=START)
    assert store.process(paid["id"], now=START)
    assert (list(BudgetWindow.objects.values()), list(BillingAccount.objects.values())) == before


def test_one_fact_under_two_event_ids_has_one_effect(tenant: Tenant, deliver: Deliver) -> None:
    deliver(
        checkout_completed(), invoice_paid(), invoice_paid(), {**invoice_paid(), "type": "invoice.payment_succeeded"}
    )
    assert BudgetWindow.objects.count() == 1


def test_tasks_make_one_call_each(tenant: Tenant) -> None:
    first, second = stored(checkout_completed()), stored(invoice_paid())
    assert tasks.process_event(first.event_id)
    StripeEvent.objects.filter(pk=second.pk).update(next_attempt_at=START)
    assert tasks.sweep_inbox() == 1
    assert window_of().source_kind == past_windows.SOURCE


def test_worker_that_comes_second_finds_nothing_to_claim(tenant: Tenant) -> None:
    event = stored(checkout_completed())
    assert store.process(event.event_id, now=START)
    # This worker read the row before the first one had handled it.
    assert store._try(event, {}, START)
    event.refresh_from_db()
    assert event.attempts == 1
