"""/api/rate-limits: ceilings a minute of dollars, requests and tokens."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import rate_limits, tenancy
from governance.api.fields import Count, Dollars, Name, Query, ScopeKeyFilter, Strict, Text, looked_for
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import RateLimit, ScopeType
from governance.rules import money


class RateLimitBody(Strict):
    """Ceilings a minute for a scope, which is named as a budget's is. An empty ceiling is none."""

    id = serializers.IntegerField(read_only=True)
    tenant = Name("tenant", source="tenant.slug", required=False, allow_null=True, default=None)
    scope_type = serializers.ChoiceField(choices=ScopeType.values)
    scope_key = Text(required=False, allow_blank=True, default="", max_length=200)
    scope = serializers.CharField(read_only=True)
    dollars_per_minute = Dollars(
        source="nanos_per_minute", minimum=1, most=money.MAX_LIMIT_NANOS, required=False, allow_null=True
    )
    requests_per_minute = Count(required=False, allow_null=True, least=1)
    tokens_per_minute = Count(required=False, allow_null=True, least=1)
    enabled = serializers.BooleanField(required=False)
    created_at = serializers.DateTimeField(read_only=True)


class RateLimitQuery(Query):
    tenant = Name("tenant", required=False)
    scope_type = serializers.ChoiceField(choices=ScopeType.values, required=False)
    scope_key = ScopeKeyFilter(required=False)
    enabled = serializers.BooleanField(required=False)


class RateLimits(ListView):
    acts_on = "governance.ratelimit"
    table_name = "rate-limits"

    @describe_list("rate_limits_list", RateLimitBody, RateLimitQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(RateLimitQuery, request.query_params.dict())
        slug = asked.pop("tenant", None)
        asked = {looked_for(name, value): value for name, value in asked.items()}
        rows = _every().filter(Q(**asked) & (Q(tenant__slug=slug) if slug else Q()))
        return self.listed(rows, presenter(RateLimitBody), columns=columns_of(RateLimitBody))

    @extend_schema(operation_id="rate_limits_create", request=RateLimitBody, responses={201: RateLimitBody})
    def post(self, request: Request) -> Response:
        """A second one for the same scope is a 409."""
        made = rate_limits.create(**_internal(self.valid(RateLimitBody, request.data)), by=self.by.actor, now=self.now)
        return Response(RateLimitBody(made).data, status=201)


class OneRateLimit(ControlView):
    acts_on = "governance.ratelimit"

    @extend_schema(operation_id="rate_limits_get", responses=RateLimitBody)
    def get(self, request: Request, id: int) -> Response:
        return Response(RateLimitBody(self.one(_every(), pk=id)).data)

    @extend_schema(operation_id="rate_limits_change", request=RateLimitBody(partial=True), responses=RateLimitBody)
    def patch(self, request: Request, id: int) -> Response:
        """Ceilings and `enabled`; null takes a ceiling away. Its scope stays: that is another rate limit."""
        limit = self.one(_every(), pk=id)
        changes = _internal(self.valid(RateLimitBody, request.data, partial=True))
        if limit.scope_type == ScopeType.TENANT and changes.get("scope_key") == "":
            # Stored as the tenant's slug; leaving it out says the same.
            del changes["scope_key"]
        changed = rate_limits.change(limit=limit, changes=changes, by=self.by.actor, now=self.now)
        return Response(RateLimitBody(changed).data)

    @extend_schema(operation_id="rate_limits_delete", responses={204: None})
    def delete(self, request: Request, id: int) -> Response:
        rate_limits.delete(limit=self.one(_every(), pk=id), by=self.by.actor, now=self.now)
        return Response(status=204)


def _every() -> Any:
    return RateLimit.objects.select_related("tenant").order_by("-id")


def _internal(asked: dict[str, Any]) -> dict[str, Any]:
    """Validated fields in the domain's types."""
    if "tenant" in asked:
        slug = (asked["tenant"] or {}).get("slug")
        asked["tenant"] = tenancy.tenant_named(slug) if slug else None
    return asked
