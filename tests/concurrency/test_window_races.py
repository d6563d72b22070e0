"""Two transactions that meet at one budget's windows: whoever comes second sees what the first one did."""

import threading
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction

from billing.accounts import budget_windows, purchases
from billing.models import BillingAccount, TopUp
from governance import ledger
from governance.actions import allowances, budgets, goals, spend_reports
from governance.audit import Actor
from governance.ledger import acts, batch, book, sql, sql_dialect, sql_writes
from governance.ledger.operations import ChangeLimit, Extend, OpenPeriod, Reset
from governance.ledger.results import ExtendRefused
from governance.models import (
    Allowance,
    ApiKey,
    AuditEntry,
    Budget,
    BudgetWindow,
    EmergencyStop,
    RateBucket,
    RateLimit,
    Tenant,
)
from governance.rules.decision import Reason
from governance.rules.errors import NotOpen
from governance.upkeep import reconcile
from tests import factories as make
from tests.concurrency.processes import in_processes
from tests.factories import NOON, nanos

pytestmark = pytest.mark.postgres_only

LATER = NOON + timedelta(minutes=1)
ADA = Actor("ada")
HAMMERED_S = 3


def waiting():
    """How many wait for a lock in this database: other tests use the server too."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_locks"
            " JOIN pg_database ON pg_database.oid = database WHERE datname = current_database())"
        )
        return cursor.fetchone()[0]


def wait_until_someone_waits(*, beside=0, or_else=lambda: False):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if waiting() > beside or or_else():
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def started(work):
    """`work` in a thread of its own, and the list that its failure goes into."""
    failures = []

    def run():
        try:
            work()
        except Exception as error:
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return failures, thread


def meanwhile(first, second):
    """Run `second` in another thread while the transaction of `first` is open."""
    with transaction.atomic():
        first()
        failures, thread = started(second)
        wait_until_someone_waits()
    thread.join(20)
    assert not failures, failures


class Overtaking:
    """Before each statement of the ledger's by this name, of this thread: a rival acts.

    One that `holds` commits when somebody waits, for it or another. Where the rival waits, we go on.
    """

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self._us = threading.current_thread()
        self._over = threading.Event()
        self.rivals = []

    def at(self, name, rival, *, holds=True):
        home = sql if hasattr(sql, name) else sql_writes
        statement = getattr(home, name)

        def overtaken(*args, **kwargs):
            if threading.current_thread() is self._us:
                acted, before = threading.Event(), waiting()
                self.rivals.append(started(lambda: self._act(rival, acted, holds)))
                wait_until_someone_waits(beside=before, or_else=acted.is_set)
            return statement(*args, **kwargs)

        self._monkeypatch.setattr(home, name, overtaken)

    def end(self):
        self._over.set()
        for failures, thread in self.rivals:
            thread.join(20)
            assert not failures, failures

    def _act(self, rival, acted, holds):
        with transaction.atomic() if holds else nullcontext():
            rival()
            acted.set()
            if holds:
                wait_until_someone_waits(or_else=self._over.is_set)


@pytest.fixture
def overtaking(monkeypatch):
    found = Overtaking(monkeypatch)
    yield found
    found.end()


def test_a_limit_changed_during_a_reset_reaches_the_new_window():
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    meanwhile(
        lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER),
        lambda: ledger.change_limit(ChangeLimit(budget.pk, nanos("0.20"), "less", "ops"), now=LATER),
    )
    assert BudgetWindow.objects.get(closed_at=None).limit_nanos == nanos("0.20")


def test_a_paid_period_that_begins_during_a_reset_opens_its_window():
    budget = make.budget("1.00", window="billing_cycle")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    paid = OpenPeriod(
        budget.pk, NOON, NOON + timedelta(days=30), nanos("5.00"), "stripe", "cus_1", reason="renewed", actor="stripe"
    )
    meanwhile(
        lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER),
        lambda: ledger.open_period(paid, now=LATER),
    )
    window = BudgetWindow.objects.get(closed_at=None)
    assert (window.limit_nanos, window.source_id) == (nanos("5.00"), "cus_1")


def test_a_threshold_crossed_while_the_budget_is_changed_is_no_deadlock():
    budget = make.budget("1.00")
    op = make.reserving("0.60")
    ledger.reserve(op, now=NOON)
    meanwhile(
        lambda: ledger.apply_within([make.settling(op.reservation_id, "0.60")], now=LATER),
        lambda: budgets.change(budget=budget, changes={"limit_nanos": nanos("2.00")}, by=Actor("ops"), now=LATER),
    )
    assert BudgetWindow.objects.get().limit_nanos == nanos("2.00")


@pytest.mark.parametrize("has_window", [True, False])
def test_a_call_that_waits_while_its_goal_is_closed_is_refused(has_window):
    budget = make.budget("1.00", window="lifetime", scope_type="task", scope_key="report")
    by = make.caller(task="report")
    if has_window:
        ledger.reserve(make.reserving("0.10", by=by), now=NOON)
    found = []
    meanwhile(
        lambda: goals.close(budget=budget, by=ADA, now=LATER),
        lambda: found.append(ledger.reserve(make.reserving("0.10", by=by), now=LATER)),
    )
    assert [decision.reason for decision in found] == [Reason.BUDGET_CLOSED]
    assert BudgetWindow.objects.get().reserved_nanos == (nanos("0.10") if has_window else 0)


def test_what_is_carried_over_is_so_once_where_two_open_the_next_window():
    make.budget("1.00", soft_cap=None, clamp=False, carry_over="50%")
    ledger.reserve(make.reserving("0.70"), now=NOON)
    tomorrow, found = NOON + timedelta(days=1), []

    def reserve():
        found.append(ledger.reserve(make.reserving("0.90"), now=tomorrow))

    meanwhile(lambda: ledger.apply_within([make.reserving("0.50")], now=tomorrow), reserve)
    window = BudgetWindow.objects.get(closed_at=None)
    assert (window.carried_nanos, window.reserved_nanos) == (nanos("0.30"), nanos("0.50"))
    assert [decision.allowed for decision in found] == [False]
    assert reconcile.check() == []


def test_a_goal_that_two_close_at_one_moment_is_closed_once():
    budget = make.budget("1.00", window="lifetime", scope_type="task", scope_key="report")
    meanwhile(
        lambda: goals.close(budget=budget, by=ADA, now=NOON),
        lambda: goals.close(budget=budget, by=ADA, now=LATER),
    )
    assert AuditEntry.objects.filter(action="budget.close").count() == 1


def test_a_top_up_beside_a_reset_counts_in_the_new_window():
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    meanwhile(
        lambda: budgets.reset(budget=budget, reason="again", by=ADA, now=LATER),
        lambda: allowances.top_up(budget=budget, amount_nanos=nanos("5.00"), reason="more", by=ADA, now=LATER),
    )
    assert BudgetWindow.objects.get(closed_at=None).limit_nanos == nanos("6.00")


def test_a_bought_top_up_beside_a_reset_counts_in_the_new_window():
    tenant = make.tenant()
    budget = make.budget("1.00", tenant=tenant)
    ledger.reserve(make.reserving("0.10"), now=NOON)
    account = BillingAccount.objects.create(stripe_customer_id="cus_1", tenant=tenant)
    TopUp.objects.create(key="cs_1", account=account, amount_nanos=nanos("5.00"), noted_at=NOON)

    def count():
        with transaction.atomic():
            purchases.count_without_window(account, tenant, now=LATER)

    meanwhile(lambda: budgets.reset(budget=budget, reason="again", by=ADA, now=LATER), count)
    assert BudgetWindow.objects.get(closed_at=None).limit_nanos == nanos("6.00")


def test_a_bought_top_up_for_two_budgets_takes_their_turns_at_once(monkeypatch):
    tenant = make.tenant()
    # The later budget's window is found first, for it began last.
    for window in ("month", "day"):
        make.budget("1.00", tenant=tenant, window=window)
    ledger.reserve(make.reserving("0.10"), now=NOON)
    account = BillingAccount.objects.create(stripe_customer_id="cus_1", tenant=tenant)
    TopUp.objects.create(key="cs_1", account=account, amount_nanos=nanos("5.00"), noted_at=NOON)
    top_up, rivals = allowances.top_up, []

    def report():
        with transaction.atomic():
            ledger.apply_within([make.reporting("0.10")], now=LATER)

    def top_up_beside_a_report(**kwargs):
        top_up(**kwargs)
        if not rivals:
            rivals.append(started(report))
            wait_until_someone_waits()

    monkeypatch.setattr(allowances, "top_up", top_up_beside_a_report)
    with transaction.atomic():
        purchases.count_without_window(account, tenant, now=LATER)
    [(failures, thread)] = rivals
    thread.join(20)
    assert not failures, failures
    assert [window.limit_nanos for window in BudgetWindow.objects.all()] == [nanos("6.00")] * 2


def test_a_bought_top_up_beside_a_crowded_budget_locks_its_windows_in_their_order(monkeypatch):
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 1)
    tenant = make.tenant()
    budgets.create(scope_type="tenant", scope_key="*", window="day", limit_nanos=nanos("1.00"), by=ADA, now=NOON)
    for slug in (tenant.slug, "globex"):
        ledger.reserve(make.reserving("0.10", by=make.caller(make.tenant(slug))), now=NOON)
    make.budget("1.00", tenant=tenant, window="month")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    account = BillingAccount.objects.create(stripe_customer_id="cus_1", tenant=tenant)
    TopUp.objects.create(key="cs_1", account=account, amount_nanos=nanos("5.00"), noted_at=NOON)
    crowded, own = BudgetWindow.objects.filter(tenant=tenant).order_by("id")

    def count():
        with transaction.atomic():
            purchases.count_without_window(account, tenant, now=LATER)

    with transaction.atomic():
        # As a call does that both govern: one after the other.
        BudgetWindow.objects.select_for_update().get(pk=crowded.pk)
        failures, thread = started(count)
        wait_until_someone_waits()
        BudgetWindow.objects.select_for_update(nowait=True).get(pk=own.pk)
    thread.join(20)
    assert not failures, failures
    assert [row.limit_nanos for row in BudgetWindow.objects.filter(tenant=tenant)] == [nanos("6.00")] * 2


def test_a_budget_that_is_made_anew_is_locked_after_its_windows():
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    assert not budgets.delete(budget=budget, by=ADA, now=NOON)

    def make_anew():
        anew = {"scope_type": budget.scope_type, "tenant": budget.tenant, "window": budget.window}
        budgets.create(**anew, limit_nanos=nanos("2.00"), by=ADA, now=LATER)

    with transaction.atomic():
        BudgetWindow.objects.select_for_update().get()
        failures, thread = started(make_anew)
        wait_until_someone_waits()
        Budget.objects.select_for_update(of=("self",), nowait=True).get(pk=budget.pk)
    thread.join(20)
    assert not failures, failures
    assert Budget.objects.get().enabled
    assert BudgetWindow.objects.get().limit_nanos == nanos("2.00")


def test_a_top_up_that_a_reset_ends_is_not_ended_again():
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    given = allowances.top_up(budget=budget, amount_nanos=nanos("5.00"), reason="more", by=ADA, now=NOON)

    def end():
        with pytest.raises(NotOpen):
            allowances.end(allowance=given, by=ADA, now=LATER)

    meanwhile(lambda: budgets.reset(budget=budget, reason="again", by=ADA, now=LATER), end)
    assert Allowance.objects.get() == given


def test_a_window_that_opens_while_the_budget_is_changed_is_no_deadlock(monkeypatch):
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    tomorrow = NOON + timedelta(days=1)
    changes, close, changing = {"limit_nanos": nanos("2.00")}, sql_writes.close_windows, []

    def close_while_it_is_changed(*args):
        """The call holds the ended window, and opens the next one after this."""
        changing.append(started(lambda: budgets.change(budget=budget, changes=changes, by=ADA, now=tomorrow)))
        wait_until_someone_waits()
        close(*args)

    monkeypatch.setattr(sql_writes, "close_windows", close_while_it_is_changed)
    ledger.reserve(make.reserving("0.10"), now=tomorrow)
    [(failures, thread)] = changing
    thread.join(20)
    assert not failures, failures
    assert BudgetWindow.objects.get(closed_at=None).limit_nanos == nanos("2.00")


def test_a_window_that_ends_while_it_is_waited_for_is_locked_with_its_successor(monkeypatch):
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    close, locking, held, let_go = sql_writes.close_windows, [], threading.Event(), threading.Event()

    def lock_and_hold():
        with transaction.atomic():
            ledger.lock_windows(budget.pk)
            held.set()
            let_go.wait(10)

    def close_while_it_is_waited_for(*args):
        locking.append(started(lock_and_hold))
        wait_until_someone_waits()
        close(*args)

    monkeypatch.setattr(sql_writes, "close_windows", close_while_it_is_waited_for)
    ledger.reserve(make.reserving("0.10"), now=NOON + timedelta(days=1))
    assert held.wait(10)
    with transaction.atomic():
        free = list(BudgetWindow.objects.select_for_update(skip_locked=True).filter(closed_at=None))
    let_go.set()
    [(failures, thread)] = locking
    thread.join(20)
    assert (failures, free) == ([], [])


def test_a_budget_that_stripe_takes_over_while_it_is_reset_is_no_deadlock(monkeypatch):
    tenant = make.tenant()
    budget = make.budget("1.00", window="billing_cycle", tenant=tenant)
    ledger.reserve(make.reserving("0.10"), now=NOON)
    insert, taking = sql_writes.open_windows, []

    def take_over():
        with transaction.atomic():
            budget_windows._budget(tenant, nanos("5.00"), None, LATER)
            ledger.lock_windows(budget.pk)

    def open_while_it_is_taken_over(*args):
        """The reset has the turn and the window, and needs the budget's row."""
        taking.append(started(take_over))
        wait_until_someone_waits()
        insert(*args)

    monkeypatch.setattr(sql_writes, "open_windows", open_while_it_is_taken_over)
    with transaction.atomic():
        ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER)
    [(failures, thread)] = taking
    thread.join(20)
    assert not failures, failures
    budget.refresh_from_db()
    assert budget.source == Budget.Source.STRIPE


