"""What the data plane answers when it does not answer with a model's words.

The statuses are chosen by what real clients do with them: 402 is retried by none, 429 is sent again by most, a 422
with a string `detail` breaks one. The body serves the Mistral dialect (flat) and the OpenAI dialect (`error`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings

from governance import upgrades
from governance.rules import money
from governance.rules.buckets import E6, BucketView
from governance.rules.decision import Decision, Reason, WindowView

LONGEST_WAIT_S = 60
NEVER_RETRY = ("x-should-retry", "false")


@dataclass(frozen=True)
class GatewayError(Exception):
    """An answer other than a completion: status, type, code and a sentence."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        flat = {
            "object": "error",
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        inner: dict[str, Any] = {name: value for name, value in flat.items() if name != "object"}
        if self.metadata:
            inner["metadata"] = dict(self.metadata)
        return {**flat, "error": inner}


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> GatewayError:
    return GatewayError(400, "invalid_request_error", code, message, param)


def too_large(limit: int) -> GatewayError:
    return GatewayError(
        413, "invalid_request_error", "body_too_large", f"The body may have at most {limit} bytes.", None
    )


def unauthorized(message: str) -> GatewayError:
    return GatewayError(
        401, "authentication_error", "invalid_api_key", message, None, (("www-authenticate", "Bearer"),)
    )


def forbidden(message: str, *, code: str = "permission_denied") -> GatewayError:
    return GatewayError(403, "permission_error", code, message)


def not_found(message: str) -> GatewayError:
    return GatewayError(404, "invalid_request_error", "not_found", message)


def batch_not_allowed() -> GatewayError:
    """A job runs for hours after its request, so what it spends cannot be held for and settled as a call is."""
    message = "Batch jobs are not governed, so they are not passed on; send the calls one by one."
    return forbidden(message, code="batch_not_allowed")


def method_not_allowed(allowed: str) -> GatewayError:
    return GatewayError(
        405,
        "invalid_request_error",
        "method_not_allowed",
        f"Use {allowed} here.",
        None,
        (("allow", allowed),),
    )


def ledger_unavailable() -> GatewayError:
    return GatewayError(
        503,
        "service_unavailable",
        "ledger_unavailable",
        "The spend ledger cannot be reached; nothing was sent to the model. Try again.",
        None,
        (("retry-after", "1"),),
    )


def upstream(status: int, code: str, message: str, *, retry_after: str = "") -> GatewayError:
    """The provider's trouble, never the client's. Clients sleep through a long Retry-After, so it is cut short."""
    known = retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10
    headers = (("retry-after", str(min(int(retry_after), LONGEST_WAIT_S))),) if known else ()
    return GatewayError(status, "upstream_error", code, message, None, headers)


def provider_not_configured(model: str, provider: str) -> GatewayError:
    message = f"{model} is served by {provider}, for which no key is configured here."
    return bad_request(message, param="model", code="provider_not_configured")


def internal() -> GatewayError:
    return GatewayError(500, "api_error", "internal_error", "The gateway failed; the request id names the log entry.")


# Reason of a refusal -> status, type, code, sentence.
_REFUSALS: dict[Reason, tuple[int, str, str, str]] = {
    Reason.BUDGET_EXHAUSTED: (402, "insufficient_quota", "budget_exhausted", "The budget is used up"),
    Reason.DOWNGRADE_REFUSED: (
        402,
        "insufficient_quota",
        "budget_exhausted",
        "Only a cheaper model is within the budget, and x-allow-downgrade is false",
    ),
    Reason.BUDGET_IN_FLIGHT: (
        429,
        "rate_limit_error",
        "budget_in_flight",
        "The rest of the budget is held by calls in flight; try again shortly",
    ),
    Reason.TENANT_SUSPENDED: (
        402,
        "billing_error",
        "subscription_inactive",
        "The subscription is not active",
    ),
    Reason.TENANT_PAUSED: (403, "permission_error", "paused", "An operator has paused this tenant"),
    Reason.AGENT_PAUSED: (403, "permission_error", "paused", "An operator has paused this agent"),
    Reason.EMERGENCY_STOP: (403, "permission_error", "emergency_stop", "An operator has stopped these calls"),
    Reason.RATE_LIMITED: (429, "rate_limit_error", "rate_limit_exceeded", "Too fast for a limit a minute"),
    Reason.KEY_INVALID: (
        401,
        "authentication_error",
        "invalid_api_key",
        "This API key is revoked or has expired",
    ),
    Reason.MODEL_NOT_PRICED: (
        400,
        "invalid_request_error",
        "model_not_priced",
        "The catalogue has no price for this model, so it is not called",
    ),
    Reason.TOOL_DISABLED: (
        400,
        "invalid_request_error",
        "tool_disabled",
        "tool_choice forces a tool that is taken away near the budget's limit",
    ),
}
_PARAMS = {Reason.MODEL_NOT_PRICED: "model", Reason.TOOL_DISABLED: "tool_choice"}


