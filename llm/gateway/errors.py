"""What the data plane answers when it does not answer with a model's words.

Refusals are the rows of `governance.rules.refusals`; this is their envelope, and that of all other errors. The body
serves the Mistral dialect (flat) and the OpenAI dialect (`error`); a 422 with a string `detail` breaks one client.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings

from governance import ports, raise_links
from governance.rules import money, names, refusals
from governance.rules.buckets import E6
from governance.rules.decision import Action, Decision, Reason
from governance.rules.visibility import Audience, ShownWindow
from llm.gateway import bodies

if TYPE_CHECKING:
    # Servers load this module before there are models.
    from llm.gateway.forecasts import KnownForecasts

LONGEST_WAIT_S = 60


# Not frozen: whoever passes an error on, as a context manager does, writes its traceback.
@dataclass(eq=False)
class GatewayError(Exception):
    """An answer other than a completion: status, type, code and a sentence."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # Of a refusal by the budgets.
    decision: Decision | None = None
    # Of one because the models that could answer are left alone: until when.
    free_at: datetime | None = None

    def body(self) -> dict[str, Any]:
        """What it names as it came is written so that it can be sent and seen."""
        flat = {
            "object": "error",
            "message": names.printable(self.message, keep="\n"),
            "type": self.type,
            "param": names.printable(self.param) if self.param else self.param,
            "code": self.code,
        }
        inner: dict[str, Any] = {name: value for name, value in flat.items() if name != "object"}
        if self.metadata:
            inner["metadata"] = dict(self.metadata)
        return {**flat, "error": inner}


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> GatewayError:
    return GatewayError(400, "invalid_request_error", code, message, param)


def sent_twice(header: str) -> GatewayError:
    """Of two values nobody knows which is meant, and a proxy before us may go by the other one."""
    return bad_request(f"The header {header} was sent more than once: send it once.", param=header, code="sent_twice")


def unsupported(message: str, *, param: str) -> GatewayError:
    """The body is written or packed in a way that is not read here."""
    return GatewayError(415, "invalid_request_error", "unsupported_media_type", message, param)


# What can be wrong with a body whatever is in it: status, code and field. The rest of it may still be on its way.
BODIES: Mapping[type[Exception], tuple[int, str, str | None]] = {
    bodies.BodyTooLarge: (413, "body_too_large", None),
    bodies.BodyTooSlow: (408, "body_timeout", None),
    bodies.CodingUnknown: (501, "transfer_encoding_unknown", "transfer-encoding"),
    bodies.PackingUnknown: (415, "unsupported_media_type", "content-encoding"),
    bodies.PackingBroken: (400, "invalid_request", "content-encoding"),
    bodies.TooManyBodies: (429, "too_many_large_bodies", None),
}


def bad_body(error: Exception) -> GatewayError:
    return of_body(type(error), str(error))


def of_body(kind: type[Exception], message: str) -> GatewayError:
    """The answer to a body with which something of `BODIES` is wrong."""
    status, code, param = BODIES[kind]
    headers = [("connection", "close")]
    if status == 415:
        headers.append(("accept-encoding", ", ".join(bodies.PACKINGS)))
    if status == 429:
        headers.append(("retry-after", "1"))
    return GatewayError(status, _TYPES.get(status, "invalid_request_error"), code, message, param, tuple(headers))


def headers_too_large(limit: int, count: int) -> GatewayError:
    message = f"The request's line and headers may have at most {limit:,} bytes, and be at most {count} headers."
    return GatewayError(431, "invalid_request_error", "headers_too_large", message)


def headers_too_slow() -> GatewayError:
    message = "The request's headers did not come in time; send it again."
    return GatewayError(408, "invalid_request_error", "headers_timeout", message)


def unauthorized(message: str) -> GatewayError:
    return GatewayError(
        401, "authentication_error", "invalid_api_key", message, None, (("www-authenticate", "Bearer"),)
    )


def key_ended() -> GatewayError:
    """The answer to a key that was revoked or has expired: the refusal that the ledger has for it."""
    row = refusals.ROWS[Reason.KEY_INVALID]
    return replace(unauthorized(f"{row.sentence}."), decision=Decision(Action.HARD_STOP, Reason.KEY_INVALID))


def forbidden(message: str, *, code: str = "permission_denied") -> GatewayError:
    return GatewayError(403, "permission_error", code, message)


def too_many_agents(most: int) -> GatewayError:
    message = (
        f"This tenant has {most:,} agents, which is the most that calls register by naming them:"
        " name one of these, or have an operator add this one."
    )
    return forbidden(message, code="too_many_agents")


def too_many_requests(message: str) -> GatewayError:
    return GatewayError(429, "rate_limit_error", "too_many_requests", message, None, (("retry-after", "5"),))


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


def ledger_unavailable(*, held_up: str | None = None) -> GatewayError:
    """`held_up`: the tenant, where it can be reached and a lock keeps the rest from it."""
    what = "cannot be reached" if held_up is None else f"is locked for {held_up}"
    return GatewayError(
        503,
        "service_unavailable",
        "ledger_unavailable",
        f"The spend ledger {what}; nothing was sent to the model. Try again.",
        None,
        (("retry-after", "1"),),
    )


