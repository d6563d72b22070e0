from __future__ import annotations

from typing import Any

import pytest

from governance.actions import rate_limits
from governance.audit import Actor
from governance.models import AuditEntry, RateBucket, RateLimit
from governance.rules.errors import Conflict, FieldError
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.django_db
OLGA = Actor("olga")


def create(**fields: Any) -> RateLimit:
    values = {"scope_type": "platform", "requests_per_minute": 60} | fields
    return rate_limits.create(**values, by=OLGA, now=NOON)


def test_a_rate_limit_is_made_with_an_audit_row() -> None:
    made = create(scope_type="agent", scope_key="invoices", tenant=factories.tenant(), nanos_per_minute=5)
    assert (made.scope, made.nanos_per_minute, made.requests_per_minute, made.tokens_per_minute) == (
        "acme agent:invoices",
        5,
        60,
        None,
    )
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.actor) == ("rate_limit.create", "rate limit acme agent:invoices", "olga")
    assert row.new == {
        "nanos_per_minute": 5,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "enabled": True,
    }


@pytest.mark.parametrize(
    ("fields", "stored", "shown"),
    [
        ({"scope_type": "platform", "scope_key": "*"}, (None, ""), "platform"),
        ({"scope_type": "tenant", "scope_key": "acme"}, ("acme", "acme"), "acme"),
        ({"scope_type": "tenant", "scope_key": "*"}, (None, "*"), "each tenant"),
        ({"scope_type": "agent", "scope_key": "*"}, (None, "*"), "each agent"),
    ],
)
def test_scopes_are_stored_as_a_budget_s_are(fields: dict[str, Any], stored: tuple[Any, str], shown: str) -> None:
    factories.tenant()
    made = create(**fields)
    assert (made.tenant.slug if made.tenant else None, made.scope_key) == stored
    assert str(made) == shown


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"requests_per_minute": None}, "dollars_per_minute"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -1}, "tokens_per_minute"),
        ({"tokens_per_minute": 10**12 + 1}, "tokens_per_minute"),
        ({"nanos_per_minute": 0}, "dollars_per_minute"),
        ({"nanos_per_minute": 10**19}, "dollars_per_minute"),
        ({"scope_type": "galaxy"}, "scope_type"),
        ({"scope_key": "x"}, "scope_key"),
        ({"scope_type": "agent"}, "scope_key"),
        ({"scope_type": "agent", "scope_key": "x"}, "tenant"),
        ({"scope_type": "tenant", "scope_key": "nobody"}, "scope_key"),
    ],
)
def test_what_no_rate_limit_can_be_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as refused:
        create(**fields)
    assert refused.value.field == field
    assert not RateLimit.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_second_one_for_the_scope_is_refused_and_named() -> None:
    first = create()
    with pytest.raises(Conflict, match="a rate limit for platform already") as refused:
        create(requests_per_minute=1)
    assert refused.value.existing == first


def test_a_change_is_audited_with_old_and_new_and_no_change_is_not() -> None:
    made = create()
    same = rate_limits.change(limit=made, changes={"requests_per_minute": 60}, by=OLGA, now=NOON)
    assert AuditEntry.objects.count() == 1
    changes = {"requests_per_minute": None, "tokens_per_minute": 9}
    changed = rate_limits.change(limit=same, changes=changes, by=OLGA, now=NOON, reason="too fast")
    assert (changed.requests_per_minute, changed.tokens_per_minute) == (None, 9)
    row = AuditEntry.objects.latest("id")
    assert row.old is not None
    assert row.new is not None
    assert (row.action, row.reason) == ("rate_limit.change", "too fast")
    assert (row.old["requests_per_minute"], row.new["tokens_per_minute"]) == (60, 9)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scope_key": "other"}, "scope_key"),
        ({"scope_type": "tenant"}, "scope_type"),
        ({"requests_per_minute": None}, "dollars_per_minute"),
        ({"requests_per_hour": 1}, "requests_per_hour"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_leaves_everything(changes: dict[str, Any], field: str) -> None:
    made = create()
    with pytest.raises(FieldError) as refused:
        rate_limits.change(limit=made, changes=changes, by=OLGA, now=NOON)
    assert refused.value.field == field
    made.refresh_from_db()
    assert made.requests_per_minute == 60


def test_a_deleted_one_takes_its_buckets_along_and_is_audited() -> None:
    made = create()
    RateBucket.objects.create(rate_limit=made, measured_at=NOON)
    rate_limits.delete(limit=made, by=OLGA, now=NOON)
    assert not RateLimit.objects.exists()
    assert not RateBucket.objects.exists()
    row = AuditEntry.objects.latest("id")
    assert (row.action, row.target) == ("rate_limit.delete", "rate limit platform")
    assert row.old is not None
    assert row.old["requests_per_minute"] == 60
