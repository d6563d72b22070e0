"""The set-based statements behind `governance.ledger`, in words that PostgreSQL and SQLite both know.

Nothing else writes the money tables. Written by hand because the ORM's bulk calls cost twice as much, and a batch
is a handful of these. Every function works in the caller's open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db import connection

from governance.operations import Caller
from governance.policies import Policy, Rule
from governance.scopes import EACH, Governed, Rulebook, keys_of
from governance.windows import WindowKind


@dataclass(slots=True)
class WindowRow:
    """A locked window, changed in memory and written back once by `update_windows`."""

    id: int
    budget: Rulebook
    subject: str
    tenant_id: int | None
    starts_at: datetime
    ends_at: datetime | None
    limit_nanos: int
    settled_nanos: int
    reserved_nanos: int
    state: str
    crossed: list[str]
    closed_at: datetime | None
    source_kind: str
    source_id: str
    limit_lowered: bool = False
    dirty: bool = False


@dataclass(slots=True)
class ReservationRow:
    """A locked reservation."""

    id: UUID
    caller: Caller
    provider: str
    model_requested: str
    model_served: str
    windows: list[int]
    amount_nanos: int
    status: str
    reserved_at: datetime
    expires_at: datetime
    resolved_at: datetime | None = None
    dirty: bool = False


@dataclass(slots=True)
class EntryRow:
    """A ledger line to insert, or one read back to be corrected."""

    id: UUID
    kind: str
    caller: Caller
    provider: str
    model_requested: str
    model_served: str
    windows: list[int]
    cost_nanos: int
    occurred_at: datetime
    reservation_id: UUID | None = None
    corrects_id: UUID | None = None
    request_id: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    unit: str = "token"
    units: int = 0
    price_rule: str = ""
    overage_nanos: int = 0
    certainty: str = "confirmed"
    reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Standing:
    """What a batch must know of its callers before it decides."""

    statuses: dict[int, str]
    time_zones: dict[int, str]
    paused_agents: set[tuple[int, str]]
    unusable_keys: set[int]


# Reading ------------------------------------------------------------------------------------------------------

_BUDGET = (
    "b.id, b.tenant_id, b.scope_type, b.scope_key, b.window, b.limit_nanos, b.hard_cap, b.soft_cap, b.warn_at,"
    " b.alert_thresholds, b.downgrade_rules, b.disabled_tools, b.clamp, b.clamp_min_tokens"
)
_WINDOW = (
    "w.id, w.subject, w.tenant_id, w.starts_at, w.ends_at, w.limit_nanos, w.settled_nanos, w.reserved_nanos,"
    " w.state, w.thresholds_crossed, w.closed_at, w.source_kind, w.source_id, w.limit_lowered"
)


def standing(callers: Collection[Caller], now: datetime) -> Standing:
    """Status of the callers' tenants, agents and keys, read afresh so that a pause takes hold on the next call."""
    tenants = {caller.tenant_id for caller in callers}
    keys = {caller.key_id for caller in callers if caller.key_id is not None} or {0}
    rows = _rows(
        f"SELECT 't', id, status, time_zone FROM governance_tenant WHERE id IN {_marks(tenants)}"
        f" UNION ALL SELECT 'a', tenant_id, slug, '' FROM governance_agent"
        f" WHERE status = 'paused' AND tenant_id IN {_marks(tenants)}"
        f" UNION ALL SELECT 'k', id, '', '' FROM governance_apikey"
        f" WHERE id IN {_marks(keys)} AND (revoked_at <= %s OR expires_at <= %s)",
        [*tenants, *tenants, *keys, _time(now), _time(now)],
    )
    return Standing(
        statuses={id: status for kind, id, status, _ in rows if kind == "t"},
        time_zones={id: zone for kind, id, _, zone in rows if kind == "t"},
        paused_agents={(id, slug) for kind, id, slug, _ in rows if kind == "a"},
        unusable_keys={id for kind, id, _, _ in rows if kind == "k"},
    )


def budgets(callers: Collection[Caller]) -> list[Rulebook]:
    """Every enabled budget that could govern one of the callers."""
    tenants = {caller.tenant_id for caller in callers}
    keys = {EACH, ""}.union(*(keys_of(caller).values() for caller in callers))
    rows = _rows(
        f"SELECT {_BUDGET} FROM governance_budget b"
        f" WHERE b.enabled AND (b.tenant_id IS NULL OR b.tenant_id IN {_marks(tenants)})"
        f" AND (b.scope_type = 'tenant' OR b.scope_key IN {_marks(keys)}) ORDER BY b.id",
        [*tenants, *keys],
    )
    return [_rulebook(row) for row in rows]


