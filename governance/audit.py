"""Who did what, when, and what was there before and after. Written in the transaction of the act itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from governance.models import ApiKey, AuditEntry

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True, slots=True)
class Actor:
    """A person, a key, or a part of the system ("stripe", "command line") that acts."""

    name: str
    user: User | None = None
    key: ApiKey | None = None


def record(
    *,
    action: str,
    target: str,
    by: Actor,
    now: datetime,
    reason: str = "",
    old: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Keep an act; `old` and `new` must hold what JSON can (amounts as integers of nanodollars)."""
    return AuditEntry.objects.create(
        occurred_at=now,
        actor=by.name[:150],
        user=by.user,
        key=by.key,
        action=action,
        target=target[:200],
        reason=reason[:300],
        old=dict(old) if old is not None else None,
        new=dict(new) if new is not None else None,
    )