def call_and_report(_):
    results = ledger.apply([make.reserving("0.10"), make.reporting("0.10")], now=LATER)
    assert not [result for result in results if isinstance(result, Exception)]


# What is done to a budget of one dollar a day.
LOSERS = {
    "a call": lambda budget: ledger.reserve(make.reserving("0.10"), now=LATER),
    "a batch": call_and_report,
    "a report in a transaction of its own": lambda budget: ledger.record(make.reporting("0.10"), now=LATER),
    "a report in an operator's": lambda budget: spend_reports.record(report=make.reporting("0.10"), by=ADA, now=LATER),
    "a limit": lambda budget: ledger.change_limit(ChangeLimit(budget.pk, nanos("2"), "more", "ada"), now=LATER),
    "a reset": lambda budget: ledger.reset(Reset(budget.pk, "again", "ada"), now=LATER),
    "a change": lambda budget: budgets.change(budget=budget, changes={"limit_nanos": 9}, by=ADA, now=LATER),
}


@pytest.mark.parametrize("loser", LOSERS)
def test_who_loses_every_look_to_a_reset_comes_through(loser, overtaking):
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    overtaking.at("windows", lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER))
    LOSERS[loser](budget)
    assert overtaking.rivals


def test_a_call_loses_a_few_looks_and_then_none(overtaking):
    budget = make.budget("1.00")
    ledger.reserve(make.reserving("0.10"), now=NOON)
    overtaking.at("windows", lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER))
    assert ledger.reserve(make.reserving("0.10"), now=LATER).allowed
    overtaking.end()
    assert len(overtaking.rivals) == batch.LOOKS + 1


