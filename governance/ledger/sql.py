"""What the ledger reads and locks, in statements over sets; what it writes is in `sql_writes`.

Written by hand because the ORM's bulk calls cost twice as much, and a batch is a handful of these. Every function
works in the caller's open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from governance.ledger import sql_dialect as words
from governance.ledger.rows import EntryRow, ReservationRow, WindowRow
from governance.ledger.sql_dialect import (
    IDS,
    UUIDS,
    Columns,
    Select,
    Shape,
    among,
    for_update,
    moment,
    pack_ids,
    split,
    stamp,
    uuid,
)
from governance.rules import money, policy
from governance.rules.buckets import Ceilings
from governance.rules.calls import Caller
from governance.rules.carry_over import WindowBefore
from governance.rules.names import EACH
from governance.rules.policy import Policy
from governance.rules.reports import OWN_VERSION
from governance.rules.scopes import BudgetRule, RateRule
from governance.rules.windows import ENDING_BY_ACT, WindowKind

# The reason of charges that a tenant's key reported and no budget of its own bounds: counted together for a day.
UNBUDGETED = "unbudgeted"
HOUR = timedelta(hours=1)
_REPORT_TURN = "2s"
# Of reservations: the version of a UUID, which SQLite keeps without dashes.
_IS_OWN = f"SUBSTR(REPLACE(CAST(id AS text), '-', ''), 13, 1) = '{OWN_VERSION:x}'"

BUDGET = Columns("b", "id tenant_id scope_type scope_key window limit_nanos revision closed_at carry_over")
POLICY = Columns(
    "b",
    " ".join(policy.COLUMNS),
    # The key of a cache.
    as_text=[name for name, column in policy.COLUMNS.items() if isinstance(column.default, list)],
)
RATE_LIMIT = Columns("b", "id tenant_id scope_type scope_key nanos_per_minute requests_per_minute tokens_per_minute")
_WINDOW = Columns(
    "w",
    "id subject tenant_id starts_at ends_at limit_nanos settled_nanos reserved_nanos state thresholds_crossed"
    " closed_at source_kind source_id limit_lowered extra_nanos extra_until carried_nanos revision",
)
_BEFORE = Columns("w", "budget_id subject ends_at limit_nanos extra_nanos settled_nanos reserved_nanos")
_TENANT = Columns("t", "slug time_zone")
_KEY = Columns("k", "prefix rotated_from")
# Who a row is for, and on what; `_attribution` reads it, all of whom its caller was.
_WHO = "id tenant_id agent key_id user session task provider model_requested model_served windows"
_OF_WHOM = " JOIN governance_tenant t ON t.id = e.tenant_id LEFT JOIN governance_apikey k ON k.id = e.key_id"
_RESERVATION = Columns("e", f"{_WHO} amount_nanos status reserved_at expires_at meters tokens")
_ENTRY = Columns("e", f"{_WHO} kind cost_nanos occurred_at reservation_id reason")
_REPORTED = Columns("e", "id tenant_id request_id agent cost_nanos")

ENDS_BY_TIME = f"b.window NOT IN ({', '.join(repr(kind) for kind in ENDING_BY_ACT)})"
_SUBJECTS = Shape("budget_id bigint, subject text")
_PERIODS = Shape("budget_id bigint, subject text, at timestamptz")
_REQUESTS = Shape("tenant_id bigint, request_id text")


class Reported(NamedTuple):
    """A report that is charged."""

    entry_id: UUID
    agent: str
    cost_nanos: int


class Due(NamedTuple):
    """A reservation whose time is over, and since when."""

    expires_at: datetime
    id: UUID


def budgets_by_id(ids: Collection[int]) -> dict[int, tuple[BudgetRule, str, str]]:
    """Budgets with their tenant's slug and time zone."""
    rows = words.select(
        f"SELECT {BUDGET}, {POLICY}, {_TENANT} FROM governance_budget b"
        f" LEFT JOIN governance_tenant t ON t.id = b.tenant_id WHERE b.id IN {among(IDS)}",
        [pack_ids(ids)],
    )
    return {
        budget.id: (budget_rule(budget, kept), tenant.slug or "", tenant.time_zone or "UTC")
        for budget, kept, tenant in split(rows, BUDGET, POLICY, _TENANT)
    }


