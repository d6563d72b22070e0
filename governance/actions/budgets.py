"""Acts on budgets: create, change, delete, and the platform's default. Each leaves an audit row.

A change takes hold at once: open windows get the new limit, and their states follow, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from governance import audit, ledger
from governance.audit import Actor
from governance.ledger.operations import ChangeLimit, Reset
from governance.ledger.results import ResetResult
from governance.models import Budget, ScopeType, Tenant
from governance.rules import money
from governance.rules.windows import WindowKind

EACH = "*"
FIELDS = (
    "limit_nanos",
    "soft_cap",
    "hard_cap",
    "warn_at",
    "alert_thresholds",
    "downgrade_rules",
    "disabled_tools",
    "clamp",
    "clamp_min_tokens",
    "enabled",
)
IDENTITY = ("tenant", "scope_type", "scope_key", "window")


class BudgetError(ValueError):
    """A value no budget can have: which field, and what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


class BudgetConflict(Exception):
    """There is a budget for this scope and window already."""

    def __init__(self, budget: Budget) -> None:
        super().__init__(f"there is a budget for {budget} already")
        self.budget = budget


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
    **policy: Any,
) -> Budget:
    """Make a budget. Raises BudgetError, BudgetConflict.

    `policy` may set soft_cap, hard_cap, warn_at, alert_thresholds, downgrade_rules, disabled_tools, clamp,
    clamp_min_tokens and enabled.
    """
    tenant, scope_key = stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant)
    budget = Budget(
        tenant=tenant,
        scope_type=scope_type,
        scope_key=scope_key,
        window=window,
        limit_nanos=limit_nanos,
        source=source,
    )
    _set(budget, policy)
    validate(budget)
    with transaction.atomic():
        _refuse_second(budget)
        try:
            with transaction.atomic():
                budget.save(force_insert=True)
        except IntegrityError as error:
            # Somebody made the same one between the look and the insert.
            _refuse_second(budget)
            raise BudgetError("scope_type", f"the database refuses this budget: {error}") from error
        audit.record(action="budget.create", target=str(budget), by=by, now=now, new=to_audit(budget))
    return budget


def change(*, budget: Budget, changes: Mapping[str, Any], by: Actor, now: datetime, reason: str = "") -> Budget:
    """Change a budget's limit or policy. Its scope and window stay: those are another budget.

    Raises BudgetError.
    """
    with transaction.atomic():
        ledger.lock_windows(budget.pk)
        budget = Budget.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=budget.pk)
        old = to_audit(budget)
        for name in IDENTITY:
            if name in changes and changes[name] != getattr(budget, name):
                raise BudgetError(name, f"{name} cannot be changed: make another budget instead")
        _set(budget, {name: value for name, value in changes.items() if name not in IDENTITY})
        validate(budget)
        new = to_audit(budget)
        if new == old:
            return budget
        budget.save()
        # Also where only caps changed: the state of the open windows follows from them.
        ledger.apply_within(
            [ChangeLimit(budget.id, budget.limit_nanos, reason=reason or "the budget was changed", actor=by.name)],
            now=now,
        )
        audit.record(action="budget.change", target=str(budget), by=by, now=now, reason=reason, old=old, new=new)
    return budget


def find(*, scope_type: str, window: str, tenant: Tenant | None = None, scope_key: str = "") -> Budget | None:
    """The budget of a scope and window, where there is one. Raises BudgetError for a scope that none can have."""
    tenant, scope_key = stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant)
    return _same(Budget(tenant=tenant, scope_type=scope_type, scope_key=scope_key, window=window))


def delete(*, budget: Budget, by: Actor, now: datetime) -> bool:
    """Delete a budget that has no history; disable one that has. True where it is gone."""
    with transaction.atomic():
        budget = Budget.objects.select_for_update(of=("self",)).get(pk=budget.pk)
        old = to_audit(budget)
        gone = not budget.windows.exists() and not budget.allowances.exists()
        if gone:
            target = str(budget)
            budget.delete()
        else:
            target = str(budget)
            budget.enabled = False
            budget.save(update_fields=["enabled", "updated_at"])
        audit.record(action="budget.delete" if gone else "budget.disable", target=target, by=by, now=now, old=old)
    return gone


def reset(*, budget: Budget, reason: str, by: Actor, now: datetime, subject: str | None = None) -> ResetResult:
    """Close the budget's open windows and open new ones now. Raises BudgetError without a reason."""
    if not reason.strip():
        raise BudgetError("reason", "say why the budget is reset")
    with transaction.atomic():
        [result] = ledger.apply_within([Reset(budget.id, reason.strip(), by.name, subject)], now=now)
        audit.record(
            action="budget.reset",
            target=str(budget),
            by=by,
            now=now,
            reason=reason.strip(),
            old={"windows_closed": result.closed},
        )
    return cast(ResetResult, result)


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
    except BudgetConflict as error:
        return error.budget


def to_audit(budget: Budget) -> dict[str, Any]:
    """What an audit row keeps of a budget."""
    shown: dict[str, Any] = {name: getattr(budget, name) for name in FIELDS}
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in shown.items()}


