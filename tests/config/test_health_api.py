from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection

from governance.models import LedgerCheck
from tests.factories import NOON
from tests.governance.api.conftest import Api


@pytest.fixture
def nobody(db: None) -> Api:
    return Api()


def test_it_is_open_and_names_every_part(nobody: Api) -> None:
    response = nobody.get("/api/health")
    body = response.json()
    assert (response.status_code, body["status"]) == (200, "ok")
    assert set(body) == {"status", "timestamp", "version", "services", "ledger_check"}
    assert body["ledger_check"] is None
    assert body["services"] == {
        "budget": "ok",
        "mistral": "sandbox",
        "stripe": "not_configured",
        "database": "ok",
        "broker": "filesystem",
    }


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
