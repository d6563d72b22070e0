"""The set-based statements behind `governance.ledger`: nothing else writes the money tables.

Written by hand because the ORM's bulk calls cost twice as much, and a batch is a handful of these. Every function
works in the caller's open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from governance.ledger import sql_dialect as words
from governance.ledger.rows import CallerStatus, EntryRow, EventRow, NewWindow, ReservationRow, WindowRow
from governance.ledger.sql_dialect import (
    IDS,
    UUIDS,
    Query,
    Shape,
    among,
    for_share,
    for_update,
    moment,
    pack_ids,
    stamp,
    uuid,
)
from governance.rules.buckets import Ceilings
from governance.rules.calls import Caller
from governance.rules.decision import Policy, Rule
from governance.rules.scopes import EACH, BudgetRule, RateRule, keys_of
from governance.rules.windows import ENDING_BY_ACT, WindowKind

# Reading ------------------------------------------------------------------------------------------------------

_BUDGET = (
    "b.id, b.tenant_id, b.scope_type, b.scope_key, b.window, b.limit_nanos, b.hard_cap, b.soft_cap, b.warn_at,"
    " b.alert_thresholds, b.downgrade_rules, b.disabled_tools, b.clamp, b.clamp_min_tokens"
)
_WINDOW = (
    "w.id, w.subject, w.tenant_id, w.starts_at, w.ends_at, w.limit_nanos, w.settled_nanos, w.reserved_nanos,"
    " w.state, w.thresholds_crossed, w.closed_at, w.source_kind, w.source_id, w.limit_lowered,"
    " w.extra_nanos, w.extra_until"
)

# Who a row is for; `_attribution` reads it.
_ATTRIBUTION = (
    'e.id, e.tenant_id, t.slug, e.agent, e.key_id, e."user", e.session, e.task, e.provider, e.model_requested,'
    " e.model_served, e.windows"
)
_ENDS_BY_TIME = f"b.window NOT IN ({', '.join(repr(kind) for kind in ENDING_BY_ACT)})"
_NAMES = Shape(name="text")
_SUBJECTS = Shape(budget_id="bigint", subject="text")
_REQUESTS = Shape(tenant_id="bigint", request_id="text")


def caller_status(callers: Collection[Caller], now: datetime) -> Query[CallerStatus]:
    """Status of the callers' tenants, agents and keys, read afresh so that a pause takes hold on the next call."""
    tenants = pack_ids({caller.tenant_id for caller in callers})
    keys = pack_ids({caller.key_id for caller in callers if caller.key_id is not None})
    return Query(
        f"SELECT 't', id, status, time_zone FROM governance_tenant WHERE id IN {among(IDS)}"
        f" UNION ALL SELECT 'a', tenant_id, slug, '' FROM governance_agent"
        f" WHERE status = 'paused' AND tenant_id IN {among(IDS)}"
        f" UNION ALL SELECT 'k', id, '', '' FROM governance_apikey"
        f" WHERE id IN {among(IDS)} AND (revoked_at <= %s OR expires_at <= %s)"
        f" UNION ALL SELECT 's', COALESCE(e.tenant_id, 0), COALESCE(a.slug, ''), '' FROM governance_emergencystop e"
        f" LEFT JOIN governance_agent a ON a.id = e.agent_id"
        f" WHERE e.lifted_at IS NULL AND (e.tenant_id IS NULL OR e.tenant_id IN {among(IDS)})",
        [tenants, tenants, keys, stamp(now), stamp(now), tenants],
        _caller_status,
    )


def _caller_status(rows: list[Any]) -> CallerStatus:
    return CallerStatus(
        statuses={id: status for kind, id, status, _ in rows if kind == "t"},
        time_zones={id: zone for kind, id, _, zone in rows if kind == "t"},
        paused_agents=frozenset((id, slug) for kind, id, slug, _ in rows if kind == "a"),
        unusable_keys=frozenset(id for kind, id, _, _ in rows if kind == "k"),
        stops=frozenset((id, slug) for kind, id, slug, _ in rows if kind == "s"),
    )


def budgets(callers: Collection[Caller]) -> Query[list[BudgetRule]]:
    """Every enabled budget that could govern one of the callers."""
    where, params = _of_callers(callers)
    return Query(
        f"SELECT {_BUDGET} FROM governance_budget b WHERE b.enabled AND {where} ORDER BY b.id",
        params,
        lambda rows: [_rulebook(row) for row in rows],
    )


