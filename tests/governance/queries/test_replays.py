"""What a policy would have done to the calls of the last days, against rows that the ledger made."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids

from governance import ledger, ports
from governance.ledger.operations import Adjust
from governance.models import Budget, RefusedCall, SpendEntry
from governance.queries import replays
from governance.queries.replays import PolicyPreview
from governance.rules import policy
from governance.rules.decision import Quote
from governance.rules.policy import Policy
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.usefixtures("ledger_holds")

DAY = timedelta(days=1)
# Picodollars of an output token; input is free.
PRICES = {"large": 1_000_000_000, "small": 100_000_000}
TO_SMALL = [{"from": ["large"], "to": "small"}]


def quote(*, model: str, input_tokens: int, max_tokens: int, asked: Any = (), overruns: Any = ()) -> Quote | None:
    if model not in PRICES:
        return None
    each = PRICES[model]
    names = frozenset({model, f"{model}-2603"})
    return Quote(model, max_tokens * each // 1000, names, picos_per_output_token=each, max_tokens=max_tokens)


@pytest.fixture(autouse=True)
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "wired", replace(ports.wired, quote=quote))


def call(cost: str, *, at: datetime = NOON, held: str | None = None, **caller: Any) -> None:
    """A call of 20 tokens, held for and charged."""
    id, by = uuids.uuid7(), factories.caller(**caller)
    ledger.reserve(factories.reserving(held or cost, by=by, id=id), now=at)
    ledger.settle(factories.settling(id, cost), now=at)


def preview(budget: Budget, *, limit: str | None = None, now: datetime = NOON + DAY, **columns: Any) -> PolicyPreview:
    kept = policy.columns_of(budget) | columns
    typed = policy.of({name: policy.parse(name, value) for name, value in kept.items()})
    limit_nanos = nanos(limit) if limit else budget.limit_nanos
    return replays.preview(budget, typed=typed, limit_nanos=limit_nanos, now=now)


def test_another_limit_would_have_refused_some() -> None:
    budget = factories.budget("10", window="day", clamp=False)
    for minute in range(5):
        call("1.00", at=NOON + timedelta(minutes=minute))
    found = preview(budget, limit="3")
    assert (found.then.looked_at, found.then.refused, found.then.spent_nanos) == (5, 2, nanos("3"))
    assert found.then.first_refused_at == NOON + timedelta(minutes=3)
    assert (found.now.refused, found.now.spent_nanos) == (0, nanos("5"))
    assert (found.since, found.is_part) == (NOON, False)


def test_each_day_is_a_window_of_its_own() -> None:
    budget = factories.budget("10", window="day", clamp=False)
    for days in range(3):
        for minute in range(3):
            call("1.00", at=NOON + DAY * days + timedelta(minutes=minute))
    assert preview(budget, limit="2", now=NOON + DAY * 3).then.refused == 3


def test_a_rule_would_have_downgraded_some_and_what_they_had_cost_then() -> None:
    budget = factories.budget("10", window="day", clamp=False)
    for minute in range(4):
        call("1.00", at=NOON + timedelta(minutes=minute))
    found = preview(budget, limit="4", soft_cap="0.5", downgrade_rules=TO_SMALL)
    # From the second on the projection is at half of the limit. 20 tokens at the small model are 0.2 cents.
    assert found.then.downgrades == {("large", "small"): 3}
    assert found.then.spent_nanos == nanos("1.00") + 3 * nanos("0.002")


def test_calls_of_other_scopes_are_not_looked_at() -> None:
    budget = factories.budget("10", window="day", scope_type="agent", scope_key="support")
    call("1.00", agent="support")
    call("1.00", agent="churn")
    call("1.00", agent="support", owner=factories.tenant("globex"))
    assert preview(budget).then.looked_at == 1


@pytest.mark.parametrize("scope", ["agent", "user", "session", "task"])
def test_a_budget_for_each_one_counts_each_by_itself(scope: str) -> None:
    budget = factories.budget("10", window="day", scope_type=scope, scope_key="*", clamp=False)
    for name in ("a", "a", "b"):
        call("1.00", **{scope: name})
    call("1.00")
    found = preview(budget, limit="1")
    assert (found.then.looked_at, found.then.refused) == (3, 1)


def test_a_budget_of_a_key_knows_its_calls() -> None:
    _, key = factories.key()
    budget = factories.budget("10", window="day", scope_type="key", scope_key=key.prefix)
    each = factories.budget("10", window="day", scope_type="key", scope_key="*")
    call("1.00", key_id=key.pk, key_prefix=key.prefix)
    call("1.00")
    assert preview(budget).then.looked_at == 1
    Budget.objects.filter(pk=budget.pk).update(enabled=False)
    assert preview(each).then.looked_at == 0


def test_the_platform_is_every_call() -> None:
    budget = factories.budget("10", window="day", scope_type="platform")
    call("1.00")
    call("1.00", owner=factories.tenant("globex"))
    assert preview(budget).then.looked_at == 2


def test_what_else_the_window_has_settled_counts_and_old_calls_do_not() -> None:
    budget = factories.budget("100", window="lifetime", clamp=False)
    call("1.00", at=NOON - DAY * 40)
    call("1.00")
    found = preview(budget, limit="1.50")
    assert (found.then.looked_at, found.then.refused) == (1, 1)


def test_only_so_many_of_the_latest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST_CALLS", 2)
    budget = factories.budget("10", window="day")
    for minute in range(3):
        call("1.00", at=NOON + timedelta(minutes=minute))
    found = preview(budget)
    assert (found.then.looked_at, found.is_part) == (2, True)
    assert found.since == NOON + timedelta(minutes=1)


def test_what_is_far_behind_others_calls_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST_ROWS", 2)
    budget = factories.budget("10", window="day", scope_type="agent", scope_key="support")
    call("1.00", agent="support")
    for _ in range(2):
        call("1.00", agent="churn")
    assert preview(budget).then.looked_at == 0


def test_reports_are_taken_for_calls_that_asked() -> None:
    budget = factories.budget("10", window="day", clamp=False)
    for _ in range(2):
        ledger.record(factories.reporting("1.00"), now=NOON)
    found = preview(budget, limit="1.50")
    assert (found.then.looked_at, found.then.refused) == (2, 1)


def refused(budget: Budget, *, at: datetime, wanted: str | None = "1.00", scope: str = "tenant:acme") -> RefusedCall:
    stands = {"scope": scope, "budget_id": budget.pk}
    return RefusedCall.objects.create(
        refused_at=at,
        request_id=f"r-{at}-{wanted}",
        tenant=factories.tenant(),
        model="large",
        reason="budget_exhausted",
        status=402,
        window="day",
        wanted_nanos=nanos(wanted) if wanted else None,
        budgets=[stands],
    )


def test_calls_that_were_refused_then_might_have_passed() -> None:
    budget = factories.budget("1", window="day", clamp=False)
    other = factories.budget("9", window="hour")
    call("1.00")
    refused(budget, at=NOON + timedelta(minutes=1))
    refused(budget, at=NOON + timedelta(minutes=2), wanted=None)
    refused(budget, at=NOON + timedelta(minutes=3), scope="tenant:globex")
    refused(budget, at=NOON + DAY * 2)
    refused(other, at=NOON + timedelta(minutes=4))
    found = preview(budget, limit="5", now=NOON + DAY * 3)
    assert (found.now.looked_at, found.now.refused) == (2, 1)
    assert (found.then.refused, found.then.spent_nanos) == (0, nanos("2"))


def test_without_calls_there_is_nothing_to_say() -> None:
    found = preview(factories.budget("1", window="day"))
    assert found.then == found.now
    assert (found.then.looked_at, found.since) == (0, None)


def test_a_call_that_was_downgraded_then_is_asked_for_at_its_own_model() -> None:
    budget = factories.budget("1", window="day", clamp=False, downgrade_rules=TO_SMALL)
    id = uuids.uuid7()
    prices = {"small": "0.05"}
    ledger.record(factories.reporting("0.79"), now=NOON)
    ledger.reserve(factories.reserving("0.30", id=id, prices=prices), now=NOON)
    settling = factories.settling(id, "0.01")
    ledger.settle(replace(settling, usage=replace(settling.usage, model="small")), now=NOON)
    found = preview(budget, limit="10")
    # At a larger limit it keeps its model; 20 tokens of it are two cents.
    assert found.now.downgraded == 1
    assert found.then.downgraded == 0
    assert found.now.spent_nanos == nanos("0.80")
    assert found.then.spent_nanos == nanos("0.79") + nanos("0.02")


def test_a_model_without_a_price_today_is_held_for_as_it_was() -> None:
    budget = factories.budget("10", window="day", clamp=False)
    id = uuids.uuid7()
    ledger.reserve(factories.reserving("1.00", id=id, model="gone"), now=NOON)
    settling = factories.settling(id, "1.00")
    ledger.settle(replace(settling, usage=replace(settling.usage, model="gone")), now=NOON)
    assert preview(budget, limit="0.50").then.refused == 1
    assert preview(budget).then == replace(preview(budget).then, refused=0, spent_nanos=nanos("1.00"))


def test_policies_are_read_as_decisions_read_them() -> None:
    assert policy.of(policy.columns_of(Budget())) == Policy()


def test_calls_that_have_no_row_of_their_own_are_refused_as_those_like_them() -> None:
    budget = factories.budget("1", window="day", clamp=False)
    call("1.00")
    row = refused(budget, at=NOON + timedelta(minutes=1))
    RefusedCall.objects.filter(pk=row.pk).update(more=1_000_000)
    found = preview(budget, limit="401", now=NOON + DAY)
    assert (found.now.looked_at, found.now.refused, found.now.spent_nanos) == (1_000_002, 1_000_001, nanos("1"))
    assert (found.then.refused, found.then.spent_nanos) == (1_000_001 - 400, nanos("401"))
    assert not found.is_part


def test_calls_that_were_only_counted_make_it_a_part() -> None:
    budget = factories.budget("1", window="day", clamp=False)
    support = factories.budget("1", window="day", scope_type="agent", scope_key="support")
    more = {"tenant": factories.tenant(), "reason": "budget_exhausted", "status": 429, "more": 7}
    RefusedCall.objects.create(refused_at=NOON, agent="churn", **more)
    assert (preview(budget).is_part, preview(support).is_part) == (True, False)
    # Of the agents of a minute, or of an hour, that had too many names.
    RefusedCall.objects.create(refused_at=NOON, **more)
    assert preview(support).is_part
    assert preview(support).then.looked_at == 0
    assert not preview(budget, now=NOON + DAY * 31).is_part


def test_refusals_that_are_kept_for_less_time_make_it_a_part(settings: Any) -> None:
    budget = factories.budget("1", window="day", clamp=False)
    call("1.00")
    assert not preview(budget).is_part
    settings.REFUSALS_DAYS = 29
    assert preview(budget).is_part


def test_days_on_which_every_call_was_refused_are_looked_at() -> None:
    budget = factories.budget("0.50", window="day", clamp=False)
    for days in range(4):
        for minute in range(10):
            at = NOON + DAY * days + timedelta(minutes=minute)
            assert not ledger.reserve(factories.reserving("1.00"), now=at).allowed
            refused(budget, at=at)
    found = preview(budget, limit="5", now=NOON + DAY * 4)
    assert (found.now.looked_at, found.now.refused, found.is_part) == (40, 40, False)
    assert (found.then.refused, found.then.spent_nanos, found.since) == (20, nanos("20"), NOON)


def test_calls_that_waited_for_others_are_looked_at() -> None:
    budget = factories.budget("1", window="day", clamp=False)
    ids = []
    for second in range(12):
        id, at = uuids.uuid7(), NOON + timedelta(seconds=second)
        if ledger.reserve(factories.reserving("0.30", id=id), now=at).allowed:
            ids.append(id)
        else:
            row = refused(budget, at=at, wanted="0.30")
            RefusedCall.objects.filter(pk=row.pk).update(reason="budget_in_flight")
    for id in ids:
        ledger.settle(factories.settling(id, "0.01"), now=NOON + timedelta(minutes=5))
    found = preview(budget, limit="4")
    assert (found.now.looked_at, found.now.waited, found.now.refused) == (12, 9, 0)
    assert (found.then.waited, found.then.spent_nanos) == (0, nanos("0.03") + nanos("2.70"))


def test_a_call_costs_what_its_corrections_have_left() -> None:
    budget = factories.budget("10", window="day", clamp=False)
    for minute in range(9):
        call("1.00", at=NOON + timedelta(minutes=minute))
    for entry in SpendEntry.objects.all():
        for delta in ("-0.50", "-0.49"):
            ledger.adjust(Adjust(uuids.uuid7(), entry.pk, nanos(delta), "refund"), now=NOON + timedelta(hours=1))
    found = preview(budget, limit="1.05")
    assert budget.windows.get().settled_nanos == found.now.spent_nanos == nanos("0.09")
    # Each was held for at a dollar.
    assert (found.then.looked_at, found.then.waited + found.then.refused) == (9, 3)


@pytest.mark.parametrize("most", ["MOST_REFUSALS", "MOST_WINDOWS", "MOST_ROWS"])
def test_it_says_so_where_a_bound_cuts(monkeypatch: pytest.MonkeyPatch, most: str) -> None:
    budget = factories.budget("1", window="day", clamp=False)
    for days in range(3):
        call("1.00", at=NOON + DAY * days)
        refused(budget, at=NOON + DAY * days + timedelta(minutes=1))
    monkeypatch.setattr(replays, most, 3)
    now = NOON + DAY * 3
    assert (preview(budget, now=now).is_part, preview(budget, now=now).now.looked_at) == (False, 6)
    monkeypatch.setattr(replays, most, 2)
    found = preview(budget, now=now)
    assert (found.is_part, found.since) == (True, NOON + DAY + timedelta(minutes=most == "MOST_REFUSALS"))
    # What is further behind is not of the last 30 days.
    assert not preview(budget, now=NOON + DAY * 31).is_part or most == "MOST_REFUSALS"
