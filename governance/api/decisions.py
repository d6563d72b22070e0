"""POST /api/decisions: what would happen to a call, by the function that decides on real ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import ledger, ports, raise_links
from governance.api import errors
from governance.api.callers import CallerFields, Scopes, caller_of
from governance.api.fields import Count, Dollars, Name, Names, Ratio, missing, surplus
from governance.api.permissions import EVERYONE
from governance.api.views import ControlView
from governance.models import Tenant
from governance.queries import forecasts
from governance.rules import money, refusals
from governance.rules.calls import LONGEST_TOOL, Caller, tool_usage
from governance.rules.decision import Action, Call, Decision, Downgrade, Quote, Reason, fixed
from governance.rules.visibility import Audience, ShownWindow


class DecisionRequest(CallerFields):
    """A call one thinks of making: who, which model, and how much at most."""

    scopes = Scopes(required=False)
    model = Name("model", required=False)
    tool = Name("tool", required=False, max_length=LONGEST_TOOL, help_text="In place of a model: one that has a price.")
    calls = Count(required=False, least=1, help_text="Of the tool; one, where it is left out.")
    tools = Names(required=False, default=list, max_length=500)
    forced_tool = Name("tool", required=False, default="", allow_blank=True)
    allow_downgrade = serializers.BooleanField(required=False, default=True)
    estimated_cost = Dollars(required=False, help_text="Stands for whichever model serves.")
    input_tokens = Count(required=False)
    max_tokens = Count(required=False, least=1)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        _check_scopes(attrs)
        if "tool" in attrs:
            _check_tool(attrs)
            return attrs
        if "model" not in attrs:
            raise missing("model", "give it, or tool.")
        if "calls" in attrs:
            raise surplus("calls", "are of a tool.")
        if "estimated_cost" in attrs and ("input_tokens" in attrs or "max_tokens" in attrs):
            raise surplus("estimated_cost", "give either it or token counts, not both.")
        if "estimated_cost" not in attrs and "input_tokens" not in attrs:
            raise missing("estimated_cost", "give it, or input_tokens and max_tokens.")
        return attrs


def _check_scopes(attrs: dict[str, Any]) -> None:
    """Takes what `scopes` names for the caller's own fields."""
    for kind, key in attrs.pop("scopes", {}).items():
        if attrs.get(kind) not in (None, "", key):
            raise serializers.ValidationError({"scopes": [f"{kind} is given twice, and differently."]})
        attrs[kind] = key


def _check_tool(attrs: dict[str, Any]) -> None:
    """Of a call of a tool: its price is all that it costs."""
    others = ("model", "estimated_cost", "input_tokens", "max_tokens", "tools", "forced_tool")
    for name in others:
        if attrs.get(name) not in (None, "", []):
            raise surplus(name, "is of a call of a model, not of a tool.")
    attrs.setdefault("calls", 1)


class ViewBody(serializers.Serializer[ShownWindow]):
    """How one budget sees the call. Of a limit of the platform a tenant's key is told the period and its end."""

    budget = serializers.IntegerField(source="budget_id", allow_null=True)
    scope = serializers.CharField()
    window = serializers.CharField(source="kind")
    state = serializers.CharField(allow_null=True)
    limit = Dollars(source="limit_nanos", allow_null=True)
    spent = Dollars(source="settled_nanos", allow_null=True)
    reserved = Dollars(source="reserved_nanos", allow_null=True)
    remaining = Dollars(source="remaining_nanos", allow_null=True)
    utilization = Ratio(allow_null=True)
    starts_at = serializers.DateTimeField(allow_null=True)
    resets_at = serializers.DateTimeField(source="ends_at", allow_null=True)


class DowngradeBody(serializers.Serializer[Any]):
    """A rule that leads to the suggested model, and the budget that it belongs to; `at` is the share it counts from."""

    budget = serializers.IntegerField(allow_null=True)
    scope = serializers.CharField()
    window = serializers.CharField()
    to = serializers.CharField()
    at = Ratio(allow_null=True)

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        to, at = fields.pop("to"), fields.pop("at")
        return {**fields, "from": serializers.ListField(child=serializers.CharField()), "to": to, "at": at}


