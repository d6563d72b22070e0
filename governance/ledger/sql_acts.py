"""The ledger's statements on acts that windows follow one after another; see `governance.ledger.acts`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from governance.ledger import sql_dialect as words
from governance.ledger.rows import ActRow, ActsOn
from governance.ledger.sql import BUDGET, ENDS_BY_TIME, POLICY, budget_rule
from governance.ledger.sql_dialect import IDS, Columns, Shape, among, pack_ids, split, stamp

_ACT = Columns("a", "kind revision limit_nanos reason actor")
_NEW_ACT = Shape(
    "budget_id bigint, kind text, limit_nanos bigint, reason text, actor text, acted_at timestamptz, is_done boolean"
)


def crowded(budget_ids: Collection[int], *, most: int) -> set[int]:
    """Those of the budgets with more than `most` open windows, or with an act that windows are still following."""
    if not budget_ids:
        return set()
    rows = words.select(
        f"SELECT b.id FROM governance_budget b WHERE b.id IN {among(IDS)} AND ("
        "EXISTS (SELECT 1 FROM governance_budgetact a WHERE a.budget_id = b.id AND NOT a.is_done)"
        " OR EXISTS (SELECT 1 FROM governance_budgetwindow w WHERE w.budget_id = b.id AND w.closed_at IS NULL"
        " LIMIT 1 OFFSET %s))",
        [pack_ids(budget_ids), most],
    )
    return {id for (id,) in rows}


def note(
    budget_id: int, kind: str, *, limit_nanos: int | None, reason: str, actor: str, now: datetime
) -> tuple[int, int]:
    """Give a budget its next revision and note the act that it is for, in place of an earlier one of its kind.

    How many windows are open, and how many of these time has not ended.
    """
    advance(budget_id)
    words.run(
        f"INSERT INTO governance_budgetact ({_NEW_ACT.columns}, revision)"
        f" SELECT v.*, b.revision FROM {_NEW_ACT} JOIN governance_budget b ON b.id = v.budget_id"
        " WHERE true ON CONFLICT (budget_id, kind) DO UPDATE SET revision = excluded.revision,"
        " limit_nanos = excluded.limit_nanos, reason = excluded.reason, actor = excluded.actor,"
        " acted_at = excluded.acted_at, is_done = excluded.is_done",
        [_NEW_ACT.pack([(budget_id, kind, limit_nanos, reason[:300], actor[:150], now, False)])],
    )
    [(opened, lasting)] = words.select(
        f"SELECT COUNT(*), COUNT(CASE WHEN w.ends_at <= %s AND {ENDS_BY_TIME} THEN NULL ELSE 1 END)"
        " FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        " WHERE w.budget_id = %s AND w.closed_at IS NULL",
        [stamp(now), budget_id],
    )
    return opened, lasting


def advance(budget_id: int) -> int:
    """Give a budget its next revision: which it is."""
    [(revision,)] = words.select(
        "UPDATE governance_budget SET revision = revision + 1 WHERE id = %s RETURNING revision", [budget_id]
    )
    return int(revision)


def on(budget_ids: Collection[int]) -> dict[int, ActsOn]:
    """Budgets and the acts on them, as of one moment."""
    rows = words.select(
        f"SELECT {BUDGET}, {POLICY}, {_ACT} FROM governance_budget b"
        f" LEFT JOIN governance_budgetact a ON a.budget_id = b.id WHERE b.id IN {among(IDS)}",
        [pack_ids(budget_ids)],
    )
    found: dict[int, ActsOn] = {}
    for budget, kept, act in split(rows, BUDGET, POLICY, _ACT):
        known = found.get(budget.id)
        acts = {**known.acts} if known else {}
        if act.kind is not None:
            acts[act.kind] = ActRow(*act)
        found[budget.id] = ActsOn(budget_rule(budget, kept), acts)
    return found


def behind(budget_id: int, *, after: str | None, limit: int) -> list[tuple[int, str]]:
    """(id, subject) of open windows that have not followed every act on a budget, in the order of their subjects."""
    beyond, params = ("", []) if after is None else (" AND w.subject > %s", [after])
    rows = words.select(
        "SELECT w.id, w.subject FROM governance_budgetwindow w JOIN governance_budget b ON b.id = w.budget_id"
        f" WHERE w.budget_id = %s AND w.closed_at IS NULL AND w.revision < b.revision{beyond}"
        " ORDER BY w.subject LIMIT %s",
        [budget_id, *params, limit],
    )
    return [(id, subject) for id, subject in rows]


def end(budget_id: int) -> None:
    """Say that every window has followed the acts on a budget. Its turn must be held."""
    words.run("UPDATE governance_budgetact SET is_done = true WHERE budget_id = %s AND NOT is_done", [budget_id])


def under_way() -> list[int]:
    """Budgets with an act that windows are still following, those first that were acted on first."""
    rows = words.select(
        "SELECT budget_id, MIN(acted_at) FROM governance_budgetact WHERE NOT is_done"
        " GROUP BY budget_id ORDER BY MIN(acted_at), budget_id",
        [],
    )
    return [id for id, _ in rows]