def windows(
    *,
    keys: Collection[tuple[int, str]] = (),
    ids: Collection[int] = (),
    budget_ids: Collection[int] = (),
    held_by: Collection[UUID] = (),
    lock: bool = True,
) -> Select[list[WindowRow]]:
    """Windows by id, open windows by (budget, subject) or budget, and those of reservations; locked in key order.

    This is the ledger's one lock on windows: whoever needs several takes them here, in one statement.
    """
    table = "governance_budgetwindow"
    listed = words.elements("r.windows")
    held = f" UNION SELECT {listed.id} FROM governance_reservation r, {listed.item} WHERE r.id IN {among(UUIDS)}"
    return Select(
        f"SELECT {_WINDOW}, {BUDGET}, {POLICY} FROM {table} w JOIN governance_budget b ON b.id = w.budget_id"
        " WHERE w.id IN ("
        f"SELECT k.id FROM {table} k JOIN {_SUBJECTS} ON k.budget_id = v.budget_id AND k.subject = v.subject"
        f" WHERE k.closed_at IS NULL"
        f" UNION SELECT v.id FROM {IDS}"
        f" UNION SELECT k.id FROM {table} k WHERE k.closed_at IS NULL AND k.budget_id IN {among(IDS)}"
        f"{held if held_by else ''}"
        f") ORDER BY w.id{for_update('w') if lock else ''}",
        [_SUBJECTS.pack(keys), pack_ids(ids), pack_ids(budget_ids), *([pack_ids(held_by)] if held_by else [])],
        lambda rows: [_window(*parts) for parts in split(rows, _WINDOW, BUDGET, POLICY)],
        is_needed=bool(keys or ids or budget_ids or held_by),
    )


def has_opened(budget_id: int, tenant_id: int, *, count: int, since: datetime) -> bool:
    """Whether a tenant's calls have opened so many windows of a budget since then."""
    if count <= 0:
        return True
    rows = words.select(
        "SELECT 1 FROM governance_budgetwindow WHERE budget_id = %s AND tenant_id = %s AND opened_at > %s"
        " AND source_kind = '' LIMIT 1 OFFSET %s",
        [budget_id, tenant_id, stamp(since), count - 1],
    )
    return bool(rows)


def is_full_of_models(tenant_id: int, hour: datetime, *, but_for: tuple[str, str], most: int) -> bool:
    """Whether the sums of a tenant's hour, and its own holds of that hour, are of so many models, and none of them of
    this (provider, model)."""
    names = (
        "SELECT provider, model FROM governance_spendrollup WHERE tenant_id = %s AND hour = %s",
        f"SELECT provider, model_served FROM governance_reservation WHERE tenant_id = %s AND {_IS_OWN}"
        " AND status = 'pending' AND reserved_at >= %s AND reserved_at < %s",
    )
    of_hour = [tenant_id, stamp(hour), tenant_id, stamp(hour), stamp(hour + HOUR)]
    known = f"SELECT 1 FROM ({' UNION ALL '.join(names)}) n WHERE provider = %s AND model = %s LIMIT 1"
    if words.select(known, [*of_hour, *but_for]):
        return False
    full = f"SELECT 1 FROM ({' UNION '.join(names)}) n LIMIT 1 OFFSET %s"
    return most <= 0 or bool(words.select(full, [*of_hour, most - 1]))