def budgets_by_id(ids: Collection[int]) -> dict[int, tuple[Rulebook, str, str]]:
    """Budgets with their tenant's slug and time zone."""
    rows = _rows(
        f"SELECT {_BUDGET}, t.slug, t.time_zone FROM governance_budget b"
        f" LEFT JOIN governance_tenant t ON t.id = b.tenant_id WHERE b.id IN {_marks(ids)}",
        [*ids],
    )
    return {row[0]: (_rulebook(row[:14]), row[14] or "", row[15] or "UTC") for row in rows}


def windows(
    *,
    keys: Collection[tuple[int, str]] = (),
    ids: Collection[int] = (),
    budget_ids: Collection[int] = (),
    lock: bool = True,
) -> list[WindowRow]:
    """Windows by id, and open windows by (budget, subject) or budget; locked in primary-key order.

    This is the ledger's one lock on windows: whoever needs several takes them here, in one statement.
    """
    wanted, params = [], []
    if keys:
        wanted.append(
            "SELECT k.id FROM governance_budgetwindow k JOIN (VALUES "
            + ", ".join(["(%s, %s)"] * len(keys))
            + ") AS v ON k.budget_id = v.column1 AND k.subject = v.column2 WHERE k.closed_at IS NULL"
        )
        params += [value for key in keys for value in key]
    if ids:
        wanted.append(f"SELECT id FROM governance_budgetwindow WHERE id IN {_marks(ids)}")
        params += [*ids]
    if budget_ids:
        wanted.append(
            f"SELECT id FROM governance_budgetwindow WHERE closed_at IS NULL AND budget_id IN {_marks(budget_ids)}"
        )
        params += [*budget_ids]
    if not wanted:
        return []
    rows = _rows(
        f"SELECT {_WINDOW}, {_BUDGET} FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        f" WHERE w.id IN ({' UNION '.join(wanted)}) ORDER BY w.id{_for_update('w') if lock else ''}",
        params,
    )
    return [_window(row) for row in rows]


def reservations(ids: Collection[UUID]) -> dict[UUID, ReservationRow]:
    """Reservations, locked in primary-key order. Taken before windows, always."""
    if not ids:
        return {}
    rows = _rows(
        'SELECT r.id, r.tenant_id, t.slug, r.agent, r.key_id, r."user", r.session, r.task, r.provider,'
        " r.model_requested, r.model_served, r.windows, r.amount_nanos, r.status, r.reserved_at, r.expires_at"
        " FROM governance_reservation r JOIN governance_tenant t ON t.id = r.tenant_id"
        f" WHERE r.id IN {_marks(ids)} ORDER BY r.id{_for_update('r')}",
        [_uuid(id) for id in ids],
    )
    found = (
        ReservationRow(
            id=_as_uuid(row[0]),
            caller=Caller(
                tenant_id=row[1],
                tenant=row[2],
                agent=row[3],
                key_id=row[4],
                user=row[5],
                session=row[6],
                task=row[7],
            ),
            provider=row[8],
            model_requested=row[9],
            model_served=row[10],
            windows=json.loads(row[11]),
            amount_nanos=row[12],
            status=row[13],
            reserved_at=_as_time(row[14]),
            expires_at=_as_time(row[15]),
        )
        for row in rows
    )
    return {row.id: row for row in found}


def due_reservations(now: datetime, limit: int) -> list[UUID]:
    rows = _rows(
        "SELECT id FROM governance_reservation WHERE status = 'pending' AND expires_at <= %s"
        " ORDER BY expires_at LIMIT %s",
        [_time(now), limit],
    )
    return [_as_uuid(row[0]) for row in rows]


_ENTRY = (
    'e.id, e.kind, e.tenant_id, t.slug, e.agent, e.key_id, e."user", e.session, e.task, e.provider,'
    " e.model_requested, e.model_served, e.windows, e.cost_nanos, e.occurred_at, e.reservation_id, e.reason"
)


