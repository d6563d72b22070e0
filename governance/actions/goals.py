"""A goal's budget: what one task or session may cost in all its life, opened as it begins and closed as it ends.

It is a budget like any other, for a lifetime and one name. What is new is who may open and close it, tenants' own keys
too, and that it can be over: calls of it are refused from then on, and what is held runs to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from governance import audit, ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.ledger.results import TooManyNames
from governance.models import Budget, Tenant
from governance.models.budgets import EACH
from governance.queries import budget_status
from governance.rules import names
from governance.rules.errors import FieldError, Gone, NotAllowed, OverBound

# What the keys of tenants may say of a budget. Rules of its would come before those of wider budgets.
OPENED_WITH = frozenset({"limit_nanos", "soft_cap", "hard_cap", "warn_at", "alert_thresholds"})
HOUR = timedelta(hours=1)
SHAPE = "only one for a lifetime of one task or one session"


@ledger.run_again
@transaction.atomic
def open_by_key(
    *,
    tenant: Tenant,
    agent: str,
    scope_type: str,
    scope_key: str,
    window: str,
    by: Actor,
    now: datetime,
    **values: Any,
) -> Budget:
    """Make a goal's budget for the key of a tenant, bound to `agent` unless that is empty.

    It takes the place of a budget for each task, of which it may leave no more than that one does. Raises FieldError,
    NotAllowed, Conflict, TooManyNames.
    """
    asked = Budget(
        tenant=tenant, scope_type=scope_type, scope_key=names.scope_key(scope_type, scope_key), window=window
    )
    if not asked.is_goal:
        raise NotAllowed("scope_type", f"a tenant's key opens {SHAPE}; an operator makes the others")
    if others := sorted(set(values) - OPENED_WITH):
        raise NotAllowed(others[0], "is said by operators alone")
    # One after another, or each of two would be the last that there may be.
    Tenant.objects.select_for_update(of=("self",), no_key=True).get(pk=tenant.pk)
    opened = Budget.objects.filter(tenant=tenant, source=Budget.Source.KEY, created_at__gt=now - HOUR)
    if opened.count() >= settings.NEW_NAMES_PER_HOUR:
        raise TooManyNames(settings.NEW_NAMES_PER_HOUR)
    _refuse_more_than_replaced(asked, values["limit_nanos"], now)
    budget = budgets.create(
        tenant=tenant,
        scope_type=scope_type,
        scope_key=scope_key,
        window=window,
        source=Budget.Source.KEY,
        by=by,
        now=now,
        **values,
    )
    Budget.objects.filter(pk=budget.pk).update(opener=agent)
    budget.opener = agent
    return budget


@ledger.run_again
@transaction.atomic
def close(*, budget: Budget, by: Actor, now: datetime, reason: str = "") -> Budget:
    """End a goal: from now on its calls are refused. One that is closed already stays as it is.

    Raises FieldError for any other budget, Gone.
    """
    if not budget.is_goal:
        raise FieldError("", f"{budget} is not closed: {SHAPE} is. Reset, change or disable it")
    # Calls that have the window come before, and their holds run on; those that wait for it are refused.
    ledger.lock_windows(budget.pk)
    row = Budget.objects.select_for_update(of=("self",)).select_related("tenant").filter(pk=budget.pk).first()
    if row is None:
        raise Gone("the budget has just been deleted")
    if row.closed_at is None:
        row.closed_at = ledger.by_database(now)
        row.save(update_fields=["closed_at", "updated_at"])
        new: Mapping[str, Any] = {"closed_at": row.closed_at.isoformat()}
        audit.record(action="budget.close", target=str(row), by=by, now=now, reason=reason.strip(), new=new)
    return row


def may_close(budget: Budget, *, tenant: Tenant, agent: str) -> bool:
    """Whether a tenant's key, bound to `agent` unless that is empty, closes it: what such a key may open."""
    is_keys = budget.source == Budget.Source.KEY and budget.tenant_id == tenant.pk
    return is_keys and agent in ("", budget.opener)


def _refuse_more_than_replaced(asked: Budget, limit_nanos: int, now: datetime) -> None:
    """Refuse a limit above what is left of the budgets for each one that stop governing this one."""
    # Its tenant's own come before everybody's.
    each = Budget.objects.filter(scope_type=asked.scope_type, scope_key=EACH, enabled=True)
    whole = Q(tenant=asked.tenant) if each.filter(tenant=asked.tenant).exists() else Q(tenant=None)
    for replaced in each.filter(whole).select_related("tenant"):
        name = asked.scope_key if replaced.tenant else f"{asked.tenant}/{asked.scope_key}"
        if limit_nanos > budget_status.of_subject(replaced, name, now=now).remaining_nanos:
            # How much that is, a tenant's key may not be shown.
            raise OverBound("limit", f"is more than is left of the budget for {replaced.scope} per {replaced.window}")
