"""What happened lately, in lines that lead to their pages: one line for a burst of the same.

Budgets that were stopped, degraded or reset, emergency stops, raises, downgrades with what they saved, calls that were
refused, and payments. Read from each table's newest rows of the range.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse

from billing.queries import payments
from governance.actions import stops
from governance.console import changes, display, ranges
from governance.console.base import is_of_the_platform, may, reader
from governance.console.ranges import Chosen
from governance.models import Allowance, Budget, BudgetEvent, EmergencyStop, RefusedCall
from governance.queries import savings
from governance.queries.savings import NotedCharge
from governance.queries.spend import Reader, TimeRange
from governance.rules.spend_sums import HOUR
from governance.rules.visibility import STAFF, Audience

SHOWN = 12
# Rows of a table that are looked through for bursts; the newest charges that are for downgrades.
LOOKED, CHARGES = 500, 5_000
# What goes on with no more than this between is one burst.
PAUSE = timedelta(hours=1)
MOMENT = timedelta(microseconds=1)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class FeedLine:
    """`kind` is the badge's word and `tone` its colour: danger, warning, info or success. `link` may be empty."""

    at: datetime
    kind: str
    tone: str
    whom: str
    words: str
    link: str = ""
    amount: str = ""

    @property
    def moment(self) -> Any:
        return display.moment(self.at)


def lines(request: HttpRequest, chosen: Chosen, now: datetime) -> list[FeedLine]:
    """The newest first, of the range."""
    by, period = reader(request), chosen.period
    found = [
        *_events(by, period),
        *_allowances(by, period),
        *_stops(by, period),
        *_downgrades(by, period, now),
        *_refusals(by, period),
    ]
    if is_of_the_platform(request) and may(request, "billing.view_stripeevent"):
        found += _payments(period)
    return sorted(found, key=lambda line: line.at, reverse=True)[:SHOWN]


def bursts(rows: Iterable[Row], *, key: Callable[[Row], Hashable], at: Callable[[Row], datetime]) -> list[list[Row]]:
    """Rows that come newest first, put together where they have one key and no more than `PAUSE` between them."""
    found: list[list[Row]] = []
    open_ones: dict[Hashable, list[Row]] = {}
    for row in rows:
        burst = open_ones.get(key(row))
        if burst is not None and at(burst[-1]) - at(row) <= PAUSE:
            burst.append(row)
        else:
            open_ones[key(row)] = [row]
            found.append(open_ones[key(row)])
    return found


def _events(by: Reader, period: TimeRange) -> Iterator[FeedLine]:
    rows = BudgetEvent.objects.filter(Q(tenant=by.tenant) if by.tenant else Q(), period.on("occurred_at"))
    newest = rows.select_related("budget__tenant", "window__budget__tenant").order_by("-id")[:LOOKED]
    for burst in bursts(newest, key=lambda row: row.window_id, at=lambda row: row.occurred_at):
        last = burst[0]
        state = next((row.new_state for row in burst if row.new_state), "")
        kind, tone = _event_badge(burst, state)
        yield FeedLine(
            at=last.occurred_at,
            kind=kind,
            tone=tone,
            whom=f"{display.subject_name(last.window)} per {last.budget.get_window_display()}",
            words=_event_words(burst, state),
            link=_budget_page(by, last.budget),
            amount=f"{display.dollars(last.settled_nanos)} of {display.dollars(last.limit_nanos)}",
        )


def _event_badge(burst: Sequence[BudgetEvent], state: str) -> tuple[str, str]:
    kinds = {row.kind for row in burst}
    if BudgetEvent.Kind.BUDGET_RESET in kinds:
        return "reset", "success"
    if state:
        return state, display.STATE_COLOURS[state]
    if BudgetEvent.Kind.HARD_STOP in kinds:
        return "stopped", "danger"
    return f"{changes.shown(max(row.threshold for row in burst))} used", "warning"


def _event_words(burst: Sequence[BudgetEvent], state: str) -> str:
    """What happened in it, each kind once."""
    of_kind = {kind: [row for row in burst if row.kind == kind] for kind in BudgetEvent.Kind}
    told = [
        changes.of_events(of_kind[kind])
        for kind in (BudgetEvent.Kind.THRESHOLD_BREACH, BudgetEvent.Kind.HARD_STOP)
        if of_kind[kind]
    ]
    if of_kind[BudgetEvent.Kind.STATE_CHANGE]:
        before = of_kind[BudgetEvent.Kind.STATE_CHANGE][-1].old_state
        told.append(f"went from {before} to {state}")
    told += [row.reason or "began anew" for row in of_kind[BudgetEvent.Kind.BUDGET_RESET][:1]]
    return ", ".join(told)


