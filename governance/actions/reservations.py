"""Reservations that agents make for calls of their own: told apart from the gateway's, carried out and read.

The ids of both sort by time. The gateway's are UUIDs of version 7; an agent's own are of version 8, so that the hold of
a call under way in the gateway, whose id its caller knows, can never be settled or released from outside.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from governance import audit, ledger
from governance.actions.corrections import charged_nanos
from governance.audit import Actor
from governance.ledger.call_rules import LATE_SETTLE
from governance.ledger.operations import Extend, Release, Reserve, Settle
from governance.ledger.results import AlreadyResolved, LedgerError
from governance.models import Reservation, SpendEntry
from governance.queries.spend import Reader
from governance.rules.decision import Decision
from governance.rules.reports import OWN_VERSION, is_own

Act = Reserve | Settle | Extend | Release
LONGEST_TTL_S = 86_400


class HeldByGateway(LedgerError):
    """The reservation belongs to a call of the gateway, which resolves it by itself."""


def new_id(*, now: datetime, named: str = "") -> UUID:
    """An id for an agent's own reservation. One that is `named` is the same every time, for the same `now`."""
    rest = hashlib.sha256(named.encode()).digest()[:10] if named else secrets.token_bytes(10)
    bits = int(now.timestamp() * 1000) << 80 | int.from_bytes(rest)
    # RFC 9562: the version's four bits and the variant's two.
    bits = bits & ~(0xF << 76) | OWN_VERSION << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=bits)


def own(reservation: Reservation) -> Reservation:
    """The reservation, if it is an agent's own to settle, extend and release; raises HeldByGateway."""
    if not is_own(reservation.pk):
        raise HeldByGateway(f"reservation {reservation.pk} is held by the gateway, which resolves it by itself")
    return reservation


def carry_out(operation: Act, *, tenant: str, operator: Actor | None, now: datetime) -> Any:
    """The ledger's answer to an operation for a tenant, by its slug; where an operator acts, an audit row says who.

    Raises what `ledger.reserve`, `settle`, `extend` and `release` raise.
    """
    if operator is not None:
        act = functools.partial(_audited, operation, operator, now)
    else:
        act = functools.partial(_applied, operation, now)
    return ledger.try_for(tenant, act, needing=operation, now=now)


def _applied(operation: Act, now: datetime) -> Any:
    [result] = ledger.apply([operation], now=now)
    if isinstance(result, Exception):
        raise result
    return result


def seen_by(reader: Reader) -> QuerySet[Reservation]:
    return Reservation.objects.filter(reader.scope).select_related("tenant", "key")


def cost_nanos(reservation: Reservation) -> int | None:
    """What was charged for it, corrections included; None where nothing was."""
    charge = _charge_of(reservation.pk)
    return None if charge is None else charged_nanos(charge)


def settlement(id: UUID, cost_nanos: int) -> SpendEntry | None:
    """The line by which a reservation came to cost just this, in time or late; None where it did not."""
    charge = _charge_of(id)
    if charge is None or charged_nanos(charge) != cost_nanos:
        return None
    return SpendEntry.objects.filter(corrects=charge, reason=LATE_SETTLE).first() or charge


@ledger.run_again
def _audited(operation: Act, operator: Actor, now: datetime) -> Any:
    try:
        with transaction.atomic():
            [result] = ledger.apply_within([operation], now=now)
            if not (isinstance(result, Decision) and not result.allowed):
                action, figures = _ACTS[type(operation)](operation)
                target = f"reservation {operation.reservation_id}"
                audit.record(action=f"reservation.{action}", target=target, by=operator, now=now, new=figures)
            return result
    except IntegrityError as error:
        if isinstance(operation, Reserve) and (row := Reservation.objects.filter(pk=operation.reservation_id).first()):
            raise AlreadyResolved(row.pk, row.status) from error
        raise


# What an audit row says of each act: its name, and the figures.
_ACTS: dict[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    Reserve: lambda op: ("create", {"tenant": op.caller.tenant, "agent": op.caller.agent, "model": op.call.model}),
    Settle: lambda op: ("settle", {"cost_nanos": op.cost_nanos}),
    Extend: lambda op: ("extend", {"more_nanos": op.more_nanos, "ttl_s": op.ttl_s}),
    Release: lambda op: ("release", {}),
}


def _charge_of(id: UUID) -> SpendEntry | None:
    return SpendEntry.objects.filter(reservation=id, kind=SpendEntry.Kind.CHARGE).first()
