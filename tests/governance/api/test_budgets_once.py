"""Acts on a budget that add up, repeated under an Idempotency-Key: they are done once."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from governance import idempotency, ledger
from governance.models import Allowance, AuditEntry, Budget, BudgetWindow, KeptAnswer
from tests import factories
from tests.governance.api.conftest import Api

TOP_UP = {"amount": "2", "reason": "a demo"}
RESET = {"reason": "a demo"}


@pytest.fixture(params=["a tenant's", "the platform's"])
def budget(request: pytest.FixtureRequest, db: None) -> Budget:
    made = factories.budget("10", scope_type="tenant" if request.param == "a tenant's" else "platform")
    ledger.record(factories.reporting("1"), now=timezone.now())
    return made


def keyed(api: Api, budget: Budget, act: str, body: dict[str, Any], *, key: str = "k1") -> Any:
    path = f"/api/budgets/{budget.pk}/{act}"
    return api.client.post(path, body, content_type="application/json", headers={"idempotency-key": key})


def done() -> tuple[int, int, int]:
    """Windows, allowances, and acts in the audit trail."""
    acts = AuditEntry.objects.filter(action__in=["budget.reset", "budget.top_up"])
    return BudgetWindow.objects.count(), Allowance.objects.count(), acts.count()


@pytest.mark.parametrize(
    ("act", "body", "once", "twice"),
    [("reset", RESET, (2, 0, 1), (3, 0, 2)), ("allowances", TOP_UP, (1, 1, 1), (1, 2, 2))],
)
def test_what_is_sent_again_is_done_once_and_answered_as_it_was(
    operator: Api, budget: Budget, act: str, body: dict[str, Any], once: Any, twice: Any
) -> None:
    first, again = (keyed(operator, budget, act, body) for _ in range(2))
    assert (first.status_code, again.status_code) == ({"reset": 200, "allowances": 201}[act],) * 2
    assert (again.json(), again["x-idempotent-replay"]) == (first.json(), "true")
    assert done() == once
    other = keyed(operator, budget, act, body | {"reason": "another"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert keyed(operator, budget, act, body, key="k2").status_code == first.status_code
    assert done() == twice


@pytest.mark.parametrize(("act", "body"), [("reset", RESET), ("allowances", TOP_UP)])
def test_of_a_run_that_was_cut_off_somebody_must_look(
    operator: Api, budget: Budget, act: str, body: dict[str, Any]
) -> None:
    keyed(operator, budget, act, body)
    before = done()
    gone = timezone.now() - idempotency.ALIVE_FOR
    KeptAnswer.objects.update(status="running", response_status=None, alive_until=gone)
    answer = keyed(operator, budget, act, body)
    assert (answer.status_code, "look at the budget" in answer.json()["error"]["message"]) == (409, True)
    assert done() == before


@pytest.mark.parametrize(("act", "body"), [("reset", RESET), ("allowances", TOP_UP)])
def test_nobody_else_is_let_in_by_a_key(
    operator: Api, viewer: Api, agent: Api, budget: Budget, act: str, body: dict[str, Any]
) -> None:
    keyed(operator, budget, act, body)
    assert {keyed(api, budget, act, body).status_code for api in (viewer, agent)} == {403}
    unknown = Budget(pk=budget.pk + 1)
    assert keyed(operator, unknown, act, body, key="k2").status_code == 404
