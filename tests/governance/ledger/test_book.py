"""The ledger's operations, one by one, on the real database."""

import re
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from governance import ledger
from governance.audit import Actor
from governance.ledger import book, claims, sql, sql_dialect
from governance.ledger.batch import Batch
from governance.ledger.call_rules import CONFIRMED, VOIDED
from governance.ledger.operations import Adjust, ChangeLimit, Expire, Extend, OpenPeriod, Release, Reset
from governance.ledger.results import HoldBeyondBound, InReview, RequestIdReused
from governance.models import Budget, BudgetEvent, BudgetWindow, RateLimit, Reservation, SpendEntry, SpendRollup
from governance.rules.decision import Action, Call, Quote, Reason
from governance.rules.reports import OWN_VERSION, ReportTrust
from governance.upkeep import reconcile, retention
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]


def limit(budget: Budget, dollars: str) -> None:
    """What whoever gives an open window another limit does beside it: the next one has it too."""
    Budget.objects.filter(pk=budget.pk).update(limit_nanos=nanos(dollars))


def window() -> BudgetWindow:
    return BudgetWindow.objects.get(closed_at__isnull=True)


def test_reserve_holds_the_worst_case_and_opens_the_window_lazily():
    make.budget("1.00")
    decision = ledger.reserve(make.reserving("0.10"), now=NOON)
    assert (decision.action, decision.allowed) == (Action.ALLOW, True)
    opened = window()
    assert (opened.settled_nanos, opened.reserved_nanos) == (0, nanos("0.10"))
    assert opened.starts_at.hour == 0
    assert opened.ends_at - opened.starts_at == timedelta(days=1)


def test_settle_charges_the_true_cost_and_returns_the_rest():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    result = ledger.settle(make.settling(op.reservation_id, "0.03"), now=NOON)
    assert (window().settled_nanos, window().reserved_nanos) == (nanos("0.03"), 0)
    entry = SpendEntry.objects.get()
    assert (entry.id, entry.cost_nanos, entry.certainty, entry.overage_nanos) == (
        result.entry_id,
        nanos("0.03"),
        "confirmed",
        0,
    )
    assert entry.windows == [window().id]
    assert SpendRollup.objects.get().cost_nanos == nanos("0.03")
    assert Reservation.objects.get().status == "settled"


def test_settle_above_reservation_posts_in_full_and_flags_overage():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    result = ledger.settle(make.settling(op.reservation_id, "0.15"), now=NOON)
    assert result.overage_nanos == nanos("0.05")
    assert window().settled_nanos == nanos("0.15")


def test_a_reservation_resolves_once():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    ledger.settle(make.settling(op.reservation_id), now=NOON)
    with pytest.raises(ledger.AlreadyResolved):
        ledger.settle(make.settling(op.reservation_id), now=NOON)
    with pytest.raises(ledger.AlreadyResolved):
        ledger.release(Release(op.reservation_id), now=NOON)
    assert window().settled_nanos == nanos("0.10")


def test_release_returns_the_hold_and_leaves_no_entry():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    ledger.release(Release(op.reservation_id), now=NOON)
    assert (window().reserved_nanos, window().settled_nanos) == (0, 0)
    assert not SpendEntry.objects.exists()


def test_unknown_reservation_is_said_so():
    with pytest.raises(ledger.ReservationUnknown):
        ledger.settle(make.settling(uuids.uuid7()), now=NOON)


def test_exactly_as_many_calls_as_fit_are_admitted():
    make.budget("1.00", soft_cap=None)
    results = ledger.apply([make.reserving("0.30") for _ in range(5)], now=NOON)
    assert [r.action for r in results] == [Action.ALLOW] * 3 + [Action.IN_FLIGHT] * 2
    assert window().reserved_nanos == nanos("0.90")


def test_hard_stop_is_one_event_a_window():
    make.budget("0.05")
    for _ in range(2):
        decision = ledger.reserve(make.reserving("0.10"), now=NOON)
        assert (decision.action, decision.reason) == (Action.HARD_STOP, Reason.BUDGET_EXHAUSTED)
    assert BudgetEvent.objects.filter(kind="hard-stop").count() == 1
    assert not Reservation.objects.exists()


