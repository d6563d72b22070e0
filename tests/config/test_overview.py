"""The overview: figures made by hand from rows of the ledger, what is asked for every few seconds, what happened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
import time_machine
import uuid_utils.compat as uuids
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from config.console import first_run
from governance import ledger
from governance.actions import allowances, stops
from governance.audit import Actor
from governance.models import Budget, RefusedCall, Tenant
from tests import factories

pytestmark = pytest.mark.django_db
# A Friday afternoon of UTC.
NOW = datetime(2026, 5, 15, 14, 20, tzinfo=UTC)
BY = Actor("max")


@pytest.fixture(autouse=True)
def clock() -> Iterator[Any]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
def operator() -> Client:
    return signed_in(User.objects.create_user("olga", is_staff=True, is_superuser=True))


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def tenant_staff(of: Tenant) -> Client:
    return signed_in(factories.person("tom", "tenant staff", of=of))


def spent(
    cost: str, *, at: datetime = NOW - timedelta(minutes=5), agent: str = "invoices", of: Tenant | None = None
) -> None:
    ledger.record(factories.reporting(cost, by=factories.caller(of, agent=agent), occurred_at=at), now=at)


def refused(agent: str = "invoices", *, of: Tenant | None = None, at: datetime = NOW) -> None:
    RefusedCall.objects.create(
        refused_at=at,
        request_id=str(uuids.uuid7()),
        tenant=of or factories.tenant(),
        agent=agent,
        reason="budget_exhausted",
        status=402,
    )


def text(answer: HttpResponse) -> str:
    assert answer.status_code == 200
    return " ".join(unescape(strip_tags(answer.content.decode())).split())


def cards(html: str) -> dict[str, tuple[str, str, str]]:
    """Each card's value, note and address, by its title."""
    found = re.findall(
        r'<h2><a href="([^"]+)">([^<]+)</a></h2>\s*<p class="sg-value">(.*?)</p>\s*<p class="sg-note">(.*?)</p>', html
    )
    return {title: (value, note, unescape(link)) for link, title, value, note in found}


def told(answer: HttpResponse, id: str) -> Any:
    """The figures of a page that a script of it holds."""
    found = re.search(rf'<script id="{id}" type="application/json">(.*?)</script>', answer.content.decode())
    assert found
    return json.loads(found[1])


def part_of(answer: HttpResponse, id: str) -> str:
    """What is in an element that has an id: to the next of its own kind's end."""
    found = re.search(rf'<(\w+) id="{id}"[^>]*>(.*?)</\1>', answer.content.decode(), re.DOTALL)
    assert found
    return " ".join(found[2].split())


def live_of(page: HttpResponse) -> str:
    """Where a page asks for its figures."""
    found = re.search(r'id="overview-live"[^>]*hx-get="([^"]+)"', page.content.decode())
    assert found
    return unescape(found[1])


class TestCards:
    def test_count_budgets_by_state_and_lead_to_them(self, operator: Client) -> None:
        for name, cost in (("a", "0.10"), ("b", "0.85"), ("c", "1.00")):
            factories.budget("1", scope_type="agent", scope_key=name)
            spent(cost, agent=name)
        rule = [{"from": ["*"], "to": "small"}]
        factories.budget("1", scope_type="agent", scope_key="d", downgrade_rules=rule)
        spent("0.85", agent="d")
        factories.budget("1", scope_type="agent", scope_key="unused")
        factories.budget("1", scope_type="agent", scope_key="e", enabled=False)
        found = cards(operator.get("/admin/").content.decode())
        assert [found[name][0] for name in ("Active", "Warned", "Degraded", "Stopped")] == ["2", "1", "1", "1"]
        for name in ("Active", "Warned", "Degraded", "Stopped"):
            listed = operator.get(found[name][2]).context["cl"]
            assert len(listed.rows) == int(found[name][0])

    def test_tell_today_s_spend_beside_yesterday_s_by_the_end_of_this_hour(self, operator: Client) -> None:
        spent("0.50")
        spent("0.25", at=NOW.replace(hour=0, minute=0))
        yesterday = NOW - timedelta(days=1)
        spent("1.00", at=yesterday.replace(hour=14, minute=59))
        spent("4.00", at=yesterday.replace(hour=15, minute=0))
        spent("8.00", at=yesterday.replace(hour=0, minute=0) - timedelta(seconds=1))
        value, note, link = cards(operator.get("/admin/").content.decode())["Spent today"]
        assert (value, note) == ("$0.75", "$1.00 yesterday by 15:00")
        assert "$0.75" in text(operator.get(link))

    def test_are_a_tenant_s_own_for_its_staff_in_its_own_day(self) -> None:
        globex = factories.tenant("globex")
        tokyo = factories.tenant("kaiju", time_zone="Asia/Tokyo")
        factories.budget("1", tenant=tokyo)
        factories.budget("1", tenant=globex)
        # It is 23:20 there: its day began at 15:00 of UTC.
        spent("0.25", of=tokyo, at=NOW - timedelta(days=1) + timedelta(hours=1))
        spent("0.50", of=tokyo, at=NOW - timedelta(days=1))
        spent("4.00", of=globex)
        page = tenant_staff(tokyo).get("/admin/")
        found = cards(page.content.decode())
        assert (found["Active"][0], found["Spent today"][0]) == ("1", "$0.25")
        assert found["Spent today"][1] == "$0.50 yesterday by midnight"
        assert "globex" not in page.content.decode()
        assert "All is well" not in text(page)


