"""What the operations of a batch are about: of whom rules are read, and what is locked for them. Reads nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from governance.ledger.operations import (
    ChangeLimit,
    Expire,
    Extend,
    Follow,
    OpenPeriod,
    Operation,
    Record,
    Release,
    Reserve,
    Reset,
    ReviewAllowances,
    Settle,
)
from governance.rules.calls import Caller


def are_calls(operations: Sequence[Operation]) -> bool:
    """Whether all that they need can be told from what they say and the rules: calls wait for no turn."""
    return all(
        isinstance(op, Release | Extend | Expire)
        or (isinstance(op, Reserve) and not op.is_unpriced)
        or (isinstance(op, Settle) and op.trust is None)
        for op in operations
    )


def governed(operations: Sequence[Operation]) -> set[Caller]:
    """The callers whose budgets decide: of calls, and of reports that do not say what they are charged to."""
    return {
        op.caller for op in operations if isinstance(op, Reserve) or (isinstance(op, Record) and op.windows is None)
    }


def reservations(operations: Sequence[Operation]) -> set[UUID]:
    """Those that they resolve or extend."""
    return {op.reservation_id for op in operations if isinstance(op, Settle | Release | Extend | Expire)}


def acted_on(operations: Sequence[Operation]) -> set[int]:
    """The budgets whose windows acts change."""
    return {
        op.budget_id
        for op in operations
        if isinstance(op, Reset | OpenPeriod | ChangeLimit | ReviewAllowances | Follow)
    }


def acted_on_whole(operations: Sequence[Operation], *, crowded: Collection[int]) -> set[int]:
    """Budgets of which an act changes every window, and has not so many that these follow it."""
    return {
        op.budget_id
        for op in operations
        if isinstance(op, OpenPeriod)
        or (
            (isinstance(op, ChangeLimit) or (isinstance(op, Reset | ReviewAllowances) and op.subject is None))
            and op.budget_id not in crowded
        )
    }


def subjects(operations: Sequence[Operation]) -> set[tuple[int, str]]:
    """Whose windows an act names, each with its budget."""
    return {
        (op.budget_id, op.subject)
        for op in operations
        if isinstance(op, Reset | ReviewAllowances) and op.subject is not None
    }


def reporting_tenants(operations: Sequence[Operation]) -> set[int]:
    """Tenants whose keys say what was spent, or name a model, which they do one after another."""
    return {
        op.trust.tenant_id
        for op in operations
        if (isinstance(op, Settle | Record) or (isinstance(op, Reserve) and op.is_unpriced)) and op.trust
    }
