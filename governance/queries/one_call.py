"""One call by any id that names it: its refusals, its attempts, what each cost, and the corrections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q, QuerySet

from governance.models import KeptAnswer, RefusedCall, Reservation, SpendEntry, Tenant
from governance.queries.spend import Reader
from governance.rules import names
from governance.rules.errors import FieldError

# An id of a caller's own for a call that was held has no index: it is looked for among the newest lines.
NEWEST = 20_000
# Attempts after the first are written while the call runs: among so many lines of the tenant's after it began.
DURING = 5_000
# Of one id of their own different tenants, or a careless one, may have many calls.
MOST = 20


@dataclass(frozen=True, slots=True)
class WholeCall:
    """What there is of it, the oldest first. `charges` and `corrections` are lines of the ledger."""

    id: str
    tenant: Tenant
    refusals: list[RefusedCall]
    holds: list[Reservation]
    charges: list[SpendEntry]
    corrections: list[SpendEntry]

    @property
    def rows(self) -> list[SpendEntry | RefusedCall]:
        """Its rows in the list of calls."""
        return [*self.refusals, *self.charges]

    @property
    def cost_nanos(self) -> int:
        """With what was corrected of it."""
        return sum(entry.cost_nanos for entry in (*self.charges, *self.corrections))


def find(*, reader: Reader, text: str) -> list[WholeCall]:
    """The calls that a request id, a reservation's, a line's or an idempotency key names; the newest first."""
    try:
        id = names.checked("request_id", text.strip())
    except FieldError:
        return []
    if not id:
        return []
    uuid = _uuid(id)
    spelled = [id] if uuid is None else [id, str(uuid)]
    refused = RefusedCall.objects.filter(reader.scope, request_id__in=spelled).select_related("tenant", "key")
    refusals = list(refused.order_by("-id")[:MOST])
    charges = _charges(reader, id, uuid)
    holds = [] if uuid is None else list(_holds(reader).filter(pk=uuid))
    if not (refusals or charges or holds):
        charges = _of_the_newest(reader, id) or _of_kept_answer(reader, id)
    named_by_charge = {entry.reservation_id: _name_of(entry) for entry in charges}
    whose = [
        *((row.tenant_id, row.request_id) for row in refusals),
        *((row.tenant_id, named_by_charge.get(row.pk, str(row.pk))) for row in holds),
        *((row.tenant_id, _name_of(row)) for row in charges),
    ]
    return [
        _whole(
            name,
            [row for row in refusals if (row.tenant_id, row.request_id) == (tenant_id, name)],
            [row for row in holds if (row.tenant_id, named_by_charge.get(row.pk, str(row.pk))) == (tenant_id, name)],
            [row for row in charges if (row.tenant_id, _name_of(row)) == (tenant_id, name)],
        )
        for tenant_id, name in dict.fromkeys(whose)
    ]


def _name_of(entry: SpendEntry) -> str:
    """The id of the call that a charge is of."""
    return entry.request_id or str(entry.reservation_id or entry.pk)


def _whole(id: str, refusals: list[RefusedCall], holds: list[Reservation], charges: list[SpendEntry]) -> WholeCall:
    """The call with its other attempts, what each held, and its corrections."""
    rows: tuple[RefusedCall | Reservation | SpendEntry, ...] = (*refusals, *holds, *charges)
    tenant = rows[0].tenant
    known = {entry.pk: entry for entry in (*charges, *_other_attempts(tenant, id))}
    held = {entry.reservation_id for entry in known.values() if entry.reservation_id}
    missing = held - {hold.pk for hold in holds}
    holds = sorted([*holds, *_holds(Reader()).filter(pk__in=missing)], key=lambda hold: hold.pk)
    corrections = SpendEntry.objects.filter(corrects__in=list(known)).order_by("id")
    return WholeCall(
        id=id,
        tenant=tenant,
        refusals=refusals[::-1],
        holds=holds,
        charges=sorted(known.values(), key=lambda entry: entry.pk),
        corrections=list(corrections),
    )


def _charges(reader: Reader, id: str, uuid: UUID | None) -> list[SpendEntry]:
    """By what has an index: the id of the hold, which is the request's first; of the line; of what was reported."""
    tenants = Tenant.objects.all() if reader.tenant is None else Tenant.objects.filter(pk=reader.tenant.pk)
    reported = _lines(reader).filter(tenant__in=tenants.values("pk"), request_id=id, reservation__isnull=True)
    found = list(reported.order_by("-id")[:MOST])
    if uuid is not None:
        found += _lines(reader).filter(reservation=uuid)
        found += _lines(reader).filter(pk=uuid)
    return list({entry.pk: entry for entry in found}.values())


def _other_attempts(tenant: Tenant, id: str) -> Iterable[SpendEntry]:
    """The charges of the same request under holds of their own: its id says when it began, and they come after it."""
    uuid = _uuid(id)
    if uuid is None or uuid.version != 7:
        return []
    later = SpendEntry.objects.filter(tenant=tenant, id__gte=uuid).order_by("id").values("id")[:DURING]
    return _lines(Reader(tenant)).filter(id__in=later, request_id=id)


def _of_the_newest(reader: Reader, id: str) -> list[SpendEntry]:
    newest = SpendEntry.objects.filter(reader.scope).order_by("-id").values("id")[:NEWEST]
    return list(_lines(reader).filter(id__in=newest, request_id=id).order_by("-id")[:MOST])


def _of_kept_answer(reader: Reader, key: str) -> list[SpendEntry]:
    """By an idempotency key, while its answer is kept: that one says which request it was."""
    kept = KeptAnswer.objects.filter(reader.scope, tenant__in=Tenant.objects.values("pk"), key=key)
    found: list[SpendEntry] = []
    for headers in kept.values_list("response_headers", flat=True)[:MOST]:
        uuid = _uuid(next((value for name, value in headers if name.lower() == "x-request-id"), ""))
        found += [] if uuid is None else _lines(reader).filter(reservation=uuid)
    return found


def _lines(reader: Reader) -> QuerySet[SpendEntry]:
    charge = Q(kind=SpendEntry.Kind.CHARGE)
    return SpendEntry.objects.filter(reader.scope, charge).select_related("tenant", "key", "reservation")


def _holds(reader: Reader) -> QuerySet[Reservation]:
    return Reservation.objects.filter(reader.scope).select_related("tenant", "key")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
