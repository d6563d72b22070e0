"""The outbox of usage: written from rollups, sent once, whatever dies on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from django.db import IntegrityError, transaction

from billing.models import BillingAccount, MeterEvent, UsageMeter
from billing.stripe_api.meters import Reporter, UsageEvent
from billing.usage import outbox, proof
from governance import ledger
from governance.audit import Actor
from governance.models import Alert, AuditEntry, SpendRollup, Tenant
from tests import factories
from tests.fakes.stripe_meters import FakeMeters, answering

pytestmark = pytest.mark.django_db
TEN = datetime(2026, 3, 10, 10, 0, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
# When the hour from ten to eleven is ready to be reported.
READY = TEN + HOUR + 10 * MINUTE
DAYS_LATER = READY + timedelta(days=9)
OLGA = Actor("olga")
METER = {"llm_cost": "microdollars"}
State = MeterEvent.State


@pytest.fixture(autouse=True)
def _on(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.STRIPE_METERS = METER


@pytest.fixture
def acme(db: None) -> Tenant:
    tenant = factories.tenant("acme")
    customer(tenant)
    return tenant


@pytest.fixture
def stripe(acme: Tenant) -> Iterator[FakeMeters]:
    with answering(FakeMeters(READY)) as fake:
        yield fake


def customer(tenant: Tenant, *, since: datetime = TEN) -> BillingAccount:
    """A customer whose usage is reported from `since` on."""
    account = BillingAccount.objects.create(stripe_customer_id=f"cus_{tenant.slug}", tenant=tenant)
    for event_name, unit in METER.items():
        outbox.open_meters(event_name, unit, now=since)
    return account


def spend(cost: str, *, at: datetime = TEN, of: str = "acme") -> None:
    by = factories.caller(factories.tenant(of))
    ledger.record(factories.reporting(cost, by=by, occurred_at=at), now=at)


def take_back(cost: str, *, at: datetime = TEN) -> None:
    """A correction in the ledger of what was spent at a time."""
    nanos = factories.nanos(cost)
    row = SpendRollup.objects.get(tenant__slug="acme", hour=at)
    SpendRollup.objects.filter(pk=row.pk).update(cost_nanos=row.cost_nanos - nanos)


def run(stripe: FakeMeters, *, now: datetime = READY) -> int:
    stripe.now = now
    outbox.write(now=now)
    return outbox.drain(clock=lambda: now)


def rows() -> list[tuple[int, int, str]]:
    return list(MeterEvent.objects.order_by("hour", "sequence").values_list("units", "value", "state"))


class TestWriting:
    def test_an_hour_is_one_row_however_many_calls_it_had(self, stripe: FakeMeters) -> None:
        for cost in ("0.10", "0.20", "0.000001999"):
            spend(cost, at=TEN + 5 * MINUTE)
        assert outbox.write(now=READY) == 1
        row = MeterEvent.objects.get()
        assert (row.units, row.value, row.sequence, row.state) == (300_001, 300_001, 0, "pending")
        assert (row.hour, row.stamped_at) == (TEN, TEN + HOUR - timedelta(seconds=1))
        assert row.stripe_customer_id == "cus_acme"

    def test_writing_again_adds_nothing(self, stripe: FakeMeters) -> None:
        spend("1")
        assert [outbox.write(now=READY) for _ in range(3)] == [1, 0, 0]
        assert outbox.write(now=READY, reach=outbox.LATE) == 0

    def test_an_hour_that_still_runs_waits(self, stripe: FakeMeters) -> None:
        spend("1", at=TEN)
        assert outbox.write(now=TEN + 59 * MINUTE) == 0
        assert outbox.write(now=TEN + HOUR + 4 * MINUTE) == 0
        assert outbox.write(now=TEN + HOUR + 5 * MINUTE) == 1

    def test_what_was_spent_before_the_meter_began_is_not_reported(self, stripe: FakeMeters) -> None:
        spend("1", at=TEN - HOUR)
        spend("2", at=TEN)
        assert outbox.write(now=READY, reach=outbox.LATE) == 1
        assert MeterEvent.objects.get().hour == TEN

    @pytest.mark.parametrize("days", [1, 33, 40, 399])
    def test_what_is_reported_late_is_told_however_late_it_may_be(self, acme: Tenant, days: int) -> None:
        UsageMeter.objects.update(since=TEN - timedelta(days=500))
        at = TEN - timedelta(days=days)
        ledger.record(factories.reporting("5", by=factories.caller(acme), occurred_at=at), now=TEN)
        outbox.write(now=READY, reach=outbox.LATE)
        row = MeterEvent.objects.get()
        assert (row.hour, row.units) == (at, 5_000_000)
        # Stripe takes no older stamp.
        assert row.stamped_at >= READY - timedelta(days=35)

    def test_what_another_tenant_spends_is_its_own(self, stripe: FakeMeters) -> None:
        customer(factories.tenant("globex"))
        factories.tenant("nobody")
        for slug in ("acme", "globex", "nobody"):
            spend("1", of=slug)
        assert outbox.write(now=READY) == 2
        assert set(MeterEvent.objects.values_list("stripe_customer_id", flat=True)) == {"cus_acme", "cus_globex"}

    def test_a_late_settlement_is_a_row_of_what_changed_and_never_sent_anew(self, stripe: FakeMeters) -> None:
        spend("1")
        assert run(stripe) == 1
        spend("0.25")
        assert run(stripe, now=READY + HOUR) == 1
        assert rows() == [(1_000_000, 1_000_000, "sent"), (250_000, 250_000, "sent")]
        assert stripe.total == 1_250_000

    def test_a_correction_of_last_week_is_found_by_the_long_look(self, stripe: FakeMeters) -> None:
        spend("1")
        run(stripe)
        spend("0.5")
        later = READY + timedelta(days=9)
        assert outbox.write(now=later) == 0
        assert outbox.write(now=later, reach=outbox.LATE) == 1

    def test_what_is_taken_back_is_carried_and_set_off_by_the_next_hours(self, stripe: FakeMeters) -> None:
        spend("1")
        run(stripe)
        take_back("0.4")
        assert run(stripe) == 0
        assert (rows()[-1], UsageMeter.objects.get().carried_units) == ((-400_000, 0, "carried"), -400_000)
        spend("0.3", at=TEN + HOUR)
        spend("0.5", at=TEN + 2 * HOUR)
        run(stripe, now=READY + 2 * HOUR)
        assert stripe.total == 1_000_000 - 400_000 + 800_000
        assert [one.value for one in stripe.counted] == [1_000_000, 400_000]

    def test_another_unit_or_tenant_is_another_count(self, stripe: FakeMeters, settings: Any) -> None:
        spend("1")
        run(stripe)
        settings.STRIPE_METERS = {"llm_cost": "tokens"}
        assert outbox.write(now=READY + MINUTE, reach=outbox.LATE) == 0
        account = BillingAccount.objects.get()
        account.tenant = factories.tenant("globex")
        account.save()
        spend("1", of="globex")
        assert outbox.write(now=READY + MINUTE, reach=outbox.LATE) == 0
        assert UsageMeter.objects.get().since == TEN + HOUR

    def test_a_customer_that_is_bound_to_another_tenant_meanwhile_is_not_billed_for_the_first(
        self, stripe: FakeMeters
    ) -> None:
        spend("1")
        BillingAccount.objects.update(tenant=factories.tenant("globex"))
        assert outbox._write_changes(UsageMeter.objects.get().pk, TEN, TEN + HOUR, READY) == 0

    def test_a_customer_that_is_deleted_at_stripe_gets_no_rows(self, stripe: FakeMeters) -> None:
        spend("1")
        BillingAccount.objects.update(deleted_at=TEN)
        assert outbox.write(now=READY) == 0

    def test_nothing_is_written_without_a_meter_or_a_key(self, stripe: FakeMeters, settings: Any) -> None:
        spend("1")
        settings.STRIPE_METERS = {}
        assert (outbox.write(now=READY), outbox.drain(clock=lambda: READY)) == (0, 0)
        settings.STRIPE_METERS, settings.STRIPE_SECRET_KEY = METER, ""
        assert (outbox.write(now=READY), outbox.drain(clock=lambda: READY)) == (0, 0)

    def test_the_database_lets_a_change_of_an_hour_be_one_row(self, stripe: FakeMeters) -> None:
        spend("1")
        outbox.write(now=READY)
        row = MeterEvent.objects.get()
        row.pk = None
        with pytest.raises(IntegrityError), transaction.atomic():
            row.save(force_insert=True)


class TestSending:
    def test_an_event_has_our_rows_id_as_its_identifier(self, stripe: FakeMeters) -> None:
        spend("1")
        assert run(stripe) == 1
        row = MeterEvent.objects.get()
        [counted] = stripe.counted
        assert (counted.identifier, counted.customer, counted.value) == (str(row.pk), "cus_acme", 1_000_000)
        assert (counted.at, counted.encoding) == (row.stamped_at, "v1")
        assert (row.state, row.attempts, row.sent_at) == ("sent", 1, READY)
        assert UsageMeter.objects.get().busy_until is None

    @pytest.mark.parametrize("encoding", ["v1", "v2", "stream"])
    def test_each_encoding_says_the_same(self, stripe: FakeMeters, settings: Any, encoding: str) -> None:
        settings.STRIPE_METER_API = encoding
        spend("1")
        spend("2", at=TEN + HOUR)
        assert run(stripe, now=READY + HOUR) == 2
        assert [(one.value, one.encoding) for one in stripe.counted] == [(1_000_000, encoding), (2_000_000, encoding)]
        sessions = [path for _, path in stripe.requests if path.endswith("session")]
        assert len(sessions) == (1 if encoding == "stream" else 0)
        assert [one.at for one in stripe.counted] == list(
            MeterEvent.objects.order_by("hour").values_list("stamped_at", flat=True)
        )

    @pytest.mark.parametrize("status", [401, 409, 429, 500, 503])
    def test_a_failure_that_may_pass_is_tried_again_under_the_same_identifier(
        self, stripe: FakeMeters, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
        spend("1")
        stripe.answers = [(status, {"error": {"message": "not now"}})] * 8
        assert run(stripe) == 0
        row = MeterEvent.objects.get()
        assert (row.state, row.attempts, row.first_attempt_at) == ("pending", 1, READY)
        stripe.answers = []
        assert run(stripe, now=READY) == 0
        assert run(stripe, now=READY + MINUTE) == 1
        assert (stripe.total, stripe.counted[0].identifier) == (1_000_000, str(row.pk))
        # A kept 500 would come again under the same key.
        assert stripe.keys == [f"{row.pk}-2"]

    def test_a_refusal_is_final_and_told(self, stripe: FakeMeters) -> None:
        spend("1")
        stripe.refuse = lambda _: (400, {"error": {"message": "No such customer", "code": "resource_missing"}})
        assert run(stripe) == 0
        row = MeterEvent.objects.get()
        assert (row.state, row.error) == ("failed", "InvalidRequestError 400: No such customer")
        assert Alert.objects.get(kind="meter_event_failed").subject == "llm_cost"
        stripe.refuse = lambda _: None
        assert run(stripe, now=READY + HOUR) == 0

    def test_an_outage_stops_the_run_instead_of_waiting_for_every_row(
        self, stripe: FakeMeters, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
        for number in range(6):
            customer(factories.tenant(f"t{number}"))
            spend("1", of=f"t{number}")
        stripe.answers = [(503, {"error": {"message": "down"}})] * 99
        assert run(stripe) == 0
        assert MeterEvent.objects.filter(attempts=1).count() == outbox.MOST_FAILURES

    def test_a_run_ends_by_itself_before_its_worker_ends_it(self, stripe: FakeMeters) -> None:
        for hours in range(6):
            spend("1", at=TEN + hours * HOUR)
        now = READY + 5 * HOUR
        outbox.write(now=now)
        ticks = itertools.count()
        outbox.drain(clock=lambda: now + next(ticks) * timedelta(seconds=20))
        assert 0 < len(stripe.counted) < 6

    def test_a_meter_stripe_does_not_have_keeps_its_usage_here(self, stripe: FakeMeters) -> None:
        stripe.meters = {"other": "mtr_2"}
        spend("1")
        assert run(stripe) == 0
        assert rows() == [(1_000_000, 1_000_000, "pending")]
        assert Alert.objects.get(kind="meter_missing", cleared_at=None).subject == "llm_cost"
        stripe.meters = {"llm_cost": "mtr_1"}
        assert run(stripe) == 1
        assert not Alert.objects.filter(cleared_at=None).exists()

    def test_a_meter_has_one_call_under_way(self, stripe: FakeMeters) -> None:
        spend("1")
        spend("1", at=TEN + HOUR)
        later = READY + HOUR
        outbox.write(now=later)
        meters = outbox._known_meters(now=later)
        first = outbox.claim(meters, now=later)
        assert first is not None
        assert outbox.claim(meters, now=later) is None
        outbox.send(first, meters["llm_cost"], Reporter("v1"), clock=lambda: later)
        second = outbox.claim(meters, now=later)
        assert second is not None
        assert second.hour == TEN + HOUR


class TestPromise10:
    """Usage reporting never bills twice."""

    def claimed(self, now: datetime = READY) -> MeterEvent:
        outbox.write(now=now)
        row = outbox.claim(outbox._known_meters(now=now), now=now)
        assert row is not None
        return row

    def test_a_crash_after_the_send_and_before_the_mark_bills_once(self, stripe: FakeMeters) -> None:
        spend("1")

        def crash() -> None:
            raise KeyboardInterrupt

        stripe.after_counting = crash
        with pytest.raises(KeyboardInterrupt):
            run(stripe)
        assert rows() == [(1_000_000, 1_000_000, "sending")]
        stripe.after_counting = lambda: None
        assert run(stripe, now=READY + MINUTE) == 0, "the claim of the dead worker holds for a while"
        assert run(stripe, now=READY + outbox.CLAIM) == 1
        assert stripe.total == 1_000_000
        row = MeterEvent.objects.get()
        assert (row.state, row.attempts, row.error) == ("sent", 2, "an earlier attempt had arrived")

    def test_an_answer_that_is_lost_bills_once(self, stripe: FakeMeters, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
        spend("1")

        def cut() -> None:
            raise requests.ConnectionError("cut")

        stripe.after_counting = cut
        run(stripe)
        stripe.after_counting = lambda: None
        run(stripe, now=READY + HOUR)
        assert (stripe.total, rows()[0][2]) == (1_000_000, "sent")

    def test_no_automatic_resend_twenty_hours_after_the_first_attempt(self, stripe: FakeMeters) -> None:
        spend("1")
        row = self.claimed()
        before = len(stripe.keys)
        assert run(stripe, now=READY + timedelta(hours=20)) == 0
        row.refresh_from_db()
        assert row.state == "held"
        assert run(stripe, now=READY + timedelta(hours=40)) == 0
        assert len(stripe.keys) == before

    @pytest.mark.parametrize("arrived", [True, False])
    def test_what_is_held_is_compared_with_stripes_sums_before_anything_is_sent(
        self, stripe: FakeMeters, arrived: bool
    ) -> None:
        """Stripe has forgotten the identifier by then: sending at a guess would bill twice."""
        spend("1")
        row = self.claimed()
        if arrived:
            meters = outbox._known_meters(now=READY)
            Reporter("v1").send(meters["llm_cost"], _usage(row), now=READY)
        later = READY + timedelta(hours=30)
        run(stripe, now=later)
        assert proof.reconcile(now=later) == 1
        run(stripe, now=later)
        row.refresh_from_db()
        assert (row.state, stripe.total) == ("sent", 1_000_000)
        assert len(stripe.counted) == 1

    def test_a_refusal_after_an_attempt_nobody_heard_of_says_nothing_about_that_one(self, stripe: FakeMeters) -> None:
        """The first attempt arrived and its worker died; then the customer was deleted at Stripe."""
        spend("1")
        row = self.claimed()
        Reporter("v1").send(outbox._known_meters(now=READY)["llm_cost"], _usage(row), now=READY)
        stripe.refuse = lambda _: (400, {"error": {"message": "No such customer"}})
        later = READY + HOUR
        run(stripe, now=later)
        assert rows()[0][2] == "held"
        assert proof.reconcile(now=later + HOUR) == 1
        assert (rows()[0][2], stripe.total) == ("sent", 1_000_000)

    def test_a_sum_that_fits_neither_is_left_to_an_operator(self, stripe: FakeMeters) -> None:
        spend("1")
        row = self.claimed()
        meters = outbox._known_meters(now=READY)
        Reporter("v1").send(meters["llm_cost"], _usage(row), now=READY)
        stripe.counted[0].value = 999
        later = READY + timedelta(hours=30)
        run(stripe, now=later)
        assert proof.reconcile(now=later) == 0
        row.refresh_from_db()
        assert (row.state, row.next_attempt_at) == ("held", later + HOUR)
        assert "Stripe has counted 999" in row.error
        assert Alert.objects.get(kind="meter_mismatch").subject == "llm_cost cus_acme 2026-03-10T10Z"
        assert proof.reconcile(now=later) == 0

    def test_rows_that_change_while_stripe_is_asked_are_not_judged_by_its_answer(self, stripe: FakeMeters) -> None:
        """Two equal rows: the first arrived; the second did not, and an operator has it sent at this moment."""
        first, second = self.two_of_unknown_fate()
        Reporter("v1").send(outbox._known_meters(now=READY)["llm_cost"], _usage(first), now=READY)
        stripe.now = later = READY + timedelta(hours=30)
        outbox.drain(clock=lambda: later)

        def meanwhile() -> None:
            stripe.after_summing = lambda: None
            outbox.retry(event=second, by=OLGA, now=later)
            outbox.drain(clock=lambda: later)

        stripe.after_summing = meanwhile
        assert proof.reconcile(now=later) == 0
        assert proof.reconcile(now=later) == 1
        outbox.drain(clock=lambda: later)
        assert (stripe.total, len(stripe.counted)) == (2_000_000, 2)

    def test_a_sum_that_may_hold_a_row_still_being_tried_proves_nothing(self, stripe: FakeMeters) -> None:
        first, second = self.two_of_unknown_fate()
        meter = outbox._known_meters(now=READY)["llm_cost"]
        stripe.now = later = READY + timedelta(hours=30)
        outbox.drain(clock=lambda: later)
        # The second is tried anew by an operator, arrives, and its answer is lost.
        outbox.retry(event=second, by=OLGA, now=later)
        Reporter("v1").send(meter, _usage(second), now=later)
        MeterEvent.objects.filter(pk=second.pk).update(first_attempt_at=later, next_attempt_at=later + HOUR)
        assert proof.reconcile(now=later) == 0
        stripe.now = later = later + 2 * HOUR
        outbox.drain(clock=lambda: later)
        assert proof.reconcile(now=later) == 1
        outbox.drain(clock=lambda: later)
        assert (stripe.total, len(stripe.counted)) == (2_000_000, 2)
        first.refresh_from_db()
        assert first.state == "sent"

    def test_a_sum_is_believed_an_hour_after_the_last_attempt(self, stripe: FakeMeters) -> None:
        """Stripe adds events up a while after it takes them."""
        spend("1")
        row = self.claimed()
        last = READY + timedelta(hours=19, minutes=50)
        MeterEvent.objects.filter(pk=row.pk).update(last_attempt_at=last)
        run(stripe, now=READY + timedelta(hours=20))
        assert proof.reconcile(now=last + 59 * MINUTE) == 0
        assert proof.reconcile(now=last + HOUR) == 1

    def two_of_unknown_fate(self) -> tuple[MeterEvent, MeterEvent]:
        """The same usage twice in one hour, both claimed by workers that died."""
        spend("1")
        self.claimed()
        spend("1")
        outbox.write(now=READY)
        first, second = MeterEvent.objects.order_by("sequence")
        unknown = {"state": State.HELD, "attempts": 1, "first_attempt_at": READY, "last_attempt_at": READY}
        MeterEvent.objects.update(**unknown)
        UsageMeter.objects.update(busy_until=None)
        return first, second

    def test_a_meter_that_does_not_add_up_proves_nothing(self, stripe: FakeMeters) -> None:
        spend("1")
        self.claimed()
        stripe.formula = "last"
        later = READY + timedelta(hours=30)
        run(stripe, now=later)
        assert proof.reconcile(now=later) == 0
        assert rows()[0][2] == "held"

    def test_a_worker_that_comes_back_late_has_no_say(self, stripe: FakeMeters) -> None:
        """It stood still for longer than its claim, another sent the row; then it hears that its own try failed."""
        spend("1")
        stale = self.claimed()
        later = READY + outbox.CLAIM
        assert run(stripe, now=later) == 1
        outbox._mark(stale, state=State.PENDING, next_attempt_at=None)
        assert rows()[0][2] == "sent"
        spend("1", at=TEN + HOUR)
        other = self.claimed(now=READY + HOUR)
        outbox._mark(stale, state=State.PENDING)
        meter = UsageMeter.objects.get()
        assert (meter.claims, meter.busy_until) == (other.claim, READY + HOUR + outbox.CLAIM)


class TestOperators:
    def failed(self, stripe: FakeMeters) -> MeterEvent:
        spend("1")
        stripe.refuse = lambda _: (400, {"error": {"message": "No such customer"}})
        run(stripe)
        stripe.refuse = lambda _: None
        return MeterEvent.objects.get()

    def test_a_failed_row_is_replaced_by_one_with_its_own_identifier(self, stripe: FakeMeters) -> None:
        row = self.failed(stripe)
        made = outbox.retry(event=row, by=OLGA, now=READY)
        assert made.pk != row.pk
        assert (made.replaces_id, made.value, made.units) == (row.pk, row.value, 0)
        assert run(stripe) == 1
        assert [one.identifier for one in stripe.counted] == [str(made.pk)]
        assert outbox.write(now=READY) == 0
        assert AuditEntry.objects.get(action="meter_event.retry").actor == "olga"

    def test_a_void_row_is_never_sent(self, stripe: FakeMeters) -> None:
        row = self.failed(stripe)
        outbox.void(event=row, reason="paid by bank", by=OLGA, now=READY)
        assert (run(stripe), rows()) == (0, [(1_000_000, 1_000_000, "void")])
        assert AuditEntry.objects.get(action="meter_event.void").reason == "paid by bank"

    def test_a_held_row_is_sent_again_when_an_operator_knows_that_it_did_not_arrive(self, stripe: FakeMeters) -> None:
        spend("1")
        outbox.write(now=READY)
        outbox.claim(outbox._known_meters(now=READY), now=READY)
        later = READY + timedelta(hours=30)
        run(stripe, now=later)
        outbox.retry(event=MeterEvent.objects.get(), by=OLGA, now=later)
        assert run(stripe, now=later) == 1
        assert stripe.total == 1_000_000

    @pytest.mark.parametrize("state", ["sent", "void"])
    def test_what_is_done_is_done(self, stripe: FakeMeters, state: str) -> None:
        spend("1")
        run(stripe)
        MeterEvent.objects.update(state=state)
        for act in (
            lambda row: outbox.retry(event=row, by=OLGA, now=READY),
            lambda row: outbox.void(event=row, reason="x", by=OLGA, now=READY),
        ):
            with pytest.raises(outbox.OutboxError, match=state):
                act(MeterEvent.objects.get())
        assert not AuditEntry.objects.filter(action__startswith="meter_event").exists()


def _usage(row: MeterEvent) -> UsageEvent:
    return UsageEvent(str(row.pk), row.stripe_customer_id, row.value, row.stamped_at, row.attempts)
