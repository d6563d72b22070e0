"""Fills a database with calls as the gateway leaves them, by the database itself: ten million rows in some minutes.

Each call follows from its number alone: when it was, whose it was, which model answered, and what it cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, models, transaction
from django.db.models import Sum

from governance.actions import budgets, tenancy
from governance.audit import Actor
from governance.models import Agent, Budget, BudgetWindow, Reservation, SpendEntry, SpendRollup, Tenant
from governance.models.budgets import EACH
from governance.rules import money
from governance.rules.windows import Span, WindowKind, span_at

CUSTOMERS, AGENTS_OF_EACH, MONTHS = 200, 10, 24
LIMIT_DOLLARS = 1_000_000
BY = Actor("benchmark")
# With what a thousand tokens of input and of output cost, in nanodollars.
MODELS = (
    ("mistral-small-2603", 150_000, 600_000),
    ("mistral-medium-2508", 400_000, 2_000_000),
    ("mistral-large-2512", 500_000, 1_500_000),
    ("ministral-8b-2512", 150_000, 150_000),
)
# Calls that one statement makes.
AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Places:
    """The customers, and the budgets that govern them: the platform's, then each customer's own and its agents'."""

    tenants: list[Tenant]
    budgets: list[Budget]
    agents_of_each: int

    @property
    def windows_of_one(self) -> int:
        """Of a customer, each month: its own, then its agents'."""
        return 1 + self.agents_of_each

    @property
    def windows_a_month(self) -> int:
        """The platform's, then each customer's."""
        return 1 + len(self.tenants) * self.windows_of_one


def make_customers(now: datetime, *, customers: int = CUSTOMERS, agents_of_each: int = AGENTS_OF_EACH) -> Places:
    tenants = [tenancy.create_tenant(slug=f"customer-{n:03}", by=BY, now=now) for n in range(customers)]
    Agent.objects.bulk_create(
        Agent(tenant=tenant, slug=f"agent-{each}") for tenant in tenants for each in range(agents_of_each)
    )
    scopes = [
        (None, "platform", ""),
        *((owner, *scope) for owner in tenants for scope in (("tenant", ""), ("agent", "*"))),
    ]
    limit = money.nanos_from_dollars(LIMIT_DOLLARS)
    made = [
        budgets.create(tenant=owner, scope_type=kind, scope_key=key, window="month", limit_nanos=limit, by=BY, now=now)
        for owner, kind, key in scopes
    ]
    return Places(tenants, made, agents_of_each)


def fill(places: Places, calls: int, now: datetime, *, report: Callable[[str], None]) -> None:
    """Calls of the months until now, evenly spread over the time, with what the ledger keeps of them."""
    months = _months(now)
    first_window = _open_windows(places, months, now)
    whole_s = (now - months[0].starts_at).total_seconds()
    begun = 0
    for place, month in enumerate(months):
        ends_at = min(now, month.ends_at or now)
        until = round(calls * (ends_at - months[0].starts_at).total_seconds() / whole_s)
        call = _Calls(places, first_window + place * places.windows_a_month, month.starts_at, ends_at, begun, until)
        for start in range(begun, until, AT_ONCE):
            report(f"{start:,} of {calls:,} calls")
            call.make(start, min(until, start + AT_ONCE))
        begun = until
        report(f"{begun:,} of {calls:,} calls, sums of {month.starts_at:%B %Y}")
        _sum_up(month, ends_at)
        _settle_windows(places, first_window + place * places.windows_a_month, month)
    _analyze()


def _months(now: datetime) -> list[Span]:
    found = [span_at(WindowKind.MONTH, now, ZoneInfo("UTC"))]
    while len(found) < MONTHS:
        found.insert(0, span_at(WindowKind.MONTH, found[0].starts_at - timedelta(hours=1), ZoneInfo("UTC")))
    return found


def _open_windows(places: Places, months: list[Span], now: datetime) -> int:
    """Windows of each month, all but the last closed: one month after the other, so that their ids can be told.

    The first one's id.
    """
    made = [
        BudgetWindow(
            budget=budget,
            tenant=budget.tenant,
            subject=f"{budget.tenant.slug}/agent-{agent}" if budget.tenant and budget.scope_key == EACH else "",
            starts_at=month.starts_at,
            ends_at=month.ends_at,
            limit_nanos=budget.limit_nanos,
            opened_at=month.starts_at,
            closed_at=month.ends_at if month.ends_at and month.ends_at <= now else None,
        )
        for month in months
        for budget in places.budgets
        for agent in range(places.agents_of_each if budget.scope_key == EACH else 1)
    ]
    kept = BudgetWindow.objects.bulk_create(made, batch_size=2_000)
    assert [window.pk for window in kept] == list(range(kept[0].pk, kept[0].pk + len(kept))), "ids have gaps"
    return int(kept[0].pk)