class DecisionBody(serializers.Serializer[Any]):
    allowed = serializers.BooleanField()
    action = serializers.ChoiceField(choices=[action.value for action in Action])
    reason = serializers.CharField(allow_null=True)
    warning = serializers.CharField(allow_null=True)
    model = serializers.CharField(help_text="Of a tool, the tool.")
    tool = serializers.CharField(allow_null=True, help_text="The tool, where it is one that is asked for.")
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
    runs_out_at = serializers.DateTimeField(
        allow_null=True,
        help_text="Of a budget that is warned of, or refused by: as it was last forecast. Null: it lasts, or nobody"
        " knows.",
    )
    budgets = ViewBody(many=True)


class Decisions(ControlView):
    permissions = {"POST": "governance.view_budget"}
    roles = {"POST": EVERYONE}

    @extend_schema(operation_id="decisions_create", request=DecisionRequest, responses=DecisionBody)
    def post(self, request: Request) -> Response:
        """A dry run: nothing is held and nothing is written."""
        asked = self.valid(DecisionRequest, request.data)
        caller = caller_of(self.by, asked)
        decision = ledger.dry_run(caller, call_of(asked, caller, self.by.audience), now=self.now)
        ahead = runs_out_at(decision, now=self.now)
        return Response(decided(decision, asked, audience=self.by.audience, ahead=ahead))


def runs_out_at(decision: Decision, *, now: datetime) -> datetime | None:
    """When the budget that is warned of, or refused by, runs out, as that was last kept; a plain yes asks nobody."""
    view = decision.because
    if view is None:
        return None
    kept = forecasts.running_out(now=now, budgets=[view.budget_id])
    return forecasts.runs_out_at(kept.get(view.budget_id), view, now=now)


def decided(
    decision: Decision, asked: Mapping[str, Any], *, audience: Audience, ahead: datetime | None
) -> dict[str, Any]:
    """A decision as it is printed for whoever asks, for the `model` or `tool` in `asked`.

    `ahead`: what `runs_out_at` found.
    """
    return dict(DecisionBody(_answer(decision, asked, audience, ahead)).data)


def refused(
    decision: Decision,
    request: Request,
    *,
    asked: Mapping[str, Any],
    audience: Audience,
    now: datetime,
    ahead: datetime | None,
) -> Response:
    """The answer to a call that may not go; the whole decision is in it, and where its owner may ask for more."""
    refusal = _refusal(decision, asked, audience, ahead)
    answer = errors.body(refusal.code, refusal.message, refusal.param, request)
    answer["error"]["decision"] = decided(decision, asked, audience=audience, ahead=ahead)
    answer["error"]["raise_url"] = raise_links.link(decision, now=now)
    return Response(answer, status=refusal.status, headers=dict(refusal.headers))


def _refusal(
    decision: Decision, asked: Mapping[str, Any], audience: Audience, ahead: datetime | None
) -> refusals.Refusal:
    return refusals.refusal(
        decision,
        over_budget_status=settings.OVER_BUDGET_STATUS,
        audience=audience,
        fields=refusals.OF_A_TOOL if "tool" in asked else refusals.FIELDS,
        runs_out_at=ahead,
    )


