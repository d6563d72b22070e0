"""Who is let in: django-axes first, which counts wrong tries, then Django's own look at the password."""

from __future__ import annotations

from typing import Any

from axes.backends import AxesStandaloneBackend
from django.http import HttpRequest


class CountingBackend(AxesStandaloneBackend):  # type: ignore[misc]
    """Without a request nobody signs in, so there is no address to lock: a command that checks a password goes on."""

    def authenticate(self, request: HttpRequest | None = None, **credentials: Any) -> None:
        if request is not None:
            super().authenticate(request, **credentials)