class TestChart:
    def test_stacks_what_was_spent_by_the_group_and_leads_to_its_slice(self, operator: Client) -> None:
        spent("0.50")
        spent("0.25", of=factories.tenant("globex"), at=NOW - timedelta(days=2))
        page = operator.get("/admin/?range=7d&group=tenant")
        drawn = told(page, "trend-data")
        assert [(one["name"], [float(value) for value in one["values"]]) for one in drawn["series"]] == [
            ("acme", [0, 0, 0, 0, 0, 0, 0.5]),
            ("globex", [0, 0, 0, 0, 0.25, 0, 0]),
        ]
        assert "/admin/spend/?range=custom&from=2026-05-13T00Z&to=2026-05-13T23Z&tenant=globex" in drawn["links"][1]
        assert "66.7%$0.50" in text(page)
        assert "$0.75 in 2 calls" in text(page)

    def test_names_the_agents_of_two_customers_apart(self, operator: Client) -> None:
        spent("0.50", agent="support")
        spent("0.25", agent="support", of=factories.tenant("globex"))
        names = [one["name"] for one in told(operator.get("/admin/?group=agent"), "trend-data")["series"]]
        assert names == ["acme / support", "globex / support"]

    @pytest.mark.parametrize("query", ["range=soon&group=colour", "range=custom&from=x&to=y", "group=tenant'--"])
    def test_of_a_bad_address_is_the_usual_one(self, operator: Client, query: str) -> None:
        page = operator.get(f"/admin/?{query}", follow=True)
        assert "Spent by model" in text(page) or "Spent by customer" in text(page)
        assert operator.get(f"/admin/overview/?{query}", follow=True).status_code == 200

    def test_escapes_names(self, operator: Client) -> None:
        spent("0.50", agent="<script>alert(1)</script>")
        html = operator.get("/admin/?group=agent").content.decode()
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


