"""What a hand changes in one cell of the ledger's tables is named by the judge with its row, or refused at once."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection, transaction

from governance import ledger
from governance.actions import allowances, reviews
from governance.audit import Actor
from governance.ledger.operations import Adjust, Reset
from governance.models import Allowance, Budget, BudgetAct, BudgetWindow, PendingReport, Reservation, SpendEntry
from governance.upkeep import reconcile
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db
ADA = Actor("ada")
LATER = NOON + timedelta(hours=1)


@pytest.fixture
def books() -> dict[str, Any]:
    """A ledger with a row of each kind; ids that tamperings are about."""
    budget, beta = make.budget("10"), make.tenant("beta")
    make.budget("10", tenant=beta)
    make.budget("50", scope_type="platform", window="month")
    settled, over, pending, released, dying = (make.reserving("0.30") for _ in range(5))
    ledger.apply([settled, over, released, dying], now=NOON)
    ledger.settle(make.settling(settled.reservation_id, "0.20"), now=NOON)
    ledger.settle(make.settling(over.reservation_id, "0.50"), now=NOON)
    ledger.release(make.releasing(released.reservation_id), now=NOON)
    Reservation.objects.filter(pk=dying.reservation_id).update(expires_at=NOON)
    ledger.expire_due(now=NOON)
    ledger.record(make.reporting("0.10"), now=NOON)
    ledger.record(make.reporting("0.10", by=make.caller(beta)), now=NOON)
    charge = SpendEntry.objects.get(reservation=settled.reservation_id)
    ledger.adjust(Adjust(uuids.uuid7(), charge.pk, nanos("0.01"), "more"), now=NOON)
    allowances.top_up(budget=budget, amount_nanos=nanos("1"), reason="a big day", by=ADA, now=NOON)
    raised = {"amount_nanos": nanos("1"), "starts_at": NOON, "ends_at": LATER}
    allowances.raise_limit(budget=budget, **raised, reason="a big hour", by=ADA, now=NOON)
    ledger.reset(Reset(budget.pk, "anew", "ada"), now=NOON + timedelta(minutes=1))
    ledger.reserve(pending, now=NOON + timedelta(minutes=1))
    assert reconcile.check() == []
    mine, theirs = (BudgetWindow.objects.get(tenant__slug=slug, closed_at=None) for slug in ("acme", "beta"))
    granted = {("dated" if row.window_id is None else "top-up"): row.pk for row in Allowance.objects.all()}
    return {
        **granted,
        "window": mine.pk,
        "closed": BudgetWindow.objects.get(tenant__slug="acme", budget=budget, closed_at__isnull=False).pk,
        "theirs": theirs.pk,
        "budget": budget.pk,
        "beta": beta.pk,
        "charge": charge.pk,
        "report": SpendEntry.objects.filter(reservation=None, tenant__slug="acme").get().pk,
        "correction": SpendEntry.objects.get(kind="adjustment").pk,
        **{
            name: op.reservation_id
            for name, op in {
                "settled": settled, "over": over, "pending": pending, "released": released, "dying": dying
            }.items()
        },
    }  # fmt: skip


WITHOUT_TRIGGER = {
    "sqlite": "DROP TRIGGER governance_entry_append_only",
    "postgresql": "DROP TRIGGER governance_entry_append_only ON governance_spendentry",
}
WINDOW, RESERVATION, ENTRY = "governance_budgetwindow", "governance_reservation", "governance_spendentry"
# (table, whose row, column, value); in a value, {name} is one of the books'.
CELLS: list[tuple[str, str, str, Any]] = [
    *((WINDOW, "window", "limit_nanos", value) for value in (nanos("1000"), nanos("1"), -1, 0)),
    *(
        (WINDOW, "window", name, nanos("7"))
        for name in ("settled_nanos", "reserved_nanos", "extra_nanos", "carried_nanos")
    ),
    (WINDOW, "window", "purged_nanos", nanos("7")),
    (WINDOW, "window", "state", "stopped"),
    *((WINDOW, "closed", name, nanos("7")) for name in ("settled_nanos", "reserved_nanos", "purged_nanos")),
    *((WINDOW, "window", "revision", value) for value in (-1, 7)),
    ("governance_budget", "budget", "revision", 7),
    ("governance_allowance", "dated", "amount_nanos", nanos("500")),
    (WINDOW, "window", "tenant_id", "{beta}"),
    (WINDOW, "window", "tenant_id", None),
    (WINDOW, "window", "closed_at", "2026-03-10 12:30:00+00"),
    *(
        (WINDOW, "window", "thresholds_crossed", value)
        for value in ('{{"a": 1}}', "5", "null", "[1]", '["0.5", "0.5"]')
    ),
    ("governance_budget", "budget", "limit_nanos", nanos("1000")),
    *((RESERVATION, "pending", name, value) for name, value in (("amount_nanos", 1), ("status", "settled"))),
    *((RESERVATION, name, "status", "pending") for name in ("settled", "released", "dying")),
    *((RESERVATION, "settled", "status", value) for value in ("released", "expired", "odd")),
    *((RESERVATION, "dying", "status", value) for value in ("released", "settled")),
    *((RESERVATION, "released", "status", value) for value in ("expired", "settled")),
    (RESERVATION, "pending", "resolved_at", "2026-03-10 12:30:00+00"),
    *((RESERVATION, "settled", "amount_nanos", value) for value in (nanos("0.10"), -1)),
    *((RESERVATION, "over", "amount_nanos", value) for value in (nanos("0.40"), nanos("9"))),
    *((RESERVATION, "dying", "amount_nanos", value) for value in (nanos("0.40"), 0)),
    *((RESERVATION, "settled", name, "other") for name in ("agent", "user", "session", "task")),
    (RESERVATION, "settled", "tenant_id", "{beta}"),
    (RESERVATION, "pending", "tenant_id", "{beta}"),
    *(
        (RESERVATION, name, "windows", value)
        for name in ("pending", "settled", "released")
        for value in ("[{theirs}]", '["x"]', "[null]", "{{}}", '{{"a": 1}}', "5", "null", "[999999]", "[1.5]", "[-1]")
    ),
    *((RESERVATION, name, "windows", "[{window}, {window}]") for name in ("pending", "settled", "released")),
    *((RESERVATION, "pending", "meters", value) for value in ('["x"]', "{{}}", "5", "[null]")),
    *((ENTRY, name, "windows", value) for name in ("charge", "report", "correction") for value in ("[{theirs}]", "5")),
    *((ENTRY, name, "cost_nanos", 1) for name in ("charge", "report", "correction")),
    *((ENTRY, name, "overage_nanos", 1) for name in ("charge", "report", "correction")),
    *((ENTRY, "charge", name, "other") for name in ("agent", "provider", "model_served", "user", "session", "task")),
    *((ENTRY, "charge", name, 10**6) for name in ("input_tokens", "cached_tokens", "output_tokens")),
    (ENTRY, "charge", "occurred_at", "2026-03-09 12:30:00+00"),
    (ENTRY, "charge", "reservation_id", "{over}"),
    (ENTRY, "charge", "reason", "expired"),
    (ENTRY, "correction", "reservation_id", None),
    (ENTRY, "correction", "corrects_id", "{report}"),
    (ENTRY, "charge", "tenant_id", "{beta}"),
]


@pytest.mark.parametrize(("table", "whose", "column", "value"), CELLS)
def test_a_cell_that_was_changed_by_hand_is_named(
    books: dict[str, Any], table: str, whose: str, column: str, value: Any
) -> None:
    def stored(one: Any) -> Any:
        return one.hex if isinstance(one, UUID) and connection.vendor == "sqlite" else one

    if isinstance(value, str):
        value = value.format(**{name: stored(each) for name, each in books.items()})
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_TRIGGER[connection.vendor])
        try:
            with transaction.atomic():
                cursor.execute(f'UPDATE {table} SET "{column}" = %s WHERE id = %s', [value, stored(books[whose])])
        except DatabaseError:
            return
    found = reconcile.check()
    assert found, "nobody saw it"
    assert not [drift for drift in found if "cannot be read" in drift.subject]
    assert reconcile.check(since=NOON - timedelta(days=1)) == found


@pytest.mark.parametrize("column", ["windows", "occurred_at"])
def test_rows_that_cannot_be_read_end_in_a_finding(books: dict[str, Any], column: str) -> None:
    if column == "occurred_at" and connection.vendor == "postgresql":
        pytest.skip("a typed column")
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_TRIGGER[connection.vendor])
        cursor.execute(f"UPDATE {ENTRY} SET {column} = %s WHERE kind = 'adjustment'", ['["x"]'])
    printed = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile_ledger", stdout=printed)
    assert ended.value.code == 1
    assert f"invariant 7: entry {_shown(books['correction'])}" in printed.getvalue().replace("spendentry", "entry")


def _shown(id: UUID) -> str:
    return id.hex if connection.vendor == "sqlite" else str(id)


def test_a_database_that_is_away_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: Any) -> Any:
        raise OperationalError("database is locked")

    monkeypatch.setattr("governance.upkeep.contradictions.found", away)
    with pytest.raises(OperationalError):
        reconcile.check()


def test_a_report_that_an_operator_made_meanwhile_at_another_cost_is_none() -> None:
    make.budget("1.00")
    trust = reviews.trust_in(tenant_id=make.tenant().pk, agent_is_fixed=False)
    kept = reviews.report(report=make.reporting("5.00", request_id="r1", trust=trust), now=NOON)
    assert isinstance(kept, PendingReport)
    ledger.record(make.reporting("4.90", request_id="r1"), now=NOON)
    reviews.accept(report=kept, reason="it is that one", by=ADA, now=NOON)
    assert reconcile.check() == []


@pytest.mark.parametrize(("said", "spent", "state"), [("active", "10", "stopped"), ("stopped", "5", "active")])
def test_a_window_that_is_said_to_be_stopped_or_not_is_worked_out_anew(said: str, spent: str, state: str) -> None:
    make.budget("10", soft_cap=None, clamp=False)
    ledger.record(make.reporting(spent), now=NOON)
    assert (BudgetWindow.objects.get().state, reconcile.check()) == (state, [])
    BudgetWindow.objects.update(state=said)
    [drift] = reconcile.check()
    assert (drift.invariant, drift.figure, drift.expected) == (7, "stopped", int(state == "stopped"))


@pytest.mark.django_db(transaction=True)
def test_a_repair_works_states_out_anew() -> None:
    make.budget("10", soft_cap=None, clamp=False)
    ledger.record(make.reporting("10"), now=NOON)
    BudgetWindow.objects.update(state="active")
    reconcile.repair(by=ADA, now=LATER)
    assert (BudgetWindow.objects.get().state, reconcile.check()) == ("stopped", [])


def test_a_window_that_has_not_followed_a_lowered_cap_is_no_contradiction() -> None:
    budget = make.budget("10", soft_cap=None, clamp=False)
    ledger.record(make.reporting("5"), now=NOON)
    Budget.objects.filter(pk=budget.pk).update(hard_cap="0.4", revision=1)
    BudgetAct.objects.create(budget=budget, kind="limit", revision=1, limit_nanos=nanos("10"), acted_at=NOON)
    assert [drift for drift in reconcile.check() if drift.figure == "stopped"] == []
