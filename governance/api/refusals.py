"""What a refused reservation answers: the data plane's statuses and codes, in the control plane's envelope."""

from __future__ import annotations

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api import errors
from governance.api.decisions import MESSAGES, decided
from governance.rules.decision import Decision, Reason

BUDGET_EXHAUSTED = "budget_exhausted"
# Reason -> status and code. A 402 is retried by no client, a 429 by most.
REFUSALS: dict[Reason, tuple[int, str]] = {
    Reason.TENANT_PAUSED: (403, "paused"),
    Reason.AGENT_PAUSED: (403, "paused"),
    Reason.EMERGENCY_STOP: (403, "emergency_stop"),
    Reason.TENANT_SUSPENDED: (402, "subscription_inactive"),
    Reason.KEY_INVALID: (401, "invalid_api_key"),
    Reason.MODEL_NOT_PRICED: (400, "model_not_priced"),
    Reason.TOOL_DISABLED: (400, "tool_disabled"),
    Reason.BUDGET_EXHAUSTED: (402, BUDGET_EXHAUSTED),
    Reason.DOWNGRADE_REFUSED: (402, BUDGET_EXHAUSTED),
    Reason.BUDGET_IN_FLIGHT: (429, "budget_in_flight"),
    Reason.RATE_LIMITED: (429, "rate_limit_exceeded"),
}
PARAMS = {Reason.MODEL_NOT_PRICED: "model", Reason.TOOL_DISABLED: "forced_tool"}
NEVER_RETRY = {"x-should-retry": "false"}


def refused(decision: Decision, request: Request, *, model: str) -> Response:
    """The answer to a call that may not go; the whole decision is in it."""
    status, code = REFUSALS[decision.reason]
    headers = NEVER_RETRY if status == 402 else {}
    if status == 429:
        headers = {"Retry-After": str(decision.retry_after_s or 1)}
    if code == BUDGET_EXHAUSTED:
        status = settings.OVER_BUDGET_STATUS
    shown = decided(decision, model)
    message = shown["warning"] or MESSAGES[decision.reason]
    answer = errors.body(code, message, PARAMS.get(decision.reason), request)
    answer["error"]["decision"] = shown
    return Response(answer, status=status, headers=headers)
