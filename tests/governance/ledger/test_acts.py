"""Acts on a budget with more open windows than one transaction changes: they hold at once, and windows follow."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from governance import ledger
from governance.actions import allowances, budgets
from governance.audit import Actor
from governance.ledger import acts, book, sql_acts
from governance.ledger.operations import Extend, Follow, Reset
from governance.ledger.results import ReserveAnew
from governance.models import Allowance, AuditEntry, Budget, BudgetAct, BudgetEvent, BudgetWindow
from governance.rules.errors import FieldError, NotOpen
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
ADA, BOB = Actor("ada"), Actor("bob")
LATER = NOON + timedelta(minutes=1)
USERS = ("ann", "ben", "cat", "dan", "eve")


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five windows are very many."""
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(acts, "SLICE", 2)


def each(limit: str = "1.00", *, spent: str = "0.60", **fields: Any) -> Budget:
    """A budget for each user, of which every one has spent as much."""
    budget = make.budget(limit, scope_type="user", scope_key="*", soft_cap=None, **fields)
    for user in USERS:
        ledger.record(make.reporting(spent, by=make.caller(user=user)), now=NOON)
    return budget


def fits(cost: str, *, user: str = "ann", at: Any = LATER) -> bool:
    """Whether a call would be let through, in truth and in the dry run alike."""
    op = make.reserving(cost, by=make.caller(user=user))
    dry = ledger.dry_run(op.caller, op.call, now=at)
    decision = ledger.reserve(op, now=at)
    assert (dry.action, dry.reason) == (decision.action, decision.reason)
    if decision.allowed:
        ledger.release(make.releasing(op.reservation_id), now=at)
    return decision.allowed


def change(budget: Budget, *, by: Actor = ADA, **changes: Any) -> Budget:
    return budgets.change(budget=budget, changes=changes, by=by, now=LATER, reason="less")


def reset(budget: Budget, **fields: Any) -> Any:
    return budgets.reset(budget=budget, by=ADA, now=LATER, **{"reason": "a new day", **fields})


def raised(budget: Budget, amount: str = "1.00") -> Allowance:
    return allowances.raise_limit(
        budget=budget,
        amount_nanos=nanos(amount),
        starts_at=NOON,
        ends_at=NOON + timedelta(days=2),
        reason="launch",
        by=ADA,
        now=LATER,
    )


def top_up(budget: Budget, user: str | None) -> Allowance:
    return allowances.top_up(budget=budget, subject=user, amount_nanos=nanos("5"), reason="more", by=ADA, now=LATER)


def limits() -> dict[str, int]:
    return dict(BudgetWindow.objects.filter(closed_at=None).values_list("subject", "limit_nanos"))


def follow(budget: Budget) -> None:
    assert ledger.follow(budget.pk, now=LATER)
    assert not BudgetAct.objects.filter(is_done=False).exists()


def test_a_lowered_limit_holds_for_the_next_call_of_any_user() -> None:
    budget = each()
    assert fits("0.30", at=NOON)
    change(budget, limit_nanos=nanos("0.80"))
    assert limits() == dict.fromkeys(USERS, nanos("1"))
    for user in ("ann", "eve"):
        assert not fits("0.30", user=user)
        assert fits("0.20", user=user)
    assert limits() == dict.fromkeys(USERS, nanos("1")) | dict.fromkeys(("ann", "eve"), nanos("0.80"))
    assert AuditEntry.objects.get().new["limit_nanos"] == nanos("0.80")


def test_every_window_follows_with_its_events_once() -> None:
    budget = each()
    change(budget, limit_nanos=nanos("0.50"))
    assert not fits("0.10")
    follow(budget)
    assert limits() == dict.fromkeys(USERS, nanos("0.50"))
    events = BudgetEvent.objects.filter(reason="less").values_list("window__subject", "kind", "threshold")
    assert Counter(events) == {
        (user, *what): 1
        for user in USERS
        for what in (
            *(("threshold-breach", threshold) for threshold in ("0.75", "0.9", "1")),
            *(("state-change", ""), ("hard-stop", "")),
        )
    }
    assert {(event.actor, event.new_state) for event in BudgetEvent.objects.filter(kind="state-change")} == {
        ("ada", "stopped")
    }
    assert not BudgetWindow.objects.filter(limit_lowered=False).exists()


