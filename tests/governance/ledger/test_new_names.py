"""Windows and buckets of names that are new: opened for calls that are let through, and for no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from governance import ledger
from governance.actions import reservations
from governance.ledger import sql_writes
from governance.ledger.operations import Reserve, Reset, Settle
from governance.ledger.results import TooManyNames
from governance.models import (
    Budget,
    BudgetEvent,
    BudgetWindow,
    RateBucket,
    RateLimit,
    Reservation,
    SpendEntry,
    SpendRollup,
)
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Reason
from governance.rules.reports import ReportTrust
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db(transaction=True)


def each(kind: str = "user", limit: str = "1.00") -> Budget:
    return make.budget(limit, scope_type=kind, scope_key="*", soft_cap=None)


def limited(kind: str = "user") -> RateLimit:
    return RateLimit.objects.create(tenant=make.tenant(), scope_type=kind, scope_key="*", requests_per_minute=1)


def subjects() -> set[str]:
    return set(BudgetWindow.objects.filter(budget__scope_key="*").values_list("subject", flat=True))


@pytest.mark.parametrize("kind", ["agent", "user", "session", "task"])
def test_a_refused_call_opens_nothing_for_a_new_name(kind: str) -> None:
    make.budget("0.05", soft_cap=None)
    each(kind)
    limited(kind)
    by = make.caller(**{kind: "new"})
    assert ledger.reserve(make.reserving("0.10", by=by), now=NOON).reason == Reason.BUDGET_EXHAUSTED
    assert (subjects(), RateBucket.objects.count()) == (set(), 0)
    assert ledger.reserve(make.reserving("0.01", by=by), now=NOON).allowed
    assert (subjects(), RateBucket.objects.count()) == ({"new"}, 1)
    assert ledger.reserve(make.reserving("0.01", by=by), now=NOON).reason == Reason.RATE_LIMITED
    assert reconcile.check() == []


def test_a_call_that_its_own_new_window_refuses_leaves_neither_window_nor_event() -> None:
    each(limit="0.05")
    refused = ledger.reserve(make.reserving("0.10", by=make.caller(user="new")), now=NOON)
    assert (refused.reason, refused.because and refused.because.limit_nanos) == (Reason.BUDGET_EXHAUSTED, nanos("0.05"))
    assert (subjects(), BudgetEvent.objects.count()) == (set(), 0)


def test_a_paused_tenants_call_opens_nothing_but_what_is_there_for_all() -> None:
    each()
    make.budget("1.00")
    by = make.caller(user="new")
    type(make.tenant()).objects.update(status="paused")
    assert ledger.reserve(make.reserving("0.01", by=by), now=NOON).reason == Reason.TENANT_PAUSED
    assert list(BudgetWindow.objects.values_list("subject", flat=True)) == ["acme"]


def test_a_call_that_fits_once_another_of_its_batch_is_settled_opens_its_window() -> None:
    make.budget("0.10", soft_cap=None)
    each()
    limited()
    old, new = make.caller(user="old"), make.caller(user="new")
    held = make.reserving("0.10", by=old)
    assert ledger.reserve(held, now=NOON).allowed
    settle = Settle(held.reservation_id, nanos("0.01"), Usage(model="m"))
    results = ledger.apply([settle, make.reserving("0.05", by=new)], now=NOON)
    assert results[1].allowed
    row = BudgetWindow.objects.get(subject="new")
    assert (row.reserved_nanos, RateBucket.objects.count()) == (nanos("0.05"), 2)
    assert Reservation.objects.get(user="new").buckets
    assert reconcile.check() == []


def test_a_window_that_somebody_else_opened_and_closed_at_that_moment_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.budget("0.10", soft_cap=None)
    each()
    held = make.reserving("0.10", by=make.caller(user="old"))
    assert ledger.reserve(held, now=NOON).allowed
    opening, open_windows = iter([lambda *_: None]), sql_writes.open_windows
    monkeypatch.setattr(sql_writes, "open_windows", lambda *args: next(opening, open_windows)(*args))
    settle = Settle(held.reservation_id, nanos("0.01"), Usage(model="m"))
    results = ledger.apply([settle, make.reserving("0.05", by=make.caller(user="new"))], now=NOON)
    assert results[1].allowed
    assert BudgetWindow.objects.get(subject="new").reserved_nanos == nanos("0.05")


def test_of_a_batch_those_that_fit_open_theirs_and_the_others_nothing(settings: Any) -> None:
    make.budget("0.10", soft_cap=None)
    each()
    make_one = [make.reserving(cost, by=make.caller(user=user)) for user, cost in (("a", "0.05"), ("b", "9.00"))]
    assert [result.allowed for result in ledger.apply(make_one, now=NOON)] == [True, False]
    assert subjects() == {"a"}


def test_a_tenants_new_names_are_bounded_within_an_hour(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 2
    each()
    asked = [make.reserving("0.01", by=make.caller(user=name)) for name in ("a", "b", "c")]
    assert [result.reason for result in ledger.apply(asked, now=NOON)] == ["", "", Reason.TOO_MANY_NAMES]
    assert subjects() == {"a", "b"}
    by = make.caller(user="c")
    refused = ledger.dry_run(by, asked[2].call, now=NOON)
    assert (refused.reason, refused.most_names) == (Reason.TOO_MANY_NAMES, 2)
    with pytest.raises(TooManyNames, match=r"^More than 2 agents.*, or try again later\.$") as refused:
        ledger.record(make.reporting("0.01", by=by), now=NOON)
    assert refused.value.wait == 60
    assert ledger.reserve(make.reserving("0.01", by=make.caller(user="a")), now=NOON).allowed
    other = make.caller(make.tenant("globex"), user="c")
    assert ledger.reserve(make.reserving("0.01", by=other), now=NOON).allowed
    later = NOON + timedelta(hours=1, seconds=1)
    assert ledger.reserve(replace(asked[2], reservation_id=make.reserving("1").reservation_id), now=later).allowed


def test_a_reset_brings_no_new_names(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 3
    budget = each()
    for n in range(3):
        at = NOON + timedelta(hours=2 * n)
        assert ledger.reserve(make.reserving("0.01", by=make.caller(user=f"u{n}")), now=at).allowed
    at = NOON + timedelta(hours=8)
    for _ in range(2):
        assert ledger.reset(Reset(budget.pk, "x", "ops"), now=at).opened == 3
    asked = [make.reserving("0.01", by=make.caller(user=f"new{n}")) for n in range(4)]
    results = [ledger.reserve(one, now=at).allowed for one in asked]
    assert results == [True, True, True, False]
    assert reconcile.check() == []


def test_buckets_that_are_empty_are_dropped_and_those_in_use_stay() -> None:
    limited()
    for number in range(3):
        assert ledger.reserve(make.reserving("0.01", by=make.caller(user=f"u{number}")), now=NOON).allowed
    first = Reservation.objects.get(user="u0")
    later = NOON + timedelta(minutes=61)
    for row in Reservation.objects.exclude(pk=first.pk):
        ledger.settle(Settle(row.pk, nanos("0.01"), Usage(model="m")), now=NOON)
    held = make.reserving("0.01", by=make.caller(user="u2"))
    assert ledger.reserve(held, now=later).allowed
    ledger.roll_windows(now=later)
    # One was used within the hour; of the other a call is under way.
    assert set(RateBucket.objects.values_list("subject", flat=True)) == {"u0", "u2"}
    for id in (first.pk, held.reservation_id):
        ledger.settle(Settle(id, nanos("0.01"), Usage(model="m")), now=later)
    assert ledger.reserve(make.reserving("0.01", by=make.caller(user="u0")), now=later).allowed
    assert ledger.reserve(make.reserving("0.01", by=make.caller(user="u2")), now=later).reason == Reason.RATE_LIMITED
    assert reconcile.check() == []


def test_a_report_that_was_made_before_opens_nothing_and_says_so(settings: Any) -> None:
    each()
    report = make.reporting("0.01", by=make.caller(user="a"))
    ledger.record(report, now=NOON)
    settings.NEW_NAMES_PER_HOUR = 0
    again = replace(report, caller=make.caller(user="b"))
    assert ledger.record(again, now=NOON).duplicate
    assert subjects() == {"a"}


def test_a_report_that_was_made_before_opens_nothing_for_a_refused_call_beside_it() -> None:
    each(limit="0.05")
    report = make.reporting("0.01", by=make.caller(user="a"))
    ledger.record(report, now=NOON)
    by = make.caller(user="b")
    recorded, decision = ledger.apply([replace(report, caller=by), make.reserving("0.10", by=by)], now=NOON)
    assert (recorded.duplicate, decision.reason) == (True, Reason.BUDGET_EXHAUSTED)
    assert subjects() == {"a"}


def reported(model: str, provider: str = "mistral", *, trusted: bool = True, **more: Any) -> Any:
    usage = Usage(provider=provider, model=model, input_tokens=1)
    tenant = make.tenant()
    trust = ReportTrust(tenant.pk, nanos("5.00")) if trusted else None
    return replace(make.reporting("0.01"), usage=usage, trust=trust, **more)


def test_models_that_a_tenants_reports_name_are_bounded_in_an_hours_sums(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 2
    make.budget("10.00")
    for report in (reported("a"), reported("b"), reported("a"), reported("b")):
        ledger.record(report, now=NOON)
    for report in (reported("c"), reported("a", provider="openai")):
        with pytest.raises(TooManyNames, match=r"or models to an hour's sums: name one that is known there"):
            ledger.record(report, now=NOON + timedelta(minutes=59))
    assert set(SpendRollup.objects.values_list("model", flat=True)) == {"a", "b"}
    # What was called in another hour is summed there, and what an operator says is taken.
    ledger.record(reported("c", occurred_at=NOON - timedelta(minutes=1)), now=NOON)
    ledger.record(reported("d", trusted=False), now=NOON)
    assert SpendRollup.objects.count() == 4
    assert reconcile.check() == []


def test_a_name_is_one_for_all_agents_of_a_tenant_and_a_tenants_own(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 1
    make.budget("10.00")
    ledger.record(reported("a"), now=NOON)
    ledger.record(reported("a", caller=make.caller(agent="another")), now=NOON)
    other = make.tenant("globex")
    trust = ReportTrust(other.pk, nanos("5.00"))
    ledger.record(replace(reported("b"), caller=make.caller(other), trust=trust), now=NOON)
    assert SpendRollup.objects.count() == 3


@pytest.mark.parametrize("most", [0, 1, 2])
def test_reports_of_one_batch_bring_no_more_names_than_there_may_be(settings: Any, most: int) -> None:
    settings.NEW_NAMES_PER_HOUR = most
    make.budget("10.00")
    results = ledger.apply([reported("a"), reported("a"), reported("b")], now=NOON)
    results += ledger.apply([reported("c")], now=NOON)
    refused = [isinstance(result, TooManyNames) for result in results]
    assert refused == [most < 1, most < 1, most < 2, True]
    assert SpendRollup.objects.count() == most


def held(model: str, provider: str = "mistral", *, by: Caller | None = None, **more: Any) -> Reserve:
    """What a tenant's key holds for a call of its own, of a model that has no price."""
    made = make.reserving("0.01", by=by, id=reservations.new_id(now=NOON), model=model)
    trust = ReportTrust(make.tenant().pk, nanos("5.00"))
    return replace(made, **{"provider": provider, "is_unpriced": True, "trust": trust} | more)


