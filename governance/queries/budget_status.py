"""Where budgets stand now: reads of their open windows, with nothing locked or opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from zoneinfo import ZoneInfo

from django.db.models import F, FloatField, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Cast

from governance.models import Allowance, Budget, BudgetWindow, ScopeType
from governance.models.budgets import EACH
from governance.queries.spend import EVERYTHING, Reader
from governance.queries.sums import LongSum
from governance.rules import money
from governance.rules.windows import ENDING_BY_ACT, WindowKind, span_at

# Of a budget that is disabled, whatever its window's state.
OFF = "off"
# The worst first.
STATES = ("stopped", "degraded", "warned", "active", OFF)


@dataclass(frozen=True, slots=True)
class Standing:
    """What budgets are sorted by: `share` of the limit that is spent or reserved, for show alone."""

    budget_id: int
    state: str
    share: float
    limit_nanos: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """The figures of a budget's current window. Amounts in nanodollars.

    Of a budget for "each one separately" it is the fullest subject's window; `subject` names it.
    """

    subject: str
    starts_at: datetime
    ends_at: datetime | None
    limit_nanos: int
    hard_e4: int
    settled_nanos: int
    reserved_nanos: int
    state: str
    window_id: int | None = None
    # The part of the limit that comes from allowances.
    extra_nanos: int = 0
    # The part of it that was left of the window before.
    carried_nanos: int = 0

    @property
    def cap_nanos(self) -> int:
        """Where the money is used up: the hard cap."""
        return money.share_nanos(self.limit_nanos, self.hard_e4)

    @property
    def remaining_nanos(self) -> int:
        """What can still be spent under the hard cap."""
        committed_nanos = self.settled_nanos + self.reserved_nanos
        return money.remaining_nanos(
            limit_nanos=self.limit_nanos, hard_e4=self.hard_e4, committed_nanos=committed_nanos
        )

    @property
    def utilization(self) -> Decimal:
        """Settled share of the limit, four decimals."""
        return (Decimal(self.settled_nanos) / self.limit_nanos).quantize(Decimal("0.0001"))

    @property
    def committed_share(self) -> float:
        """Settled and held share of the limit, to sort and draw by."""
        return (self.settled_nanos + self.reserved_nanos) / self.limit_nanos


@dataclass(frozen=True, slots=True)
class Raise:
    """What the dated raises of a budget come to, and when the first of them ends."""

    nanos: int
    until: datetime

    def on(self, status: BudgetStatus) -> BudgetStatus:
        """A window that is not open yet with what it will have once it is; an open one has it."""
        if status.window_id is not None:
            return status
        return replace(status, limit_nanos=status.limit_nanos + self.nanos, extra_nanos=self.nanos)


def readable_budgets(reader: Reader) -> QuerySet[Budget]:
    """The budgets a reader may see: an agent those that name it, a tenant those that govern it."""
    rows = Budget.objects.select_related("tenant").order_by("-id")
    if reader.tenant is None:
        return rows
    if reader.agent:
        own = Q(scope_type=ScopeType.AGENT, scope_key__in=[reader.agent, EACH])
        if reader.key_prefix:
            own |= Q(scope_type=ScopeType.KEY, scope_key__in=[reader.key_prefix, EACH])
        return rows.filter(own, Q(tenant=reader.tenant) | Q(tenant__isnull=True))
    return rows.filter(Q(tenant=reader.tenant) | Q(tenant__isnull=True, scope_key=EACH))


def readable_windows(reader: Reader) -> QuerySet[BudgetWindow]:
    """The windows whose figures a reader may see: never another tenant's, nor another agent's."""
    rows = BudgetWindow.objects.order_by("-id")
    if reader.tenant is None:
        return rows
    rows = rows.filter(tenant=reader.tenant)
    if not reader.agent:
        return rows
    names = [name for name in (reader.agent, reader.key_prefix) if name]
    subjects = names + [f"{reader.tenant.slug}/{name}" for name in names]
    return rows.filter(subject__in=subjects, budget__in=readable_budgets(reader).order_by())


def current(budgets: Iterable[Budget], *, now: datetime, reader: Reader = EVERYTHING) -> dict[int, BudgetStatus]:
    """Each budget's current window by budget id, in one query; one that no call has opened yet stands at zero."""
    budgets = list(budgets)
    rows = Budget.objects.filter(pk__in=[budget.pk for budget in budgets])
    windows = _fullest_of_each(rows, now=now, reader=reader).select_related("budget")
    found = {window.budget_id: window for window in windows}
    return {
        budget.pk: of_window(found[budget.pk]) if budget.pk in found else unopened(budget, now=now)
        for budget in budgets
    }


def standings(budgets: QuerySet[Budget], *, now: datetime) -> list[Standing]:
    """How all of these budgets stand, the worst first, in two queries however many they are."""
    windows = {
        row[0]: row[1:]
        for row in _fullest_of_each(budgets, now=now)
        .order_by()
        .values_list("budget_id", "state", "settled_nanos", "reserved_nanos", "limit_nanos", "ends_at")
    }
    rows = budgets.order_by().values_list("pk", "enabled", "limit_nanos", "window", "tenant__time_zone")
    # Many budgets have the same kind of window in the same zone.
    end = cache(lambda kind, zone: span_at(WindowKind(kind), now, ZoneInfo(zone or "UTC")).ends_at)
    unopened = (BudgetWindow.State.ACTIVE, 0, 0)
    found = []
    for pk, enabled, limit_nanos, kind, zone in rows:
        state, settled, reserved, limit, ends_at = windows.get(pk) or (*unopened, limit_nanos, end(kind, zone))
        found.append(Standing(pk, state if enabled else OFF, (settled + reserved) / limit, limit, ends_at))
    return sorted(found, key=lambda one: (STATES.index(one.state), -one.share, one.budget_id))