def rate_rules(callers: Collection[Caller]) -> Query[list[RateRule]]:
    """Every enabled rate limit that could govern one of the callers."""
    where, params = _of_callers(callers)
    return Query(
        "SELECT b.id, b.tenant_id, b.scope_type, b.scope_key, b.nanos_per_minute, b.requests_per_minute,"
        f" b.tokens_per_minute FROM governance_ratelimit b WHERE b.enabled AND {where} ORDER BY b.id",
        params,
        lambda rows: [RateRule(row[0], row[1], row[2], row[3], Ceilings(row[4], row[5], row[6])) for row in rows],
    )


def _of_callers(callers: Collection[Caller]) -> tuple[str, list[Any]]:
    """A condition on `b`, a table of scoped rules, that leaves out most that cannot match; and its parameters."""
    tenants = {caller.tenant_id for caller in callers}
    keys = {EACH, ""}.union(*(keys_of(caller).values() for caller in callers))
    return (
        f"(b.tenant_id IS NULL OR b.tenant_id IN {among(IDS)})"
        f" AND (b.scope_type = 'tenant' OR b.scope_key IN (SELECT v.name FROM {_NAMES}))"
    ), [pack_ids(tenants), _NAMES.pack([(key,) for key in keys])]


def budgets_by_id(ids: Collection[int]) -> dict[int, tuple[BudgetRule, str, str]]:
    """Budgets with their tenant's slug and time zone."""
    rows = words.select(
        f"SELECT {_BUDGET}, t.slug, t.time_zone FROM governance_budget b"
        f" LEFT JOIN governance_tenant t ON t.id = b.tenant_id WHERE b.id IN {among(IDS)}",
        [pack_ids(ids)],
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
    if not (keys or ids or budget_ids):
        return []
    table = "governance_budgetwindow"
    rows = words.select(
        f"SELECT {_WINDOW}, {_BUDGET} FROM {table} w JOIN governance_budget b ON b.id = w.budget_id WHERE w.id IN ("
        f"SELECT k.id FROM {table} k JOIN {_SUBJECTS} ON k.budget_id = v.budget_id AND k.subject = v.subject"
        f" WHERE k.closed_at IS NULL"
        f" UNION SELECT v.id FROM {IDS}"
        f" UNION SELECT k.id FROM {table} k WHERE k.closed_at IS NULL AND k.budget_id IN {among(IDS)}"
        f") ORDER BY w.id{for_update('w') if lock else ''}",
        [_SUBJECTS.pack(keys), pack_ids(ids), pack_ids(budget_ids)],
    )
    return [_window(row) for row in rows]


def reservations(ids: Collection[UUID]) -> dict[UUID, ReservationRow]:
    """Reservations, locked in primary-key order. Taken before windows, always."""
    if not ids:
        return {}
    rows = words.select(
        f"SELECT {_ATTRIBUTION}, e.amount_nanos, e.status, e.reserved_at, e.expires_at, e.meters, e.tokens"
        " FROM governance_reservation e JOIN governance_tenant t ON t.id = e.tenant_id"
        f" WHERE e.id IN {among(UUIDS)} ORDER BY e.id{for_update('e')}",
        [pack_ids(ids)],
    )
    return {
        uuid(row[0]): ReservationRow(
            **_attribution(row),
            amount_nanos=row[12],
            status=row[13],
            reserved_at=moment(row[14]),
            expires_at=moment(row[15]),
            buckets=_json(row[16]),
            tokens=row[17],
        )
        for row in rows
    }


def due_reservations(now: datetime, limit: int) -> list[UUID]:
    rows = words.select(
        "SELECT id FROM governance_reservation WHERE status = 'pending' AND expires_at <= %s"
        " ORDER BY expires_at LIMIT %s",
        [stamp(now), limit],
    )
    return [uuid(row[0]) for row in rows]


def entries(ids: Collection[UUID]) -> list[EntryRow]:
    """Entries by id: what a correction must know of them."""
    return _entries(f"e.id IN {among(UUIDS)}", ids) if ids else []


def entries_of_reservation(id: UUID) -> list[EntryRow]:
    """What a reservation was charged and corrected by, oldest first."""
    return _entries(f"e.reservation_id IN {among(UUIDS)}", [id])


def _entries(where: str, ids: Collection[UUID]) -> list[EntryRow]:
    rows = words.select(
        f"SELECT {_ATTRIBUTION}, e.kind, e.cost_nanos, e.occurred_at, e.reservation_id, e.reason"
        " FROM governance_spendentry e JOIN governance_tenant t ON t.id = e.tenant_id"
        f" WHERE {where} ORDER BY e.id",
        [pack_ids(ids)],
    )
    return [
        EntryRow(
            **_attribution(row),
            kind=row[12],
            cost_nanos=row[13],
            occurred_at=moment(row[14]),
            reservation_id=uuid(row[15]) if row[15] else None,
            reason=row[16],
        )
        for row in rows
    ]


def reported(keys: Collection[tuple[int, str]]) -> dict[tuple[int, str], tuple[UUID, int]]:
    """(entry id, cost) of calls already reported under (tenant, request id)."""
    if not keys:
        return {}
    rows = words.select(
        f"SELECT e.tenant_id, e.request_id, e.id, e.cost_nanos FROM governance_spendentry e JOIN {_REQUESTS}"
        " ON e.tenant_id = v.tenant_id AND e.request_id = v.request_id"
        " WHERE e.kind = 'charge' AND e.reservation_id IS NULL",
        [_REQUESTS.pack(keys)],
    )
    return {(row[0], row[1]): (uuid(row[2]), row[3]) for row in rows}


def granted(budget_id: int, source_kind: str, source_id: str, starts_at: datetime) -> int | None:
    """The window a grant has opened already, open or closed."""
    rows = words.select(
        "SELECT id FROM governance_budgetwindow"
        " WHERE budget_id = %s AND source_kind = %s AND source_id = %s AND starts_at = %s",
        [budget_id, source_kind, source_id, stamp(starts_at)],
    )
    return rows[0][0] if rows else None


def ended_windows(now: datetime, limit: int) -> list[int]:
    """Open windows that time has closed."""
    rows = words.select(
        "SELECT w.id FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        f" WHERE w.closed_at IS NULL AND w.ends_at <= %s AND {_ENDS_BY_TIME} ORDER BY w.id LIMIT %s",
        [stamp(now), limit],
    )
    return [row[0] for row in rows]


def budgets_without_window() -> list[int]:
    """Enabled budgets of one subject that have no open window yet; what ends by an act is opened by one."""
    rows = words.select(
        f"SELECT b.id FROM governance_budget b WHERE b.enabled AND b.scope_key <> %s AND {_ENDS_BY_TIME}"
        " AND NOT EXISTS (SELECT 1 FROM governance_budgetwindow w WHERE w.budget_id = b.id AND w.closed_at IS NULL)",
        [EACH],
    )
    return [row[0] for row in rows]


# Writing ------------------------------------------------------------------------------------------------------

_NEW_WINDOWS = Shape(
    budget_id="bigint", subject="text", tenant_id="bigint", starts_at="timestamptz", ends_at="timestamptz",
    limit_nanos="bigint", source_kind="text", source_id="text", opened_at="timestamptz",
)  # fmt: skip
_WINDOW_CHANGES = Shape(
    id="bigint", settled_nanos="bigint", reserved_nanos="bigint", limit_nanos="bigint", state="text",
    thresholds_crossed="jsonb", limit_lowered="boolean", extra_nanos="bigint", extra_until="timestamptz",
)  # fmt: skip
_WHO = {
    "id": "uuid", "tenant_id": "bigint", "agent": "text", "key_id": "bigint", "user": "text", "session": "text",
    "task": "text", "provider": "text", "model_requested": "text", "model_served": "text", "windows": "jsonb",
}  # fmt: skip
_NEW_RESERVATIONS = Shape(
    **_WHO, amount_nanos="bigint", status="text", reserved_at="timestamptz", expires_at="timestamptz",
    resolved_at="timestamptz", meters="jsonb", tokens="bigint",
)  # fmt: skip
_RESERVATION_CHANGES = Shape(
    id="uuid", status="text", amount_nanos="bigint", expires_at="timestamptz", resolved_at="timestamptz"
)
_NEW_ENTRIES = Shape(
    **_WHO, kind="text", reservation_id="uuid", corrects_id="uuid", request_id="text", input_tokens="bigint",
    cached_tokens="bigint", output_tokens="bigint", unit="text", units="bigint", price_rule="text",
    cost_nanos="bigint", overage_nanos="bigint", certainty="text", reason="text", occurred_at="timestamptz",
    recorded_at="timestamptz", metadata="jsonb",
)  # fmt: skip
_FIGURES = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos")
_ROLLUPS = Shape(
    tenant_id="bigint", hour="timestamptz", agent="text", provider="text", model="text",
    **dict.fromkeys(_FIGURES, "bigint"),
)  # fmt: skip
_NEW_EVENTS = Shape(
    window_id="bigint", budget_id="bigint", tenant_id="bigint", kind="text", threshold="text", old_state="text",
    new_state="text", reason="text", actor="text", settled_nanos="bigint", limit_nanos="bigint",
    occurred_at="timestamptz",
)  # fmt: skip


def open_windows(new: Sequence[NewWindow], now: datetime) -> None:
    """Open windows; one that somebody else opened in the meantime stays as it is.

    The limit is the budget's own as of this statement (its row is share-locked on PostgreSQL), so a limit changed
    at the same moment is never missed.
    """
    rows = [
        (
            item.matched.budget.id, item.matched.subject, item.matched.tenant_id, item.starts_at, item.ends_at,
            item.limit_nanos, item.source_kind, item.source_id, now,
        )
        for item in new
    ]  # fmt: skip
    # Ordered, so that two batches that open the same windows never wait for each other in a circle.
    words.run(
        "INSERT INTO governance_budgetwindow (budget_id, subject, tenant_id, starts_at, ends_at, limit_nanos,"
        " source_kind, source_id, opened_at, settled_nanos, reserved_nanos, state, thresholds_crossed, limit_lowered,"
        " extra_nanos, purged_nanos, extra_until)"
        " SELECT b.id, v.subject, v.tenant_id, v.starts_at, v.ends_at, COALESCE(v.limit_nanos, b.limit_nanos),"
        " v.source_kind, v.source_id, v.opened_at, 0, 0, 'active', '[]', false, 0, 0,"
        # Allowances that are running or to come are worked out when the window is locked first.
        " (SELECT v.opened_at FROM governance_allowance g WHERE g.budget_id = b.id AND g.ends_at > v.opened_at LIMIT 1)"
        f" FROM governance_budget b JOIN {_NEW_WINDOWS} ON b.id = v.budget_id"
        f" WHERE true ORDER BY b.id, v.subject{for_share('b')} ON CONFLICT DO NOTHING",
        [_NEW_WINDOWS.pack(rows)],
    )


def close_windows(ids: Collection[int], now: datetime) -> None:
    if ids:
        words.run(
            f"UPDATE governance_budgetwindow SET closed_at = %s WHERE closed_at IS NULL AND id IN {among(IDS)}",
            [stamp(now), pack_ids(ids)],
        )


def update_windows(changed: Iterable[WindowRow]) -> None:
    rows = [
        (
            row.id, row.settled_nanos, row.reserved_nanos, row.limit_nanos, row.state, row.crossed,
            row.limit_lowered, row.extra_nanos, row.extra_until,
        )
        for row in changed
    ]  # fmt: skip
    words.update("governance_budgetwindow", _WINDOW_CHANGES, rows)


def insert_reservations(new: Sequence[ReservationRow]) -> None:
    rows = [
        (
            *_who(row), row.amount_nanos, row.status, row.reserved_at, row.expires_at, row.resolved_at, row.buckets,
            row.tokens,
        )
        for row in new
    ]  # fmt: skip
    words.insert("governance_reservation", _NEW_RESERVATIONS, rows)


def update_reservations(changed: Iterable[ReservationRow]) -> None:
    rows = [(row.id, row.status, row.amount_nanos, row.expires_at, row.resolved_at) for row in changed]
    words.update("governance_reservation", _RESERVATION_CHANGES, rows)


def insert_entries(new: Sequence[EntryRow], now: datetime) -> None:
    rows = [
        (
            *_who(row), row.kind, row.reservation_id, row.corrects_id, row.request_id, row.input_tokens,
            row.cached_tokens, row.output_tokens, row.unit, row.units, row.price_rule, row.cost_nanos,
            row.overage_nanos, row.certainty, row.reason, row.occurred_at, now, dict(row.metadata),
        )
        for row in new
    ]  # fmt: skip
    words.insert("governance_spendentry", _NEW_ENTRIES, rows)


def add_to_rollups(new: Iterable[EntryRow]) -> None:
    """Add entries to their hours' sums. Sorted, so that two batches never wait for each other in a circle."""
    sums: dict[tuple[int, datetime, str, str, str], tuple[int, ...]] = {}
    for row in new:
        hour = row.occurred_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        key = (row.caller.tenant_id, hour, row.caller.agent, row.provider, row.model_served)
        added = (
            int(row.kind == "charge"),
            row.input_tokens,
            row.cached_tokens,
            row.output_tokens,
            row.cost_nanos,
        )
        sums[key] = tuple(a + b for a, b in zip(sums.get(key, (0, 0, 0, 0, 0)), added, strict=True))
    table = "governance_spendrollup"
    words.insert(
        table,
        _ROLLUPS,
        [(*key, *added) for key, added in sorted(sums.items())],
        tail=" ON CONFLICT (tenant_id, hour, agent, provider, model) DO UPDATE SET "
        + ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in _FIGURES),
    )