def settled(hold: Reserve, model: str, provider: str = "mistral", **more: Any) -> Settle:
    usage = Usage(provider=provider, model=model, input_tokens=1)
    return Settle(hold.reservation_id, nanos("0.005"), usage, price_rule="reported", trust=hold.trust, **more)


def in_sums() -> set[tuple[str, str]]:
    return set(SpendRollup.objects.values_list("provider", "model"))


def test_a_settlement_that_names_one_model_too_many_is_one_of_its_holds(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 2
    make.budget("10.00")
    holds = [held("a") for _ in range(4)]
    assert all(decision.allowed for decision in ledger.apply(holds, now=NOON))
    for hold, name in zip(holds, ("b", "c", "b", "a"), strict=True):
        ledger.settle(settled(hold, name), now=NOON)
    assert in_sums() == {("mistral", "a"), ("mistral", "b")}
    assert sum(SpendRollup.objects.values_list("cost_nanos", flat=True)) == nanos("0.02")
    said = SpendEntry.objects.get(reservation=holds[1].reservation_id)
    assert (said.model_served, said.metadata) == ("a", {"model": "mistral/c"})
    assert reconcile.check() == []


def test_nor_does_one_bring_it_to_another_hour(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 1
    make.budget("10.00")
    before = NOON - timedelta(hours=2)
    ledger.record(reported("old", occurred_at=before), now=NOON)
    one, other = held("a"), held("a")
    ledger.apply([one, other], now=NOON)
    ledger.settle(settled(one, "a", occurred_at=before), now=NOON)
    ledger.settle(settled(other, "old", occurred_at=before), now=NOON)
    assert in_sums() == {("mistral", "a"), ("mistral", "old")}
    assert SpendRollup.objects.get(model="a").hour == NOON
    assert reconcile.check() == []


def test_a_late_settlement_names_no_more_models_either(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 1
    make.budget("10.00")
    hold = held("a")
    ledger.reserve(hold, now=NOON)
    late = NOON + timedelta(hours=1)
    assert ledger.expire_due(now=late) == 1
    assert ledger.settle(settled(hold, "b", occurred_at=late), now=late).late
    assert in_sums() == {("mistral", "a")}
    assert reconcile.check() == []


def test_an_operators_settlement_names_what_it_says(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 1
    make.budget("10.00")
    hold = held("a")
    ledger.reserve(hold, now=NOON)
    ledger.settle(replace(settled(hold, "b"), trust=None), now=NOON)
    assert in_sums() == {("mistral", "b")}


def test_holds_of_models_without_a_price_are_bounded_as_what_they_may_become(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 2
    make.budget("10.00")
    each()
    first, second = held("a", by=make.caller(user="old")), held("a", "openai")
    assert all(decision.allowed for decision in ledger.apply([first, second], now=NOON))
    with pytest.raises(TooManyNames):
        ledger.reserve(held("b", by=make.caller(user="new")), now=NOON)
    assert "new" not in subjects()
    with pytest.raises(TooManyNames):
        ledger.record(reported("b"), now=NOON)
    # One that is known, one that has a price, and an operator's.
    for more in (held("a"), held("large", is_unpriced=False), held("b", trust=None)):
        assert ledger.reserve(more, now=NOON).allowed
    ledger.release(make.releasing(second.reservation_id), now=NOON)
    Reservation.objects.filter(model_served__in=["large", "b"]).delete()
    ledger.record(reported("b"), now=NOON)
    assert ledger.expire_due(now=NOON + timedelta(hours=1)) == 2
    assert in_sums() == {("mistral", "a"), ("mistral", "b")}
    assert ledger.reserve(held("c"), now=NOON + timedelta(hours=1)).allowed


def test_holds_of_one_batch_bring_no_more_names_than_there_may_be(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 1
    make.budget("10.00")
    results = ledger.apply([held("a"), held("a"), held("b")], now=NOON)
    assert [isinstance(result, TooManyNames) for result in results] == [False, False, True]
