"""The last release's code on today's schema: while processes are restarted one by one, it writes what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps.registry import Apps
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.models import ManyToManyField, Model

from benchmarks.upgrade import LEFT_BY_0_1_0
from tests.config.migration_rules import OURS

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def released() -> list[type[Model]]:
    """The last release's models, with the tables between two of them."""
    apps: Apps = MigrationLoader(None).project_state(LEFT_BY_0_1_0).apps
    return [model for model in apps.get_models(include_auto_created=True) if model._meta.app_label in OURS]


def columns_of(table: str) -> dict[str, bool]:
    """The columns that a table has, and whether an INSERT must name each: it may not be null, and has no default."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT column_name, is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'"
                " FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = %s",
                [table],
            )
        else:
            # A whole number that is the key is given by the database.
            cursor.execute(
                "SELECT name, \"notnull\" AND dflt_value IS NULL AND NOT (pk AND type = 'integer')"
                " FROM pragma_table_info(%s)",
                [table],
            )
        return {name: bool(must) for name, must in cursor.fetchall()}


def missing(model: type[Model]) -> Iterator[str]:
    """What an INSERT of this release's would fail for."""
    meta = model._meta
    now = columns_of(meta.db_table)
    if not now:
        yield f"{meta.db_table} is gone"
        return
    written: dict[str, Any] = {
        str(field.column): field for field in meta.local_concrete_fields if not isinstance(field, ManyToManyField)
    }
    yield from (f"{meta.db_table}.{name} is gone" for name in written if name not in now)
    yield from (
        f"{meta.db_table}.{name} is new, may not be null and has no default in the database"
        for name, must in now.items()
        if must and name not in written
    )
    yield from (
        f"{meta.db_table}.{name} may not be null any more"
        for name, field in written.items()
        if field.null and now.get(name)
    )


# What 0.1.0 cannot write any more, by table and column, and why that is no harm: an upgrade from it is made with all
# processes stopped (docs/operations.md, Upgrading). After the next release there is nothing to excuse.
NO_HARM = {
    "billing_plan.alert_thresholds": "billing.0008: new plans wait for the restart",
    "billing_plan.clamp": "the same",
    "billing_plan.clamp_min_tokens": "the same",
    "billing_billingperiod.floor_nanos": "billing.0015: taken over into new columns",
}


def test_the_release_before_can_write_every_table_that_it_has(released: list[type[Model]]) -> None:
    assert len(released) > 30
    found = [said for model in released for said in missing(model)]
    assert {said for said in found if said.partition(" ")[0] not in NO_HARM} == set()
    assert {said.partition(" ")[0] for said in found} == set(NO_HARM), "excused for nothing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ADD COLUMN more integer NOT NULL DEFAULT 0", ""),
        ("ADD COLUMN more integer", ""),
        ("RENAME COLUMN name TO called", "governance_tenant.name is gone"),
        ("RENAME TO governance_customer", "governance_tenant is gone"),
    ],
)
def test_it_is_seen_when_it_cannot(released: list[type[Model]], change: str, said: str) -> None:
    tenants = next(model for model in released if model.__name__ == "Tenant")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE governance_tenant {change}")
    found = list(missing(tenants))
    assert any(each.startswith(said) for each in found) if said else found == []


def test_a_new_column_that_must_be_named_is_seen(released: list[type[Model]]) -> None:
    tenants = next(model for model in released if model.__name__ == "Tenant")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE governance_tenant ADD COLUMN more integer NOT NULL")
    else:
        # SQLite adds no such column; what an old release does not know of is the same to it.
        meta = tenants._meta
        meta.local_fields = [field for field in meta.local_fields if field.name != "name"]
        meta._expire_cache()
    assert any("may not be null and has no default" in each for each in missing(tenants))