def insert_events(new: Sequence[EventRow], now: datetime) -> None:
    rows = [
        (
            row.window.id, row.window.budget.id, row.window.tenant_id, row.kind, row.threshold, row.old_state,
            row.new_state, row.reason[:300], row.actor[:150], row.window.settled_nanos, row.window.limit_nanos, now,
        )
        for row in new
    ]  # fmt: skip
    words.insert("governance_budgetevent", _NEW_EVENTS, rows)


# Rows ---------------------------------------------------------------------------------------------------------


def _who(row: ReservationRow | EntryRow) -> tuple[Any, ...]:
    by = row.caller
    return (
        row.id, by.tenant_id, by.agent, by.key_id, by.user, by.session, by.task, row.provider, row.model_requested,
        row.model_served, row.windows,
    )  # fmt: skip


def _attribution(row: Sequence[Any]) -> dict[str, Any]:
    by = Caller(tenant_id=row[1], tenant=row[2], agent=row[3], key_id=row[4], user=row[5], session=row[6], task=row[7])
    return {
        "id": uuid(row[0]), "caller": by, "provider": row[8], "model_requested": row[9], "model_served": row[10],
        "windows": _json(row[11]),
    }  # fmt: skip


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _rulebook(row: Sequence[Any]) -> BudgetRule:
    return BudgetRule(
        id=row[0],
        tenant_id=row[1],
        scope_type=row[2],
        scope_key=row[3],
        window=WindowKind(row[4]),
        limit_nanos=row[5],
        policy=_policy(*row[6:9], *map(_text, row[9:12]), *row[12:14]),
    )


