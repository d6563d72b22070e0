"""/api/rate-limits through HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import RateLimit
from tests import factories
from tests.governance.api.conftest import Api

BODY = {"scope_type": "agent", "scope_key": "invoices", "tenant": "acme", "dollars_per_minute": "0.50"}


def test_a_rate_limit_is_made_read_changed_and_deleted_in_dollars(operator: Api, viewer: Api) -> None:
    factories.tenant()
    made = operator.post("/api/rate-limits", {**BODY, "requests_per_minute": 60})
    assert made.status_code == 201
    path = f"/api/rate-limits/{made.json()['id']}"
    expected = {
        **BODY,
        "scope": "acme agent:invoices",
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "enabled": True,
    }
    found = viewer.get(path).json()
    assert {name: found[name] for name in expected} == expected
    assert RateLimit.objects.get().nanos_per_minute == factories.nanos("0.50")

    changed = operator.patch(path, {"dollars_per_minute": 2, "requests_per_minute": None, "enabled": False})
    assert changed.status_code == 200
    assert [changed.json()[name] for name in ("dollars_per_minute", "requests_per_minute", "enabled")] == [
        "2.00",
        None,
        False,
    ]
    assert operator.delete(path).status_code == 204
    assert operator.get(path).status_code == 404


def test_a_second_one_for_the_scope_is_a_conflict(operator: Api) -> None:
    factories.tenant()
    assert operator.post("/api/rate-limits", BODY).status_code == 201
    again = operator.post("/api/rate-limits", BODY)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"dollars_per_minute": "0"}, "dollars_per_minute"),
        ({"dollars_per_minute": "fast"}, "dollars_per_minute"),
        ({"dollars_per_minute": None}, "dollars_per_minute"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": 1.5}, "requests_per_minute"),
        ({"tenant": "nobody"}, "tenant"),
        ({"tenant": None}, "tenant"),
        ({"scope_type": "world"}, "scope_type"),
        ({"scope_key": ""}, "scope_key"),
        ({"dollars_a_minute": "1"}, "dollars_a_minute"),
    ],
)
def test_what_cannot_be_names_the_field(operator: Api, change: dict[str, Any], param: str) -> None:
    factories.tenant()
    response = operator.post("/api/rate-limits", {**BODY, **change})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not RateLimit.objects.exists()


def test_the_scope_of_one_cannot_be_changed_and_may_be_said_again(operator: Api) -> None:
    factories.tenant()
    path = f"/api/rate-limits/{operator.post('/api/rate-limits', BODY).json()['id']}"
    assert operator.patch(path, BODY).status_code == 200
    refused = operator.patch(path, {"scope_key": "other"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "scope_key")
    last = operator.patch(path, {"dollars_per_minute": None})
    assert (last.status_code, last.json()["error"]["param"]) == (400, "dollars_per_minute")


def test_the_list_is_filtered_by_scope(operator: Api) -> None:
    factories.tenant()
    operator.post("/api/rate-limits", BODY)
    operator.post("/api/rate-limits", {"scope_type": "platform", "tokens_per_minute": 5})
    found = operator.get("/api/rate-limits", tenant="acme", scope_type="agent").json()["results"]
    assert [row["scope_key"] for row in found] == ["invoices"]
    assert len(operator.get("/api/rate-limits").json()["results"]) == 2
