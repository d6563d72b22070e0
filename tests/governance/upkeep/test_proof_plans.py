"""The ledger's proof reads each table once, however many windows there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from governance.upkeep import sql

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("proof", [sql.settled, sql.reserved, sql.over_cap])
def test_sums_are_looked_up_and_not_read_again_for_each_window(proof: Callable[[], list[Any]]) -> None:
    if connection.vendor == "postgresql":
        pytest.skip("PostgreSQL hashes them by itself")
    with CaptureQueriesContext(connection) as asked:
        proof()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {asked.captured_queries[-1]['sql']}")
        steps = [row[-1] for row in cursor.fetchall()]
    assert [step for step in steps if "LEFT-JOIN" in step and step.startswith("SCAN") and step.split()[1] in "su"] == []
    assert any("AUTOMATIC COVERING INDEX (id=?) LEFT-JOIN" in step for step in steps)
