"""How long a console session lasts: until nobody uses it, it is too old, or its user may do something else."""

from __future__ import annotations

import hashlib
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from governance import staff

# What a session keeps of itself: when it began and was last used, in seconds since 1970, and what was allowed then.
BEGAN, USED, ALLOWED = "began", "used", "allowed"
# The last use is written so often at most.
NOTED_EVERY_S = 60


def begin(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """On `user_logged_in`."""
    now = timezone.now().timestamp()
    request.session.update({BEGAN: now, USED: now, ALLOWED: _allowed(user)})


def over(request: HttpRequest) -> str:
    """Why the session ends; "" while it does not."""
    session, now = request.session, timezone.now().timestamp()
    if now - session.get(BEGAN, 0) >= settings.SESSION_LIFETIME_S:
        return "it is too old"
    if now - session.get(USED, 0) >= settings.SESSION_IDLE_S:
        return "nobody used it"
    if session.get(ALLOWED) != _allowed(request.user):
        return "what its user may do was changed"
    return ""


def note_use(request: HttpRequest) -> None:
    session, now = request.session, timezone.now().timestamp()
    if now - session.get(USED, 0) >= min(NOTED_EVERY_S, settings.SESSION_IDLE_S / 2):
        session[USED] = now


def _allowed(user: Any) -> str:
    access = staff.access_of(user)
    said = (user.is_staff, user.is_superuser, sorted(access.roles), access.tenant.pk if access.tenant else None)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]
