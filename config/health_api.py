"""/api/health: open to all, quick, and without a call to anyone outside."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from config import health
from governance.api.views import ControlView
from governance.models import LedgerCheck
from governance.queries import jobs

JOB_STATES = [jobs.OK, jobs.LATE, jobs.FAILING, jobs.WAITING]


class CheckBody(serializers.Serializer[LedgerCheck]):
    """The last proof that the ledger has not drifted; `drifts` that are not `repaired` are for an operator."""

    checked_at = serializers.DateTimeField()
    drifts = serializers.IntegerField()
    repaired = serializers.IntegerField()


class JobBody(serializers.Serializer[Any]):
    """A periodic job. `state` is ok, late, failing (its last run) or waiting (for its first one)."""

    name = serializers.CharField()
    state = serializers.ChoiceField(choices=JOB_STATES)
    last_success_at = serializers.DateTimeField(source="succeeded_at", allow_null=True)
    duration_s = serializers.FloatField(source="took_s", allow_null=True)
    running_since = serializers.DateTimeField(allow_null=True)


class HealthBody(serializers.Serializer[None]):
    status = serializers.ChoiceField(choices=[health.OK, health.DEGRADED, health.DOWN])
    timestamp = serializers.DateTimeField()
    version = serializers.CharField()
    services = serializers.DictField(child=serializers.CharField())
    ledger_check = CheckBody(allow_null=True)
    jobs = JobBody(many=True)


class Health(ControlView):
    authentication_classes = ()
    permission_classes = ()

    @extend_schema(operation_id="health", auth=[], responses={200: HealthBody, 503: HealthBody})
    def get(self, request: HttpRequest) -> Response:
        found = health.services()
        status = health.overall(found)
        body = {
            "status": status,
            "timestamp": timezone.now(),
            "version": settings.VERSION,
            "services": found,
            "ledger_check": _last_check(found),
            "jobs": JobBody(health.job_statuses() if found["jobs"] != health.DOWN else [], many=True).data,
        }
        return Response(body, status=503 if status == health.DOWN else 200)


def _last_check(found: dict[str, str]) -> dict[str, Any] | None:
    last = health.last_check() if found["budget"] != health.DOWN else None
    return None if last is None else dict(CheckBody(last).data)


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

    @extend_schema(operation_id="health_ready", auth=[], responses={200: {"type": "object"}, 503: {"type": "object"}})
    def get(self, request: HttpRequest) -> Response:
        found = health.essentials()
        status = health.overall(found)
        return Response({"status": status, "services": found}, status=503 if status == health.DOWN else 200)