@pytest.mark.parametrize("act", ["taken back", "granted"])
def test_a_raise_that_changes_as_a_call_opens_a_window_counts_there_as_it_is_then(act):
    budget = make.budget("1.00", scope_type="user", scope_key="*")
    raised = {"budget": budget, "amount_nanos": nanos("100"), "reason": "launch", "by": ADA, "now": NOON}
    raised |= {"starts_at": NOON, "ends_at": NOON + timedelta(days=3)}
    given = allowances.raise_limit(**raised) if act == "taken back" else None
    call = make.reserving("0.10", by=make.caller(user="ann"))
    meanwhile(
        # As the writer of calls does, up to its commit: they queue for no budget's turn.
        lambda: book._run([call], LATER, book.Manner()),
        lambda: allowances.end(allowance=given, by=ADA, now=LATER) if given else allowances.raise_limit(**raised),
    )
    assert BudgetWindow.objects.get().limit_nanos == nanos("1" if given else "101")


def test_calls_that_lose_no_race_queue_for_nothing(monkeypatch):
    budget = make.budget("1.00")
    run, said = sql_dialect.run, []
    monkeypatch.setattr(sql_dialect, "run", lambda statement, params: (said.append(statement), run(statement, params)))
    for now in (NOON, LATER):
        op = make.reserving("0.10")
        ledger.apply([op, make.reporting("0.10")], now=now)
        ledger.settle(make.settling(op.reservation_id, "0.10"), now=now)
    assert said
    assert not any("advisory" in statement for statement in said)
    ledger.reset(Reset(budget.pk, "again", "ada"), now=LATER)
    assert sum("advisory" in statement for statement in said) == 1


