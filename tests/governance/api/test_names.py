"""Names in bodies and filters of the control plane: checked, and one however they are spelled."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import Agent, Budget, BudgetWindow, RateLimit, SpendEntry, SpendRollup
from tests import factories as make
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.django_db

ODD = ("a\0b", "a\x1bb", "a\x9bb", "a\nb", "a\u202eb", "a\ud800b", "a" * 500)
REPORT = {"request_id": "r1", "cost": "0.01", "tenant": "acme"}
DECISION = {"tenant": "acme", "model": "m", "estimated_cost": "0.01"}
BUDGET = {"tenant": "acme", "scope_type": "user", "scope_key": "u", "window": "day", "limit": "1"}
RATE = {"tenant": "acme", "scope_type": "user", "scope_key": "u", "requests_per_minute": 1}
CALLER = ("agent", "user", "session", "task", "tenant", "model")
FIELDS = [
    *(("/api/spend", REPORT, name) for name in (*CALLER, "provider", "request_id")),
    *(("/api/decisions", DECISION, name) for name in (*CALLER, "forced_tool")),
    *(("/api/reservations", DECISION, name) for name in (*CALLER, "provider")),
    *(("/api/budgets", BUDGET, name) for name in ("tenant", "scope_key")),
    *(("/api/rate-limits", RATE, name) for name in ("tenant", "scope_key")),
    ("/api/agents", {"tenant": "acme", "slug": "a"}, "slug"),
    ("/api/agents", {"tenant": "acme", "slug": "a"}, "tenant"),
    ("/api/tenants", {"slug": "t"}, "slug"),
    ("/api/tenants", {"slug": "t"}, "name"),
    ("/api/keys", {"role": "agent", "tenant": "acme", "agent": "invoices"}, "agent"),
    ("/api/keys", {"role": "agent", "tenant": "acme", "agent": "invoices"}, "name"),
    ("/api/stops", {"tenant": "acme", "agent": "invoices", "reason": "r"}, "agent"),
]


@pytest.mark.parametrize(("path", "body", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_name_is_a_400_that_says_which(operator: Api, path: str, body: dict[str, Any], name: str) -> None:
    make.tenant()
    for odd in ODD:
        refused = operator.post(path, body | {name: odd})
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, name), odd[:10]
        assert any(word in error["message"] for word in ("characters", "slug", "NUL"))
    assert not SpendEntry.objects.exists()


@pytest.mark.parametrize("kind", ["tools", "disabled_tools", "downgrade_rules"])
def test_names_in_lists_are_checked(operator: Api, kind: str) -> None:
    make.tenant()
    value: Any = [{"from": ["a\x1b"], "to": "b"}] if kind == "downgrade_rules" else ["a\x1b"]
    path, body = ("/api/decisions", DECISION) if kind == "tools" else ("/api/budgets", BUDGET)
    refused = operator.post(path, body | {kind: value})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(kind)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/api/spend", ("tenant", "agent", "user", "session", "task", "model", "provider", "request_id", "key")),
        ("/api/spend/summary", ("tenant", "agent", "model")),
        ("/api/spend/rate", ("tenant", "agent", "model")),
        ("/api/spend/reviews", ("tenant", "agent", "request_id")),
        ("/api/budgets", ("tenant", "scope_key")),
        ("/api/rate-limits", ("tenant", "scope_key")),
        ("/api/agents", ("tenant",)),
        ("/api/keys", ("tenant", "agent")),
        ("/api/stops", ("tenant", "agent")),
    ],
)
def test_a_filter_that_is_no_name_is_a_400(operator: Api, path: str, names: tuple[str, ...]) -> None:
    for name in names:
        for odd in ("a\0", "a\x1b", "a\u202e", "a" * 2000):
            refused = operator.get(path, **{name: odd})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("scope", ["user:a\x1b", "user:a\0", "agent:" + "a" * 500])
def test_a_scope_that_is_no_name_is_a_400(operator: Api, scope: str) -> None:
    assert operator.get("/api/spend", scope=scope).status_code == 400


def test_a_users_spend_is_found_however_the_user_is_spelled(operator: Api) -> None:
    make.tenant()
    for number, spelled in enumerate(("Zoë", "Zoe\u0308", " Zoë ")):
        assert operator.post("/api/spend", REPORT | {"request_id": f"r{number}", "user": spelled}).status_code == 201
    assert set(SpendEntry.objects.values_list("user", flat=True)) == {"Zoë"}
    for asked in ({"user": "Zoe\u0308"}, {"user": "Zoë"}, {"scope": "user:Zoe\u0308"}):
        assert len(operator.get("/api/spend", **asked).json()["results"]) == 3


def test_an_agents_spend_is_found_however_the_agent_is_spelled_also_that_of_before(operator: Api) -> None:
    make.tenant()
    for number, spelled in enumerate(("bot", "Bot", "BOT")):
        operator.post("/api/spend", REPORT | {"request_id": f"r{number}", "agent": spelled})
    SpendRollup.objects.filter(agent="bot").update(agent="Bot")
    operator.post("/api/spend", REPORT | {"request_id": "r9", "agent": "bot"})
    assert len(operator.get("/api/spend", agent="BOT").json()["results"]) == 4
    assert operator.get("/api/spend/summary", agent="Bot", group_by="agent").json()["calls"] == 4


def test_an_agent_is_one_however_it_is_spelled(operator: Api) -> None:
    make.tenant()
    assert operator.post("/api/agents", {"tenant": "acme", "slug": "Bot "}).json()["slug"] == "bot"
    assert operator.post("/api/agents", {"tenant": "acme", "slug": "BOT"}).status_code == 409
    key = operator.post("/api/keys", {"role": "agent", "tenant": "acme", "agent": "bOt"}).json()
    assert (key["agent"], Agent.objects.count()) == ("bot", 1)
    assert Api(key["key"]).post("/api/spend", {"request_id": "r", "cost": "0.01", "agent": "Bot"}).status_code == 201
    assert operator.post("/api/stops", {"tenant": "acme", "agent": "ＢＯＴ", "reason": "r"}).status_code == 201


@pytest.mark.parametrize(
    ("path", "body", "model"), [("/api/budgets", BUDGET, Budget), ("/api/rate-limits", RATE, RateLimit)]
)
def test_a_scope_has_one_rule_however_its_key_is_spelled(
    operator: Api, path: str, body: dict[str, Any], model: type[Budget]
) -> None:
    make.tenant()
    body = body | {"scope_type": "agent", "scope_key": "Bot"}
    assert operator.post(path, body).json()["scope_key"] == "bot"
    assert operator.post(path, body | {"scope_key": "bot"}).status_code == 409
    assert operator.post(path, body | {"scope_type": "user", "scope_key": "Bot"}).json()["scope_key"] == "Bot"
    assert len(operator.get(path, scope_key="BOT").json()["results"]) == 1
    assert len(operator.get(path, scope_key="Bot").json()["results"]) == 2
    assert model.objects.count() == 2


def test_a_window_is_topped_up_by_any_spelling_of_its_subject(operator: Api, tenant: Api) -> None:
    budget = make.budget("1", scope_type="agent", scope_key="*")
    for name in ("bot", "other"):
        tenant.post("/api/reservations", {"model": "m", "estimated_cost": "0.01", "agent": name})
    asked = {"amount": "1", "reason": "r", "subject": "BOT"}
    assert operator.post(f"/api/budgets/{budget.pk}/allowances", asked).status_code == 201
    assert set(BudgetWindow.objects.values_list("subject", "extra_nanos")) == {("bot", 10**9), ("other", 0)}


def test_a_user_is_not_everybody(tenant: Api) -> None:
    make.budget("1", scope_type="user", scope_key="*")
    refused = tenant.post("/api/reservations", {"model": "m", "estimated_cost": "0.01", "user": "*"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "user")


def test_a_refused_reservation_of_a_new_name_opens_nothing(tenant: Api) -> None:
    make.budget("0.001")
    make.budget("1", scope_type="user", scope_key="*")
    for number in range(20):
        asked = {"model": "m", "estimated_cost": "0.01", "user": f"u{number}", "agent": f"a{number}"}
        assert tenant.post("/api/reservations", asked).status_code == 402
    assert not BudgetWindow.objects.filter(budget__scope_type="user").exists()
    assert Agent.objects.count() == 0
