"""Who did what, when, and what was there before and after. Written in the transaction of the act itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from governance.models import ApiKey, AuditEntry

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class DoneBefore(Exception):
    """What a press asks for was done by an earlier one under the same token."""


@dataclass(slots=True)
class Press:
    """A press of a button, under the token of the form that has it: what is posted again under it is not done again.

    The first audit row of the act carries it, so it is kept where the act is, and of two at one moment one is undone.
    `part`: which of several things that are acted on under one token, each in a transaction of its own.
    """

    token: str
    part: str = ""
    _own: set[int] = field(default_factory=set)

    @property
    def once(self) -> str:
        return hashlib.sha256(f"{self.token}\n{self.part}".encode()).hexdigest()

    def is_done(self) -> bool:
        return AuditEntry.objects.filter(once=self.once).exists()

    def keep(self, entry: AuditEntry) -> None:
        """Insert a row of the act. Raises DoneBefore where one of an earlier press is there."""
        known = AuditEntry.objects.filter(once=self.once).values_list("pk", flat=True).first()
        if known is not None and known not in self._own:
            raise DoneBefore
        entry.once = self.once if known is None else None
        try:
            with transaction.atomic():
                entry.save(force_insert=True)
        except IntegrityError as error:
            # The same was pressed at this moment, and that came first.
            if self.is_done():
                raise DoneBefore from error
            raise
        self._own.add(entry.pk)


@dataclass(frozen=True, slots=True)
class Actor:
    """A person, a key, or a part of the system ("stripe", "command line") that acts; a person by a press."""

    name: str
    user: User | None = None
    key: ApiKey | None = None
    press: Press | None = field(default=None, compare=False, repr=False)


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
    """Keep an act; `old` and `new` must hold what JSON can (amounts as integers of nanodollars). Raises DoneBefore."""
    entry = AuditEntry(
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
    if by.press is not None:
        by.press.keep(entry)
    else:
        entry.save(force_insert=True)
    return entry
