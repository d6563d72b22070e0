"""Calls that came to nothing are counted by the hour."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import uuid_utils.compat as uuids

from governance import ledger
from governance.models import FailedCalls
from governance.upkeep import failures
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.usefixtures("ledger_holds")


def released(at: datetime, *, agent: str = "invoices") -> None:
    held = uuids.uuid7()
    ledger.reserve(factories.reserving(by=factories.caller(agent=agent), id=held), now=at)
    ledger.release(factories.releasing(held), now=at)


def counted() -> list[tuple[str, str, int, int]]:
    rows = FailedCalls.objects.order_by("hour", "agent").values_list("agent", "model", "hour", "failures")
    return [(agent, model, hour.hour, number) for agent, model, hour, number in rows]


def test_what_was_released_or_charged_because_its_upstream_failed_counts() -> None:
    factories.budget("10")
    for _ in range(2):
        released(NOON + timedelta(minutes=1))
    released(NOON, agent="churn")
    held = uuids.uuid7()
    ledger.reserve(factories.reserving(id=held), now=NOON)
    ledger.settle(factories.settling(held, certainty="estimated", reason="upstream_cut"), now=NOON)
    # A client that left is no failure, and what went well is none.
    for reason, certainty in (("client_closed", "estimated"), ("", "confirmed")):
        held = uuids.uuid7()
        ledger.reserve(factories.reserving(id=held), now=NOON)
        ledger.settle(factories.settling(held, certainty=certainty, reason=reason), now=NOON)
    assert failures.count(now=NOON + timedelta(minutes=30)) == 4
    assert counted() == [("", "large", 12, 1), ("churn", "large", 12, 1), ("invoices", "large", 12, 2)]
    # Counted again, it is the same, and what came since is in it.
    released(NOON + timedelta(minutes=40))
    failures.count(now=NOON + timedelta(minutes=45))
    assert counted()[-1] == ("invoices", "large", 12, 3)


def test_the_hour_before_is_counted_again_while_calls_settle() -> None:
    factories.budget("10")
    released(NOON - timedelta(minutes=1))
    assert failures.count(now=NOON + timedelta(minutes=20)) == 0
    assert failures.count(now=NOON + timedelta(minutes=19)) == 1


def test_old_counts_are_deleted() -> None:
    for days in (10, 36):
        FailedCalls.objects.create(tenant=factories.tenant(), hour=NOON - timedelta(days=days), failures=1)
    assert failures.purge(now=NOON) == 1
    assert FailedCalls.objects.count() == 1