def test_a_paid_period_that_meets_calls_and_resets_where_none_was_open_comes_through(overtaking):
    budget = make.budget("1.00", window="billing_cycle")
    paid = OpenPeriod(
        budget.pk, NOON, NOON + timedelta(days=30), nanos("5.00"), "stripe", "cus_1", reason="renewed", actor="stripe"
    )
    overtaking.at("open_windows", lambda: ledger.reserve(make.reserving("0.10"), now=LATER), holds=False)
    overtaking.at("windows", lambda: ledger.apply_within([Reset(budget.pk, "again", "ops")], now=LATER))
    assert ledger.open_period(paid, now=LATER).opened


def test_a_call_whose_budget_is_deleted_before_its_first_window_opens_goes_on_without(monkeypatch):
    budget = make.budget("1.00")
    insert, deleted = sql_writes.open_windows, []

    def open_where_it_is_gone(*args):
        if not deleted:
            failures, thread = started(lambda: deleted.append(budgets.delete(budget=budget, by=ADA, now=NOON)))
            thread.join(20)
            assert not failures, failures
        insert(*args)

    monkeypatch.setattr(sql_writes, "open_windows", open_where_it_is_gone)
    assert ledger.reserve(make.reserving("0.10"), now=NOON).allowed
    assert deleted == [True]


