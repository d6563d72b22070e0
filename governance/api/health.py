"""/api/health: open to all, quick, and without a call to anyone outside."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from governance.api.views import ControlView
from governance.models import BudgetWindow

BROKER_TIMEOUT_S = 0.3
# What makes the whole unhealthy; the others tell how it is set up.
ESSENTIAL = ("database", "budget")
DOWN = "down"


class HealthBody(serializers.Serializer[None]):
    status = serializers.ChoiceField(choices=["ok", "degraded", "down"])
    timestamp = serializers.DateTimeField()
    version = serializers.CharField()
    services = serializers.DictField(child=serializers.CharField())


def services() -> dict[str, str]:
    """The state of each part: ok, configured, sandbox, simulated, not_configured or down."""
    return {name: look() for name, look in CHECKS.items()}


def overall(found: dict[str, str]) -> str:
    if any(found[name] == DOWN for name in ESSENTIAL):
        return DOWN
    return "degraded" if DOWN in found.values() else "ok"


class Health(ControlView):
    authentication_classes = ()
    permission_classes = ()

    @extend_schema(operation_id="health", auth=[], responses={200: HealthBody, 503: HealthBody})
    def get(self, request: HttpRequest) -> Response:
        found = services()
        status = overall(found)
        body = {
            "status": status,
            "timestamp": timezone.now(),
            "version": settings.VERSION,
            "services": found,
        }
        return Response(body, status=503 if status == DOWN else 200)


class Live(ControlView):
    """The process answers."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(operation_id="health_live", auth=[], responses={200: {"type": "object"}})
    def get(self, request: HttpRequest) -> Response:
        return Response({"status": "ok"})


class Ready(ControlView):
    """The process can do its work: the database is there and migrated."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="health_ready", auth=[], responses={200: {"type": "object"}, 503: {"type": "object"}}
    )
    def get(self, request: HttpRequest) -> Response:
        found = {name: CHECKS[name]() for name in ESSENTIAL}
        status = overall(found)
        return Response({"status": status, "services": found}, status=503 if status == DOWN else 200)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return DOWN
    return "ok"


def _budget() -> str:
    """The ledger's tables can be read."""
    try:
        BudgetWindow.objects.order_by().values("pk").first()
    except DatabaseError:
        return DOWN
    return "ok"


def _mistral() -> str:
    if settings.MISTRAL_API_KEY:
        return "configured"
    return "sandbox" if settings.DEBUG else "not_configured"


def _stripe() -> str:
    """Without a key, Stripe's events are taken at their word instead of being fetched again."""
    if settings.STRIPE_SECRET_KEY:
        return "configured" if settings.STRIPE_WEBHOOK_SECRETS else "webhook_secret_missing"
    return "not_configured"


def _broker() -> str:
    if not settings.REDIS_URL:
        return "filesystem"
    address = urlsplit(settings.REDIS_URL)
    try:
        if address.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(BROKER_TIMEOUT_S)
                peer.connect(address.path)
        else:
            socket.create_connection(
                (address.hostname or "localhost", address.port or 6379), timeout=BROKER_TIMEOUT_S
            ).close()
    except OSError:
        return DOWN
    return "ok"


CHECKS: dict[str, Callable[[], str]] = {
    "budget": _budget,
    "mistral": _mistral,
    "stripe": _stripe,
    "database": _database,
    "broker": _broker,
}
