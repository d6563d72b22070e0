"""/api/stops through HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import EmergencyStop
from tests import factories
from tests.governance.api.conftest import Api


@pytest.mark.parametrize(
    ("body", "covers"),
    [
        ({}, "everything"),
        ({"tenant": "acme"}, "tenant acme"),
        ({"tenant": "acme", "agent": "invoices"}, "agent acme/invoices"),
    ],
)
def test_an_operator_stops_and_lifts(operator: Api, viewer: Api, body: dict[str, str], covers: str) -> None:
    factories.agent()
    made = operator.post("/api/stops", {**body, "reason": "a loop"})
    assert made.status_code == 201
    found = made.json()
    assert (found["stops"], found["active"], found["reason"]) == (covers, True, "a loop")
    assert (found["tenant"], found["agent"]) == (body.get("tenant"), body.get("agent"))
    assert operator.key is not None
    assert found["actor"] == f"key {operator.key.prefix}"

    assert operator.post("/api/stops", {**body, "reason": "again"}).status_code == 409
    assert [row["id"] for row in viewer.get("/api/stops", active="true").json()["results"]] == [found["id"]]
    lifted = operator.post(f"/api/stops/{found['id']}/lift", {"reason": "mended"})
    assert (lifted.status_code, lifted.json()["active"], lifted.json()["lifted_by"]) == (200, False, found["actor"])
    again = operator.post(f"/api/stops/{found['id']}/lift")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert viewer.get("/api/stops", active="true").json()["results"] == []
    assert viewer.get(f"/api/stops/{found['id']}").json()["lifted_at"] is not None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "reason"),
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 301}, "reason"),
        ({"reason": "x", "agent": "invoices"}, "tenant"),
        ({"reason": "x", "tenant": "nobody"}, "tenant"),
        ({"reason": "x", "tenant": "acme", "agent": "nobody"}, "agent"),
        ({"reason": "x", "tenant": ""}, "tenant"),
        ({"reason": "x", "tennant": "acme"}, "tennant"),
    ],
)
def test_a_stop_that_cannot_be_names_the_field_and_stops_nothing(
    operator: Api, body: dict[str, Any], param: str
) -> None:
    factories.agent()
    response = operator.post("/api/stops", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not EmergencyStop.objects.exists()


def test_the_list_can_be_filtered_and_had_as_a_table(operator: Api) -> None:
    factories.agent()
    operator.post("/api/stops", {"reason": "one"})
    operator.post("/api/stops", {"tenant": "acme", "reason": "two"})
    operator.post("/api/stops", {"tenant": "acme", "agent": "invoices", "reason": "three"})
    rows = operator.get("/api/stops", tenant="acme").json()["results"]
    assert [row["reason"] for row in rows] == ["three", "two"]
    assert operator.get("/api/stops", agent="invoices").json()["results"][0]["reason"] == "three"
    table = b"".join(operator.client.get("/api/stops", headers={"accept": "text/csv"}).streaming_content)
    assert table.decode().splitlines()[0].startswith("id,tenant,agent,stops,reason")
    assert len(table.splitlines()) == 4
