"""Usage after the database was put back to what it was: whatever Stripe has of it is not billed a second time."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import transaction

from billing.models import MeterEvent
from billing.usage import outbox, proof, restored
from governance.models import Alert, Tenant
from tests.billing.usage.test_outbox import HOUR, MINUTE, READY, TEN, _on, acme, rows, spend, stripe
from tests.fakes.stripe_meters import FakeMeters

pytestmark = pytest.mark.django_db
__all__ = ["_on", "acme", "stripe"]
DAY = timedelta(days=1)
# Nothing here is older; to ask for each day of a year takes seconds.
REACH = 30 * DAY


def run(stripe: FakeMeters, *, now: datetime = READY) -> None:
    """What beat does: also its look at hours of long ago."""
    stripe.now = now
    outbox.write(now=now, reach=REACH)
    outbox.drain(clock=lambda: now)


class Backup:
    """What the database is now; `put_back` makes it that again."""

    def __init__(self) -> None:
        self._savepoint = transaction.savepoint()

    def put_back(self) -> None:
        transaction.savepoint_rollback(self._savepoint)


def test_within_a_day_nothing_is_billed_twice_even_where_nobody_says_that_it_was_put_back(
    acme: Tenant, stripe: FakeMeters
) -> None:
    spend("1")
    backup = Backup()
    spend("0.5", at=TEN + 40 * MINUTE)
    run(stripe)
    backup.put_back()

    run(stripe, now=READY + HOUR)
    # The calls that are lost here are billed all the same: they were made.
    assert stripe.total == 1_500_000
    assert rows() == [(1_000_000, 1_000_000, "sent")]


@pytest.mark.parametrize("later", [HOUR, 2 * DAY, 20 * DAY])
def test_what_stripe_has_is_found_in_its_sums_and_not_sent(acme: Tenant, stripe: FakeMeters, later: timedelta) -> None:
    spend("1")
    backup = Backup()
    spend("0.5", at=TEN + 40 * MINUTE)
    run(stripe)
    now = READY + later
    backup.put_back()
    restored.note(made_at=TEN + 30 * MINUTE, now=now)

    run(stripe, now=now)
    assert rows() == [(1_000_000, 1_000_000, "held")]
    assert proof.reconcile(now=now + HOUR) == 1
    assert rows() == [(1_000_000, 1_000_000, "sent")]
    assert stripe.total == 1_500_000
    assert not Alert.objects.exists()


def test_a_row_that_waited_in_the_backup_and_was_sent_since_is_not_sent_again(acme: Tenant, stripe: FakeMeters) -> None:
    spend("1")
    stripe.down = True
    run(stripe)
    stripe.down = False
    backup = Backup()
    run(stripe, now=READY + MINUTE)
    assert stripe.total == 1_000_000
    now = READY + 3 * DAY
    backup.put_back()

    assert restored.note(made_at=READY, now=now) == 1
    run(stripe, now=now)
    proof.reconcile(now=now + HOUR)
    assert (stripe.total, rows()) == (1_000_000, [(1_000_000, 1_000_000, "sent")])


def test_what_stripe_does_not_have_is_sent_once(acme: Tenant, stripe: FakeMeters) -> None:
    now = READY + 2 * DAY
    spend("1")
    restored.note(made_at=READY, now=now)
    run(stripe, now=now)
    assert stripe.total == 0
    proof.reconcile(now=now + HOUR)
    run(stripe, now=now + HOUR)
    run(stripe, now=now + 2 * HOUR)
    assert (stripe.total, rows()) == (1_000_000, [(1_000_000, 1_000_000, "sent")])


def test_calls_that_agents_report_again_are_not_billed_again(acme: Tenant, stripe: FakeMeters) -> None:
    spend("1")
    backup = Backup()
    spend("0.5", at=TEN + 40 * MINUTE)
    run(stripe)
    now = READY + 2 * DAY
    backup.put_back()
    restored.note(made_at=TEN + 30 * MINUTE, now=now)
    run(stripe, now=now)
    proof.reconcile(now=now + HOUR)

    spend("0.5", at=TEN + 40 * MINUTE)
    run(stripe, now=now + HOUR)
    proof.reconcile(now=now + 2 * HOUR)
    assert stripe.total == 1_500_000
    assert rows() == [(1_000_000, 1_000_000, "sent"), (500_000, 500_000, "sent")]


def test_hours_after_it_are_billed_as_ever(acme: Tenant, stripe: FakeMeters) -> None:
    restored.note(made_at=TEN - HOUR, now=TEN - MINUTE)
    spend("1")
    run(stripe)
    assert (stripe.total, MeterEvent.objects.get().state) == (1_000_000, "sent")
