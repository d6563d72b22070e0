"""What a caller is told of the budgets that govern it: the one place that decides it. Pure.

A tenant's key is shown the amounts of budgets of the tenant's own scopes, and those only where the tenant shows amounts
at all. A wider budget is what all tenants share: of that one it learns that there is a limit, which period it is for
and when that ends, and nothing that the others' spend could be reckoned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from governance.rules.decision import State, WindowView, tightest
from governance.rules.scopes import PLATFORM

# Parts of the product that act by themselves, by the names under which they do.
PARTS = ("stripe", "settings", "anomalies")


def named(scope: str, kind: str, *, is_own: bool) -> str:
    """A budget as a sentence names it: "tenant:acme per day", "a limit of the platform per day"."""
    return f"{scope if is_own else 'a limit of the platform'} per {kind.replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class ShownWindow:
    """A window as somebody may be told of it; what is None is not for them. `is_own`: of no wider scope than theirs."""

    scope: str
    kind: str
    ends_at: datetime | None
    is_own: bool = False
    budget_id: int | None = None
    state: State | None = None
    starts_at: datetime | None = None
    limit_nanos: int | None = None
    settled_nanos: int | None = None
    reserved_nanos: int | None = None
    remaining_nanos: int | None = None
    # As it was last forecast; None too where it lasts, and where nobody knows.
    runs_out_at: datetime | None = None

    @property
    def name(self) -> str:
        return named(self.scope, self.kind, is_own=self.is_own)

    @property
    def utilization(self) -> float | None:
        """For show only: the settled share of the limit, four decimals."""
        if self.limit_nanos is None or self.settled_nanos is None:
            return None
        return round(self.settled_nanos / self.limit_nanos, 4)


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom something is told: operators and viewers, or whoever holds one tenant's key, an agent's or its own."""

    is_tenants: bool = False
    show_amounts: bool = True

    def is_own(self, scope: str) -> bool:
        """Whether a scope, as people name it ("platform", "tenant:acme"), is no wider than the audience's own."""
        return not self.is_tenants or scope != PLATFORM

    def sees_amounts(self, scope: str) -> bool:
        return self.is_own(scope) and (self.show_amounts or not self.is_tenants)

    def named(self, scope: str, kind: str) -> str:
        """A budget of a scope and kind of window, as a sentence names it."""
        return named(scope, kind, is_own=self.is_own(scope))

    def actor(self, name: str) -> str:
        """Who acted, as it is told: of people a tenant learns that it was one, and not by which name they sign in."""
        return name if not self.is_tenants or name in ("", *PARTS) else "an operator"

    def window(self, view: WindowView, runs_out_at: datetime | None = None) -> ShownWindow:
        """A window as it is shown; every call that is answered comes through here."""
        if not self.is_own(view.scope):
            return ShownWindow(view.scope, view.kind, view.ends_at)
        own = (view.scope, view.kind, view.ends_at, True, view.budget_id, view.state, view.starts_at)
        if not self.sees_amounts(view.scope):
            return ShownWindow(*own, runs_out_at=runs_out_at)
        amounts = (view.limit_nanos, view.settled_nanos, view.reserved_nanos, view.remaining_nanos)
        return ShownWindow(*own, *amounts, runs_out_at)

    def tightest(self, views: Sequence[WindowView]) -> WindowView | None:
        """The window to show: the tightest of its own, for which one is tighter says how full a wider one is."""
        return tightest([view for view in views if self.is_own(view.scope)]) or tightest(views)


# Operators and viewers.
STAFF = Audience()
