"""What a policy would have done to calls that are past."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from governance.rules import decision
from governance.rules import replay as replays
from governance.rules.decision import Quote, Quoter, WindowView
from governance.rules.policy import Policy, Rule
from governance.rules.replay import PastCall, ReplayOutcome
from tests.factories import NOON, nanos, priced

CLAMPING = Policy(clamp=True, clamp_min_tokens=10)
PLAIN = Policy(clamp=False)
SMALLER = replace(PLAIN, rules=(Rule(frozenset({"large"}), "small"),))
SECOND = timedelta(seconds=1)


def window(id: int = 1, *, settled: str = "0", limit: str = "1.00") -> WindowView:
    return WindowView(
        budget_id=1,
        window_id=id,
        scope="tenant:acme",
        scope_type="tenant",
        scope_key="acme",
        kind="day",
        starts_at=NOON,
        ends_at=None,
        limit_nanos=nanos(limit),
        settled_nanos=nanos(settled),
        reserved_nanos=0,
        policy=Policy(),
    )


def past(at: int, cost: str = "0.30", *, lasts: int = 1, held: str | None = None, **fields: Any) -> PastCall:
    """A call at a second, charged so many seconds later."""
    given: dict[str, Any] = {
        "window_id": 1,
        "model": "large",
        "quote": priced({"large": held or cost, "small": "0.01"}),
        "served": frozenset({"large"}),
        "output_tokens": 100,
    }
    asked_at = NOON + SECOND * at
    return PastCall(asked_at=asked_at, settled_at=asked_at + SECOND * lasts, cost_nanos=nanos(cost), **given | fields)


def replayed(calls: list[PastCall], policy: Policy, *, limit: str = "1.00", **views: WindowView) -> ReplayOutcome:
    windows = {view.window_id: view for view in views.values()} or {1: window()}
    return replays.replay(calls, windows, policy, limit_nanos=lambda id: nanos(limit))


def test_calls_go_until_the_money_is_used_up_whatever_order_they_are_given_in() -> None:
    calls = [past(at) for at in (30, 10, 20, 40, 50)]
    outcome = replayed(calls, PLAIN)
    assert (outcome.looked_at, outcome.refused, outcome.warned) == (5, 2, 1)
    assert outcome.spent_nanos == nanos("0.90")
    assert outcome.first_refused_at == NOON + SECOND * 40


def test_another_limit_is_what_is_decided_by() -> None:
    calls = [past(at * 10) for at in range(5)]
    assert replayed(calls, PLAIN, limit="2.00").refused == 0
    assert replayed(calls, PLAIN, limit="0.50").refused == 4


def test_what_the_window_had_settled_before_counts() -> None:
    assert replayed([past(0)], PLAIN, view=window(settled="0.90")).refused == 1


def test_each_window_is_its_own() -> None:
    calls = [past(at, "0.60", window_id=at % 2) for at in range(4)]
    outcome = replayed(calls, PLAIN, one=window(0), two=window(1))
    assert (outcome.looked_at, outcome.refused) == (4, 2)


def test_money_is_held_until_the_call_is_charged() -> None:
    # The second is asked for while the first still holds what it may cost.
    together = [past(0, "0.10", held="0.90", lasts=10), past(5, "0.10", held="0.90")]
    outcome = replayed(together, PLAIN)
    assert (outcome.waited, outcome.refused, outcome.spent_nanos) == (1, 0, nanos("0.10"))
    after = [past(0, "0.10", held="0.90", lasts=5), past(5, "0.10", held="0.90")]
    assert replayed(after, PLAIN).waited == 0


def test_downgrades_are_counted_by_their_models() -> None:
    calls = [past(at * 10, "0.50") for at in range(4)]
    outcome = replayed(calls, SMALLER)
    assert outcome.downgrades == {("large", "small"): 3}
    assert outcome.downgraded == 3
    assert outcome.first_downgraded_at == NOON + SECOND * 10
    assert outcome.first_refused_at is None


def by_tokens(costs: dict[str, int], *, most: int | None = 1_000, names: dict[str, set[str]] | None = None) -> Quoter:
    """Prices of an output token in nanodollars."""

    def quote(model: str) -> Quote | None:
        if model not in costs:
            return None
        each = costs[model]
        return Quote(
            model,
            (most or 0) * each,
            names=frozenset((names or {}).get(model, ())),
            picos_per_output_token=each * 1_000,
            max_tokens=most,
        )

    return quote


def cost_of(quote: Quoter, model: str, **fields: Any) -> int:
    held = quote(model)
    assert held is not None
    return past(0, "0.30", quote=quote, **fields).cost_at(held)


def test_a_call_costs_what_it_cost_at_the_model_that_served_it() -> None:
    quote = by_tokens({"large": 10, "small": 1, "large-2603": 10}, names={"large": {"large-2603"}})
    assert cost_of(quote, "large") == nanos("0.30")
    assert cost_of(quote, "large", served=frozenset({"large-2603"})) == nanos("0.30")


def test_and_by_its_tokens_at_another() -> None:
    quote = by_tokens({"large": 10, "small": 1})
    assert cost_of(quote, "small") == 100
    # It writes no more than it may.
    assert cost_of(by_tokens({"small": 1}, most=40), "small") == 40


def test_what_was_cut_short_costs_its_hold() -> None:
    held = by_tokens({"large": 10}, most=40)
    assert cost_of(held, "large") == 400
    assert cost_of(held, "large", output_tokens=None) == nanos("0.30")


def test_where_tokens_are_not_known_the_hold_is_the_cost() -> None:
    quote = by_tokens({"small": 1})
    assert cost_of(quote, "small", output_tokens=None) == 1_000
    assert cost_of(by_tokens({"small": 1}, most=None), "small") == 0


def test_answers_are_shortened_to_what_the_money_covers() -> None:
    quote = by_tokens({"large": 1_000_000})
    call = past(0, "0.50", quote=quote, output_tokens=500)
    outcome = replayed([call], CLAMPING, limit="0.20")
    assert (outcome.clamped, outcome.refused) == (1, 0)
    assert outcome.spent_nanos == nanos("0.20")


def test_of_no_calls_nothing_comes() -> None:
    assert replayed([], PLAIN) == ReplayOutcome()


def test_each_that_waits_is_warned_or_shortened_counts() -> None:
    waiting = [past(0, "0.10", held="0.90", lasts=10), past(5, "0.10", held="0.90"), past(6, "0.10", held="0.90")]
    assert replayed(waiting, PLAIN).waited == 2
    assert replayed([past(at * 10, "0.85") for at in range(2)], PLAIN, limit="2.00").warned == 1
    assert replayed([past(at * 10, "0.45", window_id=at) for at in range(2)], PLAIN, limit="0.50",
                    one=window(0), two=window(1)).warned == 2  # fmt: skip
    calls = [past(at, "0.50", quote=by_tokens({"large": 1_000_000}), window_id=at, output_tokens=500) for at in (0, 1)]
    assert replayed(calls, CLAMPING, limit="0.20", one=window(0), two=window(1)).clamped == 2


def test_each_window_has_its_limit() -> None:
    views = {id: window(id) for id in (0, 1)}
    calls = [past(id, "0.60", window_id=id) for id in (0, 1)]
    outcome = replays.replay(calls, views, PLAIN, limit_nanos={0: nanos("0.50"), 1: nanos("1.00")}.__getitem__)
    assert (outcome.refused, outcome.spent_nanos) == (1, nanos("0.60"))


def test_an_answer_as_long_as_it_may_be_costs_what_it_cost() -> None:
    assert cost_of(by_tokens({"large": 10}, most=100), "large") == nanos("0.30")


def test_what_costs_nothing_leaves_all_of_the_money() -> None:
    calls = [past(0, "0"), past(10, "1.00", window_id=1)]
    assert replayed(calls, PLAIN).refused == 0


def test_calls_like_one_another_are_decided_on_as_if_each_was_written_out() -> None:
    """Into the thirds of a limit: as asked for, then at the smaller model, then shortened, then not at all."""
    policies = [
        PLAIN,
        replace(SMALLER, soft_e4=5_000),
        replace(CLAMPING, soft_e4=5_000, warn_e4=3_000),
        replace(CLAMPING, rules=(Rule(frozenset({"large"}), "small", 4_000),)),
    ]
    quotes = [priced({"large": "0.03", "small": "0.007"}), by_tokens({"large": 30_000, "small": 7_000})]
    for policy in policies:
        for quote in quotes:
            call = past(0, "0.03", lasts=0, quote=quote, output_tokens=None)
            apart, together = replayed([call] * 200, policy), replayed([replace(call, times=200)], policy)
            assert apart == together
            assert (together.looked_at, together.refused > 0, together.spent_nanos > 0) == (200, True, True)


def test_a_million_calls_like_one_another_take_few_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    decide = decision.decide
    monkeypatch.setattr(decision, "decide", lambda *given: asked.append(given) or decide(*given))
    outcome = replayed([past(0, "0.01", lasts=0, times=1_000_000)], PLAIN, limit="5000")
    assert (outcome.refused, outcome.spent_nanos) == (500_000, nanos("5000"))
    assert len(asked) < 100
