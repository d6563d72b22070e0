"""/api/reports: readers are named, ended and listed, and a report is read before anybody gets it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine

from governance.models import AuditEntry, ReportSubscription
from tests import factories
from tests.governance.api.conftest import Api
from tests.governance.reports.conftest import MONDAY, spend, two_weeks

SUBSCRIPTIONS, PREVIEW = "/api/reports/subscriptions", "/api/reports/preview"


@pytest.fixture(autouse=True)
def monday() -> Any:
    with time_machine.travel(MONDAY + timedelta(hours=1), tick=False):
        yield


def body(**fields: Any) -> dict[str, Any]:
    return {"scope_type": "platform", "address": "Owner@example.com", "cadence": "weekly", **fields}


def test_a_reader_is_named_listed_ended_and_begun_again(operator: Api, viewer: Api) -> None:
    factories.tenant("acme", time_zone="Europe/Paris")
    made = operator.post(SUBSCRIPTIONS, body())
    assert made.status_code == 201, made.json()
    found = made.json()
    assert (found["scope_type"], found["tenant"], found["address"]) == ("platform", None, "owner@example.com")
    assert (found["time_zone"], found["ended_at"], found["ended_by"]) == ("UTC", None, "")
    assert operator.post(SUBSCRIPTIONS, body()).status_code == 409
    own = operator.post(SUBSCRIPTIONS, body(scope_type="tenant", tenant="acme", cadence="monthly")).json()
    assert (own["tenant"], own["time_zone"]) == ("acme", "Europe/Paris")

    assert [row["id"] for row in viewer.get(SUBSCRIPTIONS).json()["results"]] == [own["id"], found["id"]]
    for asked, row in (
        ("scope_type=platform", found),
        ("scope_type=tenant", own),
        ("tenant=acme", own),
        ("cadence=weekly", found),
    ):
        assert viewer.get(f"{SUBSCRIPTIONS}?{asked}").json()["results"] == [row]
    assert viewer.get(f"{SUBSCRIPTIONS}/{own['id']}").json() == own

    one = f"{SUBSCRIPTIONS}/{found['id']}/end"
    assert viewer.post(one, {}).status_code == 403
    ended = operator.post(one, {"reason": "She left."})
    assert ended.status_code == 200
    assert ended.json()["ended_by"].startswith("key ")
    assert operator.post(one, {}).status_code == 409
    assert [row["id"] for row in viewer.get(f"{SUBSCRIPTIONS}?open=true").json()["results"]] == [own["id"]]
    assert operator.post(SUBSCRIPTIONS, body()).json()["id"] == found["id"]
    acts = AuditEntry.objects.filter(action__startswith="report_subscription").order_by("id")
    assert [row.action.partition(".")[2] for row in acts] == ["begin", "begin", "end", "begin"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"scope_type": "tenant"}, "tenant"),
        ({"tenant": "acme"}, "tenant"),
        ({"scope_type": "tenant", "tenant": "nobody"}, "tenant"),
        ({"address": "a@example.com, b@example.com"}, "address"),
        ({"address": "nobody"}, "address"),
        ({"address": "pat@example.com"}, "address"),
        ({"cadence": "daily"}, "cadence"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"format": "html"}, "format"),
    ],
)
def test_what_is_wrong_is_named_and_nobody_gets_anything(operator: Api, wrong: dict[str, Any], param: str) -> None:
    factories.tenant("acme")
    factories.person("pat", is_active=False, email="pat@example.com")
    refused = operator.post(SUBSCRIPTIONS, body(**wrong))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.json()
    # The whole platform is asked for by name, and no empty customer stands for it.
    nobody = operator.post(SUBSCRIPTIONS, {"address": "a@example.com", "cadence": "weekly"})
    assert nobody.json()["error"]["param"] == "scope_type"
    assert not ReportSubscription.objects.exists()


def test_a_report_is_read_by_whom_it_is_for(viewer: Api, tenant: Api, agent: Api) -> None:
    globex = factories.tenant("globex")
    two_weeks()
    spend("7.00", MONDAY - timedelta(days=2), of=globex, agent="secret-agent")
    wide = viewer.get(f"{PREVIEW}?scope_type=platform&cadence=weekly").json()
    assert wide["subject"] == "All customers: $10.00 in 9 to 15 March 2026"
    assert (wide["first_day"], wide["last_day"], wide["time_zone"]) == ("2026-03-09", "2026-03-15", "UTC")
    assert "data:image/png;base64," in wide["html"]
    assert "secret-agent" in wide["csv"]
    own = tenant.get(f"{PREVIEW}?scope_type=tenant&tenant=acme&cadence=weekly&first=2026-03-05")
    assert own.json()["subject"] == "Acme: $2.00 in 2 to 8 March 2026"
    for asked in ("scope_type=platform&cadence=weekly", "scope_type=tenant&tenant=globex&cadence=weekly"):
        refused = tenant.get(f"{PREVIEW}?{asked}")
        assert refused.status_code == 403
        assert "secret-agent" not in refused.content.decode()
    assert agent.get(f"{PREVIEW}?scope_type=tenant&tenant=acme&cadence=weekly").status_code == 403
    for first in ("2026-03-16", "1999-01-01", "soon"):
        refused = viewer.get(f"{PREVIEW}?scope_type=platform&cadence=weekly&first={first}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "first")
