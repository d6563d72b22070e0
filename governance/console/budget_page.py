"""A budget's page, as it is read: its figures, its course, what it refused, its windows and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from governance import staff
from governance.console import allowance_pages, budget_list, changes, display, outlooks, ranges
from governance.console.display import Card
from governance.models import AuditEntry, Budget, BudgetEvent, BudgetWindow, RefusedCall, ScopeType
from governance.models.budgets import EACH
from governance.queries import budget_status, forecasts, refusals, replays
from governance.queries.budget_status import BudgetStatus
from governance.queries.forecasts import Outlook
from governance.rules import policy
from governance.rules.visibility import Audience

TABS = {"changes": "Events and changes", "refusals": "Refusals", "windows": "Windows"}
LATEST, MOST_EVENTS = 12, 40


@dataclass(frozen=True, slots=True)
class Happening:
    """A line of what happened to a budget, or was done to it."""

    at: datetime
    who: str
    words: SafeString | str
    because: str
    tone: str = ""

    @property
    def when(self) -> SafeString | str:
        return display.moment(self.at, "second")


def context(request: HttpRequest, budget: Budget, now: datetime) -> dict[str, Any]:
    status = budget_status.current([budget], now=now)[budget.pk]
    raised = budget_status.raises([budget], now=now).get(budget.pk)
    status = raised.on(status) if raised else status
    outlook = forecasts.of_budget(budget, status, now=now)
    tab = request.GET.get("tab", "")
    tab = tab if tab in TABS else "changes"
    calls = calls_link(budget, status, now=now)
    is_bound = staff.access_of(request.user).is_bound
    state = status.state if budget.enabled else budget_status.OFF
    state = "closed" if budget.closed_at and budget.enabled else state
    return {
        "budget": budget,
        "status": status,
        "state": state,
        "bar": display.bar(status, soft_cap=budget.soft_cap, hard_cap=budget.hard_cap),
        "cards": _cards(budget, outlook, raised.until if raised else None),
        "sentence": outlooks.runs_out(outlook),
        "chart": outlooks.chart(outlook),
        "table": outlooks.table(outlook),
        "basis": outlooks.BASIS[outlook.forecast.basis] if outlook.forecast else "",
        "closed": display.moment(budget.closed_at, "second") if budget.closed_at else "",
        "subject": status.subject if budget.scope_key == EACH else "",
        "tabs": [(f"?tab={name}", words, name == tab) for name, words in TABS.items()],
        "calls": calls,
        "part": f"console/budget_{tab}.html",
        tab: _part(tab, budget, Audience(is_tenants=is_bound)),
        "refused_calls": f"{calls}&status=refused",
        "given": allowance_pages.table(budget, now=now),
        "policy": [
            (changes.FIELDS[name], changes.value(name, getattr(budget, name)))
            for name in (*policy.COLUMNS, "carry_over")
        ],
    }


def _cards(budget: Budget, outlook: Outlook, raised_until: datetime | None) -> list[Card]:
    status = outlook.status
    used = status.settled_nanos * 100 / status.limit_nanos
    tone = {"stopped": "danger", "degraded": "warning", "warned": "warning"}.get(status.state, "")
    ends = display.moment(status.ends_at, "day") if status.ends_at else "by an operator"
    caps = f"hard cap {changes.value('hard_cap', budget.hard_cap)}"
    if budget.soft_cap is not None:
        caps = f"soft cap {changes.value('soft_cap', budget.soft_cap)}, {caps}"
    until = format_html("until {}", display.moment(raised_until, "day")) if raised_until else "in this window"
    more = [
        (status.carried_nanos, "left of the last window"),
        (status.extra_nanos, until),
    ]
    base_nanos = status.limit_nanos - sum(nanos for nanos, _ in more)
    added = ((display.dollars(nanos), words) for nanos, words in more if nanos)
    given = format_html("{}{}", display.dollars(base_nanos), format_html_join("", " + {} {}", added))
    return [
        Card("Limit", display.dollars(status.limit_nanos), caps if status.limit_nanos == base_nanos else given, "flag"),
        Card("Spent", display.dollars(status.settled_nanos), f"{used:.0f}% of the limit", "payments", tone),
        Card("Reserved", display.dollars(status.reserved_nanos), "for calls that are running", "hourglass_top"),
        Card("Remaining", display.dollars(status.remaining_nanos), "under the hard cap", "savings", tone),
        Card("Resets", outlooks.in_words(status.ends_at, outlook.now), ends, "restart_alt"),
        Card("Runs out", *_runs_out_card(outlook), "event_upcoming", tone),
    ]


def _runs_out_card(outlook: Outlook) -> tuple[str, SafeString | str]:
    found = outlook.forecast
    if outlook.status.settled_nanos >= outlook.cap_nanos:
        return "Used up", "no call goes through"
    if found is None:
        return "Not known", "nothing was spent yet"
    if found.runs_out_at is None:
        return "Lasts", "until the reset" if outlook.status.ends_at else "for weeks"
    return outlooks.in_words(found.runs_out_at, outlook.now), format_html(
        "{}{}", display.moment(found.runs_out_at, "day"), outlooks.give_or_take(found)
    )


def calls_link(budget: Budget, status: BudgetStatus, *, now: datetime) -> str:
    """The page of calls, with those of the budget's scope in its window."""
    of_whom = {"tenant": budget.tenant.slug} if budget.tenant else {}
    key = budget.scope_key
    if key == EACH:
        slug, _, rest = status.subject.partition("/")
        of_whom |= {} if budget.tenant or not slug else {"tenant": slug}
        key = status.subject if budget.tenant else rest
    if budget.scope_type not in (ScopeType.PLATFORM, ScopeType.TENANT) and key:
        of_whom |= {str(budget.scope_type): key}
    return f"{reverse('admin:calls')}?{urlencode(ranges.hours(status.starts_at, now) | of_whom)}"