def test_expiry_charges_the_hold_as_an_estimate_and_a_late_settle_posts_the_difference_once():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    assert ledger.expire_due(now=NOON) == 0
    later = NOON + timedelta(hours=1)
    assert ledger.expire_due(now=later) == 1
    assert ledger.expire_due(now=later) == 0
    entry = SpendEntry.objects.get()
    assert (entry.cost_nanos, entry.certainty, entry.reason) == (nanos("0.10"), "estimated", "expired")
    result = ledger.settle(make.settling(op.reservation_id, "0.04"), now=later)
    assert result.late
    assert window().settled_nanos == nanos("0.04")
    posted = SpendEntry.objects.get(pk=result.entry_id)
    assert (posted.kind, posted.cost_nanos, posted.corrects_id) == ("adjustment", -nanos("0.06"), entry.pk)
    assert result.charged_nanos == nanos("0.04")
    with pytest.raises(ledger.AlreadyResolved):
        ledger.settle(make.settling(op.reservation_id, "0.04"), now=later)


def test_what_is_released_after_its_expiry_costs_nothing_once():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    later = NOON + timedelta(hours=1)
    assert ledger.expire_due(now=later) == 1
    ledger.release(make.releasing(op.reservation_id), now=later)
    charge, posted = SpendEntry.objects.order_by("id")
    assert (posted.corrects_id, posted.cost_nanos, posted.reason) == (charge.pk, -nanos("0.10"), "late_settle")
    assert (window().settled_nanos, window().reserved_nanos) == (0, 0)
    with pytest.raises(ledger.AlreadyResolved):
        ledger.release(make.releasing(op.reservation_id), now=later)
    assert window().settled_nanos == 0
    assert reconcile.check() == []


@pytest.mark.parametrize("reason", [CONFIRMED, VOIDED])
def test_a_late_release_takes_back_nothing_that_an_operator_has_decided_on(reason: str):
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    later = NOON + timedelta(hours=1)
    ledger.expire_due(now=later)
    charge = SpendEntry.objects.get()
    ledger.adjust(Adjust(uuids.uuid7(), charge.id, -nanos("0.03"), reason), now=later)
    with pytest.raises(ledger.AlreadyResolved, match="decided on by an operator"):
        ledger.release(make.releasing(op.reservation_id), now=later)
    assert window().settled_nanos == nanos("0.07")


def test_a_late_settle_after_an_operator_voided_the_expiry_charges_the_true_cost():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    later = NOON + timedelta(hours=1)
    ledger.expire_due(now=later)
    charge = SpendEntry.objects.get()
    ledger.adjust(Adjust(uuids.uuid7(), charge.id, -nanos("0.10"), "the call never ran"), now=later)
    result = ledger.settle(make.settling(op.reservation_id, "0.04"), now=later)
    assert (result.late, window().settled_nanos) == (True, nanos("0.04"))


def test_a_reservation_id_used_before_is_said_so():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    with pytest.raises(ledger.AlreadyResolved) as raised:
        ledger.reserve(op, now=NOON)
    assert raised.value.status == "pending"
    assert window().reserved_nanos == nanos("0.10")


def test_extend_keeps_a_running_call_alive_and_may_hold_more():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    later = NOON + timedelta(minutes=14)
    ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.20")), now=later)
    assert window().reserved_nanos == nanos("0.30")
    assert ledger.expire_due(now=NOON + timedelta(minutes=16)) == 0
    with pytest.raises(ledger.ExtendRefused):
        ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.80")), now=later)
    assert window().reserved_nanos == nanos("0.30")


def test_more_than_a_budget_has_without_the_hold_is_not_waited_for():
    """What the hold has itself does not come back to it."""
    make.budget("1.00")
    op = make.reserving("0.90")
    ledger.reserve(op, now=NOON)
    with pytest.raises(ledger.ExtendRefused, match=r"^The budget is used up\.$") as refused:
        ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.20")), now=NOON)
    decision = refused.value.decision
    assert decision.because is not None
    assert (decision.wanted.cost_nanos, decision.because.reserved_nanos) == (nanos("1.10"), 0)
    ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.10")), now=NOON)