def test_whoever_is_stopped_between_two_slices_is_taken_over_from() -> None:
    budget = each()
    change(budget, limit_nanos=nanos("0.80"))
    assert not ledger.follow(budget.pk, now=LATER, for_s=0)
    assert Counter(limits().values()) == {nanos("0.80"): 2, nanos("1"): 3}
    assert ledger.follow_acts(now=LATER, for_s=60) == 1
    assert limits() == dict.fromkeys(USERS, nanos("0.80"))
    assert BudgetEvent.objects.filter(kind="threshold-breach", threshold="0.75").count() == 5
    assert ledger.follow_acts(now=LATER, for_s=60) == 0


def test_a_budget_that_cannot_follow_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    change(each(), limit_nanos=nanos("0.80"))

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ledger.LedgerUnavailable("a lock that never comes")

    with monkeypatch.context() as patched:
        patched.setattr(book, "follow", fails)
        assert ledger.follow_acts(now=LATER, for_s=60) == 0
    assert ledger.follow_acts(now=LATER, for_s=60) == 1


def test_a_run_of_beat_ends_when_its_time_is_over() -> None:
    change(each(), limit_nanos=nanos("0.80"))
    assert ledger.follow_acts(now=LATER, for_s=0) == 0
    assert limits() == dict.fromkeys(USERS, nanos("1"))


