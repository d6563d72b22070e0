"""Proof that the ledger has not drifted: the invariants it promises, checked against its own rows.

1. a window's settled = the sum of its entries; 2. its reserved = the sum of its pending reservations; 3. neither is
below zero; 4. settled + reserved <= hard cap x limit in an open window, as long as the limit was not lowered and
nothing cost more than it held; 5. a reservation resolves at most once, and a settled or expired one has exactly one
charge; 6. rollups = the sums of entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from governance import money


@dataclass(frozen=True, slots=True)
class Drift:
    """One figure that is not what its rows say; amounts in nanodollars, counts as they are."""

    invariant: int
    subject: str
    expected: int
    actual: int

    def __str__(self) -> str:
        if self.invariant == 5:
            return f"invariant 5: {self.subject}: {self.actual} charges, expected {self.expected}"
        actual, expected = money.format_dollars(self.actual), money.format_dollars(self.expected)
        return f"invariant {self.invariant}: {self.subject}: ${actual}, expected ${expected}"


def check() -> list[Drift]:
    """Every drift there is, from one consistent snapshot; empty is the proof."""
    with _snapshot() as cursor:
        found = []
        for invariant, statement in _STATEMENTS.items():
            cursor.execute(statement.format(**_words()))
            found += [Drift(invariant, str(row[0]), int(row[1]), int(row[2])) for row in cursor.fetchall()]
        return found


@contextmanager
def _snapshot() -> Iterator[Any]:
    """A cursor that sees one state of the database and keeps no writer waiting; the caller's transaction, if any."""
    with connection.cursor() as cursor:
        if connection.in_atomic_block:
            yield cursor
        elif connection.vendor == "postgresql":
            with transaction.atomic():
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield cursor
        else:
            # Django's own transactions take SQLite's one write lock when they begin.
            cursor.execute("BEGIN DEFERRED")
            try:
                yield cursor
            finally:
                cursor.execute("ROLLBACK")


def _words() -> dict[str, str]:
    """Turning a JSON list of window ids into rows, in each database's words."""
    if connection.vendor == "postgresql":
        return {
            "each": "CROSS JOIN LATERAL jsonb_array_elements_text(x.windows) AS j(value)",
            "id": "j.value::bigint",
        }
    return {"each": "JOIN json_each(x.windows) AS j", "id": "j.value"}


_NAME = "'window ' || w.id || ' of budget ' || w.budget_id || ' (' || w.subject || ')'"

_STATEMENTS = {
    1: f"""
        WITH sums AS (
            SELECT {{id}} AS id, SUM(x.cost_nanos) AS total FROM governance_spendentry x {{each}} GROUP BY {{id}}
        )
        SELECT {_NAME}, COALESCE(s.total, 0), w.settled_nanos
        FROM governance_budgetwindow w LEFT JOIN sums s ON s.id = w.id
        WHERE w.settled_nanos <> COALESCE(s.total, 0)""",
    2: f"""
        WITH sums AS (
            SELECT {{id}} AS id, SUM(x.amount_nanos) AS total FROM governance_reservation x {{each}}
            WHERE x.status = 'pending' GROUP BY {{id}}
        )
        SELECT {_NAME}, COALESCE(s.total, 0), w.reserved_nanos
        FROM governance_budgetwindow w LEFT JOIN sums s ON s.id = w.id
        WHERE w.reserved_nanos <> COALESCE(s.total, 0)""",
    3: f"""
        SELECT {_NAME}, 0, CASE WHEN w.settled_nanos < w.reserved_nanos THEN w.settled_nanos ELSE w.reserved_nanos END
        FROM governance_budgetwindow w WHERE w.settled_nanos < 0 OR w.reserved_nanos < 0""",
    # A window whose limit or cap was lowered says so itself, an overage is in its entries. Nothing is reserved in a
    # closed one any more, and its budget's cap may have changed since.
    4: f"""
        WITH over AS (
            SELECT {{id}} AS id, SUM(x.overage_nanos) AS total FROM governance_spendentry x {{each}} GROUP BY {{id}}
        ), reported AS (
            SELECT {{id}} AS id, SUM(x.cost_nanos) AS total FROM governance_spendentry x {{each}}
            WHERE x.cost_nanos > 0 AND (x.reservation_id IS NULL OR x.kind <> 'charge') GROUP BY {{id}}
        )
        SELECT {_NAME}, w.limit_nanos, w.settled_nanos + w.reserved_nanos
        FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id
        LEFT JOIN over o ON o.id = w.id LEFT JOIN reported r ON r.id = w.id
        WHERE w.settled_nanos + w.reserved_nanos - COALESCE(o.total, 0) - COALESCE(r.total, 0)
              > w.limit_nanos * b.hard_cap
          AND w.closed_at IS NULL AND NOT w.limit_lowered""",
    5: """
        SELECT 'reservation ' || r.id || ' (' || r.status || ')',
               CASE WHEN r.status IN ('settled', 'expired') THEN 1 ELSE 0 END, COUNT(x.id)
        FROM governance_reservation r
        LEFT JOIN governance_spendentry x ON x.reservation_id = r.id AND x.kind = 'charge'
        GROUP BY r.id, r.status
        HAVING COUNT(x.id) <> CASE WHEN r.status IN ('settled', 'expired') THEN 1 ELSE 0 END""",
    6: """
        WITH sums AS (
            SELECT tenant_id, agent, provider, model_served AS model, SUM(cost_nanos) AS total
            FROM governance_spendentry GROUP BY tenant_id, agent, provider, model_served
        ), rolled AS (
            SELECT tenant_id, agent, provider, model, SUM(cost_nanos) AS total
            FROM governance_spendrollup GROUP BY tenant_id, agent, provider, model
        )
        SELECT 'rollup of tenant ' || both_.tenant_id || ' ' || both_.agent || ' ' || both_.model,
               SUM(both_.entries), SUM(both_.rollups)
        FROM (
            SELECT tenant_id, agent, provider, model, total AS entries, 0 AS rollups FROM sums
            UNION ALL SELECT tenant_id, agent, provider, model, 0, total FROM rolled
        ) AS both_
        GROUP BY both_.tenant_id, both_.agent, both_.provider, both_.model
        HAVING SUM(both_.entries) <> SUM(both_.rollups)""",
}
