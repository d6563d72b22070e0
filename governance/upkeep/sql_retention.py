"""The statements of `retention`: rows that are old go, what they add up to stays.

Like `governance.ledger.sql`, in the caller's open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from governance.ledger import sql_dialect as words
from governance.ledger.sql_dialect import (
    IDS,
    UUIDS,
    Shape,
    among,
    for_update,
    is_postgres,
    moment,
    pack_ids,
    stamp,
    uuid,
)
from governance.upkeep.sql import ENTRY_SUMS, KIND, SUMS, UNHELD, adding_to, hour_of, total

_PURGED = Shape(id="bigint", purged_nanos="bigint", purged_unheld_nanos="bigint")
_UNNAMED = "NOT EXISTS (SELECT 1 FROM governance_spendentry x WHERE x.reservation_id = governance_reservation.id)"


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a family: one that corrects nothing, its corrections, theirs."""

    root: UUID
    id: UUID
    reservation_id: UUID | None
    windows: list[int]
    cost_nanos: int
    unheld_nanos: int
    occurred_at: datetime
    recorded_at: datetime


def roots(
    *, until: datetime, recorded_before: datetime, after: tuple[datetime, UUID], limit: int
) -> list[tuple[datetime, UUID]]:
    """Entries that correct nothing, of calls before `until`, in order of (occurred_at, id) from `after` on."""
    rows = words.select(
        "SELECT x.occurred_at, x.id FROM governance_spendentry x WHERE x.corrects_id IS NULL"
        " AND x.occurred_at < %s AND x.recorded_at < %s AND x.occurred_at >= %s AND (x.occurred_at, x.id) > (%s, %s)"
        # What an operator has still to decide on would add to it.
        " AND NOT EXISTS (SELECT 1 FROM governance_pendingreport p WHERE p.corrects = x.id AND p.status = 'waiting')"
        " ORDER BY x.occurred_at, x.id LIMIT %s",
        [stamp(until), stamp(recorded_before), stamp(after[0]), stamp(after[0]), words.key(after[1]), limit],
    )
    return [(moment(row[0]), uuid(row[1])) for row in rows]


def families(of: Collection[UUID]) -> list[Member]:
    """The entries themselves and whatever corrects them, however deep."""
    rows = words.select(
        f"""WITH RECURSIVE family (root, id) AS (
            SELECT v.id, v.id FROM {UUIDS}
            UNION ALL SELECT f.root, x.id FROM family f JOIN governance_spendentry x ON x.corrects_id = f.id
        )
        SELECT f.root, x.id, x.reservation_id, x.windows, x.cost_nanos, {UNHELD}, x.occurred_at, x.recorded_at
        FROM family f JOIN governance_spendentry x ON x.id = f.id""",
        [pack_ids(of)],
    )
    return [
        Member(
            root=uuid(row[0]),
            id=uuid(row[1]),
            reservation_id=None if row[2] is None else uuid(row[2]),
            windows=_json(row[3]),
            cost_nanos=row[4],
            unheld_nanos=row[5],
            occurred_at=moment(row[6]),
            recorded_at=moment(row[7]),
        )
        for row in rows
    ]


def keep_sums_of(ids: Collection[UUID]) -> None:
    """Add entries that are about to go to their hours' purged sums."""
    table = "governance_purgedspend"
    sums = ", ".join(total(f"k.{name}") for name in SUMS)
    names = ", ".join((*KIND, *SUMS))
    words.run(
        f"""WITH k ({names}) AS (
            SELECT x.tenant_id, {hour_of("x.occurred_at")}, x.agent, x.provider, x.model_served, {ENTRY_SUMS}
            FROM governance_spendentry x WHERE x.id IN {among(UUIDS)}
        )
        INSERT INTO {table} ({names}) SELECT k.tenant_id, k.hour, k.agent, k.provider, k.model, {sums} FROM k
        WHERE true GROUP BY k.tenant_id, k.hour, k.agent, k.provider, k.model{adding_to(table)}""",
        [pack_ids(ids)],
    )


def add_purged(windows: Mapping[int, tuple[int, int]]) -> None:
    """Note in windows what is deleted of what they settled: (nanodollars, of these what nothing had held)."""
    table = "governance_budgetwindow"
    adding = ", ".join(f"{name} = {table}.{name} + v.{name}" for name in _PURGED.names[1:])
    words.run(
        f"WITH locked AS (SELECT w.id FROM {table} w WHERE w.id IN {among(IDS)} ORDER BY w.id{for_update('w')})"
        f" UPDATE {table} SET {adding} FROM {_PURGED} JOIN locked ON locked.id = v.id WHERE {table}.id = v.id",
        [pack_ids(windows), _PURGED.pack([(id, *amounts) for id, amounts in windows.items()])],
    )


def delete_entries(ids: Collection[UUID]) -> int:
    rows = words.select(f"DELETE FROM governance_spendentry WHERE id IN {among(UUIDS)} RETURNING id", [pack_ids(ids)])
    return len(rows)


def delete_reservations(ids: Collection[UUID]) -> int:
    """Delete resolved reservations that no entry names any more; how many there were."""
    rows = words.select(
        f"DELETE FROM governance_reservation WHERE id IN {among(UUIDS)} AND status <> 'pending' AND {_UNNAMED}"
        " RETURNING id",
        [pack_ids(ids)],
    )
    return len(rows)


def check_references() -> None:
    """Let the database check now, rather than at commit, that nothing names a deleted row; raises IntegrityError."""
    if is_postgres():
        words.run("SET CONSTRAINTS ALL IMMEDIATE", [])


def released(*, before: datetime) -> int:
    """How many reservations were given back before a moment and are named by no entry."""
    rows = words.select(
        f"SELECT COUNT(*) FROM governance_reservation WHERE status = 'released' AND resolved_at < %s AND {_UNNAMED}",
        [stamp(before)],
    )
    return int(rows[0][0])


def delete_released(*, before: datetime, limit: int) -> int:
    rows = words.select(
        "DELETE FROM governance_reservation WHERE id IN (SELECT id FROM governance_reservation"
        f" WHERE status = 'released' AND resolved_at < %s AND {_UNNAMED} ORDER BY resolved_at LIMIT %s) RETURNING id",
        [stamp(before), limit],
    )
    return len(rows)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
