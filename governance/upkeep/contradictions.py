"""Rows of the ledger that contradict others, or themselves: what a hand that edits one cell of a table leaves behind.

Each proof is one SELECT of (id, subject, figure, expected, actual) that names the rows at fault. What no row bears
witness to is listed in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from governance.ledger import sql_dialect as words
from governance.ledger.sql_dialect import is_postgres
from governance.rules import money
from governance.rules.reports import ACCEPTED_REPORT
from governance.upkeep.sql import NAME, Contradiction, total, written_since

# Whom an entry is for must be whom its reservation was for; so with a correction and what it corrects.
_WHO = ("tenant_id", "agent", "key_id", '"user"', "session", "task", "windows")
# Columns of times, which SQLite keeps as text, by table.
_TIMES = {
    "governance_budgetwindow": ("starts_at", "ends_at", "opened_at", "closed_at", "extra_until"),
    "governance_reservation": ("reserved_at", "expires_at", "resolved_at"),
    "governance_spendentry": ("occurred_at", "recorded_at"),
    "governance_spendrollup": ("hour",),
    "governance_purgedspend": ("hour",),
    "governance_allowance": ("starts_at", "ends_at"),
}
# Lists: whose rows, what people call them, the column, whether its elements are windows, and when a row was written.
_LISTS = (
    ("governance_spendentry", "entry", "windows", True, "recorded_at"),
    ("governance_reservation", "reservation", "windows", True, "reserved_at"),
    ("governance_pendingreport", "report", "windows", True, "reported_at"),
    ("governance_reservation", "reservation", "meters", False, "reserved_at"),
    ("governance_budgetwindow", "window", "thresholds_crossed", False, "opened_at"),
)


def found(*, since: datetime | None = None) -> list[Contradiction]:
    """`since`: among reservations and entries that were written since; windows and what hangs on them are few."""
    lists = (_list(*each, since) for each in _LISTS)
    proofs = [*lists, *_of_windows(), *_of_reservations(since), *_of_entries(since), *_of_times()]
    rows = [row for proof in proofs for row in words.select(proof, [])]
    return [Contradiction(str(row[1]), str(row[2]), int(row[3]), int(row[4])) for row in rows]


def _list(table: str, noun: str, column: str, windows: bool, written: str, since: datetime | None) -> str:
    """Lists whose elements are not all that they may be: windows of the row's tenant or of all, each once."""
    listed = words.elements(f"x.{column}")
    is_list = words.is_list(f"x.{column}")
    one, of = listed.text if column == "thresholds_crossed" else listed.id, ""
    if windows:
        one = "w.id"
        of = (
            f" LEFT JOIN governance_budgetwindow w ON w.id = {listed.id}"
            " AND (w.tenant_id IS NULL OR w.tenant_id = x.tenant_id)"
        )
    good = f"COUNT(DISTINCT CASE WHEN {is_list} THEN {one} END)"
    return (
        f"SELECT x.id, '{noun} ' || x.id, '{column}', {good}, COUNT(j.key) FROM {table} x"
        f" LEFT JOIN {listed.item} ON true{of} WHERE {written_since(f'x.{written}', since)}"
        f" GROUP BY x.id HAVING {good} <> COUNT(j.key) ORDER BY x.id"
    )


def _of_windows() -> Iterator[str]:
    window = "governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
    open_window = "w.closed_at IS NULL"
    # What an act on its budget has not reached yet is brought up to date before anything is decided by it.
    followed = "w.revision >= b.revision"
    # A window has its budget's limit, and what allowances add to it.
    yield (
        f"SELECT w.id, {NAME}, 'limit_nanos', b.limit_nanos + w.extra_nanos + w.carried_nanos, w.limit_nanos"
        f" FROM {window}"
        f" WHERE {open_window} AND {followed} AND w.limit_nanos <> b.limit_nanos + w.extra_nanos + w.carried_nanos"
        " ORDER BY w.id"
    )
    yield _states()
    # Where all windows are said to have followed the acts on their budget, they have; none has followed more.
    yield (
        f"SELECT w.id, {NAME}, 'revision', b.revision, w.revision FROM {window} WHERE {open_window}"
        " AND w.revision <> b.revision AND (w.revision > b.revision OR NOT EXISTS ("
        "SELECT 1 FROM governance_budgetact a WHERE a.budget_id = b.id AND NOT a.is_done)) ORDER BY w.id"
    )
    # What ran when it was worked out last runs until it has to be worked out again.
    running = (
        "g.window_id = w.id OR (g.window_id IS NULL AND g.starts_at < w.extra_until AND g.ends_at >= w.extra_until)"
    )
    granted = words.at_most(money.MAX_LIMIT_NANOS, f"COALESCE({total('g.amount_nanos')}, 0)")
    yield (
        f"SELECT w.id, {NAME}, 'extra_nanos', {granted}, w.extra_nanos FROM {window}"
        f" LEFT JOIN governance_allowance g ON g.budget_id = w.budget_id AND ({running})"
        f" WHERE {open_window} AND {followed} AND (w.extra_until IS NULL OR w.extra_until <> w.opened_at)"
        f" GROUP BY w.id HAVING w.extra_nanos <> {granted} ORDER BY w.id"
    )
    yield (
        f"SELECT w.id, {NAME}, 'tenant', b.tenant_id, COALESCE(w.tenant_id, 0) FROM {window}"
        " WHERE b.tenant_id <> COALESCE(w.tenant_id, 0) ORDER BY w.id"
    )
    # Before its time a window is closed by a reset, or a new period, and each is an event.
    yield (
        f"SELECT w.id, {NAME}, 'resets', 1, 0 FROM governance_budgetwindow w WHERE w.closed_at IS NOT NULL"
        " AND (w.ends_at IS NULL OR w.closed_at < w.ends_at) AND NOT EXISTS (SELECT 1 FROM governance_budgetevent e"
        " WHERE e.window_id = w.id AND e.kind = 'budget-reset') ORDER BY w.id"
    )


