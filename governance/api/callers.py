"""The caller of a call that is reported or asked about, from a principal and a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from governance.actions import tenancy
from governance.api.authentication import Principal
from governance.api.fields import missing
from governance.models import Tenant
from governance.rules.calls import Caller


def caller_of(by: Principal, asked: Mapping[str, Any]) -> Caller:
    """Tenant, and agent of a bound key, come from the key; a body that says otherwise is refused."""
    tenant = _tenant(by, asked.get("tenant"))
    return Caller(
        tenant_id=tenant.pk,
        tenant=tenant.slug,
        agent=_agent(by, asked.get("agent", "")),
        # An operator acts for a tenant, so an operator's own key is not what spends.
        key_id=by.key.pk if by.key and by.tenant else None,
        key_prefix=by.key.scope_key if by.key and by.tenant else "",
        user=asked.get("user", ""),
        session=asked.get("session", ""),
        task=asked.get("task", ""),
    )


def _tenant(by: Principal, slug: str | None) -> Tenant:
    if by.tenant is None:
        if not slug:
            raise missing("tenant", "name the tenant this is for.")
        return tenancy.tenant_named(slug)
    if slug and slug != by.tenant.slug:
        whose = "this key belongs" if by.key else "your account is bound"
        raise serializers.ValidationError({"tenant": [f"{whose} to {by.tenant.slug}."]})
    return by.tenant


def _agent(by: Principal, slug: str) -> str:
    if by.agent is None:
        return slug
    if slug and slug != by.agent.slug:
        raise serializers.ValidationError({"agent": [f"this key is bound to {by.agent.slug}."]})
    return by.agent.slug
