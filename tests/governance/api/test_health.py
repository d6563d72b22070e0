from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection

from tests.governance.api.conftest import Api


def test_it_is_open_and_names_every_part(nobody: Api) -> None:
    response = nobody.get("/api/health")
    body = response.json()
    assert (response.status_code, body["status"]) == (200, "ok")
    assert set(body) == {"status", "timestamp", "version", "services"}
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
