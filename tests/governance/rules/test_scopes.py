"""Which budgets govern a call."""

from hypothesis import given
from hypothesis import strategies as st

from governance.rules.calls import Caller
from governance.rules.names import EACH
from governance.rules.policy import Policy
from governance.rules.scopes import (
    SCOPES,
    BudgetRule,
    MatchedBudget,
    governing,
    is_named_by_calls,
    is_stopped,
    keys_of,
)
from governance.rules.windows import WindowKind

ACME, OTHER = 1, 2
CALLER = Caller(
    tenant_id=ACME, tenant="acme", agent="invoices", key_prefix="sg_abc", user="ann", session="s1", task="t1"
)


def rule(
    id: int, scope_type: str, scope_key: str = "", *, tenant: int | None = ACME, window: str = "day"
) -> BudgetRule:
    return BudgetRule(id, tenant, scope_type, scope_key, WindowKind(window), 10**9, Policy())


def found(*budgets: BudgetRule, caller: Caller = CALLER) -> list[tuple[int, str]]:
    return [(item.budget.id, item.subject) for item in governing(caller, budgets)]


def test_every_scope_of_the_caller_governs_the_most_particular_first():
    budgets = [
        rule(1, "platform", tenant=None),
        rule(2, "tenant", "acme"),
        rule(3, "agent", "invoices"),
        rule(4, "key", "sg_abc"),
        rule(5, "user", "ann"),
        rule(6, "session", "s1"),
        rule(7, "task", "t1"),
    ]
    assert found(*budgets) == [
        (7, "t1"),
        (6, "s1"),
        (5, "ann"),
        (4, "sg_abc"),
        (3, "invoices"),
        (2, "acme"),
        (1, ""),
    ]


def test_another_subject_is_not_governed():
    assert found(rule(1, "agent", "churn"), rule(2, "user", "bob"), rule(3, "key", "sg_xyz")) == []


def test_another_tenants_budgets_do_not_matter():
    assert found(rule(1, "tenant", "other", tenant=OTHER), rule(2, "agent", "invoices", tenant=OTHER)) == []
    assert found(rule(3, "user", "*", tenant=OTHER)) == []


def test_the_exact_key_wins_over_each_one():
    assert found(rule(1, "user", "*"), rule(2, "user", "ann")) == [(2, "ann")]
    assert found(rule(1, "user", "*"), rule(2, "user", "bob")) == [(1, "ann")]


def test_the_tenants_own_each_one_wins_over_the_platforms():
    assert found(rule(1, "agent", "*", tenant=None), rule(2, "agent", "*")) == [(2, "invoices")]
    assert found(rule(1, "tenant", "*", tenant=None), rule(2, "tenant", "acme")) == [(2, "acme")]


def test_the_platforms_each_one_tells_tenants_apart():
    budget = rule(1, "agent", "*", tenant=None)
    other = Caller(tenant_id=OTHER, tenant="other", agent="invoices")
    assert found(budget) == [(1, "acme/invoices")]
    assert found(budget, caller=other) == [(1, "other/invoices")]
    assert found(rule(2, "tenant", "*", tenant=None), caller=other) == [(2, "other")]


def test_scopes_never_stand_in_for_each_other():
    nameless = Caller(tenant_id=ACME, tenant="acme")
    budgets = [rule(1, "agent", "*"), rule(2, "user", "*"), rule(3, "session", "*"), rule(4, "task", "*")]
    assert found(*budgets, caller=nameless) == []
    assert keys_of(nameless) == {"tenant": "acme", "platform": ""}


def test_budgets_of_one_scope_with_several_windows_all_govern():
    budgets = [rule(1, "tenant", "acme"), rule(2, "tenant", "acme", window="month")]
    assert found(*budgets) == [(1, "acme"), (2, "acme")]
    # The exact key wins with all its windows; "each one" is left out even where its window is another.
    assert found(*budgets, rule(3, "tenant", "*", tenant=None, window="hour")) == [(1, "acme"), (2, "acme")]


def test_windows_follow_the_tenants_zone_but_the_platforms_follow_utc():
    budgets = [rule(1, "platform", tenant=None), rule(2, "tenant", "acme"), rule(3, "agent", "*", tenant=None)]
    zones = {
        item.budget.id: (item.time_zone, item.tenant_id)
        for item in governing(CALLER, budgets, time_zone="Pacific/Auckland")
    }
    assert zones == {1: ("UTC", None), 2: ("Pacific/Auckland", ACME), 3: ("Pacific/Auckland", ACME)}


names = st.sampled_from(["*", "a", "b"])
# Without a tenant only "each one" can be, and the platform itself.
books = st.builds(
    rule, st.integers(1, 99), st.sampled_from(SCOPES[:-2]), names, tenant=st.sampled_from([ACME, OTHER])
) | st.builds(rule, st.integers(1, 99), st.sampled_from(SCOPES[:-1]), st.just("*"), tenant=st.none())


@given(st.lists(books, unique_by=lambda item: item.id), st.sampled_from(["", "a", "b"]))
def test_whatever_budgets_there_are_one_kind_a_scope_governs(budgets, user):
    caller = Caller(tenant_id=ACME, tenant="acme", agent="a", user=user)
    items = governing(caller, budgets)
    assert all(item.budget.tenant_id in (None, ACME) for item in items)
    scopes = [item.budget.scope_type for item in items]
    assert scopes == sorted(scopes, key=SCOPES.index)
    for scope in set(scopes):
        ranks = {
            (item.budget.tenant_id is None, item.budget.scope_key == "*")
            for item in items
            if item.budget.scope_type == scope
        }
        assert len(ranks) == 1
    assert {item.budget.id for item in governing(caller, budgets[::-1])} == {item.budget.id for item in items}


def test_a_stop_is_for_everybody_a_tenant_or_one_of_its_agents():
    def stopped(*stops: tuple[int, str], tenant_id: int = ACME, agent: str = "invoices") -> bool:
        return is_stopped(set(stops), tenant_id=tenant_id, agent=agent)

    for target in ((0, ""), (ACME, ""), (ACME, "invoices")):
        assert stopped(target)
        assert stopped((OTHER, "x"), target)
    for target in ((OTHER, ""), (ACME, "churn"), (OTHER, "invoices"), (0, "invoices"), (1000, "")):
        assert not stopped(target)
    assert not stopped()
    # A call without an agent is stopped with its tenant, and by no agent's stop.
    assert stopped((ACME, ""), agent="")
    assert not stopped((ACME, "invoices"), agent="")
    assert not stopped((OTHER, ""), (ACME, "invoices"), tenant_id=0, agent="churn")


def test_windows_follow_utc_where_no_zone_is_said():
    budget = rule(1, "tenant", "acme")
    assert governing(CALLER, [budget]) == [MatchedBudget(budget, "acme", ACME, "UTC")]
    assert MatchedBudget(budget, "acme", ACME).time_zone == "UTC"


def test_calls_name_whom_a_rule_for_each_agent_user_session_or_task_is_for():
    named = [kind for kind in SCOPES if is_named_by_calls(rule(1, kind, EACH))]
    assert set(named) == {"agent", "user", "session", "task"}
    assert not any(is_named_by_calls(rule(1, kind, "ann")) for kind in SCOPES)