def upstream(status: int, code: str, message: str, *, retry_after_s: float | None = None) -> GatewayError:
    """The provider's trouble, never the client's. Clients sleep through a long Retry-After, so it is cut short."""
    headers: tuple[tuple[str, str], ...] = ()
    if retry_after_s is not None:
        headers = (("retry-after", str(max(1, math.ceil(min(retry_after_s, LONGEST_WAIT_S))))),)
    return GatewayError(status, "upstream_error", code, message, None, headers)


def provider_not_configured(model: str, provider: str) -> GatewayError:
    """It has no key, or an operator has switched it off or must mend it: which is not a tenant's to know."""
    message = f"{model} is served by {provider}, which is not set up here or is switched off."
    return bad_request(message, param="model", code="provider_not_configured")


def internal() -> GatewayError:
    return GatewayError(500, "api_error", "internal_error", "The gateway failed; the request id names the log entry.")


# What OpenAI calls the kinds of errors, by status; of a code alone where it says more.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
_TYPES_OF_CODES = {"subscription_inactive": "billing_error"}
# What the data plane calls the fields of a call.
FIELDS = {"model": "model", "forced_tool": "tool_choice", "allow_downgrade": "x-allow-downgrade"}


def fields_as(called: Callable[[str], str]) -> dict[str, str]:
    """FIELDS as whoever asks calls them."""
    return {field: called(name) for field, name in FIELDS.items()}


def refusal(
    decision: Decision,
    *,
    audience: Audience,
    tenant: str,
    now: datetime,
    fields: Mapping[str, str] = FIELDS,
    forecasts: KnownForecasts | None = None,
) -> GatewayError:
    """The answer to a call of `tenant` that was not let through."""
    runs_out_at = forecasts.runs_out_at(decision.because, now=now) if forecasts and decision.because else None
    refused = refusals.refusal(
        decision,
        over_budget_status=settings.OVER_BUDGET_STATUS,
        audience=audience,
        fields=fields,
        runs_out_at=runs_out_at,
    )
    because = audience.window(decision.because, runs_out_at) if decision.because else None
    return GatewayError(
        refused.status,
        _type_of(decision.reason),
        refused.code,
        refused.message,
        refused.param,
        (
            *refused.headers,
            *_rate_headers(decision, audience),
            *budget_headers(because),
        ),
        _metadata(because, decision, tenant=tenant, now=now),
        decision,
    )


def let_go(error: BaseException) -> None:
    """Empty the frames that an error came through, which are over: one that knows the error again would keep the call,
    and its body, until Python's collector comes by."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [one.__cause__, one.__context__]


def stopped() -> GatewayError:
    """The answer to a plain call that was running when an operator stopped it."""
    row = refusals.ROWS[Reason.EMERGENCY_STOP]
    return GatewayError(row.status, _type_of(row.reason), row.code, f"{row.sentence}.", None, (refusals.NEVER_RETRY,))


def _type_of(reason: Reason) -> str:
    row = refusals.ROWS[reason]
    return _TYPES_OF_CODES.get(row.code, _TYPES[row.status])


def _rate_headers(decision: Decision, audience: Audience) -> list[tuple[str, str]]:
    limit, headers = decision.limited_by, []
    if limit is None or not audience.is_own(limit.scope):
        return []
    for name, ceiling, level_e6 in (
        ("requests", limit.ceilings.requests, limit.level.requests_e6),
        ("tokens", limit.ceilings.tokens, limit.level.tokens_e6),
    ):
        if ceiling is not None:
            headers.append((f"x-ratelimit-limit-{name}", str(ceiling)))
            headers.append((f"x-ratelimit-remaining-{name}", str(max(0, ceiling - -(-level_e6 // E6)))))
            headers.append((f"x-ratelimit-reset-{name}", f"{decision.retry_after_s}s"))
    return headers


def budget_headers(window: ShownWindow | None) -> list[tuple[str, str]]:
    """`x-budget-*` of a window, as far as it is shown."""
    if window is None:
        return []
    headers = [("x-budget-scope", names.for_header(window.scope))]
    if window.state is not None:
        headers.append(("x-budget-state", window.state.value))
    if window.limit_nanos is not None and window.remaining_nanos is not None:
        headers.append(("x-budget-limit-usd", money.format_dollars(window.limit_nanos)))
        headers.append(("x-budget-remaining-usd", money.format_dollars(window.remaining_nanos)))
    if window.ends_at is not None:
        headers.append(("x-budget-resets-at", refusals.rfc3339(window.ends_at)))
    if window.runs_out_at is not None:
        headers.append(("x-budget-runs-out-at", refusals.rfc3339(window.runs_out_at)))
    return headers


def amounts(window: ShownWindow) -> dict[str, str]:
    """The amounts of a window in dollars; none where they are not shown."""
    figures = {
        "limit": window.limit_nanos,
        "spent": window.settled_nanos,
        "reserved": window.reserved_nanos,
        "remaining": window.remaining_nanos,
    }
    return {name: money.format_dollars(nanos) for name, nanos in figures.items() if nanos is not None}


def _metadata(window: ShownWindow | None, decision: Decision, *, tenant: str, now: datetime) -> dict[str, Any]:
    if window is None:
        return {}
    return {
        "budget": window.scope,
        "window": window.kind,
        "currency": "usd",
        **amounts(window),
        "resets_at": refusals.rfc3339(window.ends_at) if window.ends_at else None,
        "runs_out_at": refusals.rfc3339(window.runs_out_at) if window.runs_out_at else None,
        "upgrade_url": ports.upgrade_url(tenant=tenant, window=window.kind, now=now),
        "raise_url": raise_links.link(decision, now=now),
    }