def _allowances(by: Reader, period: TimeRange) -> Iterator[FeedLine]:
    rows = Allowance.objects.filter(Q(budget__tenant=by.tenant) if by.tenant else Q(), period.on("created_at"))
    audience = _audience(by)
    for row in rows.select_related("budget__tenant").order_by("-id")[:SHOWN]:
        until = f" until {row.ends_at:%a, %b} {row.ends_at.day}" if row.ends_at else ""
        yield FeedLine(
            at=row.created_at,
            kind="raised" if row.ends_at else "topped up",
            tone="success",
            whom=str(row.budget),
            words=f"{row.reason}, by {audience.actor(row.actor)}",
            link=_budget_page(by, row.budget),
            amount=f"+{display.dollars(row.amount_nanos)}{until}",
        )


def _stops(by: Reader, period: TimeRange) -> Iterator[FeedLine]:
    mine = Q(tenant=by.tenant) if by.tenant else Q()
    rows = EmergencyStop.objects.filter(mine, period.on("started_at") | period.on("lifted_at"))
    audience = _audience(by)
    for row in rows.select_related("tenant", "agent__tenant").order_by("-id")[:SHOWN]:
        link, whom = reverse("admin:governance_emergencystop_change", args=[row.pk]), stops.whom(row)
        words = f"{row.reason}, by {audience.actor(row.actor)}"
        yield FeedLine(row.started_at, "emergency stop", "danger", whom, words, link)
        if row.lifted_at:
            yield FeedLine(row.lifted_at, "lifted", "success", whom, f"by {audience.actor(row.lifted_by)}", link)


def _downgrades(by: Reader, period: TimeRange, now: datetime) -> Iterator[FeedLine]:
    charges, _ = savings.noted(reader=by, period=period, looked=CHARGES)
    moved = [charge for charge in charges if charge.asked]
    for burst in bursts(moved, key=_way, at=lambda charge: charge.at)[:SHOWN]:
        last, saved = burst[0], savings.by_downgrades(burst, now=now)
        kept = f"saved {display.dollars(saved.nanos)}" if saved.nanos > 0 else ""
        yield FeedLine(
            at=last.at,
            kind="downgraded",
            tone="info",
            whom=f"{last.tenant} / {last.agent}" if last.agent else last.tenant,
            words=f"{_calls(len(burst))} from {last.asked} to {last.model}",
            link=_list_of_calls(by, last.tenant, last.agent, "downgraded", last.at, burst[-1].at),
            amount=kept,
        )


def _way(charge: NotedCharge) -> Hashable:
    return charge.tenant, charge.agent, charge.asked, charge.model


def _refusals(by: Reader, period: TimeRange) -> Iterator[FeedLine]:
    rows = RefusedCall.objects.filter(by.scope, period.on("refused_at")).select_related("tenant").defer("budgets")
    found = bursts(rows.order_by("-refused_at")[:LOOKED], key=_why, at=lambda row: row.refused_at)
    for burst in found[:SHOWN]:
        last = burst[0]
        number = sum(bool(row.request_id) + row.more for row in burst)
        its_calls = _list_of_calls(by, last.tenant.slug, last.agent, "refused", last.refused_at, burst[-1].refused_at)
        yield FeedLine(
            at=last.refused_at,
            kind="refused",
            tone="danger",
            whom=f"{last.tenant.slug} / {last.agent}" if last.agent else last.tenant.slug,
            words=f"{_calls(number)}: {last.reason.replace('_', ' ')}",
            link=reverse("admin:call", args=[last.request_id]) if number == 1 and last.request_id else its_calls,
        )


def _why(row: RefusedCall) -> Hashable:
    return row.tenant_id, row.agent, row.reason


def _payments(period: TimeRange) -> Iterator[FeedLine]:
    for payment in payments.latest(period=period, limit=SHOWN):
        yield FeedLine(
            at=payment.at,
            kind="payment",
            tone="danger" if payment.is_bad else "success",
            whom=payment.whom,
            words=payment.said,
            link=reverse("admin:billing_stripeevent_change", args=[payment.event_id]),
            amount=payment.amount,
        )


def _audience(by: Reader) -> Audience:
    return STAFF if by.tenant is None else Audience(is_tenants=True)


def _calls(number: int) -> str:
    return f"{number:,} call{'' if number == 1 else 's'}"


def _budget_page(by: Reader, budget: Budget) -> str:
    """Empty for a budget that is wider than whose its reader is."""
    if by.tenant is not None and budget.tenant_id != by.tenant.pk:
        return ""
    return reverse("admin:governance_budget_change", args=[budget.pk])


def _list_of_calls(by: Reader, tenant: str, agent: str, status: str, last: datetime, first: datetime) -> str:
    named = {"tenant": "" if by.tenant else tenant, "agent": agent, "status": status}
    # The hours that they are in, from its beginning on.
    times = ranges.hours(first - HOUR + MOMENT, last + MOMENT)
    return f"{reverse('admin:calls')}?{urlencode(times | {name: text for name, text in named.items() if text})}"
