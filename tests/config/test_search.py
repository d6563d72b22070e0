"""The console's search: names, ids and acts, for whoever may see them."""

from __future__ import annotations

from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.test import Client, RequestFactory
from django.utils import timezone

from billing.models import BillingAccount
from config.console import search
from governance import ledger
from governance.actions import stops, tenancy
from governance.audit import Actor
from governance.models import RefusedCall
from governance.models.tenancy import digest_of
from tests import factories

pytestmark = pytest.mark.django_db


def found(text: str, *roles: str, **fields: Any) -> list[tuple[str, str]]:
    request = RequestFactory().get("/admin/search/")
    request.user = factories.person(f"pat-{uuids.uuid4()}", *(roles or ("operator",)), **fields)
    return [(result.title, result.link) for result in search.find(request, text)]


def titles(text: str, *roles: str, **fields: Any) -> list[str]:
    return [title for title, _ in found(text, *roles, **fields)]


@pytest.fixture
def refusal() -> RefusedCall:
    return RefusedCall.objects.create(
        refused_at=timezone.now(),
        request_id=str(uuids.uuid7()),
        tenant=factories.tenant(),
        reason="budget_exhausted",
        status=402,
    )


def test_customers_agents_and_models_are_found_by_a_part_of_their_name() -> None:
    agent = factories.agent("support")
    factories.agent("support", of=factories.tenant("globex"))
    assert titles("SUPP")[:2] == ["acme / support", "globex / support"]
    assert titles("globex/supp")[0] == "globex / support"
    assert ("acme", f"/admin/governance/tenant/{agent.tenant_id}/change/") in found("Acm")
    assert "mistral-small-2603" in titles("small-26")
    assert "mistral-small-2603" in titles("mistral-small-latest")


def test_a_key_is_found_by_its_prefix_and_by_all_of_it() -> None:
    text, key = factories.key()
    for typed in (key.prefix[:6], key.prefix, text):
        assert (key.prefix, f"/admin/governance/apikey/{key.pk}/change/") in found(typed)
    assert key.prefix not in titles("sg_")


def test_a_key_from_elsewhere_is_found_by_its_prefix_and_by_all_of_it() -> None:
    agent = factories.agent()
    key = tenancy.adopt_key(
        digest=digest_of("sk-theirs-1"), tenant=agent.tenant, agent=agent, by=Actor("ada"), now=timezone.now()
    )
    for typed in (key.prefix[:6], key.prefix, "sk-theirs-1"):
        assert (key.prefix, f"/admin/governance/apikey/{key.pk}/change/") in found(typed)
    assert key.prefix not in [*titles("ext_"), *titles("sk-theirs")]


def test_a_refused_call_is_found_by_its_request_id(refusal: RefusedCall) -> None:
    for typed in (refusal.request_id, refusal.request_id.upper()):
        assert found(typed, "viewer")[0] == (refusal.request_id, f"/admin/calls/{refusal.request_id}/")


def test_a_served_call_is_found_by_an_id_of_its_callers() -> None:
    report = factories.reporting("0.01", request_id="job-7/ä")
    ledger.record(report, now=timezone.now())
    assert found("job-7/ä")[0] == ("job-7/ä", f"/admin/calls/{report.entry_id}/")


def test_stripes_ids_are_found_as_stripe_writes_them() -> None:
    account = BillingAccount.objects.create(stripe_customer_id="cus_AbC123")
    assert found("cus_AbC123")[0][1] == f"/admin/billing/billingaccount/{account.pk}/change/"
    assert found("cus_abc123", "billing")[0][0].startswith("Calls of")


def test_pages_of_the_menu_are_found() -> None:
    assert ("Margin", "/admin/margin/") in found("margin")
    assert ("Ledger", "/admin/governance/spendentry/") in found("ledger")


def test_acts_are_said_in_words_and_lead_to_the_page_that_asks_why() -> None:
    agent, budget = factories.agent("support"), factories.budget("1")
    stop = stops.stop(agent=agent, reason="a loop", by=Actor(name="olga"), now=timezone.now())
    assert found("sto")[0] == ("Emergency stop", "/admin/governance/emergencystop/add/")
    for text, link in (
        ("stop support", f"/admin/governance/agent/{agent.pk}/stop/"),
        ("Stop acme / support", f"/admin/governance/agent/{agent.pk}/stop/"),
        ("lift", f"/admin/governance/emergencystop/{stop.pk}/lift/"),
        ("lift supp", f"/admin/governance/emergencystop/{stop.pk}/lift/"),
        ("pause acme", f"/admin/governance/tenant/{agent.tenant_id}/pause/"),
        ("raise acme", f"/admin/governance/budget/{budget.pk}/allow/"),
        ("reset acme", f"/admin/governance/budget/{budget.pk}/reset/"),
    ):
        assert found(text)[0][1].startswith(link), text
    type(agent).objects.update(status="paused")
    [resume] = [link for title, link in found("resume") if title == "Resume acme / support"]
    assert resume.startswith(f"/admin/governance/agent/{agent.pk}/resume/")


def test_whoever_may_only_read_is_offered_no_act() -> None:
    factories.agent("support")
    factories.budget("1")
    for text in ("stop support", "lift", "pause acme", "resume", "raise acme", "reset acme"):
        assert not {"Emergency stop", *titles(text)} & set(titles(text, "viewer")), text


def test_a_tenants_own_staff_finds_its_own_alone(refusal: RefusedCall) -> None:
    globex = factories.tenant("globex")
    factories.agent("support")
    factories.agent("support", of=globex)
    text, _ = factories.key()
    assert titles("support", "tenant staff", of=globex)[0] == "globex / support"
    for hidden in ("acme", text, refusal.request_id, "cus_AbC123"):
        mine = titles(hidden, "tenant staff", of=globex)
        assert all(title.startswith("Calls of") for title in mine), (hidden, mine)


@pytest.mark.parametrize("text", ["", " ", "x" * 5_000, "%", "_", "a\u202eb", "stop ", "/", "stop /", "sg_x%"])
def test_whatever_is_typed_is_answered(text: str) -> None:
    client = Client()
    client.force_login(factories.person("pat", "operator"))
    answer = client.get("/admin/search/", {"s": text, "extended": "1", "page": "7"})
    assert answer.status_code == 200
    assert "<script" not in answer.content.decode()


def test_whoever_has_no_role_finds_nothing() -> None:
    factories.tenant()
    request = RequestFactory().get("/admin/search/")
    request.user = factories.person("nobody")
    assert search.find(request, "acme") == []
