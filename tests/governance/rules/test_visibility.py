"""What a caller is told of budgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from governance.rules import refusals
from governance.rules.buckets import Amount, BucketView, Ceilings
from governance.rules.decision import Action, Call, Decision, Quote, Reason, WindowView, decide
from governance.rules.policy import Policy
from governance.rules.visibility import STAFF, Audience
from tests.factories import NOON

OWN = WindowView(
    budget_id=7,
    window_id=8,
    scope="agent:invoices",
    scope_type="agent",
    scope_key="invoices",
    kind="billing_cycle",
    starts_at=NOON,
    ends_at=NOON,
    limit_nanos=1_000,
    settled_nanos=250,
    reserved_nanos=50,
    policy=Policy(soft_e4=None),
)
WIDER = replace(OWN, budget_id=1, scope="platform", scope_type="platform", scope_key="", settled_nanos=900)
TENANTS, SILENT = Audience(is_tenants=True), Audience(is_tenants=True, show_amounts=False)
FIGURES = ("limit_nanos", "settled_nanos", "reserved_nanos", "remaining_nanos", "utilization")


@pytest.mark.parametrize("audience", [STAFF, TENANTS])
def test_of_its_own_budgets_everything_is_shown(audience: Audience) -> None:
    shown = audience.window(OWN)
    assert [getattr(shown, name) for name in FIGURES] == [1_000, 250, 50, 700, 0.25]
    assert (shown.budget_id, shown.state, shown.starts_at) == (7, OWN.state, NOON)
    assert shown.name == "agent:invoices per billing cycle"


def test_of_a_wider_one_its_period_and_its_end_and_nothing_else() -> None:
    shown = TENANTS.window(WIDER)
    assert (shown.name, shown.scope) == ("a limit of the platform per billing cycle", "platform")
    assert (shown.kind, shown.ends_at) == ("billing_cycle", NOON)
    assert {getattr(shown, name) for name in (*FIGURES, "budget_id", "state", "starts_at")} == {None}


def test_operators_are_shown_the_platforms() -> None:
    assert STAFF.window(WIDER).settled_nanos == 900
    assert STAFF.window(WIDER).name == "platform per billing cycle"


@pytest.mark.parametrize(
    ("name", "told"), [("olga", "an operator"), ("stripe", "stripe"), ("anomalies", "anomalies"), ("", "")]
)
def test_a_tenant_learns_that_a_person_acted_and_not_who(name: str, told: str) -> None:
    assert (STAFF.actor(name), TENANTS.actor(name)) == (name, told)


def test_a_tenant_that_shows_no_amounts_keeps_them_from_its_keys() -> None:
    shown = SILENT.window(OWN)
    assert {getattr(shown, name) for name in FIGURES} == {None}
    assert (shown.scope, shown.state, shown.budget_id) == ("agent:invoices", OWN.state, 7)
    assert Audience(is_tenants=False, show_amounts=False).sees_amounts("platform")


@pytest.mark.parametrize(
    ("scope", "own"), [("", True), ("tenant:x", True), ("user:platform", True), ("platform", False)]
)
def test_a_tenants_own_scopes_are_all_but_the_platform(scope: str, own: bool) -> None:
    assert (TENANTS.is_own(scope), TENANTS.sees_amounts(scope), STAFF.is_own(scope)) == (own, own, True)


def test_the_tightest_of_its_own_is_shown_however_full_a_wider_one_is() -> None:
    roomy = replace(OWN, settled_nanos=0)
    assert TENANTS.tightest([roomy, OWN, WIDER]) is OWN
    assert STAFF.tightest([roomy, OWN, WIDER]) is WIDER
    assert TENANTS.tightest([WIDER]) is WIDER
    assert TENANTS.tightest([]) is None


def test_a_refusal_for_the_platforms_budget_names_no_figure_and_waits_evenly() -> None:
    used_up = Decision(Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, because=WIDER)
    told = refusals.refusal(used_up, over_budget_status=402, audience=TENANTS)
    assert told.message == (
        "The budget is used up: a limit of the platform per billing cycle; it resets once the period after"
        " 2026-03-10T12:00:00Z is paid."
    )
    waits = {
        refusals.refusal(
            Decision(Action.IN_FLIGHT, Reason.BUDGET_IN_FLIGHT, because=WIDER, wanted_nanos=wanted),
            over_budget_status=402,
        ).headers
        for wanted in (60, 70, 10_000)
    }
    assert waits == {(("retry-after", "5"),)}


def test_a_limit_a_minute_of_all_is_the_platforms() -> None:
    view = BucketView("platform", Ceilings(requests=3), Amount(), NOON)
    limited = Decision(Action.IN_FLIGHT, Reason.RATE_LIMITED, limited_by=view, retry_after_s=7)
    assert refusals.sentence(limited) == "Too fast for a limit a minute of the platform; try again in 7 s"


def clamped(*views: WindowView) -> int | None:
    most = Quote("large", 5_000, fixed_picos=0, picos_per_output_token=1_000, max_tokens=5_000)
    decision = decide(Call("large", lambda model: most), views)
    assert decision.clamped is decision.allowed
    return decision.quote.max_tokens if decision.quote else None


def test_what_the_platforms_budget_leaves_is_not_to_be_read_from_the_clamp() -> None:
    platform = replace(WIDER, settled_nanos=0, reserved_nanos=0)
    own = replace(OWN, settled_nanos=0, reserved_nanos=0)
    # A thousand tokens are paid for by either.
    assert clamped(own) == 1_000
    assert clamped(platform) == 512
    assert clamped(own, platform) == 1_000
    assert clamped(replace(own, limit_nanos=1_001), platform) == 512
    assert clamped(replace(platform, limit_nanos=1_024)) == 1_024
    # Never below what the policy asks for, nor above what the money covers.
    least = replace(platform, policy=Policy(soft_e4=None, clamp_min_tokens=700))
    assert clamped(least) == 700
    assert clamped(replace(least, limit_nanos=699)) is None


@pytest.mark.parametrize("hidden", ["limit_nanos", "settled_nanos"])
def test_a_share_needs_both_figures(hidden: str) -> None:
    assert replace(STAFF.window(OWN), **{hidden: None}).utilization is None


def test_a_sentence_names_a_budget_as_its_audience_may_know_it() -> None:
    assert STAFF.named("platform", "day") == "platform per day"
    assert TENANTS.named("platform", "day") == "a limit of the platform per day"
    assert TENANTS.named("tenant:acme", "billing_cycle") == "tenant:acme per billing cycle"