def test_more_that_others_calls_hold_is_waited_for_as_by_a_call():
    make.budget("1.00")
    op = make.reserving("0.10")
    other = make.reserving("0.80")
    for each in (op, other):
        ledger.reserve(each, now=NOON)
    more = nanos("0.50")
    with pytest.raises(ledger.ExtendRefused, match=r"try again shortly\.$") as refused:
        ledger.extend(Extend(op.reservation_id, more_nanos=more), now=NOON)
    decision = refused.value.decision
    assert (decision.reason, decision.because.reserved_nanos) == (Reason.BUDGET_IN_FLIGHT, nanos("0.80"))
    ledger.release(make.releasing(other.reservation_id), now=NOON)
    ledger.extend(Extend(op.reservation_id, more_nanos=more), now=NOON)


def test_a_call_extended_between_the_look_and_the_expiry_lives_on():
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    due = NOON + timedelta(minutes=20)
    ledger.extend(Extend(op.reservation_id), now=due)
    assert ledger.apply([Expire(op.reservation_id)], now=due) == [False]
    assert Reservation.objects.get().status == "pending"


@pytest.mark.parametrize("resolved", ["settled", "released"])
def test_a_call_resolved_between_the_look_and_the_expiry_is_not_charged_again(resolved):
    budget = make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    due = NOON + timedelta(minutes=20)
    if resolved == "settled":
        ledger.settle(make.settling(op.reservation_id, "0.04"), now=due)
    else:
        ledger.release(make.releasing(op.reservation_id), now=due)
    spent = budget.windows.get().settled_nanos
    assert ledger.apply([Expire(op.reservation_id)], now=due) == [False]
    assert Reservation.objects.get().status == resolved
    window = budget.windows.get()
    assert (window.settled_nanos, window.reserved_nanos) == (spent, 0)


def test_reset_opens_a_new_window_and_a_running_call_settles_into_the_old_one():
    budget = make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    result = ledger.reset(Reset(budget.id, "a test", "ada"), now=NOON + timedelta(minutes=1))
    assert (result.closed, result.opened) == (1, 1)
    ledger.settle(make.settling(op.reservation_id, "0.07"), now=NOON + timedelta(minutes=2))
    old, new = BudgetWindow.objects.order_by("id")
    assert (old.settled_nanos, old.reserved_nanos, new.settled_nanos) == (nanos("0.07"), 0, 0)
    assert new.ends_at == old.ends_at
    assert BudgetEvent.objects.get(kind="budget-reset").actor == "ada"


def test_the_next_day_begins_by_itself():
    make.budget("0.10", soft_cap=None)
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    ledger.settle(make.settling(op.reservation_id), now=NOON)
    assert not ledger.reserve(make.reserving("0.10"), now=NOON).allowed
    assert ledger.reserve(make.reserving("0.10"), now=NOON + timedelta(days=1)).allowed
    assert BudgetWindow.objects.count() == 2
    assert window().settled_nanos == 0


def test_every_budget_must_admit_the_call():
    make.budget("1.00")
    make.budget("0.15", scope_type="agent", scope_key="invoices", soft_cap=None)
    by = make.caller(agent="invoices")
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).allowed
    refused = ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    assert refused.action == Action.IN_FLIGHT
    assert refused.because.scope == "agent:invoices"
    assert ledger.reserve(make.reserving("0.10", by=make.caller(agent="churn")), now=NOON).allowed


def test_each_budget_counts_every_subject_separately():
    make.budget("0.10", scope_type="user", scope_key="*", soft_cap=None)
    for user in ("ann", "bob"):
        assert ledger.reserve(make.reserving("0.10", by=make.caller(user=user)), now=NOON).allowed
        assert not ledger.reserve(make.reserving("0.10", by=make.caller(user=user)), now=NOON).allowed
    assert set(BudgetWindow.objects.values_list("subject", flat=True)) == {"ann", "bob"}


def test_thresholds_and_states_are_events_once():
    make.budget("1.00", downgrade_rules=[{"from": ["large"], "to": "small"}])
    for cost in ("0.60", "0.25", "0.05", "0.10"):
        ledger.record(make.reporting(cost), now=NOON)
    assert window().state == "stopped"
    breaches = BudgetEvent.objects.filter(kind="threshold-breach").values_list("threshold", flat=True)
    assert sorted(breaches) == ["0.5", "0.75", "0.9", "1"]
    changes = BudgetEvent.objects.filter(kind="state-change").order_by("id").values_list("new_state", flat=True)
    assert list(changes) == ["degraded", "stopped"]
    assert BudgetEvent.objects.filter(kind="hard-stop").count() == 1


