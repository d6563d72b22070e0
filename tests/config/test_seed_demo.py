from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command

from config import demo
from governance.models import Agent, ApiKey, Budget, BudgetWindow, SpendEntry
from governance.models.tenancy import digest_of
from governance.upkeep import reconcile

pytestmark = pytest.mark.django_db


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
    states = set(BudgetWindow.objects.filter(closed_at=None).values_list("state", flat=True))
    assert {"active", "degraded", "stopped"} <= states
    assert SpendEntry.objects.count() > 500


def test_the_printed_text_holds_a_line_to_paste(short: Path) -> None:
    told = run("--port", "23456")
    assert "curl -s http://127.0.0.1:23456/v1/chat/completions" in told
    assert '"model": "mistral-small-latest"' in told


def test_a_dry_run_adds_nothing(short: Path) -> None:
    assert "Would add acme, globex, initech" in run("--dry-run")
    assert not SpendEntry.objects.exists()
    assert not Budget.objects.exists()
