"""Acts on rate limits: ceilings a minute of dollars, requests and tokens. Each act leaves an audit row.

The ledger enforces them, in the same locked step as the budgets: a refused call uses up nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from governance.actions.scoped_rules import ScopedRules, stored_scope
from governance.audit import Actor
from governance.models import RateLimit, Tenant
from governance.rules import money
from governance.rules.errors import Conflict, FieldError, OverBound

CEILINGS = ("nanos_per_minute", "requests_per_minute", "tokens_per_minute")
# Errors name fields as people know them.
SHOWN = {"nanos_per_minute": "dollars_per_minute"}


def validate(limit: RateLimit) -> None:
    """Raise FieldError for the first thing that no rate limit can be."""
    given = {name: getattr(limit, name) for name in CEILINGS if getattr(limit, name) is not None}
    if not given:
        raise FieldError("dollars_per_minute", "give at least one ceiling: dollars, requests or tokens a minute")
    for name, value in given.items():
        shown = SHOWN.get(name, name)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise FieldError(shown, "must be more than 0; empty is no ceiling")
        if name == "nanos_per_minute":
            money.refuse_beyond(shown, value, most=money.MAX_LIMIT_NANOS)
        elif value > money.MAX_UNITS:
            raise OverBound(shown, f"must be at most {money.MAX_UNITS:,}; empty is no ceiling")


RATE_LIMITS = ScopedRules(
    model=RateLimit,
    noun="rate limit",
    code="rate_limit",
    identity=("tenant", "scope_type", "scope_key"),
    fields=(*CEILINGS, "enabled"),
    validate=validate,
    conflict=lambda same: Conflict("", f"there is a rate limit for {same} already", existing=same),
    target=lambda limit: f"rate limit {limit}",
)


def check(*, limit: RateLimit | None = None, **values: Any) -> None:
    """Raise what `change` of a limit to these values would, or `create` where there is none. Nothing is written."""
    if limit is None:
        limit = RateLimit(**stored_scope(**{name: values.pop(name) for name in ("tenant", "scope_type", "scope_key")}))
    RATE_LIMITS.check(limit, values)


def create(
    *,
    scope_type: str,
    scope_key: str = "",
    tenant: Tenant | None = None,
    by: Actor,
    now: datetime,
    reason: str = "",
    **values: Any,
) -> RateLimit:
    """Make a rate limit; `values` are its ceilings, of which an empty one is none, and `enabled`.

    Raises FieldError, Conflict.
    """
    limit = RateLimit(**stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant))
    return RATE_LIMITS.create(limit, values, by=by, now=now, reason=reason)


def find(*, scope_type: str, scope_key: str = "", tenant: Tenant | None = None) -> RateLimit | None:
    """The rate limit of a scope, where there is one. Raises FieldError for a scope that none can have."""
    return RATE_LIMITS.same(RateLimit(**stored_scope(scope_type=scope_type, scope_key=scope_key, tenant=tenant)))


def change(*, limit: RateLimit, changes: Mapping[str, Any], by: Actor, now: datetime, reason: str = "") -> RateLimit:
    """Change ceilings, or switch the limit off or on. Its scope stays: that is another one. Raises FieldError."""
    return RATE_LIMITS.change(limit, changes, by=by, now=now, reason=reason)


def delete(*, limit: RateLimit, by: Actor, now: datetime, reason: str = "") -> None:
    """Take a rate limit away, with what its buckets hold: calls are no longer slowed by it."""
    RATE_LIMITS.delete(limit, by=by, now=now, reason=reason)