def test_raising_the_limit_lets_the_tenant_go_on_at_once():
    budget = make.budget("0.10")
    ledger.record(make.reporting("0.10"), now=NOON)
    assert window().state == "stopped"
    assert ledger.change_limit(ChangeLimit(budget.id, nanos("1"), "upgrade", "ada"), now=NOON) == 1
    limit(budget, "1")
    assert (window().state, window().limit_nanos) == ("active", nanos("1"))
    assert ledger.reserve(make.reserving("0.10"), now=NOON).allowed


def test_a_reported_call_counts_once_per_request_id():
    make.budget("1.00")
    first = ledger.record(make.reporting("0.10", request_id="r1"), now=NOON)
    again = ledger.record(make.reporting("0.10", request_id="r1"), now=NOON)
    assert (first.duplicate, again.duplicate, again.entry_id) == (False, True, first.entry_id)
    both = ledger.apply([make.reporting("0.10", request_id="r2") for _ in range(2)], now=NOON)
    assert [result.duplicate for result in both] == [False, True]
    assert window().settled_nanos == nanos("0.20")


def test_an_adjustment_is_a_new_row_that_names_the_one_it_corrects():
    make.budget("1.00")
    wrong = ledger.record(make.reporting("0.10"), now=NOON)
    ledger.adjust(Adjust(uuids.uuid7(), wrong.entry_id, -nanos("0.04"), "wrong price"), now=NOON)
    assert window().settled_nanos == nanos("0.06")
    assert SpendEntry.objects.get(kind="adjustment").corrects_id == wrong.entry_id


def test_entries_cannot_be_edited():
    ledger.record(make.reporting("0.10"), now=NOON)
    from django.db import DatabaseError, transaction

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        SpendEntry.objects.update(cost_nanos=1)


def test_a_paid_period_opens_its_window_once_and_zeroes_nothing():
    budget = make.budget("50.00", window="billing_cycle")
    ledger.record(make.reporting("50.00"), now=NOON)
    grant = OpenPeriod(
        budget.id,
        NOON,
        NOON + timedelta(days=31),
        nanos("200"),
        "stripe",
        "si_1",
        "invoice in_1 was paid",
        "stripe",
    )
    assert ledger.open_period(grant, now=NOON).opened
    limit(budget, "200")
    assert not ledger.open_period(grant, now=NOON).opened
    ledger.record(make.reporting("1.00"), now=NOON)
    assert not ledger.open_period(grant, now=NOON).opened
    assert (window().limit_nanos, window().settled_nanos) == (nanos("200"), nanos("1"))
    assert BudgetWindow.objects.get(closed_at__isnull=False).settled_nanos == nanos("50")
    older = OpenPeriod(budget.id, NOON - timedelta(days=31), NOON, nanos("50"), "stripe", "si_1", "paid late", "stripe")
    assert not ledger.open_period(older, now=NOON).opened
    assert window().settled_nanos == nanos("1")


def test_a_reset_at_the_instant_a_paid_period_began_opens_its_window():
    budget = make.budget("1.00", window="billing_cycle")
    ends_at = NOON + timedelta(days=31)
    grant = OpenPeriod(budget.id, NOON, ends_at, nanos("200"), "stripe", "si_1", "paid", "stripe")
    ledger.open_period(grant, now=NOON)
    limit(budget, "200")
    for _ in range(2):
        ledger.reset(Reset(budget.id, "a test", "ada"), now=NOON)
    assert (window().limit_nanos, window().ends_at) == (nanos("200"), ends_at)
    assert BudgetWindow.objects.count() == 3


def test_a_billing_cycle_goes_on_until_the_next_is_paid():
    budget = make.budget("1.00", window="billing_cycle", soft_cap=None)
    grant = OpenPeriod(budget.id, NOON, NOON + timedelta(days=31), nanos("1"), "stripe", "si_1", "paid", "stripe")
    ledger.open_period(grant, now=NOON)
    ledger.record(make.reporting("0.95"), now=NOON)
    late = NOON + timedelta(days=40)
    assert ledger.roll_windows(now=late) == 0
    assert not ledger.reserve(make.reserving("0.10"), now=late).allowed
    assert ledger.reserve(make.reserving("0.05"), now=late).allowed


