from __future__ import annotations

import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.utils import timezone

from config import demo
from governance import ledger
from governance.models import Agent, ApiKey, Budget, BudgetWindow, SpendEntry
from governance.models.tenancy import digest_of
from governance.rules.decision import State
from governance.upkeep import reconcile

pytestmark = pytest.mark.django_db

# Where a calendar's windows begin or end within a minute, a month is short or long, or a day has 23 or 25 hours.
EDGES = [
    "2027-01-01T00:00:30",
    "2027-02-28T23:59:30",
    "2028-02-29T23:59:30",
    "2027-03-28T00:59:30",
    "2027-10-31T00:59:30",
    "2026-11-30T23:59:00",
    "2027-12-31T23:59:30",
]
ZONES = ["UTC", "Pacific/Auckland", "America/Los_Angeles"]


def open_windows() -> list[BudgetWindow]:
    return list(BudgetWindow.objects.filter(closed_at=None).select_related("budget"))


def run(*args: str) -> str:
    told = io.StringIO()
    call_command("seed_demo", *args, stdout=told)
    return told.getvalue()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> Path:
    """Sixteen days are enough to show both of acme's billing periods."""
    monkeypatch.setattr(demo, "DAYS", 16)
    settings.VAR_DIR = tmp_path
    return tmp_path


def test_it_makes_a_believable_product_once_and_prints_the_same_twice(short: Path) -> None:
    first = json.loads(run("--json", "--port", "23456"))
    counts = [kind.objects.count() for kind in (SpendEntry, Budget, Agent, ApiKey, BudgetWindow)]
    assert json.loads(run("--json", "--port", "23456")) == first
    assert [kind.objects.count() for kind in (SpendEntry, Budget, Agent, ApiKey, BudgetWindow)] == counts
    assert first["url"] == "http://127.0.0.1:23456"
    assert authenticate(username=first["login"]["user"], password=first["login"]["password"])
    assert len(first["keys"]) == 9
    assert ApiKey.objects.filter(digest__in=[digest_of(key) for key in first["keys"].values()]).count() == 9
    assert (short / "demo.json").stat().st_mode & 0o077 == 0
    assert reconcile.check() == []
    assert set(State) == {window.state for window in open_windows()}
    assert SpendEntry.objects.count() > 500


# What is tested is arithmetic on dates: one database is enough.
@pytest.mark.sqlite_only
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("local", EDGES)
def test_it_shows_every_state_whatever_the_day_and_still_does_hours_later(short: Path, local: str, zone: str) -> None:
    with time_machine.travel(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)), tick=False) as clock:
        run()
        windows = open_windows()
        assert set(State) == {window.state for window in windows}
        # The first key is the one in the line to paste: a call with it is served.
        assert not [each for each in windows if each.subject == "acme/invoices" and each.state == State.STOPPED]
        assert not [each for each in windows if each.settled_nanos > each.limit_nanos]
        clock.shift(timedelta(hours=6))
        ledger.roll_windows(now=timezone.now())
        assert set(State) == {window.state for window in open_windows()}
        assert reconcile.check() == []


def test_the_printed_text_holds_a_line_to_paste(short: Path) -> None:
    told = run("--port", "23456")
    assert "curl -s http://127.0.0.1:23456/v1/chat/completions" in told
    assert '"model": "mistral-small-latest"' in told


def test_a_dry_run_adds_nothing(short: Path) -> None:
    assert "Would add acme, globex, initech" in run("--dry-run")
    assert not SpendEntry.objects.exists()
    assert not Budget.objects.exists()
