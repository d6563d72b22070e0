"""Customers, agents and keys in the console: what their pages show, to whom, and what is done there."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from governance import ledger, ports
from governance.actions import budgets, stops, tenancy
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.audit import Actor
from governance.models import Agent, ApiKey, AuditEntry, RateLimit, Tenant
from governance.ports import BilledEvent, CustomerBill, CustomerPlan, TriedCall
from llm.catalogue import snapshot
from tests import factories
from tests.factories import NOON, nanos

pytestmark = pytest.mark.django_db

LIST = "/admin/governance/tenant/"
HOSTILE = "<script>alert(1)</script>\u202etxt"
BY = Actor("olga")
CONFIRMED = {"_confirmed": "yes", "reason": "because"}


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    with time_machine.travel(NOON, tick=False):
        yield
    # Pages that name models read the prices of that day.
    snapshot.forget()


def signed_in(*roles: str, **fields: Any) -> Client:
    client = Client()
    client.force_login(factories.person("-".join(roles), *roles, **fields))
    return client


@pytest.fixture
def operator() -> Client:
    return signed_in("operator")


@pytest.fixture
def acme() -> Tenant:
    """A customer with an agent, a key, a budget, a call, a running one and a refusal."""
    made = factories.tenant("acme", name="Acme Logistics")
    agent = factories.agent("invoices", of=made)
    _, key = factories.key(of=made)
    factories.budget("1", window="month")
    factories.budget("0.40", scope_type="agent", scope_key="invoices")
    by = factories.caller(made, agent=agent.slug, key_id=key.pk, key_prefix=key.prefix)
    ledger.record(factories.reporting("0.36", by=by, occurred_at=NOON - timedelta(minutes=2)), now=NOON)
    ledger.reserve(factories.reserving("0.02", by=by), now=NOON)
    log = RefusalLog()
    log.note(NotedRefusal("r-1", by, "large", (), "over_budget", 402, NOON - timedelta(hours=1), sentence="No."))
    log.flush()
    return made


def page_of(row: Any) -> str:
    return reverse(f"admin:governance_{row._meta.model_name}_change", args=[row.pk])


def text(answer: Any) -> str:
    assert answer.status_code == 200
    html = re.sub(r"(?=</(td|th|dt|dd|p|h2|h3|li|span)>)", " ", answer.content.decode())
    return re.sub(r"\s+", " ", strip_tags(html).replace("\u00a0", " "))


def cards(answer: Any) -> dict[str, tuple[str, str]]:
    return {card.title: (card.value, strip_tags(str(card.note))) for card in answer.context["page"]["cards"]}


def acts(answer: Any) -> set[str]:
    return {action["title"] for action in answer.context["actions_detail"]}


def billing(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    plan = CustomerPlan("Standard", "active")
    paid = {"paid_nanos": nanos("50"), "margin_nanos": nanos("49.64"), "margin_e4": 9928}
    bill = CustomerBill(
        plan, "cus_1", "/admin/billing/1/", "https://dashboard.stripe.com/test/customers/cus_1", NOON, **(paid | fields)
    )
    event = BilledEvent(NOON - timedelta(days=1), "paid an invoice: $50.00", "", "/admin/event/1/", "success")
    monkeypatch.setattr(
        ports,
        "wired",
        replace(
            ports.wired,
            plans=lambda tenants: dict.fromkeys(tenants, plan),
            bill=lambda **_: bill,
            billed_events=lambda **_: [event],
        ),
    )


class TestList:
    def names(self, answer: Any) -> list[str]:
        return [row.tenant.slug for row in answer.context["cl"].rows]

    def test_the_worst_come_first_with_plan_agents_and_spend(
        self, operator: Client, acme: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stops.stop(tenant=factories.tenant("globex"), reason="a loop", by=BY, now=NOON)
        billing(monkeypatch)
        answer = operator.get(LIST)
        assert self.names(answer) == ["globex", "acme"]
        assert "Acme Logistics acme · 1 agent warned active Standard active 1 38% used $0.36" in text(answer)
        assert self.names(operator.get(f"{LIST}?state=stopped")) == ["globex"]
        assert self.names(operator.get(f"{LIST}?sort=spent")) == ["acme", "globex"]
        assert self.names(operator.get(f"{LIST}?q=logistics")) == ["acme"]

    @pytest.mark.parametrize("table", ["tenant", "agent"])
    def test_what_was_spent_this_month_leads_to_the_same_sum(self, operator: Client, acme: Tenant, table: str) -> None:
        begin = NOON.replace(day=1, hour=0)
        by = factories.caller(acme, agent="invoices")
        # India's month began before the list's, which is one for all.
        Tenant.objects.update(time_zone="Asia/Kolkata")
        for cost, at in (("0.25", NOON), ("0.50", begin), ("4.00", begin - timedelta(minutes=1))):
            ledger.record(factories.reporting(cost, by=by, occurred_at=at), now=NOON)
        page = operator.get(f"/admin/governance/{table}/")
        [link] = re.findall(r'<a href="(/admin/spend/[^"]*)">(?:<span[^>]*>)?\$1.11', page.content.decode())
        led = operator.get(unescape(link))
        assert re.search(r"Total[^$]*\$1\.11", text(led))

    @pytest.mark.parametrize("query", ["state=x", "sort=x", "p=x", "p=99"])
    def test_a_bad_address_is_the_list_all_the_same(self, operator: Client, acme: Tenant, query: str) -> None:
        assert self.names(operator.get(f"{LIST}?{query}", follow=True)) == ["acme"]

    def test_an_empty_list_says_what_to_do(self, operator: Client) -> None:
        assert "There is no customer yet" in text(operator.get(LIST))
        assert "Add a customer" not in text(signed_in("viewer").get(LIST))
        assert "No agent is known yet" in text(operator.get("/admin/governance/agent/"))
        assert "There is no key yet" in text(operator.get("/admin/governance/apikey/"))

    def test_tenant_staff_sees_its_own(self, acme: Tenant) -> None:
        factories.tenant("globex")
        client = signed_in("tenant staff", of=acme)
        assert self.names(client.get(LIST)) == ["acme"]
        assert "Pause" not in text(client.get(LIST))

    def test_stopped_agents_and_keys_in_use_are_said_to_be(self, operator: Client, acme: Tenant) -> None:
        stops.stop(agent=Agent.objects.get(), reason="a loop", by=BY, now=NOON)
        assert "invoices Acme Logistics stopped" in text(operator.get("/admin/governance/agent/"))
        key = ApiKey.objects.get()
        assert f"{key.prefix}… usable acme / invoices agent" in text(operator.get("/admin/governance/apikey/"))
        assert "last used: Mar 10, 11:58 UTC" in text(operator.get("/admin/governance/apikey/"))
        tenancy.revoke_key(key=key, by=BY, now=NOON)
        rows = operator.get("/admin/governance/apikey/?state=usable").context["cl"].result_list
        assert list(rows) == []
        assert "revoked" in text(operator.get("/admin/governance/apikey/?state=revoked"))


class TestCustomer:
    def test_its_refusals_lead_to_as_many_calls(self, operator: Client, acme: Tenant) -> None:
        log = RefusalLog()
        by, at = factories.caller(acme, agent="invoices"), NOON.replace(hour=12) - timedelta(hours=23, minutes=30)
        log.note(NotedRefusal("r-2", by, "large", (), "over_budget", 402, at, sentence="No."))
        log.flush()
        [card] = [one for one in operator.get(page_of(acme)).context["page"]["cards"] if one.title == "Refused"]
        assert card.value == "1"
        assert len(operator.get(card.link).context["lines"]) == 1

    def test_it_is_read_first(self, operator: Client, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        billing(monkeypatch)
        answer = operator.get(page_of(acme))
        assert cards(answer) == {
            "Spent this month": ("$0.36", "1 calls"),
            "Running now": ("1", "$0.02 reserved for them"),
            "Refused": ("1", "in the last 24 hours"),
            "Plan": ("Standard", "active until Mar 10, 12:00 UTC"),
            "Margin": ("$49.64", "99% of $50.00 paid, this month"),
        }
        shown = text(answer)
        assert "invoices warned 1 $0.36" in shown
        assert re.search(r"acme agent:invoices per day warned .*\$0\.36 of \$0\.40 ", shown)
        assert "Stripe paid an invoice: $50.00" in shown
        assert "acme agent:invoices per day reached 50%, 75%, 90% of its limit" in shown
        html = answer.content.decode()
        assert 'href="https://dashboard.stripe.com/test/customers/cus_1"' in html
        assert "/admin/spend/?range=7d&amp;group=agent&amp;subgroup=&amp;tenant=acme" in html
        assert "/admin/calls/?range=7d&amp;tenant=acme" in html
        series = answer.context["page"]["spend"].chart.figures["series"]
        assert [each["name"] for each in series] == ["invoices"]

    def test_who_costs_more_than_is_paid_is_a_loss_and_who_paid_nothing_is_none(
        self, operator: Client, acme: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def tone() -> str:
            found = operator.get(page_of(acme)).context["page"]["cards"]
            return str(next(card.tone for card in found if card.title == "Margin"))

        billing(monkeypatch, paid_nanos=nanos("0.30"), margin_nanos=-nanos("0.06"), margin_e4=-2000)
        assert tone() == "danger"
        billing(monkeypatch, paid_nanos=0, margin_nanos=-nanos("0.36"), margin_e4=None)
        assert tone() == ""
        billing(monkeypatch, margin_nanos=None, margin_e4=None)
        assert cards(operator.get(page_of(acme)))["Margin"] == ("not known", "paid in other currencies, too")

    def test_without_billing_nothing_is_made_up(self, operator: Client, acme: Tenant) -> None:
        found = cards(operator.get(page_of(acme)))
        assert found["Plan"] == ("none", "no subscription is known")
        assert found["Margin"] == ("–", "nobody is known to pay")

    def test_its_settings_are_changed_beside_it(self, operator: Client, acme: Tenant) -> None:
        form = {"name": "Acme Ltd", "time_zone": "UTC", "default_max_tokens": "4096", "_continue": "save"}
        assert operator.post(page_of(acme), form).status_code == 302
        shown = text(operator.get(page_of(acme)))
        assert "operator changed name Acme Logistics → Acme Ltd, show amounts yes → no" in shown
        wrong = operator.post(page_of(acme), form | {"time_zone": "Mars"})
        assert "Nothing was saved" in text(wrong)

    def test_acts_that_would_do_nothing_are_not_offered(self, operator: Client, acme: Tenant) -> None:
        assert acts(operator.get(page_of(acme))) == {"Pause", "Emergency stop", "Read-only page"}
        tenancy.pause_tenant(tenant=acme, reason="quiet", by=BY, now=NOON)
        stop = stops.stop(tenant=acme, reason="a loop", by=BY, now=NOON)
        answer = operator.get(page_of(acme))
        assert acts(answer) == {"Resume", "Read-only page"}
        assert "Acme Logistics is stopped a loop by olga" in text(answer)
        assert reverse("admin:governance_emergencystop_lift_one", args=[stop.pk]) in answer.content.decode()
        assert "olga stopped it · a loop" in text(answer)
        Tenant.objects.update(status="suspended")
        assert acts(operator.get(page_of(acme))) == {"Read-only page"}
        assert acts(signed_in("viewer").get(page_of(acme))) == set()

    def test_a_stop_says_what_runs_and_was_spent(self, operator: Client, acme: Tenant) -> None:
        for act in ("stop", "pause"):
            asked = operator.get(reverse(f"admin:governance_tenant_{act}_one", args=[acme.pk]))
            assert "1 of its calls run now, $0.02 reserved for them; in the last 24 hours 1 calls spent $0.36" in text(
                asked
            )

    def test_tenant_staff_sees_no_wider_amounts_no_billing_and_no_names(
        self, acme: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        billing(monkeypatch)
        budgets.reset(budget=acme.budgets.get(scope_type="tenant"), reason="anew", by=Actor("olga"), now=NOON)
        stops.stop(reason="a secret", by=BY, now=NOON)
        answer = signed_in("tenant staff", of=acme).get(page_of(acme))
        shown = text(answer)
        assert "Margin" not in cards(answer)
        assert not re.search(r"Stripe|olga|a secret|Lift|Pause|49\.64", answer.content.decode())
        assert "an operator reset it" in shown.replace("acme per month: ", "")
        assert "Everything is stopped" in shown
        assert signed_in("tenant staff", "viewer", of=factories.tenant("globex")).get(page_of(acme)).status_code == 302

    @pytest.mark.parametrize("query", ["range=x", "from=2026-13-01", "by=x", "range=custom&from=9999-01-01&to=x"])
    def test_a_bad_address_is_the_page_with_a_sentence(self, operator: Client, acme: Tenant, query: str) -> None:
        assert operator.get(f"{page_of(acme)}?{query}").status_code == 200

    def test_names_are_escaped_and_isolated(self, operator: Client, acme: Tenant) -> None:
        Tenant.objects.filter(pk=acme.pk).update(name=HOSTILE)
        agent = factories.agent(HOSTILE, of=acme)
        ledger.record(factories.reporting("0.01", by=factories.caller(acme, agent=HOSTILE)), now=NOON)
        for page in (LIST, page_of(acme), page_of(agent), "/admin/governance/agent/"):
            html = operator.get(page).content.decode()
            assert "<script>alert" not in html
            assert "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;\u202etxt</bdi>" in html

    def test_its_queries_are_bounded(self, operator: Client, acme: Tenant, django_assert_max_num_queries: Any) -> None:
        for number in range(30):
            factories.budget("1", scope_type="agent", scope_key=f"a{number}")
            factories.key(of=acme, agent_slug=f"a{number}")
            ledger.record(factories.reporting("0.01", by=factories.caller(acme, agent=f"a{number}")), now=NOON)
        with django_assert_max_num_queries(60):
            operator.get(page_of(acme))
        with django_assert_max_num_queries(60):
            operator.get(page_of(Agent.objects.get(slug="a3")))
        with django_assert_max_num_queries(16):
            operator.get(LIST)


class TestAgent:
    def test_it_shows_its_rate_its_limits_budgets_and_calls(self, operator: Client, acme: Tenant) -> None:
        RateLimit.objects.create(tenant=acme, scope_type="agent", scope_key="*", requests_per_minute=60)
        agent = Agent.objects.get()
        answer = operator.get(page_of(agent))
        assert cards(answer) == {
            "Rate now": ("$0.0720/min", "1 calls in the last 5 minutes"),
            "Spent this month": ("$0.36", "1 calls"),
            "Running now": ("1", "$0.02 reserved for them"),
            "Refused": ("1", "in the last 24 hours"),
        }
        shown = text(answer)
        assert "The budget acme agent:invoices is near its cap; calls go through." in shown
        assert "acme each agentrequests a minute 0 of 60" in shown
        assert re.search(r"large 100 / 20 \$0\.360000 served", shown)
        assert re.search(r"large \$?.*refused over budget", shown)
        assert acts(answer) == {"Pause", "Emergency stop"}

    def test_its_state_says_what_its_calls_meet(self, operator: Client, acme: Tenant) -> None:
        agent = Agent.objects.get()
        tenancy.pause_agent(agent=agent, reason="quiet", by=BY, now=NOON)
        assert "invoices is paused: every call is refused with 403" in text(operator.get(page_of(agent)))
        stops.stop(agent=agent, reason="a loop", by=BY, now=NOON)
        answer = operator.get(page_of(agent))
        assert "acme/invoices is stopped a loop" in text(answer)
        assert acts(answer) == {"Resume"}
        assert "Lift" in text(answer)
        Tenant.objects.update(status="suspended")
        assert "Billing suspended acme" in text(operator.get(page_of(agent)))

    def test_tenant_staff_sees_that_there_is_a_limit_of_the_platform_and_no_figure_of_it(self, acme: Tenant) -> None:
        factories.budget("77", scope_type="platform")
        RateLimit.objects.create(tenant=None, scope_type="platform", scope_key="", requests_per_minute=8877)
        shown = text(signed_in("tenant staff", of=acme).get(page_of(Agent.objects.get())))
        assert "a limit of the platform per day" in shown
        assert "77" not in shown
        assert "$0.36 of $0.40" in shown


class TestKeys:
    def test_a_new_key_comes_with_a_first_call_for_each_client(
        self, operator: Client, acme: Tenant, settings: Any
    ) -> None:
        settings.APP_URL = "https://governor.example"
        agent = Agent.objects.get()
        form = operator.get(f"/admin/governance/apikey/add/?role=agent&tenant={acme.pk}&agent={agent.pk}")
        assert f'<option value="{agent.pk}" selected>' in form.content.decode()
        made = operator.post("/admin/governance/apikey/add/", {"role": "agent", "agent": agent.pk})
        key = re.findall(r"sg_[\w-]{20,}", made.content.decode())[0]
        parts = [" ".join(snippet.parts) for snippet in made.context["snippets"]]
        assert len(parts) == 4
        assert all(key in part and "https://governor.example" in part for part in parts)
        assert sum("https://governor.example/v1" in part for part in parts) == 3
        reading = operator.post("/admin/governance/apikey/add/", {"role": "viewer"})
        assert ("/api/budgets" in text(reading), "Send a test call" in text(reading)) == (True, False)

    @pytest.mark.parametrize("query", ["role=x", "tenant=x", "agent=999999999999999999999", "tenant=²"])
    def test_a_form_asked_for_oddly_is_the_form(self, operator: Client, query: str) -> None:
        assert operator.get(f"/admin/governance/apikey/add/?{query}").status_code == 200

    def test_a_test_call_is_told_with_its_price_or_its_refusal(
        self, operator: Client, acme: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key_text, key = factories.key(of=acme)
        sent: list[dict[str, Any]] = []
        answers = [
            TriedCall(200, "Hello <b>there", "", "r-9", "small-2603", "0.000021"),
            TriedCall(402, "The budget is used up.", "budget_exhausted", "r-8"),
            TriedCall(503, "No call was sent.", "gateway_away"),
        ]

        def call(**asked: Any) -> TriedCall:
            sent.append(asked)
            return answers[len(sent) - 1]

        monkeypatch.setattr(ports, "wired", replace(ports.wired, try_call=call))
        path = reverse("admin:governance_apikey_try", args=[key.pk])
        good = operator.post(path, {"key": key_text, "model": "small"})
        assert "200 small-2603 answered, for $0.000021. Hello &lt;b&gt;there" in text(good)
        assert reverse("admin:call", args=["r-9"]) in good.content.decode()
        assert "no-store" in good["Cache-Control"]
        assert "402 budget_exhausted The budget is used up." in text(
            operator.post(path, {"key": key_text, "model": "m"})
        )
        asked = {"key_id": key.pk, "tenant_id": acme.pk, "text": key_text}
        assert "503 gateway_away" in text(operator.post(path, {"key": key_text, "model": "m"}))
        assert sent == [asked | {"model": "small"}, asked | {"model": "m"}, asked | {"model": "m"}]
        # Of what was sent, and by whom.
        acts = AuditEntry.objects.filter(action="key.try", target=f"key {key.prefix}").order_by("id")
        assert [(act.actor, act.new) for act in acts] == [("operator", {"request_id": id}) for id in ("r-9", "r-8")]
        assert "operator sent a test call with a key" in text(operator.get(page_of(key)))

        for wrong, sentence in (
            ({"key": "sg_other", "model": "small"}, f"This is not the key {key.prefix}"),
            ({"key": key_text, "model": " "}, "Name a model."),
        ):
            assert sentence in text(operator.post(path, wrong))
        platform_text, platform = factories.key(role="viewer")
        asked_of = reverse("admin:governance_apikey_try", args=[platform.pk])
        assert "calls no models" in text(operator.post(asked_of, {"key": platform_text, "model": "small"}))
        assert len(sent) == 3

    def test_of_two_who_rotate_a_key_the_second_is_asked_anew(self, operator: Client, acme: Tenant) -> None:
        _, key = factories.key(of=acme, agent_slug="of-two")
        path = reverse("admin:governance_apikey_rotate_one", args=[key.pk])
        said = re.search(r'name="_said" value="([^"]+)"', operator.get(path).content.decode())
        assert said
        pressed = CONFIRMED | {"_said": said[1]}
        assert "Your new key" in text(operator.post(path, pressed))
        second = operator.post(path, pressed)
        assert "it may be rotated already" in text(second)
        assert ApiKey.objects.filter(agent__slug="of-two").count() == 2
        # Who has read that may go on.
        again = re.search(r'name="_said" value="([^"]+)"', second.content.decode())
        assert again
        assert "Your new key" in text(operator.post(path, CONFIRMED | {"_said": again[1]}))

    def test_only_who_issues_keys_tries_them(self, operator: Client, acme: Tenant) -> None:
        key_text, key = factories.key(of=acme)
        path = reverse("admin:governance_apikey_try", args=[key.pk])
        assert operator.get(path).status_code == 403
        for client in (signed_in("viewer"), signed_in("tenant staff", of=acme)):
            assert client.post(path, {"key": key_text, "model": "small"}).status_code == 403
            shown = text(client.get(page_of(key)))
            assert "usable" in shown
            assert "Send a test call" not in shown

    def test_its_page_says_what_it_is_and_what_was_done_to_it(self, operator: Client, acme: Tenant) -> None:
        key = ApiKey.objects.get()
        answer = operator.get(page_of(key))
        assert "Last used Mar 10, 11:58 UTC" in text(answer)
        assert f"/admin/calls/?range=30d&amp;key={key.prefix}" in answer.content.decode()
        asked = operator.get(reverse("admin:governance_apikey_revoke_one", args=[key.pk]))
        assert "It was used 2 minutes ago." in text(asked)
        operator.post(reverse("admin:governance_apikey_revoke_one", args=[key.pk]), CONFIRMED)
        answer = operator.get(page_of(key))
        assert "operator revoked a key · because" in text(answer)
        assert acts(answer) == set()

    def test_several_are_revoked_with_a_word_on_their_use(self, operator: Client, acme: Tenant) -> None:
        factories.key(of=acme)
        chosen = {"action": "revoke_selected", "_selected_action": list(ApiKey.objects.values_list("pk", flat=True))}
        asked = operator.post("/admin/governance/apikey/", chosen)
        assert "1 of these 2 were used lately, the last 2 minutes ago." in text(asked)
        assert operator.post("/admin/governance/apikey/", chosen | CONFIRMED).status_code == 302
        assert not ApiKey.objects.filter(revoked_at=None).exists()