def entries(ids: Collection[UUID] = (), *, of_reservation: UUID | None = None) -> list[EntryRow]:
    """Entries by id, or all of one reservation, oldest first; what a correction must know of them."""
    if not ids and of_reservation is None:
        return []
    where, values = (
        ("e.reservation_id = %s", [of_reservation]) if of_reservation else (f"e.id IN {_marks(ids)}", ids)
    )
    rows = _rows(
        f"SELECT {_ENTRY} FROM governance_spendentry e JOIN governance_tenant t ON t.id = e.tenant_id"
        f" WHERE {where} ORDER BY e.id",
        [_uuid(id) for id in values],
    )
    return [
        EntryRow(
            id=_as_uuid(row[0]),
            kind=row[1],
            caller=Caller(
                tenant_id=row[2],
                tenant=row[3],
                agent=row[4],
                key_id=row[5],
                user=row[6],
                session=row[7],
                task=row[8],
            ),
            provider=row[9],
            model_requested=row[10],
            model_served=row[11],
            windows=json.loads(row[12]),
            cost_nanos=row[13],
            occurred_at=_as_time(row[14]),
            reservation_id=_as_uuid(row[15]) if row[15] else None,
            reason=row[16],
        )
        for row in rows
    ]


def reported(keys: Collection[tuple[int, str]]) -> dict[tuple[int, str], tuple[UUID, int]]:
    """(entry id, cost) of calls already reported under (tenant, request id)."""
    if not keys:
        return {}
    rows = _rows(
        "SELECT e.tenant_id, e.request_id, e.id, e.cost_nanos FROM governance_spendentry e JOIN (VALUES "
        + ", ".join(["(%s, %s)"] * len(keys))
        + ") AS v ON e.tenant_id = v.column1 AND e.request_id = v.column2"
        " WHERE e.kind = 'charge' AND e.reservation_id IS NULL",
        [value for key in keys for value in key],
    )
    return {(row[0], row[1]): (_as_uuid(row[2]), row[3]) for row in rows}


def granted(budget_id: int, source_kind: str, source_id: str, starts_at: datetime) -> int | None:
    """The window a grant has opened already, open or closed."""
    rows = _rows(
        "SELECT id FROM governance_budgetwindow"
        " WHERE budget_id = %s AND source_kind = %s AND source_id = %s AND starts_at = %s",
        [budget_id, source_kind, source_id, _time(starts_at)],
    )
    return rows[0][0] if rows else None


def ended_windows(now: datetime, limit: int) -> list[int]:
    """Open calendar windows whose time is over. A billing cycle ends only when the next one opens."""
    rows = _rows(
        "SELECT w.id FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        " WHERE w.closed_at IS NULL AND w.ends_at <= %s AND b.window <> 'billing_cycle' ORDER BY w.id LIMIT %s",
        [_time(now), limit],
    )
    return [row[0] for row in rows]


def budgets_without_window() -> list[int]:
    """Enabled budgets of one subject that have no open window yet."""
    rows = _rows(
        "SELECT b.id FROM governance_budget b WHERE b.enabled AND b.scope_key <> %s AND b.window <> 'billing_cycle'"
        " AND NOT EXISTS (SELECT 1 FROM governance_budgetwindow w WHERE w.budget_id = b.id AND w.closed_at IS NULL)",
        [EACH],
    )
    return [row[0] for row in rows]


# Writing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewWindow:
    governed: Governed
    starts_at: datetime
    ends_at: datetime | None
    limit_nanos: int | None = None
    source_kind: str = ""
    source_id: str = ""


def open_windows(new: Sequence[NewWindow], now: datetime) -> None:
    """Open windows; one that somebody else opened in the meantime stays as it is.

    The limit is the budget's own as of this statement (its row is share-locked on PostgreSQL), so a limit changed
    at the same moment is never missed.
    """
    ordered = sorted(new, key=lambda item: (item.governed.budget.id, item.governed.subject))
    rows = [
        (
            item.governed.budget.id, item.governed.subject, item.governed.tenant_id, _time(item.starts_at),
            _time(item.ends_at), item.limit_nanos, item.source_kind, item.source_id,
        )
        for item in ordered
    ]  # fmt: skip
    cast_time, cast_int = _cast("timestamptz"), _cast("bigint")
    _run(
        "INSERT INTO governance_budgetwindow (budget_id, subject, tenant_id, starts_at, ends_at, limit_nanos,"
        " source_kind, source_id, opened_at, settled_nanos, reserved_nanos, state, thresholds_crossed, limit_lowered)"
        f" SELECT b.id, v.column2, v.column3{cast_int}, v.column4{cast_time}, v.column5{cast_time},"
        f" COALESCE(v.column6{cast_int}, b.limit_nanos), v.column7, v.column8, %s{cast_time}, 0, 0, 'active',"
        f" '[]'{_cast('jsonb')}, false"
        f" FROM governance_budget b JOIN (VALUES {_tuples(rows)}) AS v ON b.id = v.column1"
        f" WHERE true ORDER BY b.id, v.column2{_for_share('b')} ON CONFLICT DO NOTHING",
        [_time(now), *_flat(rows)],
    )


