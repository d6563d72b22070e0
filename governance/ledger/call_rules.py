"""What happens to one call's money: held, charged, returned, corrected. Rules of the ledger, run on locked rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import uuid_utils.compat as uuids
from django.conf import settings

from governance.ledger import claims, sql
from governance.ledger.batch import Batch
from governance.ledger.operations import Adjust, Expire, Extend, Record, Release, Reserve, Settle
from governance.ledger.results import (
    AdjustResult,
    AlreadyResolved,
    ExtendRefused,
    InReview,
    LedgerError,
    OutOfBounds,
    RecordResult,
    RequestIdReused,
    ReservationUnknown,
    ReserveAnew,
    SettleResult,
    TooManyNames,
)
from governance.ledger.rows import BucketRow, EntryRow, ReservationRow, WindowRow, has_ended, hour_of
from governance.ledger.views import view_of
from governance.rules import money
from governance.rules.buckets import NOTHING, Amount, amount_of
from governance.rules.calls import Usage
from governance.rules.decision import Decision, Reason, WindowView
from governance.rules.reports import ReportBound, ReportTrust, bound_of, is_budgeted
from governance.rules.scopes import PLATFORM

LATE_SETTLE = "late_settle"
# The reason of a charge at the hold, where what was claimed beyond it waits for an operator.
IN_REVIEW = "excess_in_review"
# An operator's last words on an estimate.
CONFIRMED, VOIDED = "confirmed", "voided"
# No agent keeps a hold alive for longer, however often it asks.
LONGEST_HOLD = timedelta(days=1)
# Of a settlement at the hold, in place of one that no call can have cost or used.
IMPLAUSIBLE = "implausible"


def reserve(batch: Batch, op: Reserve) -> Decision:
    """Decide, and hold the worst case in every window that governs the call."""
    # An earlier try held in the same windows and buckets: having them locked, we have waited for its commit.
    if op.reservation_id in batch.new_reservations or (op.is_repeat and sql.is_held(op.reservation_id)):
        raise AlreadyResolved(op.reservation_id, "reserved")
    decision = claims.decided(batch, op)
    if decision.allowed and batch.open_for(op.caller):
        decision = claims.decided(batch, op)
    if decision.quote is None:
        _note_refusal(batch, decision)
        return decision
    held = decision.quote
    matched, buckets = batch.matched(op.caller), batch.buckets_of(op.caller)
    tokens = min(held.tokens, money.MAX_UNITS)
    windows = [batch.open[item.budget.id, item.subject] for item in matched]
    for window in windows:
        window.reserved_nanos += held.cost_nanos
        window.dirty = True
    _fill(buckets, amount_of(cost_nanos=held.cost_nanos, tokens=tokens))
    batch.new_reservations[op.reservation_id] = ReservationRow(
        id=op.reservation_id,
        caller=op.caller,
        provider=op.provider,
        model_requested=op.model_requested or op.call.model,
        model_served=decision.model,
        windows=[window.id for window in windows],
        amount_nanos=held.cost_nanos,
        status="pending",
        reserved_at=batch.now,
        expires_at=_expiry(batch, op.ttl_s),
        buckets=[bucket.id for bucket in buckets],
        tokens=tokens,
    )
    return decision


def extend(batch: Batch, op: Extend) -> None:
    """Hold more where it fits, and live longer; refused as a call is."""
    row = batch.pending(op.reservation_id)
    expires_at = _expiry(batch, op.ttl_s)
    if op.asked:
        expires_at = min(expires_at, row.reserved_at + LONGEST_HOLD)
    windows, buckets = [batch.windows[id] for id in row.windows], _buckets(batch, row)
    if op.asks_for_leave:
        _refuse_outlived(batch, op, row, windows, expires_at=expires_at)
        claims.refuse_beyond("more", row.amount_nanos + op.more_nanos)
        asker = replace(row.caller, key_id=None) if op.by_holder else row.caller
        decision = batch.decided_anew(row, asker, buckets, more_nanos=op.more_nanos)
        if not decision.allowed:
            raise ExtendRefused(decision)
    claims.refuse_unbudgeted(batch, op.trust, "more", op.more_nanos, map(view_of, windows))
    _fill(buckets, Amount(nanos=op.more_nanos))
    for window in windows:
        window.reserved_nanos += op.more_nanos
        window.dirty = True
    row.amount_nanos += op.more_nanos
    row.expires_at = max(row.expires_at, expires_at)
    row.dirty = True


def settle(batch: Batch, op: Settle) -> SettleResult:
    """Charge the true cost in the windows that held it, and return the rest. Whatever it says, it lands.

    What a tenant's key claims beyond its bound is not charged: the hold is, and the rest is in review.
    """
    row = batch.reservation(op.reservation_id)
    batch.overruns += [(row.id, overrun) for overrun in op.overruns]
    op = _known_by_name(batch, _plausible(op, row), row)
    if row.status == "expired":
        return _settle_late(batch, op, row, is_claim=op.trust is not None)
    batch.pending(op.reservation_id)
    op, in_review = _held_against(batch, op, row, excess_nanos=op.cost_nanos - row.amount_nanos)
    entry = _charge(batch, row, op)
    # The rate limits counted the worst case; what was not used may be used by others.
    _correct(batch, row, used=_used(op, row), is_claim=op.trust is not None)
    _resolve(batch, row, "settled")
    return SettleResult(
        entry.id,
        op.cost_nanos,
        entry.overage_nanos,
        windows=batch.views(row.windows),
        in_review=in_review and replace(in_review, corrects_id=entry.id),
    )


def release(batch: Batch, op: Release) -> None:
    """Return the whole hold; what expired was charged in full, and is settled at nothing."""
    row = batch.reservation(op.reservation_id)
    if row.status == "expired":
        nothing = Settle(row.id, 0, Usage(provider=row.provider, model=row.model_served), request_id=str(row.id))
        # Nobody knows here who asks: it may be a tenant's key.
        _settle_late(batch, nothing, row, is_claim=True)
        return
    batch.pending(op.reservation_id)
    _give_back(batch, row)
    _correct(batch, row, used=NOTHING)
    _resolve(batch, row, "released")


def expire(batch: Batch, op: Expire) -> bool:
    """Charge a dead call's whole hold as an estimate; False where it was resolved or extended meanwhile."""
    row = batch.reservation(op.reservation_id)
    if row.status != "pending" or row.expires_at > batch.now:
        return False
    usage = Usage(provider=row.provider, model=row.model_served)
    _charge(
        batch,
        row,
        Settle(row.id, row.amount_nanos, usage, certainty="estimated", reason="expired", request_id=str(row.id)),
    )
    _resolve(batch, row, "expired")
    return True


