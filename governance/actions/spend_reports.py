"""Spend that an operator reports for a tenant: the ledger's line does not say who did, so an audit row does."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import cast

from django.db import IntegrityError, transaction

from governance import audit, ledger
from governance.audit import Actor
from governance.ledger.operations import Record
from governance.ledger.results import RecordResult


def record(*, report: Record, by: Actor, now: datetime) -> RecordResult:
    """Charge a call made elsewhere, with its audit row; a repeated request id changes nothing and says so."""
    act = functools.partial(_record, report, by, now)
    try:
        return ledger.try_for(report.caller.tenant, act, needing=report, now=now)
    except IntegrityError:
        # Reported by somebody else between our look and our insert; the second look finds it.
        return ledger.try_for(report.caller.tenant, act, needing=report, now=now)


@ledger.run_again
@transaction.atomic
def _record(report: Record, by: Actor, now: datetime) -> RecordResult:
    done = cast(RecordResult, ledger.apply_within([report], now=now)[0])
    if not done.duplicate:
        new = {"entry": str(done.entry_id), "request_id": report.request_id, "cost_nanos": done.cost_nanos}
        target = " ".join(filter(None, ["spend of", report.caller.tenant, report.caller.agent]))
        audit.record(action="spend.report", target=target, by=by, now=now, new=new)
    return done