def close_windows(ids: Collection[int], now: datetime) -> None:
    if ids:
        _run(
            f"UPDATE governance_budgetwindow SET closed_at = %s WHERE closed_at IS NULL AND id IN {_marks(ids)}",
            [_time(now), *ids],
        )


def update_windows(rows: Iterable[WindowRow]) -> None:
    values = [
        (
            row.id,
            row.settled_nanos,
            row.reserved_nanos,
            row.limit_nanos,
            row.state,
            json.dumps(row.crossed),
            row.limit_lowered,
        )
        for row in rows
    ]
    if values:
        _run(
            "UPDATE governance_budgetwindow SET settled_nanos = v.column2, reserved_nanos = v.column3,"
            f" limit_nanos = v.column4, state = v.column5, thresholds_crossed = v.column6{_cast('jsonb')},"
            " limit_lowered = v.column7"
            f" FROM (VALUES {_tuples(values)}) AS v WHERE governance_budgetwindow.id = v.column1",
            _flat(values),
        )


def insert_reservations(rows: Sequence[ReservationRow]) -> None:
    _insert(
        "governance_reservation (id, tenant_id, agent, key_id, \"user\", session, task, provider, model_requested,"
        " model_served, windows, amount_nanos, status, reserved_at, expires_at, resolved_at)",
        [
            (
                _uuid(row.id), row.caller.tenant_id, row.caller.agent, row.caller.key_id, row.caller.user,
                row.caller.session, row.caller.task, row.provider, row.model_requested, row.model_served,
                json.dumps(row.windows), row.amount_nanos, row.status, _time(row.reserved_at),
                _time(row.expires_at), _time(row.resolved_at),
            )
            for row in rows
        ],
    )  # fmt: skip


def update_reservations(rows: Iterable[ReservationRow]) -> None:
    values = [
        (_uuid(row.id), row.status, row.amount_nanos, _time(row.expires_at), _time(row.resolved_at))
        for row in rows
    ]
    if values:
        cast = _cast("timestamptz")
        _run(
            "UPDATE governance_reservation SET status = v.column2, amount_nanos = v.column3,"
            f" expires_at = v.column4{cast}, resolved_at = v.column5{cast}"
            f" FROM (VALUES {_tuples(values)}) AS v WHERE governance_reservation.id = v.column1",
            _flat(values),
        )


def insert_entries(rows: Sequence[EntryRow], now: datetime) -> None:
    recorded = _time(now)
    _insert(
        "governance_spendentry (id, kind, tenant_id, agent, key_id, \"user\", session, task, provider,"
        " model_requested, model_served, windows, reservation_id, corrects_id, request_id, input_tokens,"
        " cached_tokens, output_tokens, unit, units, price_rule, cost_nanos, overage_nanos, certainty, reason,"
        " occurred_at, recorded_at, metadata)",
        [
            (
                _uuid(row.id), row.kind, row.caller.tenant_id, row.caller.agent, row.caller.key_id, row.caller.user,
                row.caller.session, row.caller.task, row.provider, row.model_requested, row.model_served,
                json.dumps(row.windows), _uuid(row.reservation_id), _uuid(row.corrects_id), row.request_id,
                row.input_tokens, row.cached_tokens, row.output_tokens, row.unit, row.units, row.price_rule,
                row.cost_nanos, row.overage_nanos, row.certainty, row.reason, _time(row.occurred_at), recorded,
                json.dumps(dict(row.metadata)),
            )
            for row in rows
        ],
    )  # fmt: skip


def add_to_rollups(rows: Iterable[EntryRow]) -> None:
    """Add entries to their hours' sums. Sorted, so that two batches never wait for each other in a circle."""
    sums: dict[tuple[int, datetime, str, str, str], list[int]] = {}
    for row in rows:
        hour = row.occurred_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        key = (row.caller.tenant_id, hour, row.caller.agent, row.provider, row.model_served)
        added = (row.kind == "charge", row.input_tokens, row.cached_tokens, row.output_tokens, row.cost_nanos)
        sums[key] = [a + b for a, b in zip(sums.get(key, (0, 0, 0, 0, 0)), added, strict=True)]
    values = [
        (tenant, _time(hour), agent, provider, model, *added)
        for (tenant, hour, agent, provider, model), added in sorted(sums.items())
    ]
    table = "governance_spendrollup"
    figures = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos")
    _insert(
        f"{table} (tenant_id, hour, agent, provider, model, {', '.join(figures)})",
        values,
        tail=" ON CONFLICT (tenant_id, hour, agent, provider, model) DO UPDATE SET "
        + ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in figures),
    )


