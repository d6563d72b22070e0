"""The statements by which the ledger writes, as `sql` has those by which it reads: no others write the money tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from governance.ledger import sql_dialect as words
from governance.ledger.rows import EntryRow, EventRow, NewWindow, ReservationRow, WindowRow, hour_of
from governance.ledger.sql_dialect import IDS, Shape, among, for_share, pack_ids, stamp
from governance.rules import money
from governance.rules.overruns import ModelOverrun

_NEW_WINDOWS = Shape(
    "budget_id=matched.budget.id bigint, subject=matched.subject text, tenant_id=matched.tenant_id bigint,"
    "starts_at timestamptz, ends_at timestamptz, limit_nanos bigint, source_kind text, source_id text,"
    "carried_nanos bigint,"
    "revision=matched.budget.revision bigint, opened_at timestamptz"
)
_WINDOW_CHANGES = Shape(
    "id bigint, settled_nanos bigint, reserved_nanos bigint, limit_nanos bigint, state text,"
    "thresholds_crossed=crossed jsonb, limit_lowered boolean, extra_nanos bigint, extra_until timestamptz,"
    "revision bigint"
)
_NEW_WHO = (
    "id uuid, tenant_id=caller.tenant_id bigint, agent=caller.agent text, key_id=caller.key_id bigint,"
    "user=caller.user text, session=caller.session text, task=caller.task text, provider text, model_requested text,"
    "model_served text, windows jsonb"
)
_NEW_RESERVATIONS = Shape(
    f"{_NEW_WHO}, amount_nanos bigint, status text, reserved_at timestamptz, expires_at timestamptz,"
    "resolved_at timestamptz, meters=buckets jsonb, tokens bigint"
)
_RESERVATION_CHANGES = Shape(
    "id uuid, status text, amount_nanos bigint, expires_at timestamptz, resolved_at timestamptz"
)
_NEW_ENTRIES = Shape(
    f"{_NEW_WHO}, kind text, reservation_id uuid, corrects_id uuid, request_id text, input_tokens bigint,"
    "cached_tokens bigint, output_tokens bigint, unit text, units bigint, price_rule text, cost_nanos bigint,"
    "overage_nanos bigint, certainty text, reason text, occurred_at timestamptz, metadata jsonb,"
    "recorded_at timestamptz"
)
_FIGURES = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos")
_ROLLUPS = Shape(
    "tenant_id bigint, hour timestamptz, agent text, provider text, model text", **dict.fromkeys(_FIGURES, "bigint")
)
_NEW_OVERRUNS = Shape(
    "place text, side text, asked text, tokens bigint, permitted bigint, reservation_id uuid, seen_at timestamptz,"
    "cleared_by text"
)
_NEW_EVENTS = Shape(
    "window_id=window.id bigint, budget_id=window.budget.id bigint, tenant_id=window.tenant_id bigint, kind text,"
    "threshold text, old_state text, new_state text, reason=short_reason text, actor=short_actor text,"
    "settled_nanos=window.settled_nanos bigint, limit_nanos=window.limit_nanos bigint, untold boolean,"
    "occurred_at timestamptz"
)


def open_windows(new: Sequence[NewWindow], now: datetime) -> None:
    """Open windows; one that somebody else opened in the meantime stays as it is.

    The limit is the budget's own as of this statement (its row is share-locked on PostgreSQL), so a limit changed
    at the same moment is never missed.
    """
    # Ordered, so that two batches that open the same windows never wait for each other in a circle.
    words.run(
        "INSERT INTO governance_budgetwindow (budget_id, subject, tenant_id, starts_at, ends_at, limit_nanos,"
        " source_kind, source_id, opened_at, settled_nanos, reserved_nanos, state, thresholds_crossed, limit_lowered,"
        " extra_nanos, purged_nanos, carried_nanos, extra_until, revision)"
        " SELECT b.id, v.subject, v.tenant_id, v.starts_at, v.ends_at, COALESCE(v.limit_nanos, b.limit_nanos)"
        " + v.carried_nanos,"
        " v.source_kind, v.source_id, v.opened_at, 0, 0, 'active', '[]', false, 0, 0, v.carried_nanos,"
        # Allowances that are running or to come are worked out when the window is locked first. An act that we waited
        # for may have made one since this statement began, which it does not see.
        " CASE WHEN b.revision <> v.revision THEN v.opened_at ELSE (SELECT v.opened_at FROM governance_allowance g"
        " WHERE g.budget_id = b.id AND g.ends_at > v.opened_at LIMIT 1) END,"
        # One with a limit of its own may not have followed what was done since that was read.
        " CASE WHEN v.limit_nanos IS NULL THEN b.revision ELSE v.revision END"
        f" FROM governance_budget b JOIN {_NEW_WINDOWS} ON b.id = v.budget_id"
        f" WHERE true ORDER BY b.id, v.subject{for_share('b')} ON CONFLICT DO NOTHING",
        [_NEW_WINDOWS.pack(_NEW_WINDOWS.rows(new, opened_at=now))],
    )


def close_windows(ids: Collection[int], now: datetime) -> None:
    if ids:
        words.run(
            f"UPDATE governance_budgetwindow SET closed_at = %s WHERE closed_at IS NULL AND id IN {among(IDS)}",
            [stamp(now), pack_ids(ids)],
        )


def update_windows(changed: Iterable[WindowRow]) -> None:
    words.update("governance_budgetwindow", _WINDOW_CHANGES, _WINDOW_CHANGES.rows(changed))


def insert_reservations(new: Iterable[ReservationRow]) -> None:
    words.insert("governance_reservation", _NEW_RESERVATIONS, _NEW_RESERVATIONS.rows(new))


def update_reservations(changed: Iterable[ReservationRow]) -> None:
    words.update("governance_reservation", _RESERVATION_CHANGES, _RESERVATION_CHANGES.rows(changed))


def insert_entries(new: Iterable[EntryRow], now: datetime) -> None:
    words.insert("governance_spendentry", _NEW_ENTRIES, _NEW_ENTRIES.rows(new, recorded_at=now))


def add_to_rollups(new: Iterable[EntryRow], *, refusing: bool) -> None:
    """Add entries to their hours' sums. Sorted, so that two batches never wait for each other in a circle.

    A sum that would pass its bound stops there; or, where the batch is `refusing`, the table's constraint refuses it.
    One at its bound stays: how far beyond it was, a repair counts anew.
    """
    sums: dict[tuple[int, datetime, str, str, str], tuple[int, ...]] = {}
    for row in new:
        key = (row.caller.tenant_id, hour_of(row.occurred_at), row.caller.agent, row.provider, row.model_served)
        added = (
            int(row.kind == "charge"),
            row.input_tokens,
            row.cached_tokens,
            row.output_tokens,
            row.cost_nanos,
        )
        sums[key] = tuple(a + b for a, b in zip(sums.get(key, (0, 0, 0, 0, 0)), added, strict=True))
    table = "governance_spendrollup"
    full = f"{table}.{{0}} = {money.MAX_SUM} AND excluded.{{0}} <= 0"
    both = f"{table}.{{0}} + excluded.{{0}}"
    if not refusing:
        both = words.at_most(money.MAX_SUM, both)
    words.insert(
        table,
        _ROLLUPS,
        [(*key, *added) for key, added in sorted(sums.items())],
        tail=" ON CONFLICT (tenant_id, hour, agent, provider, model) DO UPDATE SET "
        + ", ".join(f"{name} = CASE WHEN {full} THEN {table}.{{0}} ELSE {both} END".format(name) for name in _FIGURES),
    )


def insert_events(new: Iterable[EventRow], now: datetime) -> None:
    words.insert("governance_budgetevent", _NEW_EVENTS, _NEW_EVENTS.rows(new, occurred_at=now))


def insert_overruns(new: Iterable[tuple[UUID, ModelOverrun]], now: datetime) -> None:
    """Put overruns in force, each once, with the largest that was seen."""
    found: dict[tuple[str, str, str], tuple[int, int, UUID]] = {}
    for id, one in new:
        key = one.place, str(one.side), one.asked
        found[key] = max(found.get(key, (0, 0, id)), (one.tokens, one.permitted, id))
    words.insert(
        "governance_overrun",
        _NEW_OVERRUNS,
        [(*key, *figures, now, "") for key, figures in sorted(found.items())],
        tail=" ON CONFLICT (place, side, asked) WHERE cleared_at IS NULL DO UPDATE SET tokens = excluded.tokens,"
        " permitted = excluded.permitted, reservation_id = excluded.reservation_id"
        " WHERE governance_overrun.tokens < excluded.tokens",
    )
