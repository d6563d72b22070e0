"""What one task or session may cost in all its life, until it is closed."""

from __future__ import annotations

from typing import Any

import pytest

from governance import ledger
from governance.actions import budgets, goals
from governance.audit import Actor
from governance.ledger.operations import Extend
from governance.models import AuditEntry, Budget, BudgetWindow
from governance.rules.decision import Action, Reason
from governance.rules.errors import FieldError, Gone
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]

ADA = Actor("ada")


def goal(**fields: Any) -> Budget:
    return make.budget("1.00", window="lifetime", scope_type="task", scope_key="report", soft_cap=None, **fields)


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
        budget, op = goal(), reserving("0.90")
        ledger.reserve(op, now=NOON)
        ledger.settle(make.settling(op.reservation_id, "0.90"), now=NOON)
        close(budget)
        budgets.delete(budget=budget, by=ADA, now=NOON)
        scope = {"tenant": make.tenant(), "scope_type": "task", "scope_key": "report", "window": "lifetime"}
        anew = budgets.create(**scope, limit_nanos=nanos("1.00"), by=ADA, now=NOON)
        anew.refresh_from_db()
        assert (anew.pk, anew.closed_at) == (budget.pk, None)
        assert ledger.reserve(reserving("0.20"), now=NOON).reason == Reason.BUDGET_EXHAUSTED
        assert ledger.reserve(reserving("0.05"), now=NOON).allowed
