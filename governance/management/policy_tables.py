"""The tables of a policy file: how an entry of each is read, compared with what there is, and done.

The API's bodies read the entries, the domain's own checks judge them and its acts do them: a file is refused in the
words in which a request is, and what it changes is in the audit trail as if somebody had asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from django.db import models
from rest_framework import serializers

from governance import ports
from governance.actions import anomaly_rules, budgets, rate_limits, tenancy
from governance.actions.scoped_rules import ScopedRules, stored_scope
from governance.api.budgets import RENAMED, BudgetBody
from governance.api.fields import CallName, Dollars, Moment, Name, Strict, Text
from governance.api.rate_limits import RateLimitBody
from governance.api.tenants import TenantBody
from governance.audit import Actor
from governance.models import Agent, AnomalyRule, Budget, RateLimit, ScopeType, Tenant
from governance.models.anomalies import AnomalyAct
from governance.rules import money
from governance.rules.calls import DEAREST_CALL_NANOS, LONGEST_TOOL
from governance.rules.errors import Conflict, FieldError
from governance.rules.windows import WindowKind

CREATED, CHANGED, UNCHANGED = "created", "changed", "unchanged"
# Files and the API name columns of money without the unit.
MONEY = {"limit_nanos": "limit", "nanos_per_minute": "dollars_per_minute"}
# What an operator may set; that a tenant is suspended says billing.
STATUSES = [Tenant.Status.ACTIVE.value, Tenant.Status.PAUSED.value]

R = TypeVar("R", bound=models.Model)
# Does what an entry says: who, when, and why.
Act = Callable[[Actor, datetime, str], object]


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field of an entry that is not so yet. Dollars and shares are text; `old` is None where nothing was."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What applying one entry does. Two are equal that do the same to the same."""

    table: str
    # What an entry is for: of two that have one key, one would undo the other.
    key: tuple[Any, ...]
    name: str
    action: str
    differences: tuple[FieldDifference, ...]
    act: Act = field(compare=False, repr=False)


class TenantEntry(TenantBody):
    status = serializers.ChoiceField(choices=STATUSES, required=False)  # type: ignore[assignment]


class AgentEntry(Strict):
    tenant = Name("tenant")
    slug = CallName("agent")
    status = serializers.ChoiceField(choices=STATUSES)


class AnomalyRuleEntry(Strict):
    tenant = Name("tenant", required=False, allow_null=True, default=None)
    agent = Text(required=False, allow_blank=True, default="", max_length=100)
    act = serializers.ChoiceField(choices=AnomalyAct.values)
    degrade_to = Name("model", required=False, allow_blank=True)


class ToolEntry(Strict):
    name = Name("tool", max_length=LONGEST_TOOL)
    usd_per_call = Dollars(most=DEAREST_CALL_NANOS)
    effective_from = Moment(required=False)
    source = Text(required=False, allow_blank=True, default="", max_length=200)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """`body` reads an entry, which must have the fields `needed`; `plan` raises FieldError."""

    body: type[Strict]
    needed: tuple[str, ...]
    plan: Callable[[dict[str, Any]], PolicyChange]

    def fields(self) -> list[str]:
        return [name for name, field in self.body().fields.items() if not field.read_only]


def _planned_rule(
    table: str,
    rules: ScopedRules[R],
    row: R,
    known: R | None,
    given: dict[str, Any],
    *,
    name: str,
    create: Act,
    change: Act,
) -> PolicyChange:
    """Of a rule of a scope: `row` is one of its identity, `known` the one that there is."""
    tried = copy(known or row)
    rules.set(tried, given)
    rules.validate(tried)
    key = tuple(getattr(row, each) for each in rules.identity)
    new = rules.to_audit(tried)
    differences = _differences(rules.to_audit(known) if known else None, {each: new[each] for each in given})
    if known is None:
        return PolicyChange(table, key, name, CREATED, differences, create)
    return PolicyChange(table, key, name, CHANGED if differences else UNCHANGED, differences, change)


def _differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    """Of what was there, or of nothing."""

    def plain(column: str, value: Any) -> Any:
        return money.format_dollars(value) if column in MONEY and value is not None else value

    return tuple(
        FieldDifference(MONEY.get(column, column), plain(column, old and old[column]), plain(column, new[column]))
        for column in new
        if old is None or old[column] != new[column]
    )


def _tenant(asked: dict[str, Any]) -> PolicyChange:
    tenant = tenancy.tenant_named(asked.pop("slug"), field="slug")
    tenancy.check_tenant(tenant=tenant, changes=asked)
    differences = _differences({name: getattr(tenant, name) for name in asked}, asked)
    changes = {name: value for name, value in asked.items() if name != "status"}

    def act(by: Actor, now: datetime, reason: str) -> None:
        tenancy.change_tenant(tenant=tenant, changes=changes, by=by, now=now)
        if asked.get("status", tenant.status) != tenant.status:
            is_pause = asked["status"] == Tenant.Status.PAUSED
            (tenancy.pause_tenant if is_pause else tenancy.resume_tenant)(tenant=tenant, reason=reason, by=by, now=now)

    action = CHANGED if differences else UNCHANGED
    return PolicyChange("tenants", (tenant.pk,), f"tenant {tenant.slug}", action, differences, act)