def test_pausing_takes_hold_on_the_next_call():
    tenant = make.tenant()
    make.budget("1.00")
    tenant.status = "paused"
    tenant.save()
    decision = ledger.reserve(make.reserving("0.10"), now=NOON)
    assert (decision.action, decision.reason) == (Action.HARD_STOP, Reason.TENANT_PAUSED)


def test_the_dry_run_decides_as_the_real_thing_and_writes_nothing():
    make.budget("1.00")
    real = make.reserving("0.85")
    dry = ledger.dry_run(real.caller, real.call, now=NOON)
    assert not BudgetWindow.objects.exists()
    decision = ledger.reserve(real, now=NOON)
    assert (dry.action, dry.model, dry.reason) == (decision.action, decision.model, decision.reason)
    assert dry.action == Action.WARN


def test_one_bad_operation_does_not_poison_its_neighbours():
    make.budget("1.00")
    good = make.reserving("0.10")
    taken = make.reserving("0.10")
    ledger.reserve(taken, now=NOON)
    first, second = ledger.apply([taken, good], now=NOON)
    assert isinstance(first, Exception)
    assert second.allowed
    assert window().reserved_nanos == nanos("0.20")


# Whatever stands before it: on PostgreSQL rows come first.
WRITES = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM) governance_")


def test_what_is_refused_writes_nothing():
    """However many calls are refused, there is no row that they wear out."""
    make.budget("1.00")
    RateLimit.objects.create(tenant=make.tenant(), scope_type="tenant", scope_key="acme", requests_per_minute=9)
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    ledger.record(make.reporting("0.85"), now=NOON)
    # The first one may close the window, and says so.
    assert not ledger.reserve(make.reserving("0.50"), now=NOON).allowed
    assert BudgetEvent.objects.exists()
    with CaptureQueriesContext(connection) as asked:
        assert not ledger.reserve(make.reserving("0.50"), now=NOON).allowed
        with pytest.raises(ledger.ExtendRefused):
            ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.50")), now=NOON)
    assert [query["sql"] for query in asked if WRITES.search(query["sql"])] == []
    with CaptureQueriesContext(connection) as asked:
        ledger.settle(make.settling(op.reservation_id), now=NOON)
    # Where statements go in pipelines, of which nothing can be caught, what was caught above says nothing.
    assert any(WRITES.search(query["sql"]) for query in asked) or connection.vendor == "postgresql"


