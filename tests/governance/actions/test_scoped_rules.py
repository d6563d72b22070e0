"""What is the same of budgets, rate limits and plans: one of a kind for a scope, whoever comes first."""

from __future__ import annotations

from typing import Any

import pytest

from billing.accounts.plans import PLANS
from billing.models import Plan
from governance.actions.budgets import BUDGETS
from governance.actions.rate_limits import RATE_LIMITS
from governance.actions.scoped_rules import ScopedRules
from governance.audit import Actor
from governance.models import AuditEntry, Budget, RateLimit
from governance.rules.errors import Conflict, FieldError
from tests.factories import NOON

pytestmark = pytest.mark.django_db
ADA = Actor("ada")
KINDS: list[tuple[ScopedRules[Any], dict[str, Any], dict[str, Any]]] = [
    (BUDGETS, {"scope_type": "platform", "window": "day", "limit_nanos": 1}, {"limit_nanos": 2}),
    (RATE_LIMITS, {"scope_type": "platform"}, {"tokens_per_minute": 5}),
    (PLANS, {"name": "Huge"}, {"limit_nanos": 5}),
]


@pytest.mark.parametrize(("kind", "known", "values"), KINDS, ids=[kind.noun for kind, *_ in KINDS])
class TestOneOfAKind:
    def test_a_second_is_a_conflict_that_names_the_first(self, kind: Any, known: Any, values: Any) -> None:
        first = kind.create(kind.model(**known), values, by=ADA, now=NOON)
        with pytest.raises(Conflict, match=r"[Tt]here is a") as refused:
            kind.create(kind.model(**known), values, by=ADA, now=NOON)
        assert refused.value.existing == first
        assert [(row.action, row.target) for row in AuditEntry.objects.all()] == [
            (f"{kind.code}.create", kind.target(first))
        ]

    def test_so_it_is_where_another_was_quicker(
        self, kind: Any, known: Any, values: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other's row comes between the look and the insert, and the constraint says so."""
        first = kind.create(kind.model(**known), values, by=ADA, now=NOON)
        looks, same = [], ScopedRules.same

        def too_early(self: Any, row: Any) -> Any:
            looks.append(row)
            return same(self, row) if len(looks) > 1 else None

        monkeypatch.setattr(ScopedRules, "same", too_early)
        with pytest.raises(Conflict) as refused:
            kind.create(kind.model(**known), values, by=ADA, now=NOON)
        assert (refused.value.existing, len(looks)) == (first, 2)

    def test_a_field_that_it_has_not_is_refused_by_its_name(self, kind: Any, known: Any, values: Any) -> None:
        with pytest.raises(FieldError, match="there are") as refused:
            kind.create(kind.model(**known), values | {"colour": "blue"}, by=ADA, now=NOON)
        assert refused.value.field == "colour"
        assert not AuditEntry.objects.exists()


def test_what_the_database_alone_refuses_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, row in ((BUDGETS, Budget(scope_type="platform", window="day", limit_nanos=0)), (PLANS, Plan(name="P"))):
        row.limit_nanos = 0
        with pytest.raises(FieldError, match=f"the database refuses this {kind.noun}") as refused:
            kind.write(row)
        assert not isinstance(refused.value, Conflict)


def test_an_audit_row_shows_shares_without_the_zeros_of_their_column() -> None:
    limit = RateLimit(scope_type="platform", tokens_per_minute=5)
    assert RATE_LIMITS.to_audit(limit)["tokens_per_minute"] == 5
    budget = BUDGETS.create(Budget(**KINDS[0][1]), {"soft_cap": "0.5000"}, by=ADA, now=NOON)
    budget.refresh_from_db()
    assert BUDGETS.to_audit(budget)["soft_cap"] == AuditEntry.objects.get().new["soft_cap"] == "0.5"
