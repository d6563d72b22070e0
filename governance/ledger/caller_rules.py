"""What holds for the callers of a batch: the budgets and rate limits that govern them, and whether they may call.

A process remembers it, under the *version* of all that it is made of. Triggers of the database (migration 0021) add a
row of `RuleChange` with a random number to every transaction that changes any of it; the version is the sum of the rows
that one can see. So no commit is missed, in whatever order they come, nobody waits for anybody to count, and what is
not committed has a version that no one else sees. What is remembered was read after its version; so it may be newer
than that, which the next batch finds out, and never older. A batch asks for the version once it holds its locks: what
was committed while it waited for them holds for it.
What time alone changes is not remembered: a key's end is, not whether it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any

from governance.ledger import clock, sql_callers
from governance.ledger import sql_dialect as words
from governance.ledger.rows import CallerStatus
from governance.rules.calls import Caller
from governance.rules.decision import Reason
from governance.rules.scopes import BudgetRule, MatchedBudget, RateRule, governing, is_stopped, matching

# So many callers are remembered; with more, a process begins anew.
MOST_CALLERS = 10_000


class CallerRules:
    """As they were read under one version. What is asked of a caller must have been read."""

    def __init__(self, version: str = "") -> None:
        self.version = version
        # Whether any rate limit governs one of the callers.
        self.are_limited = False
        self.status = CallerStatus()
        self.matched: dict[Caller, list[MatchedBudget]] = {}
        self.limited: dict[Caller, list[tuple[RateRule, str]]] = {}

    def lacking(self, callers: Iterable[Caller]) -> set[Caller]:
        """Those of the callers of whom nothing was read."""
        return {caller for caller in callers if caller not in self.matched}

    def read(self, callers: Collection[Caller]) -> None:
        """Read what is lacking of callers, in a transaction that has read this version."""
        if lacking := self.lacking(callers):
            self._note(lacking, *words.answers(*_facts(lacking)))

    def limits_of(self, callers: Iterable[Caller]) -> tuple[dict[int, RateRule], set[tuple[int, str]]]:
        """The rate limits of callers by id, and each with the subject that it meets."""
        pairs = [pair for caller in callers for pair in self.limited[caller]]
        return {rule.id: rule for rule, _ in pairs}, {(rule.id, subject) for rule, subject in pairs}

    def blocked(self, caller: Caller, now: datetime) -> Reason | None:
        """Why a caller may not call; None where it may."""
        if is_stopped(self.status.stops, tenant_id=caller.tenant_id, agent=caller.agent):
            return Reason.EMERGENCY_STOP
        ends_at = self.status.key_ends.get(caller.key_id)
        if ends_at is not None and ends_at <= now:
            return Reason.KEY_INVALID
        status = self.status.of_tenants.get(caller.tenant_id)
        if status == "suspended":
            return Reason.TENANT_SUSPENDED
        if status != "active":
            return Reason.TENANT_PAUSED
        return Reason.AGENT_PAUSED if (caller.tenant_id, caller.agent) in self.status.paused_agents else None

    def _note(
        self, callers: Iterable[Caller], status: CallerStatus, budgets: list[BudgetRule], rates: list[RateRule]
    ) -> None:
        self.status.add(status)
        self.are_limited = self.are_limited or bool(rates)
        for caller in callers:
            zone = status.time_zones.get(caller.tenant_id, "UTC")
            self.limited[caller] = matching(caller, rates) if rates else []
            # Last: other threads take a caller that is in here for one of whom all is known.
            self.matched[caller] = governing(caller, budgets, time_zone=zone)


class Remembered:
    """The rules of the latest version, for the batches of a process; or of one batch, which begins with none."""

    def __init__(self) -> None:
        self.rules = CallerRules()

    def at(self, version: str) -> CallerRules:
        """Those of a version, which the transaction has just read."""
        if version != self.rules.version:
            self.rules = CallerRules(version)
        return self.rules

    def read(self, callers: Collection[Caller]) -> CallerRules:
        """Those of the version that holds, with all of these callers. Tells the ledger's clock the time."""
        lacking = self.rules.lacking(callers)
        if len(self.rules.matched) + len(lacking) > MOST_CALLERS:
            self.rules, lacking = CallerRules(), set(callers)
        version, *facts = told(lambda: words.answers(sql_callers.version(), *_facts(lacking)))
        rules = self.at(version.number)
        if lacking:
            rules._note(lacking, *facts)
        rules.read(callers)
        return rules


def told(ask: Callable[[], list[Any]]) -> list[Any]:
    """What `ask` answers; the version among that tells the ledger's clock the time."""
    return clock.asked(ask, _clock_of)


def _clock_of(answers: list[Any]) -> int | None:
    [micros] = [answer.clock_micros for answer in answers if isinstance(answer, sql_callers.Version)]
    return micros


def _facts(callers: Collection[Caller]) -> list[words.Select[Any]]:
    return (
        [sql_callers.caller_status(callers), sql_callers.budgets(callers), sql_callers.rate_rules(callers)]
        if callers
        else []
    )


# What this process remembers: for transactions that see what is committed, and nothing of their own.
SHARED = Remembered()
