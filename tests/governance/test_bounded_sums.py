"""The migration that bounds the sums, on a ledger that is beyond them: as two reports of $9 billion made it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from governance import ledger
from governance.models import (
    AuditEntry,
    Budget,
    BudgetEvent,
    BudgetWindow,
    RateBucket,
    Reservation,
    SpendEntry,
    SpendRollup,
)
from governance.rules import money
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import nanos
from tests.governance.api.conftest import persona

pytestmark = pytest.mark.django_db(transaction=True)

HUGE = 9_000_000_000 * money.NANOS_PER_DOLLAR
SQLITE = connection.vendor == "sqlite"


def sql(statement: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


def migrate(*name: str) -> None:
    """To the migration of that name, or all to their last: other apps' went back with it."""
    call_command("migrate", *(("governance", *name) if name else ()), verbosity=0, stdout=io.StringIO())


@pytest.fixture
def old_schema() -> Iterator[Callable[[], None]]:
    """Brings the ledger's tables to what they were before there were bounds, with what is in them."""
    yield lambda: migrate("0009")
    migrate()


@pytest.fixture
def trigger_comes_back() -> Iterator[None]:
    """Of SQLite's, which is told from what its schema says."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'governance_entry_append_only'")
        (made_by,) = cursor.fetchone()
    yield
    sql(made_by)


def two_reports_of_nine_billion() -> None:
    """Two reports as they were booked: entries are whole, and the sums of two are more than 64 bits hold.

    SQLite keeps such a sum as a REAL; PostgreSQL refused the second report, so that a sum is of one there.
    """
    sql("DROP TRIGGER governance_entry_append_only" + ("" if SQLITE else " ON governance_spendentry"))
    sql("UPDATE governance_spendentry SET cost_nanos = %s", HUGE)
    more = HUGE if SQLITE else 0
    sql("UPDATE governance_budgetwindow SET settled_nanos = %s + %s, state = 'stopped'", HUGE, more)
    sql("UPDATE governance_spendrollup SET cost_nanos = %s + %s, output_tokens = %s", HUGE, more, 2**62)
    sql("UPDATE governance_budgetevent SET settled_nanos = %s + %s", HUGE, more)
    sql("UPDATE governance_ratemeter SET level_tokens_e6 = %s", 2**62)
    sql("UPDATE governance_budget SET limit_nanos = %s WHERE scope_type = 'user'", HUGE)


@pytest.fixture
def sound() -> tuple[Any, Any]:
    """A ledger of $10 a day to which one agent reported $40; an agent of it and one of another tenant."""
    Budget.objects.create(scope_type="platform", window="day", limit_nanos=nanos("100"))
    make.budget("10")
    # Of nobody who calls, so that no window has another limit.
    make.budget("10", scope_type="user", scope_key="nobody")
    agent, stranger = persona("agent"), persona("agent", of=make.tenant("globex"))
    persona("agent")
    by = make.caller(agent="invoices")
    for _ in range(2):
        ledger.record(make.reporting("20", by=by), now=timezone.now())
    return agent, stranger


@pytest.fixture
def broken(sound: tuple[Any, Any], old_schema: Callable[[], None]) -> tuple[Any, Any]:
    """The same, to which $18 billion were reported before there were bounds."""
    old_schema()
    two_reports_of_nine_billion()
    return sound


def columns() -> set[str]:
    """The types of the money there is, as SQLite keeps it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT typeof(settled_nanos) FROM governance_budgetwindow"
            " UNION SELECT typeof(cost_nanos) FROM governance_spendrollup"
            " UNION SELECT typeof(settled_nanos) FROM governance_budgetevent"
        )
        return {kind for (kind,) in cursor.fetchall()}


def goes_on(agent: Any, stranger: Any) -> None:
    """Console, API, health and calls work."""
    assert reconcile.check() == []
    User.objects.create_superuser("ada", password="x")
    console = Client()
    console.force_login(User.objects.get())
    for page in ("", "budgetwindow/", "budget/", "spendentry/", "budgetevent/"):
        path = f"/admin/{'governance/' if page else ''}{page}"
        assert console.get(path).status_code == 200, path
    for path in ("/api/budgets", "/api/spend", "/api/spend/summary", "/api/health"):
        assert agent.get(path).status_code == 200, path
    assert agent.post("/api/reservations", {"model": "large", "estimated_cost": "0.01"}).status_code == 402
    # The platform's own budget is used up as well: its own operator resets it.
    # So a stranger's report waits for its operator as well.
    assert stranger.post("/api/spend", {"request_id": "r", "cost": "0.01"}).status_code in (201, 409)
    held = make.reserving("0.01", by=make.caller(make.tenant("third")))
    assert ledger.reserve(held, now=timezone.now()).reason == "budget_exhausted"
    operator = persona("operator")
    platform = Budget.objects.get(scope_type="platform")
    assert operator.post(f"/api/budgets/{platform.pk}/reset", {"reason": "a mistake"}).status_code == 200
    assert ledger.reserve(held, now=timezone.now()).allowed
    ledger.settle(make.settling(held.reservation_id, "0.01"), now=timezone.now())
    assert reconcile.check() == []


