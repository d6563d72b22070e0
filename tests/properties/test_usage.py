"""Whatever happens to hours, workers and Stripe, in the end Stripe has billed what the ledger says, and once."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

from billing.models import BillingAccount, MeterEvent, UsageMeter
from billing.rules import usage
from billing.usage import outbox, proof
from governance.audit import Actor
from governance.models import SpendRollup, Tenant
from tests import factories
from tests.fakes.stripe_meters import FakeMeters, answering
from tests.properties.test_dry_run import undone

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 10, 0, 0, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
OLGA = Actor("olga")
NANOS = 1_000
# Longer than any story.
REACH = timedelta(days=8)

spends = st.integers(0, 50)
# A correction of the hour with this number, among those that there are.
corrections = st.one_of(st.none(), st.integers(0, 9))
waits = st.sampled_from([10 * MINUTE, 70 * MINUTE, 70 * MINUTE, 5 * HOUR, 26 * HOUR])
ends = st.sampled_from(["well", "well", "crash_before", "crash_after", "deaf", "down", "refuses"])
stories = st.lists(st.tuples(spends, corrections, waits, ends), min_size=2, max_size=7)


class World:
    """One customer, its hours, a clock and Stripe."""

    def __init__(self, tenant: Tenant, stripe: FakeMeters) -> None:
        self.tenant, self.stripe, self.now = tenant, stripe, START

    def live(self, units: int, correction: int | None, wait: timedelta, end: str) -> None:
        """Something is spent, something is taken back, time goes by, and a worker runs."""
        if units:
            self.spend(units)
        if correction is not None:
            self.take_back(correction)
        self.wait(wait)
        self.run(end)

    def spend(self, units: int) -> None:
        hour = usage.floor_hour(self.now)
        row = SpendRollup.objects.filter(tenant=self.tenant, hour=hour).first()
        if row is None:
            SpendRollup.objects.bulk_create([SpendRollup(tenant=self.tenant, hour=hour, cost_nanos=units * NANOS)])
        else:
            SpendRollup.objects.filter(pk=row.pk).update(cost_nanos=row.cost_nanos + units * NANOS)

    def take_back(self, which: int) -> None:
        """A correction of some hour, late or not, by half of what it came to."""
        rows = list(SpendRollup.objects.order_by("hour"))
        if rows:
            row = rows[which % len(rows)]
            half = row.cost_nanos // NANOS // 2 * NANOS
            SpendRollup.objects.filter(pk=row.pk).update(cost_nanos=row.cost_nanos - half)

    def wait(self, time: timedelta) -> None:
        self.now = self.stripe.now = self.now + time

    def run(self, how: str) -> None:
        self.stripe.deaf, self.stripe.down = how == "deaf", how == "down"
        refused = (400, {"error": {"message": "No such customer"}})
        self.stripe.refuse = lambda _: refused if how == "refuses" else die() if how == "crash_before" else None
        self.stripe.after_counting = die if how == "crash_after" else lambda: None
        with suppress(KeyboardInterrupt):
            outbox.write(now=self.now, reach=REACH)
            proof.reconcile(now=self.now)
            outbox.drain(clock=lambda: self.now)

    def settle(self) -> None:
        """All is well again, operators look after what is left to them, and time goes by."""
        for _ in range(40):
            self.wait(2 * HOUR)
            self.run("well")
            for row in MeterEvent.objects.filter(state="failed"):
                outbox.retry(event=row, by=OLGA, now=self.now)
            for row in MeterEvent.objects.filter(state="held").exclude(error=""):
                event("left to an operator")
                self.look_up(row)
            if not MeterEvent.objects.filter(state__in=["pending", "sending", "held"]).exists():
                return

    def look_up(self, row: MeterEvent) -> None:
        if any(one.identifier == str(row.pk) for one in self.stripe.counted):
            outbox.void(event=row, reason="Stripe has it", by=OLGA, now=self.now)
        else:
            outbox.retry(event=row, by=OLGA, now=self.now)


def die(*args: Any) -> Any:
    raise KeyboardInterrupt


# Refused by then for another reason; sent again when Stripe had forgotten it; two of an hour, one of which arrived.
@example([(27, None, 70 * MINUTE, "crash_after"), (0, None, 5 * HOUR, "refuses")])
@example([(27, None, 70 * MINUTE, "crash_after"), (0, None, 26 * HOUR, "well")])
@example([(27, None, 70 * MINUTE, "crash_after"), (9, 0, 26 * HOUR, "deaf"), (5, 0, 26 * HOUR, "crash_before")])
@given(stories)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@override_settings(STRIPE_METERS={"llm_cost": "microdollars"}, STRIPE_SECRET_KEY="sk_test_1")
def test_stripe_bills_what_the_ledger_says_and_once(story: list[tuple[int, int | None, timedelta, str]]) -> None:
    at_once = mock.patch("stripe._http_client.HTTPClient._sleep_time_seconds", return_value=0)
    with undone(), at_once, answering(FakeMeters(START)) as stripe:
        tenant = factories.tenant("acme")
        BillingAccount.objects.create(stripe_customer_id="cus_acme", tenant=tenant)
        outbox.open_meters("llm_cost", "microdollars", now=START)
        world = World(tenant, stripe)
        for chapter in story:
            world.live(*chapter)
        world.settle()

        spent = sum(SpendRollup.objects.values_list("cost_nanos", flat=True)) // NANOS
        carried = UsageMeter.objects.get().carried_units
        assert stripe.total + carried == spent
        assert len({one.identifier for one in stripe.counted}) == len(stripe.counted)
        assert not MeterEvent.objects.filter(state__in=["pending", "sending", "held", "failed"]).exists()
