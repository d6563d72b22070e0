"""A customer's own read-only page: its links, made and taken back over /api/, and what the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from governance import ledger
from governance.actions import page_links
from governance.audit import Actor
from governance.models import ApiKey, AuditEntry, PageLink, RefusedCall, Tenant
from governance.rules.calls import Usage
from tests import factories
from tests.factories import NOON
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.django_db
OVER = "This link is over"


@pytest.fixture(autouse=True)
def noon() -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def acme() -> Tenant:
    return factories.tenant(time_zone="Europe/Paris")


def path_of(url: str) -> str:
    return "/customers/" + url.rpartition("/customers/")[2]


@pytest.fixture
def path(acme: Tenant) -> str:
    return path_of(factories.page_link(acme, now=timezone.now())[0])


def html(path: str, status: int = 200) -> str:
    answer = Client().get(path)
    assert answer.status_code == status
    assert "no-store" in answer["Cache-Control"]
    text: str = answer.content.decode()
    assert '<meta name="robots" content="noindex">' in text
    assert '<meta name="referrer" content="no-referrer">' in text
    return text


def words(path: str) -> str:
    """The page as it is read."""
    text = re.sub(r"<style.*?</style>", "", html(path), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def spend(cost: str, *, model: str = "mistral-small-latest", **who: Any) -> None:
    usage = Usage("mistral", model, 777_111, 0, 888_222)
    ledger.record(replace(factories.reporting(cost, by=factories.caller(**who)), usage=usage), now=timezone.now())


def refuse(acme: Tenant, **fields: Any) -> RefusedCall:
    given = {"agent": "invoices", "model": "m", "reason": "budget_exhausted", "status": 402, "request_id": "req-77"}
    given |= {"sentence": "The budget is used up", "refused_at": timezone.now()}
    return RefusedCall.objects.create(tenant=acme, **given | fields)


def blocker(scope: str) -> dict[str, Any]:
    figures = {"limit_nanos": 10**9, "settled_nanos": 10**9, "reserved_nanos": 0, "hard_e4": 10_000}
    missing = {"missing_nanos": 123_450_000, "ends_at": None}
    return {"budget_id": 4711, "scope": scope, "kind": "day"} | figures | missing


def test_a_link_is_made_listed_and_taken_back(operator: Api, viewer: Api, acme: Tenant) -> None:
    made = operator.post("/api/tenants/acme/page-links", {"days": 7, "note": "Ada at Acme"})
    assert made.status_code == 201
    body = made.json()
    assert (body["note"], body["ends_at"]) == ("Ada at Acme", "2026-03-17T12:00:00Z")
    path = path_of(body["url"])
    assert "Acme" in html(path)
    assert "until 17 March 2026, 13:00" in words(path)
    [listed] = viewer.get("/api/tenants/acme/page-links").json()["results"]
    assert listed == {name: value for name, value in body.items() if name != "url"}

    ended = operator.post(f"/api/page-links/{body['id']}/end", {"reason": "Ada left"})
    assert ended.json()["ended_at"] == "2026-03-10T12:00:00Z"
    assert operator.post(f"/api/page-links/{body['id']}/end").status_code == 409
    assert OVER in html(path, 410)
    trail = list(AuditEntry.objects.order_by("id").values_list("action", "target", "reason"))
    assert trail == [("page_link.make", "tenant acme", ""), ("page_link.end", "tenant acme", "Ada left")]


def test_all_links_of_a_customer_are_taken_back_and_no_others(operator: Api, acme: Tenant) -> None:
    now = timezone.now()
    paths = [path_of(factories.page_link(acme, now=now)[0]) for _ in range(2)]
    others = path_of(factories.page_link(factories.tenant("globex"), now=now)[0])
    assert operator.post("/api/tenants/acme/page-links/end").json() == {"ended": 2}
    assert operator.post("/api/tenants/acme/page-links/end").json() == {"ended": 0}
    assert all(OVER in html(path, 410) for path in paths)
    assert "Globex" in html(others)
    assert AuditEntry.objects.filter(action="page_link.end_all").count() == 1


def test_a_link_ends_by_itself(operator: Api, path: str, noon: Any) -> None:
    noon.shift(timedelta(days=30, seconds=-1))
    html(path)
    noon.shift(timedelta(seconds=1))
    assert OVER in html(path, 410)
    assert operator.post(f"/api/page-links/{PageLink.objects.get().pk}/end").status_code == 409


@pytest.mark.parametrize(
    "body", [{"days": 0}, {"days": 367}, {"days": "x"}, {"days": True}, {"note": "n" * 201}, {"x": 1}]
)
def test_a_link_that_may_not_be_is_refused(operator: Api, acme: Tenant, body: dict[str, Any]) -> None:
    assert operator.post("/api/tenants/acme/page-links", body).status_code == 400
    assert operator.post("/api/tenants/nobody/page-links").status_code == 404
    assert not PageLink.objects.exists()


def test_a_customer_has_so_many_links_at_most(operator: Api, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_links, "MOST_OPEN", 1)
    assert operator.post("/api/tenants/acme/page-links").status_code == 201
    assert operator.post("/api/tenants/acme/page-links").status_code == 409


def test_links_that_never_were_lead_nowhere(path: str) -> None:
    link = PageLink.objects.get()
    for wrong in (path[:-1], "/customers/x", f"/customers/{link.pk}", path.replace(f"/{link.pk}.", f"/{link.pk + 1}.")):
        assert "This link leads nowhere" in html(wrong, 404)
    assert Client().get("/customers/%00", headers={"accept": "text/html"}).status_code == 404
    assert Client().head(path).status_code == 200
    assert Client().post(path).status_code == 405
    # A signature for something else of ours is none for this.
    PageLink.objects.all().delete()
    html(path, 404)


def test_what_the_page_shows(acme: Tenant, path: str) -> None:
    budget = factories.budget("10")
    factories.budget("3", scope_type="agent", scope_key="invoices", window="month")
    factories.budget("5", scope_type="user", scope_key="*", window="day")
    spend("2.50", agent="invoices", user="ada")
    spend("0.50", model="mistral-large-latest", agent="mails")
    held = factories.reserving("1", by=factories.caller())
    ledger.reserve(held, now=timezone.now())
    factories.kept_forecast(budget, now=timezone.now(), runs_out_in=timedelta(hours=5))
    refuse(acme, budgets=[blocker("tenant:acme")], fits_max_tokens=511, more=3)
    page = words(path)
    assert "As of 10 March 2026, 13:00. Days and times are those of Europe/Paris." in page
    # By the customer's own midnight, and its own clock.
    ours = "Limit $10.00 Spent $3.00 Held $1.00 Remaining $6.00 Resets 11 March 2026, 00:00"
    assert f"all calls per day has room {ours} Runs out, at this rate 10 March 2026, 18:00" in page
    assert "agent invoices per month near its limit Limit $3.00 Spent $2.50" in page
    assert "user ada per day has room Limit $5.00 Spent $2.50" in page
    assert "$3.00 spent by 2 calls in 30 days" in page
    assert "Tue 10 Mar 2 calls $3.00" in page
    assert "Models mistral-small-latest 1 call $2.50 mistral-large-latest 1 call $0.50" in page
    assert "Agents invoices 1 call $2.50 mails 1 call $0.50" in page
    said = "The budget is used up. It would have gone with max_tokens below 512, or $0.12345 more. 3 more like it"
    assert f"invoices · m 10 March 2026, 13:00 {said}" in page


def test_a_budget_that_no_call_has_opened_is_shown_with_its_raise(acme: Tenant, path: str) -> None:
    factories.budget("7", scope_type="agent", scope_key="*", tenant=acme)
    factories.budget("8", window="total", enabled=False)
    page = words(path)
    assert "each agent per day has room Limit $7.00 Spent $0.00" in page
    assert "$8.00" not in page
    assert "No call was refused." in page


def test_what_the_page_says_nothing_of(acme: Tenant, path: str) -> None:
    """Other customers, what all share, keys, ids, tokens, and who made the link."""
    factories.budget("914321", scope_type="platform")
    factories.budget("50", scope_type="tenant", scope_key="*", tenant=None)
    _, key = factories.key(role="tenant")
    ApiKey.objects.filter(pk=key.pk).update(name="the night run")
    factories.budget("6", scope_type="key", scope_key=key.prefix, tenant=acme)
    factories.budget("5", scope_type="key", scope_key="sg_another1", tenant=acme)
    spend("1", agent="invoices", key_prefix=key.prefix)
    ledger.record(
        factories.reporting("9", by=factories.caller(factories.tenant("globex"), agent="zebra")), now=timezone.now()
    )
    refuse(acme, sentence=f"Too fast for a limit a minute of key:{key.prefix}; try again in 3 s", key=key)
    refuse(acme, request_id="req-78", budgets=[blocker(f"key:{key.prefix}"), blocker("tenant:acme")])
    text = html(path)
    page = words(path)
    for hidden in ("914321", "lobex", "zebra", "sg_", key.prefix, "777", "888", "1665", "req-7", "4711", "olga"):
        assert hidden not in page, hidden
    assert "sg_" not in text
    assert "the key the night run per day" in page
    assert "a key per day" in page
    assert "Too fast for a limit a minute of a key; try again in 3 s." in page
    # A wide budget that is for each customer is its own as far as its own window goes.
    assert "all calls per day has room Limit $50.00 Spent $1.00" in page


def test_amounts_are_hidden_where_the_tenant_shows_none(acme: Tenant, path: str) -> None:
    factories.budget("10")
    spend("9", agent="invoices")
    refuse(acme, budgets=[blocker("tenant:acme")], fits_max_tokens=511)
    Tenant.objects.update(show_amounts=False)
    text, page = html(path), words(path)
    assert "$" not in text
    assert "progress max" not in text
    assert "max_tokens" not in text
    assert "all calls per day near its limit Resets 11 March 2026" in page
    assert "1 call in 30 days" in page
    assert "Tue 10 Mar 1 call Models" in page


def test_names_are_words(acme: Tenant, path: str) -> None:
    hostile = "<script>alert(1)</script>"
    Tenant.objects.update(name=hostile)
    factories.budget("10", scope_type="agent", scope_key="<img src=x>", tenant=acme)
    refuse(acme, agent="<b>bot</b>", model="\u202egnp.exe", sentence='A "quote" & <i>more</i>')
    text = html(path)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "agent &lt;img src=x&gt;" in text
    assert "<b>bot" not in text
    assert "<bdi>\u202egnp.exe</bdi>" in text
    assert "A &quot;quote&quot; &amp; &lt;i&gt;more&lt;/i&gt;." in text


@pytest.mark.parametrize(("status", "said"), [("paused", "an operator has paused them"), ("suspended", "not active")])
def test_why_all_calls_are_refused_is_said(acme: Tenant, path: str, status: str, said: str) -> None:
    Tenant.objects.update(status=status)
    assert said in words(path)


def test_it_takes_as_many_queries_however_much_there_is(
    acme: Tenant, path: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        factories.budget("10", scope_type="agent", scope_key=f"a{number}", tenant=acme)
    for number in range(12):
        spend("0.01", agent=f"a{number}", model=f"m{number}")
        refuse(acme, request_id=f"r{number}")
    with django_assert_max_num_queries(12):
        page = words(path)
    assert "These are the fullest; there are more." in page
    assert "3 more" in page


def test_a_link_ended_twice_at_one_moment_is_ended_once(acme: Tenant) -> None:
    _, link = factories.page_link(acme, now=timezone.now())
    stale = PageLink.objects.select_related("tenant").get(pk=link.pk)
    page_links.end(link=link, by=Actor("ann"), now=timezone.now())
    with pytest.raises(page_links.NotOpen):
        page_links.end(link=stale, by=Actor("bob"), now=timezone.now())
    assert PageLink.objects.get().ended_by == "ann"