@dataclass(frozen=True, slots=True)
class EventRow:
    window: WindowRow
    kind: str
    threshold: str = ""
    old_state: str = ""
    new_state: str = ""
    reason: str = ""
    actor: str = ""


def insert_events(rows: Sequence[EventRow], now: datetime) -> None:
    _insert(
        "governance_budgetevent (window_id, budget_id, tenant_id, kind, threshold, old_state, new_state, reason,"
        " actor, settled_nanos, limit_nanos, occurred_at)",
        [
            (
                row.window.id, row.window.budget.id, row.window.tenant_id, row.kind, row.threshold, row.old_state,
                row.new_state, row.reason[:300], row.actor[:150], row.window.settled_nanos, row.window.limit_nanos,
                _time(now),
            )
            for row in rows
        ],
    )  # fmt: skip


# Words of the two databases -------------------------------------------------------------------------------------


def _is_postgres() -> bool:
    return connection.vendor == "postgresql"


def _for_update(alias: str) -> str:
    # SQLite has no row locks: its write transaction holds the whole database from BEGIN IMMEDIATE on.
    return f" FOR UPDATE OF {alias}" if _is_postgres() else ""


def _for_share(alias: str) -> str:
    return f" FOR SHARE OF {alias}" if _is_postgres() else ""


def _cast(kind: str) -> str:
    return f"::{kind}" if _is_postgres() else ""


def _uuid(value: UUID | None) -> UUID | str | None:
    return value if value is None or _is_postgres() else value.hex


def _as_uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _time(value: datetime | None) -> Any:
    return None if value is None else connection.ops.adapt_datetimefield_value(value)


def _as_time(value: datetime | str) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


def _marks(values: Collection[Any]) -> str:
    return "(" + ", ".join(["%s"] * len(values)) + ")"


def _tuples(rows: Sequence[Sequence[Any]]) -> str:
    return ", ".join([_marks(rows[0])] * len(rows))


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for row in rows for value in row]


def _rows(sql: str, params: Sequence[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def _run(sql: str, params: Sequence[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def _insert(into: str, rows: Sequence[Sequence[Any]], tail: str = "") -> None:
    if rows:
        _run(f"INSERT INTO {into} VALUES {_tuples(rows)}{tail}", _flat(rows))


def _rulebook(row: Sequence[Any]) -> Rulebook:
    return Rulebook(
        id=row[0],
        tenant_id=row[1],
        scope_type=row[2],
        scope_key=row[3],
        window=WindowKind(row[4]),
        limit_nanos=row[5],
        policy=_policy(*row[6:14]),
    )


@lru_cache(maxsize=4096)
def _policy(
    hard: Any, soft: Any, warn: Any, thresholds: str, rules: str, tools: str, clamp: bool, clamp_min: int
) -> Policy:
    return Policy(
        hard_e4=_e4(hard),
        soft_e4=None if soft is None else _e4(soft),
        warn_e4=None if warn is None else _e4(warn),
        thresholds_e4=tuple(sorted(_e4(float(text)) for text in json.loads(thresholds))),
        rules=tuple(Rule(frozenset(rule["from"]), rule["to"]) for rule in json.loads(rules)),
        disabled_tools=frozenset(json.loads(tools)),
        clamp=bool(clamp),
        clamp_min_tokens=clamp_min,
    )


def _e4(ratio: Any) -> int:
    # SQLite hands decimals of four places back as floats; the ten-thousandth nearest is the one that was stored.
    return round(ratio * 10_000)


def _window(row: Sequence[Any]) -> WindowRow:
    return WindowRow(
        id=row[0],
        budget=_rulebook(row[14:28]),
        subject=row[1],
        tenant_id=row[2],
        starts_at=_as_time(row[3]),
        ends_at=_as_time(row[4]) if row[4] else None,
        limit_nanos=row[5],
        settled_nanos=row[6],
        reserved_nanos=row[7],
        state=row[8],
        crossed=json.loads(row[9]),
        closed_at=_as_time(row[10]) if row[10] else None,
        source_kind=row[11],
        source_id=row[12],
        limit_lowered=bool(row[13]),
    )
