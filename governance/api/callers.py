"""The caller of a call that is reported or asked about, from a principal and a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.serializers import Serializer

from governance.actions import tenancy
from governance.api.authentication import Principal
from governance.api.fields import CallName, Name, Strict, missing, readable
from governance.models import Tenant
from governance.rules import names
from governance.rules.calls import Caller
from governance.rules.errors import FieldError

SCOPE_KINDS = ("tenant", *names.OF_A_CALL)


class CallerFields(Strict):
    """Who a call is for. Agents and tenants are known by their key; operators name the tenant."""

    tenant = Name("tenant", required=False)
    agent = CallName("agent", required=False, default="", allow_blank=True)
    user = CallName("user", required=False, default="", allow_blank=True)
    session = CallName("session", required=False, default="", allow_blank=True)
    task = CallName("task", required=False, default="", allow_blank=True)


@extend_schema_field(
    {
        "oneOf": [
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "array", "items": {"type": "string"}},
        ],
        "examples": [{"agent": "invoices"}, ["agent:invoices", "user:u-1"]],
    }
)
class Scopes(serializers.Field[dict[str, str], Any, Any, Any]):
    """{"agent": "invoices"}, ["agent:invoices"] or [{"scope_type": "agent", "scope_key": "invoices"}]."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        pairs = list(data.items()) if isinstance(data, dict) else [self._pair(item) for item in self._items(data)]
        for kind, _ in pairs:
            if kind not in SCOPE_KINDS:
                raise serializers.ValidationError(f"{kind!r} is no kind; there are {', '.join(SCOPE_KINDS)}.")
        found: dict[str, str] = {}
        for kind, given in pairs:
            try:
                key = names.of_call(kind, given)
            except FieldError as error:
                raise serializers.ValidationError(f"the key of {error.field} {error.message}") from error
            if found.setdefault(kind, key) != key:
                raise serializers.ValidationError(f"{kind} is given twice, and differently.")
        return found

    def _items(self, data: Any) -> list[Any]:
        if not isinstance(data, list):
            raise serializers.ValidationError('must be such as {"agent": "invoices"} or ["agent:invoices"].')
        return data

    def _pair(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, str) and ":" in item:
            kind, _, key = item.partition(":")
            return kind, key
        if isinstance(item, dict) and set(item) == {"scope_type", "scope_key"}:
            return item["scope_type"], item["scope_key"]
        raise serializers.ValidationError('must be such as {"agent": "invoices"} or ["agent:invoices"].')


def said(kind: type[Serializer[Any]], body: Any) -> dict[str, Any]:
    """What a body says of a call and of whom it is for, as `kind` reads it, without what it would refuse."""
    found = readable(kind, body, (*SCOPE_KINDS, "scopes", "model", "tool", "tools"))
    scopes: dict[str, Any] = found.pop("scopes", {})
    return scopes | {name: value for name, value in found.items() if value}


def caller_of(by: Principal, asked: Mapping[str, Any]) -> Caller:
    """Tenant, and agent of a bound key, come from the key; a body that says otherwise is refused."""
    tenant = _tenant(by, asked.get("tenant"))
    slug = asked.get("agent")
    if by.agent is not None and slug and slug != by.agent.slug:
        raise serializers.ValidationError({"agent": [f"this key is bound to {by.agent.slug}."]})
    return _caller(by, tenant, asked)


def known_caller(by: Principal, said: Mapping[str, Any]) -> Caller | None:
    """The same of a call that is refused, whatever it says against its key; None where it is for no tenant."""
    tenant = by.tenant or Tenant.objects.filter(slug=said.get("tenant", "")).first()
    return _caller(by, tenant, said) if tenant else None


def _caller(by: Principal, tenant: Tenant, said: Mapping[str, Any]) -> Caller:
    # An operator acts for a tenant, so an operator's own key is not what spends.
    key = by.key if by.tenant else None
    return Caller(
        tenant_id=tenant.pk,
        tenant=tenant.slug,
        agent=by.agent.slug if by.agent else said.get("agent", ""),
        key_id=key.pk if key else None,
        key_prefix=key.scope_key if key else "",
        user=said.get("user", ""),
        session=said.get("session", ""),
        task=said.get("task", ""),
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