def counts(budgets: QuerySet[Budget], *, now: datetime) -> dict[str, int]:
    """How many of these budgets are in each of STATES, as `standings` has them, in one query."""
    nearest = _nearest(live(BudgetWindow.objects.all(), now=now)).values("state")[:1]
    # Grouped in the database each window would be looked for twice.
    rows = budgets.order_by().annotate(standing=Subquery(nearest)).values_list("enabled", "standing")
    found = dict.fromkeys(STATES, 0)
    for enabled, state in rows:
        found[(state or BudgetWindow.State.ACTIVE) if enabled else OFF] += 1
    return found


def raises(budgets: Sequence[Budget], *, now: datetime) -> dict[int, Raise]:
    """The dated raises that run now, by budget id."""
    rows = Allowance.objects.filter(budget__in=budgets, window=None, starts_at__lte=now, ends_at__gt=now).order_by()
    found = rows.values_list("budget_id").annotate(nanos=LongSum("amount_nanos"), until=Min("ends_at"))
    return {budget_id: Raise(nanos or 0, until) for budget_id, nanos, until in found}


def _fullest_of_each(
    budgets: QuerySet[Budget], *, now: datetime, reader: Reader = EVERYTHING
) -> QuerySet[BudgetWindow]:
    """Of each budget the live window nearest its limit, where it has one."""
    nearest = _nearest(live(readable_windows(reader), now=now)).values("pk")[:1]
    return BudgetWindow.objects.filter(pk__in=budgets.order_by().values(found=Subquery(nearest)))


def _nearest(windows: QuerySet[BudgetWindow]) -> QuerySet[BudgetWindow]:
    """Of the outer query's budget, the one nearest its limit first."""
    share = Cast(F("settled_nanos") + F("reserved_nanos"), FloatField()) / F("limit_nanos")
    return windows.filter(budget=OuterRef("pk")).annotate(share=share).order_by("-share", "-id")


def fullest(
    *, reader: Reader = EVERYTHING, now: datetime, limit: int, where: Q | None = None
) -> list[tuple[BudgetWindow, BudgetStatus]]:
    """The open windows nearest their cap, with their budgets and tenants; `where`: of some windows alone."""
    rows = (
        live(readable_windows(reader).filter(where or Q(), budget__enabled=True), now=now)
        .annotate(share=Cast(F("settled_nanos") + F("reserved_nanos"), FloatField()) / F("limit_nanos"))
        .select_related("budget__tenant", "tenant")
        .order_by("-share", "-id")[:limit]
    )
    return [(row, of_window(row)) for row in rows]


def of_window(window: BudgetWindow) -> BudgetStatus:
    return BudgetStatus(
        subject=window.subject,
        starts_at=window.starts_at,
        ends_at=window.ends_at,
        limit_nanos=window.limit_nanos,
        hard_e4=window.budget.hard_e4,
        settled_nanos=window.settled_nanos,
        reserved_nanos=window.reserved_nanos,
        state=window.state,
        window_id=window.pk,
        extra_nanos=window.extra_nanos,
        carried_nanos=window.carried_nanos,
    )


def unopened(budget: Budget, *, now: datetime) -> BudgetStatus:
    """The window the next call would open."""
    zone = budget.tenant.zone if budget.tenant else ZoneInfo("UTC")
    span = span_at(WindowKind(budget.window), now, zone)
    return BudgetStatus(
        subject="",
        starts_at=span.starts_at,
        ends_at=span.ends_at,
        limit_nanos=budget.limit_nanos,
        hard_e4=budget.hard_e4,
        settled_nanos=0,
        reserved_nanos=0,
        state=BudgetWindow.State.ACTIVE,
    )


def of_subject(budget: Budget, subject: str, *, now: datetime) -> BudgetStatus:
    """The current window of one subject, or that which its next call would open."""
    found = live(BudgetWindow.objects.filter(budget=budget, subject=subject), now=now).select_related("budget").first()
    if found is not None:
        return of_window(found)
    status, given = unopened(budget, now=now), raises([budget], now=now)
    return given[budget.pk].on(status) if given else status


def subjects(budget: Budget, *, now: datetime) -> QuerySet[BudgetWindow, str]:
    """Whom a budget for each one has a window for now."""
    windows = live(BudgetWindow.objects.filter(budget=budget), now=now)
    return windows.order_by("subject").values_list("subject", flat=True)


def live(rows: QuerySet[BudgetWindow], *, now: datetime) -> QuerySet[BudgetWindow]:
    """Open windows that time has not ended."""
    lasting = Q(ends_at__isnull=True) | Q(ends_at__gt=now) | Q(budget__window__in=ENDING_BY_ACT)
    return rows.filter(lasting, closed_at__isnull=True)