class _Calls:
    """The calls of one month."""

    def __init__(
        self, places: Places, first_window: int, starts_at: datetime, ends_at: datetime, begun: int, until: int
    ) -> None:
        self._first, self._places = begun, places
        self._of = {
            "tenant": places.tenants[0].pk,
            "platform": first_window,
            "starts": int(starts_at.timestamp()),
            "seconds": int((ends_at - starts_at).total_seconds()) - 60,
            "calls": max(1, until - begun),
        }

    def make(self, start: int, end: int) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                # No key is looked up again for each row; wants a superuser.
                cursor.execute("SET LOCAL session_replication_role = replica")
            for table, columns in ((Reservation, self._reserved()), (SpendEntry, self._charged())):
                cursor.execute(*_insert(table, columns, self._numbers(start, end)))

    def _numbers(self, start: int, end: int) -> str:
        """FROM: what follows from each number by integers alone, which are the same on either database."""
        of = self._of
        spread = "({n} * {step} %% 2147483648 >> 16)"
        owner, agent, model = (spread.format(n="s.n", step=step) for step in (1327217885, 889516852, 1572180361))
        return f"""
            (SELECT d.*, (d.owner + d.agent + CASE WHEN d.any < 29491 THEN 0 ELSE d.any END) %% {len(MODELS)} AS which,
                400 + d.any %% 1000 AS input, 100 + d.any %% 400 AS output
            FROM (SELECT s.n, {of["starts"]} + (s.n - {self._first}) * {of["seconds"]} / {of["calls"]} AS second,
                {len(self._places.tenants)} * {owner} * {owner} * {owner} >> 45 AS owner,
                {self._places.agents_of_each} * {agent} * {agent} >> 30 AS agent, {model} AS any
            FROM {_series(start, end)}) d) c"""

    def _who(self) -> dict[str, str]:
        of, model = self._of, _choose("c.which", [f"'{name}'" for name, *_ in MODELS])
        own = f"{of['platform']} + 1 + c.owner * {self._places.windows_of_one}"
        return {
            "tenant_id": f"{of['tenant']} + c.owner",
            "agent": "'agent-' || c.agent",
            "user": "'user-' || c.any %% 50",
            "provider": "'mistral'",
            "model_requested": model,
            "model_served": model,
            "windows": _json(f"'[{of['platform']}, ' || ({own}) || ', ' || ({own} + 1 + c.agent) || ']'"),
        }

    def _cost(self) -> str:
        of_each = [f"(c.input * {input} + c.output * {output}) / 1000" for _, input, output in MODELS]
        return _choose("c.which", of_each)

    def _reserved(self) -> dict[str, str]:
        return self._who() | {
            "id": _uuid7("c.second", "c.n"),
            "amount_nanos": f"2 * ({self._cost()})",
            "tokens": "2 * (c.input + c.output)",
            "status": "'settled'",
            "reserved_at": _moment("c.second"),
            "expires_at": _moment("c.second + 900"),
            "resolved_at": _moment("c.second + 2"),
        }

    def _charged(self) -> dict[str, str]:
        is_guess = "c.any %% 100 = 0"
        return self._who() | {
            "id": _uuid7("c.second", "c.n"),
            "reservation_id": _uuid7("c.second", "c.n"),
            "request_id": "'call-' || c.n",
            "input_tokens": "c.input",
            "output_tokens": "c.output",
            "cost_nanos": self._cost(),
            "certainty": f"CASE WHEN {is_guess} THEN 'estimated' ELSE 'confirmed' END",
            "reason": f"CASE WHEN {is_guess} THEN 'usage_missing' ELSE '' END",
            "occurred_at": _moment("c.second"),
            "recorded_at": _moment("c.second + 2"),
        }