def test_resets_in_a_tight_loop_beside_calls_let_everybody_through():
    budget = make.budget("1000", soft_cap=None)
    ledger.roll_windows(now=NOON)

    def work(index):
        until, done = time.monotonic() + HAMMERED_S, Counter()
        while time.monotonic() < until:
            if index < 3:
                ledger.reset(Reset(budget.pk, "again", "ada"), now=NOON)
                done["resets"] += 1
                continue
            op = make.reserving("0.01")
            assert ledger.reserve(op, now=NOON).allowed
            ledger.settle(make.settling(op.reservation_id, "0.01"), now=NOON)
            done["calls"] += 1
        return done

    done = sum(in_processes(5, work), Counter())
    windows = BudgetWindow.objects.values_list("settled_nanos", "closed_at")
    assert len(windows) == 1 + done["resets"]
    assert sum(settled for settled, _ in windows) == done["calls"] * nanos("0.01")
    assert sum(closed_at is None for _, closed_at in windows) == 1


def test_a_raise_that_a_calls_insert_waits_for_counts_in_its_window():
    budget = make.budget("1.00", scope_type="user", scope_key="*")
    raised = {"budget": budget, "amount_nanos": nanos("100"), "reason": "launch", "by": ADA, "now": NOON}
    raised |= {"starts_at": NOON, "ends_at": NOON + timedelta(days=3)}
    call = make.reserving("0.10", by=make.caller(user="ann"))
    meanwhile(lambda: allowances.raise_limit(**raised), lambda: ledger.reserve(call, now=LATER))
    assert BudgetWindow.objects.get().limit_nanos == nanos("101")


