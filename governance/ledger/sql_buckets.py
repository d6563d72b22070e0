"""The ledger's statements on rate buckets and allowances; see `governance.ledger.sql`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from governance.ledger import sql_dialect as words
from governance.ledger.rows import AllowanceRow, BucketRow
from governance.ledger.sql_dialect import IDS, Shape, among, for_update, moment, pack_ids
from governance.rules.buckets import Amount, Ceilings, after
from governance.rules.scopes import RateRule

_NEW = Shape(
    rate_limit_id="bigint", subject="text", measured_at="timestamptz", level_nanos="bigint",
    level_requests_e6="bigint", level_tokens_e6="bigint",
)  # fmt: skip
_CHANGES = Shape(
    id="bigint", measured_at="timestamptz", level_nanos="bigint", level_requests_e6="bigint", level_tokens_e6="bigint"
)
_SUBJECTS = Shape(rate_limit_id="bigint", subject="text")


def open_buckets(keys: Collection[tuple[int, str]], now: datetime) -> None:
    """Make the buckets that are missing, empty. Ordered, so that two batches do not wait in a circle."""
    words.insert(
        "governance_ratemeter",
        _NEW,
        [(*key, now, 0, 0, 0) for key in sorted(keys)],
        tail=" ON CONFLICT DO NOTHING",
    )


def buckets(
    rules: dict[int, RateRule], *, keys: Collection[tuple[int, str]], ids: Collection[int], now: datetime, lock: bool
) -> list[BucketRow]:
    """Buckets by (limit, subject) and by id, locked in primary-key order, with their levels as of `now`.

    `rules` need not hold the limit of a bucket taken by id: it is read along.
    """
    if not (keys or ids):
        return []
    rows = words.select(
        "SELECT m.id, m.subject, m.measured_at, m.level_nanos, m.level_requests_e6, m.level_tokens_e6, r.id,"
        " r.tenant_id, r.scope_type, r.scope_key, r.nanos_per_minute, r.requests_per_minute, r.tokens_per_minute"
        " FROM governance_ratemeter m JOIN governance_ratelimit r ON r.id = m.rate_limit_id WHERE m.id IN ("
        f"SELECT k.id FROM governance_ratemeter k JOIN {_SUBJECTS} ON k.rate_limit_id = v.rate_limit_id"
        f" AND k.subject = v.subject UNION SELECT v.id FROM {IDS}"
        f") ORDER BY m.id{for_update('m') if lock else ''}",
        [_SUBJECTS.pack(keys), pack_ids(ids)],
    )
    found = []
    for row in rows:
        rule = rules.get(row[6]) or RateRule(row[6], row[7], row[8], row[9], Ceilings(row[10], row[11], row[12]))
        level = after(Amount(*row[3:6]), rule.ceilings, now - moment(row[2]))
        found.append(BucketRow(row[0], rule, row[1], level))
    return found


def update_buckets(changed: Iterable[BucketRow], now: datetime) -> None:
    words.update(
        "governance_ratemeter",
        _CHANGES,
        [(row.id, now, row.level.nanos, row.level.requests_e6, row.level.tokens_e6) for row in changed],
    )


def allowances(budget_ids: Collection[int], now: datetime) -> Sequence[AllowanceRow]:
    """Allowances of budgets that have not ended."""
    rows = words.select(
        "SELECT g.budget_id, g.window_id, g.amount_nanos, g.starts_at, g.ends_at FROM governance_allowance g"
        f" WHERE g.budget_id IN {among(IDS)} AND (g.ends_at IS NULL OR g.ends_at > %s)",
        [pack_ids(budget_ids), words.stamp(now)],
    )
    return [AllowanceRow(row[0], row[1], row[2], moment(row[3]), moment(row[4]) if row[4] else None) for row in rows]


def windows_to_work_out(now: datetime, limit: int) -> list[int]:
    """Open windows whose allowances begin or end now."""
    rows = words.select(
        "SELECT id FROM governance_budgetwindow WHERE closed_at IS NULL AND extra_until <= %s ORDER BY id LIMIT %s",
        [words.stamp(now), limit],
    )
    return [row[0] for row in rows]