def refusal(decision: Decision, *, show_amounts: bool, tenant: str, now: datetime) -> GatewayError:
    """The answer to a call of `tenant` that was not let through."""
    status, type, code, sentence = _REFUSALS[decision.reason]
    headers: list[tuple[str, str]] = []
    if status == 402:
        headers.append(NEVER_RETRY)
        if code == "budget_exhausted":
            status = settings.OVER_BUDGET_STATUS
    if decision.reason == Reason.BUDGET_IN_FLIGHT:
        headers.append(("retry-after", str(_until_returned_s(decision))))
    if decision.limited_by is not None:
        headers += _rate_headers(decision.limited_by, decision.retry_after_s)
        sentence = f"{sentence} of {decision.limited_by.scope}; try again in {decision.retry_after_s} s"
    because = decision.because
    if because is not None:
        sentence = f"{sentence}: {_describe(because, show_amounts=show_amounts)}"
    if decision.reason == Reason.MODEL_NOT_PRICED:
        sentence = f"{sentence}: {decision.model!r}"
    return GatewayError(
        status,
        type,
        code,
        f"{sentence}.",
        _PARAMS.get(decision.reason),
        (*headers, *budget_headers(because, show_amounts=show_amounts)),
        _metadata(because, show_amounts=show_amounts, tenant=tenant, now=now),
    )


def _until_returned_s(decision: Decision) -> int:
    """1 to 5 seconds: as if what the window's calls hold came back evenly within five."""
    view = decision.because
    if view is None or view.reserved_nanos <= 0:
        return 1
    missing_nanos = decision.wanted_nanos - max(0, view.room_nanos)
    return max(1, min(5, -(-5 * missing_nanos // view.reserved_nanos)))


def stopped() -> GatewayError:
    """The answer to a plain call that was running when an operator stopped it."""
    status, type, code, sentence = _REFUSALS[Reason.EMERGENCY_STOP]
    return GatewayError(status, type, code, f"{sentence}.", None, (NEVER_RETRY,))


def _rate_headers(limit: BucketView, retry_after_s: int) -> list[tuple[str, str]]:
    headers = [("retry-after", str(retry_after_s))]
    for name, ceiling, level_e6 in (
        ("requests", limit.ceilings.requests, limit.level.requests_e6),
        ("tokens", limit.ceilings.tokens, limit.level.tokens_e6),
    ):
        if ceiling is not None:
            headers.append((f"x-ratelimit-limit-{name}", str(ceiling)))
            headers.append((f"x-ratelimit-remaining-{name}", str(max(0, ceiling - -(-level_e6 // E6)))))
            headers.append((f"x-ratelimit-reset-{name}", f"{retry_after_s}s"))
    return headers


def budget_headers(
    view: WindowView | None, *, show_amounts: bool, remaining_nanos: int | None = None, state: str = ""
) -> list[tuple[str, str]]:
    """`x-budget-*` of the tightest window; amounts only where the tenant shows them."""
    if view is None:
        return []
    headers = [("x-budget-state", state or view.state.value), ("x-budget-scope", view.scope)]
    if show_amounts:
        remaining = view.room_nanos if remaining_nanos is None else remaining_nanos
        headers.append(("x-budget-limit-usd", money.format_dollars(view.limit_nanos)))
        headers.append(("x-budget-remaining-usd", money.format_dollars(max(0, remaining))))
    if view.ends_at is not None:
        headers.append(("x-budget-resets-at", rfc3339(view.ends_at)))
    return headers


def rfc3339(at: Any) -> str:
    return str(at.isoformat().replace("+00:00", "Z"))


def _describe(view: WindowView, *, show_amounts: bool) -> str:
    amounts = ""
    if show_amounts:
        spent, limit = money.format_dollars(view.settled_nanos), money.format_dollars(view.limit_nanos)
        amounts = f", ${spent} of ${limit} spent"
    kind = view.kind.replace("_", " ")
    until = f", until {rfc3339(view.ends_at)}" if view.ends_at else ""
    return f"{view.scope} per {kind}{amounts}{until}"


def _metadata(view: WindowView | None, *, show_amounts: bool, tenant: str, now: datetime) -> dict[str, Any]:
    if view is None:
        return {}
    shown: dict[str, Any] = {"budget": view.scope, "window": view.kind, "currency": "usd"}
    if show_amounts:
        shown |= {
            "limit": money.format_dollars(view.limit_nanos),
            "spent": money.format_dollars(view.settled_nanos),
            "reserved": money.format_dollars(view.reserved_nanos),
        }
    return shown | {
        "resets_at": rfc3339(view.ends_at) if view.ends_at else None,
        "upgrade_url": upgrades.url(tenant=tenant, window=view.kind, now=now),
    }
