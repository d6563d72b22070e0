"""More than the limit for a time: dated raises and top-ups, with reason and actor, ending by themselves.

A raise counts in every window of the budget while it runs; a top-up counts in the window it was made in. Amounts are
integer nanodollars. Each act leaves an audit row and takes hold at once, in the same transaction; of very many windows
each follows as it is called for. It is kept, and runs and ends, by the database's clock (`at`); the ledger is told the
caller's `now`, which it puts right itself.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from governance import audit, ledger
from governance.audit import Actor
from governance.ledger.operations import ReviewAllowances
from governance.models import Allowance, Budget, BudgetWindow
from governance.queries import budget_status
from governance.queries.sums import LongSum
from governance.rules import money, names
from governance.rules.errors import FieldError, NotOpen, OverBound

PLANNED, RUNNING, ENDED = "planned", "running", "ended"


@ledger.run_again
@transaction.atomic
def raise_limit(
    *,
    budget: Budget,
    amount_nanos: int,
    starts_at: datetime | None = None,
    ends_at: datetime,
    reason: str,
    by: Actor,
    now: datetime,
) -> Allowance:
    """Raise a budget's limit by an amount from `starts_at`, or from now on, to `ends_at`. Raises FieldError."""
    if starts_at is not None and ends_at <= starts_at:
        raise FieldError("ends_at", "must be after starts_at")
    at = ledger.by_database(now)
    starts_at = at if starts_at is None else starts_at
    if ends_at <= at:
        raise FieldError("ends_at", "must be in the future")
    # One after the other, or two raises that are each small enough come to more than there may be.
    _lock(budget.pk, now=now)
    allowance = Allowance(budget=budget, amount_nanos=amount_nanos, starts_at=starts_at, ends_at=ends_at, reason=reason)
    return _grant(allowance, "budget.raise", by, now=now, at=at)


@ledger.run_again
@transaction.atomic
def top_up(
    *, budget: Budget, amount_nanos: int, reason: str, by: Actor, now: datetime, subject: str | None = None
) -> Allowance:
    """Add an amount to the budget's open window. Raises FieldError; `subject` names one window of several."""
    at = ledger.by_database(now)
    # First, or a reset closes the window that is chosen here, and the money counts nowhere.
    ledger.lock_windows(budget.pk)
    chosen = _open_window(budget, subject, at)
    _lock(budget.pk, chosen.subject, now=now)
    window = _open_window(budget, chosen.subject, at)
    allowance = Allowance(budget=budget, window=window, amount_nanos=amount_nanos, starts_at=at, reason=reason)
    return _grant(allowance, "budget.top_up", by, now=now, at=at)


@ledger.run_again
@transaction.atomic
def end(*, allowance: Allowance, by: Actor, now: datetime, reason: str = "") -> None:
    """End a running allowance now, or take back one that has not begun. Raises NotOpen where it is over."""
    at = ledger.by_database(now)
    # First, or a reset meanwhile ends the top-up that is judged here.
    _lock(allowance.budget_id, _subject(allowance), now=now)
    rows = Allowance.objects.select_for_update(of=("self",)).select_related("budget__tenant", "window")
    found = rows.filter(pk=allowance.pk).first()
    if found is None or state(found, now=at) == ENDED:
        raise NotOpen("ends_at", "it has ended already")
    allowance = found
    if allowance.window is None and allowance.starts_at < at:
        allowance.ends_at = at
        allowance.save(update_fields=["ends_at"])
    else:
        # A top-up, or a raise to come, leaves nothing to keep but its audit rows.
        Allowance.objects.filter(pk=allowance.pk).delete()
    ledger.apply_within([ReviewAllowances(allowance.budget_id, _subject(allowance))], now=now)
    audit.record(
        action="budget.allowance_end",
        target=str(allowance.budget),
        by=by,
        now=now,
        reason=reason.strip(),
        old=_to_audit(allowance),
    )


def state(allowance: Allowance, *, now: datetime) -> str:
    """PLANNED, RUNNING or ENDED; a top-up runs as long as its window is open."""
    if allowance.window is not None:
        return RUNNING if allowance.window.closed_at is None else ENDED
    if allowance.ends_at is not None and allowance.ends_at <= now:
        return ENDED
    return PLANNED if now < allowance.starts_at else RUNNING


def _open_window(budget: Budget, subject: str | None, now: datetime) -> BudgetWindow:
    """The budget's open window, or that of a subject."""
    windows = budget_status.live(BudgetWindow.objects.filter(budget=budget), now=now)
    if subject is not None:
        windows = windows.filter(subject__in=names.spellings_of_subject(budget.scope_type, subject))
    found = list(windows[:2])
    if not found:
        raise FieldError("budget", "has no open window to top up: it opens with the first call")
    if len(found) > 1:
        raise FieldError("subject", "name whose window to top up: this budget has one for each")
    return found[0]


def _subject(allowance: Allowance) -> str | None:
    """Whose window it is for; None: every one of the budget."""
    return allowance.window.subject if allowance.window is not None else None


def _lock(budget_id: int, subject: str | None = None, *, now: datetime) -> None:
    """Lock a budget's open windows, then its row: a call that opens one more at this moment comes before, or after.

    Else that call counts what no longer runs, or not what runs from now on, and nobody looks at its window again. Of
    very many windows the subject's alone, which then has followed what was done to the budget before.
    """
    ledger.lock_windows(budget_id)
    if subject is not None:
        ledger.apply_within([ReviewAllowances(budget_id, subject)], now=now)
    list(Budget.objects.select_for_update(of=("self",), no_key=True).filter(pk=budget_id).order_by())


def _grant(allowance: Allowance, action: str, by: Actor, *, now: datetime, at: datetime) -> Allowance:
    """Within the caller's transaction, which has the budget's turn. `at` is `now` by the database's clock."""
    if allowance.amount_nanos <= 0:
        raise FieldError("amount", "must be more than 0 dollars")
    money.refuse_beyond("amount", allowance.amount_nanos, most=money.MAX_LIMIT_NANOS)
    limit_nanos = allowance.budget.limit_nanos + _granted(allowance.budget, at) + allowance.amount_nanos
    if limit_nanos > money.MAX_LIMIT_NANOS:
        raise OverBound("amount", f"makes the limit more than {money.whole_dollars(money.MAX_LIMIT_NANOS)}")
    allowance.reason = allowance.reason.strip()
    if not allowance.reason:
        raise FieldError("reason", "say why")
    allowance.actor, allowance.created_at = by.name[:150], at
    allowance.save(force_insert=True)
    ledger.apply_within([ReviewAllowances(allowance.budget_id, _subject(allowance))], now=now)
    audit.record(
        action=action,
        target=str(allowance.budget),
        by=by,
        now=now,
        reason=allowance.reason,
        new=_to_audit(allowance),
    )
    return allowance


def _granted(budget: Budget, now: datetime) -> int:
    """What the budget's allowances come to that are not over, as if all ran at once."""
    lasting = Q(ends_at__gt=now) | Q(window__closed_at=None, window__isnull=False)
    return budget.allowances.filter(lasting).aggregate(sum=LongSum("amount_nanos"))["sum"] or 0


def _to_audit(allowance: Allowance) -> dict[str, Any]:
    return {
        "amount_nanos": allowance.amount_nanos,
        "window": allowance.window_id,
        "starts_at": allowance.starts_at.isoformat(),
        "ends_at": allowance.ends_at.isoformat() if allowance.ends_at else None,
    }
