"""More that is asked for and given by two at one moment: once."""

from __future__ import annotations

import pytest

from governance import ledger
from governance.actions import raises
from governance.audit import Actor
from governance.models import Allowance, AuditEntry, BudgetWindow, RaiseRequest
from governance.rules.errors import Conflict, NotOpen
from tests import factories as make
from tests.concurrency.processes import in_threads
from tests.factories import NOON, nanos

pytestmark = pytest.mark.postgres_only


def test_of_two_operators_at_one_moment_one_approves_and_the_other_is_told() -> None:
    row = make.raise_request(now=NOON)

    def approve(number: int) -> str:
        try:
            return raises.approve(asked=row, by=Actor(f"operator {number}"), now=NOON).status
        except NotOpen as error:
            return error.message

    answers = sorted(in_threads(2, approve))
    assert answers[0].startswith("It was approved by operator ")
    assert answers[1] == "approved"
    assert Allowance.objects.count() == 1


def test_of_two_who_ask_at_one_moment_one_is_told_that_it_waits() -> None:
    make.budget("1.00", soft_cap=None)
    ledger.record(make.reporting("0.01"), now=NOON)
    window = BudgetWindow.objects.select_related("budget__tenant", "tenant").get()

    def ask(number: int) -> str:
        try:
            return raises.ask(window=window, amount_nanos=nanos("2"), asker="Ada", reason="why", now=NOON).status
        except Conflict as error:
            return error.message

    assert sorted(in_threads(2, ask)) == ["More was asked for already, and waits for an operator.", "open"]
    assert (RaiseRequest.objects.count(), AuditEntry.objects.filter(action="raise.ask").count()) == (1, 1)
