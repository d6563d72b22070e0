"""What happened to a customer or an agent, in one list: acts of people, events of its budgets, and what Stripe said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import Max, Q, QuerySet
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance import ports
from governance.console import changes, display
from governance.models import Agent, ApiKey, AuditEntry, BudgetEvent, ScopeType, Tenant
from governance.models.tenancy import Role
from governance.rules.visibility import Audience

LATEST = 20
# So many of the newest acts are looked through: they have no index by whom they are about.
NEWEST_ACTS = 20_000
MOST_KEYS, MOST_EVENTS = 200, 40
# Scopes of the platform's own budgets begin with these words, and a customer may be called so.
WORDS_OF_SCOPES = ("platform", "each")
ACTS = {
    "tenant.create": "made it a customer",
    "tenant.change": "changed",
    "tenant.pause": "paused it",
    "tenant.resume": "resumed it",
    "tenant.suspend": "suspended it",
    "tenant.unsuspend": "lifted its suspension",
    "agent.create": "made it",
    "agent.pause": "paused it",
    "agent.resume": "resumed it",
    "stop.start": "stopped it",
    "stop.lift": "lifted the stop",
    "key.adopt": "took over a key",
    "key.issue": "issued a key",
    "key.revoke": "revoked a key",
    "key.rotate": "rotated a key",
    "key.try": "sent a test call with a key",
    "page_link.make": "made a link to its read-only page",
    "page_link.end": "took back a link to its read-only page",
    "page_link.end_all": "took back all links to its read-only page",
    "budget.take_over": "took it over",
}
TONES = {
    "stop.start": "danger",
    "tenant.suspend": "danger",
    "tenant.pause": "warning",
    "agent.pause": "warning",
    "key.revoke": "warning",
    "stop.lift": "success",
    "tenant.resume": "success",
    "agent.resume": "success",
    "tenant.unsuspend": "success",
}


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """`what` names what it is about, where that is not the page's own; `link` leads to it."""

    at: datetime
    who: str
    words: SafeString | str
    what: str = ""
    link: str = ""
    because: str = ""
    tone: str = ""

    @property
    def when(self) -> SafeString | str:
        return display.moment(self.at)


def of_tenant(tenant: Tenant, audience: Audience, *, with_stripe: bool) -> list[HistoryLine]:
    """The newest first, ours and Stripe's."""
    whole = f"tenant {tenant.slug}"
    keys = ApiKey.objects.filter(tenant=tenant).order_by("-id").values_list("prefix", flat=True)[:MOST_KEYS]
    about = Q(target=whole) | Q(target__startswith=f"agent {tenant.slug}/")
    about |= Q(target__in=[f"key {prefix}" for prefix in keys])
    if tenant.slug not in WORDS_OF_SCOPES:
        about |= Q(target__startswith=f"{tenant.slug} ", action__startswith="budget.")
    events = BudgetEvent.objects.filter(tenant=tenant)
    lines = [*_acts(about, whole, audience), *_events(events, audience)]
    if with_stripe:
        lines += _stripes(tenant)
    return _newest(lines)


def of_agent(agent: Agent, audience: Audience) -> list[HistoryLine]:
    whole = f"agent {agent}"
    keys = ApiKey.objects.filter(agent=agent).order_by("-id").values_list("prefix", flat=True)[:MOST_KEYS]
    about = Q(target=whole) | Q(target__in=[f"key {prefix}" for prefix in keys])
    named = Q(window__subject__in=[agent.slug, str(agent)], budget__scope_type=ScopeType.AGENT)
    events = BudgetEvent.objects.filter(named, tenant=agent.tenant_id)
    return _newest([*_acts(about, whole, audience), *_events(events, audience)])


def of_key(key: ApiKey, audience: Audience) -> list[HistoryLine]:
    whole = f"key {key.prefix}"
    return _newest(_acts(Q(target=whole), whole, audience))


def _newest(lines: Iterable[HistoryLine]) -> list[HistoryLine]:
    """What happened again and again is one line, at its last time."""
    alike: dict[tuple[str, str, str], list[HistoryLine]] = {}
    for line in sorted(lines, key=lambda line: line.at, reverse=True):
        alike.setdefault((line.who, line.what, str(line.words)), []).append(line)
    return [_together(group) for group in alike.values()][:LATEST]


def _together(group: list[HistoryLine]) -> HistoryLine:
    if len(group) == 1:
        return group[0]
    times = f"{len(group)} times since {group[-1].at:%b} {group[-1].at.day}"
    return replace(group[0], because=" · ".join(part for part in (group[0].because, times) if part))


def _acts(about: Q, whole: str, audience: Audience) -> Iterator[HistoryLine]:
    last = AuditEntry.objects.aggregate(last=Max("id"))["last"] or 0
    rows = AuditEntry.objects.filter(about, id__gt=last - NEWEST_ACTS).order_by("-id")[:LATEST]
    for row in rows:
        # A reset is told by its event, which has its figures.
        if row.action != "budget.reset":
            what = "" if row.target == whole else row.target
            yield HistoryLine(
                row.occurred_at,
                audience.actor(row.actor),
                words_of(row),
                what,
                because=row.reason,
                tone=TONES.get(row.action, ""),
            )


def words_of(row: AuditEntry) -> SafeString | str:
    """What was done: "paused it", "changed name Acme → Acme Ltd", "raised the limit by $5.00"."""
    if row.action.startswith("budget.") and row.action not in ACTS:
        return changes.of_audit(row)
    words = ACTS.get(row.action, row.action.partition(".")[2].replace("_", " "))
    if row.action == "tenant.change":
        return format_html("{} {}", words, changes.differences(row.old or {}, row.new or {}))
    if row.action == "key.issue" and (role := (row.new or {}).get("role")):
        return f"{words} of the role {role}" if role in Role.values else words
    if row.action == "key.rotate":
        return format_html("{}: {}… took its place", words, (row.new or {}).get("replaced_by", ""))
    return words


def _events(rows: QuerySet[BudgetEvent], audience: Audience) -> Iterator[HistoryLine]:
    """What budgets did; thresholds that a window reached are one line."""
    alike: dict[tuple[int, str], list[BudgetEvent]] = {}
    latest = rows.select_related("budget__tenant", "window").order_by("-id")[:MOST_EVENTS]
    for row in latest:
        kind = row.kind if row.kind == BudgetEvent.Kind.THRESHOLD_BREACH else f"{row.kind} {row.pk}"
        alike.setdefault((row.window_id, kind), []).append(row)
    for group in alike.values():
        yield _event(group, audience)


def _event(rows: list[BudgetEvent], audience: Audience) -> HistoryLine:
    row = rows[0]
    figures = ""
    if audience.sees_amounts(row.budget.scope):
        figures = f"{display.dollars(row.settled_nanos)} of {display.dollars(row.limit_nanos)} spent"
    is_own = row.budget.tenant is not None or not audience.is_tenants
    return HistoryLine(
        row.occurred_at,
        audience.actor(row.actor) if row.kind == BudgetEvent.Kind.BUDGET_RESET else "",
        changes.of_events(rows),
        str(row.budget),
        reverse("admin:governance_budget_change", args=[row.budget_id]) if is_own else "",
        " · ".join(part for part in (figures, row.reason) if part),
        display.KIND_COLOURS[row.kind],
    )


def _stripes(tenant: Tenant) -> Iterator[HistoryLine]:
    for event in ports.billed_events(tenant=tenant.pk, most=LATEST):
        yield HistoryLine(event.at, "Stripe", event.words, "", event.link, event.note, event.tone or "info")