def test_a_slice_that_fails_leaves_the_rest_to_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = each()
    change(budget, limit_nanos=nanos("0.80"))
    with monkeypatch.context() as broken:
        broken.setattr(acts, "_give_limit", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger.follow(budget.pk, now=LATER)
    assert not fits("0.30")
    assert ledger.follow_acts(now=LATER, for_s=60) == 1
    assert limits() == dict.fromkeys(USERS, nanos("0.80"))


def test_a_window_that_a_call_left_behind_the_place_of_a_pass_is_found_before_all_is_said_to_be_done() -> None:
    budget = each()
    change(budget, limit_nanos=nanos("0.80"))
    for after, next_after in (("cat", "eve"), ("eve", None)):
        [slice] = ledger.apply([Follow(budget.pk, after)], now=LATER)
        assert (slice.done, slice.after) == (False, next_after)
    assert BudgetAct.objects.filter(is_done=False).exists()
    follow(budget)


def test_a_reset_closes_each_window_once_and_opens_its_one_successor() -> None:
    budget = each(spent="1.00")
    held = make.reserving("0.10", by=make.caller(user="eve"))
    top_up(budget, "eve")
    assert ledger.reserve(held, now=NOON).allowed
    assert not fits("0.10", at=NOON)
    done = reset(budget)
    assert (done.closed, done.opened) == (5, 5)
    assert BudgetWindow.objects.count() == 5
    # The next call of each begins anew.
    assert fits("0.90")
    assert fits("0.90", user="dan")
    follow(budget)
    windows = BudgetWindow.objects.order_by("subject", "id").values_list("subject", "closed_at", "settled_nanos")
    assert [(subject, bool(closed_at), settled) for subject, closed_at, settled in windows] == [
        row for user in USERS for row in ((user, True, nanos("1")), (user, False, 0))
    ]
    assert limits() == dict.fromkeys(USERS, nanos("1"))
    told = BudgetEvent.objects.filter(kind="budget-reset").values_list("window__subject", "reason", "actor")
    assert Counter(told) == {(user, "a new day", "ada"): 1 for user in USERS}
    # What was under way counts where it was held.
    ledger.settle(make.settling(held.reservation_id, "0.10"), now=LATER)
    assert BudgetWindow.objects.get(settled_nanos=nanos("1.10")).closed_at


def test_a_batch_that_settles_in_a_window_and_calls_for_it_finds_its_successor() -> None:
    budget = each(spent="0.50")
    held = make.reserving("0.50", by=make.caller(user="eve"))
    assert ledger.reserve(held, now=NOON).allowed
    reset(budget)
    call = make.reserving("0.90", by=make.caller(user="eve"))
    settled, decision = ledger.apply([make.settling(held.reservation_id, "0.50"), call], now=LATER)
    assert decision.allowed
    assert settled.charged_nanos == nanos("0.50")
    rows = BudgetWindow.objects.filter(subject="eve").order_by("id").values_list("settled_nanos", "reserved_nanos")
    assert [*rows] == [(nanos("1"), 0), (0, nanos("0.90"))]
    follow(budget)


def test_a_hold_of_before_a_reset_does_not_grow_after_it() -> None:
    budget = each(spent="0.10")
    held = make.reserving("0.10", by=make.caller(user="eve"))
    assert ledger.reserve(held, now=NOON).allowed
    reset(budget)
    with pytest.raises(ReserveAnew, match="period"):
        ledger.extend(Extend(held.reservation_id, more_nanos=1), now=LATER)
    follow(budget)


def test_a_reset_opens_nothing_where_time_had_ended_what_it_closes() -> None:
    budget = each()
    tomorrow = NOON + timedelta(days=1)
    done = budgets.reset(budget=budget, reason="late", by=ADA, now=tomorrow)
    assert (done.closed, done.opened) == (5, 0)
    assert fits("0.90", at=tomorrow)
    assert ledger.follow(budget.pk, now=tomorrow)
    assert list(limits()) == ["ann"]


def test_a_reset_brings_no_new_names(settings: Any) -> None:
    settings.NEW_NAMES_PER_HOUR = 6
    budget = each(spent="0.10")
    reset(budget)
    follow(budget)
    assert [fits("0.10", user=user) for user in (*USERS, "new", "newer")] == [*[True] * 6, False]


def test_a_window_that_opens_meanwhile_is_not_behind() -> None:
    budget = each()
    change(budget, limit_nanos=nanos("0.80"))
    reset(budget)
    assert not fits("0.90", user="new")
    assert fits("0.80", user="new")
    follow(budget)
    assert BudgetWindow.objects.get(subject="new").limit_nanos == nanos("0.80")


def test_of_several_acts_under_way_the_last_of_each_kind_holds() -> None:
    budget = each()
    change(budget, limit_nanos=nanos("0.70"))
    reset(budget, reason="first")
    reset(budget, reason="second")
    change(budget, limit_nanos=nanos("0.90"), by=BOB)
    raised(budget)
    assert fits("1.90")
    assert not fits("1.95", user="eve")
    follow(budget)
    assert limits() == dict.fromkeys(USERS, nanos("1.90"))
    assert {event.reason for event in BudgetEvent.objects.filter(kind="budget-reset")} == {"second"}
    assert BudgetWindow.objects.count() == 10


def test_a_limit_changed_after_a_reset_reaches_its_successors() -> None:
    budget = each()
    reset(budget)
    assert fits("0.90")
    change(budget, limit_nanos=nanos("0.50"))
    assert not fits("0.60")
    follow(budget)
    assert limits() == dict.fromkeys(USERS, nanos("0.50"))
    assert BudgetWindow.objects.count() == 10


def test_a_raise_holds_at_once_and_so_does_taking_it_back() -> None:
    budget = each()
    given = raised(budget)
    assert fits("1.40", user="eve")
    assert limits()["ann"] == nanos("1")
    allowances.end(allowance=given, by=ADA, now=LATER)
    assert not fits("1.40", user="eve")
    assert not fits("1.40", user="new")
    follow(budget)
    assert set(limits().values()) == {nanos("1")}


def test_a_limit_that_a_raise_makes_up_for_stops_nobody_on_the_way() -> None:
    """Windows follow both at once: a hard stop that is taken back at the same moment would be told for nothing."""
    budget = each()
    change(budget, limit_nanos=nanos("0.50"))
    raised(budget)
    assert fits("0.80")
    follow(budget)
    assert limits() == dict.fromkeys(USERS, nanos("1.50"))
    assert set(BudgetWindow.objects.values_list("state", flat=True)) == {"active"}
    assert not BudgetEvent.objects.filter(reason="less").exists()
    assert not BudgetEvent.objects.filter(kind="hard-stop").exists()


def test_a_top_up_counts_in_the_window_that_a_reset_has_not_reached_yet() -> None:
    budget = each()
    reset(budget)
    with pytest.raises(FieldError, match="name whose window"):
        top_up(budget, None)
    given = top_up(budget, "eve")
    assert given.window is not None
    assert (given.window.closed_at, given.window.settled_nanos) == (None, 0)
    assert fits("6.00", user="eve")
    follow(budget)
    assert limits() == dict.fromkeys(USERS, nanos("1")) | {"eve": nanos("6")}
    allowances.end(allowance=given, by=ADA, now=LATER)
    assert limits()["eve"] == nanos("1")


def test_a_top_up_whose_window_a_reset_is_to_close_is_over() -> None:
    budget = each()
    given = top_up(budget, "eve")
    reset(budget)
    with pytest.raises(NotOpen):
        allowances.end(allowance=given, by=ADA, now=LATER)
    follow(budget)


def test_a_dry_run_knows_that_a_top_up_ends_with_its_window(settings: Any) -> None:
    budget = each()
    top_up(budget, "eve")
    raised(budget, "0.50")
    reset(budget)
    # Who had a window brings no new name.
    settings.NEW_NAMES_PER_HOUR = 0
    by = make.caller(user="eve")
    dry = ledger.dry_run(by, make.reserving("1.40", by=by).call, now=LATER)
    assert [view.limit_nanos for view in dry.views] == [nanos("1.50")]
    assert not fits("1.60", user="eve")
    assert fits("1.40", user="eve")


def test_one_subjects_reset_is_no_act_on_the_others() -> None:
    budget = each()
    done = ledger.reset(Reset(budget.pk, "again", "ada", "eve"), now=LATER)
    assert (done.closed, done.opened) == (1, 1)
    assert not BudgetAct.objects.exists()
    assert BudgetWindow.objects.count() == 6


def test_a_policy_of_which_windows_states_follow() -> None:
    budget = each()
    change(budget, soft_cap="0.5")
    assert set(BudgetWindow.objects.values_list("state", flat=True)) == {"active"}
    follow(budget)
    assert set(BudgetWindow.objects.values_list("state", flat=True)) == {"warned"}


def test_few_windows_are_changed_with_the_act(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 5)
    budget = each()
    change(budget, limit_nanos=nanos("0.80"))
    raised(budget)
    assert reset(budget).closed == 5
    assert limits() == dict.fromkeys(USERS, nanos("1.80"))
    assert not BudgetAct.objects.exists()
    budget.refresh_from_db()
    assert set(BudgetWindow.objects.filter(closed_at=None).values_list("revision", flat=True)) == {budget.revision}


def test_a_budget_whose_windows_still_follow_is_never_changed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = each()
    reset(budget)
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 100)
    change(budget, limit_nanos=nanos("0.80"))
    assert sql_acts.crowded([budget.pk], most=100) == {budget.pk}
    follow(budget)
    assert limits() == dict.fromkeys(USERS, nanos("0.80"))
    assert BudgetWindow.objects.count() == 10


def test_the_roll_closes_what_time_has_ended_whether_it_has_followed_or_not() -> None:
    budget = each()
    reset(budget)
    tomorrow = NOON + timedelta(days=1)
    assert ledger.roll_windows(now=tomorrow) == 5
    assert ledger.follow(budget.pk, now=tomorrow)
    assert BudgetWindow.objects.count() == 5


def test_an_act_is_followed_once_it_is_committed(django_capture_on_commit_callbacks: Any) -> None:
    budget = each()
    with django_capture_on_commit_callbacks(execute=True):
        change(budget, limit_nanos=nanos("0.80"))
        assert limits() == dict.fromkeys(USERS, nanos("1"))
    assert limits() == dict.fromkeys(USERS, nanos("0.80"))
    assert BudgetAct.objects.get().is_done
