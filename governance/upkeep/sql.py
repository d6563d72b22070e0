"""The statements of `reconcile`: proofs over the ledger's rows, and their repair.

Like `governance.ledger.sql`, in the caller's open transaction. What they prove they prove from committed rows alone,
so a call that is being written at that moment never looks like drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from governance.ledger import sql_dialect as words
from governance.ledger.sql_dialect import (
    IDS,
    Shape,
    among,
    is_postgres,
    moment,
    pack_ids,
    stamp,
)
from governance.rules import money

# Of amounts that SQLite adds up in parts.
_PART = 1_000_000_000
SUMS = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos")
_SUM = -money.MAX_SUM, money.MAX_SUM
# By table: what people call its rows, and the bounds of its figures that are no sums of rows.
_BOUNDED: dict[str, tuple[str, dict[str, tuple[int, int]]]] = {
    "governance_budget": ("budget", {"limit_nanos": (1, money.MAX_LIMIT_NANOS)}),
    "governance_allowance": ("allowance", {"amount_nanos": (1, money.MAX_LIMIT_NANOS)}),
    "governance_budgetwindow": (
        "window",
        {
            "limit_nanos": (1, money.MAX_SUM),
            "extra_nanos": (0, money.MAX_SUM),
            "carried_nanos": (0, money.MAX_LIMIT_NANOS),
            "purged_nanos": _SUM,
            "purged_unheld_nanos": _SUM,
        },
    ),
    "governance_budgetevent": ("event", {"settled_nanos": (0, money.MAX_SUM), "limit_nanos": (0, money.MAX_SUM)}),
    "governance_reservation": (
        "reservation",
        {"amount_nanos": (0, money.MAX_AMOUNT_NANOS), "tokens": (0, money.MAX_UNITS)},
    ),
    "governance_ratemeter": (
        "rate bucket",
        dict.fromkeys(("level_nanos", "level_requests_e6", "level_tokens_e6"), (0, money.MAX_SUM)),
    ),
    "governance_purgedspend": ("purged sum", dict.fromkeys(SUMS, _SUM)),
}
KIND = ("tenant_id", "hour", "agent", "provider", "model")
NAME = (
    "'window ' || w.id || ' of budget ' || w.budget_id"
    " || CASE w.subject WHEN '' THEN '' ELSE ' (' || w.subject || ')' END"
)

# A window's id to look for sums by: SQLite makes them an index only where neither side is of a type, and would read all
# sums for each window.
ANY_ID = "+w.id"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure beside what its rows say it should be."""

    key: Any
    subject: str
    expected: int
    actual: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A figure of a row that its other columns, or other rows, say is another."""

    subject: str
    figure: str
    expected: int
    actual: int


@dataclass(frozen=True, slots=True)
class BrokenFigure:
    """A figure that is no whole number within its bounds; `expected` is the nearest that is."""

    table: str
    key: Any
    subject: str
    figure: str
    expected: int
    actual: int


@dataclass(frozen=True, slots=True)
class RollupSums:
    """A rollup beside the sums of its entries, purged ones included; `rollup_id` is None where there is no row.

    `sound`: its figures are such as a rollup may have, so that what is missing can be added to them.
    """

    kind: tuple[Any, ...]
    tenant: str
    rollup_id: int | None
    expected: Mapping[str, int]
    actual: Mapping[str, int]
    sound: bool

    @property
    def missing(self) -> dict[str, int]:
        """What has to be added to each figure."""
        return {name: self.expected[name] - self.actual[name] for name in SUMS}


# Proofs -------------------------------------------------------------------------------------------------------


def settled(*, since: datetime | None = None) -> list[Figure]:
    """Windows whose settled money is not the sum of their entries, purged ones included; or its bound beyond that.

    `since`: of those that were opened since.
    """
    owed = words.at_most(money.MAX_SUM, "COALESCE(s.total, 0) + w.purged_nanos")
    return _figures(
        f"""WITH sums AS ({_per_window("x.cost_nanos", "governance_spendentry", written_since("x.recorded_at", since))})
        SELECT w.id, {NAME}, {owed}, w.settled_nanos
        FROM governance_budgetwindow w LEFT JOIN sums s ON s.id = {ANY_ID}
        WHERE w.settled_nanos <> {owed} AND {_opened_since(since)} ORDER BY w.id"""
    )


def reserved() -> list[Figure]:
    """Windows whose reserved money is not the sum of their pending reservations."""
    return _figures(
        f"""WITH sums AS ({_per_window("x.amount_nanos", "governance_reservation", "x.status = 'pending'")})
        SELECT w.id, {NAME}, COALESCE(s.total, 0), w.reserved_nanos
        FROM governance_budgetwindow w LEFT JOIN sums s ON s.id = {ANY_ID}
        WHERE w.reserved_nanos <> COALESCE(s.total, 0) ORDER BY w.id"""
    )


def negative() -> list[Figure]:
    return _figures(
        f"""SELECT w.id, {NAME}, 0,
        CASE WHEN w.settled_nanos < w.reserved_nanos THEN w.settled_nanos ELSE w.reserved_nanos END
        FROM governance_budgetwindow w WHERE w.settled_nanos < 0 OR w.reserved_nanos < 0 ORDER BY w.id"""
    )


def broken() -> list[BrokenFigure]:
    """Figures that no column of SQLite could hold any longer, or that its constraints were not there to refuse.

    Of sums of entries and reservations `settled`, `reserved` and `rollups` speak. PostgreSQL's columns are typed.
    """
    if is_postgres():
        return []
    found = []
    for table, (noun, figures) in _BOUNDED.items():
        for figure, (least, most) in figures.items():
            sound = f"x.{figure} BETWEEN {least} AND {most} AND typeof(x.{figure}) = 'integer'"
            rows = words.select(f"SELECT x.id, x.{figure} FROM {table} x WHERE NOT ({sound}) ORDER BY x.id", [])
            for id, value in rows:
                kept = max(least, min(most, int(value)))
                found.append(BrokenFigure(table, id, f"{noun} {id}", figure, kept, int(value)))
    return found


def over_cap(*, since: datetime | None = None) -> list[Figure]:
    """Windows that admitted more than their cap; `expected` is the cap. `since`: of those that were opened since.

    What no hold had to make room for (an overage, a report, a correction upwards) is not counted. Allowances are
    part of a window's limit; a part that no allowance grants is not. A window whose limit or cap was lowered says so;
    a closed one's cap may have been lowered since, so that its whole limit stands in. One that an act on its budget
    has not reached yet says so as it does.
    """
    unheld = _per_window(UNHELD, "governance_spendentry", written_since("x.recorded_at", since))
    # Rounded down like `money.share_nanos`, in parts: the whole product could be too big for a column.
    cap = "c.base / 10000 * c.e4 + (c.base - c.base / 10000 * 10000) * c.e4 / 10000"
    return _figures(
        f"""WITH unheld AS ({unheld}), caps AS (
            SELECT w.id, w.limit_nanos - CASE WHEN w.closed_at IS NULL AND w.extra_nanos > a.granted
                                              THEN w.extra_nanos - a.granted ELSE 0 END AS base,
                   CASE WHEN w.closed_at IS NULL THEN CAST(ROUND(b.hard_cap * 10000) AS bigint)
                        ELSE 10000 END AS e4
            FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id
            JOIN (
                SELECT k.id, COALESCE({total("g.amount_nanos")}, 0) AS granted FROM governance_budgetwindow k
                LEFT JOIN governance_allowance g ON g.budget_id = k.budget_id
                     AND (g.window_id = k.id OR (g.window_id IS NULL AND g.ends_at > k.opened_at))
                GROUP BY k.id
            ) a ON a.id = w.id
        )
        SELECT w.id, {NAME}, {cap},
               w.settled_nanos + w.reserved_nanos - w.purged_unheld_nanos - COALESCE(u.total, 0)
        FROM governance_budgetwindow w JOIN caps c ON c.id = w.id LEFT JOIN unheld u ON u.id = {ANY_ID}
        JOIN governance_budget b ON b.id = w.budget_id
        WHERE NOT w.limit_lowered AND {_opened_since(since)} AND (w.closed_at IS NOT NULL OR w.revision >= b.revision)
          AND w.settled_nanos + w.reserved_nanos - w.purged_unheld_nanos - COALESCE(u.total, 0)
              > {cap}
        ORDER BY w.id"""
    )


def charges(*, since: datetime | None = None) -> list[Figure]:
    """Reservations that were not charged as often as their status says. Retention deletes both together."""
    owed = "CASE WHEN r.status IN ('settled', 'expired') THEN 1 ELSE 0 END"
    return _figures(
        f"""SELECT r.id, 'reservation ' || r.id || ' (' || r.status || ')', {owed}, COUNT(x.id)
        FROM governance_reservation r
        LEFT JOIN governance_spendentry x ON x.reservation_id = r.id AND x.kind = 'charge'
        WHERE {written_since("r.reserved_at", since)}
        GROUP BY r.id, r.status HAVING COUNT(x.id) <> {owed} ORDER BY r.id"""
    )


def rollups(*, since: datetime | None = None, until: datetime | None = None) -> list[RollupSums]:
    """Rollups that are not the sums of their entries, purged ones included; of the hours in `[since, until)`."""
    nothing = ", ".join("0" for _ in SUMS)
    entries, entries_params = _between("x.occurred_at", since, until)
    hours, hours_params = _between("x.hour", since, until)
    own = ", ".join(f"x.{name}" for name in SUMS)
    # Of a rollup there is one row; it is read as it is, whatever became of it.
    both = ", ".join(f"{total(f'k.e_{name}')}, SUM(k.r_{name})" for name in SUMS)
    differs = " OR ".join(f"{total(f'k.e_{name}')} <> SUM(k.r_{name})" for name in SUMS)
    names = ", ".join([*KIND, "rollup_id", *(f"e_{name}" for name in SUMS), *(f"r_{name}" for name in SUMS)])
    rows = words.select(
        f"""WITH k ({names}) AS (
            SELECT x.tenant_id, {hour_of("x.occurred_at")}, x.agent, x.provider, x.model_served, CAST(NULL AS bigint),
                   {ENTRY_SUMS}, {nothing} FROM governance_spendentry x WHERE {entries}
            UNION ALL SELECT x.tenant_id, x.hour, x.agent, x.provider, x.model, NULL, {own}, {nothing}
                      FROM governance_purgedspend x WHERE {hours}
            UNION ALL SELECT x.tenant_id, x.hour, x.agent, x.provider, x.model, x.id, {nothing}, {own}
                      FROM governance_spendrollup x WHERE {hours}
        )
        SELECT k.tenant_id, k.hour, k.agent, k.provider, k.model, t.slug, MAX(k.rollup_id), {both}
        FROM k JOIN governance_tenant t ON t.id = k.tenant_id
        GROUP BY k.tenant_id, k.hour, k.agent, k.provider, k.model, t.slug
        HAVING {differs} ORDER BY k.hour, t.slug, k.agent, k.provider, k.model""",
        [*entries_params, *hours_params, *hours_params],
    )
    return [
        RollupSums(
            kind=(row[0], moment(row[1]), *row[2:5]),
            tenant=row[5],
            rollup_id=row[6],
            expected={name: int(value) for name, value in zip(SUMS, row[7::2], strict=True)},
            actual={name: int(value) for name, value in zip(SUMS, row[8::2], strict=True)},
            sound=all(value == int(value) and abs(value) <= money.MAX_SUM for value in row[8::2]),
        )
        for row in rows
    ]


# Repair -------------------------------------------------------------------------------------------------------

_ROLLUP_CHANGES = Shape(id="bigint", **dict.fromkeys(SUMS, "bigint"))
_NEW_ROLLUPS = Shape(
    tenant_id="bigint",
    hour="timestamptz",
    agent="text",
    provider="text",
    model="text",
    **dict.fromkeys(SUMS, "bigint"),
)


def mend(found: Sequence[BrokenFigure]) -> None:
    for item in found:
        words.run(f"UPDATE {item.table} SET {item.figure} = %s WHERE id = %s", [item.expected, item.key])


def one_repair_at_a_time() -> None:
    """Two repairs at once would add the same missing sum twice. Held until the transaction ends."""
    if is_postgres():
        words.run("LOCK TABLE governance_ledgercheck IN SHARE ROW EXCLUSIVE MODE", [])


def mend_rollups(drifted: Sequence[RollupSums]) -> None:
    """Add what is missing, rather than set the sum: what calls add at the same moment is kept."""
    table = "governance_spendrollup"
    adding = ", ".join(f"{name} = {table}.{name} + v.{name}" for name in SUMS)
    known = [(item.rollup_id, *item.missing.values()) for item in drifted if item.rollup_id is not None and item.sound]
    words.run(
        f"UPDATE {table} SET {adding} FROM {_ROLLUP_CHANGES} WHERE {table}.id = v.id", [_ROLLUP_CHANGES.pack(known)]
    )
    # What no sum can be cannot be added to.
    broken = [(item.rollup_id, *item.expected.values()) for item in drifted if not item.sound]
    words.update(table, _ROLLUP_CHANGES, broken)
    words.insert(
        table,
        _NEW_ROLLUPS,
        [(*item.kind, *item.missing.values()) for item in drifted if item.rollup_id is None],
        tail=adding_to(table),
    )
    # A row that stands for no entry is not left behind as a zero.
    empty = " AND ".join(f"{name} = 0" for name in SUMS)
    words.run(
        f"DELETE FROM {table} WHERE id IN {among(IDS)} AND {empty}",
        [pack_ids([item.rollup_id for item in drifted if item.rollup_id is not None])],
    )


# Parts --------------------------------------------------------------------------------------------------------

ENTRY_SUMS = (
    "CASE WHEN x.kind = 'charge' THEN 1 ELSE 0 END AS calls, x.input_tokens, x.cached_tokens, x.output_tokens,"
    " x.cost_nanos"
)
# What of an entry no hold had to make room for.
UNHELD = (
    "x.overage_nanos + CASE WHEN (x.reservation_id IS NULL OR x.kind <> 'charge') AND x.cost_nanos > 0"
    " THEN x.cost_nanos ELSE 0 END"
)


def _figures(statement: str) -> list[Figure]:
    return [Figure(row[0], str(row[1]), int(row[2]), int(row[3])) for row in words.select(statement, [])]


def _per_window(amount: str, table: str, where: str = "true") -> str:
    """Sums of rows `x` for each window in their lists."""
    found = words.elements("x.windows")
    return (
        f"SELECT {found.id} AS id, {total(amount)} AS total FROM {table} x JOIN {found.item} ON {found.id} IS NOT NULL"
        f" WHERE {where} AND {words.is_list('x.windows')} GROUP BY {found.id}"
    )


def written_since(column: str, since: datetime | None) -> str:
    """Rows that may be of windows that were opened since: clocks of two machines are less than a day apart."""
    return "true" if since is None else f"{column} >= '{stamp(since - timedelta(days=1))}'"


def _opened_since(since: datetime | None) -> str:
    return "true" if since is None else f"w.opened_at >= '{stamp(since)}'"


def total(amount: str) -> str:
    """The sum of whole amounts, which stops at the bound that every sum of the ledger has, up and down.

    SQLite's SUM raises an error where it leaves 64 bits, so that it adds up parts there.
    """
    most = money.MAX_SUM
    if is_postgres():
        # Both pass nothing over, rather than answer with nothing.
        return f"CASE WHEN SUM({amount}) IS NOT NULL THEN GREATEST(-{most}, LEAST({most}, SUM({amount}))) END"
    whole = f"CAST({amount} AS bigint)"
    # The rest without a percent sign, which Django would take for a parameter where it logs the statement.
    high, low = f"SUM({whole} / {_PART})", f"SUM({whole} - {whole} / {_PART} * {_PART})"
    within = f"ABS({high} + {low} / {_PART}) <= {most // _PART}"
    return (
        f"CASE WHEN {within} THEN MAX(-{most}, MIN({most}, {high} * {_PART} + {low}))"
        f" WHEN {high} > 0 THEN {most} WHEN {high} < 0 THEN -{most} END"
    )


def hour_of(column: str) -> str:
    """The hour a time falls in, as a rollup keeps it."""
    return f"date_trunc('hour', {column}, 'UTC')" if is_postgres() else f"substr({column}, 1, 13) || ':00:00'"


def _between(column: str, since: datetime | None, until: datetime | None) -> tuple[str, list[Any]]:
    bounds = [(f"{column} >= %s", since), (f"{column} < %s", until)]
    given = [(clause, stamp(at)) for clause, at in bounds if at is not None]
    return " AND ".join(clause for clause, _ in given) or "true", [at for _, at in given]


def adding_to(table: str) -> str:
    sets = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    return f" ON CONFLICT (tenant_id, hour, agent, provider, model) DO UPDATE SET {sets}"
