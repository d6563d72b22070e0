"""Who may do what: every path, every persona."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from governance.models import AuditEntry
from tests import factories
from tests.governance.api.conftest import Api

OK, BAD, LOGIN, NO, GONE = 200, 400, 401, 403, 404
READ_BY_ALL = {"operator": OK, "viewer": OK, "agent": OK, "tenant": OK, "stranger": OK}
# A read or an empty write: 400 says that the role was let in and the body was looked at.
TABLE: list[tuple[str, str, dict[str, int]]] = [
    ("get", "/api/budgets", READ_BY_ALL),
    ("post", "/api/budgets", {"operator": BAD, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/budgets/{budget}", {**READ_BY_ALL, "stranger": GONE}),
    ("patch", "/api/budgets/{budget}", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("put", "/api/budgets/{budget}", {"operator": BAD, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/budgets/{budget}/reset", {"operator": BAD, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/budgets/{budget}/windows", {**READ_BY_ALL, "stranger": GONE}),
    ("get", "/api/budgets/{budget}/events", {**READ_BY_ALL, "stranger": GONE}),
    ("post", "/api/decisions", {"operator": BAD, "viewer": BAD, "agent": BAD, "tenant": BAD, "stranger": BAD}),
    ("get", "/api/spend", READ_BY_ALL),
    ("post", "/api/spend", {"operator": BAD, "viewer": NO, "agent": BAD, "tenant": BAD, "stranger": BAD}),
    ("get", "/api/spend/summary", READ_BY_ALL),
    ("get", "/api/tenants", {"operator": OK, "viewer": OK, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/tenants", {"operator": BAD, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/tenants/acme", {"operator": OK, "viewer": OK, "agent": NO, "tenant": NO, "stranger": NO}),
    ("patch", "/api/tenants/acme", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/agents", {"operator": OK, "viewer": OK, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/agents", {"operator": BAD, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/agents/{agent}", {"operator": OK, "viewer": OK, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/agents/{agent}/pause", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/agents/{agent}/resume", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/tenants/acme/pause", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/tenants/acme/resume", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/keys", {"operator": OK, "viewer": OK, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/keys", {"operator": BAD, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("get", "/api/keys/{key}", {"operator": OK, "viewer": OK, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/keys/{key}/rotate", {"operator": 201, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("post", "/api/keys/{key}/revoke", {"operator": OK, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
    ("delete", "/api/budgets/{budget}", {"operator": 204, "viewer": NO, "agent": NO, "tenant": NO, "stranger": NO}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "answers"), TABLE, ids=[f"{m} {p}" for m, p, _ in TABLE])
@pytest.mark.parametrize("slash", ["", "/"])
def test_each_role_may_do_what_it_is_for_and_nothing_more(
    everyone: dict[str, Api], method: str, path: str, answers: dict[str, int], slash: str
) -> None:
    budget = factories.budget(scope_type="agent", scope_key="invoices")
    spare = factories.key(role="tenant")[1]
    ids = {"budget": budget.pk, "agent": factories.agent().pk, "key": spare.pk}
    # The operator goes last: what it does may take the object away.
    for name in ("nobody", "stranger", "tenant", "agent", "viewer", "operator"):
        client = everyone[name].client
        extra = {} if method == "get" else {"data": {}, "content_type": "application/json"}
        response = getattr(client, method)(path.format(**ids) + slash, **extra)
        assert (name, response.status_code) == (name, answers.get(name, LOGIN))
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"code", "message", "param", "request_id"}
            assert error["request_id"] == response["x-request-id"]


def test_a_missing_or_dead_key_is_a_401_that_asks_for_a_bearer_key(nobody: Api, operator: Api) -> None:
    expired, revoked = (factories.key(role="operator") for _ in range(2))
    now = timezone.now()
    type(expired[1]).objects.filter(pk=expired[1].pk).update(expires_at=now)
    type(revoked[1]).objects.filter(pk=revoked[1].pk).update(revoked_at=now)
    clients = [nobody, Api("sg_made_up"), Api(""), Api("ключ"), Api(expired[0]), Api(revoked[0])]
    for client in clients:
        response = client.get("/api/budgets")
        assert response.status_code == 401
        assert response["WWW-Authenticate"].startswith("Bearer")


def signed_in(**fields: Any) -> tuple[Client, User]:
    user = User.objects.create_user("pat", password="a-long-password", **fields)
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client, user


@pytest.mark.django_db
def test_a_staff_user_reads_by_session_and_changes_only_with_the_permission_and_the_token() -> None:
    client, user = signed_in(is_staff=True)
    assert client.get("/api/budgets").status_code == 200
    assert client.get("/admin/login/").status_code in (200, 302)
    body = {"slug": "new"}
    assert client.post("/api/tenants", body, content_type="application/json").status_code == 403

    user.user_permissions.add(Permission.objects.get(codename="change_budget"))
    refused = client.post("/api/tenants", body, content_type="application/json")
    assert (refused.status_code, "CSRF" in refused.json()["error"]["message"]) == (403, True)

    # A page sets the token in a cookie; the console's scripts send it back in a header.
    client.cookies["csrftoken"] = "a" * 32
    accepted = client.post("/api/tenants", body, content_type="application/json", headers={"x-csrftoken": "a" * 32})
    assert accepted.status_code == 201
    assert AuditEntry.objects.get().user == user


@pytest.mark.django_db
def test_a_user_who_is_no_staff_is_nobody_to_the_api() -> None:
    client, _ = signed_in(is_staff=False)
    assert client.get("/api/budgets").status_code == 401


def test_unknown_paths_and_methods_answer_as_the_api_does(operator: Api) -> None:
    missing = operator.get("/api/nothing/here")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = operator.delete("/api/budgets")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_the_description_is_openapi_31_and_names_every_path(nobody: Api) -> None:
    described = nobody.client.get("/api/schema", headers={"accept": "application/json"}).json()
    assert described["openapi"].startswith("3.1")
    assert {
        path.format(budget="{id}", agent="{id}", key="{id}").replace("acme", "{slug}") for _, path, _ in TABLE
    } <= set(described["paths"])
    assert nobody.get("/api/docs").status_code == 200
    assert b"https://" not in nobody.get("/api/docs/").content
