"""The console's pages of calls: the list, and one of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from governance import ledger
from governance.actions import budgets, stops
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.audit import Actor
from governance.console import calls_page
from governance.models import Budget, BudgetWindow, RefusedCall, SpendEntry
from governance.queries import calls
from governance.rules.calls import Usage
from llm.catalogue import snapshot
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db
LIST = reverse("admin:calls")
DAY = timedelta(days=1)
HOSTILE = '<script>alert("1")</script>\u202eevil'


def signed_in(*roles: str, **fields: Any) -> Client:
    client = Client()
    client.force_login(factories.person("pat", *roles, **fields))
    return client


@pytest.fixture
def operator() -> Client:
    return signed_in("operator")


def page_of(id: Any) -> str:
    return reverse("admin:call", args=[str(id)])


def read(client: Client, path: str, **query: str) -> str:
    answer = client.get(path, query)
    assert answer.status_code == 200, answer
    return answer.content.decode()


def act_on(budget: Budget, act: str) -> str:
    return reverse(f"admin:governance_budget_{act}_one", args=[budget.pk])


def offered(html: str, budget: Budget) -> list[str]:
    return [act for act in ("allow", "reset") if act_on(budget, act) in html]


def served(**caller: Any) -> SpendEntry:
    report = factories.reporting("0.01", by=factories.caller(caller.pop("of", None), **caller))
    ledger.record(report, now=timezone.now())
    return SpendEntry.objects.get(pk=report.entry_id)


def refused(**caller: Any) -> RefusedCall:
    """One that a budget had no room for: of a dollar it needs a dollar and a half."""
    log, by, now = RefusalLog(), factories.caller(caller.pop("of", None), **caller), timezone.now()
    decision = ledger.reserve(factories.reserving("1.50", by=by), now=now)
    name = str(uuids.uuid7())
    log.note(NotedRefusal(name, by, "large", ("search",), decision.reason.value, 402, now, decision=decision))
    log.flush()
    return RefusedCall.objects.get(request_id=name)


def settled(*, cost_nanos: int = 81_750, **fields: Any) -> SpendEntry:
    """A call of mistral-small at its seeded price."""
    hold, now = factories.reserving("0.10", model="mistral-small-2603"), timezone.now()
    ledger.reserve(hold, now=now)
    usage = Usage("mistral", "mistral-small-2603", 369, 0, 44)
    priced = snapshot.cost_of(usage, at=now)
    assert priced is not None
    settle = factories.settling(hold.reservation_id, request_id=str(hold.reservation_id), price_rule=priced[1])
    fields = {"cost_nanos": cost_nanos, "usage": usage, **fields}
    ledger.settle(type(settle)(**{n: fields.get(n, getattr(settle, n)) for n in settle.__dataclass_fields__}), now=now)
    return SpendEntry.objects.get(reservation=hold.reservation_id)


def test_the_list_has_served_and_refused_calls_and_links_to_each(operator: Client) -> None:
    factories.budget("1")
    entry, refusal = served(agent="invoices", user="zoe"), refused(agent="invoices")
    html = read(operator, LIST)
    for text in ("acme / invoices", "zoe", "$0.010000", "served", "refused", "budget exhausted"):
        assert text in html, text
    for row in (entry, refusal):
        assert calls_page.link(row) in html
        assert operator.get(calls_page.link(row)).status_code == 200


def test_an_empty_list_says_what_to_do(operator: Client) -> None:
    assert "make a key" in read(operator, LIST)
    assert "No call of these days is like that" in read(operator, LIST, agent="nobody")


def test_filters_are_chips_that_can_be_taken_away(operator: Client) -> None:
    served(agent="invoices", user="zoe")
    page = operator.get(LIST, {"tenant": "acme", "agent": "invoices", "status": "served", "range": "30d"})
    assert [chip[:2] for chip in page.context["chips"]] == [("Customer", "acme"), ("Agent", "invoices")]
    assert page.context["chips"][1][2] == "?range=30d&tenant=acme&status=served"
    assert len(page.context["lines"]) == 1


def test_a_filter_that_is_typed_becomes_a_part_of_the_address(operator: Client) -> None:
    answer = operator.get(
        LIST, {"range": "24h", "tenant": "acme", "field": "user", "value": " zoë & co ", "after": "x"}
    )
    assert answer.headers["location"] == "?range=24h&tenant=acme&user=zo%C3%AB+%26+co"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"tenant": "nobody"}, "there is no customer &quot;nobody&quot;"),
        ({"tenant": "a b" * 99}, "there is no customer"),
        ({"status": "odd"}, "status: is one of served, refused, estimated, downgraded"),
        ({"agent": "x" * 500}, "agent: "),
        ({"range": "year"}, "range: is one of"),
        ({"after": "odd"}, "after: is no place in this list"),
        ({"after": "9999-12-31T23:59:59+00:00~r99999999999999999999"}, "after: is no place in this list"),
        ({"from": "2026-02-30", "to": "2026-03-01"}, "from: is a day such as"),
    ],
)
def test_a_bad_address_is_told_what_is_wrong_with_it(operator: Client, query: dict[str, str], said: str) -> None:
    served()
    assert said in read(operator, LIST, **query)


def test_older_calls_are_a_page_further(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAGE", 2)
    rows = [served() for _ in range(3)]
    page = operator.get(LIST)
    assert len(page.context["lines"]) == 2
    older = operator.get(f"{LIST}{page.context['older']}")
    assert [line.link for line in older.context["lines"]] == [calls_page.link(rows[0])]
    assert older.context["newest"] == "?range=7d"


def test_one_hit_of_the_search_opens_its_page_and_several_are_listed(operator: Client) -> None:
    factories.budget("1")
    refusal, entry = refused(), settled()
    assert operator.get(LIST, {"q": refusal.request_id}).headers["location"] == page_of(refusal.request_id)
    assert operator.get(LIST, {"q": entry.request_id}).headers["location"] == page_of(entry.reservation_id)
    for of in (None, factories.tenant("globex")):
        report = factories.reporting("0.01", by=factories.caller(of), request_id="same")
        ledger.record(report, now=timezone.now())
    assert len(operator.get(LIST, {"q": "same"}).context["lines"]) == 2
    assert "No call is named" in read(operator, LIST, q=HOSTILE)


def test_the_list_asks_for_no_row_twice(
    operator: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    factories.budget("1")
    for _ in range(3):
        settled()
        refused(agent="invoices")
    with django_assert_max_num_queries(10):
        read(operator, LIST)


def test_a_page_has_the_sum_of_the_price_the_hold_and_the_budgets(operator: Client) -> None:
    budget = factories.budget("1")
    html = read(operator, page_of(settled().request_id))
    for text in (
        "369 in × $0.15/M + 44 out × $0.60/M = $0.00008175",
        "$0.100000",
        "$0.099918 returned",
        "acme per day",
        reverse("admin:governance_budget_change", args=[budget.pk]),
    ):
        assert text in html, text


def test_a_cost_that_is_no_sum_says_what_it_is(operator: Client) -> None:
    factories.budget("1")
    estimate = settled(cost_nanos=100_000_000, certainty="estimated", reason="upstream_cut")
    html = read(operator, page_of(estimate.request_id))
    assert "An estimate (upstream cut)" in html
    assert "×" not in html.partition("What it cost")[2].partition("</section>")[0]
    assert "As it was reported." in read(operator, page_of(served().pk))


def test_a_refusals_page_has_the_figures_of_that_moment_and_what_can_be_done(operator: Client) -> None:
    budget = factories.budget("2")
    ledger.record(factories.reporting("1"), now=timezone.now())
    html = read(operator, page_of(refused(agent="invoices").request_id))
    for text in ("tenant:acme per day", "Missing", "$0.50", "$1.50", "The budget is used up", "$0.50 more"):
        assert text in html, text
    for act in ("allow", "reset"):
        assert f'href="{act_on(budget, act)}"' in html


class TestWhatIsStillOfUse:
    """A page of what was refused some time ago offers what helps now, and says how the budget stands."""

    def test_a_budget_that_has_room_again_is_given_nothing(self, operator: Client) -> None:
        budget = factories.budget("1")
        row = refused()
        budgets.change(budget=budget, changes={"limit_nanos": nanos("9")}, by=Actor("olga"), now=timezone.now())
        html = read(operator, page_of(row.request_id))
        assert "Now $9.00 of $9.00 is left: such a call has room again." in html
        assert offered(html, budget) == []

    def test_nor_one_whose_window_is_over(self, operator: Client) -> None:
        """Where nobody called since, no window is open: the next call opens an empty one."""
        budget = factories.budget("2")
        ledger.record(factories.reporting("1"), now=timezone.now())
        row = refused()
        BudgetWindow.objects.update(starts_at=timezone.now() - 4 * DAY, ends_at=timezone.now() - 3 * DAY)
        html = read(operator, page_of(row.request_id))
        assert "Now $2.00 of $2.00 is left" in html
        assert offered(html, budget) == []

    def test_a_reset_is_not_offered_where_an_empty_window_is_too_small(self, operator: Client) -> None:
        budget = factories.budget("1")
        html = read(operator, page_of(refused().request_id))
        assert offered(html, budget) == ["allow"]
        assert "Now $1.00 of $1.00 is left." in html

    def test_one_that_is_switched_off_says_so(self, operator: Client) -> None:
        budget, row = factories.budget("1"), refused()
        budgets.change(budget=budget, changes={"enabled": False}, by=Actor("olga"), now=timezone.now())
        html = read(operator, page_of(row.request_id))
        assert "It is switched off now." in html
        assert offered(html, budget) == []

    @pytest.mark.parametrize("owner", ["acme", None])
    def test_of_a_budget_for_each_one_they_are_for_that_one(self, operator: Client, owner: str | None) -> None:
        budget = factories.budget("2", scope_type="user", scope_key="*")
        if owner is None:
            Budget.objects.update(tenant=None)
        ledger.record(factories.reporting("1", by=factories.caller(user="alice")), now=timezone.now())
        html = read(operator, page_of(refused(user="alice").request_id))
        subject = "alice" if owner else "acme%2Falice"
        for act in ("allow", "reset"):
            assert f'href="{act_on(budget, act)}?subject={subject}"' in html


def test_a_viewer_reads_it_and_is_offered_no_act() -> None:
    factories.budget("1")
    html = read(signed_in("viewer"), page_of(refused().request_id))
    assert "Missing" in html
    for act in ("/allow/", "/reset/", "/lift/"):
        assert act not in html, act


@pytest.mark.parametrize("reason", ["emergency_stop", "agent_paused", "tenant_paused"])
def test_what_somebody_stopped_can_be_let_go_on_there(operator: Client, reason: str) -> None:
    agent, now = factories.agent(), timezone.now()
    if reason == "emergency_stop":
        stop = stops.stop(agent=agent, reason="a loop", by=Actor(name="olga"), now=now)
        stops.stop(agent=factories.agent("other"), reason="another", by=Actor(name="olga"), now=now)
        act = reverse("admin:governance_emergencystop_lift_one", args=[stop.pk])
    elif reason == "agent_paused":
        type(agent).objects.update(status="paused")
        act = reverse("admin:governance_agent_resume_one", args=[agent.pk])
    else:
        type(agent.tenant).objects.update(status="paused")
        act = reverse("admin:governance_tenant_resume_one", args=[agent.tenant_id])
    row = RefusedCall.objects.create(
        refused_at=now, request_id="r", tenant=factories.tenant(), agent=agent.slug, reason=reason, status=403
    )
    html = read(operator, page_of(row.request_id))
    assert act in html
    assert html.count("sg-button-main") == 1


def test_an_unknown_id_is_a_page_with_a_sentence(operator: Client) -> None:
    for id in ("nope", HOSTILE, "a/b", "x" * 500):
        answer = operator.get(page_of(id))
        assert answer.status_code == 404
        assert "No call has this id" in answer.content.decode()
        assert "<script>alert" not in answer.content.decode()


def test_hostile_names_are_escaped(operator: Client) -> None:
    factories.budget("1")
    name = '<script>alert("1")</script>'
    entry, refusal = served(user=name, session=name, task=name), refused(user=name)
    for path in (LIST, calls_page.link(entry), calls_page.link(refusal)):
        assert "<script>alert" not in read(operator, path)


class TestTenantStaff:
    """They see their own customer alone, and nothing of a wider budget."""

    @pytest.fixture
    def staff(self) -> Client:
        return signed_in("tenant staff", of=factories.tenant())

    def test_see_their_calls_alone(self, staff: Client) -> None:
        globex = factories.tenant("globex")
        ours, theirs = served(agent="ours"), served(agent="theirs", of=globex)
        html = read(staff, LIST)
        assert "ours" in html
        assert "globex" not in html
        assert staff.get(page_of(ours.pk)).status_code == 200
        assert staff.get(page_of(theirs.pk)).status_code == 404
        for slug in ("globex", "nobody"):
            page = staff.get(LIST, {"tenant": slug})
            assert page.context["lines"] == []
            assert page.context["errors"] == ['tenant: you see "acme" alone.']

    def test_see_no_amount_of_a_wider_budget_nor_an_act(self, staff: Client) -> None:
        factories.budget("1.23", scope_type="platform")
        html = read(staff, page_of(refused(agent="ours").request_id))
        assert "a limit of the platform per day" in html
        for hidden in ("1.23", "0.27", "/allow/", "/reset/", "/governance/budget/1/"):
            assert hidden not in html, hidden
        charged = settled()
        html = read(staff, page_of(charged.request_id))
        assert "a limit of the platform per day" in html
        assert "/admin/governance/budget/" not in html.partition("Budgets charged")[2].partition("</section>")[0]


def test_whoever_has_no_role_sees_neither() -> None:
    client = Client()
    client.force_login(factories.person("nobody"))
    for path in (LIST, page_of("x")):
        assert client.get(path).status_code == 403


def test_a_row_that_only_counts_others_leads_to_itself(operator: Client) -> None:
    row = RefusedCall.objects.create(
        refused_at=timezone.now() - timedelta(minutes=1), tenant=factories.tenant(), reason="x", status=429, more=12
    )
    html = read(operator, LIST)
    assert "12 more, only counted" in html
    assert reverse("admin:governance_refusedcall_change", args=[row.pk]) in html
