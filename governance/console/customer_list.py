"""The list of customers: the worst first, by state, with what each spent this month and what it pays for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.views import ChangeList as UnfoldChangeList

from governance import ports
from governance.console import display, ranges
from governance.console.state_list import StateList
from governance.models import Tenant
from governance.ports import CustomerPlan
from governance.queries import customers
from governance.queries.customers import STATES, CallerStanding
from governance.rules.spend_sums import share_e4

# An hour that begins now is of the month so far too.
MOMENT = timedelta(microseconds=1)
# What pays, in the words of whoever reads it.
NO_PLAN = CustomerPlan("", "none")
ORDERS: dict[str, Callable[[CallerStanding], Any]] = {
    "worst": lambda one: one.rank,
    "spent": lambda one: (-one.spent_nanos, one.pk),
    "used": lambda one: (-(one.share or 0.0), one.pk),
    "newest": lambda one: -one.pk,
}


def month_of(now: datetime) -> datetime:
    """When the month began that lists add up: one for all customers, of UTC."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_link(now: datetime, **of_whom: str) -> str:
    """The page of spend with the hours of that month, so that it says what the list says."""
    return f"{reverse('admin:spend')}?{urlencode(ranges.hours(month_of(now), now + MOMENT) | of_whom)}"


@dataclass(frozen=True, slots=True)
class CustomerRow:
    tenant: Tenant
    standing: CallerStanding
    plan: CustomerPlan
    all_nanos: int
    spent_link: str

    @property
    def spent(self) -> SafeString | str:
        return display.exact(self.standing.spent_nanos)

    @property
    def spent_share(self) -> str:
        """Of what all customers spent this month, for the bar."""
        return f"{(share_e4(self.standing.spent_nanos, self.all_nanos) or 0) / 100:.2f}"

    @property
    def agents_link(self) -> str:
        return f"{reverse('admin:governance_agent_changelist')}?{urlencode({'q': self.tenant.slug})}"

    @property
    def note(self) -> str:
        """What a glance should not miss beside the state: "1 agent stopped, 2 warned"."""
        words = [f"{count} {state}" for state, count in self.standing.troubles]
        if not words:
            return ""
        count = self.standing.troubles[0][1]
        first = f"{count} agent{'s' if count > 1 else ''} {self.standing.troubles[0][0]}"
        return ", ".join([first, *words[1:]])

    @property
    def used(self) -> str:
        return "no budget of its own" if self.standing.share is None else f"{self.standing.share * 100:.0f}% used"


class TenantList(StateList):
    """Tabs, order and pages are made of how customers stand."""

    states, always_shown, orders = STATES, ("stopped", "active"), ORDERS

    def standings(self, now: datetime) -> Sequence[CallerStanding]:
        found = customers.of_tenants(self.queryset, since=month_of(now), now=now)
        self.all_nanos = sum(max(0, one.spent_nanos) for one in found)
        return found

    def rows_of(self, standings: Sequence[CallerStanding], now: datetime) -> list[CustomerRow]:
        tenants = Tenant.objects.in_bulk([one.pk for one in standings])
        plans = ports.plans_of(list(tenants))
        return [
            CustomerRow(
                tenants[one.pk],
                one,
                plans.get(one.pk, NO_PLAN),
                self.all_nanos,
                month_link(now, tenant=tenants[one.pk].slug),
            )
            for one in standings
            if one.pk in tenants
        ]

    def row_of(self, shown: CustomerRow) -> Tenant:
        return shown.tenant


class AgentList(UnfoldChangeList):
    """Django's list, whose rows know how they stand."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = timezone.now()
        rows: list[Any] = list(self.result_list)
        standings = customers.of_agents(rows, since=month_of(now), now=now)
        for row in rows:
            row.standing = standings[row.pk]
            row.spent = display.exact(row.standing.spent_nanos)
            row.since = display.moment(row.created_at)
            row.spent_link = month_link(now, tenant=row.tenant.slug, agent=row.slug)
        self.result_list: Any = rows
