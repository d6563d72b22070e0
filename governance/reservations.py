"""Reservations that agents make for calls of their own: how they are told apart from the gateway's, and read.

The ids of both sort by time. The gateway's are UUIDs of version 7; an agent's own are of version 8, so that the hold of
a call under way in the gateway, whose id its caller knows, can never be settled or released from outside.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from governance.calls import LATE_SETTLE
from governance.corrections import charged_nanos
from governance.models import Reservation, SpendEntry
from governance.results import LedgerError
from governance.spend import Reader

OWN_VERSION = 8
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
    if (reservation.pk.int >> 76) & 0xF != OWN_VERSION:
        raise HeldByGateway(f"reservation {reservation.pk} is held by the gateway, which resolves it by itself")
    return reservation


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


def _charge_of(id: UUID) -> SpendEntry | None:
    return SpendEntry.objects.filter(reservation=id, kind=SpendEntry.Kind.CHARGE).first()