def record(batch: Batch, op: Record) -> RecordResult | InReview:
    """Charge a call that held nothing; once for each request id. A tenant's claim beyond its bound charges nothing."""
    key = op.caller.tenant_id, op.request_id
    if key in batch.reported:
        return repeated(op, batch.reported[key])
    occurred_at = op.occurred_at or batch.now
    claims.refuse_beyond("cost", op.cost_nanos)
    if op.windows is None and op.caller in batch.crowding:
        raise TooManyNames(settings.NEW_NAMES_PER_HOUR)
    claims.refuse_new_model(batch, op.trust, (op.usage.provider, op.usage.model), at=occurred_at)
    if _uses_too_much(op.usage):
        raise OutOfBounds("usage", f"must be at most {money.MAX_UNITS:,} of tokens or other units")
    if op.windows is not None:
        windows = governing = [batch.windows[id] for id in op.windows]
    else:
        matched = batch.matched(op.caller)
        governing = [batch.open[item.budget.id, item.subject] for item in matched]
        windows = [batch.window_at(item, occurred_at) for item in matched]
    reason = op.reason
    if op.trust is not None and op.cost_nanos > 0:
        # It must fit all that governs the caller now, also what it is too old to be charged in.
        asked = {window.id: window for window in (*governing, *windows)}
        bound, budgeted = _bound(batch, op.trust, views=map(view_of, asked.values()), charged=_running(batch, windows))
        if op.cost_nanos > bound.room_nanos:
            return InReview(op.cost_nanos, bound, tuple(window.id for window in windows))
        reason = reason if budgeted else sql.UNBUDGETED
    _refuse_full(windows, op.cost_nanos)
    entry = EntryRow(
        id=op.entry_id,
        kind="charge",
        caller=op.caller,
        provider=op.usage.provider,
        model_requested=op.model_requested or op.usage.model,
        model_served=op.usage.model,
        windows=[window.id for window in windows],
        cost_nanos=op.cost_nanos,
        occurred_at=occurred_at,
        request_id=op.request_id,
        certainty=op.certainty,
        reason=reason,
        price_rule=op.price_rule,
        metadata=op.metadata,
        **_figures(op.usage),
    )
    batch.post(entry)
    batch.reported[key] = sql.Reported(op.entry_id, op.caller.agent, op.cost_nanos)
    return RecordResult(op.entry_id, op.cost_nanos)


