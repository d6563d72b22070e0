"""GET /api/reconciliation: what was last found out about the ledger, for those who read everything."""

from __future__ import annotations

import pytest

from governance import ledger, ports
from governance.rules import judgement as rules
from governance.upkeep import judgement, reconcile
from tests import factories as make
from tests.factories import NOON
from tests.governance.api.conftest import Api


def test_before_the_first_look_there_is_nothing_to_tell(viewer: Api) -> None:
    answer = viewer.get("/api/reconciliation")
    assert (answer.status_code, answer.json()) == (200, {"ledger_check": None, "judgement": None})


def test_the_last_look_is_told_as_it_was_kept_and_nobody_is_asked(
    operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "wired", ports.UNWIRED)
    make.judgement()
    reconcile.run(now=NOON)
    assert operator.get("/api/reconciliation/").json() == {
        "ledger_check": {"checked_at": "2026-03-10T12:00:00Z", "since": None, "drifts": 0, "repaired": 0},
        "judgement": {"judged_at": "2026-03-10T12:00:00Z", **rules.to_api(make.FOUND)},
    }


def test_tenants_and_agents_see_no_amounts_of_the_platform(everyone: dict[str, Api]) -> None:
    make.judgement()
    answers = {name: api.get("/api/reconciliation").status_code for name, api in everyone.items()}
    assert answers == {"operator": 200, "viewer": 200, "tenant": 403, "agent": 403, "stranger": 403, "nobody": 401}
    assert "0.25" not in Api().get("/api/health").content.decode()


def test_an_estimate_of_today_is_in_the_next_look(viewer: Api) -> None:
    reserve = make.reserving("0.10")
    ledger.reserve(reserve, now=NOON)
    ledger.settle(make.settling(reserve.reservation_id, certainty="estimated", reason="client_closed"), now=NOON)
    judgement.run(now=NOON)
    told = viewer.get("/api/reconciliation").json()["judgement"]
    assert [(row["provider"], row["reason"], row["amount"]) for row in told["unproven"]] == [
        ("mistral", "client_closed", "0.10")
    ]
    assert told["providers"][0]["reason"] == "no_daily_report"
