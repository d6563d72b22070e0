"""A budget's policy as the API reads and shows it, of budgets and of plans; `governance.rules.policy` defines it."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from governance.api.fields import Name, Names, Ratio, Strict, Whole
from governance.rules import policy


class DowngradeRule(Strict):
    """From any of these models ("*" is any) to another, from a share of the limit on: `at`, else the soft cap.

    The first that matches a call is followed, and no other unless its model does not fit or cannot do the job.
    """

    to = Name("model")
    at = Ratio(required=False)

    def get_fields(self) -> dict[str, Any]:
        return {"from": Names(allow_empty=False), **super().get_fields()}


class PolicyBody(Strict):
    """What has a limit and a policy; the policy's fields stand behind the limit."""

    soft_cap = Ratio(required=False, allow_null=True)
    hard_cap = Ratio(required=False)
    warn_at = Ratio(required=False, allow_null=True)
    alert_thresholds = serializers.ListField(child=Ratio(), required=False, max_length=20)
    downgrade_rules = DowngradeRule(many=True, required=False)
    disabled_tools = serializers.ListField(child=Name("tool"), required=False, max_length=200)
    clamp = serializers.BooleanField(required=False)
    clamp_min_tokens = Whole(required=False, min_value=1, max_value=10_000_000)

    def get_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().get_fields()
        own = {name: fields.pop(name) for name in policy.COLUMNS}
        names = list(fields)
        behind = names.index("limit") + 1
        return {name: fields.get(name) or own[name] for name in (*names[:behind], *own, *names[behind:])}
