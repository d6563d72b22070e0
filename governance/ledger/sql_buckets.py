"""The ledger's statements on rate buckets and allowances; see `governance.ledger.sql`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from governance.ledger import sql_dialect as words
from governance.ledger.rows import AllowanceRow, BucketRow
from governance.ledger.sql import RATE_LIMIT, ceilings_of, rate_rule
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
)
from governance.rules.buckets import FULLEST_FLOWS_OFF, Amount, Ceilings, after
from governance.rules.scopes import RateRule

_NEW = Shape(
    "rate_limit_id bigint, subject text, measured_at timestamptz, level_nanos bigint, level_requests_e6 bigint,"
    "level_tokens_e6 bigint"
)
_CHANGES = Shape(
    "id bigint, level_nanos=level.nanos bigint, level_requests_e6=level.requests_e6 bigint,"
    "level_tokens_e6=level.tokens_e6 bigint, measured_at timestamptz, nanos_per_minute=rule.ceilings.nanos bigint,"
    "requests_per_minute=rule.ceilings.requests bigint, tokens_per_minute=rule.ceilings.tokens bigint,"
    "counts_since timestamptz"
)
# Longer than the fullest bucket takes to flow off.
IDLE = timedelta(hours=1)
_SUBJECTS = Shape("rate_limit_id bigint, subject text")
_BUCKET = Columns(
    "m",
    "id subject measured_at level_nanos level_requests_e6 level_tokens_e6 nanos_per_minute requests_per_minute"
    " tokens_per_minute counts_since",
)
_ALLOWANCE = Columns("g", "budget_id window_id amount_nanos starts_at ends_at")


def open_buckets(keys: Collection[tuple[int, str]], now: datetime) -> None:
    """Make the buckets that are missing, empty. Ordered, so that two batches do not wait in a circle."""
    words.insert(
        "governance_ratemeter",
        _NEW,
        [(*key, now, 0, 0, 0) for key in sorted(keys)],
        tail=" ON CONFLICT DO NOTHING",
    )


def buckets(
    *,
    keys: Collection[tuple[int, str]] = (),
    ids: Collection[int] = (),
    held_by: Collection[UUID] = (),
    lock: bool = True,
) -> Select[list[tuple[Any, Any]]]:
    """Buckets by (limit, subject) and by id, and those that reservations filled, locked in primary-key order.

    Each with its limit; `levels` makes rows of them.
    """
    listed = words.elements("r.meters")
    held = f" UNION SELECT {listed.id} FROM governance_reservation r, {listed.item} WHERE r.id IN {among(UUIDS)}"
    return Select(
        f"SELECT {_BUCKET}, {RATE_LIMIT}"
        " FROM governance_ratemeter m JOIN governance_ratelimit b ON b.id = m.rate_limit_id WHERE m.id IN ("
        f"SELECT k.id FROM governance_ratemeter k JOIN {_SUBJECTS} ON k.rate_limit_id = v.rate_limit_id"
        f" AND k.subject = v.subject UNION SELECT v.id FROM {IDS}{held if held_by else ''}"
        f") ORDER BY m.id{for_update('m') if lock else ''}",
        [_SUBJECTS.pack(keys), pack_ids(ids), *([pack_ids(held_by)] if held_by else [])],
        lambda rows: [(row, limit) for row, limit in split(rows, _BUCKET, RATE_LIMIT)],
        is_needed=bool(keys or ids or held_by),
    )


def levels(found: list[tuple[Any, Any]], rules: Mapping[int, RateRule], now: datetime) -> list[BucketRow]:
    """Buckets with their levels as of `now`. `rules` need not hold the limit of each: it was read along."""
    rows = []
    for row, limit in found:
        rule = rules.get(limit.id) or rate_rule(limit)
        held = Amount(row.level_nanos, row.level_requests_e6, row.level_tokens_e6)
        measured_at = moment(row.measured_at)
        level = after(held, rule.ceilings, now - measured_at)
        # Else what flowed off until a later moment would flow off once more.
        as_of = max(measured_at, now)
        # The database's clock was wrong: nothing would flow off until then, so it does from now on, kept at once.
        is_wrong = as_of - now > FULLEST_FLOWS_OFF
        as_of = now if is_wrong else as_of
        since = _counts_since(row, rule)
        rows.append(
            BucketRow(row.id, rule, row.subject, level, as_of, since and min(since, as_of), dirty=is_wrong),
        )
    return rows


def _counts_since(row: Any, rule: RateRule) -> datetime | None:
    """By when all was held that the level need not have: its ceilings were others when it was last measured."""
    by = ceilings_of(row)
    if by not in (Ceilings(), rule.ceilings):
        return moment(row.measured_at)
    return moment(row.counts_since) if row.counts_since else None


def update_buckets(changed: Iterable[BucketRow]) -> None:
    words.update("governance_ratemeter", _CHANGES, _CHANGES.rows(changed))


def drop_idle(now: datetime, limit: int) -> None:
    """Delete buckets that nothing has filled for an hour: empty by then, and calls bring many names once.

    Those of what is held stay: by them a hold that is to grow knows the limits that it was made under.
    """
    listed = words.elements("r.meters")
    words.run(
        "DELETE FROM governance_ratemeter WHERE id IN (SELECT m.id FROM governance_ratemeter m"
        f" WHERE m.measured_at < %s AND m.id NOT IN (SELECT {listed.id} FROM governance_reservation r"
        f" JOIN {listed.item} ON {listed.id} IS NOT NULL WHERE r.status = 'pending')"
        f" ORDER BY m.id LIMIT %s{for_update('m')}{words.skip_locked()})",
        [words.stamp(now - IDLE), limit],
    )


def allowances(budget_ids: Collection[int], now: datetime) -> Sequence[AllowanceRow]:
    """Allowances of budgets that have not ended."""
    rows = words.select(
        f"SELECT {_ALLOWANCE} FROM governance_allowance g"
        f" WHERE g.budget_id IN {among(IDS)} AND (g.ends_at IS NULL OR g.ends_at > %s)",
        [pack_ids(budget_ids), words.stamp(now)],
    )
    return [
        AllowanceRow(
            row.budget_id,
            row.window_id,
            row.amount_nanos,
            moment(row.starts_at),
            moment(row.ends_at) if row.ends_at else None,
        )
        for row in map(_ALLOWANCE.make, rows)
    ]


def windows_to_work_out(now: datetime, limit: int) -> list[int]:
    """Open windows whose allowances begin or end now."""
    rows = words.select(
        "SELECT id FROM governance_budgetwindow WHERE closed_at IS NULL AND extra_until <= %s ORDER BY id LIMIT %s",
        [words.stamp(now), limit],
    )
    return [id for (id,) in rows]
