"""Acts on rate limits: ceilings a minute of dollars, requests and tokens. Each act leaves an audit row.

The ledger enforces them, in the same locked step as the budgets: a refused call uses up nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from governance import audit
from governance.actions import budgets
from governance.audit import Actor
from governance.models import RateLimit, Tenant
from governance.rules import money

CEILINGS = ("nanos_per_minute", "requests_per_minute", "tokens_per_minute")
FIELDS = (*CEILINGS, "enabled")
IDENTITY = ("tenant", "scope_type", "scope_key")
# Buckets count millionths in 64 bits.
MOST_A_MINUTE = 10**12
# Errors name fields as people know them.
SHOWN = {"nanos_per_minute": "dollars_per_minute"}


class RateError(ValueError):
    """A value no rate limit can have: which field, and what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


class RateConflict(Exception):
    """There is a rate limit for this scope already."""

    def __init__(self, limit: RateLimit) -> None:
        super().__init__(f"there is a rate limit for {limit} already")
        self.limit = limit


def create(
    *,
    scope_type: str,
    scope_key: str = "",
    tenant: Tenant | None = None,
    nanos_per_minute: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    enabled: bool = True,
    by: Actor,
    now: datetime,
) -> RateLimit:
    """Make a rate limit; an empty ceiling is none. Raises RateError, RateConflict."""
    try:
        tenant, scope_key = budgets.stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant)
    except budgets.BudgetError as error:
        raise RateError(error.field, error.message) from error
    limit = RateLimit(
        tenant=tenant,
        scope_type=scope_type,
        scope_key=scope_key,
        nanos_per_minute=nanos_per_minute,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        enabled=enabled,
    )
    validate(limit)
    with transaction.atomic():
        _refuse_second(limit)
        try:
            with transaction.atomic():
                limit.save(force_insert=True)
        except IntegrityError as error:
            # Somebody made the same one between the look and the insert.
            _refuse_second(limit)
            raise RateError("scope_type", f"the database refuses this rate limit: {error}") from error
        audit.record(action="rate_limit.create", target=_target(limit), by=by, now=now, new=to_audit(limit))
    return limit


def change(*, limit: RateLimit, changes: Mapping[str, Any], by: Actor, now: datetime, reason: str = "") -> RateLimit:
    """Change ceilings, or switch the limit off or on. Its scope stays: that is another rate limit. Raises RateError."""
    with transaction.atomic():
        limit = RateLimit.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=limit.pk)
        old = to_audit(limit)
        for name in IDENTITY:
            if name in changes and changes[name] != getattr(limit, name):
                raise RateError(name, f"{name} cannot be changed: make another rate limit instead")
        for name, value in changes.items():
            if name not in (*FIELDS, *IDENTITY):
                raise RateError(name, f"is no field of a rate limit; there are {', '.join((*IDENTITY, *FIELDS))}")
            setattr(limit, name, value)
        validate(limit)
        new = to_audit(limit)
        if new == old:
            return limit
        limit.save(update_fields=list(FIELDS))
        audit.record(action="rate_limit.change", target=_target(limit), by=by, now=now, reason=reason, old=old, new=new)
    return limit


@transaction.atomic
def delete(*, limit: RateLimit, by: Actor, now: datetime, reason: str = "") -> None:
    """Take a rate limit away, with what its buckets hold: calls are no longer slowed by it."""
    limit = RateLimit.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=limit.pk)
    target, old = _target(limit), to_audit(limit)
    limit.delete()
    audit.record(action="rate_limit.delete", target=target, by=by, now=now, reason=reason, old=old)


def to_audit(limit: RateLimit) -> dict[str, Any]:
    """What an audit row keeps of a rate limit."""
    return {name: getattr(limit, name) for name in FIELDS}


def validate(limit: RateLimit) -> None:
    """Raise RateError for the first thing that no rate limit can be."""
    given = {name: getattr(limit, name) for name in CEILINGS if getattr(limit, name) is not None}
    if not given:
        raise RateError("dollars_per_minute", "give at least one ceiling: dollars, requests or tokens a minute")
    for name, value in given.items():
        most = money.MAX_NANOS if name == "nanos_per_minute" else MOST_A_MINUTE
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            bound = "9 billion" if name == "nanos_per_minute" else f"{MOST_A_MINUTE:,}"
            raise RateError(SHOWN.get(name, name), f"must be more than 0 and at most {bound}; empty is no ceiling")


def _refuse_second(limit: RateLimit) -> None:
    same = RateLimit.objects.filter(
        Q(tenant=limit.tenant) if limit.tenant else Q(tenant__isnull=True),
        scope_type=limit.scope_type,
        scope_key=limit.scope_key,
    ).first()
    if same is not None:
        raise RateConflict(same)


def _target(limit: RateLimit) -> str:
    return f"rate limit {limit}"
