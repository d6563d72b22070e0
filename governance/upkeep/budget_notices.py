"""What is told of budgets: their events, which the ledger writes with what causes them, become notices.

An event is its own row of the outbox (`untold`), so a call that crosses a threshold writes nothing more for it. Of
several events of a window at one time the gravest is told: a call that takes a budget from half to its end is one
message.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.urls import reverse

from governance import alerts
from governance.models import AlertChannel, AlertNotice, BudgetEvent, BudgetForecast, BudgetWindow, ScopeType
from governance.queries import budget_status, forecasts
from governance.rules import alerting, money
from governance.rules.refusals import rfc3339
from governance.rules.windows import WindowKind

Kind = BudgetEvent.Kind
# Of each statement.
EVENTS = 500
# From this share of the limit on a threshold is a warning.
WARNING_FROM = Decimal("0.75")
CENT_NANOS = 10_000_000
# What happened to a window that is over since is no news when it is so old: a worker was away, or what was imported.
STALE = timedelta(hours=1)


def write(*, now: datetime) -> int:
    """Make notices of events that nobody was told of, and end those that are over; how many. Twice adds nothing."""
    made = 0
    while True:
        seen, told = _write_some(now)
        made += told
        if seen < EVENTS:
            return made + _end(now)


@transaction.atomic
def _write_some(now: datetime) -> tuple[int, int]:
    """(events, notices)"""
    of: tuple[str, ...] = ("self",) if connection.features.has_select_for_update_of else ()
    skips = connection.features.has_select_for_update_skip_locked
    rows = BudgetEvent.objects.filter(untold=True).select_for_update(skip_locked=skips, of=of).order_by("id")
    events = list(rows.select_related("budget__tenant", "window", "tenant")[:EVENTS])
    by_window: defaultdict[int, list[BudgetEvent]] = defaultdict(list)
    # Where nobody is told, nothing is kept for telling.
    is_heard = AlertChannel.objects.filter(enabled=True).exists()
    for event in events if is_heard else []:
        is_over = event.window.closed_at is not None or (event.window.ends_at or now) < now
        if not (is_over and event.occurred_at < now - STALE):
            by_window[event.window_id].append(event)
    ahead = forecasts.running_out(now=now, budgets={event.budget_id for event in events}) if by_window else {}
    for of_window in by_window.values():
        _tell(of_window, ahead, now)
    BudgetEvent.objects.filter(pk__in=[event.pk for event in events]).update(untold=False)
    return len(events), len(by_window)


def _tell(events: Sequence[BudgetEvent], ahead: Mapping[int, BudgetForecast], now: datetime) -> None:
    """One notice of what happened to a window."""
    event = max(events, key=lambda one: (alerting.SEVERITIES.index(_severity(one)), _weight(one), one.pk))
    window, budget = event.window, event.budget
    tenant = event.tenant or budget.tenant
    kind, title = _said(event)
    # By what is kept: nothing is reckoned here.
    runs_out_at = forecasts.runs_out_at(ahead.get(budget.pk), budget_status.of_window(window), now=now)
    alerts.tell(
        kind=kind,
        incident=f"budget-window-{window.pk}",
        title=title,
        message=_message(event, runs_out_at),
        severity=_severity(event),
        tenant=tenant,
        is_for_tenant=tenant is not None and budget.scope_type != ScopeType.PLATFORM,
        path=reverse("admin:governance_budget_change", args=[budget.pk]),
        by=event.actor,
        facts=_facts(event, runs_out_at),
        event=event,
        window=window,
        now=event.occurred_at,
    )


def _severity(event: BudgetEvent) -> str:
    if event.kind == Kind.HARD_STOP:
        return "critical"
    if event.kind == Kind.THRESHOLD_BREACH:
        return "warning" if Decimal(event.threshold) >= WARNING_FROM else "info"
    if event.kind == Kind.STATE_CHANGE and event.new_state == "stopped":
        return "critical"
    return "warning" if event.kind == Kind.STATE_CHANGE and event.new_state == "degraded" else "info"


def _weight(event: BudgetEvent) -> Decimal:
    """Of events that are as grave: a stop, then the highest threshold, then what came of it."""
    if event.kind == Kind.HARD_STOP:
        return Decimal(3)
    return Decimal(event.threshold) if event.threshold else Decimal(0)


def name_of(window: BudgetWindow) -> str:
    """How people name whose money it is: "acme's daily budget"."""
    budget = window.budget
    scope = budget.scope
    if window.subject and budget.scope_key == "*":
        scope = f"{window.subject} ({scope})"
    return f"the {PERIODS[WindowKind(budget.window)]} budget of {scope}"


PERIODS = {
    WindowKind.HOUR: "hourly",
    WindowKind.DAY: "daily",
    WindowKind.WEEK: "weekly",
    WindowKind.MONTH: "monthly",
    WindowKind.BILLING_CYCLE: "billing cycle's",
    WindowKind.LIFETIME: "lifetime",
}


def _said(event: BudgetEvent) -> tuple[str, str]:
    """(kind, title)"""
    name = name_of(event.window)
    if _is_used_up(event):
        return "budget_stopped", f"Stopped: {name} is used up"
    if event.kind == Kind.HARD_STOP:
        return "budget_stopped", f"A call was refused: {name} has too little left"
    if event.kind == Kind.THRESHOLD_BREACH:
        return "budget_threshold", f"{capital(name)} is at {percent(Decimal(event.threshold))}"
    if event.kind == Kind.BUDGET_RESET:
        return "budget_reset", f"{capital(name)} was reset"
    state = {"active": "open again", "degraded": "served by cheaper models now", "warned": "close to its limit"}
    return "budget_state", f"{capital(name)} is {state.get(event.new_state, event.new_state)}"


def _is_used_up(event: BudgetEvent) -> bool:
    """Whether no call is let in any more. Of one that is too large for the rest the window's state says nothing."""
    return event.kind in (Kind.HARD_STOP, Kind.STATE_CHANGE) and event.new_state == "stopped"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def percent(share: Decimal) -> str:
    return f"{(share * 100).normalize():f}%"