def call_of(asked: dict[str, Any], caller: Caller, audience: Audience) -> Call:
    """The call that a request describes, priced by its estimate, by its token counts or as so many of a tool."""
    if "tool" in asked:
        return _call_of_tool(asked["tool"], asked["calls"], allow_downgrade=asked["allow_downgrade"], audience=audience)
    overrun_quote = None
    if "estimated_cost" in asked:
        quote = fixed(asked["estimated_cost"])
    else:
        most = asked.get("max_tokens") or Tenant.objects.values_list("default_max_tokens", flat=True).get(
            pk=caller.tenant_id
        )
        by_tokens = partial(
            ports.by_tokens,
            input_tokens=asked["input_tokens"],
            max_tokens=most,
            asked=("tools",) if asked["tools"] else (),
        )
        quote, overrun_quote = by_tokens(), lambda overruns: by_tokens(overruns=overruns)
        # Where prices have to be read anew they are now, and not by the ledger, which has locked much by then.
        quote(asked["model"])
    return Call(
        model=asked["model"],
        quote=quote,
        tools=tuple(asked["tools"]),
        forced_tool=asked["forced_tool"],
        allow_downgrade=asked["allow_downgrade"],
        overrun_quote=overrun_quote,
        shows_amounts=audience.show_amounts,
    )


def _call_of_tool(tool: str, calls: int, *, allow_downgrade: bool, audience: Audience) -> Call:
    """No model takes its place. Held is what it will be charged, to the last nanodollar: nothing of it is a guess."""
    priced = ports.true_cost(tool_usage(tool, calls=calls))
    if priced is not None:
        money.refuse_beyond("calls", priced[0], most=money.MAX_AMOUNT_NANOS)
    return Call(
        model=tool,
        quote=lambda name: Quote(name, priced[0]) if priced is not None and name == tool else None,
        tools=(tool,),
        forced_tool=tool,
        allow_downgrade=allow_downgrade,
        unpriced=Reason.TOOL_NOT_PRICED,
        shows_amounts=audience.show_amounts,
    )


def _answer(decision: Decision, asked: Mapping[str, Any], audience: Audience, ahead: datetime | None) -> dict[str, Any]:
    because, quote = decision.because, decision.quote
    if because is None or (decision.allowed and not audience.is_own(because.scope)):
        because, ahead = audience.tightest(decision.views), None
    shown = audience.window(because, ahead) if because else None
    return {
        "allowed": decision.allowed,
        "action": decision.action.value,
        "reason": decision.reason.value or None,
        "warning": _warning(decision, asked, audience, ahead),
        "model": asked.get("tool") or asked["model"],
        "tool": asked.get("tool"),
        "suggested_model": decision.model if decision.action == Action.DEGRADE else None,
        "downgrades": [_downgrade(step, audience) for step in decision.downgrades],
        "disabled_tools": decision.disabled_tools,
        "estimated_cost": quote.cost_nanos if quote else None,
        "max_tokens": quote.max_tokens if quote else None,
        "clamped": decision.clamped,
        "limit": shown.limit_nanos if shown else None,
        "remaining": shown.remaining_nanos if shown else None,
        "utilization": shown.utilization if shown else None,
        "scope": shown.scope if shown else None,
        "resets_at": shown.ends_at if shown else None,
        "runs_out_at": shown.runs_out_at if shown else None,
        "budgets": [audience.window(view) for view in decision.views],
    }


def _downgrade(step: Downgrade, audience: Audience) -> dict[str, Any]:
    window = audience.window(step.view)
    return {
        "budget": window.budget_id,
        "scope": window.scope,
        "window": window.kind,
        "from": sorted(step.rule.sources),
        "to": step.rule.to,
        # For show only.
        "at": step.share_e4 / 10_000 if audience.is_own(window.scope) else None,
    }


def _warning(decision: Decision, asked: Mapping[str, Any], audience: Audience, ahead: datetime | None) -> str | None:
    """A sentence for people, where anything but a plain yes is answered."""
    if decision.reason not in refusals.NO_REFUSALS:
        return _refusal(decision, asked, audience, ahead).message
    if decision.because is None:
        return None
    window = audience.window(decision.because, ahead)
    if window.settled_nanos is None or window.limit_nanos is None:
        return f"{refusals.sentence(decision)}: {window.name}{refusals.times(window)}."
    spent, limit = (money.format_dollars(nanos) for nanos in (window.settled_nanos, window.limit_nanos))
    said = f"{window.scope} has spent ${spent} of ${limit} this {window.kind.replace('_', ' ')}"
    return f"{refusals.sentence(decision)}. {said}{refusals.times(window)}."