class TestLive:
    def test_nothing_is_sent_again_that_has_not_changed(self, operator: Client) -> None:
        factories.budget("1", scope_type="agent", scope_key="invoices")
        live = live_of(operator.get("/admin/?group=agent"))
        assert (operator.get(live).status_code, operator.get(live).content) == (204, b"")

        spent("0.50")
        answer = operator.get(live)
        assert cards(answer.content.decode())["Spent today"][0] == "$0.50"
        [series] = told(answer, "trend-data")["series"]
        assert (series["name"], float(series["values"][6]), series["calls"][6]) == ("acme / invoices", 0.5, 1)
        assert b"overview-notices" not in answer.content
        assert operator.get(live_of(answer)).status_code == 204

    def test_a_stop_comes_with_the_figures_and_once(self, operator: Client) -> None:
        live = live_of(operator.get("/admin/"))
        stops.stop(tenant=factories.tenant(), reason="a loop", by=BY, now=NOW)
        answer = operator.get(live)
        assert 'id="overview-notices" class="sg-live" hx-swap-oob="true"' in answer.content.decode()
        assert "Tenant acme is stopped" in text(answer)
        assert operator.get(live_of(answer)).status_code == 204

    @pytest.mark.parametrize("query", ["", "range=24h&group=agent", "range=custom&from=2026-01-12&to=2026-05-20"])
    def test_the_whole_chart_comes_with_what_was_spent(self, operator: Client, query: str) -> None:
        spent("0.25", at=NOW - timedelta(hours=3))
        live = live_of(operator.get(f"/admin/?{query}"))
        spent("0.50")
        spent("0.125", agent="support")
        answer, page = operator.get(live), operator.get(f"/admin/?{query}")
        for part in ("spent", "legend", "table"):
            assert part_of(answer, f"trend-{part}") == part_of(page, f"trend-{part}") != ""
        assert told(answer, "trend-data") == told(page, "trend-data")
        assert "$0.875 in 3 calls" in text(answer).replace("$0.8750", "$0.875")

    def test_a_call_that_runs_is_told_without_the_chart(self, operator: Client) -> None:
        live = live_of(operator.get("/admin/"))
        ledger.reserve(factories.reserving("0.02"), now=NOW)
        answer = operator.get(live)
        assert "1 call runs now, $0.02 reserved" in part_of(answer, "trend-running")
        assert b"trend-data" not in answer.content

    def test_a_range_that_is_over_is_drawn_once(self, operator: Client) -> None:
        live = live_of(operator.get("/admin/?range=custom&from=2026-05-01&to=2026-05-02"))
        spent("0.50")
        assert b"trend-data" not in operator.get(live).content

    def test_whoever_is_signed_out_is_led_back_to_where_they_were(self) -> None:
        asked = {"hx-request": "true", "hx-current-url": "https://governor.example/admin/?range=24h"}
        answer = Client().get("/admin/overview/", headers=asked)
        assert answer["HX-Redirect"] == "/admin/login/?next=%2Fadmin%2F%3Frange%3D24h"
        for elsewhere in ("https://evil.example/x", "http://[::", "//[", "x:]/admin/"):
            answer = Client().get("/admin/overview/", headers=asked | {"hx-current-url": elsewhere})
            assert answer["HX-Redirect"] == "/admin/login/", elsewhere


class TestWhatHappened:
    def test_a_burst_is_one_line_that_leads_to_its_page(self, operator: Client) -> None:
        budget = factories.budget("1", scope_type="agent", scope_key="invoices")
        for cost in ("0.55", "0.30", "0.15"):
            spent(cost)
        for number in range(3):
            refused(at=NOW - timedelta(minutes=number))
        refused(at=NOW - timedelta(hours=3))
        page = operator.get(reverse("admin:overview-happened"))
        lines = page.context["lines"]
        assert [(line.kind, line.whom, line.words) for line in lines] == [
            ("refused", "acme / invoices", "3 calls: budget exhausted"),
            (
                "stopped",
                "acme agent:invoices per day",
                "reached 50%, 75%, 90%, 100% of its limit, stopped calls, went from active to stopped",
            ),
            ("refused", "acme / invoices", "1 call: budget exhausted"),
        ]
        assert lines[1].link == reverse("admin:governance_budget_change", args=[budget.pk])
        assert len(operator.get(lines[0].link).context["lines"]) == 3
        alone = RefusedCall.objects.earliest("refused_at").request_id
        assert lines[2].link == reverse("admin:call", args=[alone])
        assert operator.get(lines[2].link).status_code == 200

    def test_raises_stops_and_downgrades_are_told_with_their_amounts(self, operator: Client) -> None:
        budget, until = factories.budget("1"), NOW + timedelta(days=2)
        allowances.raise_limit(
            budget=budget,
            amount_nanos=factories.nanos("3"),
            starts_at=NOW,
            ends_at=until,
            reason="fair",
            by=BY,
            now=NOW,
        )
        stop = stops.stop(agent=factories.agent(), reason="a loop", by=BY, now=NOW)
        stops.lift(stop=stop, by=BY, now=NOW + timedelta(seconds=1))
        page = operator.get(reverse("admin:overview-happened"))
        found = {line.kind: (line.whom, line.words, line.amount) for line in page.context["lines"]}
        assert found["raised"] == ("acme per day", "fair, by max", "+$3.00 until Sun, May 17")
        assert found["emergency stop"] == ("agent acme/invoices", "a loop, by max", "")
        assert found["lifted"] == ("agent acme/invoices", "by max", "")

    def test_a_tenant_s_staff_reads_its_own_alone_and_no_operator_s_name(self) -> None:
        acme, globex = factories.tenant(), factories.tenant("globex")
        stops.stop(tenant=acme, reason="a loop", by=BY, now=NOW)
        stops.stop(reason="everything", by=BY, now=NOW)
        refused(of=globex)
        page = tenant_staff(acme).get(reverse("admin:overview-happened"))
        [line] = page.context["lines"]
        assert (line.kind, line.words) == ("emergency stop", "a loop, by an operator")
        assert "globex" not in page.content.decode()

    def test_of_nothing_says_so(self, operator: Client) -> None:
        page = text(operator.get(reverse("admin:overview-happened")))
        assert "Nothing out of the ordinary" in page
        assert "Nothing was downgraded, cached, clamped or refused by a cap this month" in page


