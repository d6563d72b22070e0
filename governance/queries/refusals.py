"""Reads of refused calls: whose they are, and what of their figures a reader is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from governance.models import Budget, RefusedCall
from governance.queries.spend import Reader
from governance.rules.calls import Caller
from governance.rules.remedies import Blocker, Remedy, sentence
from governance.rules.scopes import matching
from governance.rules.visibility import Audience


def seen_by(reader: Reader) -> QuerySet[RefusedCall]:
    return RefusedCall.objects.filter(reader.scope).select_related("tenant", "key").order_by("-id")


def remedy_of(row: RefusedCall) -> Remedy:
    """What would have let it through, as it was reckoned then."""
    return Remedy(
        max_tokens=row.fits_max_tokens,
        blockers=tuple(_blocker(stored) for stored in row.budgets),
        at=row.free_at,
        act=row.act,
    )


def would_pass(row: RefusedCall, *, audience: Audience) -> str:
    """A sentence of it for a reader; empty where nothing is known."""
    return sentence(remedy_of(row), audience=audience)


def subject_in(budget: Budget, row: RefusedCall) -> str | None:
    """Whose window of a budget the call was for; None where the budget does not govern it."""
    caller = Caller(
        tenant_id=row.tenant_id,
        tenant=row.tenant.slug,
        agent=row.agent,
        key_prefix=row.key.scope_key if row.key else "",
        user=row.user,
        session=row.session,
        task=row.task,
    )
    return next((subject for _, subject in matching(caller, [budget])), None)


def _blocker(stored: dict[str, Any]) -> Blocker:
    ends_at = stored["ends_at"]
    return Blocker(**(stored | {"ends_at": datetime.fromisoformat(ends_at) if ends_at else None}))
