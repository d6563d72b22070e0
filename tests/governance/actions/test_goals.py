"""What one task or session may cost in all its life: opened, also by keys, and closed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from governance import ledger
from governance.actions import budgets, goals
from governance.audit import Actor
from governance.ledger.operations import Extend
from governance.ledger.results import TooManyNames
from governance.models import AuditEntry, Budget, BudgetWindow
from governance.rules.decision import Action, Reason
from governance.rules.errors import Conflict, FieldError, Gone, NotAllowed, OverBound
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

ADA = Actor("ada")
KEY = Actor("key sg_abc")
HOUR = timedelta(hours=1)


def goal(**fields: Any) -> Budget:
    return make.budget("1.00", window="lifetime", scope_type="task", scope_key="report", soft_cap=None, **fields)


def for_everybody(limit: str, **fields: Any) -> Budget:
    return Budget.objects.create(tenant=None, scope_key="*", limit_nanos=nanos(limit), **fields)


def opened(limit: str = "1.00", **fields: Any) -> Budget:
    given = {"scope_type": "task", "scope_key": "report", "window": "lifetime", "agent": "invoices", "now": NOON}
    return goals.open_by_key(tenant=make.tenant(), limit_nanos=nanos(limit), by=KEY, **given | fields)


def reserving(cost: str = "0.10", **caller: Any) -> Any:
    return make.reserving(cost, by=make.caller(**{"task": "report"} | caller))


def close(budget: Budget, reason: str = "done") -> Budget:
    return goals.close(budget=budget, reason=reason, by=ADA, now=NOON)


class TestClosing:
    def test_calls_of_it_are_refused_and_others_go_on(self) -> None:
        budget = goal()
        assert ledger.reserve(reserving(), now=NOON).allowed
        close(budget)
        refused = ledger.reserve(reserving(), now=NOON)
        assert (refused.action, refused.reason) == (Action.HARD_STOP, Reason.BUDGET_CLOSED)
        assert refused.because is not None
        assert refused.because.scope == "task:report"
        assert ledger.dry_run(make.caller(task="report"), make.call(), now=NOON).reason == Reason.BUDGET_CLOSED
        assert ledger.reserve(reserving(task="another"), now=NOON).allowed

    def test_also_where_no_call_came_before(self) -> None:
        close(goal())
        assert ledger.reserve(reserving(), now=NOON).reason == Reason.BUDGET_CLOSED
        assert BudgetWindow.objects.get().reserved_nanos == 0

    def test_what_is_held_runs_to_its_end_and_grows_within_the_cap(self) -> None:
        budget, op = goal(), reserving("0.40")
        ledger.reserve(op, now=NOON)
        close(budget)
        ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.50"), asked=True), now=NOON)
        with pytest.raises(ledger.ExtendRefused) as refused:
            ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.20"), asked=True), now=NOON)
        assert refused.value.decision.reason == Reason.BUDGET_EXHAUSTED
        ledger.settle(make.settling(op.reservation_id, "0.70"), now=NOON)
        assert (budget.windows.get().settled_nanos, budget.windows.get().reserved_nanos) == (nanos("0.70"), 0)

    def test_what_was_spent_elsewhere_still_lands(self) -> None:
        budget = goal()
        close(budget)
        ledger.record(make.reporting("0.30", by=make.caller(task="report")), now=NOON)
        assert budget.windows.get().settled_nanos == nanos("0.30")

    def test_twice_is_harmless_and_leaves_one_audit_row(self) -> None:
        budget = goal()
        first = close(budget).closed_at
        assert close(budget, "once more").closed_at == first
        row = AuditEntry.objects.get(action="budget.close")
        assert (row.actor, row.reason, row.target) == ("ada", "done", "acme task:report per lifetime")

    @pytest.mark.parametrize(
        "of",
        [
            {"scope_type": "task", "scope_key": "*", "window": "lifetime"},
            {"scope_type": "task", "scope_key": "report", "window": "day"},
            {"scope_type": "user", "scope_key": "alice", "window": "lifetime"},
        ],
    )
    def test_no_other_budget_is_closed(self, of: dict[str, str]) -> None:
        with pytest.raises(FieldError, match="one task or one session"):
            close(make.budget("1.00", **of))

    def test_one_that_was_deleted_meanwhile_is_gone(self) -> None:
        budget = goal()
        Budget.objects.all().delete()
        with pytest.raises(Gone):
            close(budget)

    def test_made_anew_it_is_open_and_what_was_spent_stays(self) -> None:
        budget, op = opened(), reserving("0.90")
        ledger.reserve(op, now=NOON)
        ledger.settle(make.settling(op.reservation_id, "0.90"), now=NOON)
        close(budget)
        with pytest.raises(Conflict):
            opened()
        budgets.delete(budget=budget, by=ADA, now=NOON)
        scope = {"tenant": make.tenant(), "scope_type": "task", "scope_key": "report", "window": "lifetime"}
        anew = budgets.create(**scope, limit_nanos=nanos("1.00"), by=ADA, now=NOON)
        anew.refresh_from_db()
        assert (anew.pk, anew.closed_at, anew.opener, anew.source) == (budget.pk, None, "", "operator")
        assert ledger.reserve(reserving("0.20"), now=NOON).reason == Reason.BUDGET_EXHAUSTED
        assert ledger.reserve(reserving("0.05"), now=NOON).allowed


class TestOpenedByKeys:
    def test_it_caps_the_task_and_says_whose_it_is(self) -> None:
        budget = opened("0.25")
        assert (budget.source, budget.opener, budget.tenant) == ("key", "invoices", make.tenant())
        assert AuditEntry.objects.get(action="budget.create").actor == "key sg_abc"
        assert ledger.reserve(reserving("0.20"), now=NOON).allowed
        assert not ledger.reserve(reserving("0.10"), now=NOON).allowed

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"scope_type": "tenant", "scope_key": ""}, "scope_type"),
            ({"scope_type": "agent", "scope_key": "invoices"}, "scope_type"),
            ({"scope_key": "*"}, "scope_type"),
            ({"window": "day"}, "scope_type"),
            ({"downgrade_rules": [{"from": "*", "to": "large", "at": 0.0001}]}, "downgrade_rules"),
            ({"enabled": False}, "enabled"),
        ],
    )
    def test_nothing_else_is(self, asked: dict[str, Any], field: str) -> None:
        with pytest.raises(NotAllowed) as refused:
            opened(**asked)
        assert refused.value.field == field
        assert not Budget.objects.exists()

    def test_it_leaves_no_more_than_the_budget_for_each_one_that_it_replaces(self) -> None:
        make.budget("0.50", window="lifetime", scope_type="task", scope_key="*", soft_cap=None)
        # Everybody's does not count beside the tenant's own.
        for_everybody("0.10", window="lifetime", scope_type="task")
        ledger.reserve(reserving("0.20"), now=NOON)
        with pytest.raises(OverBound, match="acme each task per lifetime"):
            opened("0.31")
        assert opened("0.30").limit_nanos == nanos("0.30")

    def test_nor_than_everybodys(self) -> None:
        for_everybody("0.50", window="day", scope_type="session")
        with pytest.raises(OverBound):
            opened("0.51", scope_type="session")
        opened("0.50", scope_type="session")

    def test_so_many_an_hour(self, settings: Any) -> None:
        settings.NEW_NAMES_PER_HOUR = 1
        budget = opened()
        with pytest.raises(TooManyNames):
            opened(scope_key="other", now=budget.created_at)
        assert opened(scope_key="other", now=budget.created_at + HOUR).scope_key == "other"

    def test_a_key_closes_what_its_agent_opened_and_a_tenants_key_all_of_them(self) -> None:
        mine, acme = opened(), make.tenant()
        assert goals.may_close(mine, tenant=acme, agent="invoices")
        assert goals.may_close(mine, tenant=acme, agent="")
        assert not goals.may_close(mine, tenant=acme, agent="other")
        assert not goals.may_close(mine, tenant=make.tenant("globex"), agent="")
        operators = make.budget(scope_type="task", scope_key="audit", window="lifetime")
        assert not goals.may_close(operators, tenant=acme, agent="")
