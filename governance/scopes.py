"""Which budgets govern a call. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from governance.operations import Caller
from governance.policies import Policy
from governance.windows import WindowKind

EACH = "*"
# The most particular first: it is named first where several budgets refuse alike, and its rules come first.
SCOPES = ("task", "session", "user", "key", "agent", "tenant", "platform")


@dataclass(frozen=True, slots=True)
class Rulebook:
    """A budget as the ledger reads it."""

    id: int
    tenant_id: int | None
    scope_type: str
    scope_key: str
    window: WindowKind
    limit_nanos: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class Governed:
    """A budget that governs a call, and for which subject."""

    budget: Rulebook
    subject: str
    tenant_id: int | None
    time_zone: str = "UTC"


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
    return {scope: key for scope, key in keys.items() if key} | {"platform": ""}


def governing(caller: Caller, budgets: Iterable[Rulebook], *, time_zone: str = "UTC") -> list[Governed]:
    """Every budget that must admit the caller's calls, the most particular scope first.

    Within a scope the tenant's exact key wins over its `*`, and that over the platform's `*`; scopes never stand
    in for each other.
    """
    keys = keys_of(caller)
    best: dict[str, tuple[int, list[Governed]]] = {}
    for budget in budgets:
        key = keys.get(budget.scope_type)
        if key is None or budget.tenant_id not in (None, caller.tenant_id):
            continue
        found = _match(caller, budget, key)
        if found is None:
            continue
        rank, subject = found
        tenant_id = None if budget.scope_type == "platform" else caller.tenant_id
        governed = Governed(budget, subject, tenant_id, "UTC" if tenant_id is None else time_zone)
        known = best.get(budget.scope_type)
        if known is None or rank < known[0]:
            best[budget.scope_type] = (rank, [governed])
        elif rank == known[0]:
            known[1].append(governed)
    return [governed for scope in SCOPES if scope in best for governed in best[scope][1]]


def _match(caller: Caller, budget: Rulebook, key: str) -> tuple[int, str] | None:
    """(rank, subject) of a budget for the caller's key in its scope; None where it does not match."""
    if budget.scope_type == "platform":
        return 0, ""
    if budget.scope_type == "tenant":
        return (1 if budget.tenant_id is None else 0), caller.tenant
    if budget.tenant_id is None:
        return 2, f"{caller.tenant}/{key}"
    if budget.scope_key == EACH:
        return 1, key
    return (0, key) if budget.scope_key == key else None
