"""The ledger against a model of plain dictionaries, step by step, over several overlapping budgets.

Operations are queued and committed in batches of any size, so that a batch and its operations one after the other
are shown to be the same thing.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from django.db import connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from governance import ledger
from governance.actions import allowances, budgets
from governance.audit import Actor
from governance.ledger.operations import Adjust, Extend, OpenPeriod, Operation, Record, Release, Reserve, Reset, Settle
from governance.ledger.results import AdjustResult, PeriodResult, RecordResult, ResetResult, SettleResult
from governance.models import Allowance, Budget, BudgetEvent, BudgetWindow, Reservation, SpendEntry, SpendRollup
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Call, Decision, Quote
from governance.rules.errors import FieldError, NotOpen
from governance.rules.windows import WindowKind
from tests import factories as make
from tests.invariants import drifts
from tests.properties import ledger_model as model

pytestmark = pytest.mark.django_db

AUCKLAND = "Pacific/Auckland"
# An evening in UTC that is morning in Auckland, shortly before the end of an hour and of a month there.
START = datetime.fromisoformat("2026-03-31T08:50:00+00:00")
ADA = Actor("ada")
SOURCE = "si_1"

amounts = st.sampled_from([0, 1, 40, 99, 100, 101, 250, 399, 400, 401, 600])
limits = st.sampled_from([100, 400, 900, 2000])
places = st.integers(0, 40)
commits = st.sampled_from([True, True, False])
SUBJECTS = {"user": "acme/ann", "agent": "a", "tenant": "acme", "cycle": "acme", "platform": ""}
# Longer than any example: that raises end by themselves is shown in tests/governance/actions/test_allowances.py.
LONG = timedelta(days=10_000)
rules_with_windows = st.sampled_from(["user", "agent", "tenant", "cycle", "platform"])


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.example = transaction.atomic()
        # Each example is undone as a whole; the ledger's durable transactions may nest in it as in a test's.
        self.example._from_testcase = True  # type: ignore[attr-defined]
        self.example.__enter__()
        self.now = START
        self.queue: list[Operation] = []
        self.ids: list[UUID] = []
        self.entry_ids: list[UUID] = []
        self.allowances: list[Allowance] = []
        acme, zeta = make.tenant("acme", time_zone=AUCKLAND), make.tenant("zeta")
        self.callers = [
            Caller(owner.id, owner.slug, agent=agent, user=user)
            for owner in (acme, zeta)
            for agent in ("a", "b")
            for user in ("", "ann", "bob")
        ]
        self.budgets = {
            "user": self.budget(700, None, "user", "*", "lifetime", soft_cap=None),
            "agent": self.budget(400, acme, "agent", "*", "hour", hard_cap="0.9"),
            "tenant": self.budget(1000, acme, "tenant", "acme", "day"),
            "cycle": self.budget(900, acme, "tenant", "acme", "billing_cycle"),
            "platform": self.budget(1500, None, "platform", "", "month"),
        }
        self.model = model.Ledger(
            rules={
                # The most particular scope first, as in a decision.
                "user": model.Rule(
                    "user",
                    WindowKind.LIFETIME,
                    700,
                    "UTC",
                    lambda caller: f"{caller.tenant}/{caller.user}" if caller.user else None,
                    soft_e4=None,
                    named_by_calls=True,
                ),
                "agent": model.Rule(
                    "agent",
                    WindowKind.HOUR,
                    400,
                    AUCKLAND,
                    lambda caller: caller.agent if caller.tenant == "acme" else None,
                    hard_e4=9_000,
                    named_by_calls=True,
                ),
                "tenant": model.Rule(
                    "tenant",
                    WindowKind.DAY,
                    1000,
                    AUCKLAND,
                    lambda caller: "acme" if caller.tenant == "acme" else None,
                    rolls=True,
                ),
                "cycle": model.Rule(
                    "cycle",
                    WindowKind.BILLING_CYCLE,
                    900,
                    AUCKLAND,
                    lambda caller: "acme" if caller.tenant == "acme" else None,
                ),
                "platform": model.Rule("platform", WindowKind.MONTH, 1500, "UTC", lambda caller: "", rolls=True),
            },
            rule_of={budget.id: name for name, budget in self.budgets.items()},
        )

    def budget(self, limit: int, owner: Any, scope_type: str, key: str, window: str, **policy: Any) -> Budget:
        return budgets.create(
            scope_type=scope_type,
            scope_key=key,
            window=window,
            limit_nanos=limit,
            tenant=owner,
            by=ADA,
            now=START,
            **policy,
        )

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.example.__exit__(None, None, None)

    # Rules --------------------------------------------------------------------------------------------------

    @rule(who=places, cost=amounts, commit=commits)
    def reserve(self, who: int, cost: int, commit: bool) -> None:
        self.ids.append(uuids.uuid7())
        self.ask(self.reserving(self.ids[-1], who, cost), commit)

    @precondition(lambda self: self.ids)
    @rule(which=places, who=places, cost=amounts, commit=commits)
    def reserve_again(self, which: int, who: int, cost: int, commit: bool) -> None:
        self.ask(self.reserving(self.id(which), who, cost), commit)

    @precondition(lambda self: self.ids)
    @rule(which=places, cost=amounts, commit=commits)
    def settle(self, which: int, cost: int, commit: bool) -> None:
        self.ask(Settle(self.id(which), cost, Usage("mistral", "large", 10, 0, 5)), commit)

    @precondition(lambda self: self.ids)
    @rule(which=places, commit=commits)
    def release(self, which: int, commit: bool) -> None:
        self.ask(Release(self.id(which)), commit)

    @precondition(lambda self: self.ids)
    @rule(which=places, more=st.sampled_from([0, 50, 300]), commit=commits)
    def extend(self, which: int, more: int, commit: bool) -> None:
        self.ask(Extend(self.id(which), more_nanos=more), commit)

    @rule(
        who=places,
        cost=amounts,
        request=st.integers(0, 12),
        ago=st.sampled_from([timedelta(0), timedelta(hours=2), timedelta(days=2)]),
        commit=commits,
    )
    def record(self, who: int, cost: int, request: int, ago: timedelta, commit: bool) -> None:
        self.entry_ids.append(uuids.uuid7())
        usage = Usage("mistral", "large", 10, 0, 5)
        self.ask(
            Record(self.entry_ids[-1], self.caller(who), f"r{request}", cost, usage, occurred_at=self.now - ago),
            commit,
        )

    @precondition(lambda self: self.entry_ids)
    @rule(which=places, delta=st.sampled_from([-600, -100, -1, 1, 100]), commit=commits)
    def adjust(self, which: int, delta: int, commit: bool) -> None:
        corrected = self.entry_ids[which % len(self.entry_ids)]
        self.ask(Adjust(uuids.uuid7(), corrected, delta, "a correction"), commit)

    @precondition(lambda self: self.ids and not self.queue)
    @rule(which=places, delta=st.sampled_from([-600, -100, -1, 1, 100]))
    def adjust_the_charge_of_a_hold(self, which: int, delta: int) -> None:
        charge = SpendEntry.objects.filter(reservation=self.id(which), kind="charge").first()
        if charge is not None:
            hold = self.model.holds[self.id(which)]
            assert hold.entry is not None
            self.model.entry_ids[charge.id] = hold.entry
            self.ask(Adjust(uuids.uuid7(), charge.id, delta, "a correction"), commit=True)

    @rule(name=rules_with_windows, one=st.booleans(), commit=commits)
    def reset(self, name: str, one: bool, commit: bool) -> None:
        subject = SUBJECTS[name] if one else None
        self.ask(Reset(self.budgets[name].id, "a reset", "ada", subject), commit)

    @rule(
        start=st.sampled_from([timedelta(0), timedelta(days=-40), timedelta(days=-1), timedelta(hours=1)]),
        limit=limits,
        commit=commits,
    )
    def open_period(self, start: timedelta, limit: int, commit: bool) -> None:
        starts_at = self.now + start
        self.ask(
            OpenPeriod(
                self.budgets["cycle"].id,
                starts_at,
                starts_at + timedelta(days=31),
                limit,
                "stripe",
                SOURCE,
                "an invoice was paid",
                "stripe",
            ),
            commit,
        )

    @precondition(lambda self: not self.queue)
    @rule(name=rules_with_windows, limit=limits)
    def change_limit(self, name: str, limit: int) -> None:
        budget = Budget.objects.get(pk=self.budgets[name].pk)
        if budget.limit_nanos == limit:
            return
        budgets.change(budget=budget, changes={"limit_nanos": limit}, by=ADA, now=self.now)
        self.model.change_limit(name, limit)

    @precondition(lambda self: not self.queue)
    @rule(name=rules_with_windows, amount=st.sampled_from([1, 100, 500]))
    def raise_limit(self, name: str, amount: int) -> None:
        self.allowances.append(
            allowances.raise_limit(
                budget=self.budgets[name],
                amount_nanos=amount,
                starts_at=self.now,
                ends_at=self.now + LONG,
                reason="launch",
                by=ADA,
                now=self.now,
            )
        )
        self.model.raise_limit(name, amount)

    @precondition(lambda self: not self.queue)
    @rule(name=rules_with_windows, amount=st.sampled_from([1, 100, 500]))
    def top_up(self, name: str, amount: int) -> None:
        expected = self.model.top_up(name, SUBJECTS[name], amount, self.now)
        try:
            allowance = allowances.top_up(
                budget=self.budgets[name],
                amount_nanos=amount,
                subject=SUBJECTS[name],
                reason="launch",
                by=ADA,
                now=self.now,
            )
        except FieldError:
            assert not expected
        else:
            assert expected
            self.allowances.append(allowance)

    @precondition(lambda self: self.allowances and not self.queue)
    @rule(which=places)
    def end_allowance(self, which: int) -> None:
        which %= len(self.allowances)
        expected = self.model.end(which)
        try:
            allowances.end(allowance=self.allowances[which], by=ADA, now=self.now)
        except NotOpen:
            assert not expected
        else:
            assert expected

    @precondition(lambda self: self.queue)
    @rule()
    def commit(self) -> None:
        queued, self.queue = self.queue, []
        expected = self.model.apply(queued, self.now)
        answers = [short(result) for result in ledger.apply(queued, now=self.now)]
        assert answers == expected

    @precondition(lambda self: not self.queue)
    @rule()
    def expire(self) -> None:
        expected = self.model.expire_due(self.now)
        assert ledger.expire_due(now=self.now) == expected

    @precondition(lambda self: not self.queue)
    @rule()
    def roll(self) -> None:
        expected = self.model.roll(self.now)
        assert ledger.roll_windows(now=self.now) == expected

    @precondition(lambda self: not self.queue)
    @rule(
        by=st.sampled_from(
            [
                timedelta(microseconds=1),
                timedelta(seconds=1),
                timedelta(minutes=9),
                timedelta(minutes=16),
                timedelta(hours=1),
                timedelta(hours=14),
                timedelta(days=1),
                timedelta(days=32),
            ]
        )
    )
    def pass_time(self, by: timedelta) -> None:
        self.now += by

    # Invariants ---------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.queue)
    @invariant()
    def it_is_what_the_model_says(self) -> None:
        names = {budget.id: name for name, budget in self.budgets.items()}
        actual = [
            (
                names[window.budget_id],
                window.subject,
                window.starts_at,
                window.ends_at,
                window.limit_nanos,
                window.extra_nanos,
                window.settled_nanos,
                window.reserved_nanos,
                window.closed_at is not None,
                "reset" if window.source_kind == "reset" else window.source_id,
                set(window.thresholds_crossed) - {"hard-stop"},
                "hard-stop" in window.thresholds_crossed,
            )
            for window in BudgetWindow.objects.order_by("id")
        ]
        expected = [
            (
                window.rule,
                window.subject,
                window.starts,
                window.ends,
                window.limit,
                window.extra,
                window.settled,
                window.reserved,
                window.closed,
                window.source,
                window.crossed,
                window.stopped_once,
            )
            for window in self.model.windows
        ]
        # Windows of one batch open in the order of their budgets, which the model need not know.
        assert sorted(actual, key=repr) == sorted(expected, key=repr)
        holds = Reservation.objects.values_list("id", "amount_nanos", "status", "expires_at")
        assert {row[0]: tuple(row[1:]) for row in holds} == {
            id: (hold.amount, hold.status, hold.expires) for id, hold in self.model.holds.items()
        }
        entries = SpendEntry.objects.values_list("kind", "cost_nanos")
        assert sorted(entries) == sorted((entry.kind, entry.cost) for entry in self.model.entries)

    @precondition(lambda self: not self.queue)
    @invariant()
    def open_windows_have_the_state_of_their_money(self) -> None:
        states = sorted(
            (window.rule, window.subject, self.model.state(window))
            for window in self.model.windows
            if not window.closed
        )
        names = {budget.id: name for name, budget in self.budgets.items()}
        actual = BudgetWindow.objects.filter(closed_at=None).values_list("budget_id", "subject", "state")
        assert sorted((names[id], subject, state) for id, subject, state in actual) == states

    @precondition(lambda self: not self.queue)
    @invariant()
    def the_ledger_holds(self) -> None:
        assert drifts() == []
        events = BudgetEvent.objects.exclude(kind__in=["state-change", "budget-reset"])
        kinds = list(events.values_list("window", "kind", "threshold"))
        assert len(kinds) == len(set(kinds))
        calls = sum(SpendRollup.objects.values_list("calls", flat=True))
        assert calls == SpendEntry.objects.filter(kind="charge").count()

    # Parts --------------------------------------------------------------------------------------------------

    def ask(self, operation: Operation, commit: bool) -> None:
        self.queue.append(operation)
        if commit:
            self.commit()

    def reserving(self, id: UUID, who: int, cost: int) -> Reserve:
        return Reserve(id, self.caller(who), Call("large", lambda name: Quote(name, cost)))

    def caller(self, which: int) -> Caller:
        return self.callers[which % len(self.callers)]

    def id(self, which: int) -> UUID:
        return self.ids[which % len(self.ids)]


def short(result: Any) -> Any:
    """A result in the model's words."""
    match result:
        case Decision():
            return result.action.value
        case SettleResult():
            return result.charged_nanos, result.overage_nanos, result.late
        case RecordResult():
            return "duplicate" if result.duplicate else "recorded"
        case AdjustResult():
            return result.delta_nanos
        case ResetResult():
            return result.closed, result.opened
        case PeriodResult():
            return result.opened
        case ledger.LedgerError():
            return type(result).__name__
        case Exception():
            return "refused"
    return result


def test_the_ledger_does_what_the_model_says():
    # About 20 s on SQLite; fewer on PostgreSQL, where the same code runs a few other statements. LEDGERS tries more.
    examples = int(os.environ.get("LEDGERS", "60" if connection.vendor == "sqlite" else "15"))
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