def windows_at(periods: Collection[tuple[int, str, datetime]]) -> set[int]:
    """Windows of (budget, subject) that were open at a time, whether or not they are closed by now. Not locked."""
    if not periods:
        return set()
    rows = words.select(
        f"SELECT w.id FROM governance_budgetwindow w JOIN {_PERIODS} ON w.budget_id = v.budget_id"
        " AND w.subject = v.subject AND w.starts_at <= v.at AND (w.closed_at IS NULL OR w.closed_at > v.at)",
        [_PERIODS.pack(periods)],
    )
    return {id for (id,) in rows}


def windows_before(keys: Collection[tuple[int, str, datetime]]) -> dict[tuple[int, str], WindowBefore]:
    """The last window of each (budget, subject) that began before a time, as it stands. Not locked."""
    latest = (
        "SELECT k.id FROM governance_budgetwindow k WHERE k.budget_id = v.budget_id AND k.subject = v.subject"
        " AND k.starts_at < v.at ORDER BY k.starts_at DESC, k.id DESC LIMIT 1"
    )
    rows = words.select(
        f"SELECT {_BEFORE} FROM {_PERIODS} JOIN governance_budgetwindow w ON w.id = ({latest})", [_PERIODS.pack(keys)]
    )
    return {
        (row.budget_id, row.subject): WindowBefore(
            ends_at=moment(row.ends_at) if row.ends_at else None,
            limit_nanos=row.limit_nanos,
            extra_nanos=row.extra_nanos,
            committed_nanos=row.settled_nanos + row.reserved_nanos,
        )
        for row in map(_BEFORE.make, rows)
    }


def take_turns(*, alone: Collection[int], beside: Collection[int] = ()) -> None:
    """Wait for the turns of budgets, before anything else is locked: see `Batch`."""
    words.take_turns("governance_budget", alone=alone, beside=beside)


def reservations(ids: Collection[UUID]) -> Select[dict[UUID, ReservationRow]]:
    """Reservations, locked in primary-key order. Taken before windows, always."""
    return Select(
        f"SELECT {_RESERVATION}, {_TENANT}, {_KEY} FROM governance_reservation e"
        f"{_OF_WHOM} WHERE e.id IN {among(UUIDS)} ORDER BY e.id{for_update('e')}",
        [pack_ids(ids)],
        _reservations,
        is_needed=bool(ids),
    )


def _reservations(rows: list[Any]) -> dict[UUID, ReservationRow]:
    return {
        uuid(row.id): ReservationRow(
            **_attribution(row, tenant, key),
            amount_nanos=row.amount_nanos,
            status=row.status,
            reserved_at=moment(row.reserved_at),
            expires_at=moment(row.expires_at),
            buckets=_json(row.meters),
            tokens=row.tokens,
        )
        for row, tenant, key in split(rows, _RESERVATION, _TENANT, _KEY)
    }


def tenants_of_reservations(ids: Collection[UUID]) -> Select[dict[UUID, str]]:
    """The slug of the tenant that each is for. Not locked."""
    return Select(
        "SELECT e.id, t.slug FROM governance_reservation e JOIN governance_tenant t ON t.id = e.tenant_id"
        f" WHERE e.id IN {among(UUIDS)}",
        [pack_ids(ids)],
        lambda rows: {uuid(id): slug for id, slug in rows},
        is_needed=bool(ids),
    )


def is_held(id: UUID) -> bool:
    """Whether there is such a reservation, resolved or not. Not locked."""
    return bool(words.select("SELECT 1 FROM governance_reservation WHERE id = %s", [words.key(id)]))


def due_reservations(now: datetime, limit: int, *, after: Due | None = None) -> list[Due]:
    """Pending reservations whose time is over, the longest due first; those `after` another one, where it is given."""
    beyond = " AND expires_at >= %s AND (expires_at > %s OR id > %s)" if after else ""
    params = [stamp(after.expires_at), stamp(after.expires_at), words.key(after.id)] if after else []
    rows = words.select(
        f"SELECT expires_at, id FROM governance_reservation WHERE status = 'pending' AND expires_at <= %s{beyond}"
        " ORDER BY expires_at, id LIMIT %s",
        [stamp(now), *params, limit],
    )
    return [Due(moment(expires_at), uuid(id)) for expires_at, id in rows]


