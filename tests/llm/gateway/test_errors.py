"""A refusal is the same on both planes, but for the envelope."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from django.http import HttpRequest
from rest_framework.request import Request

from governance.api import decisions
from governance.rules import refusals
from governance.rules.decision import Reason
from governance.rules.visibility import Audience
from llm.gateway import errors
from tests.factories import NOON
from tests.governance.rules.test_refusals import refused_for

REFUSING = [reason for reason in Reason if reason not in refusals.NO_REFUSALS]
TENANTS = Audience(is_tenants=True)
SAME = ("retry-after", "x-should-retry")


@pytest.mark.parametrize("over_budget_status", [402, 429])
@pytest.mark.parametrize("reason", REFUSING)
def test_both_planes_answer_a_refusal_alike(reason: Reason, over_budget_status: int, settings: Any) -> None:
    settings.OVER_BUDGET_STATUS = over_budget_status
    decision = refused_for(reason)
    gateway = errors.refusal(decision, audience=TENANTS, tenant="acme", now=NOON)
    asked = {"model": "large"}
    api = decisions.refused(decision, Request(HttpRequest()), asked=asked, audience=TENANTS, now=NOON, ahead=None)
    headers, said = dict(gateway.headers), gateway.body()
    assert (gateway.status, gateway.code) == (api.status_code, api.data["error"]["code"])
    assert {name: headers.get(name) for name in SAME} == {name: api.headers.get(name) for name in SAME}
    assert (said["code"], said["error"]["code"]) == (gateway.code, gateway.code)
    # They differ only in what they call the fields of a request.
    words = {"tool_choice": "forced_tool", "x-allow-downgrade": "allow_downgrade"}
    message = gateway.message
    for theirs, ours in words.items():
        message = message.replace(theirs, ours)
    assert message == api.data["error"]["message"] == api.data["error"]["decision"]["warning"]
    assert words.get(str(gateway.param), gateway.param) == api.data["error"]["param"]


@pytest.mark.parametrize(
    ("reason", "type"),
    [
        (Reason.BUDGET_EXHAUSTED, "insufficient_quota"),
        (Reason.DOWNGRADE_REFUSED, "insufficient_quota"),
        (Reason.BUDGET_IN_FLIGHT, "rate_limit_error"),
        (Reason.TENANT_SUSPENDED, "billing_error"),
        (Reason.TENANT_PAUSED, "permission_error"),
        (Reason.AGENT_PAUSED, "permission_error"),
        (Reason.EMERGENCY_STOP, "permission_error"),
        (Reason.RATE_LIMITED, "rate_limit_error"),
        (Reason.KEY_INVALID, "authentication_error"),
        (Reason.MODEL_NOT_PRICED, "invalid_request_error"),
        (Reason.TOOL_DISABLED, "invalid_request_error"),
    ],
)
def test_openai_s_clients_find_the_type_they_know(reason: Reason, type: str, settings: Any) -> None:
    # Also where the status is set to another.
    settings.OVER_BUDGET_STATUS = 429
    assert errors.refusal(refused_for(reason), audience=TENANTS, tenant="acme", now=NOON).type == type


def test_a_call_that_was_stopped_is_not_worth_a_retry() -> None:
    stopped = errors.stopped()
    assert (stopped.status, stopped.code, stopped.headers) == (403, "emergency_stop", (refusals.NEVER_RETRY,))
    assert stopped.message == "An operator has stopped these calls."


def test_a_limit_a_minute_that_all_share_is_in_no_header() -> None:
    own = refused_for(Reason.RATE_LIMITED)
    assert own.limited_by is not None
    shared = replace(own, limited_by=replace(own.limited_by, scope="platform"))
    told = [dict(errors.refusal(one, audience=TENANTS, tenant="acme", now=NOON).headers) for one in (own, shared)]
    assert [sorted(headers) for headers in told] == [
        ["retry-after", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ["retry-after"],
    ]


def test_what_cannot_be_written_is_named_escaped() -> None:
    said = errors.bad_request("a\ud800: is not\nknown.", param="a\ud800\n").body()
    assert (said["message"], said["param"]) == ("a\\ud800: is not\nknown.", "a\\ud800\\x0a")
    assert orjson.dumps(said)
