"""Which pages of other origins a browser lets call the data plane; the answers are Starlette's, for bare ASGI."""

from __future__ import annotations

from django.conf import settings
from starlette.middleware.cors import CORSMiddleware

from llm.gateway.asgi import Application

LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
# What a page may read of an answer beside its body.
EXPOSED = (
    "x-request-id",
    *(f"x-budget-{name}" for name in ("state", "scope", "limit-usd", "remaining-usd", "resets-at", "runs-out-at")),
    "x-model-requested",
    "x-model-served",
    "x-downgrade-reason",
    "x-tools-disabled",
    "x-max-tokens-clamped",
    "x-max-tokens-default",
    "x-reserved-usd",
    "x-request-cost-usd",
    "x-idempotent-replay",
    "x-should-retry",
    "retry-after",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
    "server-timing",
)


def allowing(plane: Application) -> Application:
    """The data plane with answers to preflights, which bring no key; as it is where no origin may call it.

    Cookies mean nothing to it, so no page may send them.
    """
    origins: list[str] = settings.CORS_ALLOWED_ORIGINS
    if not origins and not settings.DEBUG:
        return plane
    return CORSMiddleware(
        plane,
        allow_origins=origins,
        allow_origin_regex=LOOPBACK if settings.DEBUG else None,
        allow_methods=("GET", "POST"),
        # Clients of many kinds name themselves in headers of their own; none of them changes whom a key is for.
        allow_headers=("*",),
        allow_credentials=False,
        expose_headers=EXPOSED,
    )
