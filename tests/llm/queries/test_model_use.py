"""What models were used for, against calls that the ledger wrote, and which budgets move calls to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from governance import ledger
from governance.rules.calls import Usage
from llm.models import Model
from llm.queries import model_use
from llm.queries.model_use import Used
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db


def spent(cost: str, provider: str, model: str, *, days_ago: float = 0) -> None:
    made = factories.reporting(cost, occurred_at=NOON - timedelta(days=days_ago))
    ledger.record(replace(made, usage=Usage(provider, model, 10, 0, 10)), now=NOON)


def row(name: str) -> Model:
    return Model.objects.prefetch_related("aliases").get(name=name)


def test_a_model_was_used_under_each_of_its_names_and_in_each_zone() -> None:
    spent("1", "mistral", "mistral-small-2603")
    spent("2", "mistral", "mistral-small-2603", days_ago=29)
    # A page of 30 days begins at a midnight, and so does this.
    spent("9", "mistral", "mistral-small-2603", days_ago=30)
    spent("0.50", "mistral-eu", "mistral-small-2603")
    spent("5", "mistral", "mistral-small-latest", days_ago=3)
    spent("7", "groq", "mistral-small-2603")
    small, large = row("mistral-small-2603"), row("mistral-large-2512")
    assert model_use.used([small, large], now=NOON) == {
        small.pk: [
            Used("mistral", "mistral-small-latest", 1, nanos("5")),
            Used("mistral", "mistral-small-2603", 2, nanos("3")),
            Used("mistral-eu", "mistral-small-2603", 1, nanos("0.50")),
        ],
        large.pk: [],
    }


def test_budgets_that_move_calls_to_a_model_or_from_it_are_found_by_any_of_its_names() -> None:
    down = {"from": ["mistral-large-latest"], "to": "mistral-small-latest", "at": "0.9"}
    to = factories.budget("1", downgrade_rules=[down])
    away = factories.budget(
        "2", window="week", downgrade_rules=[{"from": ["mistral/mistral-small-2603"], "to": "other"}]
    )
    factories.budget("3", window="month", enabled=False, downgrade_rules=[down])
    factories.budget("4", window="hour", downgrade_rules=[{"from": ["x"], "to": "mistral-small-2603-mine"}])
    small = row("mistral-small-2603")
    found = [(move.budget.pk, move.leads_here, move.at_percent) for move in model_use.moves(small)]
    assert found == [(to.pk, True, 90.0), (away.pk, False, None)]
    large = row("mistral-large-2512")
    assert [move.to for move in model_use.moves(large)] == ["mistral-small-latest"]
    assert model_use.targets([small, large]) == {small.pk: 1, large.pk: 0}