def adjust(batch: Batch, op: Adjust) -> AdjustResult:
    """Correct an entry in the windows it was charged to."""
    corrected = batch.corrected.get(op.corrects_id)
    if corrected is None:
        raise ReservationUnknown(op.corrects_id)
    windows = [batch.windows[id] for id in corrected.windows]
    claims.refuse_beyond("cost", abs(op.delta_nanos))
    _refuse_full(windows, op.delta_nanos)
    if any(window.settled_nanos + op.delta_nanos < 0 for window in windows):
        raise LedgerError(f"adjusting {op.corrects_id} by {op.delta_nanos} would bring a window below zero")
    batch.post(
        replace(
            corrected,
            id=op.entry_id,
            kind=op.kind,
            corrects_id=op.corrects_id,
            cost_nanos=op.delta_nanos,
            reason=op.reason,
            request_id="",
            price_rule=op.price_rule,
        )
    )
    return AdjustResult(op.entry_id, op.delta_nanos)


def repeated(op: Record, before: sql.Reported) -> RecordResult:
    """The answer to a report whose request id is charged already; one that says something else is no repeat."""
    refuse_reuse(op, agent=before.agent)
    return RecordResult(before.entry_id, before.cost_nanos, duplicate=True)


def refuse_reuse(op: Record, *, agent: str) -> None:
    """Refuse a report under a request id of another agent: taken for a repeat, it would not be charged."""
    if op.trust is not None and op.trust.agent_is_fixed and op.caller.agent != agent:
        raise RequestIdReused(f"{op.request_id} names another report already; give each call an id of its own.")


def _refuse_outlived(
    batch: Batch, op: Extend, row: ReservationRow, windows: Iterable[WindowRow], *, expires_at: datetime
) -> None:
    """Refuse what only a new hold can have. Raises ReserveAnew."""
    if not op.more_nanos:
        if expires_at <= row.expires_at and row.expires_at >= row.reserved_at + LONGEST_HOLD:
            raise ReserveAnew("a hold lives for at most 24 hours: settle or release it, and reserve anew")
        return
    if any(window.closed_at is not None or has_ended(window, batch.now) for window in windows):
        # What an earlier period has left is not to be spent in this one.
        raise ReserveAnew("the period that it was held in is over: reserve anew")
    if batch.governs_since(row) or batch.is_limited_since(row):
        raise ReserveAnew("a budget or rate limit holds for it now that did not when it was held: reserve anew")


def _note_refusal(batch: Batch, decision: Decision) -> None:
    # One that is not open has nothing to stop.
    if decision.reason == Reason.BUDGET_EXHAUSTED and decision.because and decision.because.window_id:
        batch.note_stop(batch.windows[decision.because.window_id], "a call was refused")


def _expiry(batch: Batch, ttl_s: int | None) -> datetime:
    return batch.now + timedelta(seconds=ttl_s or settings.RESERVATION_TTL_S)


def _buckets(batch: Batch, row: ReservationRow) -> list[BucketRow]:
    """The buckets that a reservation filled; one whose limit was deleted is gone."""
    return [batch.buckets[id] for id in row.buckets if id in batch.buckets]


def _held(row: ReservationRow) -> Amount:
    """What a hold counts as in rate limits."""
    return amount_of(cost_nanos=row.amount_nanos, tokens=row.tokens)


def _used(op: Settle, row: ReservationRow) -> Amount:
    return amount_of(cost_nanos=op.cost_nanos, tokens=op.usage.input_tokens + op.usage.output_tokens or row.tokens)


def _fill(buckets: Iterable[BucketRow], more: Amount) -> None:
    for bucket in buckets:
        bucket.level = bucket.rule.ceilings.filled(bucket.level, more=more)
        bucket.dirty = True