def test_nothing_to_do_is_done_at_once(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert ledger.apply([], now=NOON) == []


@pytest.mark.django_db(transaction=True)
def test_a_part_of_somebodys_transaction_needs_one():
    make.budget("1.00")
    with pytest.raises(RuntimeError, match="needs an open transaction"):
        ledger.apply_within([make.reporting("0.10")], now=NOON)
    assert not SpendEntry.objects.exists()


def test_a_reservation_id_used_twice_in_a_batch_holds_once():
    make.budget("1.00")
    op = make.reserving("0.10")
    first, second = ledger.apply([op, op], now=NOON)
    assert first.allowed
    assert (type(second), second.status) == (ledger.AlreadyResolved, "reserved")
    assert window().reserved_nanos == nanos("0.10")


@pytest.mark.parametrize("kind", ["hold", "report"])
def test_what_the_database_forbids_fails_with_its_word_and_leaves_no_trace(kind):
    """Less than nothing: no check of ours is in the way."""
    make.budget("1.00")
    good = make.reserving("0.10")
    less = {
        "hold": replace(good, reservation_id=uuids.uuid7(), call=Call(model="large", quote=lambda m: Quote(m, -1))),
        "report": replace(make.reporting("0.10"), cost_nanos=-1),
    }[kind]
    [alone] = ledger.apply([less], now=NOON)
    assert isinstance(alone, IntegrityError)
    assert not BudgetWindow.objects.exists()
    assert ledger.reserve(good, now=NOON).allowed
    assert (window().reserved_nanos, window().settled_nanos) == (nanos("0.10"), 0)


def missed_once(monkeypatch, name, answer):
    """The first look by this statement comes too early to see what somebody else commits."""
    look, looks = getattr(sql, name), []

    def early(*args):
        looks.append(args)
        return answer if len(looks) == 1 else look(*args)

    monkeypatch.setattr(sql, name, early)


def test_a_call_that_is_reported_twice_at_the_same_moment_counts_once(monkeypatch):
    make.budget("1.00")
    theirs = ledger.record(make.reporting("0.10", request_id="r1"), now=NOON)
    missed_once(monkeypatch, "reported", {})
    ours = ledger.record(make.reporting("0.20", request_id="r1"), now=NOON)
    assert (ours.entry_id, ours.cost_nanos, ours.duplicate) == (theirs.entry_id, nanos("0.10"), True)
    assert window().settled_nanos == nanos("0.10")


@pytest.mark.django_db(transaction=True)
def test_a_report_under_the_id_that_another_agent_takes_at_that_moment_is_refused(monkeypatch):
    make.budget("1.00")
    ledger.record(make.reporting("0.10", by=make.caller(agent="a"), request_id="r1"), now=NOON)
    missed_once(monkeypatch, "reported", {})
    trust = ReportTrust(make.tenant().pk, 0, agent_is_fixed=True)
    with pytest.raises(RequestIdReused) as refused:
        ledger.record(make.reporting("0.20", by=make.caller(agent="b"), request_id="r1", trust=trust), now=NOON)
    assert refused.value.field == "request_id"
    assert window().settled_nanos == nanos("0.10")


@pytest.mark.django_db(transaction=True)
def test_within_another_transaction_such_a_race_is_for_whoever_began_it(monkeypatch):
    make.budget("1.00")
    ledger.record(make.reporting("0.10", request_id="r1"), now=NOON)
    missed_once(monkeypatch, "reported", {})
    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.apply_within([make.reporting("0.10", request_id="r1")], now=NOON)
    assert window().settled_nanos == nanos("0.10")


def test_more_holds_than_are_looked_at_once_expire_all_the_same():
    make.budget("1.00")
    for _ in range(3):
        ledger.reserve(make.reserving("0.10"), now=NOON)
    assert ledger.expire_due(now=NOON + timedelta(hours=1), limit=2) == 3


def test_only_an_agents_own_holds_count_as_claims():
    make.budget("10", scope_type="platform")
    trust = ReportTrust(make.tenant().pk, nanos("1"))
    ids = [UUID(int=OWN_VERSION << 76 | 2 << 62 | n) for n in range(3)]
    own = [replace(make.reserving("0.50", id=id), trust=trust) for id in ids]
    # All in one batch, beside a call of the gateway.
    found = ledger.apply([make.reserving("5"), *own], now=NOON)
    assert [getattr(each, "allowed", type(each)) for each in found] == [True, True, True, HoldBeyondBound]


def test_what_a_claim_holds_already_counts_once_where_it_is_to_grow():
    make.budget("10", scope_type="platform")
    trust = ReportTrust(make.tenant().pk, nanos("1"))
    own = replace(make.reserving("0.50", id=UUID(int=OWN_VERSION << 76 | 2 << 62)), trust=trust)
    ledger.reserve(own, now=NOON)
    grow = Extend(own.reservation_id, more_nanos=nanos("0.500000001"), trust=trust)
    with pytest.raises(HoldBeyondBound):
        ledger.extend(grow, now=NOON)
    ledger.extend(replace(grow, more_nanos=nanos("0.50")), now=NOON)
    assert Reservation.objects.get().amount_nanos == nanos("1")


@pytest.mark.parametrize("ended", [None, "expired", "released"])
def test_a_tenant_without_a_budget_has_so_many_holds_of_its_own_and_no_more(monkeypatch, ended):
    """Each is looked at for the next, while the platform's window is locked."""
    monkeypatch.setattr(claims, "MOST_UNBUDGETED_HOLDS", 3)
    make.budget("10", scope_type="platform")
    trust = ReportTrust(make.tenant().pk, nanos("1"))
    holds = [
        replace(make.reserving("0.000000001", id=UUID(int=OWN_VERSION << 76 | 2 << 62 | n)), trust=trust)
        for n in range(6)
    ]
    assert all(ledger.reserve(hold, now=NOON).allowed for hold in holds[:3])
    later = NOON
    if ended == "expired":
        later += timedelta(hours=1)
        assert ledger.expire_due(now=later) == 3
    elif ended == "released":
        for hold in holds[:3]:
            ledger.release(Release(hold.reservation_id), now=NOON)
        assert ledger.reserve(holds[3], now=later).allowed
        return
    with pytest.raises(HoldBeyondBound, match="has at most 3 holds"):
        ledger.reserve(holds[3], now=later)
    # What is held may grow, and is settled on its holder's word as before.
    if ended is None:
        ledger.extend(Extend(holds[0].reservation_id, more_nanos=1, trust=trust), now=later)
        settle = make.settling(holds[0].reservation_id, "0.000000002")
        assert ledger.settle(replace(settle, trust=trust), now=later).charged_nanos == 2
        assert ledger.reserve(holds[3], now=later).allowed
    # Calls of the gateway, and other tenants, are not concerned; a day later what expired is forgotten.
    assert ledger.reserve(make.reserving("1"), now=later).allowed
    if ended:
        assert ledger.reserve(holds[4], now=later + timedelta(days=2)).allowed


def test_holds_of_nothing_count_and_where_there_are_too_many_none_grows(monkeypatch):
    make.budget("10", scope_type="platform")
    trust = ReportTrust(make.tenant().pk, nanos("1"))
    holds = [replace(make.reserving("0", id=UUID(int=OWN_VERSION << 76 | 2 << 62 | n)), trust=trust) for n in range(4)]
    assert all(ledger.reserve(hold, now=NOON).allowed for hold in holds[:3])
    monkeypatch.setattr(claims, "MOST_UNBUDGETED_HOLDS", 3)
    with pytest.raises(HoldBeyondBound, match="has at most 3 holds"):
        ledger.reserve(holds[3], now=NOON)
    # Of more than are looked at, the rest may hold whatever.
    monkeypatch.setattr(claims, "MOST_UNBUDGETED_HOLDS", 2)
    with pytest.raises(HoldBeyondBound, match="has at most 2 holds"):
        ledger.extend(Extend(holds[0].reservation_id, more_nanos=1, trust=trust), now=NOON)


def test_where_there_are_more_holds_than_there_may_be_a_report_waits_for_an_operator(monkeypatch):
    make.budget("10", scope_type="platform")
    trust = ReportTrust(make.tenant().pk, nanos("1"))
    for n in range(3):
        hold = make.reserving("0.01", id=UUID(int=OWN_VERSION << 76 | 2 << 62 | n))
        ledger.reserve(replace(hold, trust=trust), now=NOON)
    monkeypatch.setattr(claims, "MOST_UNBUDGETED_HOLDS", 2)
    [found] = ledger.apply([make.reporting("0.01", trust=trust)], now=NOON)
    assert isinstance(found, InReview)


@pytest.mark.django_db(transaction=True)
def test_a_correction_of_an_entry_that_is_purged_at_that_moment_finds_none(monkeypatch):
    make.budget("1.00", window="lifetime")
    id = ledger.record(make.reporting("0.10"), now=NOON).entry_id
    seen = sql.entries([id])
    later = NOON + timedelta(days=300)
    assert retention.purge(before=NOON + timedelta(days=1), now=later, by=Actor("ada")).entries == 1
    missed_once(monkeypatch, "entries", seen)
    with pytest.raises(ledger.ReservationUnknown):
        ledger.adjust(Adjust(uuids.uuid7(), id, -nanos("0.05"), "a credit"), now=later)
    assert window().settled_nanos == nanos("0.10")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("sqlstate", ledger.RETRYABLE_SQLSTATES)
@pytest.mark.parametrize("times", [2, book.ATTEMPTS, 4 * book.ATTEMPTS])
def test_a_deadlock_runs_again_a_few_times(monkeypatch, sqlstate, times):
    make.budget("1.00")
    prepare, tries = Batch.prepare, []

    def deadlocked(batch):
        tries.append(batch)
        if len(tries) <= times:
            cause = Exception("chosen as the victim")
            cause.sqlstate = sqlstate
            raise OperationalError("deadlock detected") from cause
        prepare(batch)

    monkeypatch.setattr(Batch, "prepare", deadlocked)
    monkeypatch.setattr(book.time, "sleep", lambda _: None)
    op = make.reserving("0.10")
    # All of it is tried three times more where nobody keeps a lock.
    if times < 4 * book.ATTEMPTS:
        assert ledger.reserve(op, now=NOON).allowed
        assert len(tries) == times + 1
    else:
        with pytest.raises(ledger.LedgerUnavailable):
            ledger.reserve(op, now=NOON)
        assert len(tries) == 4 * book.ATTEMPTS


@pytest.mark.django_db(transaction=True)
def test_a_database_that_goes_away_among_the_operations_of_a_broken_batch_leaves_unsure_what_landed(monkeypatch):
    make.budget("1.00")
    taken, good = make.reserving("0.10"), make.reserving("0.10")
    ledger.reserve(taken, now=NOON)
    prepare = Batch.prepare

    def failing(batch):
        if list(batch.operations) == [taken]:
            raise OperationalError("the database is away")
        prepare(batch)

    monkeypatch.setattr(Batch, "prepare", failing)
    with pytest.raises(ledger.LedgerUnavailable) as raised:
        ledger.apply([good, taken], now=NOON)
    assert raised.value.unsure
    assert window().reserved_nanos == nanos("0.20")


@pytest.mark.django_db(transaction=True)
def test_a_database_that_goes_away_before_a_failure_is_explained_is_said_so(monkeypatch):
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)

    def away(_):
        raise OperationalError("the database is away")

    look = sql.reservations
    monkeypatch.setattr(sql, "reservations", lambda ids: away(ids) if ids else look(ids))
    with pytest.raises(ledger.LedgerUnavailable):
        ledger.reserve(op, now=NOON)


