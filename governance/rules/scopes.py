"""Which budgets and rate limits govern a call. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from governance.rules.buckets import Ceilings
from governance.rules.calls import Caller
from governance.rules.names import EACH, OF_A_CALL
from governance.rules.policy import Policy
from governance.rules.windows import WindowKind

# The scope that all tenants share.
PLATFORM = "platform"
# The most particular first: it is named first where several budgets refuse alike, and its rules come first.
SCOPES = ("task", "session", "user", "key", "agent", "tenant", PLATFORM)


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget as the ledger reads it."""

    id: int
    tenant_id: int | None
    scope_type: str
    scope_key: str
    window: WindowKind
    limit_nanos: int
    policy: Policy
    # How many acts its windows follow one after another.
    revision: int = 0
    # Of a goal that has ended.
    is_closed: bool = False
    # See `rules.carry_over`.
    carry_over: str | None = None


@dataclass(frozen=True, slots=True)
class RateRule:
    """A rate limit as the ledger reads it."""

    id: int
    tenant_id: int | None
    scope_type: str
    scope_key: str
    ceilings: Ceilings


class Scoped(Protocol):
    """Anything that names the scope it is for."""

    @property
    def tenant_id(self) -> int | None: ...
    @property
    def scope_type(self) -> str: ...
    @property
    def scope_key(self) -> str: ...


S = TypeVar("S", bound=Scoped)


@dataclass(frozen=True, slots=True)
class MatchedBudget:
    """A budget that governs a call, and for which subject."""

    budget: BudgetRule
    subject: str
    tenant_id: int | None
    time_zone: str = "UTC"


def is_named_by_calls(rule: Scoped) -> bool:
    """Whether the subjects of a rule are whoever calls name: then there are as many as callers think of."""
    return rule.scope_key == EACH and rule.scope_type in OF_A_CALL


# Whom an emergency stop is for: (tenant id, agent); all of a tenant is (id, ""), everybody (0, "").
StopTarget = tuple[int, str]


def is_stopped(stops: Collection[StopTarget], *, tenant_id: int, agent: str) -> bool:
    """Whether one of the stops covers an agent of a tenant."""
    return any(target in stops for target in ((0, ""), (tenant_id, ""), (tenant_id, agent)))


def keys_of(caller: Caller) -> dict[str, str]:
    """The caller's key in each scope it has one in."""
    keys = {
        "task": caller.task,
        "session": caller.session,
        "user": caller.user,
        "key": caller.key_prefix,
        "agent": caller.agent,
        "tenant": caller.tenant,
    }
    return {scope: key for scope, key in keys.items() if key} | {PLATFORM: ""}


def governing(caller: Caller, budgets: Iterable[BudgetRule], *, time_zone: str = "UTC") -> list[MatchedBudget]:
    """Every budget that must admit the caller's calls, the most particular scope first."""
    return [
        MatchedBudget(budget, subject, None, "UTC")
        if budget.scope_type == PLATFORM
        else MatchedBudget(budget, subject, caller.tenant_id, time_zone)
        for budget, subject in matching(caller, budgets)
    ]


def matching(caller: Caller, rules: Iterable[S]) -> list[tuple[S, str]]:
    """The rules that apply to a caller, each with its subject, the most particular scope first.

    Within a scope the tenant's exact key wins over its `*`, and that over the platform's `*`; scopes never stand
    in for each other.
    """
    keys = keys_of(caller)
    best: dict[str, tuple[int, list[tuple[S, str]]]] = {}
    for rule in rules:
        key = keys.get(rule.scope_type)
        if key is None or rule.tenant_id not in (None, caller.tenant_id):
            continue
        found = _match(caller, rule, key)
        if found is None:
            continue
        rank, subject = found
        known = best.get(rule.scope_type)
        if known is None or rank < known[0]:
            best[rule.scope_type] = (rank, [(rule, subject)])
        elif rank == known[0]:
            known[1].append((rule, subject))
    return [pair for scope in SCOPES if scope in best for pair in best[scope][1]]


def _match(caller: Caller, rule: Scoped, key: str) -> tuple[int, str] | None:
    """(rank, subject) of a rule for the caller's key in its scope; None where it does not match."""
    if rule.scope_type == PLATFORM:
        return 0, ""
    if rule.scope_type == "tenant":
        return (1 if rule.tenant_id is None else 0), caller.tenant
    if rule.tenant_id is None:
        return 2, f"{caller.tenant}/{key}"
    if rule.scope_key == EACH:
        return 1, key
    return (0, key) if rule.scope_key == key else None