def entries(ids: Collection[UUID]) -> list[EntryRow]:
    """Entries by id: what a correction must know of them."""
    return _entries(f"e.id IN {among(UUIDS)}", ids) if ids else []


def entries_of_reservation(id: UUID) -> list[EntryRow]:
    """What a reservation was charged and corrected by, oldest first."""
    return _entries(f"e.reservation_id IN {among(UUIDS)}", [id])


def _entries(where: str, ids: Collection[UUID]) -> list[EntryRow]:
    rows = words.select(
        f"SELECT {_ENTRY}, {_TENANT}, {_KEY} FROM governance_spendentry e{_OF_WHOM} WHERE {where} ORDER BY e.id",
        [pack_ids(ids)],
    )
    return [
        EntryRow(
            **_attribution(row, tenant, key),
            kind=row.kind,
            cost_nanos=row.cost_nanos,
            occurred_at=moment(row.occurred_at),
            reservation_id=uuid(row.reservation_id) if row.reservation_id else None,
            reason=row.reason,
        )
        for row, tenant, key in split(rows, _ENTRY, _TENANT, _KEY)
    ]


def reported(keys: Collection[tuple[int, str]]) -> dict[tuple[int, str], Reported]:
    """The calls already reported under (tenant, request id)."""
    if not keys:
        return {}
    rows = words.select(
        f"SELECT {_REPORTED} FROM governance_spendentry e JOIN {_REQUESTS}"
        " ON e.tenant_id = v.tenant_id AND e.request_id = v.request_id"
        " WHERE e.kind = 'charge' AND e.reservation_id IS NULL",
        [_REQUESTS.pack(keys)],
    )
    return {
        (row.tenant_id, row.request_id): Reported(uuid(row.id), row.agent, row.cost_nanos)
        for row in map(_REPORTED.make, rows)
    }


def take_report_turns(tenant_ids: Collection[int]) -> None:
    """Wait until nobody else reports for these tenants, before anything else is locked: see `Batch`.

    Nobody else waits for what waits here, but each has a connection of a process's few.
    """
    words.take_turns("governance_tenant", alone=tenant_ids, beside=(), lock_wait=_REPORT_TURN)


def unbudgeted(tenant_id: int, *, since: datetime) -> int:
    """Nanodollars that a tenant's keys have said were spent since then beside every budget of its own."""
    # In two parts, for SQLite gives up at a sum that 64 bits do not hold.
    [(dollars, rest)] = words.select(
        f"SELECT COALESCE(SUM(cost_nanos / {money.NANOS_PER_DOLLAR}), 0),"
        f" COALESCE(SUM(MOD(cost_nanos, {money.NANOS_PER_DOLLAR})), 0)"
        " FROM governance_spendentry WHERE tenant_id = %s AND reason = %s AND recorded_at > %s",
        [tenant_id, UNBUDGETED, stamp(since)],
    )
    return int(dollars) * money.NANOS_PER_DOLLAR + int(rest)


def own_holds(tenant_id: int, *, expired_since: datetime, limit: int) -> list[tuple[UUID, int, tuple[int, ...]]]:
    """(id, nanodollars, windows) of what a tenant's keys hold for calls of their own, or let expire since then."""
    rows = words.select(
        f"SELECT id, amount_nanos, windows FROM governance_reservation WHERE tenant_id = %s AND {_IS_OWN}"
        " AND (status = 'pending' OR (status = 'expired' AND resolved_at > %s)) LIMIT %s",
        [tenant_id, stamp(expired_since), limit],
    )
    return [(uuid(id), amount_nanos, tuple(_json(windows))) for id, amount_nanos, windows in rows]


def scope_types(window_ids: Collection[int]) -> dict[int, str]:
    """The scope of each window's budget."""
    rows = words.select(
        "SELECT w.id, b.scope_type FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        f" WHERE w.id IN {among(IDS)}",
        [pack_ids(window_ids)],
    )
    return dict(rows)


