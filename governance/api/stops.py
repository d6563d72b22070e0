"""/api/stops: the emergency stop."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import stops, tenancy
from governance.api.fields import Name, OptionalAct, Query, Strict, Text
from governance.api.permissions import OPERATORS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import Agent, EmergencyStop, Tenant
from governance.rules.errors import FieldError


class StopBody(Strict):
    """Refuses every call of an agent, a tenant or, with neither, of everybody, and cuts the running ones."""

    id = serializers.IntegerField(read_only=True)
    tenant = Name("tenant", source="tenant.slug", required=False, allow_null=True, default=None)
    agent = Name("agent", source="agent.slug", required=False, allow_null=True, default=None)
    stops = serializers.SerializerMethodField(help_text="Who is stopped, in words.")
    reason = Text(max_length=300)
    actor = serializers.CharField(read_only=True)
    active = serializers.SerializerMethodField()
    started_at = serializers.DateTimeField(read_only=True)
    lifted_at = serializers.DateTimeField(read_only=True, allow_null=True)
    lifted_by = serializers.CharField(read_only=True)

    def get_stops(self, row: EmergencyStop) -> str:
        return stops.whom(row)

    def get_active(self, row: EmergencyStop) -> bool:
        return row.lifted_at is None


class StopQuery(Query):
    tenant = Name("tenant", required=False)
    agent = Name("agent", required=False)
    active = serializers.BooleanField(required=False, help_text="Only those in force, or only those lifted.")


class Stops(ListView):
    acts_on = "governance.emergencystop"
    table_name = "stops"

    @describe_list("stops_list", StopBody, StopQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(StopQuery, request.query_params.dict())
        names = {"tenant": "tenant__slug", "agent": "agent__slug", "active": "lifted_at__isnull"}
        rows = _every().filter(**{names[name]: value for name, value in asked.items()})
        return self.listed(rows, presenter(StopBody), columns=columns_of(StopBody))

    @extend_schema(operation_id="stops_create", request=StopBody, responses={201: StopBody})
    def post(self, request: Request) -> Response:
        """From the next call on everything it covers is refused with 403; running calls are cut off within a second."""
        asked = self.valid(StopBody, request.data)
        tenant, agent = _covered((asked["tenant"] or {}).get("slug"), (asked["agent"] or {}).get("slug"))
        made = stops.stop(tenant=tenant, agent=agent, reason=asked["reason"], by=self.by.actor, now=self.now)
        return Response(StopBody(made).data, status=201)


class OneStop(ControlView):
    acts_on = "governance.emergencystop"

    @extend_schema(operation_id="stops_get", responses=StopBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(StopBody(self.one(_every(), pk=id)).data)


class StopLift(ControlView):
    acts_on = "governance.emergencystop"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="stops_lift", request=OptionalAct, responses=StopBody)
    def post(self, request: Request, id: int) -> Response:
        """Calls are decided by the budgets again, from the next one on."""
        row = self.one(_every(), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        return Response(StopBody(stops.lift(stop=row, reason=reason, by=self.by.actor, now=self.now)).data)


def _every() -> Any:
    return EmergencyStop.objects.select_related("tenant", "agent__tenant").order_by("-id")


def _covered(tenant_slug: str | None, agent_slug: str | None) -> tuple[Tenant | None, Agent | None]:
    if not tenant_slug:
        if agent_slug:
            raise FieldError("tenant", "name the agent's tenant")
        return None, None
    tenant = tenancy.tenant_named(tenant_slug)
    return tenant, tenancy.agent_named(tenant, agent_slug) if agent_slug else None
