"""The table of refusals, and what it says of a call."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from governance.rules import refusals
from governance.rules.buckets import Amount, BucketView, Ceilings
from governance.rules.decision import Action, Decision, Policy, Reason, WindowView
from governance.rules.visibility import Audience
from tests.factories import NOON, nanos


def window(*, spent: str = "3", reserved: str = "2", ends: bool = False) -> WindowView:
    return WindowView(
        budget_id=1,
        window_id=1,
        scope="tenant:acme",
        scope_type="tenant",
        scope_key="acme",
        kind="billing_cycle",
        starts_at=NOON,
        ends_at=NOON if ends else None,
        limit_nanos=nanos("10"),
        settled_nanos=nanos(spent),
        reserved_nanos=nanos(reserved),
        policy=Policy(hard_e4=5_000, soft_e4=None),
    )


def refused_for(reason: Reason) -> Decision:
    """A decision with all that such a refusal has to say."""
    of_a_window = reason in {
        Reason.BUDGET_EXHAUSTED,
        Reason.BUDGET_IN_FLIGHT,
        Reason.DOWNGRADE_REFUSED,
        Reason.TOOL_DISABLED,
    }
    limited = reason is Reason.RATE_LIMITED
    return Decision(
        Action.IN_FLIGHT if limited or reason is Reason.BUDGET_IN_FLIGHT else Action.HARD_STOP,
        reason,
        model="large",
        because=window() if of_a_window else None,
        views=(window(),),
        limited_by=BucketView("tenant:acme", Ceilings(requests=3), Amount(), NOON) if limited else None,
        retry_after_s=7 if limited else 0,
        wanted_nanos=nanos("1.5"),
    )


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_one_row_unless_the_call_may_go(reason: Reason) -> None:
    rows = [row for row in refusals.TABLE if row.reason is reason]
    assert len(rows) == (0 if reason in set(refusals.NO_REFUSALS) else 1)
    assert (reason in refusals.NO_REFUSALS) is not bool(rows)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (Reason.BUDGET_EXHAUSTED, "The budget is used up: tenant:acme per billing cycle, $3.00 of $10.00 spent."),
        (Reason.RATE_LIMITED, "Too fast for a limit a minute of tenant:acme; try again in 7 s."),
        (
            Reason.MODEL_NOT_PRICED,
            "The catalogue has no price for this model, so it is not called: 'large'.",
        ),
        (Reason.AGENT_PAUSED, "An operator has paused this agent."),
    ],
)
def test_the_message_names_the_budget_the_limit_or_the_model(reason: Reason, message: str) -> None:
    assert refusals.refusal(refused_for(reason), over_budget_status=402).message == message


def test_the_end_of_a_window_is_said_and_its_figures_only_where_they_may_be() -> None:
    decision = Decision(Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, because=window(ends=True))
    found = refusals.refusal(decision, over_budget_status=402, audience=Audience(is_tenants=True, show_amounts=False))
    assert found.message == (
        "The budget is used up: tenant:acme per billing cycle; it resets once the period after 2026-03-10T12:00:00Z is"
        " paid."
    )


def test_when_a_budget_resets_and_runs_out_is_said_where_it_is_known_and_theirs() -> None:
    own, soon = replace(window(ends=True), kind="day"), NOON - timedelta(hours=2)
    decision = Decision(Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, because=own)
    found = refusals.refusal(decision, over_budget_status=402, runs_out_at=soon)
    assert found.message.endswith(
        "spent; it runs out about 2026-03-10T10:00:00Z at the usual pace and resets at 2026-03-10T12:00:00Z."
    )
    for_good = replace(decision, because=replace(window(), kind="lifetime"))
    found = refusals.refusal(for_good, over_budget_status=402)
    assert found.message.endswith("spent; it does not reset by itself.")
    shared = replace(decision, because=replace(own, scope="platform"))
    tenants = Audience(is_tenants=True)
    found = refusals.refusal(shared, over_budget_status=402, audience=tenants, runs_out_at=soon)
    assert found.message == (
        "The budget is used up: a limit of the platform per day; it resets at 2026-03-10T12:00:00Z."
    )


def test_an_envelope_s_own_names_are_in_the_message_and_the_parameter() -> None:
    fields = {"model": "model", "forced_tool": "tool_choice", "allow_downgrade": "x-allow-downgrade"}
    found = refusals.refusal(refused_for(Reason.TOOL_DISABLED), over_budget_status=402, fields=fields)
    assert (found.param, found.message.partition(" ")[0]) == ("tool_choice", "tool_choice")
    found = refusals.refusal(refused_for(Reason.DOWNGRADE_REFUSED), over_budget_status=402, fields=fields)
    assert "and x-allow-downgrade is false" in found.message
    assert refusals.refusal(refused_for(Reason.TOOL_DISABLED), over_budget_status=402).param == "forced_tool"


@pytest.mark.parametrize("reason", [Reason.TOOL_NOT_PRICED, Reason.TOOL_DISABLED])
def test_of_a_call_of_a_tool_the_tool_is_at_fault(reason: Reason) -> None:
    found = refusals.refusal(refused_for(reason), over_budget_status=402, fields=refusals.OF_A_TOOL)
    assert found.param == "tool"


@pytest.mark.parametrize(
    ("reserved", "wanted", "wait_s"), [("2", "1.5", 4), ("1", "1.5", 3), ("2", "9", 5), ("2", "0.1", 1), ("0", "1", 1)]
)
def test_the_wait_for_calls_in_flight_is_as_long_as_they_hold_what_is_missing(
    reserved: str, wanted: str, wait_s: int
) -> None:
    view = window(reserved=reserved)
    decision = Decision(Action.IN_FLIGHT, Reason.BUDGET_IN_FLIGHT, because=view, wanted_nanos=nanos(wanted))
    assert refusals.refusal(decision, over_budget_status=402).headers == (("retry-after", str(wait_s)),)


@pytest.mark.parametrize("status", [402, 429])
def test_an_exhausted_budget_has_the_configured_status_and_is_final_with_both(status: int) -> None:
    for reason in (Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED):
        found = refusals.refusal(refused_for(reason), over_budget_status=status)
        assert (found.status, found.headers) == (status, (refusals.NEVER_RETRY,))
    suspended = refusals.refusal(refused_for(Reason.TENANT_SUSPENDED), over_budget_status=status)
    assert (suspended.status, suspended.headers) == (402, (refusals.NEVER_RETRY,))


def test_a_call_that_may_go_is_no_refusal() -> None:
    near = Decision(Action.WARN, Reason.SOFT_CAP, because=window())
    assert refusals.sentence(near) == "The budget is near its limit"
    assert refusals.sentence(Decision(Action.ALLOW)) == ""
    with pytest.raises(KeyError):
        refusals.refusal(near, over_budget_status=402)


# What clients have come to rely on: whoever changes a line breaks them.
@pytest.mark.parametrize(
    ("reason", "status", "code", "param", "headers"),
    [
        (Reason.TENANT_PAUSED, 403, "paused", None, {}),
        (Reason.AGENT_PAUSED, 403, "paused", None, {}),
        (Reason.EMERGENCY_STOP, 403, "emergency_stop", None, {}),
        (Reason.TENANT_SUSPENDED, 402, "subscription_inactive", None, {"x-should-retry": "false"}),
        (Reason.KEY_INVALID, 401, "invalid_api_key", None, {}),
        (Reason.MODEL_NOT_PRICED, 400, "model_not_priced", "model", {}),
        (Reason.TOOL_NOT_PRICED, 400, "tool_not_priced", "model", {}),
        (Reason.TOOL_DISABLED, 400, "tool_disabled", "forced_tool", {}),
        (Reason.BUDGET_EXHAUSTED, 402, "budget_exhausted", None, {"x-should-retry": "false"}),
        (Reason.DOWNGRADE_REFUSED, 402, "budget_exhausted", None, {"x-should-retry": "false"}),
        (Reason.BUDGET_IN_FLIGHT, 429, "budget_in_flight", None, {"retry-after": "4"}),
        (Reason.RATE_LIMITED, 429, "rate_limit_exceeded", None, {"retry-after": "7"}),
    ],
)
def test_each_reason_has_its_status_code_parameter_and_headers(
    reason: Reason, status: int, code: str, param: str | None, headers: dict[str, str]
) -> None:
    found = refusals.refusal(refused_for(reason), over_budget_status=402)
    assert (found.status, found.code, found.param, dict(found.headers)) == (status, code, param, headers)


def test_a_call_that_a_rule_made_cheaper_says_so() -> None:
    assert "cheaper model" in refusals.sentence(Decision(Action.DEGRADE, Reason.DOWNGRADE_RULE))


def test_a_rate_limit_is_never_back_at_once() -> None:
    limited = refused_for(Reason.RATE_LIMITED)
    assert refusals.refusal(replace(limited, retry_after_s=0), over_budget_status=402).headers == (
        ("retry-after", "1"),
    )


def test_calls_in_flight_without_a_window_are_back_in_a_second() -> None:
    decision = Decision(Action.IN_FLIGHT, Reason.BUDGET_IN_FLIGHT, wanted_nanos=nanos("9"))
    assert refusals.refusal(decision, over_budget_status=402).headers == (("retry-after", "1"),)
    # The least that can be held is held.
    least = replace(decision, because=replace(window(), reserved_nanos=1), wanted_nanos=nanos("2.000000001"))
    assert refusals.refusal(least, over_budget_status=402).headers == (("retry-after", "5"),)


def test_the_message_of_a_refusal_without_a_window_is_the_sentence() -> None:
    paused = refusals.refusal(refused_for(Reason.TENANT_PAUSED), over_budget_status=402)
    assert paused.message == refusals.sentence(refused_for(Reason.TENANT_PAUSED)) + "."