def _agent(asked: dict[str, Any]) -> PolicyChange:
    agent = tenancy.agent_named(tenancy.tenant_named(asked["tenant"]), asked["slug"], field="slug")
    differences = _differences({"status": agent.status}, {"status": asked["status"]})

    def act(by: Actor, now: datetime, reason: str) -> None:
        is_pause = asked["status"] == Agent.Status.PAUSED
        (tenancy.pause_agent if is_pause else tenancy.resume_agent)(agent=agent, reason=reason, by=by, now=now)

    action = CHANGED if differences else UNCHANGED
    return PolicyChange("agents", (agent.pk,), f"agent {agent}", action, differences, act)


def _budget(asked: dict[str, Any]) -> PolicyChange:
    given = {RENAMED.get(name, name): value for name, value in asked.items()}
    scope, window = _scope(given), given.pop("window")
    known = budgets.find(**scope, window=window)
    if known is None and "limit_nanos" not in given:
        raise FieldError("limit", "a new budget needs one")
    row = Budget(**stored_scope(**scope), window=window, limit_nanos=given.get("limit_nanos", 0))
    found = _planned_rule(
        "budgets",
        budgets.BUDGETS,
        row,
        known,
        given,
        name=f"budget {row}",
        create=lambda by, now, reason: budgets.create(**scope, window=window, **given, by=by, now=now, reason=reason),
        change=lambda by, now, reason: budgets.change(budget=known, changes=given, by=by, now=now, reason=reason),  # type: ignore[arg-type]
    )
    if found.action != UNCHANGED:
        _refuse_decided_elsewhere(row, known)
    return found


def _refuse_decided_elsewhere(row: Budget, known: Budget | None) -> None:
    """What somebody else sets again would be as it was by the next payment, or the next start."""
    pays = row.scope_type == ScopeType.TENANT and row.window == WindowKind.BILLING_CYCLE and row.tenant_id is not None
    if (known is not None and known.source == Budget.Source.STRIPE) or (pays and ports.plans_of([row.tenant_id or 0])):
        raise Conflict("", f"{row} is Stripe's; the tenant's subscription and its plan decide that.")
    if known is not None and known.source == Budget.Source.DEFAULT:
        raise Conflict("", f"{row} is the platform's default; the setting DEFAULT_DAILY_BUDGET decides that.")


def _rate_limit(asked: dict[str, Any]) -> PolicyChange:
    if "tenant" in asked:
        asked["tenant"] = asked["tenant"]["slug"]
    scope = _scope(asked)
    known = rate_limits.find(**scope)
    row = RateLimit(**stored_scope(**scope))
    return _planned_rule(
        "rate_limits",
        rate_limits.RATE_LIMITS,
        row,
        known,
        asked,
        name=f"rate limit {row}",
        create=lambda by, now, reason: rate_limits.create(**scope, **asked, by=by, now=now, reason=reason),
        change=lambda by, now, reason: rate_limits.change(limit=known, changes=asked, by=by, now=now, reason=reason),  # type: ignore[arg-type]
    )


def _anomaly_rule(asked: dict[str, Any]) -> PolicyChange:
    whom = {"tenant": _owner(asked), "agent": asked.pop("agent", "")}
    known = anomaly_rules.find(**whom)
    if known is not None and asked["act"] != AnomalyAct.DEGRADE:
        # It goes with the act that it was for.
        asked.setdefault("degrade_to", "")
    row = AnomalyRule(**whom)
    return _planned_rule(
        "anomaly_rules",
        anomaly_rules.RULES,
        row,
        known,
        asked,
        name=f"anomaly rule {row}",
        create=lambda by, now, reason: anomaly_rules.create(**whom, **asked, by=by, now=now, reason=reason),
        change=lambda by, now, reason: anomaly_rules.change(rule=known, changes=asked, by=by, now=now, reason=reason),  # type: ignore[arg-type]
    )


def _tool(asked: dict[str, Any]) -> PolicyChange:
    """What it costs from now on, or from a moment on. A price is added; what calls were charged stays as it is."""
    name, nanos, since = asked["name"], asked["usd_per_call"], asked.get("effective_from")
    known = ports.tool_price(name, at=since)

    def act(by: Actor, now: datetime, reason: str) -> None:
        source = asked.get("source", "")
        try:
            ports.set_tool_price(
                name=name, nanos_per_call=nanos, effective_from=since, source=source, by=by, now=now, reason=reason
            )
        except FieldError:
            raise
        except ValueError as error:
            raise Conflict("", f"tool {name}: {error}") from error

    was = None if known is None else money.format_dollars(known)
    differences = (FieldDifference("usd_per_call", was, money.format_dollars(nanos)),) if known != nanos else ()
    action = CREATED if known is None else CHANGED if differences else UNCHANGED
    return PolicyChange("tools", (name, since), f"tool {name}", action, differences, act)


def _scope(given: dict[str, Any]) -> dict[str, Any]:
    """Takes the scope out of an entry."""
    return {
        "tenant": _owner(given),
        "scope_type": given.pop("scope_type"),
        "scope_key": given.pop("scope_key", ""),
    }


def _owner(given: dict[str, Any]) -> Tenant | None:
    slug = given.pop("tenant", None)
    return tenancy.tenant_named(slug) if slug else None


TABLES = {
    "tools": PolicyTable(ToolEntry, ("name", "usd_per_call"), _tool),
    "rate_limits": PolicyTable(RateLimitBody, ("scope_type",), _rate_limit),
    "anomaly_rules": PolicyTable(AnomalyRuleEntry, ("act",), _anomaly_rule),
    "budgets": PolicyTable(BudgetBody, ("scope_type", "window"), _budget),
    "agents": PolicyTable(AgentEntry, ("tenant", "slug", "status"), _agent),
    "tenants": PolicyTable(TenantEntry, ("slug",), _tenant),
}
