from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import OperationalError, connection
from django.utils import timezone

from config.celery import PERIODS
from config.console import health_words
from governance.models import LedgerCheck
from governance.upkeep import jobs
from tests.factories import NOON
from tests.governance.api.conftest import Api


@pytest.fixture
def nobody(db: None) -> Api:
    return Api()


def test_it_is_open_and_names_every_part(nobody: Api) -> None:
    response = nobody.get("/api/health")
    body = response.json()
    assert (response.status_code, body["status"]) == (200, "ok")
    assert set(body) == {"status", "timestamp", "version", "services", "ledger_check", "jobs"}
    assert (body["ledger_check"], body["jobs"]) == (None, [])
    assert body["services"] == {
        "budget": "ok",
        "mistral": "sandbox",
        "stripe": "not_configured",
        "database": "ok",
        "broker": "filesystem",
        "jobs": "not_run",
    }


def test_jobs_are_told_and_a_late_one_makes_it_degraded(nobody: Api) -> None:
    with time_machine.travel(NOON, tick=False) as traveller:
        for task in PERIODS:
            jobs.run(task, lambda: None)
        assert nobody.get("/api/health").json()["services"]["jobs"] == "ok"
        traveller.shift(timedelta(minutes=3))
        body = nobody.get("/api/health").json()
        told = {job["name"]: job for job in body["jobs"]}
    assert (body["status"], body["services"]["jobs"]) == ("degraded", "late")
    assert set(told["expire_reservations"]) == {"name", "state", "last_success_at", "duration_s", "running_since"}
    assert told["expire_reservations"]["last_success_at"] == "2026-03-10T12:00:00Z"
    assert {told[name]["state"] for name in ("expire_reservations", "follow_acts")} == {"late"}
    assert told["reconcile_ledger"]["state"] == "ok"


def test_the_overview_says_which_job_is_late_and_why(db: None) -> None:
    def fail() -> None:
        raise ValueError("no such table")

    with time_machine.travel(NOON, tick=False) as traveller:
        [first, *_] = health_words.lines({"jobs": "not_run"}, check=None, now=NOON)
        assert (first.tone, first.words[:30]) == ("neutral", "No periodic job has run yet: s")
        jobs.run("governance.tasks.expire_reservations", lambda: None)
        traveller.shift(timedelta(hours=1))
        with pytest.raises(ValueError, match="no such table"):
            jobs.run("governance.tasks.follow_acts", fail)
        found = health_words.lines({"jobs": "late"}, check=None, now=timezone.now())
    told = [line.words.replace("\xa0", " ") for line in found if line.tone == "warning"]
    assert "The job expire_reservations has not succeeded for 1 hour: are a worker and beat running?" in told
    assert "The job follow_acts has never succeeded yet: its last run failed: ValueError: no such table" in told


def test_jobs_that_cannot_be_read_are_down(nobody: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr("governance.queries.jobs.statuses", broken)
    body = nobody.get("/api/health").json()
    assert (body["status"], body["services"]["jobs"], body["jobs"]) == ("degraded", "down", [])


def test_probes(nobody: Api) -> None:
    assert [nobody.get(f"/api/health/{probe}").status_code for probe in ("live", "ready")] == [200, 200]


def test_without_a_database_it_is_alive_but_neither_well_nor_ready(
    nobody: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(connection, "cursor", broken)
        whole, ready, live = (nobody.get(f"/api/health{part}") for part in ("", "/ready", "/live"))
        denied = Api("sg_key").get("/api/budgets")
    assert [response.status_code for response in (whole, ready, live)] == [503, 503, 200]
    assert whole.json()["services"]["database"] == "down"
    # Whoever asks for more is told to try again.
    assert (denied.status_code, denied["Retry-After"]) == (503, "1")


def test_a_broker_that_does_not_answer_makes_it_degraded(nobody: Api, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    body = nobody.get("/api/health").json()
    assert (body["status"], body["services"]["broker"]) == ("degraded", "down")


@pytest.mark.parametrize(("repaired", "status", "budget"), [(0, "degraded", "drifted"), (2, "ok", "ok")])
def test_the_last_check_of_the_ledger_is_told_and_a_drift_makes_it_degraded(
    nobody: Api, repaired: int, status: str, budget: str
) -> None:
    LedgerCheck.objects.create(checked_at=NOON, took_ms=5, drifts=0)
    LedgerCheck.objects.create(checked_at=NOON, took_ms=5, drifts=2, repaired=repaired)
    response = nobody.get("/api/health")
    body = response.json()
    assert (response.status_code, body["status"], body["services"]["budget"]) == (200, status, budget)
    assert body["ledger_check"] == {"checked_at": "2026-03-10T12:00:00Z", "drifts": 2, "repaired": repaired}