def _part(tab: str, budget: Budget, audience: Audience) -> list[Any]:
    if tab == "windows":
        return _windows(budget)
    return _refusals(budget, audience) if tab == "refusals" else _changes(budget, audience)


def _windows(budget: Budget) -> list[dict[str, Any]]:
    rows = BudgetWindow.objects.filter(budget=budget).select_related("budget").order_by("-id")[:LATEST]
    # One may be closed long after its period was over.
    ends = {row.pk: min((at for at in (row.closed_at, row.ends_at) if at), default=None) for row in rows}
    return [
        {
            "id": row.pk,
            "subject": row.subject if budget.scope_key == EACH else "",
            "starts_at": display.moment(row.starts_at, "day"),
            "ends_at": display.moment(ends[row.pk], "day") if ends[row.pk] else "no end",
            "is_open": row.closed_at is None,
            "limit": budget_list.limit(budget_status.of_window(row), raised_until=None),
            "spent": display.exact(row.settled_nanos),
            "bar": display.bar(budget_status.of_window(row), soft_cap=budget.soft_cap, hard_cap=budget.hard_cap),
            "state": row.state,
        }
        for row in rows
    ]


def _refusals(budget: Budget, audience: Audience) -> list[dict[str, Any]]:
    rows = RefusedCall.objects.filter(replays.in_scope(budget), window=budget.window).select_related("tenant")
    if budget.tenant is not None:
        rows = rows.filter(tenant=budget.tenant)
    shown = (row for row in rows.order_by("-id")[: LATEST * 4] if _names(row, budget))
    return [
        {
            "id": row.pk,
            "at": display.moment(row.refused_at, "second"),
            "who": " / ".join(part for part in (row.tenant.slug, row.agent, row.user) if part),
            "model": row.model,
            "reason": row.reason.replace("_", " "),
            "would_pass": refusals.would_pass(row, audience=audience),
        }
        for row, _ in zip(shown, range(LATEST), strict=False)
    ]


def _names(row: RefusedCall, budget: Budget) -> bool:
    return any(each["budget_id"] == budget.pk for each in row.budgets)


def _changes(budget: Budget, audience: Audience) -> list[Happening]:
    """Events and acts in one list, the newest first; the thresholds that a window reached are one line."""
    events = BudgetEvent.objects.filter(budget=budget).select_related("window").order_by("-id")[:MOST_EVENTS]
    acts = AuditEntry.objects.filter(target=str(budget)[:200], action__startswith="budget.").order_by("-id")
    reached: dict[int, list[BudgetEvent]] = {}
    for row in events:
        if row.kind == BudgetEvent.Kind.THRESHOLD_BREACH:
            reached.setdefault(row.window_id, []).append(row)
    happened = chain(
        (_event(rows[0], budget, audience, rows) for rows in reached.values()),
        (_event(row, budget, audience, [row]) for row in events if row.kind != BudgetEvent.Kind.THRESHOLD_BREACH),
        # A reset is told by its event, which has its figures.
        (_act(row, audience) for row in acts[:LATEST] if row.action != "budget.reset"),
    )
    return sorted(happened, key=lambda one: one.at, reverse=True)[:LATEST]


def _event(row: BudgetEvent, budget: Budget, audience: Audience, alike: list[BudgetEvent]) -> Happening:
    who = row.window.subject if budget.scope_key == EACH else "The window"
    what = changes.of_events(alike)
    if row.kind == BudgetEvent.Kind.BUDGET_RESET:
        what += f" for {who}" if budget.scope_key == EACH else ""
        who = audience.actor(row.actor) or who
    figures = f"{display.dollars(row.settled_nanos)} of {display.dollars(row.limit_nanos)} spent"
    because = " · ".join(part for part in (figures, row.reason) if part)
    return Happening(row.occurred_at, who, what, because, display.KIND_COLOURS[row.kind])


def _act(row: AuditEntry, audience: Audience) -> Happening:
    return Happening(row.occurred_at, audience.actor(row.actor), changes.of_audit(row), row.reason)