def _text(value: Any) -> str:
    """JSON as text, which can be the key of a cache."""
    return value if isinstance(value, str) else json.dumps(value)


@lru_cache(maxsize=4096)
def _policy(
    hard: Any, soft: Any, warn: Any, thresholds: str, rules: str, tools: str, clamp: bool, clamp_min: int
) -> Policy:
    return Policy(
        hard_e4=_e4(hard),
        soft_e4=None if soft is None else _e4(soft),
        warn_e4=None if warn is None else _e4(warn),
        thresholds_e4=tuple(sorted(_e4(Decimal(str(ratio))) for ratio in json.loads(thresholds))),
        rules=tuple(Rule(frozenset(rule["from"]), rule["to"]) for rule in json.loads(rules)),
        disabled_tools=frozenset(json.loads(tools)),
        clamp=bool(clamp),
        clamp_min_tokens=clamp_min,
    )


def _e4(ratio: Decimal | float) -> int:
    # SQLite hands decimals of four places back as floats; the ten-thousandth nearest is the one that was stored.
    return round(ratio * 10_000)


def _window(row: Sequence[Any]) -> WindowRow:
    return WindowRow(
        id=row[0],
        budget=_rulebook(row[16:30]),
        subject=row[1],
        tenant_id=row[2],
        starts_at=moment(row[3]),
        ends_at=moment(row[4]) if row[4] else None,
        limit_nanos=row[5],
        settled_nanos=row[6],
        reserved_nanos=row[7],
        state=row[8],
        crossed=_json(row[9]),
        closed_at=moment(row[10]) if row[10] else None,
        source_kind=row[11],
        source_id=row[12],
        limit_lowered=bool(row[13]),
        extra_nanos=row[14],
        extra_until=moment(row[15]) if row[15] else None,
    )
