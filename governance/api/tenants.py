"""/api/tenants, /api/agents and /api/keys"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import tenancy
from governance.api.fields import CallName, Moment, Name, OptionalAct, Query, Strict, Text, Whole, missing
from governance.api.permissions import OPERATORS, READERS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import Agent, ApiKey, Tenant
from governance.models.tenancy import Role

READ = {"GET": READERS}
LONGEST_GRACE_S = 30 * 24 * 3600


class TenantBody(Strict):
    """A customer whose agents spend; named by its slug everywhere."""

    slug = serializers.SlugField(max_length=50)
    name = Name("label", required=False)
    time_zone = Text(max_length=64, required=False, help_text="IANA name, such as Europe/Paris.")
    show_amounts = serializers.BooleanField(
        required=False,
        help_text="Whether its keys are told amounts of its budgets; its staff, who are people, always are.",
    )
    default_max_tokens = Whole(required=False, min_value=1, max_value=10_000_000)
    status = serializers.CharField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)


class AgentBody(Strict):
    id = serializers.IntegerField(read_only=True)
    tenant = Name("tenant", source="tenant.slug")
    slug = CallName("agent")
    status = serializers.CharField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)


class KeyBody(Strict):
    """A bearer key, without the key itself."""

    id = serializers.IntegerField(read_only=True)
    prefix = serializers.CharField(read_only=True)
    name = Name("label", required=False, allow_blank=True, default="")
    role = serializers.ChoiceField(choices=Role.values)
    tenant = Name("tenant", source="tenant.slug", required=False, allow_null=True, default=None)
    agent = Name("agent", source="agent.slug", required=False, allow_null=True, default=None)
    expires_at = Moment(required=False, allow_null=True, default=None)
    revoked_at = serializers.DateTimeField(read_only=True, allow_null=True)
    created_at = serializers.DateTimeField(read_only=True)


class IssuedKeyBody(KeyBody):
    """A new key: `key` is shown here and never again."""

    key = serializers.CharField(read_only=True)


class AgentQuery(Query):
    tenant = Name("tenant", required=False)
    status = serializers.ChoiceField(choices=Agent.Status.values, required=False)


class TenantQuery(Query):
    status = serializers.ChoiceField(choices=Tenant.Status.values, required=False)


class KeyQuery(Query):
    tenant = Name("tenant", required=False)
    agent = Name("agent", required=False)
    role = serializers.ChoiceField(choices=Role.values, required=False)


def _refuse_status(asked: Any, status: str) -> None:
    """Refuse to change a status beside what is asked: ignored, it would leave somebody active who should be paused."""
    if isinstance(asked, Mapping) and asked.get("status", status) != status:
        raise serializers.ValidationError({"status": [f"is {status}: POST to …/pause or …/resume to change it."]})


class RotateBody(Strict):
    grace_s = Whole(
        required=False,
        min_value=0,
        max_value=LONGEST_GRACE_S,
        help_text="How long the old key goes on working.",
    )


class Tenants(ListView):
    acts_on = "governance.tenant"
    table_name = "tenants"

    @describe_list("tenants_list", TenantBody, TenantQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(TenantQuery, request.query_params.dict())
        rows = Tenant.objects.filter(**asked).order_by("-id")
        return self.listed(rows, presenter(TenantBody), columns=columns_of(TenantBody))

    @extend_schema(operation_id="tenants_create", request=TenantBody, responses={201: TenantBody})
    def post(self, request: Request) -> Response:
        fields = self.valid(TenantBody, request.data)
        _refuse_status(request.data, Tenant.Status.ACTIVE)
        tenant = tenancy.create_tenant(**fields, by=self.by.actor, now=self.now)
        return Response(TenantBody(tenant).data, status=201)


class OneTenant(ControlView):
    acts_on = "governance.tenant"

    @extend_schema(operation_id="tenants_get", responses=TenantBody)
    def get(self, request: Request, slug: str) -> Response:
        return Response(TenantBody(self.one(Tenant.objects.all(), slug=slug)).data)

    @extend_schema(operation_id="tenants_change", request=TenantBody(partial=True), responses=TenantBody)
    def patch(self, request: Request, slug: str) -> Response:
        tenant = self.one(Tenant.objects.all(), slug=slug)
        changes = self.valid(TenantBody, request.data, partial=True)
        if changes.pop("slug", slug) != slug:
            raise serializers.ValidationError({"slug": ["cannot be changed: it names the tenant."]})
        _refuse_status(request.data, tenant.status)
        tenancy.change_tenant(tenant=tenant, changes=changes, by=self.by.actor, now=self.now)
        return Response(TenantBody(tenant).data)


class TenantPause(ControlView):
    acts_on = "governance.tenant"
    roles = {"POST": OPERATORS}
    act = staticmethod(tenancy.pause_tenant)

    @extend_schema(operation_id="tenants_pause", request=OptionalAct, responses=TenantBody)
    def post(self, request: Request, slug: str) -> Response:
        tenant = self.one(Tenant.objects.all(), slug=slug)
        reason = self.valid(OptionalAct, request.data)["reason"]
        self.act(tenant=tenant, reason=reason, by=self.by.actor, now=self.now)
        return Response(TenantBody(tenant).data)


@extend_schema_view(post=extend_schema(operation_id="tenants_resume"))
class TenantResume(TenantPause):
    act = staticmethod(tenancy.resume_tenant)


class Agents(ListView):
    acts_on = "governance.agent"
    table_name = "agents"

    @describe_list("agents_list", AgentBody, AgentQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(AgentQuery, request.query_params.dict())
        where = {"tenant__slug" if name == "tenant" else name: value for name, value in asked.items()}
        rows = Agent.objects.filter(**where).select_related("tenant").order_by("-id")
        return self.listed(rows, presenter(AgentBody), columns=columns_of(AgentBody))

    @extend_schema(operation_id="agents_create", request=AgentBody, responses={201: AgentBody})
    def post(self, request: Request) -> Response:
        asked = self.valid(AgentBody, request.data)
        _refuse_status(request.data, Agent.Status.ACTIVE)
        tenant = tenancy.tenant_named(asked["tenant"]["slug"])
        agent = tenancy.create_agent(tenant=tenant, slug=asked["slug"], by=self.by.actor, now=self.now)
        return Response(AgentBody(agent).data, status=201)


class OneAgent(ControlView):
    acts_on = "governance.agent"

    @extend_schema(operation_id="agents_get", responses=AgentBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(AgentBody(self.one(Agent.objects.select_related("tenant"), pk=id)).data)


class AgentPause(ControlView):
    acts_on = "governance.agent"
    roles = {"POST": OPERATORS}
    act = staticmethod(tenancy.pause_agent)

    @extend_schema(operation_id="agents_pause", request=OptionalAct, responses=AgentBody)
    def post(self, request: Request, id: int) -> Response:
        agent = self.one(Agent.objects.select_related("tenant"), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        self.act(agent=agent, reason=reason, by=self.by.actor, now=self.now)
        return Response(AgentBody(agent).data)


@extend_schema_view(post=extend_schema(operation_id="agents_resume"))
class AgentResume(AgentPause):
    act = staticmethod(tenancy.resume_agent)


class Keys(ListView):
    acts_on = "governance.apikey"
    table_name = "keys"

    @describe_list("keys_list", KeyBody, KeyQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(KeyQuery, request.query_params.dict())
        where = {f"{name}__slug" if name in ("tenant", "agent") else name: value for name, value in asked.items()}
        rows = ApiKey.objects.filter(**where).select_related("tenant", "agent").order_by("-id")
        return self.listed(rows, presenter(KeyBody), columns=columns_of(KeyBody))

    @extend_schema(operation_id="keys_create", request=KeyBody, responses={201: IssuedKeyBody})
    def post(self, request: Request) -> Response:
        asked = self.valid(KeyBody, request.data)
        tenant, agent = _holder((asked["tenant"] or {}).get("slug"), (asked["agent"] or {}).get("slug"))
        text, key = tenancy.issue_key(
            role=asked["role"],
            tenant=tenant,
            agent=agent,
            name=asked["name"],
            expires_at=asked["expires_at"],
            by=self.by.actor,
            now=self.now,
        )
        return Response({"key": text, **KeyBody(key).data}, status=201)


class OneKey(ControlView):
    acts_on = "governance.apikey"

    @extend_schema(operation_id="keys_get", responses=KeyBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(KeyBody(self.one(ApiKey.objects.select_related("tenant", "agent"), pk=id)).data)


class KeyRevoke(ControlView):
    acts_on = "governance.apikey"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="keys_revoke", request=OptionalAct, responses=KeyBody)
    def post(self, request: Request, id: int) -> Response:
        key = self.one(ApiKey.objects.select_related("tenant", "agent"), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        tenancy.revoke_key(key=key, reason=reason, by=self.by.actor, now=self.now)
        return Response(KeyBody(key).data)


class KeyRotate(ControlView):
    # It hands out a new key.
    permissions = {"POST": "governance.add_apikey"}
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="keys_rotate", request=RotateBody, responses={201: IssuedKeyBody})
    def post(self, request: Request, id: int) -> Response:
        """A new key for the same holder; the old one expires after the grace period."""
        key = self.one(ApiKey.objects.select_related("tenant", "agent__tenant"), pk=id)
        grace_s = self.valid(RotateBody, request.data).get("grace_s")
        grace = tenancy.ROTATION_GRACE if grace_s is None else timedelta(seconds=grace_s)
        text, fresh = tenancy.rotate_key(key=key, grace=grace, by=self.by.actor, now=self.now)
        return Response({"key": text, **KeyBody(fresh).data}, status=201)


def _holder(tenant_slug: str | None, agent_slug: str | None) -> tuple[Tenant | None, Agent | None]:
    if not tenant_slug:
        if agent_slug:
            raise missing("tenant", "name the agent's tenant.")
        return None, None
    tenant = tenancy.tenant_named(tenant_slug)
    return tenant, tenancy.agent_named(tenant, agent_slug) if agent_slug else None
