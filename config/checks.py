"""What `check --deploy` finds of trust that reaches further than most mean, or less far, and `web` says as it starts.

Warnings, not errors: behind a proxy that looks at hosts itself, and on a port that it alone reaches, both are right.
A secret that can be guessed is right nowhere, so it stops the start (`config.environment`).
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning

ANY = "*"


def trust(**kwargs: Any) -> list[CheckMessage]:
    """Settings that take anybody's word, or nobody's."""
    found: list[CheckMessage] = []
    if ANY in settings.ALLOWED_HOSTS:
        found.append(
            Warning(
                "ALLOWED_HOSTS=* takes any Host: where links, redirects and cached pages lead to is then a stranger's.",
                hint="Name the hosts of APP_URL and of health checks, unless a proxy in front refuses all others.",
                id="config.W001",
            )
        )
    if ANY in settings.FORWARDED_ALLOW_IPS:
        found.append(
            Warning(
                "FORWARDED_ALLOW_IPS=* believes anybody who reaches the port what address he has: who is locked out"
                " signs in from another one.",
                hint="Name the proxy's address or network, unless nobody but the proxy reaches the port.",
                id="config.W002",
            )
        )
    if settings.HTTPS and not settings.FORWARDED_ALLOW_IPS:
        found.append(
            Warning(
                "APP_URL is https, and no proxy is named in FORWARDED_ALLOW_IPS: if one ends TLS in front, all who sign"
                " in have its address, so that a stranger's wrong passwords lock everybody out.",
                hint="Name the proxy's address or network.",
                id="config.W003",
            )
        )
    return found
