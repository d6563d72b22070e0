"""The ledger's statements on what holds for callers, and on its version; see `governance.ledger.caller_rules`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple

from governance.ledger import clock
from governance.ledger import sql_dialect as words
from governance.ledger.rows import CallerStatus
from governance.ledger.sql import BUDGET, POLICY, RATE_LIMIT, budget_rule, rate_rule
from governance.ledger.sql_dialect import IDS, Select, Shape, among, for_update, moment, pack_ids, split
from governance.rules.calls import Caller
from governance.rules.names import EACH
from governance.rules.overruns import ModelOverrun, Side
from governance.rules.scopes import BudgetRule, RateRule, keys_of

_NAMES = Shape("name text")
# Before all times.
NEVER = datetime.min.replace(tzinfo=UTC)
# So many rows of versions are left as they are, and so many made one at once.
_FEW, _MOST_COMPACTED = 20, 10_000


class Version(NamedTuple):
    """Of all that is remembered of callers, see `caller_rules`; and microseconds since 1970 by the database's clock,
    where it has one of its own."""

    number: str
    clock_micros: int | None


class _Fact(NamedTuple):
    """A row of `caller_status`: a tenant, a paused agent, a key that ends, a stop, or an overrun."""

    kind: str
    id: int
    word: str
    more: str
    revoked_at: datetime | str | None
    expires_at: datetime | str | None


def version() -> Select[Version]:
    """Which version of all rules this transaction sees, and what time it is."""
    told = clock.COLUMN if words.is_postgres() else "NULL"
    return Select(
        # By its index, like all else.
        f"SELECT CAST(COALESCE(SUM(n), 0) AS text), {told} FROM governance_rulechange WHERE id > 0",
        [],
        lambda rows: Version(*rows[0]),
    )


def compact_versions() -> None:
    """Make one of the rows that versions are summed of, where they are more than a few: with the same sum.

    They go and it comes in one moment, so everybody sees all of them or the one. What is added meanwhile stays.
    """
    rows = words.select(
        "SELECT c.id, c.n FROM governance_rulechange c WHERE c.id > 0 ORDER BY c.id LIMIT %s"
        f"{for_update('c')}{words.skip_locked()}",
        [_MOST_COMPACTED],
    )
    if len(rows) > _FEW:
        words.run(f"DELETE FROM governance_rulechange WHERE id IN {among(IDS)}", [pack_ids([id for id, _ in rows])])
        words.run("INSERT INTO governance_rulechange (n) VALUES (%s)", [sum(n for _, n in rows)])


def try_to_write() -> None:
    """Write a change that is none and take it back: the version is the same, and both are in the database's log."""
    words.run("INSERT INTO governance_rulechange (n) VALUES (0)", [])
    words.run("DELETE FROM governance_rulechange WHERE n = 0", [])


def caller_status(callers: Collection[Caller]) -> Select[CallerStatus]:
    """Status of the callers' tenants, agents and keys."""
    tenants = pack_ids({caller.tenant_id for caller in callers})
    keys = pack_ids({caller.key_id for caller in callers if caller.key_id is not None})
    none = "CAST(NULL AS timestamptz), CAST(NULL AS timestamptz)"
    return Select(
        f"SELECT 't', id, status, time_zone, {none} FROM governance_tenant WHERE id IN {among(IDS)}"
        f" UNION ALL SELECT 'a', tenant_id, slug, '', {none} FROM governance_agent"
        f" WHERE status = 'paused' AND tenant_id IN {among(IDS)}"
        f" UNION ALL SELECT 'k', id, '', '', revoked_at, expires_at FROM governance_apikey"
        f" WHERE id IN {among(IDS)} AND (revoked_at IS NOT NULL OR expires_at IS NOT NULL)"
        f" UNION ALL SELECT 's', COALESCE(e.tenant_id, 0), COALESCE(a.slug, ''), '', {none}"
        f" FROM governance_emergencystop e LEFT JOIN governance_agent a ON a.id = e.agent_id"
        f" WHERE e.lifted_at IS NULL AND (e.tenant_id IS NULL OR e.tenant_id IN {among(IDS)})"
        f" UNION ALL SELECT side, tokens, place, asked, {none} FROM governance_overrun WHERE cleared_at IS NULL",
        [tenants, tenants, keys, tenants],
        _caller_status,
    )


def _caller_status(rows: list[Any]) -> CallerStatus:
    facts = defaultdict(list)
    for fact in map(_Fact._make, rows):
        facts[fact.kind].append(fact)
    return CallerStatus(
        of_tenants={fact.id: fact.word for fact in facts["t"]},
        time_zones={fact.id: fact.more for fact in facts["t"]},
        paused_agents={(fact.id, fact.word) for fact in facts["a"]},
        key_ends={fact.id: _end(fact) for fact in facts["k"]},
        stops={(fact.id, fact.word) for fact in facts["s"]},
        overruns=tuple(ModelOverrun(fact.word, fact.more, fact.id, side=side) for side in Side for fact in facts[side]),
    )


def _end(key: _Fact) -> datetime:
    """A revoked one has ended: when is what the clock said of whoever did it, which may be ahead of all others."""
    return NEVER if key.revoked_at is not None or key.expires_at is None else moment(key.expires_at)


def budgets(callers: Collection[Caller]) -> Select[list[BudgetRule]]:
    """Every enabled budget that could govern one of the callers."""
    where, params = _of_callers(callers)
    return Select(
        f"SELECT {BUDGET}, {POLICY} FROM governance_budget b WHERE b.enabled AND {where} ORDER BY b.id",
        params,
        lambda rows: [budget_rule(*parts) for parts in split(rows, BUDGET, POLICY)],
    )


def rate_rules(callers: Collection[Caller]) -> Select[list[RateRule]]:
    """Every enabled rate limit that could govern one of the callers."""
    where, params = _of_callers(callers)
    return Select(
        f"SELECT {RATE_LIMIT} FROM governance_ratelimit b WHERE b.enabled AND {where} ORDER BY b.id",
        params,
        lambda rows: [rate_rule(row) for row in map(RATE_LIMIT.make, rows)],
    )


def _of_callers(callers: Collection[Caller]) -> tuple[str, list[Any]]:
    """A condition on `b`, a table of scoped rules, that leaves out most that cannot match; and its parameters."""
    tenants = {caller.tenant_id for caller in callers}
    keys = {EACH, ""}.union(*(keys_of(caller).values() for caller in callers))
    return (
        f"(b.tenant_id IS NULL OR b.tenant_id IN {among(IDS)})"
        f" AND (b.scope_type = 'tenant' OR b.scope_key IN (SELECT v.name FROM {_NAMES}))"
    ), [pack_ids(tenants), _NAMES.pack([(key,) for key in keys])]