def _correct(
    batch: Batch, row: ReservationRow, *, used: Amount, is_claim: bool = False, gives_back: bool = True
) -> None:
    """Count what a call has used in the place of what was held for it.

    A bucket whose ceilings changed meanwhile gets nothing back: what others have filled would be taken off for it.
    """
    held, ago = _held(row), batch.now - row.reserved_at
    for bucket in _buckets(batch, row):
        # What a tenant's key claims beyond its hold makes nobody else wait.
        counted = used.at_most(held) if is_claim and bucket.rule.scope_type == PLATFORM else used
        is_whole = gives_back and bucket.has_what_was_held(row.reserved_at)
        less = held if is_whole else held.at_most(counted)
        bucket.level = bucket.rule.ceilings.filled(bucket.level, more=counted, less=less, ago=ago)
        bucket.dirty = True


def _refuse_full(windows: Iterable[WindowRow], more_nanos: int) -> None:
    """Refuse what would bring the sum of a tenant's window over its bound; a settlement never is: see `Batch.post`.

    Nor is it refused for the platform's own sum, which others may have filled: that one stops at its bound.
    """
    for window in windows:
        if window.tenant_id is not None and window.settled_nanos + max(0, more_nanos) > money.MAX_SUM:
            bound = money.whole_dollars(money.MAX_SUM)
            raise OutOfBounds("cost", f"brings what {view_of(window).scope} has spent over the bound of {bound}")


def _uses_too_much(usage: Usage) -> bool:
    counts = (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.units)
    return min(counts) < 0 or max(counts) > money.MAX_UNITS


def _plausible(op: Settle, row: ReservationRow) -> Settle:
    """The settlement; or, where no call can have cost or used what it says, one at the hold that says what it said.

    A call is charged in any case, and a count that only an upstream can have made up must not be what keeps it from
    that. As an estimate it waits for an operator's word.
    """
    if 0 <= op.cost_nanos <= money.MAX_AMOUNT_NANOS and not _uses_too_much(op.usage):
        return op
    usage = replace(op.usage, input_tokens=0, cached_tokens=0, output_tokens=0, units=0)
    # As text: JSON's integers end at 64 bits here.
    said = {"cost_nanos": str(op.cost_nanos)} | {name: str(count) for name, count in _figures(op.usage).items()}
    return replace(
        op,
        cost_nanos=row.amount_nanos,
        usage=usage,
        certainty="estimated",
        reason=IMPLAUSIBLE,
        metadata={**op.metadata, "reported": said},
    )


def _known_by_name(batch: Batch, op: Settle, row: ReservationRow) -> Settle:
    """The settlement; or, where its model is one more than the sums of its hour may be of, one of the hold's model, in
    the hour of the hold, that says what it said."""
    held = row.provider, row.model_served
    name = op.usage.provider or row.provider, op.usage.model or row.model_served
    at = row.reserved_at if row.status == "expired" or op.occurred_at is None else op.occurred_at
    if op.trust is None or (name == held and hour_of(at) == hour_of(row.reserved_at)):
        return op
    if not claims.is_one_too_many(batch, op.trust, name, at=at):
        return op
    usage = replace(op.usage, provider=row.provider, model=row.model_served)
    return replace(op, usage=usage, occurred_at=None, metadata={**op.metadata, "model": "/".join(name)})


def _resolve(batch: Batch, row: ReservationRow, status: str) -> None:
    row.status, row.resolved_at, row.dirty = status, batch.now, True


def _give_back(batch: Batch, row: ReservationRow) -> None:
    for id in row.windows:
        batch.windows[id].reserved_nanos -= row.amount_nanos
        batch.windows[id].dirty = True


def _charge(batch: Batch, row: ReservationRow, op: Settle) -> EntryRow:
    """Turn a pending hold into an entry at what was spent."""
    _give_back(batch, row)
    entry = EntryRow(
        id=uuids.uuid7(),
        kind="charge",
        caller=row.caller,
        provider=op.usage.provider or row.provider,
        model_requested=row.model_requested,
        model_served=op.usage.model or row.model_served,
        windows=row.windows,
        cost_nanos=op.cost_nanos,
        occurred_at=op.occurred_at or row.reserved_at,
        reservation_id=row.id,
        request_id=op.request_id,
        price_rule=op.price_rule,
        overage_nanos=max(0, op.cost_nanos - row.amount_nanos),
        certainty=op.certainty,
        reason=op.reason,
        metadata=op.metadata,
        **_figures(op.usage),
    )
    batch.post(entry)
    return entry


