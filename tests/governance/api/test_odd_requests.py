"""Requests that are odd, forged or too late: each is told what is wrong with it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.actions import scoped_rules
from governance.models import RateLimit
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("priced")


@pytest.mark.parametrize(
    "position", ["p=1", "p=x", "p=99999999999999999999", "p=-1", "p=%00", "r=1&p=%F0%9F", "o=x", "p=1e5"]
)
@pytest.mark.parametrize("path", ["/api/spend", "/api/budgets", "/api/spend/reviews", "/api/tenants", "/api/keys"])
def test_a_forged_cursor_is_refused_by_its_name_or_finds_nothing(operator: Api, path: str, position: str) -> None:
    factories.budget("1")
    answer = operator.get(path, cursor=base64.b64encode(position.encode()).decode())
    if answer.status_code != 200:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cursor"), answer.content
    else:
        # A key of this list may be written so.
        assert position == "p=1"


# Base64 of what is no cursor: "garbage", "o=0", "q=1", "p=1&p=2", and of nothing but what no letter of it is.
@pytest.mark.parametrize("cursor", ["x", "é", "*", "%", "_", "Z2FyYmFnZQ==", "bz0w", "cT0x", "cD0xJnA9Mg==", " cD0x"])
@pytest.mark.parametrize("path", ["/api/spend", "/api/budgets", "/api/refusals", "/api/tenants", "/api/spend/summary"])
def test_so_is_one_that_cannot_be_read(operator: Api, path: str, cursor: str) -> None:
    answer = operator.get(path, cursor=cursor)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cursor")


@pytest.mark.parametrize("path", ["/api/budgets", "/api/spend/summary"])
def test_an_empty_cursor_is_the_first_page_and_each_that_is_told_leads_on_and_back(operator: Api, path: str) -> None:
    for number in range(3):
        tenant = factories.tenant(f"t{number}")
        factories.budget("1", tenant=tenant)
        ledger.record(factories.reporting("0.1", by=factories.caller(tenant)), now=timezone.now())
    asked = {"page_size": 1} | ({"group_by": "tenant"} if "summary" in path else {})
    first = operator.get(path, cursor="", **asked).json()
    assert first["results"] == operator.get(path, **asked).json()["results"]
    second = operator.client.get(first["next"]).json()
    third = operator.client.get(second["next"]).json()
    assert operator.client.get(third["previous"]).json()["results"] == second["results"]
    assert operator.client.get(second["previous"]).json()["results"] == first["results"]


@pytest.mark.parametrize("name", ["a\ud800", "\x00", "é"])
def test_a_tenant_that_none_can_be_called_is_refused_also_under_an_idempotency_key(operator: Api, name: str) -> None:
    body = json.dumps({"tenant": name, "request_id": "r", "model": "small", "cost": "1"})
    sent = {"data": body, "content_type": "application/json"}
    plain = operator.client.post("/api/spend", **sent)
    once = operator.client.post("/api/spend", **sent, headers={"idempotency-key": "k"})
    assert (once.status_code, once.json()["error"]["code"]) == (plain.status_code, plain.json()["error"]["code"])
    assert once.status_code == 400


@pytest.mark.parametrize("method", ["patch", "delete"])
@pytest.mark.parametrize("kind", ["budgets", "rate-limits"])
def test_what_was_deleted_a_moment_ago_is_not_there(
    operator: Api, monkeypatch: pytest.MonkeyPatch, kind: str, method: str
) -> None:
    row: Any = factories.budget("10")
    if kind == "rate-limits":
        row = RateLimit.objects.create(scope_type="platform", requests_per_minute=5)
    look = scoped_rules.ScopedRules._locked

    def overtaken(rules: Any, asked: Any) -> Any:
        type(asked).objects.filter(pk=asked.pk).delete()
        return look(rules, asked)

    monkeypatch.setattr(scoped_rules.ScopedRules, "_locked", overtaken)
    body = {"limit": "5"} if kind == "budgets" else {"requests_per_minute": 6}
    answer = getattr(operator, method)(f"/api/{kind}/{row.pk}", *([body] if method == "patch" else []))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["decisions", "reservations", "spend", "llm/route"])
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
@pytest.mark.parametrize(
    "body", ['{"\\ud800": 1}', '{"usage": {"\\ud800": 1}}', '{"tools": ["\\ud800"]}', '{"agent": "\\ud800"}']
)
def test_what_cannot_be_written_is_named_escaped(tenant: Api, path: str, headers: dict[str, str], body: str) -> None:
    answer = tenant.client.post(f"/api/{path}", data=body, content_type="application/json", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"]
    assert answer.json()["error"]["param"].isprintable()


def test_a_field_of_half_a_letter_is_named_by_its_number(tenant: Api) -> None:
    answer = tenant.client.post("/api/decisions", data='{"a\\ud800": 1}', content_type="application/json")
    error = answer.json()["error"]
    assert error["param"] == "a\\ud800"
    assert error["message"].startswith("a\\ud800: is not known here.")


@pytest.mark.parametrize(
    "path",
    [
        "/api/refusals/%00",
        "/api/refusals/a%00/",
        "/api/models/%00",
        "/api/models/%0A/a%00b",
        "/api/tenants/%00",
        "/billing/topup/%00",
        "/admin/governance/budget/%00/change/",
    ],
)
def test_nothing_is_at_a_path_with_a_nul(operator: Api, path: str) -> None:
    """Which PostgreSQL takes in no text."""
    answer = operator.get(path)
    assert answer.status_code == 404
    assert path.startswith("/api/") == ("json" in answer["content-type"])
