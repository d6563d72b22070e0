"""What a call is said to cost by whoever makes it, and how much of that is taken on a tenant key's word alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from django.conf import settings

from governance.ledger import sql
from governance.ledger.operations import Reserve
from governance.ledger.results import HoldBeyondBound, OutOfBounds, TooManyNames
from governance.ledger.rows import EntryRow, ReservationRow, hour_of
from governance.rules import money
from governance.rules.calls import Caller
from governance.rules.decision import Call, Decision, WindowView
from governance.rules.reports import MOST_UNBUDGETED_HOLDS, ReportTrust, is_budgeted, is_own

UNBUDGETED_SPAN = timedelta(days=1)
# The amount and the windows of each.
Holds = dict[UUID, tuple[int, tuple[int, ...]]]


class Books(Protocol):
    """What of a batch is looked at here: it asks before it opens anything for a call."""

    now: datetime
    entries: list[EntryRow]
    reservations: dict[UUID, ReservationRow]
    new_reservations: dict[UUID, ReservationRow]

    def decided(self, caller: Caller, call: Call) -> Decision: ...

    def views_for(self, caller: Caller) -> list[WindowView]: ...


def decided(batch: Books, op: Reserve) -> Decision:
    """What happens to a call. Raises OutOfBounds, HoldBeyondBound, TooManyNames, where it is refused for what it says
    that it costs, or calls."""
    decision = batch.decided(op.caller, op.call)
    if decision.quote is not None:
        refuse_beyond("estimated_cost", decision.quote.cost_nanos)
        views = batch.views_for(op.caller)
        refuse_unbudgeted(batch, op.trust, "estimated_cost", decision.quote.cost_nanos, views, is_new=True)
        if op.is_unpriced:
            refuse_new_model(batch, op.trust, (op.provider, decision.model), at=batch.now)
    return decision


def refuse_beyond(field: str, nanos: int) -> None:
    """Refuse an amount that none can be."""
    if nanos > money.MAX_AMOUNT_NANOS:
        raise OutOfBounds(field, f"must be at most {money.whole_dollars(money.MAX_AMOUNT_NANOS)}")


def refuse_unbudgeted(
    batch: Books,
    trust: ReportTrust | None,
    field: str,
    nanos: int,
    views: Iterable[WindowView],
    *,
    is_new: bool = False,
) -> None:
    """Refuse what a tenant's key would hold for calls of its own where no budget of the tenant's bounds it.

    Such a hold is as much a mere claim as a report, and takes from every wider budget as long as it lives.
    """
    if trust is None or not (nanos or is_new) or is_budgeted(views, trust):
        return
    holds = _own_holds(batch, trust.tenant_id)
    # Of more than there may be, the rest was not read.
    if len(holds) + is_new > MOST_UNBUDGETED_HOLDS:
        raise HoldBeyondBound(
            field,
            f"a tenant without a budget of its own has at most {MOST_UNBUDGETED_HOLDS:,} holds for calls that it makes"
            " itself, with those that expired in the last 24 hours. Settle or release some, or an operator can give it"
            " a budget.",
        )
    left_nanos = _left(batch, trust, holds)
    if nanos > left_nanos:
        left = money.format_dollars(max(0, left_nanos))
        raise HoldBeyondBound(
            field,
            f"a tenant without a budget of its own holds and reports at most"
            f" ${money.format_dollars(trust.unbudgeted_nanos)} in 24 hours by itself, and ${left} of that is left."
            " An operator can give it a budget.",
        )


def refuse_new_model(batch: Books, trust: ReportTrust | None, name: tuple[str, str], *, at: datetime) -> None:
    """Refuse what a tenant's key names one model too many by. Raises TooManyNames."""
    if trust is not None and is_one_too_many(batch, trust, name, at=at):
        raise TooManyNames(settings.NEW_NAMES_PER_HOUR)


def is_one_too_many(batch: Books, trust: ReportTrust, name: tuple[str, str], *, at: datetime) -> bool:
    """Whether a model, (provider, name), is one more than an hour's sums and the tenant's own holds in it may be of.

    Each is, or may become, a row of its own there, which outlives what brought it.
    """
    tenant_id, hour = trust.tenant_id, hour_of(at)
    # As this batch has them, which are not written yet.
    entries = [entry for entry in batch.entries if hour_of(entry.occurred_at) == hour]
    holds = [held for held in batch.new_reservations.values() if hour_of(held.reserved_at) == hour]
    mine = {(row.provider, row.model_served) for row in entries if row.caller.tenant_id == tenant_id}
    mine |= {(row.provider, row.model_served) for row in holds if row.caller.tenant_id == tenant_id}
    return name not in mine and sql.is_full_of_models(
        tenant_id, hour, but_for=name, most=settings.NEW_NAMES_PER_HOUR - len(mine)
    )


def unbudgeted_left(batch: Books, trust: ReportTrust) -> int:
    """What a tenant's keys may say and hold yet in these 24 hours beside its budgets."""
    holds = _own_holds(batch, trust.tenant_id)
    # Of more than there may be, the rest was not read.
    return _left(batch, trust, holds) if len(holds) <= MOST_UNBUDGETED_HOLDS else 0


def _left(batch: Books, trust: ReportTrust, holds: Holds) -> int:
    return trust.unbudgeted_nanos - _reported_nanos(batch, trust.tenant_id) - _held_nanos(holds, trust)


def _reported_nanos(batch: Books, tenant_id: int) -> int:
    """What a tenant's keys have said was spent in 24 hours beside its budgets, this batch's own included."""
    since = batch.now - UNBUDGETED_SPAN
    mine = [e for e in batch.entries if e.reason == sql.UNBUDGETED and e.caller.tenant_id == tenant_id]
    return sql.unbudgeted(tenant_id, since=since) + sum(entry.cost_nanos for entry in mine)


def _own_holds(batch: Books, tenant_id: int) -> Holds:
    """What a tenant's keys hold for calls of their own, or have let expire in the last 24 hours; or many of them.

    Whoever asks has the windows that such holds share locked, so that it must not take long.
    """
    since = batch.now - UNBUDGETED_SPAN
    found = sql.own_holds(tenant_id, expired_since=since, limit=MOST_UNBUDGETED_HOLDS + 1)
    held = {id: (amount_nanos, windows) for id, amount_nanos, windows in found}
    # As this batch has it, which is not written yet.
    for row in (*batch.reservations.values(), *batch.new_reservations.values()):
        if row.id in held or (is_own(row.id) and row.caller.tenant_id == tenant_id):
            held[row.id] = row.amount_nanos if row.status in ("pending", "expired") else 0, tuple(row.windows)
    return held


def _held_nanos(holds: Holds, trust: ReportTrust) -> int:
    """What of holds is beside every budget of the tenant's own."""
    scopes = sql.scope_types({id for _, windows in holds.values() for id in windows})
    return sum(
        amount_nanos
        for amount_nanos, windows in holds.values()
        if not trust.fixed_scopes.intersection(scopes.get(id) for id in windows)
    )
