"""Acts on the rules that say what is done by itself where money runs away. Each leaves an audit row."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from governance.actions.scoped_rules import ScopedRules
from governance.audit import Actor
from governance.models import AnomalyRule, Tenant
from governance.models.anomalies import AnomalyAct
from governance.models.budgets import EACH
from governance.rules import names
from governance.rules.errors import Conflict, FieldError


def validate(rule: AnomalyRule) -> None:
    """Raise FieldError for the first thing that no rule can be."""
    if rule.act not in AnomalyAct.values:
        raise FieldError("act", f"must be one of {', '.join(AnomalyAct.values)}")
    if rule.tenant_id is None and rule.agent not in ("", EACH):
        raise FieldError("agent", 'needs its customer; "*" is each agent of everybody')
    if rule.act != AnomalyAct.DEGRADE and rule.degrade_to:
        raise FieldError("degrade_to", "is for the act degrade alone")
    if rule.act == AnomalyAct.DEGRADE and not rule.degrade_to:
        raise FieldError("degrade_to", "name the model that calls go to")
    if rule.act == AnomalyAct.DEGRADE and not rule.agent:
        raise FieldError("act", "degrades agents alone: a budget that it makes for a customer would displace another")


RULES = ScopedRules(
    model=AnomalyRule,
    noun="anomaly rule",
    code="anomaly_rule",
    identity=("tenant", "agent"),
    fields=("act", "degrade_to"),
    validate=validate,
    conflict=lambda same: Conflict("", f"there is a rule for {same} already", existing=same),
    target=lambda rule: f"anomaly rule {rule}",
)


def check(*, rule: AnomalyRule | None = None, **values: Any) -> None:
    """Raise what `change` of a rule to these values would, or `create` where there is none. Nothing is written."""
    if rule is None:
        rule = _of(values.pop("tenant"), values.pop("agent"))
    RULES.check(rule, values)


def create(
    *, tenant: Tenant | None = None, agent: str = "", by: Actor, now: datetime, reason: str = "", **values: Any
) -> AnomalyRule:
    """Make a rule; `values` are its `act` and, to degrade, `degrade_to`. Raises FieldError, Conflict."""
    return RULES.create(_of(tenant, agent), values, by=by, now=now, reason=reason)


def find(*, tenant: Tenant | None = None, agent: str = "") -> AnomalyRule | None:
    """The rule for an agent, a customer or everybody, where there is one. Raises FieldError for what is no name."""
    return RULES.same(_of(tenant, agent))


def change(*, rule: AnomalyRule, changes: Mapping[str, Any], by: Actor, now: datetime, reason: str = "") -> AnomalyRule:
    """Have a rule do something else. What was done under it stays. Raises FieldError."""
    return RULES.change(rule, changes, by=by, now=now, reason=reason)


def delete(*, rule: AnomalyRule, by: Actor, now: datetime, reason: str = "") -> None:
    """Whom it was for is only told of from now on, or as a wider rule says."""
    RULES.delete(rule, by=by, now=now, reason=reason)


def _of(tenant: Tenant | None, agent: str) -> AnomalyRule:
    return AnomalyRule(tenant=tenant, agent=agent if agent in ("", EACH) else names.of_call("agent", agent))