def _settle_late(batch: Batch, op: Settle, row: ReservationRow, *, is_claim: bool) -> SettleResult:
    """Post the difference to what expiry charged and operators corrected since, once."""
    posted = sql.entries_of_reservation(row.id)
    if any(entry.reason == LATE_SETTLE for entry in posted):
        raise AlreadyResolved(row.id, "settled")
    [charge] = [entry for entry in posted if entry.kind == "charge"]
    posted_nanos = sum(entry.cost_nanos for entry in posted)
    if is_claim and op.cost_nanos < posted_nanos and any(e.reason in (CONFIRMED, VOIDED) for e in posted):
        # A tenant's key does not take back what an operator has said was spent.
        raise AlreadyResolved(row.id, "decided on by an operator")
    op, in_review = _held_against(batch, op, row, excess_nanos=op.cost_nanos - posted_nanos, late=True)
    entry = replace(
        charge,
        id=uuids.uuid7(),
        kind="adjustment",
        corrects_id=charge.id,
        reason=LATE_SETTLE,
        cost_nanos=op.cost_nanos - posted_nanos,
        certainty=op.certainty,
        price_rule=op.price_rule,
        request_id=op.request_id,
        model_served=op.usage.model or charge.model_served,
        metadata=op.metadata,
        **_figures(op.usage),
    )
    batch.post(entry)
    # What it held was charged, and counts; what it used beyond that counts from now on.
    _correct(batch, row, used=_used(op, row), is_claim=is_claim, gives_back=False)
    return SettleResult(
        entry.id,
        op.cost_nanos,
        late=True,
        windows=batch.views(row.windows),
        in_review=in_review and replace(in_review, corrects_id=charge.id),
    )


def _held_against(
    batch: Batch, op: Settle, row: ReservationRow, *, excess_nanos: int, late: bool = False
) -> tuple[Settle, InReview | None]:
    """A settlement as it may be charged, and what of it must wait: all of the excess, where that passes its bound.

    A late one is marked as such and not as unbudgeted, so nothing of that kind is left for it.
    """
    if op.trust is None:
        return op, None
    windows = [batch.windows[id] for id in row.windows]
    charged = _running(batch, windows)
    if excess_nanos <= 0:
        return (op if late or is_budgeted(charged, op.trust) else replace(op, reason=sql.UNBUDGETED)), None
    bound, budgeted = _bound(batch, op.trust, views=map(view_of, windows), charged=charged, late=late)
    if later := batch.governs_since(row):
        # It is not charged in a budget that came after it, whose room is therefore none for it.
        bound = ReportBound(0, later.scope, later.kind)
    if excess_nanos <= bound.room_nanos:
        return (op if budgeted else replace(op, reason=sql.UNBUDGETED)), None
    # Not at the usage's price, so by no rule that could be corrected.
    held = replace(op, cost_nanos=op.cost_nanos - excess_nanos, reason=IN_REVIEW, price_rule="")
    return held, InReview(excess_nanos, bound, tuple(row.windows))


def _running(batch: Batch, windows: Iterable[WindowRow]) -> list[WindowView]:
    """Those that bound what is spent now: the room of a period that is over would bound no sum of reports."""
    return [view_of(window) for window in windows if window.closed_at is None and not has_ended(window, batch.now)]


def _bound(
    batch: Batch, trust: ReportTrust, *, views: Iterable[WindowView], charged: Iterable[WindowView], late: bool = False
) -> tuple[ReportBound, bool]:
    """What a report of a tenant's key is held against, and whether the tenant's own budgets are what bounds it."""
    if is_budgeted(charged, trust):
        return bound_of(views, unbudgeted_left_nanos=None), True
    left_nanos = 0 if late else claims.unbudgeted_left(batch, trust)
    return bound_of(views, unbudgeted_left_nanos=left_nanos), False


def _figures(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "unit": usage.unit,
        "units": usage.units,
    }
