from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance.models import ApiKey, AuditEntry, Tenant
from governance.models.tenancy import digest_of
from tests import factories
from tests.governance.api.conftest import Api


def test_a_tenant_is_made_read_changed_paused_and_resumed(operator: Api) -> None:
    made = operator.post("/api/tenants", {"slug": "acme", "name": "Acme", "time_zone": "Europe/Paris"})
    assert (made.status_code, made.json()["status"]) == (201, "active")
    assert operator.post("/api/tenants", {"slug": "acme"}).status_code == 409
    assert operator.patch("/api/tenants/acme", {"name": "Acme Ltd"}).json()["name"] == "Acme Ltd"
    assert operator.post("/api/tenants/acme/pause", {"reason": "unpaid"}).json()["status"] == "paused"
    assert operator.post("/api/tenants/acme/pause", {}).status_code == 200
    assert operator.post("/api/tenants/acme/resume", {}).json()["status"] == "active"
    actions = list(AuditEntry.objects.order_by("id").values_list("action", "reason"))
    assert actions == [
        ("tenant.create", ""),
        ("tenant.change", ""),
        ("tenant.pause", "unpaid"),
        ("tenant.resume", ""),
    ]
    assert all(entry.key for entry in AuditEntry.objects.all())


def test_billing_s_suspension_is_not_an_operator_s_to_lift(operator: Api) -> None:
    factories.tenant(status=Tenant.Status.SUSPENDED)
    for act in ("pause", "resume"):
        assert operator.post(f"/api/tenants/acme/{act}", {}).status_code == 409
    assert Tenant.objects.get().status == "suspended"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "slug"),
        ({"slug": "no spaces"}, "slug"),
        ({"slug": "x" * 51}, "slug"),
        ({"slug": "ok", "time_zone": "Mars/Base"}, "time_zone"),
        ({"slug": "ok", "time_zone": "../etc"}, "time_zone"),
        ({"slug": "ok", "default_max_tokens": 0}, "default_max_tokens"),
        ({"slug": "ok", "status": "active", "extra": 1}, "extra"),
        ({"slug": "ok", "name": 5}, "name"),
    ],
)
def test_a_bad_tenant_is_a_400_that_names_the_field(operator: Api, body: dict[str, Any], param: str) -> None:
    response = operator.post("/api/tenants", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_status_is_changed_by_its_own_acts_and_never_ignored(operator: Api) -> None:
    made = operator.post("/api/tenants", {"slug": "acme"}).json()
    assert operator.patch("/api/tenants/acme", made).status_code == 200
    agent = {"tenant": "acme", "slug": "invoices"}
    for refused in (
        operator.patch("/api/tenants/acme", {"status": "paused"}),
        operator.post("/api/tenants", {"slug": "other", "status": "paused"}),
        operator.post("/api/agents", agent | {"status": "paused"}),
    ):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "status")
        assert "/pause" in refused.json()["error"]["message"]
    assert list(Tenant.objects.values_list("slug", "status")) == [("acme", "active")]
    operator.post("/api/tenants/acme/pause", {})
    assert operator.patch("/api/tenants/acme", {"status": "active"}).status_code == 400
    assert operator.post("/api/agents", agent | {"status": "active"}).status_code == 201


def test_a_slug_never_changes(operator: Api) -> None:
    factories.tenant()
    assert operator.patch("/api/tenants/acme", {"slug": "other"}).json()["error"]["param"] == "slug"
    assert operator.get("/api/tenants/none").status_code == 404


def test_agents_are_made_listed_and_paused(operator: Api) -> None:
    factories.tenant()
    made = operator.post("/api/agents", {"tenant": "acme", "slug": "invoices"})
    assert made.status_code == 201
    assert operator.post("/api/agents", {"tenant": "acme", "slug": "invoices"}).status_code == 409
    assert operator.post("/api/agents", {"tenant": "none", "slug": "x"}).json()["error"]["param"] == "tenant"
    path = f"/api/agents/{made.json()['id']}"
    assert operator.post(f"{path}/pause", {}).json()["status"] == "paused"
    assert [row["slug"] for row in operator.get("/api/agents", status="paused", tenant="acme").json()["results"]] == [
        "invoices"
    ]
    assert operator.post(f"{path}/resume/", {}).json()["status"] == "active"


def test_a_key_is_shown_once_kept_as_a_digest_and_works(operator: Api) -> None:
    factories.agent()
    body = {"role": "agent", "tenant": "acme", "agent": "invoices", "name": "ci"}
    made = operator.post("/api/keys", body).json()
    stored = ApiKey.objects.get(pk=made["id"])
    assert stored.digest == digest_of(made["key"])
    assert made["key"].startswith(made["prefix"])
    assert "key" not in operator.get(f"/api/keys/{made['id']}").json()
    assert made["key"] not in str([entry.new for entry in AuditEntry.objects.all()])
    assert Api(made["key"]).get("/api/budgets").status_code == 200


