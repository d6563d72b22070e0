"""More that is asked for from a refusal's link: asked once, decided once, for its window alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from governance import ledger, raise_links, tasks
from governance.actions import allowances, budgets, raises
from governance.audit import Actor
from governance.models import Alert, AlertNotice, Allowance, AuditEntry, Budget, BudgetWindow, RaiseRequest
from governance.rules import raises as rules
from governance.rules.decision import Decision
from governance.rules.errors import Conflict, FieldError, NotOpen, Unknown
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
ADA, BORIS = Actor("ada"), Actor("boris")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def refused(cost: str = "2.00", **who: str) -> Decision:
    decision = ledger.reserve(make.reserving(cost, by=make.caller(**who)), now=NOON)
    assert not decision.allowed
    return decision


def token(decision: Decision) -> str:
    found = raise_links.link(decision, now=NOON)
    assert found is not None
    return found.rpartition("/")[2]


@pytest.fixture
def budget() -> Budget:
    """A dollar a day, of which a cent is spent."""
    made = make.budget("1.00", soft_cap=None)
    ledger.record(make.reporting("0.01"), now=NOON)
    return made


def asked(window: BudgetWindow | None = None, amount: str = "2.00") -> RaiseRequest:
    window = window or raises.window_of(token(refused()), now=NOON)
    return raises.ask(window=window, amount_nanos=nanos(amount), asker="Ada", reason="a big batch", now=NOON)


def test_a_refusal_leads_to_a_request_that_an_operator_approves_for_that_window_alone(budget: Budget) -> None:
    row = asked()
    [alert] = Alert.objects.all()
    assert (alert.kind, alert.severity) == ("raise_asked", "warning")
    assert alert.message.startswith("Ada asks for $2.00 more for the daily budget of acme: a big batch.")
    notice = AlertNotice.objects.get()
    assert (notice.tenant, notice.is_for_tenant) == (make.tenant(), False)
    assert notice.path == f"/admin/governance/raiserequest/{row.pk}/approve/"

    done = raises.approve(asked=row, by=BORIS, now=NOON)
    assert (done.status, done.decided_by, done.decided_at) == ("approved", "boris", NOON)
    given = Allowance.objects.get()
    assert (given.window_id, given.amount_nanos, given.reason) == (row.window_id, nanos("2"), "Ada: a big batch")
    assert ledger.reserve(make.reserving("2.00"), now=NOON).allowed
    # Tomorrow's window is as it was.
    assert not ledger.reserve(make.reserving("2.00"), now=NOON + DAY).allowed
    alert.refresh_from_db()
    assert alert.cleared_at == NOON
    trail = AuditEntry.objects.order_by("pk").values_list("action", "actor", "target")
    assert list(trail) == [
        ("raise.ask", "the link in a refusal", "acme per day"),
        ("raise.approve", "boris", "acme per day"),
        ("budget.top_up", "boris", "acme per day"),
    ]


def test_of_a_budget_for_each_one_only_whoever_was_refused_has_more() -> None:
    make.budget("1.00", scope_type="agent", scope_key="*", soft_cap=None)
    for agent in ("one", "two"):
        ledger.record(make.reporting("0.01", by=make.caller(agent=agent)), now=NOON)
    row = asked(raises.window_of(token(refused(agent="one")), now=NOON))
    raises.approve(asked=row, by=ADA, now=NOON)
    extra = dict(BudgetWindow.objects.values_list("subject", "extra_nanos"))
    assert extra == {"one": nanos("2"), "two": 0}


def test_the_second_of_two_operators_is_told_who_was_first(budget: Budget) -> None:
    row, seen_before = asked(), RaiseRequest.objects.get()
    raises.approve(asked=row, by=ADA, now=NOON)
    with pytest.raises(NotOpen, match="It was approved by ada"):
        raises.approve(asked=seen_before, by=BORIS, now=NOON)
    with pytest.raises(NotOpen, match="It was approved by ada"):
        raises.decline(asked=seen_before, reason="no", by=BORIS, now=NOON)
    assert Allowance.objects.count() == 1


def test_what_is_declined_says_why_and_can_be_asked_again(budget: Budget) -> None:
    row = asked()
    with pytest.raises(FieldError):
        raises.decline(asked=row, reason=" ", by=ADA, now=NOON)
    done = raises.decline(asked=row, reason="Next month.", by=ADA, now=NOON)
    assert (done.status, done.answer) == ("declined", "Next month.")
    assert not Allowance.objects.exists()
    assert Alert.objects.get().cleared_at == NOON
    again = asked(row.window)
    assert again.status == "open"
    # Told anew, and not only counted.
    assert AlertNotice.objects.filter(what="opened").count() == 2


def test_one_request_is_open_for_a_window_at_a_time(budget: Budget) -> None:
    row = asked()
    with pytest.raises(Conflict):
        asked(row.window)
    assert (RaiseRequest.objects.count(), AuditEntry.objects.filter(action="raise.ask").count()) == (1, 1)


def test_so_many_are_asked_for_a_day_and_no_more(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_A_DAY", 1)
    row = asked()
    raises.decline(asked=row, reason="no", by=ADA, now=NOON)
    with pytest.raises(raises.TooManyAsked):
        asked(row.window)
    RaiseRequest.objects.update(asked_at=NOON - DAY)
    assert asked(row.window).status == "open"


def test_a_wrong_wish_leaves_nothing(budget: Budget) -> None:
    with pytest.raises(FieldError):
        asked(amount="0")
    assert not RaiseRequest.objects.exists()


@pytest.mark.parametrize("act", ["reset", "time"])
def test_a_period_that_is_over_has_no_more_of_anything(budget: Budget, act: str) -> None:
    link, row = token(refused()), asked()
    at = NOON
    if act == "reset":
        budgets.reset(budget=budget, reason="anew", by=ADA, now=NOON)
    else:
        at = NOON + DAY
    with pytest.raises(NotOpen, match="period"):
        raises.window_of(link, now=at)
    with pytest.raises(NotOpen, match="period"):
        raises.ask(window=row.window, amount_nanos=1, asker="Ada", reason="x", now=at)
    with pytest.raises(NotOpen, match="period"):
        raises.approve(asked=row, by=ADA, now=at)
    assert RaiseRequest.objects.get().status == "open"
    assert raises.lapse(now=at) == 1
    assert raises.lapse(now=at) == 0
    with pytest.raises(NotOpen, match="period"):
        raises.decline(asked=row, reason="no", by=ADA, now=at)
    assert (RaiseRequest.objects.get().status, Alert.objects.get().cleared_at) == ("lapsed", at)
    assert not Allowance.objects.exists()


def test_a_reset_between_the_look_and_the_top_up_takes_all_of_it_back(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, real = asked(), allowances.top_up

    def after_a_reset(**given: object) -> Allowance:
        budgets.reset(budget=budget, reason="anew", by=BORIS, now=NOON)
        return real(**given)  # type: ignore[arg-type]

    monkeypatch.setattr(allowances, "top_up", after_a_reset)
    with pytest.raises(NotOpen, match="period"):
        raises.approve(asked=row, by=ADA, now=NOON)
    assert RaiseRequest.objects.get().status == "open"
    assert not Allowance.objects.exists()


def test_requests_of_windows_that_go_on_stay_open(budget: Budget) -> None:
    asked()
    assert raises.lapse(now=NOON + HOUR) == 0


def test_the_job_that_closes_windows_ends_what_was_asked_for_them(budget: Budget) -> None:
    asked()
    tasks.roll_windows()
    assert RaiseRequest.objects.get().status == "lapsed"


def test_a_link_is_the_same_for_an_hour_and_has_an_end(budget: Budget) -> None:
    decision = refused()
    assert raise_links.link(decision, now=NOON) == raise_links.link(decision, now=NOON + timedelta(minutes=59))
    BudgetWindow.objects.update(ends_at=NOON + 30 * DAY)
    link = token(decision)
    assert raises.window_of(link, now=NOON + rules.LINK_LIFE - HOUR).budget == budget
    with pytest.raises(NotOpen, match="3 days"):
        raises.window_of(link, now=NOON + rules.LINK_LIFE)


@pytest.mark.parametrize("change", [str.upper, lambda link: link[:-1], lambda link: "x", lambda link: f"9{link}"])
def test_a_link_that_was_changed_leads_nowhere(budget: Budget, change: object) -> None:
    with pytest.raises(Unknown):
        raises.window_of(change(token(refused())), now=NOON)  # type: ignore[operator]


def test_no_link_leads_to_the_platforms_budget() -> None:
    make.budget("1.00", scope_type="platform", soft_cap=None)
    ledger.record(make.reporting("0.01"), now=NOON)
    decision = refused()
    assert raise_links.link(decision, now=NOON) is None
    # Nor if one were signed for it.
    assert decision.because is not None
    forged = token(replace(decision, because=replace(decision.because, scope_type="tenant")))
    with pytest.raises(Unknown, match="gone"):
        raises.window_of(forged, now=NOON)


def test_a_user_whose_calls_were_all_refused_has_no_window_yet_and_no_link() -> None:
    make.budget("1.00", scope_type="user", scope_key="*", soft_cap=None)
    assert raise_links.link(refused(user="u1"), now=NOON) is None
