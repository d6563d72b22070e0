"""What holds for the callers of a batch: the budgets and rate limits that govern them, and whether they may call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import cast
from uuid import UUID

from governance.ledger import clock, sql
from governance.ledger import sql_dialect as words
from governance.ledger.rows import CallerStatus
from governance.rules.calls import Caller
from governance.rules.decision import Reason
from governance.rules.scopes import BudgetRule, MatchedBudget, RateRule, governing, is_stopped, matching


class CallerRules:
    """As they were read. `matched` and `limited` are known of the callers that were read with them."""

    status: CallerStatus

    def __init__(self) -> None:
        self.matched: dict[Caller, list[MatchedBudget]] = {}
        self.limited: dict[Caller, list[tuple[RateRule, str]]] = {}

    def read(self, callers: Iterable[Caller], growing: Collection[UUID], now: datetime) -> None:
        """Read which budgets and rate limits govern the callers and whether they may call at all.

        The latter also of the callers of the reservations that are `growing`. Tells the ledger's clock the time.
        """
        callers = set(callers)
        budgets: list[BudgetRule] = []
        rates: list[RateRule] = []

        def ask() -> CallerStatus:
            status, budgets[:], rates[:] = words.answers(
                sql.caller_status(callers, now, growing), sql.budgets(callers), sql.rate_rules(callers)
            )
            return cast(CallerStatus, status)

        self._ask(ask)
        self._match(callers, budgets, rates, zones=self.status.time_zones)

    def read_status(self, growing: Collection[UUID], now: datetime) -> None:
        """Read whether the callers of reservations that are growing may call. Tells the ledger's clock the time."""
        self._ask(lambda: words.answer(sql.caller_status((), now, growing)))

    def read_more(self, callers: Collection[Caller]) -> None:
        """Read what governs callers that come to nothing new by it: no window is opened for these."""
        budgets, rates = words.answers(sql.budgets(callers), sql.rate_rules(callers))
        # The zone says when a window ends.
        self._match(callers, budgets, rates, zones={})

    def limits_of(self, callers: Iterable[Caller]) -> tuple[dict[int, RateRule], set[tuple[int, str]]]:
        """The rate limits of callers by id, and each with the subject that it meets."""
        pairs = [pair for caller in callers for pair in self.limited[caller]]
        return {rule.id: rule for rule, _ in pairs}, {(rule.id, subject) for rule, subject in pairs}

    def blocked(self, caller: Caller) -> Reason | None:
        """Why a caller may not call; None where it may."""
        status = self.status.statuses.get(caller.tenant_id)
        if is_stopped(self.status.stops, tenant_id=caller.tenant_id, agent=caller.agent):
            return Reason.EMERGENCY_STOP
        if caller.key_id in self.status.unusable_keys:
            return Reason.KEY_INVALID
        if status == "suspended":
            return Reason.TENANT_SUSPENDED
        if status != "active":
            return Reason.TENANT_PAUSED
        return Reason.AGENT_PAUSED if (caller.tenant_id, caller.agent) in self.status.paused_agents else None

    def _ask(self, ask: Callable[[], CallerStatus]) -> None:
        self.status = clock.asked(ask, lambda status: status.clock_micros)

    def _match(
        self,
        callers: Iterable[Caller],
        budgets: Sequence[BudgetRule],
        rates: Sequence[RateRule],
        *,
        zones: Mapping[int, str],
    ) -> None:
        for caller in callers:
            self.matched[caller] = governing(caller, budgets, time_zone=zones.get(caller.tenant_id, "UTC"))
            self.limited[caller] = matching(caller, rates) if rates else []
