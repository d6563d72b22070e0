"""More, as an agent's owner asks for it from a refusal's link (`raise_links`), and an operator's word on it.

Whoever has the link can ask, and is told no more than the key that was refused: see ADR 30.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.urls import reverse

from governance import alerts, audit, ledger, raise_links
from governance.actions import allowances
from governance.audit import Actor
from governance.models import BudgetWindow, RaiseRequest
from governance.queries import budget_status
from governance.rules import raises
from governance.rules.errors import Conflict, FieldError, NotOpen, Unknown
from governance.upkeep.budget_notices import dollars, name_of, resets

Status = RaiseRequest.Status
# The alert's kind.
ASKED = "raise_asked"
# The audit trail's name for whoever has the link.
BY_LINK = Actor("the link in a refusal")
PERIOD_OVER = "The period that this was for is over."


class TooManyAsked(FieldError):
    """As much was asked for in a day as may be of one tenant."""


def window_of(token: str, *, now: datetime) -> BudgetWindow:
    """The window that a link is for. Raises Unknown, and NotOpen where the link or the window's period is over."""
    rows = BudgetWindow.objects.select_related("budget__tenant", "tenant").filter(tenant__isnull=False)
    window = rows.filter(pk=raise_links.window_id_of(token, now=now)).first()
    if window is None:
        raise Unknown("", "What this link was made for is gone.")
    _check_live(window, now)
    return window


@transaction.atomic
def ask(*, window: BudgetWindow, amount_nanos: int, asker: str, reason: str, now: datetime) -> RaiseRequest:
    """Ask operators for more in a window that `window_of` found. Raises FieldError, Conflict while one request is open
    for it, TooManyAsked, NotOpen.
    """
    wished = raises.wish(amount_nanos=amount_nanos, asker=asker, reason=reason)
    _check_live(window, now)
    lately = RaiseRequest.objects.filter(window__tenant=window.tenant_id, asked_at__gt=now - timedelta(days=1))
    # Nothing is locked for it: two at one moment may make it one more.
    if lately.count() >= raises.MOST_A_DAY:
        raise TooManyAsked("", f"More was asked for {raises.MOST_A_DAY} times within a day. Ask again tomorrow.")
    row = RaiseRequest(
        window=window, amount_nanos=wished.amount_nanos, asker=wished.asker, reason=wished.reason, asked_at=now
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise Conflict("", "More was asked for already, and waits for an operator.") from error
    audit.record(
        action="raise.ask", target=str(window.budget), by=BY_LINK, now=now, reason=row.reason, new=_to_audit(row)
    )
    _tell(row, now)
    return row


@ledger.run_again
@transaction.atomic
def approve(*, asked: RaiseRequest, by: Actor, now: datetime) -> RaiseRequest:
    """Top up the window that it was asked for, and no other. Raises NotOpen, and what `allowances.top_up` raises."""
    row = _decide(asked, Status.APPROVED, by=by, now=now)
    window = row.window
    _check_live(window, now)
    made = allowances.top_up(
        budget=window.budget,
        amount_nanos=row.amount_nanos,
        reason=f"{row.asker}: {row.reason}",
        by=by,
        now=now,
        subject=window.subject,
    )
    # A reset came first, and the money went into the window after it: all of this is taken back.
    if made.window_id != window.pk:
        raise NotOpen("", PERIOD_OVER)
    return row


@transaction.atomic
def decline(*, asked: RaiseRequest, reason: str, by: Actor, now: datetime) -> RaiseRequest:
    """Say no, and why: whoever asked reads it. Raises NotOpen, FieldError."""
    if not reason.strip():
        raise FieldError("reason", "say why")
    return _decide(asked, Status.DECLINED, answer=reason.strip()[:300], by=by, now=now)


def lapse(*, now: datetime) -> int:
    """End requests that nobody decided before their window's period was over; how many."""
    rows = list(_with_window(RaiseRequest.objects.filter(status=Status.OPEN)))
    windows = BudgetWindow.objects.filter(pk__in=[row.window_id for row in rows])
    live = set(budget_status.live(windows, now=now).values_list("pk", flat=True))
    over = [row for row in rows if row.window_id not in live]
    for row in over:
        with transaction.atomic():
            # The condition settles a race with an operator.
            if _open(row).update(status=Status.LAPSED, decided_at=now):
                alerts.clear(kind=ASKED, subject=_subject(row), now=now)
    return len(over)


def check_open(row: RaiseRequest) -> None:
    """Raise NotOpen where it is decided, or over."""
    if row.status != Status.OPEN:
        raise NotOpen("", f"It was {row.status} by {row.decided_by}." if row.decided_by else PERIOD_OVER)


def listed() -> QuerySet[RaiseRequest]:
    """All requests with what they are for, newest first."""
    return _with_window(RaiseRequest.objects.order_by("-id"))


def _decide(asked: RaiseRequest, status: str, *, answer: str = "", by: Actor, now: datetime) -> RaiseRequest:
    # The condition settles a race: only one of two operators finds it open, and the other is told who was first.
    decided = _open(asked).update(status=status, decided_at=now, decided_by=by.name[:150], answer=answer)
    row = listed().get(pk=asked.pk)
    if not decided:
        check_open(row)
    audit.record(
        action="raise.approve" if status == Status.APPROVED else "raise.decline",
        target=str(row.window.budget),
        by=by,
        now=now,
        reason=answer,
        new=_to_audit(row),
    )
    alerts.clear(kind=ASKED, subject=_subject(row), now=now)
    return row


def _tell(row: RaiseRequest, now: datetime) -> None:
    window = row.window
    message = f"{row.asker} asks for {dollars(row.amount_nanos)} more for {name_of(window)}: {row.reason}"
    spent = f"{dollars(window.settled_nanos)} of {dollars(window.limit_nanos)} is spent. {resets(window)}"
    alerts.report(
        kind=ASKED,
        subject=_subject(row),
        message=f"{message.rstrip('.')}. {spent}",
        tenant=window.tenant,
        path=reverse("admin:governance_raiserequest_approve_one", args=[row.pk]),
        now=now,
    )


def _subject(row: RaiseRequest) -> str:
    """Of its alert: each request has one of its own, or a second one would only be counted."""
    return f"{row.window.budget}, request {row.pk}"


def _open(row: RaiseRequest) -> QuerySet[RaiseRequest]:
    return RaiseRequest.objects.filter(pk=row.pk, status=Status.OPEN).order_by()


def _with_window(rows: QuerySet[RaiseRequest]) -> QuerySet[RaiseRequest]:
    return rows.select_related("window__budget__tenant", "window__tenant")


def _check_live(window: BudgetWindow, now: datetime) -> None:
    if not budget_status.live(BudgetWindow.objects.filter(pk=window.pk), now=now).exists():
        raise NotOpen("", PERIOD_OVER)


def _to_audit(row: RaiseRequest) -> dict[str, Any]:
    return {"request": row.pk, "window": row.window_id, "amount_nanos": row.amount_nanos, "asker": row.asker}