def validate(budget: Budget) -> None:
    """Raise BudgetError for the first thing that no budget can be."""
    if budget.window not in set(WindowKind):
        raise BudgetError("window", f"must be one of {', '.join(WindowKind)}")
    if not 0 < budget.limit_nanos <= money.MAX_NANOS:
        raise BudgetError("limit", "must be more than 0 dollars and at most 9 billion")
    hard = _ratio("hard_cap", budget.hard_cap)
    soft = None if budget.soft_cap is None else _ratio("soft_cap", budget.soft_cap)
    if soft is not None and soft >= hard:
        raise BudgetError("soft_cap", f"must be below hard_cap ({hard:f})")
    if budget.warn_at is not None:
        warn = _ratio("warn_at", budget.warn_at)
        if soft is None or warn >= soft:
            raise BudgetError("warn_at", "must be below soft_cap")
    budget.alert_thresholds = _thresholds(budget.alert_thresholds)
    budget.downgrade_rules = _rules(budget.downgrade_rules)
    budget.disabled_tools = _names("disabled_tools", budget.disabled_tools)


def stored_scope(*, scope_type: str, scope_key: str, tenant: Tenant | None) -> tuple[Tenant | None, str]:
    """The scope of a budget or rate limit in the form it is stored in; a tenant's own has its slug as its key.

    Raises BudgetError.
    """
    if scope_type not in ScopeType.values:
        raise BudgetError("scope_type", f"must be one of {', '.join(ScopeType.values)}")
    if scope_type == ScopeType.PLATFORM:
        if tenant is not None or scope_key not in ("", EACH):
            raise BudgetError("scope_key", "the platform has no tenant and no key: it is everything")
        return None, ""
    if scope_type == ScopeType.TENANT:
        return _tenant_scope(scope_key, tenant)
    if not scope_key:
        raise BudgetError("scope_key", f"name the {scope_type}, or * for each one separately")
    if tenant is None and scope_key != EACH:
        raise BudgetError("tenant", f"name the tenant whose {scope_type} {scope_key!r} this is")
    return tenant, scope_key


def _tenant_scope(scope_key: str, tenant: Tenant | None) -> tuple[Tenant | None, str]:
    if tenant is None and scope_key == EACH:
        return None, EACH
    if tenant is None and scope_key:
        tenant = Tenant.objects.filter(slug=scope_key).first()
        if tenant is None:
            raise BudgetError("scope_key", f"there is no tenant {scope_key!r}")
    if tenant is None:
        raise BudgetError("tenant", "name the tenant, or give scope_key * for each tenant separately")
    if scope_key not in ("", tenant.slug):
        raise BudgetError("scope_key", f"must be empty or {tenant.slug!r}, like the tenant")
    return tenant, tenant.slug


def _refuse_second(budget: Budget) -> None:
    same = _same(budget)
    if same is not None:
        raise BudgetConflict(same)


def _same(budget: Budget) -> Budget | None:
    rows = Budget.objects.filter(
        Q(tenant=budget.tenant) if budget.tenant else Q(tenant__isnull=True),
        scope_type=budget.scope_type,
        scope_key=budget.scope_key,
        window=budget.window,
    )
    return rows.select_related("tenant").first()


def _set(budget: Budget, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in FIELDS:
            raise BudgetError(name, f"is no field of a budget; there are {', '.join((*IDENTITY, *FIELDS))}")
        setattr(budget, name, value)


def _ratio(field: str, value: Any) -> Decimal:
    """A share of the limit above 0 and at most 1, of four decimals."""
    try:
        ratio = Decimal(str(value))
        money.ten_thousandths(ratio)
    except (ArithmeticError, ValueError) as error:
        raise BudgetError(field, f"must be a number such as 0.8 with at most four decimals, not {value!r}") from error
    if not ratio.is_finite() or not 0 < ratio <= 1:
        raise BudgetError(field, f"must be above 0 and at most 1, not {value}")
    return ratio


def _thresholds(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise BudgetError("alert_thresholds", "must be a list such as [0.5, 0.9]")
    ratios = {_ratio("alert_thresholds", item) for item in value}
    return [f"{ratio.normalize():f}" for ratio in sorted(ratios)]


def _rules(value: Any) -> list[dict[str, Any]]:
    shape = 'must be a list of rules such as {"from": ["mistral-large-latest"], "to": "mistral-small-latest"}'
    if not isinstance(value, list):
        raise BudgetError("downgrade_rules", shape)
    rules = []
    for rule in value:
        if not isinstance(rule, dict) or set(rule) != {"from", "to"}:
            raise BudgetError("downgrade_rules", shape)
        sources = [rule["from"]] if isinstance(rule["from"], str) else rule["from"]
        if not isinstance(rule["to"], str) or not rule["to"] or not sources:
            raise BudgetError("downgrade_rules", shape)
        rules.append({"from": _names("downgrade_rules", sources), "to": rule["to"]})
    return rules


def _names(field: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise BudgetError(field, "must be a list of names")
    return list(dict.fromkeys(value))
