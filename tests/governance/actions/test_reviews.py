"""Reports of tenants' keys beyond what their budgets leave: kept, decided once, and nobody else's budget used up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import IntegrityError, connection, transaction
from django.db.models import Sum

from governance import ledger
from governance.actions import budgets, reviews, spend_reports
from governance.audit import Actor
from governance.ledger.operations import Record, Settle
from governance.ledger.results import AlreadyResolved, RecordResult, SettleResult
from governance.models import Alert, AuditEntry, Budget, BudgetWindow, PendingReport, Reservation, SpendEntry, Tenant
from governance.rules.calls import Caller
from governance.rules.errors import FieldError, NotOpen
from governance.upkeep import retention
from tests import factories
from tests.factories import NOON, nanos

OLGA = Actor("olga")
WHY: dict[str, Any] = {"reason": "the provider's bill", "by": OLGA, "now": NOON}
LATER = NOON + timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("ledger_holds")


def reported(cost: str, *, request_id: str = "", by: Caller | None = None, fixed: bool = False, **fields: Any) -> Any:
    caller = by or factories.caller(key_id=factories.key(role="tenant")[1].pk)
    trust = reviews.trust_in(tenant_id=caller.tenant_id, agent_is_fixed=fixed)
    now = fields.pop("now", NOON)
    operation: Record = factories.reporting(cost, by=caller, request_id=request_id, trust=trust, **fields)
    return reviews.report(report=operation, now=now)


def held(amount: str = "0.10", *, by: Caller | None = None) -> Any:
    operation = factories.reserving(amount, by=by)
    assert ledger.reserve(operation, now=NOON).allowed
    return operation.reservation_id


def claimed(id: Any, cost: str, *, now: Any = NOON, price_rule: str = "") -> SettleResult | PendingReport:
    trust = reviews.trust_in(tenant_id=Tenant.objects.get(slug="acme").pk, agent_is_fixed=False)
    operation: Settle = factories.settling(id, cost, trust=trust, price_rule=price_rule)
    return reviews.settle(operation=operation, tenant="acme", now=now)


def spent(budget: Budget) -> int:
    return sum(BudgetWindow.objects.filter(budget=budget).values_list("settled_nanos", flat=True))


def recorded(found: Any) -> bool:
    assert isinstance(found, RecordResult | PendingReport)
    return isinstance(found, RecordResult)


class TestOfCallsMadeElsewhere:
    def test_one_tenants_report_uses_up_nobody_elses_budget(self) -> None:
        platform, own = factories.budget("100", scope_type="platform"), factories.budget("10")
        row = reported("200000", request_id="r1")
        assert (row.status, row.waiting_nanos, row.charged_nanos) == ("waiting", nanos("200000"), 0)
        assert (row.bound_scope, row.bound_window, row.bound_nanos) == ("tenant:acme", "day", nanos("10"))
        assert (spent(platform), spent(own), SpendEntry.objects.count()) == (0, 0, 0)
        globex = factories.caller(factories.tenant("globex"))
        assert ledger.reserve(factories.reserving("5", by=globex), now=NOON).allowed

    @pytest.mark.parametrize(("cost", "charged"), [("9.999999999", True), ("10", True), ("10.000000001", False)])
    def test_what_the_own_budget_leaves_is_charged_to_the_nanodollar(self, cost: str, charged: bool) -> None:
        own = factories.budget("10")
        assert recorded(reported(cost)) is charged
        assert spent(own) == (nanos(cost) if charged else 0)

    def test_many_small_reports_together_get_no_further(self) -> None:
        platform, own = factories.budget("100", scope_type="platform"), factories.budget("10")
        assert [recorded(reported("3")) for _ in range(5)] == [True, True, True, False, False]
        assert (spent(platform), spent(own)) == (nanos("9"), nanos("9"))
        assert recorded(reported("1"))

    def test_what_calls_in_flight_hold_is_not_to_be_reported_away(self) -> None:
        factories.budget("10")
        held("4")
        assert not recorded(reported("7"))
        assert recorded(reported("6"))

    def test_the_hard_cap_counts_and_not_the_limit(self) -> None:
        factories.budget("10", hard_cap="0.5", soft_cap=None)
        assert [recorded(reported(cost)) for cost in ("5.01", "5")] == [False, True]

    def test_a_call_that_cost_nothing_is_always_recorded(self) -> None:
        factories.budget("1")
        assert recorded(reported("1"))
        assert recorded(reported("0"))

    @pytest.mark.parametrize("scope", ["agent", "user", "session", "task"])
    def test_the_tightest_of_the_own_budgets_bounds_it(self, scope: str) -> None:
        factories.budget("10")
        factories.budget("2", scope_type=scope, scope_key="x")
        caller = factories.caller(**{scope: "x"})
        assert reported("3", by=caller).bound_scope == f"{scope}:x"

    def test_the_default_budget_is_an_own_one(self, settings: Any) -> None:
        settings.DEFAULT_DAILY_BUDGET = Decimal("3")
        budgets.sync_default(now=NOON)
        factories.budget("100", scope_type="platform")
        row = reported("4")
        assert (row.bound_scope, row.bound_nanos) == ("tenant:acme", nanos("3"))

    def test_an_operator_may_report_anything(self) -> None:
        own = factories.budget("10")
        done = spend_reports.record(report=factories.reporting("200"), by=OLGA, now=NOON)
        assert (done.duplicate, spent(own)) == (False, nanos("200"))


class TestWithoutABudgetOfItsOwn:
    """What bounds a tenant then: REPORT_REVIEW_ABOVE in 24 hours, and what wider budgets leave."""

    def test_reports_count_together_for_a_day(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("5")
        platform = factories.budget("100", scope_type="platform", window="month")
        assert [recorded(reported("2")) for _ in range(4)] == [True, True, False, False]
        assert spent(platform) == nanos("4")
        assert set(SpendEntry.objects.values_list("reason", flat=True)) == {"unbudgeted"}
        day = timedelta(days=1)
        assert not recorded(reported("2", now=NOON + day - timedelta(seconds=1)))
        assert recorded(reported("2", now=NOON + day))

    def test_a_batch_counts_what_it_reports_itself(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("5")
        trust = reviews.trust_in(tenant_id=factories.tenant().pk, agent_is_fixed=False)
        other = factories.caller(factories.tenant("globex"))
        strange = replace(trust, tenant_id=other.tenant_id)
        batch = [factories.reporting("3", trust=trust), factories.reporting("3", by=other, trust=strange)]
        done = ledger.apply([*batch, factories.reporting("3", trust=trust)], now=NOON)
        assert [type(each).__name__ for each in done] == ["RecordResult", "RecordResult", "InReview"]

    def test_a_wider_budget_is_not_passed_and_its_figures_are_nobody_elses(self) -> None:
        platform = factories.budget("3", scope_type="platform")
        row = reported("4")
        assert (row.bound_scope, spent(platform)) == ("platform", 0)
        assert recorded(reported("3"))

    def test_where_none_may_be_reported_unreviewed_each_waits(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = None
        assert not recorded(reported("0.000000001"))

    @pytest.mark.parametrize("scope", ["agent", "user", "session", "task"])
    def test_a_fresh_name_for_each_report_is_no_way_round(self, settings: Any, scope: str) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("5")
        platform = factories.budget("1000", scope_type="platform")
        factories.budget("2", scope_type=scope, scope_key="*")
        found = [recorded(reported("2", by=factories.caller(**{scope: f"n{n}"}))) for n in range(10)]
        assert found == [True, True, *[False] * 8]
        assert spent(platform) == nanos("4")

    def test_the_budget_of_a_bound_agent_bounds_it(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = None
        factories.budget("20", scope_type="agent", scope_key="invoices")
        caller = factories.caller(agent="invoices")
        assert [recorded(reported(cost, by=caller, fixed=True)) for cost in ("15", "6", "5")] == [True, False, True]

    def test_a_report_of_a_period_that_is_over_is_no_way_round(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("5")
        platform, own = factories.budget("1000", scope_type="platform", window="month"), factories.budget("10")
        yesterday = NOON - timedelta(days=1)
        found = [recorded(reported("2", occurred_at=yesterday)) for _ in range(10)]
        # What no window covered counts in the one that is open.
        assert found == [*[True] * 5, *[False] * 5]
        assert (spent(platform), spent(own)) == (nanos("10"), nanos("10"))
        assert reported("0.9", occurred_at=yesterday).bound_scope == "tenant:acme"

    def test_one_tenants_day_is_not_anothers(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("5")
        globex = factories.caller(factories.tenant("globex"))
        assert [recorded(reported("5")), recorded(reported("5", by=globex))] == [True, True]


class TestOfHeldCalls:
    def test_beyond_the_hold_and_what_is_left_the_hold_is_charged_and_the_rest_waits(self) -> None:
        platform, own = factories.budget("100", scope_type="platform"), factories.budget("1")
        id = held("0.10")
        row = claimed(id, "1.01")
        assert isinstance(row, PendingReport)
        assert (row.cost_nanos, row.charged_nanos, row.waiting_nanos) == (nanos("1.01"), nanos("0.10"), nanos("0.91"))
        assert (spent(platform), spent(own)) == (nanos("0.10"), nanos("0.10"))
        charge = SpendEntry.objects.get()
        assert (charge.pk, charge.reason, charge.overage_nanos) == (row.corrects, "excess_in_review", 0)
        assert Reservation.objects.get().status == "settled"

    def test_the_hold_that_is_charged_is_no_price_of_the_usage(self) -> None:
        """So it names no rule, by which it would be priced anew; what waits does."""
        factories.budget("1")
        row = claimed(held("0.10"), "9", price_rule="test:1")
        assert isinstance(row, PendingReport)
        assert (row.price_rule, SpendEntry.objects.get().price_rule) == ("test:1", "")
        line = SpendEntry.objects.get(pk=reviews.accept(report=row, **WHY).entry)
        assert (line.cost_nanos, line.price_rule) == (nanos("8.90"), "test:1")

    def test_what_still_fits_is_an_overage_as_ever(self) -> None:
        own = factories.budget("1")
        id = held("0.10")
        done = claimed(id, "1")
        assert isinstance(done, SettleResult)
        assert (done.overage_nanos, done.in_review, spent(own)) == (nanos("0.90"), None, nanos("1"))
        assert SpendEntry.objects.get().reason == ""

    def test_below_the_hold_nothing_is_asked(self) -> None:
        own = factories.budget("1")
        assert isinstance(claimed(held("0.10"), "0.04"), SettleResult)
        assert spent(own) == nanos("0.04")

    def test_many_settlements_together_get_no_further(self) -> None:
        own = factories.budget("1")
        found = [claimed(id, "0.50") for id in [held("0.10") for _ in range(4)]]
        assert [type(each).__name__ for each in found] == ["SettleResult", *["PendingReport"] * 3]
        assert spent(own) == nanos("0.80")

    def test_without_an_own_budget_a_day_bounds_what_exceeds_the_holds(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("1")
        found = [claimed(id, "0.70") for id in [held("0.10") for _ in range(3)]]
        assert [type(each).__name__ for each in found] == ["SettleResult", *["PendingReport"] * 2]
        assert recorded(reported("0.30"))
        assert not recorded(reported("0.01"))

    def test_a_repeat_is_the_same_report_and_another_figure_is_not(self) -> None:
        factories.budget("1")
        id = held("0.10")
        first, again = claimed(id, "9"), claimed(id, "9")
        assert isinstance(first, PendingReport)
        assert isinstance(again, PendingReport)
        assert first.pk == again.pk
        with pytest.raises(AlreadyResolved):
            claimed(id, "8")
        assert PendingReport.objects.count() == 1

    def test_accepted_it_is_charged_on_top_in_the_same_windows(self) -> None:
        own = factories.budget("1")
        row = claimed(held("0.10"), "9")
        assert isinstance(row, PendingReport)
        budgets.reset(budget=own, reason="x", by=OLGA, now=LATER)
        done = reviews.accept(report=row, **WHY | {"now": LATER})
        line = SpendEntry.objects.get(pk=done.entry)
        assert (line.kind, line.corrects_id, line.cost_nanos) == ("adjustment", row.corrects, nanos("8.90"))
        assert (line.reason, line.windows) == ("report_accepted", row.windows)
        assert [window.settled_nanos for window in BudgetWindow.objects.order_by("id")] == [nanos("9"), 0]


class TestOfCallsWhoseHoldExpired:
    def expired(self, amount: str = "0.10") -> Any:
        id = held(amount)
        ledger.expire_due(now=NOON + timedelta(hours=2))
        return id

    def test_beyond_what_is_left_the_charge_stays_and_the_rest_waits(self) -> None:
        own = factories.budget("1")
        id = self.expired()
        row = claimed(id, "1.01", now=NOON + timedelta(hours=2))
        assert isinstance(row, PendingReport)
        assert (row.charged_nanos, row.waiting_nanos, spent(own)) == (nanos("0.10"), nanos("0.91"), nanos("0.10"))
        again = claimed(id, "1.01", now=NOON + timedelta(hours=2))
        assert isinstance(again, PendingReport)
        assert again.pk == row.pk
        done = reviews.accept(report=row, **WHY)
        assert spent(own) == nanos("1.01")
        assert SpendEntry.objects.get(pk=done.entry).corrects_id == SpendEntry.objects.get(kind="charge").pk

    def test_what_still_fits_is_posted_as_ever(self) -> None:
        own = factories.budget("1")
        done = claimed(self.expired(), "1", now=NOON + timedelta(hours=2))
        assert isinstance(done, SettleResult)
        assert (done.late, done.charged_nanos, spent(own)) == (True, nanos("1"), nanos("1"))

    def test_without_an_own_budget_any_excess_waits(self) -> None:
        done = claimed(self.expired(), "0.11", now=NOON + timedelta(hours=2))
        assert isinstance(done, PendingReport)
        assert done.bound_scope == ""

    def test_what_an_operator_has_voided_is_not_charged_again_beyond_the_bound(self) -> None:
        from governance.actions import corrections

        own = factories.budget("0.10")
        id = self.expired()
        corrections.void(entry=SpendEntry.objects.get(), **WHY)
        row = claimed(id, "0.11", now=NOON + timedelta(hours=2))
        assert isinstance(row, PendingReport)
        assert (row.charged_nanos, spent(own)) == (0, 0)


class TestRepeats:
    def test_it_is_kept_once(self) -> None:
        factories.budget("1")
        first, again = (reported(cost, request_id="r1") for cost in ("5", "6"))
        assert (first.pk, again.cost_nanos) == (again.pk, nanos("5"))
        assert PendingReport.objects.count() == 1
        # Not even one that would fit now.
        assert reported("0.10", request_id="r1").pk == first.pk
        assert not SpendEntry.objects.exists()

    def test_accepted_it_is_a_duplicate_and_rejected_it_says_so(self) -> None:
        factories.budget("1")
        accepted, rejected = reported("5", request_id="r1"), reported("6", request_id="r2")
        entry = reviews.accept(report=accepted, **WHY).entry
        reviews.reject(report=rejected, **WHY)
        assert reported("5", request_id="r1") == RecordResult(entry, nanos("5"), duplicate=True)
        assert reported("6", request_id="r2").status == "rejected"

    def test_another_tenants_request_of_the_same_name_is_another(self) -> None:
        factories.budget("1")
        globex = factories.caller(factories.tenant("globex"))
        assert not recorded(reported("5", request_id="r1"))
        assert recorded(reported("5", request_id="r1", by=globex))

    def test_what_an_operator_reported_meanwhile_is_accepted_as_that_line_and_charged_once(self) -> None:
        own = factories.budget("1")
        row = reported("5", request_id="r1")
        made = spend_reports.record(report=factories.reporting("5", request_id="r1"), by=OLGA, now=NOON)
        assert reviews.accept(report=row, **WHY).entry == made.entry_id
        assert spent(own) == nanos("5")

    def test_one_reported_by_an_operator_at_that_moment_is_a_duplicate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        factories.budget("1")
        made: list[Any] = []
        real = ledger.apply_within

        def first(operations: Any, *, now: Any) -> Any:
            if not made:
                made.append(real([factories.reporting("0.1", request_id="r1")], now=now))
                raise IntegrityError
            return real(operations, now=now)

        monkeypatch.setattr(ledger, "apply_within", first)
        # Whatever the failed attempt did is undone with it: here also the operator's, which this test made within it.
        assert recorded(reported("0.1", request_id="r1"))


class TestDecisions:
    def test_accepted_it_is_charged_with_all_that_was_told_in_the_windows_of_then(self) -> None:
        own = factories.budget("1")
        _, key = factories.key(role="agent")
        caller = factories.caller(agent="invoices", key_id=key.pk, user="u", session="s", task="t")
        at = NOON - timedelta(hours=1)
        row = reported("5", request_id="r1", by=caller, occurred_at=at, price_rule="test:1")
        budgets.reset(budget=own, reason="x", by=OLGA, now=LATER)
        done = reviews.accept(report=row, **WHY | {"now": LATER})
        line = SpendEntry.objects.get()
        assert (line.pk, line.cost_nanos, line.request_id, line.price_rule) == (done.entry, nanos("5"), "r1", "test:1")
        assert (line.agent, line.key, line.user, line.session, line.task) == ("invoices", key, "u", "s", "t")
        assert (line.provider, line.model_served, line.input_tokens, line.output_tokens) == (
            "mistral",
            "large",
            100,
            20,
        )
        assert (line.occurred_at, line.reason, line.windows) == (at, "report_accepted", row.windows)
        assert [window.settled_nanos for window in BudgetWindow.objects.order_by("id")] == [nanos("5"), 0]

    def test_rejected_it_is_never_charged(self) -> None:
        own = factories.budget("1")
        row = reviews.reject(report=reported("5"), **WHY)
        assert (row.status, row.entry, row.decided_by, row.reason) == ("rejected", None, "olga", WHY["reason"])
        assert (spent(own), SpendEntry.objects.exists()) == (0, False)

    @pytest.mark.parametrize("first", ["accept", "reject"])
    @pytest.mark.parametrize("second", ["accept", "reject"])
    def test_it_is_decided_once(self, first: str, second: str) -> None:
        own = factories.budget("1")
        row = reported("5")
        getattr(reviews, first)(report=row, **WHY)
        with pytest.raises(NotOpen, match=f"{first}ed already"):
            getattr(reviews, second)(report=row, **WHY)
        assert spent(own) == (nanos("5") if first == "accept" else 0)

    @pytest.mark.parametrize("act", [reviews.accept, reviews.reject])
    def test_a_reason_is_needed(self, act: Callable[..., Any]) -> None:
        factories.budget("1")
        with pytest.raises(FieldError) as caught:
            act(report=reported("5"), **WHY | {"reason": " "})
        assert caught.value.field == "reason"

    def test_each_leaves_an_audit_row(self) -> None:
        factories.budget("1")
        row, other = reported("5"), reported("6")
        done = reviews.accept(report=row, **WHY)
        reviews.reject(report=other, **WHY)
        rejected, accepted = AuditEntry.objects.all()
        assert (accepted.action, accepted.actor, accepted.reason) == ("report.accept", "olga", WHY["reason"])
        assert accepted.target == f"report {row.pk} of acme"
        assert (accepted.old, accepted.new) == (
            {"cost_nanos": nanos("5"), "charged_nanos": 0},
            {"entry": str(done.entry)},
        )
        assert (rejected.action, rejected.new) == ("report.reject", None)

    def test_an_accepted_one_does_not_use_up_what_may_be_reported_unreviewed(self, settings: Any) -> None:
        settings.REPORT_REVIEW_ABOVE = Decimal("5")
        reviews.accept(report=reported("9"), **WHY)
        assert recorded(reported("5"))

    def test_one_alert_is_open_for_each_tenant_while_any_of_its_reports_waits(self) -> None:
        factories.budget("1")
        rows = [reported("5"), reported("6")]
        reported("999", by=factories.caller(factories.tenant("globex")))
        alert = Alert.objects.get(subject="acme")
        assert (alert.kind, alert.severity, alert.cleared_at) == ("report_needs_review", "warning", None)
        assert "2 reports of spend, $11.00 beyond acme's budgets" in alert.message
        reviews.accept(report=rows[0], **WHY)
        alert.refresh_from_db()
        assert "A report of spend, $6.00 beyond" in alert.message
        reviews.reject(report=rows[1], **WHY)
        alert.refresh_from_db()
        assert alert.cleared_at == NOON
        assert reviews.waiting_sums() == (1, nanos("999"))


class TestRetention:
    def test_a_charge_stays_while_a_report_about_it_waits(self) -> None:
        own = factories.budget("1")
        row = claimed(held("0.10"), "9")
        assert isinstance(row, PendingReport)
        later = NOON + timedelta(days=30)
        purge: dict[str, Any] = {"before": later - timedelta(days=2), "now": later, "by": OLGA}
        assert retention.purge(**purge).entries == 0
        reviews.accept(report=row, **WHY | {"now": later})
        assert spent(own) == nanos("9")
        later += timedelta(days=30)
        assert retention.purge(before=later - timedelta(days=2), now=later, by=OLGA).entries == 2


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_tenant_s_keys_claim_no_own_budget_passes_its_cap_and_no_cent_is_lost(seed: int) -> None:
    """Any history of calls, reports, late ones, repeats: every cent claimed is charged once, or waits."""
    random = Random(seed)
    own = factories.budget("10", hard_cap="0.9", soft_cap=None)
    agents = factories.budget("6", scope_type="agent", scope_key="*", soft_cap=None)
    factories.budget("10000", scope_type="platform", window="month")
    now, running, claims = NOON, [], {}
    for number in range(60):
        now += timedelta(seconds=random.choice([0, 1, 60, 1200]))
        agent, cost = random.choice(["a", "b"]), f"{random.choice([0.01, 0.3, 1, 4, 50]):g}"
        if random.random() < 0.5 and running:
            id = running.pop(random.randrange(len(running)))
            done = claimed(id, cost, now=now)
            claims[id] = nanos(cost)
            assert isinstance(done, SettleResult | PendingReport)
        elif random.random() < 0.5:
            operation = factories.reserving("0.20", by=factories.caller(agent=agent))
            running += [operation.reservation_id] if ledger.reserve(operation, now=now).allowed else []
        else:
            request_id = f"r{random.randrange(20)}"
            reported(cost, request_id=request_id, by=factories.caller(agent=agent), now=now)
            claims.setdefault(request_id, nanos(cost))
        if number % 20 == 0:
            ledger.expire_due(now=now)
        for window in BudgetWindow.objects.filter(budget__in=[own, agents]):
            cap_nanos = nanos("9") if window.budget_id == own.pk else nanos("6")
            assert window.settled_nanos + window.reserved_nanos <= cap_nanos
    ledger.expire_due(now=now + timedelta(days=1))
    held_nanos = nanos("0.20") * len(running)
    charged_nanos = SpendEntry.objects.aggregate(sum=Sum("cost_nanos"))["sum"] or 0
    assert charged_nanos + reviews.waiting_sums()[1] == sum(claims.values()) + held_nanos


@pytest.fixture
def together() -> Iterator[Callable[..., list[Any]]]:
    """Runs functions at one moment, each in a thread of its own; their results or exceptions."""

    def run(*acts: Callable[[], Any]) -> list[Any]:
        start = threading.Barrier(len(acts))

        def go(act: Callable[[], Any]) -> Any:
            try:
                start.wait(10)
                return act()
            except Exception as error:
                return error
            finally:
                connection.close()

        with ThreadPoolExecutor(len(acts)) as pool:
            return list(pool.map(go, acts))

    return run


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    def test_reports_never_pass_the_own_budget_together(self, together: Callable[..., list[Any]]) -> None:
        own = factories.budget("10")
        caller = factories.caller()
        found = together(*[lambda: reported("3", by=caller)] * 8)
        assert sorted(map(recorded, found)) == [False] * 5 + [True] * 3
        assert (spent(own), PendingReport.objects.count()) == (nanos("9"), 5)

    def test_reports_never_pass_a_day_together_where_no_window_is_locked(
        self, together: Callable[..., list[Any]]
    ) -> None:
        caller = factories.caller()
        found = together(*[lambda: reported("3", by=caller)] * 8)
        assert sorted(map(recorded, found)) == [False] * 5 + [True] * 3

    def test_settlements_never_pass_a_day_together_where_no_window_is_locked(
        self, together: Callable[..., list[Any]]
    ) -> None:
        ids = [held("0.10") for _ in range(8)]
        found = together(*[partial(claimed, id, "3.10") for id in ids])
        assert sorted(type(each).__name__ for each in found) == ["PendingReport"] * 5 + ["SettleResult"] * 3

    def test_one_call_is_kept_or_charged_once(
        self, together: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = ledger.apply_within

        def slowly(*args: Any, **kwargs: Any) -> Any:
            # All have looked by now whom nothing holds up.
            time.sleep(0.05)
            return real(*args, **kwargs)

        monkeypatch.setattr(ledger, "apply_within", slowly)
        caller = factories.caller()
        acts = [lambda cost=cost: reported(cost, by=caller, request_id="r1") for cost in ("1", "500") * 4]
        found = together(*acts)
        assert not [each for each in found if isinstance(each, Exception)]
        assert PendingReport.objects.count() + SpendEntry.objects.count() == 1

    def test_of_many_operators_one_decides(self, together: Callable[..., list[Any]]) -> None:
        own = factories.budget("1")
        row = reported("5", by=factories.caller())
        acts = [lambda act=act: act(report=row, **WHY) for act in (reviews.accept, reviews.reject) * 4]
        found = together(*acts)
        [done] = [each for each in found if isinstance(each, PendingReport)]
        assert sum(isinstance(each, NotOpen) for each in found) == 7
        assert spent(own) == (nanos("5") if done.status == "accepted" else 0)
        assert AuditEntry.objects.count() == 1

    def test_a_held_call_is_settled_once(self, together: Callable[..., list[Any]]) -> None:
        own = factories.budget("1")
        id = held("0.10")
        found = together(*[lambda: claimed(id, "9")] * 6)
        assert {each.pk for each in found} == {PendingReport.objects.get().pk}
        assert spent(own) == nanos("0.10")


@pytest.mark.parametrize(
    "fields",
    [
        {"charged_nanos": 5},
        {"charged_nanos": -1},
        {"output_tokens": -1},
        {"corrects": uuids.uuid7()},
        {"status": "accepted", "decided_at": NOON, "decided_by": "olga"},
        {"status": "rejected", "decided_at": NOON},
        {"status": "rejected", "decided_by": "olga"},
        {"decided_by": "olga"},
        {"entry": uuids.uuid7()},
        {"status": "lost"},
    ],
)
def test_the_database_keeps_no_report_that_cannot_be(db: None, fields: dict[str, Any]) -> None:
    whole = {"tenant": factories.tenant(), "cost_nanos": 5, "bound_nanos": 1, "occurred_at": NOON, "reported_at": NOON}
    with pytest.raises(IntegrityError), transaction.atomic():
        PendingReport.objects.create(**whole | fields)