class TestClosest:
    def test_says_when_a_budget_runs_out_and_leads_to_it(self, operator: Client) -> None:
        budget = factories.budget("10", window="month")
        for hours in range(1, 11):
            spent("0.70", at=NOW - timedelta(hours=hours))
        page = operator.get("/admin/")
        [row] = page.context["closest"]
        assert "Runs out" in row.outlook
        assert reverse("admin:governance_budget_change", args=[budget.pk]) in page.content.decode()
        assert "$3.00 left of $10.00" in text(page)

    def test_of_a_wider_budget_leads_a_tenant_s_staff_nowhere(self) -> None:
        acme = factories.tenant()
        Budget.objects.create(scope_type="tenant", scope_key="*", window="day", limit_nanos=factories.nanos("1"))
        spent("0.50", of=acme)
        page = tenant_staff(acme).get("/admin/")
        assert [row.link for row in page.context["closest"]] == [""]


class TestFirstSteps:
    def steps(self, client: Client) -> list[tuple[str, bool]]:
        found = client.get("/admin/").context["first_steps"]
        return [(step.title, step.is_done) for step in found.steps] if found else []

    def done(self, client: Client) -> list[bool]:
        return [is_done for _, is_done in self.steps(client)]

    def test_each_is_done_once_there_is_what_it_asks_for(self, operator: Client, settings: Any) -> None:
        settings.MISTRAL_API_KEY, settings.MISTRAL_API_BASE = "", "https://api.mistral.ai"
        settings.STRIPE_SECRET_KEY = ""
        assert self.done(operator) == [False] * 5
        settings.MISTRAL_API_BASE = settings.SANDBOX_URL
        assert self.done(operator) == [True, False, False, False, False]
        assert "The provider is simulated" in text(operator.get("/admin/"))
        factories.tenant()
        assert self.done(operator) == [True, True, False, False, False]
        _, key = factories.key()
        key.expires_at = NOW
        key.save()
        assert self.done(operator) == [True, True, False, False, False]
        factories.key(agent_slug="support")
        assert self.done(operator) == [True, True, True, False, False]
        spent("0.01")
        assert self.done(operator) == [True, True, True, True, False]
        assert "One step is left: Connect Stripe" in text(operator.get("/admin/"))
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        assert self.steps(operator) == []

    def test_lead_only_where_one_may_go(self, operator: Client) -> None:
        add = reverse("admin:governance_tenant_add")
        assert f'href="{add}"' in operator.get("/admin/").content.decode()
        viewer = signed_in(factories.person("vera", "viewer"))
        assert "Add a customer" in text(viewer.get("/admin/"))
        assert f'href="{add}"' not in viewer.get("/admin/").content.decode()

    def test_are_put_away_in_one_browser(self, operator: Client) -> None:
        away = reverse("admin:first-steps")
        assert operator.get(away).status_code == 404
        answer = operator.post(away)
        assert (answer.status_code, answer["Location"]) == (302, "/admin/")
        assert answer.cookies[first_run.COOKIE]["httponly"]
        assert self.steps(operator) == []
        other = signed_in(User.objects.create_user("otto", is_staff=True, is_superuser=True))
        assert len(self.steps(other)) == 5

    def test_are_no_concern_of_a_tenant_s_staff(self) -> None:
        client = tenant_staff(factories.tenant())
        assert self.steps(client) == []
        assert client.post(reverse("admin:first-steps")).status_code == 403
