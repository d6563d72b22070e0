"""What would have let a refused call through."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from governance.rules.buckets import Amount, BucketView, Ceilings
from governance.rules.decision import Action, Call, Decision, Quote, Reason, WindowView, decide, fixed
from governance.rules.policy import Policy, Rule
from governance.rules.refusals import NO_REFUSALS
from governance.rules.remedies import ACTS, Remedy, remedy, sentence
from governance.rules.visibility import STAFF, Audience
from tests.factories import NOON, nanos

MORROW = NOON + timedelta(days=1)
TENANTS = Audience(is_tenants=True)
PLAIN = Policy(soft_e4=None, clamp=False)


def window(limit: str = "1", *, spent: str = "0.90", held: str = "0", **changes: object) -> WindowView:
    found = WindowView(
        budget_id=1,
        window_id=1,
        scope="tenant:acme",
        scope_type="tenant",
        scope_key="acme",
        kind="day",
        starts_at=NOON,
        ends_at=MORROW,
        limit_nanos=nanos(limit),
        settled_nanos=nanos(spent),
        reserved_nanos=nanos(held),
        policy=PLAIN,
    )
    return replace(found, **changes)


def agents(limit: str = "1", **fields: object) -> WindowView:
    return replace(
        window(limit, **fields), scope="agent:invoices", scope_type="agent", scope_key="invoices", budget_id=2
    )


def refused(call: Call, *views: WindowView) -> Remedy:
    decision = decide(call, views)
    assert not decision.allowed
    return remedy(decision, now=NOON)


# A cent for the prompt, a tenth of a cent for each token.
TOKENS = Call(
    "large",
    lambda model: Quote(
        model,
        nanos("0.51"),
        fixed_picos=nanos("0.01") * 1000,
        picos_per_output_token=nanos("0.001") * 1000,
        max_tokens=500,
    ),
)


def test_fewer_tokens_more_money_or_the_next_period() -> None:
    found = refused(TOKENS, window())
    assert sentence(found, audience=TENANTS) == "max_tokens below 91, or $0.41 more, or at 2026-03-11T12:00:00Z"
    assert (found.max_tokens, found.at, found.blockers[0].missing_nanos) == (90, MORROW, nanos("0.41"))
    assert found.blockers[0].remaining_nanos == nanos("0.10")


def test_an_explicit_estimate_has_no_tokens_to_lower() -> None:
    found = refused(Call("large", fixed(nanos("0.30"))), window())
    assert sentence(found, audience=TENANTS) == "$0.20 more, or at 2026-03-11T12:00:00Z"


def test_the_limit_is_to_be_higher_by_what_its_hard_cap_lets_through() -> None:
    half = replace(PLAIN, hard_e4=5_000)
    found = refused(Call("large", fixed(nanos("0.30"))), window("2", policy=half))
    [blocker] = found.blockers
    assert blocker.missing_nanos == nanos("0.40")
    raised = window("2.40", policy=half)
    assert raised.admits(nanos("0.30"))
    assert not replace(raised, limit_nanos=raised.limit_nanos - 2).admits(nanos("0.30"))
    # What costs nothing needs a cap that is not reached.
    free = refused(Call("large", fixed(0)), window(spent="1"))
    assert free.blockers[0].missing_nanos == 1


def test_each_budget_without_room_is_named_the_refusing_one_first() -> None:
    found = refused(Call("large", fixed(nanos("0.30"))), window(), agents(spent="0.95"), agents("9", budget_id=3))
    assert [blocker.scope for blocker in found.blockers] == ["agent:invoices", "tenant:acme"]
    assert sentence(found, audience=TENANTS) == (
        "$0.25 more for agent:invoices per day and $0.20 more for tenant:acme per day, or at 2026-03-11T12:00:00Z"
    )


@pytest.mark.parametrize(
    ("views", "at"),
    [
        ([window(), agents(ends_at=MORROW + timedelta(days=1))], MORROW + timedelta(days=1)),
        ([window(ends_at=None)], None),
        ([window(), agents(ends_at=None)], None),
        ([window("0.20", spent="0.1")], None),
        ([window("0.30", spent="0.1")], MORROW),
    ],
)
def test_time_helps_once_the_last_of_them_ends_if_it_is_large_enough(
    views: list[WindowView], at: datetime | None
) -> None:
    assert refused(Call("large", fixed(nanos("0.30"))), *views).at == at


def test_where_nothing_is_left_no_number_of_tokens_fits() -> None:
    assert refused(TOKENS, window(spent="1")).max_tokens is None
    assert refused(TOKENS, window(spent="0.995")).max_tokens is None


def test_what_calls_in_flight_hold_is_back_in_seconds() -> None:
    found = refused(Call("large", fixed(nanos("0.30"))), window(spent="0.50", held="0.40"))
    assert found.at == NOON + timedelta(seconds=3)
    assert found.blockers[0].remaining_nanos == nanos("0.10")
    assert "$0.20 more" in sentence(found, audience=TENANTS)


def test_a_rate_limit_lets_it_through_when_it_has_flowed_off() -> None:
    limit = BucketView("tenant:acme", Ceilings(requests=3), Amount(), NOON)
    decision = Decision(Action.IN_FLIGHT, Reason.RATE_LIMITED, limited_by=limit, retry_after_s=7)
    found = remedy(decision, now=NOON + timedelta(microseconds=5))
    assert sentence(found, audience=TENANTS) == "at 2026-03-10T12:00:07Z"


def test_who_may_not_be_downgraded_may_allow_it() -> None:
    rules = decide(
        Call("large", lambda model: Quote(model, nanos("0.3" if model == "large" else "0.01")), allow_downgrade=False),
        [window(policy=Policy(soft_e4=1, clamp=False, rules=(Rule(frozenset({"large"}), "small"),)))],
    )
    assert rules.reason is Reason.DOWNGRADE_REFUSED
    found = remedy(rules, now=NOON)
    assert (
        sentence(found, audience=TENANTS) == "$0.20 more, or at 2026-03-11T12:00:00Z, or with a cheaper model allowed"
    )


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in NO_REFUSALS])
def test_each_reason_has_a_way(reason: Reason) -> None:
    wanted = Quote("large", nanos("0.3"))
    view = window()
    decision = Decision(Action.HARD_STOP, reason, because=view, views=(view,), wanted=wanted)
    if reason in ACTS:
        assert ACTS[reason] in sentence(remedy(decision, now=NOON), audience=STAFF)
    assert sentence(remedy(decision, now=NOON), audience=STAFF)


def test_of_a_wider_budget_only_its_end_is_told() -> None:
    platform = window(scope="platform", scope_type="platform", scope_key="")
    found = refused(TOKENS, agents(spent="0.95"), platform)
    assert sentence(found, audience=TENANTS) == "at 2026-03-11T12:00:00Z"
    assert "more for platform per day" in sentence(found, audience=STAFF)
    assert sentence(refused(TOKENS, window()), audience=Audience(is_tenants=True, show_amounts=False)).startswith("at ")
    # Not even whether the call is larger than the whole limit.
    large = Call("large", fixed(nanos("5")))
    assert sentence(refused(large, platform), audience=TENANTS) == "at 2026-03-11T12:00:00Z"
    assert sentence(refused(large, replace(platform, ends_at=None)), audience=TENANTS) == "a higher limit"
