"""POST /api/decisions: what would happen to a call, by the function that decides on real ones."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import ledger, ports
from governance.api import errors
from governance.api.callers import caller_of
from governance.api.fields import Count, Dollars, Name, Names, Ratio
from governance.api.permissions import EVERYONE
from governance.api.spend import CallerFields
from governance.api.views import ControlView
from governance.models import Tenant
from governance.rules import money, names, refusals
from governance.rules.calls import Caller
from governance.rules.decision import Action, Call, Decision, Downgrade, WindowView, fixed
from governance.rules.errors import FieldError

SCOPE_KINDS = ("tenant", "agent", "user", "session", "task")


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
        try:
            return {kind: names.of_call(kind, key) for kind, key in pairs}
        except FieldError as error:
            raise serializers.ValidationError(f"the key of {error.field} {error.message}") from error

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


class DecisionRequest(CallerFields):
    """A call one thinks of making: who, which model, and how much at most."""

    scopes = Scopes(required=False)
    model = Name("model")
    tools = Names(required=False, default=list, max_length=500)
    forced_tool = Name("tool", required=False, default="", allow_blank=True)
    allow_downgrade = serializers.BooleanField(required=False, default=True)
    estimated_cost = Dollars(required=False, help_text="Stands for whichever model serves.")
    input_tokens = Count(required=False)
    max_tokens = Count(required=False, least=1)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for kind, key in attrs.pop("scopes", {}).items():
            if attrs.get(kind) not in (None, "", key):
                raise serializers.ValidationError({"scopes": [f"{kind} is given twice, and differently."]})
            attrs[kind] = key
        if "estimated_cost" in attrs and ("input_tokens" in attrs or "max_tokens" in attrs):
            raise serializers.ValidationError({"estimated_cost": ["give either it or token counts, not both."]})
        if "estimated_cost" not in attrs and "input_tokens" not in attrs:
            raise serializers.ValidationError({"estimated_cost": ["give it, or input_tokens and max_tokens."]})
        return attrs


class ViewBody(serializers.Serializer[WindowView]):
    """How one budget sees the call."""

    budget = serializers.IntegerField(source="budget_id")
    scope = serializers.CharField()
    window = serializers.CharField(source="kind")
    state = serializers.CharField()
    limit = Dollars(source="limit_nanos")
    spent = Dollars(source="settled_nanos")
    reserved = Dollars(source="reserved_nanos")
    remaining = Dollars(source="remaining_nanos")
    utilization = serializers.SerializerMethodField()
    starts_at = serializers.DateTimeField()
    resets_at = serializers.DateTimeField(source="ends_at", allow_null=True)

    def get_utilization(self, view: WindowView) -> float:
        return round(view.settled_nanos / view.limit_nanos, 4)


class DowngradeBody(serializers.Serializer[Downgrade]):
    """A rule that leads to the suggested model, and the budget that it belongs to; `at` is the share it counts from."""

    budget = serializers.IntegerField(source="view.budget_id")
    scope = serializers.CharField(source="view.scope")
    window = serializers.CharField(source="view.kind")
    to = serializers.CharField(source="rule.to")
    at = serializers.SerializerMethodField()

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        to, at = fields.pop("to"), fields.pop("at")
        return {**fields, "from": serializers.SerializerMethodField(), "to": to, "at": at}

    def get_from(self, step: Downgrade) -> list[str]:
        return sorted(step.rule.sources)

    def get_at(self, step: Downgrade) -> float:
        # For show only.
        return step.share_e4 / 10_000


class DecisionBody(serializers.Serializer[Any]):
    allowed = serializers.BooleanField()
    action = serializers.ChoiceField(choices=[action.value for action in Action])
    reason = serializers.CharField(allow_null=True)
    warning = serializers.CharField(allow_null=True)
    model = serializers.CharField()
    suggested_model = serializers.CharField(allow_null=True)
    downgrades = DowngradeBody(many=True)
    disabled_tools = serializers.ListField(child=serializers.CharField())
    estimated_cost = Dollars(allow_null=True)
    max_tokens = serializers.IntegerField(allow_null=True)
    clamped = serializers.BooleanField()
    limit = Dollars(allow_null=True)
    remaining = Dollars(allow_null=True)
    utilization = Ratio(allow_null=True)
    scope = serializers.CharField(allow_null=True)
    resets_at = serializers.DateTimeField(allow_null=True)
    budgets = ViewBody(many=True)


class Decisions(ControlView):
    roles = {"POST": EVERYONE}

    @extend_schema(operation_id="decisions_create", request=DecisionRequest, responses=DecisionBody)
    def post(self, request: Request) -> Response:
        """A dry run: nothing is held and nothing is written."""
        asked = self.valid(DecisionRequest, request.data)
        caller = caller_of(self.by, asked)
        decision = ledger.dry_run(caller, call_of(asked, caller), now=self.now)
        return Response(decided(decision, asked["model"]))


def decided(decision: Decision, asked_model: str) -> dict[str, Any]:
    """A decision as it is printed."""
    return dict(DecisionBody(_answer(decision, asked_model)).data)


def refused(decision: Decision, request: Request, *, model: str) -> Response:
    """The answer to a call that may not go; the whole decision is in it."""
    refusal = _refusal(decision)
    answer = errors.body(refusal.code, refusal.message, refusal.param, request)
    answer["error"]["decision"] = decided(decision, model)
    return Response(answer, status=refusal.status, headers=dict(refusal.headers))


def _refusal(decision: Decision) -> refusals.Refusal:
    return refusals.refusal(decision, over_budget_status=settings.OVER_BUDGET_STATUS)


def call_of(asked: dict[str, Any], caller: Caller) -> Call:
    """The call that a request describes, priced by its estimate or by its token counts."""
    if "estimated_cost" in asked:
        quote = fixed(asked["estimated_cost"])
    else:
        most = asked.get("max_tokens") or Tenant.objects.values_list("default_max_tokens", flat=True).get(
            pk=caller.tenant_id
        )
        quote = ports.by_tokens(input_tokens=asked["input_tokens"], max_tokens=most)
    return Call(
        model=asked["model"],
        quote=quote,
        tools=tuple(asked["tools"]),
        forced_tool=asked["forced_tool"],
        allow_downgrade=asked["allow_downgrade"],
    )


def _answer(decision: Decision, asked_model: str) -> dict[str, Any]:
    tightest, quote = decision.because or decision.tightest, decision.quote
    return {
        "allowed": decision.allowed,
        "action": decision.action.value,
        "reason": decision.reason.value or None,
        "warning": _warning(decision),
        "model": asked_model,
        "suggested_model": decision.model if decision.action == Action.DEGRADE else None,
        "downgrades": decision.downgrades,
        "disabled_tools": decision.disabled_tools,
        "estimated_cost": quote.cost_nanos if quote else None,
        "max_tokens": quote.max_tokens if quote else None,
        "clamped": decision.clamped,
        "limit": tightest.limit_nanos if tightest else None,
        "remaining": tightest.remaining_nanos if tightest else None,
        "utilization": round(tightest.settled_nanos / tightest.limit_nanos, 4) if tightest else None,
        "scope": tightest.scope if tightest else None,
        "resets_at": tightest.ends_at if tightest else None,
        "budgets": decision.views,
    }


def _warning(decision: Decision) -> str | None:
    """A sentence for people, where anything but a plain yes is answered."""
    if decision.reason not in refusals.NO_REFUSALS:
        return _refusal(decision).message
    window = decision.because
    if window is None:
        return None
    spent, limit = (money.format_dollars(nanos) for nanos in (window.settled_nanos, window.limit_nanos))
    said = f"{window.scope} has spent ${spent} of ${limit} this {window.kind.replace('_', ' ')}."
    return f"{refusals.sentence(decision)}. {said}"