def test_windows_roll_without_a_call():
    make.budget("1.00")
    assert ledger.roll_windows(now=NOON) == 1
    assert ledger.roll_windows(now=NOON) == 0
    assert ledger.roll_windows(now=NOON + timedelta(days=1)) == 2
    assert BudgetWindow.objects.count() == 2


@pytest.mark.parametrize("asked", [{"more_nanos": 1}, {"asked": True}])
def test_whoever_is_paused_is_held_no_more_for_and_told_why(asked):
    tenant = make.tenant()
    make.budget("1.00")
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    tenant.status = "paused"
    tenant.save()
    with pytest.raises(ledger.ExtendRefused, match=r"^An operator has paused this tenant\.$") as refused:
        ledger.extend(Extend(op.reservation_id, **asked), now=NOON)
    assert refused.value.decision.reason == Reason.TENANT_PAUSED
    assert Reservation.objects.get().amount_nanos == nanos("0.10")


def test_a_correction_has_what_it_corrects_but_for_what_it_says_itself():
    make.budget("1.00")
    ledger.record(make.reporting("0.10", request_id="r1", by=make.caller(agent="invoices")), now=NOON)
    charge = SpendEntry.objects.get()
    corrected = ledger.adjust(Adjust(uuids.uuid7(), charge.id, -nanos("0.04"), "the bill"), now=NOON)
    entry = SpendEntry.objects.get(pk=corrected.entry_id)
    assert (entry.kind, entry.cost_nanos, entry.reason, entry.corrects_id) == (
        "adjustment",
        -nanos("0.04"),
        "the bill",
        charge.pk,
    )
    assert (entry.agent, entry.model_served, entry.windows) == (charge.agent, charge.model_served, charge.windows)
    # Tokens count once, and a request has one charge.
    assert (entry.input_tokens, entry.cached_tokens, entry.output_tokens, entry.units) == (0, 0, 0, 0)
    assert (entry.request_id, entry.price_rule, entry.certainty, entry.overage_nanos) == ("", "", "confirmed", 0)
    assert (entry.unit, entry.metadata) == ("token", {})


@pytest.mark.postgres_only
def test_rows_are_read_by_index_however_small_the_tables_are_thought_to_be(monkeypatch):
    """Else a plan that was made for a young table goes on reading all of it when it has grown."""
    make.budget("1.00")
    run, read = book._run, []

    def whole_tables():
        asked = "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE seq_tup_read > 0 ORDER BY relname"
        return sql_dialect.select(asked, [])

    def noting(*args, **fields):
        before = whole_tables()
        results = run(*args, **fields)
        read.append((before, whole_tables()))
        return results

    monkeypatch.setattr(book, "_run", noting)
    for _ in range(3):
        op = make.reserving("0.10")
        ledger.reserve(op, now=NOON)
        ledger.settle(make.settling(op.reservation_id, "0.04"), now=NOON)
        sql_dialect.run("ANALYZE", [])
    assert len(read) == 6
    assert [after for before, after in read] == [before for before, after in read]