def _sum_up(month: Span, ends_at: datetime) -> None:
    sums = {
        "tenant_id": "e.tenant_id",
        "agent": "e.agent",
        "provider": "e.provider",
        "model": "e.model_served",
        "hour": _hour("e.occurred_at"),
        "calls": "COUNT(*)",
        "input_tokens": "SUM(e.input_tokens)",
        "output_tokens": "SUM(e.output_tokens)",
        "cost_nanos": "SUM(e.cost_nanos)",
    }
    insert, params = _insert(SpendRollup, sums, "governance_spendentry e")
    span = [connection.ops.adapt_datetimefield_value(at) for at in (month.starts_at, ends_at)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"{insert} WHERE e.occurred_at >= %s AND e.occurred_at < %s"
            f" GROUP BY {', '.join(sums[name] for name in ('tenant_id', 'agent', 'provider', 'model', 'hour'))}"
            # As the ledger writes them: those of one hour lie side by side.
            f" ORDER BY {sums['hour']}",
            [*params, *span],
        )


def _settle_windows(places: Places, first_window: int, month: Span) -> None:
    until = {"hour__lt": month.ends_at} if month.ends_at else {}
    of_agents = SpendRollup.objects.filter(hour__gte=month.starts_at, **until).values_list("tenant_id", "agent")
    settled = dict.fromkeys(range(first_window, first_window + places.windows_a_month), 0)
    for tenant_id, agent, nanos in of_agents.annotate(Sum("cost_nanos")).order_by():
        own = first_window + 1 + (tenant_id - places.tenants[0].pk) * places.windows_of_one
        for window in (first_window, own, own + 1 + int(agent.removeprefix("agent-"))):
            settled[window] += nanos
    BudgetWindow.objects.bulk_update(
        [BudgetWindow(pk=window, settled_nanos=nanos) for window, nanos in settled.items()], ["settled_nanos"], 500
    )


def _analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


def size_bytes() -> int:
    """What calls and their sums take, with their indexes; on SQLite the whole file."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            names = [model._meta.db_table for model in (Reservation, SpendEntry, SpendRollup)]
            cursor.execute(
                "SELECT SUM(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) AS of(name)", [names]
            )
        else:
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return int(cursor.fetchone()[0])


def _insert(table: type[models.Model], columns: dict[str, str], source: str) -> tuple[str, list[Any]]:
    """INSERT … SELECT of the columns that are named, and of each other one its field's default."""
    left = [field for field in _written(table) if field.column not in columns]
    names = ", ".join(connection.ops.quote_name(name) for name in [*columns, *(field.column for field in left)])
    values = ", ".join([*columns.values(), *("%s" for _ in left)])
    params = [field.get_db_prep_save(field.get_default(), connection) for field in left]
    return f"INSERT INTO {table._meta.db_table} ({names}) SELECT {values} FROM {source}", params


def _written(table: type[models.Model]) -> Iterator[models.Field[Any, Any]]:
    for field in table._meta.concrete_fields:
        if not isinstance(field, models.AutoField) and not field.has_db_default():
            yield field


def _is_postgres() -> bool:
    return connection.vendor == "postgresql"


def _series(start: int, end: int) -> str:
    if _is_postgres():
        return f"generate_series({start}::bigint, {end - 1}::bigint) AS s(n)"
    return (
        f"(WITH RECURSIVE number(n) AS (SELECT {start} UNION ALL SELECT n + 1 FROM number WHERE n + 1 < {end})"
        " SELECT n FROM number) s"
    )


def _choose(which: str, values: list[str]) -> str:
    return f"CASE {which} {' '.join(f'WHEN {n} THEN {value}' for n, value in enumerate(values))} END"


def _uuid7(second: str, number: str) -> str:
    """A UUIDv7 of a second, in the order of the numbers."""
    if _is_postgres():
        return (
            f"(lpad(to_hex({second} * 1000), 12, '0') || '7' || lpad(to_hex({number} / 4096 %% 4096), 3, '0') || '8'"
            f" || lpad(to_hex({number}), 15, '0'))::uuid"
        )
    return f"printf('%%012x7%%03x8%%015x', {second} * 1000, {number} / 4096 %% 4096, {number})"


def _moment(second: str) -> str:
    return (
        f"to_timestamp({second})" if _is_postgres() else f"strftime('%%Y-%%m-%%d %%H:%%M:%%S', {second}, 'unixepoch')"
    )


def _hour(moment: str) -> str:
    return f"date_trunc('hour', {moment}, 'UTC')" if _is_postgres() else f"strftime('%%Y-%%m-%%d %%H:00:00', {moment})"


def _json(text: str) -> str:
    return f"({text})::jsonb" if _is_postgres() else text