def granted(budget_id: int, source_kind: str, source_id: str, starts_at: datetime) -> int | None:
    """The window a grant has opened already, open or closed."""
    rows = words.select(
        "SELECT id FROM governance_budgetwindow"
        " WHERE budget_id = %s AND source_kind = %s AND source_id = %s AND starts_at = %s",
        [budget_id, source_kind, source_id, stamp(starts_at)],
    )
    return next((id for (id,) in rows), None)


def ended_windows(now: datetime, limit: int) -> list[int]:
    """Open windows that time has closed."""
    rows = words.select(
        "SELECT w.id FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        f" WHERE w.closed_at IS NULL AND w.ends_at <= %s AND {ENDS_BY_TIME} ORDER BY w.id LIMIT %s",
        [stamp(now), limit],
    )
    return [id for (id,) in rows]


def budgets_without_window() -> list[int]:
    """Enabled budgets of one subject that have no open window yet; what ends by an act is opened by one."""
    rows = words.select(
        f"SELECT b.id FROM governance_budget b WHERE b.enabled AND b.scope_key <> %s AND {ENDS_BY_TIME}"
        " AND NOT EXISTS (SELECT 1 FROM governance_budgetwindow w WHERE w.budget_id = b.id AND w.closed_at IS NULL)",
        [EACH],
    )
    return [id for (id,) in rows]


def _attribution(row: Any, tenant: Any, key: Any) -> dict[str, Any]:
    return {
        "id": uuid(row.id),
        "caller": Caller(
            tenant_id=row.tenant_id,
            tenant=tenant.slug,
            agent=row.agent,
            key_id=row.key_id,
            key_prefix=key.rotated_from or key.prefix or "",
            user=row.user,
            session=row.session,
            task=row.task,
        ),
        "provider": row.provider,
        "model_requested": row.model_requested,
        "model_served": row.model_served,
        "windows": _json(row.windows),
    }


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def budget_rule(row: Any, kept: Any) -> BudgetRule:
    """A budget, of the columns `BUDGET` and `POLICY`."""
    return BudgetRule(
        id=row.id,
        tenant_id=row.tenant_id,
        scope_type=row.scope_type,
        scope_key=row.scope_key,
        window=WindowKind(row.window),
        limit_nanos=row.limit_nanos,
        policy=_policy(kept),
        revision=row.revision,
        is_closed=row.closed_at is not None,
        carry_over=row.carry_over,
    )


@lru_cache(maxsize=4096)
def _policy(kept: Any) -> Policy:
    columns = kept._asdict().items()
    return policy.of({name: json.loads(value) if isinstance(value, str) else value for name, value in columns})


def rate_rule(row: Any) -> RateRule:
    return RateRule(row.id, row.tenant_id, row.scope_type, row.scope_key, ceilings_of(row))


def ceilings_of(row: Any) -> Ceilings:
    return Ceilings(row.nanos_per_minute, row.requests_per_minute, row.tokens_per_minute)


def _window(row: Any, budget: Any, kept: Any) -> WindowRow:
    return WindowRow(
        id=row.id,
        budget=budget_rule(budget, kept),
        subject=row.subject,
        tenant_id=row.tenant_id,
        starts_at=moment(row.starts_at),
        ends_at=moment(row.ends_at) if row.ends_at else None,
        limit_nanos=row.limit_nanos,
        settled_nanos=row.settled_nanos,
        reserved_nanos=row.reserved_nanos,
        state=row.state,
        crossed=_json(row.thresholds_crossed),
        closed_at=moment(row.closed_at) if row.closed_at else None,
        source_kind=row.source_kind,
        source_id=row.source_id,
        limit_lowered=bool(row.limit_lowered),
        extra_nanos=row.extra_nanos,
        extra_until=moment(row.extra_until) if row.extra_until else None,
        carried_nanos=row.carried_nanos,
        revision=row.revision,
    )
