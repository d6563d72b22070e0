"""The emergency stop: refuses every call of an agent, a tenant or everybody, and cuts the running ones.

A pause is for planned quiet: it lets running calls end. A stop is for trouble, and holds until it is lifted.
"""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from governance import audit
from governance.audit import Actor
from governance.models import Agent, EmergencyStop, Tenant
from governance.rules.errors import Conflict, FieldError, NotOpen
from governance.rules.scopes import StopTarget


@transaction.atomic
def stop(
    *, tenant: Tenant | None = None, agent: Agent | None = None, reason: str, by: Actor, now: datetime
) -> EmergencyStop:
    """Stop an agent, a tenant or, with neither, everything. Raises FieldError, Conflict."""
    reason = _reason(reason)
    if agent is not None and tenant is None:
        tenant = agent.tenant
    if agent is not None and tenant is not None and agent.tenant_id != tenant.pk:
        raise FieldError("agent", f"{agent} is no agent of {tenant.slug}")
    made = EmergencyStop(tenant=tenant, agent=agent, reason=reason, actor=by.name[:150], started_at=now)
    _refuse_second(made)
    try:
        with transaction.atomic():
            made.save(force_insert=True)
    except IntegrityError:
        # Somebody pressed the button between the look and the insert.
        _refuse_second(made)
        raise
    audit.record(action="stop.start", target=whom(made), by=by, now=now, reason=reason, new=to_audit(made))
    return made


@transaction.atomic
def lift(*, stop: EmergencyStop, by: Actor, now: datetime, reason: str = "") -> EmergencyStop:
    """Let calls be decided by the budgets again. Raises NotOpen where it was lifted before."""
    # The condition settles a race: only one of two finds a row, so one audit row is written.
    open_one = EmergencyStop.objects.filter(pk=stop.pk, lifted_at=None)
    lifted = open_one.update(lifted_at=now, lifted_by=by.name[:150])
    stop.refresh_from_db(fields=["lifted_at", "lifted_by"])
    if not lifted:
        raise NotOpen("", f"the stop of {whom(stop)} is lifted already")
    audit.record(action="stop.lift", target=whom(stop), by=by, now=now, reason=reason.strip(), old=to_audit(stop))
    return stop


def active() -> QuerySet[EmergencyStop]:
    """The stops in force, the newest first."""
    return EmergencyStop.objects.filter(lifted_at=None).select_related("tenant", "agent__tenant")


def targets() -> frozenset[StopTarget]:
    """Whom the stops in force are for."""
    rows = active().values_list("tenant_id", "agent__slug")
    return frozenset((tenant_id or 0, slug or "") for tenant_id, slug in rows)


def whom(stop: EmergencyStop) -> str:
    """Who is stopped, in words: "agent acme/invoices", "tenant acme", "everything"."""
    if stop.agent is not None:
        return f"agent {stop.agent}"
    return f"tenant {stop.tenant.slug}" if stop.tenant else "everything"


def to_audit(stop: EmergencyStop) -> dict[str, str | None]:
    """What an audit row keeps of a stop."""
    return {
        "tenant": stop.tenant.slug if stop.tenant else None,
        "agent": stop.agent.slug if stop.agent else None,
        "reason": stop.reason,
        "actor": stop.actor,
        "started_at": stop.started_at.isoformat(),
    }


def _reason(reason: str) -> str:
    reason = reason.strip()
    if not reason:
        raise FieldError("reason", "say why it has to stop")
    if len(reason) > 300:
        raise FieldError("reason", "must be 300 characters at most")
    return reason


def _refuse_second(asked: EmergencyStop) -> None:
    same = active().filter(tenant=asked.tenant, agent=asked.agent).first()
    if same is not None:
        raise Conflict("", f"{whom(same)} is stopped already, by {same.actor}: {same.reason}", existing=same)