def _message(event: BudgetEvent, runs_out_at: datetime | None) -> str:
    spent, limit = (dollars(n) for n in (event.settled_nanos, event.limit_nanos))
    used = f" ({Decimal(event.settled_nanos) / Decimal(event.limit_nanos):.0%})" if event.limit_nanos else ""
    words = [f"{spent} of {limit} are spent{used}."]
    reason = event.reason.rstrip(".")
    if _is_used_up(event):
        words.append("Calls under it are refused from now on.")
    elif event.kind == Kind.HARD_STOP:
        words.append("A call that may cost more than what is left was refused; smaller ones go through.")
        reason = ""
    if event.kind != Kind.BUDGET_RESET and event.window.closed_at is None:
        if runs_out_at is not None:
            words.append(f"At the usual pace it runs out about {_moment(runs_out_at, event.window)}.")
        words.append(resets(event.window))
    if reason:
        words.append(f"Reason: {reason}.")
    return " ".join(word for word in words if word)


def resets(window: BudgetWindow) -> str:
    """When it begins anew by itself, as a sentence."""
    if window.ends_at is None:
        return "It does not reset by itself."
    return f"It resets at {_moment(window.ends_at, window)}."


def _moment(at: datetime, window: BudgetWindow) -> str:
    """In the time of whoever's window it is."""
    tenant = window.tenant or window.budget.tenant
    local = at.astimezone(tenant.zone if tenant else UTC)
    return f"{local:%H:%M} on {local:%Y-%m-%d} ({tenant.time_zone if tenant else 'UTC'})"


def dollars(nanos: int) -> str:
    """As people read it: to the cent, and in full where there is less than one."""
    if 0 < nanos < CENT_NANOS:
        return f"${money.format_dollars(nanos)}"
    return f"${money.dollars_from_nanos(nanos):,.2f}"


def _facts(event: BudgetEvent, runs_out_at: datetime | None) -> dict[str, Any]:
    ends_at = event.window.ends_at
    return {
        "budget": event.budget_id,
        "scope": event.budget.scope,
        "window": event.budget.window,
        "subject": event.window.subject,
        "event": event.kind,
        "threshold": event.threshold or None,
        "spent": money.format_dollars(event.settled_nanos),
        "limit": money.format_dollars(event.limit_nanos),
        "resets_at": rfc3339(ends_at) if ends_at else None,
        "runs_out_at": rfc3339(runs_out_at) if runs_out_at else None,
    }


def _end(now: datetime) -> int:
    """Say of windows that are over, or have money again, that it is over; how many notices that ends."""
    on = AlertNotice.objects.filter(what=AlertNotice.What.OPENED, over_at=None).exclude(window=None)
    closed = Exists(BudgetWindow.objects.filter(pk=OuterRef("window_id"), closed_at__isnull=False))
    ended = 0
    for incident in list(on.filter(closed).order_by().values_list("incident", flat=True).distinct()[:EVENTS]):
        ended += _end_incident(incident, "Its window is over; a new one has begun, or begins with the next call.", now)
    off = on.filter(window__budget__enabled=False).order_by().values_list("incident", flat=True)
    for incident in list(off.distinct()[:EVENTS]):
        ended += _end_incident(incident, "The budget was deleted, or is switched off.", now)
    # Without a raise or a correction no window ever has less behind it.
    raised = Q(window__limit_nanos__gt=F("event__limit_nanos"))
    corrected = Q(window__settled_nanos__lt=F("event__settled_nanos"))
    for notice in on.filter(raised | corrected).select_related("window", "event")[:EVENTS]:
        if _is_eased(notice):
            ended += _end_incident(notice.incident, "It has money again.", now)
    return ended


def _is_eased(notice: AlertNotice) -> bool:
    """Whether a window is not any more where its event saw it."""
    window, event = notice.window, notice.event
    if window is None or event is None:
        return False
    if event.threshold:
        return window.settled_nanos < Decimal(event.threshold) * window.limit_nanos
    return window.state != "stopped" if notice.kind == "budget_stopped" else window.state == "active"


@transaction.atomic
def _end_incident(incident: str, words: str, now: datetime) -> int:
    on = AlertNotice.objects.filter(incident=incident, what=AlertNotice.What.OPENED, over_at=None)
    last = on.order_by("-id").select_related("window__budget").first()
    if last is None or last.window is None:
        return 0
    grave = on.exclude(severity="info").exists()
    # The condition settles a race: one of two ends it.
    ended = on.update(over_at=now)
    if ended and grave:
        alerts.tell(
            kind=last.kind,
            incident=incident,
            what=AlertNotice.What.OVER,
            title=capital(name_of(last.window)),
            message=words,
            severity=last.severity,
            tenant=last.tenant_id,
            is_for_tenant=last.is_for_tenant,
            path=last.path,
            facts=last.facts,
            window=last.window,
            now=now,
        )
    return ended
