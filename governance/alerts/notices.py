"""What there is to tell, as rows of the outbox: written in the transaction of what they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from governance import ports
from governance.models import AlertChannel, AlertNotice, BudgetEvent, BudgetWindow, Tenant
from governance.rules import alerting
from governance.rules.alert_kinds import AlertKind, named

LONGEST_TITLE, LONGEST_MESSAGE = 200, 1000


def kind_of(kind: str) -> AlertKind:
    """What a kind means to people."""
    return named(kind, ports.alert_kinds())


def tell(
    *,
    kind: str,
    incident: str,
    message: str,
    now: datetime,
    title: str = "",
    severity: str = "warning",
    what: str = AlertNotice.What.OPENED,
    tenant: Tenant | int | None = None,
    is_for_tenant: bool = False,
    path: str = "",
    by: str = "",
    facts: Mapping[str, Any] | None = None,
    event: BudgetEvent | None = None,
    window: BudgetWindow | None = None,
    channel: AlertChannel | None = None,
) -> AlertNotice:
    """Put a notice into the outbox; what is sent follows within seconds of the commit.

    `incident`: what begins and ends together, at most 100 characters. `path`: of the page where one acts, by default
    the kind's. `by`: who did what is told; no message names anybody itself, because customers are not told who it was.
    `facts` are for programs, and hold what JSON can; amounts as dollars in text.
    """
    return AlertNotice.objects.create(
        kind=kind,
        incident=incident,
        what=what,
        severity=severity,
        title=alerting.one_line(title or kind_of(kind).title, LONGEST_TITLE),
        message=alerting.one_line(message, LONGEST_MESSAGE),
        facts=dict(facts or {}),
        path=path,
        actor=by[:150],
        tenant_id=tenant.pk if isinstance(tenant, Tenant) else tenant,
        is_for_tenant=is_for_tenant,
        event=event,
        window=window,
        channel=channel,
        occurred_at=now,
    )


def reword(*, incident: str, message: str) -> bool:
    """Have what nobody was told yet of an incident say this; False where there is nothing of it, or it is out."""
    waiting = AlertNotice.objects.filter(incident=incident, what=AlertNotice.What.OPENED, spread_at=None).order_by()
    return bool(waiting.update(message=alerting.one_line(message, LONGEST_MESSAGE)))
