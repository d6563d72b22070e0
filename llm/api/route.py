"""/api/llm/route: a prompt and a strategy in, an answer and what it cost out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import orjson
from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import idempotency
from governance.api import errors
from governance.api.authentication import Principal
from governance.api.callers import CallerFields
from governance.api.fields import Name, Strict, Whole, missing, readable, surplus
from governance.api.once import PARAMETER
from governance.api.parsing import RelayedJson, header
from governance.api.refusing import RefusingView
from governance.models.tenancy import Role
from governance.rules import json_bounds, names
from governance.rules.calls import Caller
from governance.rules.json_bounds import BeyondBounds, JsonBounds
from llm.api import data_plane
from llm.gateway import bodies, inside
from llm.gateway.asgi import LEFT
from llm.rules import refusal_words, sse, usage
from llm.rules.answers import read_json

PATH = "/v1/chat/completions"
# Without a model the strategy alone chooses.
AUTO = "auto"
# What a caller may say of a call goes on to the gateway; a repeat under an Idempotency-Key is answered by it.
PASSED_ON = ("authorization", "idempotency-key", "traceparent", "x-agent", "x-user", "x-session", "x-task")
# What JSON is written with; what a model can write at most is the gateway's to say.
LARGEST = 2**63 - 1
# What the gateway calls some fields of this request.
CALLED = {"x-strategy": "strategy", "x-allow-downgrade": "allow_downgrade"}
# Of what the gateway refuses, and of what a model's API does. With another it means a refusal all the same, but none
# of this API's: a 405 is about another request than the one that was sent here.
STATUSES = data_plane.statuses() | {*data_plane.RELAYED}
# What the gateway says of a refusal beside its body.
PASSED_BACK = ("retry-after", "x-should-retry", idempotency.REPLAYED[0])


class RouteRequest(Strict):
    prompt = serializers.CharField(required=False, trim_whitespace=False, help_text="One message of a user.")
    messages = serializers.ListField(
        child=serializers.DictField(), required=False, allow_empty=False, help_text="As of /v1/chat/completions."
    )
    strategy = Name(
        "strategy", required=False, default="", help_text="One of the routing file's; its default strategy unless told."
    )
    model = Name("model", required=False, default="", help_text="Where no strategy is given: the model to ask first.")
    max_tokens = Whole(required=False, min_value=1, max_value=LARGEST)
    allow_downgrade = serializers.BooleanField(required=False, default=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "prompt" not in attrs and "messages" not in attrs:
            raise missing("prompt", "give either it or messages.")
        if "prompt" in attrs and "messages" in attrs:
            raise surplus("prompt", "give either it or messages, not both.")
        if attrs["model"] and attrs["strategy"]:
            raise surplus("model", "is chosen by the strategy; give one of them.")
        try:
            json_bounds.check({"messages": attrs.get("messages", [])}, JsonBounds(), writable=True)
        except BeyondBounds as error:
            raise serializers.ValidationError({error.field: [str(error)]}) from error
        return attrs


class RouteUsageBody(serializers.Serializer[Any]):
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class RouteDecisionBody(serializers.Serializer[Any]):
    """What was done to the call."""

    model_requested = serializers.CharField()
    downgrade_reason = serializers.CharField(allow_null=True)
    tools_disabled = serializers.ListField(child=serializers.CharField())
    max_tokens_clamped = serializers.IntegerField(allow_null=True)
    reserved = serializers.CharField(allow_null=True)
    budget_state = serializers.CharField(allow_null=True)
    budget_scope = serializers.CharField(allow_null=True)
    budget_remaining = serializers.CharField(allow_null=True)
    budget_resets_at = serializers.CharField(allow_null=True)
    budget_runs_out_at = serializers.CharField(
        allow_null=True, help_text="As it was last forecast; null: it lasts, or nobody knows."
    )


class RouteBody(serializers.Serializer[Any]):
    content = serializers.CharField(allow_null=True)
    model = serializers.CharField()
    strategy = serializers.CharField(allow_null=True)
    cost = serializers.CharField(help_text="Dollars.")
    usage = RouteUsageBody()
    latency_ms = serializers.FloatField()
    decision = RouteDecisionBody()
    request_id = serializers.CharField()


class RouteView(RefusingView):
    """Governed as any call: the gateway reserves, calls, falls back and settles."""

    parser_classes = [RelayedJson]
    roles = {"POST": frozenset({Role.AGENT, Role.TENANT})}
    refuses = {"POST": STATUSES}
    takes = RouteRequest

    @extend_schema(operation_id="llm_route", parameters=[PARAMETER], request=RouteRequest, responses=RouteBody)
    def post(self, request: Request) -> Response:
        """Answer a prompt by the model that the strategy and the budgets choose."""
        asked = self.valid(RouteRequest, request.data)
        body = _chat_request(asked)
        strategy = asked["strategy"] or ("" if asked["model"] else settings.DEFAULT_STRATEGY)
        headers = {name: request.headers.get(name, "") for name in PASSED_ON}
        headers |= {"x-strategy": strategy, "x-allow-downgrade": str(asked["allow_downgrade"]).lower()}
        # From here on the gateway notes what is refused, under the same request id.
        self.is_noted = True
        name = request._request.request_id  # type: ignore[attr-defined]
        began = time.perf_counter()
        try:
            called = CALLED | ({"messages": "prompt"} if "prompt" in asked else {})
            answer = inside.post(
                PATH, body, headers=headers, request_id=name, called=called, whose=self._whose(), left=_leaving(request)
            )
        except bodies.TooManyThreads as error:
            self.is_noted = False
            return _told(request, 429, "too_many_calls", f"{error}", retry_after_s=5)
        except inside.Left:
            # Nobody reads it.
            return Response(status=204)
        except inside.GatewayAway as error:
            return _told(request, 503, "gateway_away", f"{error}.", retry_after_s=1)
        if answer.status != 200:
            return _refused(answer, request)
        latency_ms = (time.perf_counter() - began) * 1000
        return Response(_answered(answer, strategy, latency_ms=latency_ms), headers=_passed_back(answer))

    def asker(self, by: Principal, said: Mapping[str, Any]) -> tuple[Caller | None, str]:
        # As the gateway does, by which the names of other calls are read.
        told = {kind: header(self.request, f"x-{kind}") for kind in names.OF_A_CALL}
        return super().asker(by, {**said, **readable(CallerFields, told, names.OF_A_CALL)})

    def _whose(self) -> tuple[int, int]:
        key, tenant = self.by.key, self.by.tenant
        assert key is not None and tenant is not None  # noqa: S101, PT018 - by its roles
        return key.pk, tenant.pk


def _leaving(request: Request) -> Future[None]:
    """Done when whoever asks has gone, where the server tells."""
    return getattr(request._request, "scope", {}).get(LEFT) or Future()


def _told(request: Request, status: int, code: str, message: str, *, retry_after_s: int) -> Response:
    body = errors.body(code, message, None, request)
    return Response(body, status=status, headers={"Retry-After": str(retry_after_s)})


def _chat_request(asked: Mapping[str, Any]) -> bytes:
    """The request in the words of /v1. What a message may be is said there, by the model that it is for."""
    fields = {
        "model": asked["model"] or AUTO,
        "messages": asked.get("messages") or [{"role": "user", "content": asked["prompt"]}],
        "max_tokens": asked.get("max_tokens"),
    }
    return orjson.dumps({name: value for name, value in fields.items() if value is not None}, default=_number)


def _number(value: Any) -> orjson.Fragment:
    """Fractions are Decimals since they were read, and go on as the numbers that they were."""
    if not isinstance(value, Decimal):
        raise TypeError(type(value).__name__)
    return orjson.Fragment(str(value))


def _answered(answer: inside.InsideAnswer, strategy: str, *, latency_ms: float) -> dict[str, Any]:
    """The gateway's answer in the control plane's words, whatever the model's API left out of it."""
    said = read_json(answer.body)
    said = said if isinstance(said, dict) else {}
    messages = (choice.get("message") for choice in sse.choices_of(said))
    message = next((message for message in messages if isinstance(message, dict)), {})
    used = usage.read_tokens(said)
    headers = answer.headers
    clamped, tools = headers.get("x-max-tokens-clamped"), headers.get("x-tools-disabled", "")
    return {
        "content": _text(message.get("content")),
        "model": unquote(headers.get("x-model-served", "")),
        "strategy": strategy or None,
        "cost": headers["x-request-cost-usd"],
        "usage": {
            "input_tokens": used.input_tokens if used else 0,
            "output_tokens": used.output_tokens if used else 0,
            "total_tokens": used.input_tokens + used.output_tokens if used else 0,
        },
        "latency_ms": round(latency_ms, 1),
        "decision": {
            "model_requested": unquote(headers.get("x-model-requested", "")) or None,
            "downgrade_reason": unquote(headers.get("x-downgrade-reason", "")) or None,
            "tools_disabled": [unquote(tool) for tool in tools.split(",") if tool],
            "max_tokens_clamped": int(clamped) if clamped else None,
            "reserved": headers.get("x-reserved-usd"),
            "budget_state": headers.get("x-budget-state"),
            "budget_scope": unquote(headers.get("x-budget-scope", "")) or None,
            "budget_remaining": headers.get("x-budget-remaining-usd"),
            "budget_resets_at": headers.get("x-budget-resets-at"),
            "budget_runs_out_at": headers.get("x-budget-runs-out-at"),
        },
        "request_id": headers.get("x-request-id"),
    }


def _text(content: Any) -> str | None:
    """The text of an answer, or the texts that it came in; what it thought is not among them."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) and content else None


def _refused(answer: inside.InsideAnswer, request: Request) -> Response:
    """The gateway's refusal, in the control plane's words."""
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = {}
    words = refusal_words.words_of(said)
    message = words.message or "The model's API refused the request."
    shown = errors.body(words.code or "refused_upstream", message, words.param or None, request)
    inner = said.get("error") if isinstance(said, dict) else None
    if isinstance(inner, dict) and "metadata" in inner:
        shown["error"]["metadata"] = inner["metadata"]
    status = answer.status if answer.status in STATUSES else 400
    return Response(shown, status=status, headers=_passed_back(answer))


def _passed_back(answer: inside.InsideAnswer) -> dict[str, str]:
    return {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers}
