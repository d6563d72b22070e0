"""The decision table, row by row, and its edges. No database."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules.buckets import Amount, BucketView, Ceilings
from governance.rules.decision import (
    Action,
    Call,
    Decision,
    Quote,
    Quoter,
    Reason,
    State,
    WindowView,
    crossed,
    decide,
    fixed,
    state_of,
    tightest,
)
from governance.rules.policy import Policy, Rule

LIMIT = 1000
DOWNGRADE = Rule(frozenset({"large"}), "small")


def view(
    settled: int = 0, reserved: int = 0, *, limit: int = LIMIT, id: int = 1, policy: Policy | None = None, **changes
) -> WindowView:
    return WindowView(
        budget_id=id,
        window_id=id,
        scope=f"agent:{id}",
        scope_type="agent",
        scope_key=str(id),
        kind="day",
        starts_at=datetime(2026, 3, 10, tzinfo=UTC),
        ends_at=None,
        limit_nanos=limit,
        settled_nanos=settled,
        reserved_nanos=reserved,
        policy=replace(policy or Policy(), **changes),
    )


def quoter(incapable: frozenset[str] = frozenset(), **costs: int) -> Quoter:
    def quote(model: str) -> Quote | None:
        return Quote(model, costs[model], capable=model not in incapable) if model in costs else None

    return quote


def call(cost: int = 100, *, costs: dict[str, int] | None = None, **fields) -> Call:
    incapable = fields.pop("incapable", frozenset())
    return Call("large", quoter(incapable, **{"large": cost, **(costs or {})}), **fields)


def tokens(fixed: int, each: int, most: int, *, model: str = "large") -> Quoter:
    """A quote of known token counts, in nanodollars before the first output token and for each one."""
    whole = Quote(
        model, fixed + each * most, fixed_picos=fixed * 1000, picos_per_output_token=each * 1000, max_tokens=most
    )
    return lambda asked: whole if asked == model else None


def outcome(decision: Decision) -> tuple[Action, Reason, str]:
    return decision.action, decision.reason, decision.quote.model if decision.quote else ""


# Row 1: who may not call at all ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [Reason.TENANT_PAUSED, Reason.TENANT_SUSPENDED, Reason.AGENT_PAUSED, Reason.KEY_INVALID]
)
def test_row_1_a_blocked_caller_is_stopped_whatever_the_money(reason):
    decision = decide(call(0, blocked=reason), [view()])
    assert (decision.action, decision.reason, decision.allowed) == (Action.HARD_STOP, reason, False)


def test_a_goal_that_has_ended_takes_no_call_whatever_is_left():
    ended = replace(view(id=2), is_closed=True)
    decision = decide(call(0), [view(), ended])
    assert (decision.action, decision.reason, decision.because) == (Action.HARD_STOP, Reason.BUDGET_CLOSED, ended)
    paused = decide(call(0, blocked=Reason.AGENT_PAUSED), [ended])
    assert paused.reason == Reason.AGENT_PAUSED


def test_an_unpriced_model_is_refused_never_free():
    decision = decide(Call("mystery", quoter()), [])
    assert outcome(decision) == (Action.HARD_STOP, Reason.MODEL_NOT_PRICED, "")


def test_so_is_an_unpriced_tool_and_named_as_one():
    decision = decide(Call("web-search", quoter(), unpriced=Reason.TOOL_NOT_PRICED), [])
    assert outcome(decision) == (Action.HARD_STOP, Reason.TOOL_NOT_PRICED, "")


# Row 2: the hard cap -----------------------------------------------------------------------------------------


def test_row_2_what_does_not_fit_is_stopped():
    decision = decide(call(101), [view(settled=900)])
    assert outcome(decision) == (Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, "")
    assert decision.because is not None
    assert decision.because.window_id == 1


def test_row_2_names_the_window_whose_money_is_spent_not_one_held_by_calls_in_flight():
    decision = decide(call(600), [view(reserved=900, id=1), view(settled=500, id=2)])
    assert outcome(decision) == (Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, "")
    assert decision.because is not None
    assert decision.because.window_id == 2


def test_row_2_an_exact_hit_of_the_hard_cap_fits():
    assert decide(call(100), [view(settled=900)]).allowed
    assert decide(call(500), [view(hard_e4=5_000, soft_e4=None)]).allowed
    assert not decide(call(501), [view(hard_e4=5_000, soft_e4=None)]).allowed


def test_row_2_spent_out_stops_even_calls_that_cost_nothing():
    assert not decide(call(0), [view(settled=1000)]).allowed
    assert not decide(call(0), [view(settled=1200)]).allowed
    assert decide(call(0), [view(settled=999)]).allowed
    # Held money is not spent money: a free call goes through beside it.
    assert decide(call(0), [view(reserved=1000)]).allowed


def test_row_2_a_cap_that_is_no_whole_nanodollar_is_rounded_down():
    # 0.5 x 21 = 10.5
    assert decide(call(10), [view(limit=21, hard_e4=5_000, soft_e4=None)]).allowed
    assert not decide(call(11), [view(limit=21, hard_e4=5_000, soft_e4=None)]).allowed


def test_row_2_stops_where_no_downgrade_fits_either():
    decision = decide(call(300, costs={"small": 200}), [view(settled=850, rules=(DOWNGRADE,))])
    assert outcome(decision) == (Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, "")


# Row 3: in flight --------------------------------------------------------------------------------------------


def test_row_3_what_would_fit_without_the_reservations_waits():
    decision = decide(call(600), [view(settled=100, reserved=500)])
    assert outcome(decision) == (Action.IN_FLIGHT, Reason.BUDGET_IN_FLIGHT, "")


def test_row_3_is_a_hard_stop_where_it_would_not_fit_even_then():
    decision = decide(call(600), [view(settled=500, reserved=100)])
    assert decision.action == Action.HARD_STOP


def test_row_3_waits_for_a_downgrade_that_would_fit():
    decision = decide(call(900, costs={"small": 300}), [view(settled=600, reserved=300, rules=(DOWNGRADE,))])
    assert decision.action == Action.IN_FLIGHT


def test_row_3_one_exhausted_window_makes_waiting_useless():
    waiting, exhausted = view(settled=100, reserved=500), view(settled=1000, id=2)
    assert decide(call(600), [waiting]).action == Action.IN_FLIGHT
    assert decide(call(600), [waiting, exhausted]).action == Action.HARD_STOP
    assert decide(call(600), [exhausted, waiting]).action == Action.HARD_STOP


# Row 4: downgrades -------------------------------------------------------------------------------------------


def test_row_4_at_the_soft_cap_the_call_goes_to_the_rules_model():
    decision = decide(call(100, costs={"small": 10}), [view(settled=700, rules=(DOWNGRADE,))])
    assert outcome(decision) == (Action.DEGRADE, Reason.SOFT_CAP, "small")
    assert decision.quote is not None
    assert decision.quote.cost_nanos == 10


def test_row_4_below_the_soft_cap_it_does_not():
    decision = decide(call(99, costs={"small": 10}), [view(settled=700, rules=(DOWNGRADE,))])
    assert outcome(decision) == (Action.ALLOW, Reason.NONE, "large")


def test_row_4_held_money_counts_towards_the_soft_cap():
    decision = decide(call(100, costs={"small": 10}), [view(settled=300, reserved=400, rules=(DOWNGRADE,))])
    assert decision.action == Action.DEGRADE


def test_row_4_any_model_is_matched_by_a_star():
    star = Rule(frozenset({"*"}), "small")
    assert decide(call(costs={"small": 10}), [view(settled=800, rules=(star,))]).model == "small"


def test_row_4_a_rule_matches_any_name_of_the_model():
    alias = Rule(frozenset({"large-latest"}), "small")
    quotes = {
        "large": Quote("large-2512", 100, names=frozenset({"large", "large-latest"})),
        "small": Quote("small-2506", 10),
    }
    decision = decide(Call("large", quotes.get), [view(settled=800, rules=(alias,))])
    assert outcome(decision) == (Action.DEGRADE, Reason.SOFT_CAP, "small-2506")


def test_row_4_is_one_step_however_pressed_the_window_stays():
    rules = (DOWNGRADE, Rule(frozenset({"small"}), "tiny"))
    for settled in (700, 740, 800, 949):
        decision = decide(call(100, costs={"small": 50, "tiny": 5}), [view(settled=settled, rules=rules)])
        assert (decision.model, [step.rule for step in decision.downgrades]) == ("small", [DOWNGRADE])


def test_row_4_the_first_rule_that_matches_wins_over_any_model_s():
    medium, star = Rule(frozenset({"large"}), "medium"), Rule(frozenset({"*"}), "tiny")
    costs = {"medium": 60, "tiny": 5}
    assert decide(call(100, costs=costs), [view(settled=800, rules=(medium, star))]).model == "medium"
    assert decide(call(100, costs=costs), [view(settled=800, rules=(star, medium))]).model == "tiny"


def test_row_4_further_rules_are_followed_where_the_model_reached_does_not_fit():
    rules = (DOWNGRADE, Rule(frozenset({"small"}), "tiny"), Rule(frozenset({"tiny"}), "mini"))
    costs = {"small": 50, "tiny": 5, "mini": 1}
    for settled, model, steps in ((950, "small", 1), (951, "tiny", 2), (995, "tiny", 2), (996, "mini", 3)):
        decision = decide(call(100, costs=costs), [view(settled=settled, rules=rules)])
        assert (decision.model, len(decision.downgrades)) == (model, steps), settled
    # Also where it does not fit another window than the rule's own.
    assert decide(call(100, costs=costs), [view(settled=800, rules=rules), view(951, id=2)]).model == "tiny"


def test_row_4_further_rules_are_those_of_any_model_reached():
    rules = (DOWNGRADE, Rule(frozenset({"large"}), "tiny"))
    assert decide(call(100, costs={"small": 50, "tiny": 5}), [view(settled=960, rules=rules)]).model == "tiny"
    incapable = call(100, costs={"small": 50, "tiny": 5}, incapable=frozenset({"small"}))
    assert decide(incapable, [view(settled=800, rules=rules)]).model == "tiny"


def test_row_4_further_rules_need_their_share_at_the_price_of_the_last_model_that_could_serve():
    other = Rule(frozenset({"*"}), "tiny")
    costs = {"small": 150, "tiny": 5}
    full = view(900, id=2)
    # The first rule's window is pressed by large alone: at the price of small no rule of it counts any more.
    easy = view(settled=600, rules=(DOWNGRADE, other))
    assert decide(call(200, costs=costs), [easy, full]).action == Action.HARD_STOP
    assert decide(call(200, costs=costs), [view(settled=650, rules=(DOWNGRADE, other)), full]).model == "tiny"
    # One that cannot do the job does not serve, so its price says nothing.
    cheap = call(200, costs={"small": 1, "tiny": 5}, incapable=frozenset({"small"}))
    assert decide(cheap, [easy]).model == "tiny"


def test_row_4_cycles_are_cut():
    rules = (DOWNGRADE, Rule(frozenset({"small"}), "tiny"), Rule(frozenset({"tiny"}), "large"))
    decision = decide(call(100, costs={"small": 50, "tiny": 45}), [view(settled=980, rules=rules)])
    assert outcome(decision) == (Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, "")
    neither = call(100, costs={"small": 50, "tiny": 5}, incapable=frozenset({"small", "tiny"}))
    assert decide(neither, [view(settled=800, rules=rules)]).model == "large"
    itself = (Rule(frozenset({"*"}), "large"),)
    assert decide(call(100), [view(settled=800, rules=itself)]).action == Action.WARN


# A rule's own share ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settled", "action", "model"),
    [
        (699, Action.ALLOW, "large"),
        (700, Action.WARN, "large"),
        (849, Action.WARN, "large"),
        (850, Action.DEGRADE, "small"),
        (851, Action.DEGRADE, "small"),
        (900, Action.DEGRADE, "small"),
    ],
)
def test_a_rule_counts_from_its_own_share_on_to_the_nanodollar(settled, action, model):
    rule = Rule(frozenset({"large"}), "small", at_e4=9_500)
    decision = decide(call(100, costs={"small": 10}), [view(settled=settled, rules=(rule,))])
    assert (decision.action, decision.model) == (action, model)
    assert [(step.rule, step.share_e4) for step in decision.downgrades] == [(rule, 9_500)] * (model == "small")


def test_a_share_that_is_no_whole_nanodollar_is_reached_by_the_next_one():
    # 0.5 x 21 = 10.5
    rule = Rule(frozenset({"large"}), "small", at_e4=5_000)
    for cost, model in ((10, "large"), (11, "small")):
        assert decide(call(cost, costs={"small": 1}), [view(limit=21, rules=(rule,))]).model == model


def test_a_rule_below_the_soft_cap_downgrades_before_it_and_says_why():
    rule = Rule(frozenset({"large"}), "small", at_e4=5_000)
    decision = decide(call(100, costs={"small": 10}), [view(settled=400, rules=(rule,))])
    assert outcome(decision) == (Action.DEGRADE, Reason.DOWNGRADE_RULE, "small")
    assert decision.because is not None
    assert decision.because.window_id == 1
    assert decide(call(99, costs={"small": 10}), [view(settled=400, rules=(rule,))]).action == Action.ALLOW
    refused = decide(call(100, costs={"small": 10}, allow_downgrade=False), [view(settled=400, rules=(rule,))])
    assert (refused.reason, refused.because) == (Reason.DOWNGRADE_REFUSED, view(settled=400, rules=(rule,)))


def test_a_rule_with_its_own_share_needs_no_soft_cap():
    rule = Rule(frozenset({"large"}), "small", at_e4=9_000)
    for settled, model in ((799, "large"), (800, "small")):
        decision = decide(call(100, costs={"small": 10}), [view(settled=settled, soft_e4=None, rules=(rule,))])
        assert decision.model == model


def test_of_two_rules_for_a_model_the_one_with_the_higher_share_stands_first():
    rules = (Rule(frozenset({"*"}), "tiny", at_e4=9_500), Rule(frozenset({"large"}), "small", at_e4=8_000))
    costs = {"small": 50, "tiny": 5}
    for settled, model in ((699, "large"), (700, "small"), (849, "small"), (850, "tiny")):
        assert decide(call(100, costs=costs), [view(settled=settled, rules=rules)]).model == model
    # The other way round the first is followed at any share, and the second only where that does not fit.
    for settled, model in ((850, "small"), (950, "small"), (951, "tiny")):
        assert decide(call(100, costs=costs), [view(settled=settled, rules=rules[::-1])]).model == model


def test_a_rule_above_the_hard_cap_counts_where_the_call_would_pass_it():
    rule = Rule(frozenset({"large"}), "small", at_e4=9_500)
    capped = {"hard_e4": 9_000, "rules": (rule,)}
    for settled, expected in ((800, "large"), (840, ""), (850, "small")):
        decision = decide(call(100, costs={"small": 10}), [view(settled=settled, **capped)])
        assert (decision.quote.model if decision.quote else "") == expected


def test_windows_have_their_own_rules_and_the_first_that_counts_wins():
    tiny = Rule(frozenset({"*"}), "tiny", at_e4=9_000)
    agent, tenant = view(settled=700, rules=(tiny,)), view(settled=700, id=2, rules=(DOWNGRADE,))
    costs = {"small": 50, "tiny": 5}
    decision = decide(call(100, costs=costs), [agent, tenant])
    assert (decision.model, decision.because) == ("small", tenant)
    decision = decide(call(200, costs=costs), [agent, tenant])
    assert (decision.model, decision.because) == ("tiny", agent)
    assert decide(call(200, costs=costs), [tenant, agent]).model == "small"


def test_rules_that_cannot_serve_change_nothing_below_the_soft_cap():
    rule = Rule(frozenset({"large"}), "small", at_e4=5_000)
    unpriced = decide(call(100), [view(settled=400, rules=(rule,))])
    assert outcome(unpriced) == (Action.ALLOW, Reason.NONE, "large")
    dearer = decide(call(100, costs={"small": 700}), [view(settled=400, rules=(rule,))])
    assert outcome(dearer) == (Action.ALLOW, Reason.NONE, "large")
    assert (dearer.because, dearer.downgrades) == (None, ())


def test_waiting_comes_before_clamping_and_a_further_rule_before_both():
    def quote(model: str) -> Quote | None:
        each = {"large": 10, "small": 2, "tiny": 1}[model]
        return Quote(model, 400 * each, fixed_picos=0, picos_per_output_token=each * 1000, max_tokens=400)

    one = (Rule(frozenset({"large"}), "small", at_e4=9_000),)
    both = (*one, Rule(frozenset({"small"}), "tiny", at_e4=9_500))
    asked = Call("large", quote)
    # small needs 800 and tiny 400.
    assert decide(asked, [view(reserved=200, rules=one)]).model == "small"
    assert decide(asked, [view(reserved=201, rules=one)]).action == Action.IN_FLIGHT
    assert decide(asked, [view(reserved=201, rules=both)]).model == "tiny"
    assert decide(asked, [view(reserved=601, rules=both)]).action == Action.IN_FLIGHT
    clamped = decide(asked, [view(settled=201, rules=one)])
    assert (clamped.model, clamped.clamped, clamped.quote.max_tokens) == ("small", True, 399)
    assert [step.rule for step in clamped.downgrades] == list(one)
    clamped = decide(asked, [view(settled=601, rules=both)])
    assert (clamped.model, clamped.clamped, clamped.quote.max_tokens) == ("tiny", True, 399)
    assert len(clamped.downgrades) == 2


# And its other edges -----------------------------------------------------------------------------------------


def test_row_4_a_model_that_cannot_do_the_job_is_stepped_over():
    rules = (DOWNGRADE, Rule(frozenset({"small"}), "tiny"))
    costs = {"small": 50, "tiny": 5}
    asked = call(100, costs=costs, incapable=frozenset({"small"}))
    assert decide(asked, [view(settled=800, rules=rules)]).model == "tiny"
    neither = call(100, costs=costs, incapable=frozenset({"small", "tiny"}))
    assert outcome(decide(neither, [view(settled=800, rules=rules)])) == (Action.WARN, Reason.SOFT_CAP, "large")


def test_row_4_a_model_without_a_price_is_stepped_over():
    rules = (DOWNGRADE, Rule(frozenset({"small"}), "tiny"))
    assert decide(call(100, costs={"tiny": 5}), [view(settled=800, rules=rules)]).model == "tiny"
    assert decide(call(100), [view(settled=800, rules=rules)]).action == Action.WARN


def test_row_4_an_earlier_model_is_taken_where_it_alone_fits():
    # A rule may lead to a model that costs more for this call.
    dearer = Rule(frozenset({"large"}), "vast")
    decision = decide(call(100, costs={"vast": 400}), [view(settled=750, rules=(dearer,))])
    assert outcome(decision) == (Action.WARN, Reason.SOFT_CAP, "large")


def test_row_4_a_caller_may_refuse_to_be_downgraded():
    asked = call(100, costs={"small": 10}, allow_downgrade=False)
    assert outcome(decide(asked, [view(settled=800, rules=(DOWNGRADE,))])) == (
        Action.HARD_STOP,
        Reason.DOWNGRADE_REFUSED,
        "",
    )
    assert decide(asked, [view(settled=100, rules=(DOWNGRADE,))]).action == Action.ALLOW
    # Nothing to refuse where no rule matches.
    assert decide(asked, [view(settled=800)]).action == Action.WARN


def test_row_4_rules_of_an_unpressed_window_do_not_apply():
    pressed, easy = view(settled=800), view(limit=10**6, id=2, rules=(DOWNGRADE,))
    assert decide(call(costs={"small": 10}), [pressed, easy]).action == Action.WARN


def test_without_a_soft_cap_there_is_neither_warning_nor_downgrade():
    decision = decide(call(100, costs={"small": 10}), [view(settled=900, soft_e4=None, rules=(DOWNGRADE,))])
    assert outcome(decision) == (Action.ALLOW, Reason.NONE, "large")


# Row 5: tools ------------------------------------------------------------------------------------------------


def test_row_5_disabled_tools_go_from_the_soft_cap_on():
    limited = view(settled=700, disabled_tools=frozenset({"web_search", "code"}))
    decision = decide(call(100, tools=("weather", "web_search")), [limited])
    assert outcome(decision) == (Action.DISABLE_TOOLS, Reason.SOFT_CAP, "large")
    assert decision.disabled_tools == ("web_search",)
    below = decide(call(99, tools=("web_search",)), [limited])
    assert (below.action, below.disabled_tools) == (Action.ALLOW, ())


def test_row_5_tools_nobody_disabled_stay():
    decision = decide(call(100, tools=("weather",)), [view(settled=800, disabled_tools=frozenset({"code"}))])
    assert (decision.action, decision.disabled_tools) == (Action.WARN, ())


def test_row_5_every_pressed_window_takes_its_tools():
    views = [
        view(settled=800, disabled_tools=frozenset({"code"})),
        view(settled=800, id=2, disabled_tools=frozenset({"web_search"})),
        view(id=3, limit=10**6, disabled_tools=frozenset({"weather"})),
    ]
    decision = decide(call(100, tools=("code", "weather", "web_search")), views)
    assert decision.disabled_tools == ("code", "web_search")


def test_rows_4_and_5_apply_together():
    limited = view(settled=800, rules=(DOWNGRADE,), disabled_tools=frozenset({"code"}))
    decision = decide(call(100, costs={"small": 10}, tools=("code",)), [limited])
    assert outcome(decision) == (Action.DEGRADE, Reason.SOFT_CAP, "small")
    assert decision.disabled_tools == ("code",)


def test_a_forced_tool_that_is_taken_away_refuses_the_call():
    limited = view(settled=800, disabled_tools=frozenset({"code"}))
    forced = call(100, tools=("code", "weather"), forced_tool="code")
    assert outcome(decide(forced, [limited])) == (Action.DISABLE_TOOLS, Reason.TOOL_DISABLED, "")
    other = call(100, tools=("code", "weather"), forced_tool="weather")
    assert decide(other, [limited]).disabled_tools == ("code",)
    assert decide(forced, [view(disabled_tools=frozenset({"code"}))]).action == Action.ALLOW


# Rows 6 and 7 ------------------------------------------------------------------------------------------------


def test_row_6_an_exact_hit_of_the_soft_cap_warns():
    assert outcome(decide(call(100), [view(settled=700)])) == (Action.WARN, Reason.SOFT_CAP, "large")


def test_row_7_otherwise_the_call_goes_through():
    assert outcome(decide(call(99), [view(settled=700)])) == (Action.ALLOW, Reason.NONE, "large")
    assert decide(call(0), [view()]).action == Action.ALLOW


def test_without_any_budget_everything_priced_goes():
    assert outcome(decide(call(10**18), [])) == (Action.ALLOW, Reason.NONE, "large")


def test_several_windows_the_strictest_wins():
    easy, warned, full = view(), view(settled=750, id=2), view(settled=950, id=3)
    assert decide(call(100), [easy]).action == Action.ALLOW
    decision = decide(call(100), [easy, warned])
    assert decision.action == Action.WARN
    assert decision.because == warned
    refused = decide(call(100), [easy, warned, full])
    assert refused.action == Action.HARD_STOP
    assert refused.because == full
    assert refused.tightest == tightest([full, easy]) == full
    assert tightest([]) is None


# The clamp ---------------------------------------------------------------------------------------------------


def test_the_clamp_lowers_max_tokens_to_what_the_money_covers():
    decision = decide(Call("large", tokens(100, 1, 1000)), [view(settled=400)])
    assert decision.clamped
    assert decision.quote is not None
    assert (decision.quote.max_tokens, decision.quote.cost_nanos) == (500, 600)
    assert decision.action == Action.WARN


def test_to_whom_amounts_are_not_shown_the_clamp_tells_none():
    asked = Call("large", tokens(100, 1, 1000), shows_amounts=False)
    for settled in (400, 500, 643):
        decision = decide(asked, [view(settled=settled)])
        assert decision.quote is not None
        assert decision.quote.max_tokens == 256
    # Never below the policy's least.
    least = decide(asked, [view(settled=400, clamp_min_tokens=400)])
    assert least.quote is not None
    assert least.quote.max_tokens == 400


def test_what_fits_is_not_clamped():
    decision = decide(Call("large", tokens(100, 1, 1000)), [view(limit=1100)])
    assert not decision.clamped
    assert decision.quote is not None
    assert decision.quote.max_tokens == 1000


def test_the_clamp_stops_at_the_policys_minimum():
    asked = Call("large", tokens(100, 1, 1000))
    exact = decide(asked, [view(settled=644)])
    assert exact.clamped
    assert exact.quote is not None
    assert exact.quote.max_tokens == 256
    assert decide(asked, [view(settled=645)]).action == Action.HARD_STOP
    stricter = view(settled=600, id=2, clamp_min_tokens=301)
    assert decide(asked, [view(settled=600)]).clamped
    assert decide(asked, [view(settled=600), stricter]).action == Action.HARD_STOP


def test_a_policy_may_forbid_the_clamp():
    asked = Call("large", tokens(100, 1, 1000))
    assert decide(asked, [view(settled=400, clamp=False)]).action == Action.HARD_STOP
    assert decide(asked, [view(settled=400), view(id=2, limit=10**6, clamp=False)]).action == Action.HARD_STOP


def test_an_explicit_estimate_is_never_clamped():
    assert decide(call(1000), [view(settled=400)]).action == Action.HARD_STOP


def test_the_clamp_waits_for_money_in_flight():
    # Not even the prompt fits beside what is held, and the whole answer would not fit without it: but a part would.
    asked = Call("large", tokens(100, 1, 2000))
    assert decide(asked, [view(reserved=950)]).action == Action.IN_FLIGHT
    # The whole answer would fit without it: waiting is better than a cut answer.
    whole = Call("large", tokens(100, 1, 800))
    assert decide(whole, [view(reserved=500)]).action == Action.IN_FLIGHT


def test_the_clamp_applies_at_the_end_of_the_chain():
    def quote(model: str) -> Quote | None:
        each = {"large": 10, "small": 2}[model]
        return Quote(model, 1000 * each, fixed_picos=0, picos_per_output_token=each * 1000, max_tokens=1000)

    decision = decide(Call("large", quote), [view(rules=(DOWNGRADE,))])
    assert decision.clamped
    assert decision.quote is not None
    assert (decision.model, decision.quote.max_tokens) == ("small", 500)


def test_the_clamp_rounds_the_cost_up_and_the_tokens_down():
    quote = Quote("large", 10**6, fixed_picos=1, picos_per_output_token=3, max_tokens=10**6)
    clamped = quote.clamped(1)
    assert clamped is not None
    assert (clamped.max_tokens, clamped.cost_nanos) == (333, 1)
    assert quote.clamped(0) is None
    assert quote.clamped(-5) is None
    assert Quote("large", 100).clamped(1000) is None
    # More money than the call can use changes nothing.
    assert quote.clamped(10**12) == replace(quote, cost_nanos=-(-(1 + 3 * 10**6) // 1000))


# States and thresholds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settled", "state"),
    [
        (599, State.ACTIVE),
        (600, State.WARNED),
        (799, State.WARNED),
        (800, State.DEGRADED),
        (999, State.DEGRADED),
        (1000, State.STOPPED),
        (1500, State.STOPPED),
    ],
)
def test_the_state_follows_settled_money(settled, state):
    assert state_of(settled, LIMIT, Policy(warn_e4=6_000, rules=(DOWNGRADE,))) == state


def test_from_the_soft_cap_on_a_window_is_degraded_only_where_something_is_done():
    assert state_of(800, LIMIT, Policy()) == State.WARNED
    assert state_of(800, LIMIT, Policy(disabled_tools=frozenset({"code"}))) == State.DEGRADED
    assert state_of(999, LIMIT, Policy(soft_e4=None)) == State.ACTIVE
    assert view(settled=800).state == State.WARNED


def test_thresholds_are_reached_exactly():
    assert crossed(499, LIMIT, Policy()) == ()
    assert crossed(500, LIMIT, Policy()) == (5_000,)
    assert crossed(1000, LIMIT, Policy()) == (5_000, 7_500, 9_000, 10_000)


# Whatever is asked -------------------------------------------------------------------------------------------

MODELS = ("large", "small", "tiny")
amounts = st.integers(0, 2000)
rules = st.builds(
    Rule,
    st.frozensets(st.sampled_from((*MODELS, "*")), min_size=1),
    st.sampled_from(MODELS),
    st.none() | st.integers(1, 10_000),
)
policies = st.builds(
    Policy,
    hard_e4=st.integers(5_000, 10_000),
    soft_e4=st.none() | st.integers(1, 4_999),
    rules=st.lists(rules, max_size=3).map(tuple),
    disabled_tools=st.frozensets(st.sampled_from(["code", "web_search"])),
    clamp=st.booleans(),
    clamp_min_tokens=st.integers(0, 50),
)
views = st.lists(
    st.builds(view, amounts, amounts, limit=st.integers(1, 3000), id=st.integers(1, 9), policy=policies),
    max_size=4,
)
quotes = st.builds(
    lambda model, fixed, each, most, known, capable: Quote(
        model,
        -(-(fixed + each * most) // 1000),
        capable=capable,
        fixed_picos=fixed,
        picos_per_output_token=each if known else 0,
        max_tokens=most if known else None,
    ),
    st.sampled_from(MODELS),
    st.integers(0, 500_000),
    st.integers(0, 5_000),
    st.integers(0, 500),
    st.booleans(),
    st.booleans(),
)
calls = st.builds(
    lambda priced, **fields: Call("large", {quote.model: quote for quote in priced}.get, **fields),
    st.lists(quotes, max_size=3),
    tools=st.sampled_from([(), ("code",), ("code", "weather")]),
    forced_tool=st.sampled_from(["", "code"]),
    allow_downgrade=st.booleans(),
    blocked=st.sampled_from([Reason.NONE] * 4 + [Reason.TENANT_PAUSED]),
)


@given(calls, views)
def test_a_call_that_is_allowed_fits_every_window(asked, views):
    decision = decide(asked, views)
    if decision.quote is None:
        return
    assert not asked.blocked
    for item in views:
        cap_e4 = item.limit_nanos * item.policy.hard_e4
        assert (item.committed_nanos + decision.quote.cost_nanos) * 10_000 <= cap_e4
        assert item.settled_nanos * 10_000 < cap_e4


@given(calls, views)
def test_every_answer_is_whole(asked, views):
    decision = decide(asked, views)
    assert decision.views == tuple(views)
    assert decision.allowed == (
        decision.action not in (Action.HARD_STOP, Action.IN_FLIGHT) and decision.reason != Reason.TOOL_DISABLED
    )
    if decision.allowed:
        assert decision.quote.model == decision.model
        assert (decision.action == Action.DEGRADE) == (decision.model != asked.model)
        assert decision.quote.capable or decision.model == asked.model
        assert asked.allow_downgrade or decision.action != Action.DEGRADE
        assert (decision.because is not None) == (decision.reason in (Reason.SOFT_CAP, Reason.DOWNGRADE_RULE))
        assert bool(decision.downgrades) == (decision.action == Action.DEGRADE)
        # Each further step was asked for by the money or the job.
        for step in decision.downgrades[:-1]:
            passed = asked.quote(step.rule.to)
            fits = passed is not None and all(item.admits(passed.cost_nanos) for item in views)
            assert not (fits and passed.capable)
    else:
        assert decision.reason
    if decision.clamped:
        least = max(item.policy.clamp_min_tokens for item in views)
        assert all(item.policy.clamp for item in views)
        assert least <= decision.quote.max_tokens <= asked.quote(decision.model).max_tokens


@given(calls, views)
def test_in_flight_means_that_waiting_helps(asked, views):
    if decide(asked, views).action != Action.IN_FLIGHT:
        return
    assert decide(asked, [replace(item, reserved_nanos=0) for item in views]).allowed or asked.forced_tool


@given(calls, views, st.data())
def test_the_order_of_windows_does_not_change_whether_a_call_goes(asked, views, data):
    shuffled = data.draw(st.permutations(views))
    without_rules = [replace(item, policy=replace(item.policy, rules=())) for item in views]
    again = [replace(item, policy=replace(item.policy, rules=())) for item in shuffled]
    assert decide(asked, without_rules).action == decide(asked, again).action


def test_the_first_alternative_that_the_money_allows_is_taken():
    asked = call(500, costs={"medium": 300, "small": 50}, alternatives=("medium", "small"))
    assert decide(asked, [view(800, soft_e4=None)]).model == "small"
    assert decide(asked, [view(0, soft_e4=None)]).model == "large"


def test_where_no_alternative_fits_the_refusal_of_what_needed_the_least_is_the_answer():
    asked = call(500, costs={"small": 300, "medium": 400}, alternatives=("small", "medium", "unpriced"))
    decision = decide(asked, [view(800)])
    assert (decision.action, decision.reason, decision.model) == (Action.HARD_STOP, Reason.BUDGET_EXHAUSTED, "small")
    assert decision.wanted is not None
    assert decision.wanted.cost_nanos == 300
    # With what it says was missing the call goes.
    assert decide(asked, [view(700)]).model == "small"


def test_of_alternatives_that_need_as_much_the_first_is_the_answer():
    asked = call(500, costs={"other": 500}, alternatives=("other", "unpriced"))
    assert decide(asked, [view(800)]).model == "large"


def test_a_refusal_that_is_not_about_money_tries_no_alternative():
    blocked = call(500, costs={"small": 1}, alternatives=("small",), blocked=Reason.TENANT_PAUSED)
    assert decide(blocked, [view()]).reason == Reason.TENANT_PAUSED


# Rate limits ---------------------------------------------------------------------------------------------------


def bucket(scope: str, **level: int) -> BucketView:
    """Sixty nanodollars, requests and tokens a minute."""
    return BucketView(scope, Ceilings(60, 60, 60), Amount(**level), datetime(2026, 3, 10, tzinfo=UTC))


def test_the_rate_limit_that_makes_a_call_wait_longest_refuses_it():
    full = [bucket("a", nanos=60), bucket("b", nanos=60, tokens_e6=60_000_000), bucket("c", nanos=58), bucket("d")]
    limited = decide(Call("large", lambda model: Quote(model, 5, input_tokens=4, max_tokens=3)), [view()], full)
    assert outcome(limited) == (Action.IN_FLIGHT, Reason.RATE_LIMITED, "")
    assert (limited.limited_by, limited.retry_after_s, limited.views) == (full[1], 7, (view(),))
    assert limited.because is None


def test_of_two_rate_limits_with_one_wait_the_first_is_named():
    full = [bucket("a", requests_e6=60_000_000), bucket("b", requests_e6=60_000_000)]
    limited = decide(call(0), [view()], full)
    assert (limited.limited_by, limited.retry_after_s) == (full[0], 1)


def test_a_call_that_every_rate_limit_lets_through_goes():
    decision = decide(call(50), [view()], [bucket("a", nanos=10), bucket("b")])
    assert outcome(decision) == (Action.ALLOW, Reason.NONE, "large")
    assert (decision.limited_by, decision.retry_after_s, decision.wanted_nanos) == (None, 0, 0)


def test_the_tokens_of_a_call_are_its_input_and_those_of_every_answer():
    assert Quote("large", 1).tokens == 0
    assert Quote("large", 1, input_tokens=7).tokens == 7
    assert Quote("large", 1, input_tokens=7, max_tokens=5).tokens == 12
    assert Quote("large", 1, input_tokens=7, max_tokens=5, answers=3).tokens == 22


def test_a_quote_is_clamped_to_what_the_room_covers_and_to_no_call_at_all():
    each = Quote("large", 10, picos_per_output_token=1000, max_tokens=10)
    assert each.clamped(5) == replace(each, max_tokens=5, cost_nanos=5)
    assert each.clamped(1) == replace(each, max_tokens=1, cost_nanos=1)
    assert each.clamped(11) == each
    assert [each.clamped(room) for room in (0, -1)] == [None, None]
    # Half a nanodollar before the first token: of five nanodollars four tokens are covered.
    started = replace(each, fixed_picos=500)
    assert started.clamped(5) == replace(started, max_tokens=4, cost_nanos=5)
    assert Quote("large", 10, max_tokens=10).clamped(5) is None
    assert Quote("large", 10, picos_per_output_token=1000).clamped(5) is None


def test_thresholds_are_not_reached_by_a_nanodollar_less():
    limit = 10**14
    assert crossed(limit // 2 - 1, limit, Policy(thresholds_e4=(5_000,))) == ()
    assert crossed(limit // 2, limit, Policy(thresholds_e4=(5_000, 5_001))) == (5_000,)
    nearly, whole = Policy(soft_e4=5_000), Policy(soft_e4=None)
    assert [state_of(limit // 2 - 1, limit, nearly), state_of(limit // 2, limit, nearly)] == [
        State.ACTIVE,
        State.WARNED,
    ]
    assert [state_of(limit - 1, limit, whole), state_of(limit, limit, whole)] == [State.ACTIVE, State.STOPPED]
    assert [view(settled, limit=limit).spent_out for settled in (limit - 1, limit)] == [False, True]


def test_the_smallest_price_a_token_is_clamped_too_and_the_largest_room_to_the_token():
    least = Quote("large", 1, picos_per_output_token=1, max_tokens=10)
    assert least.clamped(1) == replace(least, cost_nanos=1)
    dear = Quote("large", 10**9, picos_per_output_token=1000, max_tokens=10**9)
    clamped = dear.clamped(10**6)
    assert clamped is not None
    assert (clamped.max_tokens, clamped.cost_nanos) == (10**6, 10**6)


def test_an_explicit_estimate_stands_for_whichever_model_serves():
    decision = decide(Call("any", fixed(100)), [view()])
    assert outcome(decision) == (Action.ALLOW, Reason.NONE, "any")
    assert decision.quote == Quote("any", 100)


def test_a_call_that_waits_says_for_which_window_and_for_how_much():
    held = view(900, 50)
    waiting = decide(call(100), [view(id=2), held])
    assert outcome(waiting) == (Action.IN_FLIGHT, Reason.BUDGET_IN_FLIGHT, "")
    assert (waiting.because, waiting.wanted_nanos) == (held, 100)
    assert decide(call(101), [view(id=2), held]).reason is Reason.BUDGET_EXHAUSTED


def test_a_tool_that_is_taken_away_is_refused_for_the_window_that_is_pressed():
    pressed = view(850, disabled_tools=frozenset({"search"}))
    refused = decide(call(10, tools=("search",), forced_tool="search"), [view(id=2), pressed])
    assert outcome(refused) == (Action.DISABLE_TOOLS, Reason.TOOL_DISABLED, "")
    assert refused.because == pressed


def test_what_a_decision_does_not_say_is_nothing():
    decision = Decision(Action.ALLOW)
    assert (decision.reason, decision.model, decision.quote, decision.clamped) == (Reason.NONE, "", None, False)
    assert (decision.disabled_tools, decision.views, decision.downgrades) == ((), (), ())
    assert (decision.because, decision.tightest, decision.allowed) == (None, None, False)
