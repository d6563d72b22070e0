"""Providers that operators add beside those of the environment. Keys go in, are sealed, and never come out again."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from governance import alerts, audit, ledger, sealing
from governance.audit import Actor
from llm.models import ProviderEndpoint
from llm.rules import addresses

log = logging.getLogger(__name__)

# The kind of the alert for an endpoint whose key cannot be had, or whose address must not be called.
UNUSABLE = "provider_unusable"


class KeyNeeded(ValueError):
    """The key must be entered again, or for the first time; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint that can be called. Two that are equal need no new connection."""

    name: str
    kind: str
    base_url: str
    api_key: str = field(repr=False)
    extra_fields: frozenset[str] = frozenset()


def usable() -> tuple[Endpoint, ...]:
    """The endpoints that are enabled and can be called, by name."""
    return _sorted()[0]


def unusable() -> dict[str, str]:
    """Why those that are enabled and cannot be called are not, by name."""
    return _sorted()[1]


class Watch:
    """Reads the endpoints again and again; tells operators when one cannot be called, and when it can again."""

    def __init__(self) -> None:
        # Name -> why it is not called. None: not looked yet.
        self._unusable: dict[str, str] | None = None

    @ledger.briefly()
    def read(self, *, now: datetime) -> tuple[Endpoint, ...]:
        """As `usable`. DatabaseError where it takes longer than a moment."""
        found, unusable = _sorted()
        before = self._unusable
        for name, why in unusable.items():
            if before is None or before.get(name) != why:
                log.error("provider %s: %s", name, why)
                alerts.report(kind=UNUSABLE, subject=name, message=why, now=now, severity="critical")
        for name in {endpoint.name for endpoint in found} if before is None else before.keys() - unusable.keys():
            alerts.clear(kind=UNUSABLE, subject=name, now=now)
        self._unusable = unusable
        return found


def save(*, row: ProviderEndpoint, new_key: str, by: Actor, now: datetime) -> ProviderEndpoint:
    """Add or change an endpoint; `new_key` replaces its key, empty leaves it. The audit row tells of keys, not them.

    Where nothing changes nothing is saved.

    Raises KeyNeeded: a key that nobody can read must not be sent to an address that somebody else has put in.
    """
    with transaction.atomic():
        before = ProviderEndpoint.objects.select_for_update().filter(pk=row.pk).first() if row.pk else None
        check_key(row=row, before=before, new_key=new_key)
        row.sealed_key = _sealed(row, before, new_key)
        row.updated_at = now
        old = _facts(before) if before else None
        new = _facts(row) | ({"key": "replaced"} if new_key and before else {})
        if new == old:
            return row
        row.save()
        action = f"provider.{'add' if before is None else 'change'}"
        audit.record(action=action, target=row.name, by=by, now=now, old=old, new=new)
    return row


def check_key(*, row: ProviderEndpoint, before: ProviderEndpoint | None, new_key: str) -> None:
    """Raises KeyNeeded where `row`, which was `before`, cannot go without a new key."""
    if new_key or row.key_env:
        return
    if before is not None and before.sealed_key and row.base_url != before.base_url:
        raise KeyNeeded("Enter the key again with a new address.")
    if row.kind != ProviderEndpoint.Kind.OPENAI_COMPATIBLE and not (before is not None and before.sealed_key):
        raise KeyNeeded(f"{row.get_kind_display()} takes no calls without a key.")


class _Unusable(Exception):
    """Why an endpoint is not called."""


def _sorted() -> tuple[tuple[Endpoint, ...], dict[str, str]]:
    """The endpoints that can be called, and why the others cannot."""
    found: list[Endpoint] = []
    unusable: dict[str, str] = {}
    for row in ProviderEndpoint.objects.filter(enabled=True).order_by("name"):
        try:
            if problem := addresses.problem_with_base(row.base_url, private_allowed=settings.PRIVATE_ENDPOINTS):
                raise _Unusable(f"Its address cannot be called. {problem}")
            found.append(Endpoint(row.name, row.kind, row.base_url, _key(row), frozenset(row.extra_names)))
        except _Unusable as error:
            unusable[row.name] = str(error)
    return tuple(found), unusable


def _key(row: ProviderEndpoint) -> str:
    """The key of an endpoint; empty where it has none. Raises _Unusable."""
    if row.key_env:
        key = _variable(row.key_env)
        if not key or addresses.problem_with_key(key):
            raise _Unusable(f"The variable {row.key_env} holds no key.")
        return key
    if not row.sealed_key:
        return ""
    try:
        return sealing.unseal(row.sealed_key)
    except sealing.Unreadable as error:
        raise _Unusable("Its key was sealed under another SECRET_KEY; enter it again.") from error


def _variable(name: str) -> str:
    """A variable's value, or what is in the file that it is given as (`NAME_FILE`), as for settings; "" for none."""
    path = os.environ.get(f"{name}_FILE", "").strip()
    try:
        return (Path(path).read_text(encoding="utf-8") if path else os.environ.get(name, "")).strip()
    except (OSError, ValueError):
        return ""


def _sealed(row: ProviderEndpoint, before: ProviderEndpoint | None, new_key: str) -> str:
    """The sealed key that a row has from now on: a new one, the old one, or none beside a variable."""
    if new_key:
        return sealing.seal(new_key)
    return before.sealed_key if before is not None and not row.key_env else ""


def _facts(row: ProviderEndpoint) -> dict[str, Any]:
    """What the audit trail shows. A key is there or not; nothing of it is told."""
    key = f"variable {row.key_env}" if row.key_env else "set" if row.sealed_key else "none"
    facts = {"kind": row.kind, "base_url": row.base_url, "enabled": row.enabled, "key": key}
    return facts | ({"extra_fields": row.extra_fields} if row.extra_fields else {})