def wrong_states() -> list[int]:
    """Open windows that are said to be stopped below their cap, or not to be at it; a repair works these out anew."""
    return [row[0] for row in words.select(_states(), [])]


def _states() -> str:
    # In parts: the whole product could be too big for a column.
    e4 = "CAST(ROUND(b.hard_cap * 10000) AS bigint)"
    rest = f"(w.limit_nanos - w.limit_nanos / 10000 * 10000) * {e4}"
    cap = f"(w.limit_nanos / 10000 * {e4} + {rest} / 10000)"
    is_at_cap = f"(w.settled_nanos > {cap} OR (w.settled_nanos = {cap} AND {rest} / 10000 * 10000 = {rest}))"
    is_stopped = "CASE WHEN w.state = 'stopped' THEN 1 ELSE 0 END"
    return (
        f"SELECT w.id, {NAME}, 'stopped', 1 - {is_stopped}, {is_stopped}"
        " FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        f" WHERE w.closed_at IS NULL AND w.revision >= b.revision AND {is_at_cap} <> (w.state = 'stopped')"
        " ORDER BY w.id"
    )


def _of_reservations(since: datetime | None) -> Iterator[str]:
    lately = written_since("r.reserved_at", since)
    charged = "governance_reservation r JOIN governance_spendentry x ON x.reservation_id = r.id AND x.kind = 'charge'"
    over = "CASE WHEN x.cost_nanos > r.amount_nanos THEN x.cost_nanos - r.amount_nanos ELSE 0 END"
    named = "'reservation ' || r.id || ' (' || r.status || ')'"
    yield (
        f"SELECT r.id, {named}, 'overage_nanos', {over}, x.overage_nanos FROM {charged}"
        f" WHERE {lately} AND x.overage_nanos <> {over} ORDER BY r.id"
    )
    expiries = "CASE WHEN x.reason = 'expired' THEN 1 ELSE 0 END"
    yield (
        f"SELECT r.id, {named}, 'expiries', CASE WHEN r.status = 'expired' THEN 1 ELSE 0 END, {expiries} FROM {charged}"
        f" WHERE {lately} AND (CASE WHEN r.status = 'expired' THEN 1 ELSE 0 END) <> {expiries} ORDER BY r.id"
    )
    yield (
        f"SELECT r.id, {named}, 'amount_nanos', x.cost_nanos, r.amount_nanos FROM {charged}"
        f" WHERE {lately} AND r.status = 'expired' AND x.cost_nanos <> r.amount_nanos ORDER BY r.id"
    )


def _of_entries(since: datetime | None) -> Iterator[str]:
    lately = written_since("x.recorded_at", since)
    # Only what was held can be exceeded.
    yield (
        "SELECT x.id, 'entry ' || x.id, 'overage_nanos', 0, x.overage_nanos FROM governance_spendentry x"
        f" WHERE {lately} AND x.overage_nanos <> 0 AND (x.reservation_id IS NULL OR x.kind <> 'charge') ORDER BY x.id"
    )
    apart = " + ".join(f"CASE WHEN {words.differ(f'x.{name}', f'o.{name}')} THEN 1 ELSE 0 END" for name in _WHO)
    for other in (
        "governance_reservation o ON o.id = x.reservation_id",
        "governance_spendentry o ON o.id = x.corrects_id",
    ):
        yield (
            f"SELECT x.id, 'entry ' || x.id || ' beside ' || o.id, 'differences', 0, {apart}"
            f" FROM governance_spendentry x JOIN {other} WHERE {lately} AND {apart} > 0 ORDER BY x.id"
        )
    yield (
        "SELECT x.id, 'entry ' || x.id, 'reservations', 0, 1 FROM governance_spendentry x"
        " JOIN governance_spendentry o ON o.id = x.corrects_id"
        f" WHERE {lately} AND {words.differ('x.reservation_id', 'o.reservation_id')} ORDER BY x.id"
    )
    # An accepted report became a line of what had waited, where an operator had not reported the same call meanwhile.
    yield (
        "SELECT p.id, 'report ' || p.id, 'cost_nanos', x.cost_nanos + p.charged_nanos, p.cost_nanos"
        " FROM governance_pendingreport p JOIN governance_spendentry x ON x.id = p.entry"
        f" WHERE p.status = 'accepted' AND x.reason = '{ACCEPTED_REPORT}'"
        " AND x.cost_nanos + p.charged_nanos <> p.cost_nanos ORDER BY p.id"
    )


def _of_times() -> Iterator[str]:
    if is_postgres():
        return
    for table, columns in _TIMES.items():
        for column in columns:
            yield (
                f"SELECT x.id, '{table.removeprefix('governance_')} ' || x.id, '{column}', 1, 0 FROM {table} x"
                f" WHERE x.{column} IS NOT NULL AND datetime(x.{column}) IS NULL ORDER BY x.id"
            )
