"""Acts on budgets: create, change, delete, and the platform's default. Each leaves an audit row.

A change takes hold at once: open windows get the new limit, and their states follow, in the same transaction. Of very
many windows each does so when it is called for, and all within minutes: see `governance.ledger.acts`. When a tenant's
last own budget goes, what its customer pays for stands in its place in that transaction: no moment is without a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from django.conf import settings
from django.db import transaction

from governance import audit, ledger, ports
from governance.actions.scoped_rules import ScopedRules, stored_scope
from governance.audit import Actor
from governance.ledger.operations import ChangeLimit, Reset
from governance.ledger.results import ResetResult
from governance.models import AuditEntry, Budget, BudgetWindow, ScopeType, Tenant
from governance.models.budgets import EACH
from governance.queries import budget_status
from governance.rules import carry_over, money, names, policy
from governance.rules.errors import Conflict, FieldError
from governance.rules.windows import WindowKind

# Of a paid period the payment says what it has, and of a lifetime there is one.
OTHERS = "a billing cycle has what was paid for it, a lifetime has no next"
IDENTITY = ("tenant", "scope_type", "scope_key", "window")


def validate(budget: Budget) -> None:
    """Raise FieldError for the first thing that no budget can be; its policy is parsed where it is."""
    if budget.window not in set(WindowKind):
        raise FieldError("window", f"must be one of {', '.join(WindowKind)}")
    if budget.limit_nanos <= 0:
        raise FieldError("limit", "must be more than 0 dollars")
    money.refuse_beyond("limit", budget.limit_nanos, most=money.MAX_LIMIT_NANOS)
    budget.carry_over = carry_over.parse(budget.carry_over)
    if budget.carry_over is not None and budget.window not in carry_over.KINDS:
        raise FieldError("carry_over", f"nothing is carried over where windows do not follow one another: {OTHERS}")
    policy.clean(budget)


BUDGETS = ScopedRules(
    model=Budget,
    noun="budget",
    code="budget",
    identity=IDENTITY,
    fields=("limit_nanos", *policy.COLUMNS, "carry_over", "enabled"),
    validate=validate,
    conflict=lambda same: Conflict("", f"there is a budget for {same} already", existing=same),
    has_history=lambda budget: budget.windows.exists() or budget.allowances.exists(),
)


def check(*, budget: Budget | None = None, **values: Any) -> None:
    """Raise what `change` of a budget to these values would, or `create` where there is none. Nothing is written."""
    if budget is None:
        scope = stored_scope(**{name: values.pop(name) for name in ("tenant", "scope_type", "scope_key")})
        budget = Budget(**scope, window=values.pop("window"))
        budget = _deleted(budget) or budget
    BUDGETS.check(budget, values)


def create(
    *,
    scope_type: str,
    window: str,
    limit_nanos: int,
    by: Actor,
    now: datetime,
    tenant: Tenant | None = None,
    scope_key: str = "",
    source: str = Budget.Source.OPERATOR,
    reason: str = "",
    **values: Any,
) -> Budget:
    """Make a budget; `values` are its policy's columns, and `enabled`. Raises FieldError, Conflict.

    One that was deleted and kept for its history begins anew with these values; what was spent in a window that is
    still open stays spent, or whoever may delete could pass a cap.
    """
    scope = stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant)
    budget = Budget(**scope, window=window, limit_nanos=limit_nanos, source=source)
    if (deleted := _deleted(budget)) is None:
        return BUDGETS.create(budget, values, by=by, now=now, reason=reason)
    anew = {name: getattr(budget, name) for name in BUDGETS.fields} | {"enabled": True} | values
    return _make_anew(deleted, anew, source=source, by=by, now=now)


@ledger.run_again
@transaction.atomic
def change(*, budget: Budget, changes: Mapping[str, Any], by: Actor, now: datetime, reason: str = "") -> Budget:
    """Change a budget's limit or policy. Its scope and window stay: those are another budget.

    Raises FieldError.
    """
    with nullcontext() if changes.get("enabled", True) else _standing_in_for(budget, now):
        return _change(budget, changes, by=by, now=now, reason=reason)


def _change(budget: Budget, changes: Mapping[str, Any], *, by: Actor, now: datetime, reason: str) -> Budget:
    def hold(changed: Budget) -> None:
        # Also where only caps changed: the state of the open windows follows from them.
        because = reason or "the budget was changed"
        ledger.apply_within([ChangeLimit(changed.pk, changed.limit_nanos, because, by.name)], now=now)

    ledger.lock_windows(budget.pk)
    return BUDGETS.change(budget, changes, by=by, now=now, reason=reason, then=hold)


@ledger.run_again
@transaction.atomic
def _make_anew(deleted: Budget, changes: Mapping[str, Any], *, source: str, by: Actor, now: datetime) -> Budget:
    # Before the budget's own row is written.
    ledger.lock_windows(deleted.pk)
    Budget.objects.filter(pk=deleted.pk).update(source=source, closed_at=None)
    return change(budget=deleted, changes=changes, by=by, now=now, reason="made anew after it was deleted")


def _deleted(budget: Budget) -> Budget | None:
    """The budget of the same identity that was deleted, and is kept for its history alone."""
    same = BUDGETS.same(budget)
    if same is None or same.enabled:
        return None
    last = AuditEntry.objects.filter(target=str(same), action__startswith="budget.").order_by("-id").first()
    return same if last is not None and last.action == "budget.disable" else None


def find(*, scope_type: str, window: str, tenant: Tenant | None = None, scope_key: str = "") -> Budget | None:
    """The budget of a scope and window, where there is one. Raises FieldError for a scope that none can have.

    One that was deleted, and is kept for its history alone, is none: `create` makes it anew.
    """
    asked = Budget(**stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant), window=window)
    return None if _deleted(asked) else BUDGETS.same(asked)


@ledger.run_again
@transaction.atomic
def delete(*, budget: Budget, by: Actor, now: datetime) -> bool:
    """Delete a budget that has no history; disable one that has. True where it is gone. Raises Gone."""
    with _standing_in_for(budget, now):
        return BUDGETS.delete(budget, by=by, now=now)


def _standing_in_for(budget: Budget, now: datetime) -> AbstractContextManager[None]:
    """Lasts while a budget goes. One for billing cycles is itself what a customer pays for."""
    tenant = budget.tenant
    if tenant is None or budget.scope_type != ScopeType.TENANT or budget.window == WindowKind.BILLING_CYCLE:
        return nullcontext()
    return ports.standing_in(tenant=tenant.slug, now=now)


@ledger.run_again
def reset(*, budget: Budget, reason: str, by: Actor, now: datetime, subject: str | None = None) -> ResetResult:
    """Close the budget's open windows and open new ones now; of one for each, `subject`'s alone where it is named.

    Raises FieldError without a reason, and for a subject without an open window.
    """
    if not reason.strip():
        raise FieldError("reason", "say why the budget is reset")
    with transaction.atomic():
        if subject is not None:
            subject = _open_subject(budget, subject, ledger.by_database(now))
        [result] = ledger.apply_within([Reset(budget.id, reason.strip(), by.name, subject)], now=now)
        audit.record(
            action="budget.reset",
            target=str(budget),
            by=by,
            now=now,
            reason=reason.strip(),
            old={"windows_closed": result.closed},
            new=None if subject is None else {"subject": subject},
        )
    return cast(ResetResult, result)


def _open_subject(budget: Budget, subject: str, now: datetime) -> str:
    windows = budget_status.live(BudgetWindow.objects.filter(budget=budget), now=now)
    found = windows.filter(subject__in=names.spellings_of_subject(budget.scope_type, subject)).first()
    if found is None:
        raise FieldError("subject", "has no open window in this budget: it opens with the first call")
    return found.subject


def sync_default(*, now: datetime) -> Budget | None:
    """Make the platform's default budget what DEFAULT_DAILY_BUDGET says: dollars a day for each tenant without one."""
    dollars: Decimal | None = settings.DEFAULT_DAILY_BUDGET
    by = Actor("settings")
    known = Budget.objects.filter(tenant=None, scope_type=ScopeType.TENANT, scope_key=EACH, window="day").first()
    if known is not None and known.source != Budget.Source.DEFAULT:
        return known
    if dollars is None:
        return change(budget=known, changes={"enabled": False}, by=by, now=now) if known else None
    limit_nanos = money.nanos_from_dollars(dollars)
    if known is not None:
        return change(budget=known, changes={"limit_nanos": limit_nanos, "enabled": True}, by=by, now=now)
    try:
        return create(
            scope_type=ScopeType.TENANT,
            scope_key=EACH,
            window=WindowKind.DAY,
            limit_nanos=limit_nanos,
            source=Budget.Source.DEFAULT,
            by=by,
            now=now,
        )
    except Conflict as error:
        return cast(Budget, error.existing)
