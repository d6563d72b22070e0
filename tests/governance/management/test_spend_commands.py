"""`manage.py spend_report`, `purge_spend` and `expire_reservations`, as a script runs them."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from governance import ledger
from governance.models import AuditEntry, Reservation, SpendEntry, SpendRollup
from governance.upkeep import reconcile
from tests import factories as make

pytestmark = pytest.mark.django_db


def run(command: str, *args: str) -> tuple[str, int]:
    told = io.StringIO()
    try:
        call_command(command, *args, stdout=told, stderr=io.StringIO())
    except SystemExit as end:
        return told.getvalue(), int(str(end.code))
    return told.getvalue(), 0


@pytest.fixture
def three_days() -> None:
    """$0.10 by invoices on the 10th, $0.20 by mails on the 11th, $0.40 of another tenant on the 12th."""
    for day, cost, tenant, agent in [
        (0, "0.10", "acme", "invoices"),
        (1, "0.20", "acme", "mails"),
        (2, "0.40", "beta", "x"),
    ]:
        by = make.caller(make.tenant(tenant), agent=agent)
        ledger.record(make.reporting(cost, by=by), now=make.NOON + timedelta(days=day))


# spend_report


def test_the_report_is_a_table_with_a_total(three_days: None) -> None:
    text, status = run("spend_report", "--by", "tenant,agent")
    assert status == 0
    assert [line.split() for line in text.splitlines()] == [
        ["tenant", "agent", "calls", "input_tokens", "cached_tokens", "output_tokens", "cost"],
        ["beta", "x", "1", "100", "0", "20", "0.40"],
        ["acme", "mails", "1", "100", "0", "20", "0.20"],
        ["acme", "invoices", "1", "100", "0", "20", "0.10"],
        ["total", "3", "300", "0", "60", "0.70"],
    ]


def test_the_report_as_json_keeps_to_its_period_and_its_tenant(three_days: None) -> None:
    asked = ("--by", "day", "--from", "2026-03-11", "--to", "2026-03-12T12:00Z", "--json")
    found = json.loads(run("spend_report", *asked)[0])
    assert [(row["day"], row["cost"]) for row in found["results"]] == [("2026-03-11", "0.20")]
    assert found["total"]["cost"] == "0.20"
    found = json.loads(run("spend_report", "--tenant", "acme", "--agent", "mails", "--json")[0])
    assert [(row["tenant"], row["calls"]) for row in found["results"]] == [("acme", 1)]


def test_the_report_as_csv_never_starts_a_formula(three_days: None) -> None:
    by = make.caller(agent="=HYPERLINK()")
    ledger.record(make.reporting("1.00", by=by), now=make.NOON)
    rows = list(csv.DictReader(io.StringIO(run("spend_report", "--by", "agent,month", "--csv")[0])))
    assert (rows[0]["agent"], rows[0]["month"], rows[0]["cost"]) == ("'=HYPERLINK()", "2026-03", "1.00")
    assert len(rows) == 4


def test_nothing_spent_is_said() -> None:
    assert run("spend_report")[0] == "Nothing was spent.\n"
    assert json.loads(run("spend_report", "--json")[0])["total"]["cost"] == "0.00"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--by", "colour"], "--by: must be of tenant"),
        (["--by", ","], "--by: must be of tenant"),
        (["--from", "soon"], "--from: must be a day"),
        (["--to", "2026-02-30"], "--to: must be a day"),
        (["--from", "2026-03-02", "--to", "2026-03-01"], "--to: must be later"),
        (["--tenant", "nobody"], "--tenant: There is no tenant"),
    ],
)
def test_a_report_of_what_cannot_be_is_refused(args: list[str], says: str) -> None:
    with pytest.raises(CommandError) as refused:
        run("spend_report", *args)
    assert str(refused.value).startswith(says)


# purge_spend


def aged(days: int, cost: str = "0.10") -> None:
    held = make.reserving(cost)
    at = timezone.now() - timedelta(days=days)
    ledger.reserve(held, now=at)
    ledger.settle(make.settling(held.reservation_id, cost), now=at)


def test_a_purge_deletes_what_is_older_and_says_so() -> None:
    for days in (1, 40, 50):
        aged(days)
    looked = json.loads(run("purge_spend", "--older-than-days", "30", "--dry-run", "--json")[0])
    assert (looked["entries"], looked["reservations"], looked["cost"], looked["dry_run"]) == (2, 2, "0.20", True)
    assert SpendEntry.objects.count() == 3
    text, status = run("purge_spend", "--older-than-days", "30", "--batch", "1")
    assert text.startswith("Deleted 2 entries ($0.20) and 2 reservations from before ")
    assert status == 0
    assert (SpendEntry.objects.count(), Reservation.objects.count()) == (1, 1)
    assert AuditEntry.objects.filter(action="spend.purge").count() == 2
    assert reconcile.check() == []


@pytest.mark.parametrize("args", [[], ["--dry-run"]])
def test_a_purge_of_drifted_hours_is_refused_with_the_drift(args: list[str]) -> None:
    aged(40)
    SpendRollup.objects.update(calls=7)
    text, status = run("purge_spend", "--older-than-days", "30", *args)
    assert "calls is 7, expected 1, off by 6" in text
    assert status == 1
    text, status = run("purge_spend", "--older-than-days", "30", "--json", *args)
    assert [drift["figure"] for drift in json.loads(text)["drifts"]] == ["calls"]
    assert SpendEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [(["--older-than-days", "0"], "--older-than-days"), (["--older-than-days", "1", "--batch", "0"], "--batch")],
)
def test_a_purge_that_cannot_be_is_refused(args: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        run("purge_spend", *args)


# expire_reservations


def test_expire_reservations_charges_what_died() -> None:
    ledger.reserve(make.reserving("0.10"), now=timezone.now() - timedelta(days=1))
    assert run("expire_reservations", "--dry-run")[0] == "1 reservations are due.\n"
    assert json.loads(run("expire_reservations", "--json")[0]) == {"expired": 1, "due": 1}
    assert SpendEntry.objects.get().reason == "expired"
    assert run("expire_reservations")[0] == "0 reservations expired.\n"