def test_a_repeat_waits_for_the_commit_of_its_first_try_and_finds_it(live_database):
    """Its answer was lost while it was on its way; the budget has no room for two."""
    make.budget("0.15")
    op = make.reserving("0.10")
    said = []

    def repeat():
        try:
            said.append(ledger.reserve(replace(op, is_repeat=True), now=NOON))
        except ledger.AlreadyResolved as error:
            said.append(error)

    meanwhile(lambda: ledger.apply_within([op], now=NOON), repeat)
    assert [(type(each), each.id) for each in said] == [(ledger.AlreadyResolved, op.reservation_id)]


CHANGED_MEANWHILE = {
    "a paused tenant": lambda: Tenant.objects.update(status="paused"),
    "a stop": lambda: EmergencyStop.objects.create(reason="x", actor="ada", started_at=NOON),
    "a budget more": lambda: make.budget("0.05", scope_type="agent", scope_key="invoices", soft_cap=None, clamp=False),
    "a lower cap": lambda: budgets.change(budget=Budget.objects.get(), changes={"hard_cap": "0.2"}, by=ADA, now=NOON),
    "a revoked key": lambda: ApiKey.objects.update(revoked_at=NOON + timedelta(seconds=5)),
    "a lower cap by hand": lambda: Budget.objects.update(hard_cap="0.2"),
}


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("change", CHANGED_MEANWHILE.values(), ids=CHANGED_MEANWHILE)
def test_what_changes_while_a_call_waits_for_its_window_holds_for_it(change, within, is_known):
    make.budget("1.00", soft_cap=None, clamp=False)
    _, key = make.key()
    by = make.caller(agent="invoices", session="first", key_id=key.pk)
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).allowed
    op = make.reserving("0.30", by=by if is_known else replace(by, session="other"))
    decided = []

    def call():
        with transaction.atomic() if within else nullcontext():
            decided.extend(ledger.apply_within([op], now=NOON) if within else [ledger.reserve(op, now=NOON)])

    def held_and_changed():
        list(BudgetWindow.objects.select_for_update())
        change()

    meanwhile(held_and_changed, call)
    assert not decided[0].allowed
    assert reconcile.check() == []


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("change", CHANGED_MEANWHILE.values(), ids=CHANGED_MEANWHILE)
def test_so_does_what_changes_while_a_call_waits_for_its_rate_bucket(change, is_new):
    make.budget("1.00", soft_cap=None, clamp=False)
    limit = RateLimit.objects.create(tenant=make.tenant(), scope_type="user", scope_key="*", requests_per_minute=9)
    _, key = make.key()
    by = make.caller(agent="invoices", user="ann", key_id=key.pk)
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).allowed
    op, decided = make.reserving("0.30", by=replace(by, user="bob" if is_new else "ann")), []

    def held_and_changed():
        list(RateBucket.objects.select_for_update())
        if is_new:
            RateBucket.objects.create(rate_limit=limit, subject="bob", measured_at=NOON)
        change()

    # The windows are not waited for: a cap by itself is changed without them.
    meanwhile(held_and_changed, lambda: decided.append(ledger.reserve(op, now=NOON)))
    assert not decided[0].allowed
    assert reconcile.check() == []


@pytest.mark.parametrize("within", [False, True])
def test_a_settlement_that_waits_while_the_cap_is_lowered_finds_the_window_stopped(within):
    make.budget("1.00", soft_cap=None, clamp=False)
    op = make.reserving("0.50")
    ledger.reserve(op, now=NOON)

    def settle():
        with transaction.atomic() if within else nullcontext():
            settling = make.settling(op.reservation_id, "0.50")
            ledger.apply_within([settling], now=NOON) if within else ledger.settle(settling, now=NOON)

    meanwhile(CHANGED_MEANWHILE["a lower cap"], settle)
    window = BudgetWindow.objects.get()
    assert (window.state, window.settled_nanos) == ("stopped", nanos("0.50"))


def test_a_hold_that_waits_while_the_cap_is_lowered_grows_no_more():
    make.budget("1.00", soft_cap=None, clamp=False)
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    refused = []

    def extend():
        with pytest.raises(ExtendRefused):
            ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.50")), now=NOON)
        refused.append(True)

    meanwhile(CHANGED_MEANWHILE["a lower cap"], extend)
    assert refused