def test_a_broken_ledger_is_migrated_and_goes_on(broken: tuple[Any, Any]) -> None:
    if SQLITE:
        assert "real" in columns()
    migrate()
    if SQLITE:
        assert columns() == {"integer"}
    # An entry stands at its bound, and what the sums are is counted anew.
    assert set(SpendEntry.objects.values_list("cost_nanos", flat=True)) == {money.MAX_AMOUNT_NANOS}
    assert set(BudgetWindow.objects.values_list("settled_nanos", flat=True)) == {2 * money.MAX_AMOUNT_NANOS}
    assert set(SpendRollup.objects.values_list("cost_nanos", flat=True)) == {2 * money.MAX_AMOUNT_NANOS}
    assert Budget.objects.get(scope_type="user").limit_nanos == money.MAX_LIMIT_NANOS
    kept = AuditEntry.objects.filter(action="ledger.repair", actor="migration", target__startswith="spend entry")
    assert [row.old["cost_nanos"] for row in kept] == [HUGE, HUGE]
    assert [row.new["cost_nanos"] for row in kept] == [money.MAX_AMOUNT_NANOS] * 2
    assert entries_are_append_only()
    goes_on(*broken)


def entries_are_append_only() -> bool:
    with pytest.raises(Exception, match="append-only"), transaction.atomic():
        SpendEntry.objects.update(cost_nanos=1)
    return True


def test_a_sound_ledger_is_left_as_it_is(old_schema: Callable[[], None]) -> None:
    make.budget("10")
    by = make.caller(agent="invoices")
    ledger.record(make.reporting("2", by=by), now=make.NOON)
    ledger.reserve(make.reserving("0.10", by=by), now=make.NOON)
    models = (SpendEntry, SpendRollup, BudgetWindow, BudgetEvent, Reservation, Budget)
    before = [list(model.objects.order_by("pk").values()) for model in models]
    old_schema()
    assert entries_are_append_only()
    migrate()
    assert entries_are_append_only()
    assert [list(model.objects.order_by("pk").values()) for model in models] == before
    assert not AuditEntry.objects.exists()


@pytest.mark.sqlite_only
@pytest.mark.usefixtures("trigger_comes_back")
def test_a_repair_does_not_die_on_what_it_finds(sound: tuple[Any, Any]) -> None:
    """Where somebody took the constraints and the trigger away."""
    sql("PRAGMA ignore_check_constraints = ON")
    two_reports_of_nine_billion()
    found = [str(drift) for drift in reconcile.check()]
    assert any("$18000000000" in line and "settled" in line for line in found)
    assert any(line.startswith("invariant 6") and "$18000000000" in line for line in found)
    assert any(line.startswith("invariant 3: event") for line in found)
    with pytest.raises(SystemExit):
        call_command("reconcile_ledger", stdout=io.StringIO())
    call_command("reconcile_ledger", "--repair", stdout=(printed := io.StringIO()))
    assert "Repaired: invariant 1" in printed.getvalue()
    assert columns() == {"integer"}
    assert set(BudgetWindow.objects.values_list("settled_nanos", flat=True)) == {money.MAX_SUM}
    audited = AuditEntry.objects.filter(action="ledger.repair", new__settled_nanos=money.MAX_SUM)
    assert audited.exists()
    sql("PRAGMA ignore_check_constraints = OFF")
    goes_on(*sound)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE governance_budgetwindow SET settled_nanos = {more_than_a_sum}",
        "UPDATE governance_budgetwindow SET reserved_nanos = {more_than_a_sum}",
        "UPDATE governance_budgetwindow SET limit_nanos = {more_than_a_sum}",
        "UPDATE governance_budgetwindow SET purged_nanos = {more_than_a_sum}",
        "UPDATE governance_spendrollup SET cost_nanos = {more_than_a_sum}",
        "UPDATE governance_spendrollup SET output_tokens = {more_than_a_sum}",
        "UPDATE governance_budget SET limit_nanos = {more_than_a_limit}",
        "UPDATE governance_reservation SET amount_nanos = {more_than_an_amount}",
        "UPDATE governance_reservation SET tokens = {more_than_an_amount}",
        "UPDATE governance_budgetevent SET settled_nanos = {more_than_a_sum}",
    ],
)
def test_the_database_itself_keeps_the_bounds(statement: str) -> None:
    make.budget("1")
    by = make.caller(agent="invoices")
    ledger.record(make.reporting("2", by=by), now=make.NOON)
    row = Reservation(tenant=make.tenant(), amount_nanos=1, reserved_at=make.NOON, expires_at=make.NOON)
    row.save()
    values = {
        "more_than_a_sum": money.MAX_SUM + 1,
        "more_than_a_limit": money.MAX_LIMIT_NANOS + 1,
        "more_than_an_amount": money.MAX_AMOUNT_NANOS + 1,
    }
    with pytest.raises(IntegrityError), transaction.atomic():
        sql(statement.format(**values))
    if SQLITE:
        column = statement.split("{")[0]
        for odd in ("1.5", "9.3e18", "'text'", "x'00'"):
            with pytest.raises(IntegrityError), transaction.atomic():
                sql(column + odd)


def test_an_entry_beyond_its_bound_is_refused_by_the_database() -> None:
    tenant = make.tenant()
    for column, value in (
        ("cost_nanos", money.MAX_AMOUNT_NANOS + 1),
        ("overage_nanos", money.MAX_AMOUNT_NANOS + 1),
        ("input_tokens", money.MAX_UNITS + 1),
        ("units", money.MAX_UNITS + 1),
    ):
        figures = {"cost_nanos": 1, column: value}
        with pytest.raises(IntegrityError), transaction.atomic():
            SpendEntry.objects.create(
                id=uuids.uuid7(), tenant=tenant, occurred_at=make.NOON, recorded_at=make.NOON, **figures
            )
    assert not RateBucket.objects.exists()
