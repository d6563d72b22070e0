"""Which tenants have a row that somebody else has locked, and whether that is kept; PostgreSQL only.

Nobody waits here, and nothing of what all tenants share is locked: rows are asked for as whoever works with them does,
those that others have are left out, and all are free again when the transaction ends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from governance.ledger import sql_dialect as words
from governance.ledger.sql_dialect import IDS, UUIDS, Select, Shape, among, pack_ids, stamp
from governance.rules.scopes import PLATFORM

_SUBJECTS = Shape("budget_id bigint, subject text, tenant_id bigint")
_BUCKETS = Shape("rate_limit_id bigint, subject text, tenant_id bigint")
_KEYS = Shape("id bigint, tenant_id bigint")
_SUMS = Shape("tenant_id bigint, hour timestamptz, agent text, provider text, model text")
_CHARGED = Shape("id uuid, hour timestamptz, provider text, model text")


def _held(listed: str = "") -> str:
    """FROM and on: reservations by id, with what a column of theirs lists."""
    return f"governance_reservation e{listed and f', {listed}'} WHERE e.id IN {among(UUIDS)}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What calls and reports need of their tenants: reservations, subjects of budgets and of rate limits, each with
    its tenant, keys likewise, tenants by id, the hours' sums in which is charged, and how reservations are: with the
    hour, provider and model where these are not None, which is the reservation's own."""

    held: Collection[UUID]
    subjects: Collection[tuple[int, str, int]]
    buckets: Collection[tuple[int, str, int]]
    keys: Collection[tuple[int, int]]
    tenant_ids: Collection[int]
    sums: Collection[tuple[int, datetime, str, str, str]]
    charged: Collection[tuple[UUID, datetime | None, str | None, str | None]]


def taken(needs: Needs, *, now: datetime, silent_s: float, old_s: float) -> list[Select[list[tuple[str, bool]]]]:
    """The tenants that need a row which somebody has: (slug, whether it is kept).

    It is by whoever waits for no lock and has done nothing new for `silent_s`, or whose transaction is older than
    `old_s`. Of another user's session nothing more is known than that it has the row; it may be such a one.
    """
    held = pack_ids(needs.held)
    subjects, tenants = _SUBJECTS.pack(needs.subjects), pack_ids(needs.tenant_ids)
    windows, meters = words.elements("e.windows"), words.elements("e.meters")
    is_open = "k.budget_id = v.budget_id AND k.subject = v.subject AND k.closed_at IS NULL"
    of_tenants = f"(SELECT v.id FROM {IDS} UNION SELECT e.tenant_id FROM {_held()})"
    wanted: list[tuple[str, str, str, list[Any]]] = [
        ("reservation", "UPDATE", f"SELECT e.id, e.tenant_id FROM {_held()}", [held]),
        (
            "budgetwindow",
            "UPDATE",
            "SELECT k.id, k.tenant_id FROM governance_budgetwindow k WHERE k.tenant_id IS NOT NULL AND k.id IN ("
            f"SELECT k.id FROM governance_budgetwindow k JOIN {_SUBJECTS} ON {is_open}"
            f" UNION SELECT {windows.id} FROM {_held(windows.item)})",
            [subjects, held],
        ),
        (
            # Only whoever opens a window wants its budget.
            "budget",
            "SHARE",
            f"SELECT v.budget_id AS id, v.tenant_id FROM {_SUBJECTS} WHERE NOT EXISTS (SELECT 1"
            f" FROM governance_budgetwindow k WHERE {is_open} AND (k.ends_at IS NULL OR k.ends_at > %s))",
            [subjects, stamp(now)],
        ),
        (
            "ratemeter",
            "UPDATE",
            "SELECT m.id, n.tenant_id FROM (SELECT k.id, v.tenant_id FROM governance_ratemeter k"
            f" JOIN {_BUCKETS} ON k.rate_limit_id = v.rate_limit_id AND k.subject = v.subject"
            f" UNION SELECT {meters.id}, e.tenant_id FROM {_held(meters.item)}) n"
            " JOIN governance_ratemeter m ON m.id = n.id JOIN governance_ratelimit b ON b.id = m.rate_limit_id"
            f" AND b.scope_type <> '{PLATFORM}'",
            [_BUCKETS.pack(needs.buckets), held],
        ),
        (
            "spendrollup",
            "UPDATE",
            # A tenant has as many an hour as it has names of agents and models.
            f"SELECT s.id, s.tenant_id FROM (SELECT {_SUMS.columns} FROM {_SUMS}"
            " UNION SELECT e.tenant_id, COALESCE(v.hour, date_trunc('hour', e.reserved_at, 'UTC')), e.agent,"
            " COALESCE(v.provider, e.provider), COALESCE(v.model, e.model_served)"
            f" FROM governance_reservation e JOIN {_CHARGED} ON e.id = v.id) n"
            " JOIN governance_spendrollup s ON s.tenant_id = n.tenant_id AND s.hour = n.hour AND s.agent = n.agent"
            " AND s.provider = n.provider AND s.model = n.model",
            [_SUMS.pack(needs.sums), _CHARGED.pack(needs.charged)],
        ),
        # What is charged and held refers to these.
        (
            "tenant",
            "KEY SHARE",
            f"SELECT t.id, t.id AS tenant_id FROM governance_tenant t WHERE t.id IN {of_tenants}",
            [tenants, held],
        ),
        (
            "apikey",
            "KEY SHARE",
            f"SELECT v.id, v.tenant_id FROM {_KEYS} UNION SELECT e.key_id, e.tenant_id FROM {_held()}",
            [_KEYS.pack(needs.keys), held],
        ),
    ]
    return [
        Select(_taken(f"governance_{table}", strength, of), [*params, silent_s, old_s], _whose)
        for table, strength, of, params in wanted
    ]


