"""A key's page and the list of keys: whose they are, whether they work, and when they were used last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from unfold.views import ChangeList

from governance.console import caller_parts, display, histories, snippets
from governance.console.base import reader
from governance.ledger import clock
from governance.models import ApiKey
from governance.queries import key_use
from governance.rules.visibility import STAFF, Audience


class KeyList(ChangeList):
    """Django's list, whose rows know when they were used last."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        used = key_use.last_used(reader=reader(request))
        rows: list[Any] = list(self.result_list)
        now = clock.known_now()
        for row in rows:
            row.state = caller_parts.state_of(row, now)
            row.holder = " / ".join(part.slug for part in (row.tenant, row.agent) if part) or "the platform"
            row.issued = display.moment(row.created_at)
            row.expires = display.moment(row.expires_at) if row.expires_at else "never"
            row.last_used = caller_parts.last_used(row, used)
        self.result_list: Any = rows


def context(request: HttpRequest, key: ApiKey, now: datetime) -> dict[str, Any]:
    is_bound = reader(request).tenant is not None
    usual, known = snippets.models()
    return {
        "key": key,
        "state": caller_parts.state_of(key, now),
        "last_used": caller_parts.last_used(key, key_use.last_used(reader=reader(request), only=key)),
        "created": display.moment(key.created_at),
        "expires": display.moment(key.expires_at) if key.expires_at else "never",
        "revoked": display.moment(key.revoked_at) if key.revoked_at else "",
        "calls_link": f"{reverse('admin:calls')}?{urlencode({'range': '30d', 'key': key.prefix})}",
        "spend_link": f"{reverse('admin:spend')}?{urlencode({'range': '7d', 'key': key.prefix})}",
        "calls_models": snippets.calls_models(key.role),
        "usual_model": usual,
        "models": known,
        "history": histories.of_key(key, Audience(is_tenants=True) if is_bound else STAFF),
    }


def in_use(keys: Sequence[ApiKey]) -> str:
    """What an act on keys would meet: how many of them were used lately, and when last."""
    # One is looked for by itself; of many the newest calls of all are read once.
    used = key_use.last_used(only=keys[0]) if len(keys) == 1 else key_use.last_used()
    found = [used[key.pk] for key in keys if key.pk in used]
    if not found:
        return "It was not used lately." if len(keys) == 1 else "None of them was used lately."
    minutes = int((timezone.now() - max(found)).total_seconds()) // 60
    ago = f"{minutes:,} minutes" if 1 < minutes < 120 else f"{minutes // 60:,} hours" if minutes > 1 else "a minute"
    if len(keys) == 1:
        return f"It was used {ago} ago."
    return f"{len(found)} of these {len(keys)} were used lately, the last {ago} ago."