def test_a_revoked_key_is_refused_from_the_next_call_on(operator: Api, agent: Api) -> None:
    assert agent.key is not None
    path = f"/api/keys/{agent.key.pk}/revoke"
    assert agent.get("/api/spend").status_code == 200
    assert operator.post(path, {"reason": "leaked"}).status_code == 200
    assert agent.get("/api/spend").status_code == 401
    assert operator.post(path, {}).status_code == 409
    assert operator.post(f"/api/keys/{agent.key.pk}/rotate", {}).status_code == 409


def test_a_rotated_key_works_until_its_grace_is_over(operator: Api, agent: Api) -> None:
    assert agent.key is not None
    fresh = operator.post(f"/api/keys/{agent.key.pk}/rotate", {"grace_s": 3600})
    assert (fresh.status_code, fresh.json()["agent"]) == (201, "invoices")
    assert [api.get("/api/spend").status_code for api in (agent, Api(fresh.json()["key"]))] == [200, 200]
    ends_at = ApiKey.objects.get(pk=agent.key.pk).expires_at
    assert ends_at is not None
    assert abs(ends_at - timezone.now() - timedelta(hours=1)) < timedelta(minutes=1)
    assert operator.post(f"/api/keys/{agent.key.pk}/rotate", {"grace_s": 0}).status_code == 201
    assert agent.get("/api/spend").status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "king"}, "role"),
        ({"role": "agent", "tenant": "acme"}, "agent"),
        ({"role": "agent", "agent": "invoices"}, "tenant"),
        ({"role": "agent", "tenant": "acme", "agent": "nobody"}, "agent"),
        ({"role": "tenant"}, "tenant"),
        ({"role": "tenant", "tenant": "acme", "agent": "invoices"}, "agent"),
        ({"role": "operator", "tenant": "acme"}, "tenant"),
        ({"role": "operator", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"role": "operator", "digest": "x"}, "digest"),
    ],
)
def test_a_bad_key_is_a_400_that_names_the_field(operator: Api, body: dict[str, Any], param: str) -> None:
    factories.agent()
    response = operator.post("/api/keys", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_rotated_key_ends_when_the_old_one_would_have(operator: Api, agent: Api) -> None:
    assert agent.key is not None
    ends_at = timezone.now() + timedelta(days=3)
    ApiKey.objects.filter(pk=agent.key.pk).update(expires_at=ends_at)
    fresh = operator.post(f"/api/keys/{agent.key.pk}/rotate", {}).json()
    assert ApiKey.objects.get(pk=fresh["id"]).expires_at == ends_at
    # Also where the old one is in its grace, and was rotated before.
    again = operator.post(f"/api/keys/{agent.key.pk}/rotate", {}).json()
    assert ApiKey.objects.get(pk=again["id"]).expires_at == ApiKey.objects.get(pk=agent.key.pk).expires_at


@pytest.mark.parametrize("scope_key", ["*", "its own"])
def test_a_rotated_key_goes_on_in_the_budget_of_the_old_one(operator: Api, agent: Api, scope_key: str) -> None:
    assert agent.key is not None
    named = "*" if scope_key == "*" else agent.key.prefix
    budget = factories.budget("1.00", scope_type="key", scope_key=named)
    spent = {"cost": "0.70", "model": "mistral-large-latest"}
    assert agent.post("/api/spend", spent | {"request_id": "r-1"}).status_code == 201
    fresh = operator.post(f"/api/keys/{agent.key.pk}/rotate", {}).json()
    again = operator.post(f"/api/keys/{fresh['id']}/rotate", {}).json()
    for text in (fresh["key"], again["key"]):
        [found] = Api(text).get("/api/budgets").json()["results"]
        assert (found["id"], found["spent"]) == (budget.pk, "0.70")
    assert Api(again["key"]).post("/api/spend", spent | {"request_id": "r-2"}).status_code == 409
    # By its own prefix it is found as well.
    scope = {"scope_type": "key", "scope_key": again["prefix"], "tenant": "acme", "limit": "5", "window": "month"}
    made = operator.post("/api/budgets", scope)
    assert (made.status_code, made.json()["scope_key"]) == (201, agent.key.prefix)
    limited = operator.post(
        "/api/rate-limits",
        {name: scope[name] for name in ("scope_type", "scope_key", "tenant")} | {"requests_per_minute": 1},
    )
    assert limited.status_code == 201
    for path in ("/api/budgets", "/api/rate-limits"):
        found, by_the_first = (
            [row["id"] for row in operator.get(path, scope_key=prefix).json()["results"]]
            for prefix in (again["prefix"], agent.key.prefix)
        )
        assert found == by_the_first != []