def _taken(table: str, strength: str, wanted: str) -> str:
    # A row says which transaction locked it last, or by which number several are known that share it (a multixact); and
    # each transaction has a lock on itself as long as it lasts. What a savepoint locked has a number of its own, which
    # leads to nobody once the savepoint is released. Then it is one of those that were there by that time, and have
    # locked something in the table: not one of them may be at work. An age is negative of what is no number yet.
    return (
        f"WITH wanted AS MATERIALIZED ({wanted}), had AS MATERIALIZED (SELECT r.id FROM {table} r"
        f" WHERE r.id IN (SELECT n.id FROM wanted n) FOR {strength} SKIP LOCKED),"
        " taken AS MATERIALIZED (SELECT DISTINCT n.tenant_id, r.xmax AS mark FROM wanted n"
        f" JOIN {table} r ON r.id = n.id WHERE n.id NOT IN (SELECT h.id FROM had h)),"
        " marks AS (SELECT t.mark, t.mark AS xid FROM taken t UNION SELECT t.mark, m.xid FROM taken t,"
        " pg_get_multixact_members(CASE WHEN mxid_age(t.mark) BETWEEN 1 AND"
        " (SELECT max(mxid_age(d.datminmxid)) FROM pg_database d) THEN t.mark END) m),"
        " running AS MATERIALIZED (SELECT l.transactionid AS xid, l.virtualtransaction IN (SELECT i.virtualtransaction"
        f" FROM pg_locks i WHERE i.relation = '{table}'::regclass AND i.mode <> 'AccessShareLock' AND i.database ="
        " (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) AS is_here,"
        " a.wait_event_type IS DISTINCT FROM 'Lock'"
        " AND COALESCE(a.state_change < clock_timestamp() - make_interval(secs => %s)"
        " OR a.xact_start < clock_timestamp() - make_interval(secs => %s), TRUE) AS keeps"
        " FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
        " WHERE l.locktype = 'transactionid' AND l.granted),"
        " holders AS (SELECT m.mark, x.keeps, x.xid = m.xid AS is_named FROM marks m JOIN running x"
        " ON x.xid = m.xid OR (x.is_here AND age(m.xid) BETWEEN 0 AND age(x.xid)))"
        " SELECT o.slug, COALESCE(bool_and(h.keeps) FILTER (WHERE h.is_named), bool_and(h.keeps), FALSE)"
        " FROM taken t JOIN governance_tenant o ON o.id = t.tenant_id LEFT JOIN holders h ON h.mark = t.mark"
        " GROUP BY o.slug, t.mark"
    )


def _whose(rows: list[Any]) -> list[tuple[str, bool]]:
    return [(slug, is_kept) for slug, is_kept in rows]


def leave_no_trace() -> None:
    """Have nobody wait until a log on a disk says that rows were locked for a moment."""
    words.run("SELECT set_config('synchronous_commit', 'off', true)", [])
