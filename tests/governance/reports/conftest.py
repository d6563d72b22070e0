"""A mail server on loopback, spend of two weeks, and readers of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from governance import ledger
from governance.actions import report_subscriptions
from governance.audit import Actor
from governance.models import ReportSubscription, Tenant
from tests import factories as make
from tests.fakes.alert_receivers import MailSink, mail_server

ADA = Actor("ada")
# The week from 9 to 15 March is over; its reports are due at 8:00.
MONDAY = datetime(2026, 3, 16, 8, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
HOSTILE = '=cmd|"/c calc"!A1 <img src=x onerror=alert(1)> \u202eevil' + "x" * 30


@pytest.fixture
def mail(settings: Any) -> Iterator[MailSink]:
    with mail_server(settings) as sink:
        yield sink


def spend(cost: str, at: datetime, *, of: Tenant | None = None, agent: str = "invoices") -> None:
    ledger.record(make.reporting(cost, by=make.caller(of, agent=agent), occurred_at=at), now=at)


def two_weeks(of: Tenant | None = None, *, times: int = 1) -> None:
    """$3 in the week that is over, $2 in the week before."""
    for cost, days in (("1.00", 7), ("2.00", 2), ("2.00", 9)):
        for _ in range(times):
            spend(cost, MONDAY - timedelta(days=days, hours=-4), of=of)


def reader(address: str = "owner@example.com", *, of: Tenant | None = None, **fields: Any) -> ReportSubscription:
    return report_subscriptions.subscribe(
        tenant=of, address=address, **{"cadence": "weekly", "by": ADA, "now": MONDAY - WEEK, **fields}
    )
