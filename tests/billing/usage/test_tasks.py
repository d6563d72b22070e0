"""Beat's jobs of usage."""

from __future__ import annotations

import pytest
import time_machine

from billing import tasks
from billing.models import MeterEvent
from billing.usage import outbox
from tests.billing.usage.test_outbox import DAYS_LATER, READY, _on, acme, spend, stripe
from tests.fakes.stripe_meters import FakeMeters

pytestmark = pytest.mark.django_db
__all__ = ["_on", "acme", "stripe"]


def test_one_run_writes_and_sends(stripe: FakeMeters) -> None:
    spend("1")
    with time_machine.travel(READY, tick=False):
        assert tasks.report_usage() == 1
        assert tasks.report_usage() == 0
    assert stripe.total == 1_000_000


def test_late_corrections_are_noted_by_the_long_look_and_sent_by_the_next_run(stripe: FakeMeters) -> None:
    spend("1")
    with time_machine.travel(READY, tick=False):
        tasks.report_usage()
    spend("0.5")
    with time_machine.travel(DAYS_LATER, tick=False):
        stripe.now = DAYS_LATER
        assert tasks.report_usage() == 0
        assert tasks.review_usage() == 1
        assert tasks.report_usage() == 1
    assert stripe.total == 1_500_000


def test_a_held_row_is_proved_and_sent_by_the_same_job(stripe: FakeMeters) -> None:
    spend("1")
    outbox.write(now=READY)
    outbox.claim(outbox._known_meters(now=READY), now=READY)
    with time_machine.travel(DAYS_LATER, tick=False):
        stripe.now = DAYS_LATER
        assert [tasks.report_usage() for _ in range(2)] == [0, 1]
    assert MeterEvent.objects.get().state == "sent"


def test_without_a_meter_the_jobs_ask_nobody(stripe: FakeMeters, settings: object) -> None:
    settings.STRIPE_METERS = {}  # type: ignore[attr-defined]
    spend("1")
    with time_machine.travel(READY, tick=False):
        assert (tasks.report_usage(), tasks.review_usage()) == (0, 0)
    assert stripe.requests == []
