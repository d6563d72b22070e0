"""How Stripe's side is shown: in the console, to Prometheus and in /api/health."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client

from billing.inbox import endpoint, envelope, runs, store
from billing.models import BillingAccount, StripeEvent
from billing.queries import health, metrics
from governance.models import AuditEntry, Tenant
from tests import factories
from tests.billing.conftest import Deliver
from tests.billing.events import DAY, START, checkout_completed, invoice_paid, subscription_created
from tests.fakes import stripe_api

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def console(client: Client) -> Callable[[], str]:
    client.force_login(User.objects.create_superuser("ann"))

    def page() -> str:
        with time_machine.travel(START, tick=False):
            response = client.get("/admin/stripe/")
        assert response.status_code == 200
        return response.content.decode()

    return page


def steps(client: Client) -> list[Any]:
    with time_machine.travel(START, tick=False):
        return list(client.get("/admin/stripe/").context["steps"])


def figures(*, now: Any = START) -> dict[str, float]:
    return {
        sample.name.removeprefix("spend_governor_stripe_")
        + "".join(f":{v}" for v in sample.labels.values()): sample.value
        for family in metrics.collect(now)
        for sample in family.samples
    }


def stored(event: dict[str, Any], *, now: Any = START) -> str:
    store.store(envelope.parse(json.dumps(event)), now=now)
    return str(event["id"])


def bury(event_id: str) -> None:
    StripeEvent.objects.filter(event_id=event_id).update(
        dead_at=START, quarantine_reason="gave up after 12 tries", error="StripeUnavailable: 500", attempts=12
    )


class TestConsole:
    def test_with_nothing_there_the_page_says_what_is_missing(self, console: Callable[[], str]) -> None:
        page = console()
        assert "STRIPE_SECRET_KEY is not set" in page
        assert "no webhook has come yet" in page
        assert "None: every event had its effect." in page

    def test_what_an_operator_must_see_to_is_named(
        self, console: Callable[[], str], tenant: Tenant, deliver: Deliver, settings: Any
    ) -> None:
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        bury(stored(invoice_paid(id="evt_dead")))
        BillingAccount.objects.create(stripe_customer_id="cus_lost", state="active", claimed_tenant="nobody")
        runs.note("endpoint", now=START, figures={"serious": 1}, findings=["we_1 is disabled: Stripe sends nothing."])
        runs.note("backfill", now=START, figures={"seen": 9, "missing": 2}, findings=["evt_lost invoice.paid"])
        runs.note("reconcile", now=START, figures={"customers": 3, "differed": 1, "failed": 0}, findings=[])
        page = console()
        for words in (
            "1 event was put aside after too many tries",
            "12 tries",
            "It names nobody, and you have no customer of that name.",
            "we_1 is disabled",
            "2 of 9 had not come",
            "evt_lost",
            "3 read, 1 differed",
            "manage.py stripe_setup",
            "test mode",
        ):
            assert words in page, words

    def test_it_says_what_is_next_and_asks_nobody_for_what_is_done(
        self, console: Callable[[], str], client: Client, tenant: Tenant, deliver: Deliver, settings: Any
    ) -> None:
        settings.STRIPE_WEBHOOK_SECRETS = []
        states = [row.step.state.value for row in steps(client)]
        assert states == ["to do", "to do", "to do", "to do", "to do", "done", "to do"]
        assert "next, secret key" in console()
        settings.STRIPE_SECRET_KEY, settings.APP_URL = "sk_live_1", "https://governor.example.com"
        settings.STRIPE_WEBHOOK_SECRETS = ["whsec_1"]
        runs.note("endpoint", now=START, figures={"serious": 1}, findings=["we_1 is disabled: Stripe sends nothing."])
        assert [row.step.state.value for row in steps(client)][:5] == ["done", "done", "needs you", "done", "to do"]
        runs.note("endpoint", now=START, figures={"serious": 0})
        settings.STRIPE_SECRET_KEY = ""
        deliver(checkout_completed(), subscription_created(price="price_odd"), invoice_paid(price="price_odd"))
        settings.STRIPE_SECRET_KEY = "sk_live_1"
        found = {row.step.key: row.step for row in steps(client)}
        assert {key for key, step in found.items() if step.state != "done"} == {"plans"}
        assert "price_odd" in found["plans"].found
        assert "every event had its effect" in console()

    def test_the_endpoint_is_made_at_stripe_and_its_secret_shown_once(self, client: Client, settings: Any) -> None:
        settings.STRIPE_SECRET_KEY, settings.APP_URL = "sk_test_1", "https://governor.example.com"
        client.force_login(factories.person("bea", "billing"))
        with stripe_api.answering() as account:
            asked = client.post("/admin/stripe/", {"act": "set_up"}).content.decode()
            assert "create an endpoint for https://governor.example.com/api/webhooks/stripe" in asked
            assert account.webhook_endpoints == []
            made = client.post("/admin/stripe/", {"act": "do_set_up"}).content.decode()
            assert account.webhook_endpoints[0]["url"] == endpoint.our_url()
            assert "whsec_made" in made
            again = client.post("/admin/stripe/", {"act": "do_set_up"}).content.decode()
            assert "it is as it should be" in again
            assert "whsec_made" not in again
        assert AuditEntry.objects.get(action="billing.set_up_endpoint").actor == "bea"
        assert "whsec_made" not in str(AuditEntry.objects.values_list("new", flat=True))

    def test_its_secret_is_shown_also_where_stripe_says_no_more(self, client: Client, settings: Any) -> None:
        settings.STRIPE_SECRET_KEY, settings.APP_URL = "sk_test_1", "https://governor.example.com"
        client.force_login(factories.person("bea", "billing"))
        with stripe_api.answering() as account:
            account.fails_after = "/v1/webhook_endpoints"
            made = client.post("/admin/stripe/", {"act": "do_set_up"}).content.decode()
        assert "whsec_made" in made
        assert "Stripe did not do all of it" in made
        assert AuditEntry.objects.get(action="billing.set_up_endpoint").actor == "bea"

    def test_stripe_is_asked_by_those_alone_who_may(self, client: Client, settings: Any) -> None:
        for role in ("viewer", "operator"):
            client.force_login(factories.person(role, role))
            assert client.get("/admin/stripe/").status_code == 200
            assert client.post("/admin/stripe/", {"act": "check"}).status_code == 403
        client.force_login(factories.person("bea", "billing"))
        answer = client.post("/admin/stripe/", {"act": "check"}, follow=True)
        assert "STRIPE_SECRET_KEY is not set, so Stripe cannot be asked." in answer.content.decode()
        settings.STRIPE_SECRET_KEY, settings.APP_URL = "sk_test_1", "http://127.0.0.1:8000"
        answer = client.post("/admin/stripe/", {"act": "check"}, follow=True)
        assert "https addresses only" in answer.content.decode()

    def test_it_is_in_the_sidebar_and_closed_to_strangers(self, console: Callable[[], str]) -> None:
        assert 'href="/admin/stripe/"' in console()
        assert Client().get("/admin/stripe/").status_code == 302

    def test_runs_and_their_findings_can_be_read(self, console: Callable[[], str], client: Client) -> None:
        run = runs.note("reconcile", now=START, figures={"customers": 3}, findings=["cus_a: <b>limit</b>"])
        assert "3 customers" in client.get("/admin/billing/striperun/").content.decode()
        page = client.get(f"/admin/billing/striperun/{run.pk}/change/").content.decode()
        assert "cus_a: &lt;b&gt;limit" in page


class TestMetrics:
    def test_what_is_not_known_is_left_out(self, db: None) -> None:
        assert set(figures()) == {
            "inbox_waiting",
            "inbox_age_seconds",
            "inbox_failing",
            "inbox_dead_letters",
            "inbox_quarantined",
            "unbound_customers",
        }

    def test_counts_ages_and_lags(self, tenant: Tenant, deliver: Deliver) -> None:
        deliver(checkout_completed(created=START - 10 * timedelta(seconds=1)))
        stored(subscription_created(created=START - timedelta(seconds=30)))
        stored({**invoice_paid(), "account": "acct_other"})
        bury(stored(invoice_paid()))
        BillingAccount.objects.create(stripe_customer_id="cus_lost", state="active")
        runs.note("backfill", now=START - HOUR, figures={})
        runs.note("reconcile", now=START - DAY, figures={})
        runs.note("endpoint", now=START, figures={"serious": 2})
        found = figures(now=START + timedelta(seconds=5))
        assert found["inbox_waiting"] == found["inbox_dead_letters"] == found["inbox_quarantined"] == 1
        assert (found["inbox_age_seconds"], found["last_event_age_seconds"]) == (5, 5)
        assert (found["delivery_lag_seconds:median"], found["delivery_lag_seconds:worst"]) == (5, 30)
        assert found["handling_lag_seconds:worst"] == 0
        assert (found["unbound_customers"], found["endpoint_findings"]) == (1, 2)
        assert (found["backfill_age_seconds"], found["reconcile_age_seconds"]) == (3605, 86405)


class TestHealth:
    def test_with_all_well_it_says_how_it_is_set(self, db: None, settings: Any) -> None:
        assert health.state() == "not_configured"
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        assert health.state() == "configured"
        settings.STRIPE_WEBHOOK_SECRETS = []
        assert health.state() == "webhook_secret_missing"

    def test_dead_letters_and_stuck_events_are_failing(self, client: Client, tenant: Tenant) -> None:
        dead = stored(invoice_paid())
        with time_machine.travel(START, tick=False):
            assert health.state() == "not_configured"
        with time_machine.travel(START + HOUR, tick=False):
            assert health.problems(now=START + HOUR) == ["lagging"]
            assert health.state() == "failing"
        bury(dead)
        with time_machine.travel(START, tick=False):
            body = client.get("/api/health").json()
        assert (body["status"], body["services"]["stripe"]) == ("degraded", "failing")

    @pytest.mark.parametrize(
        ("kind", "age", "state"),
        [
            ("reconcile", timedelta(hours=35), "configured"),
            ("reconcile", timedelta(hours=37), "stale"),
            ("backfill", timedelta(hours=2), "configured"),
            ("backfill", timedelta(hours=4), "stale"),
        ],
    )
    def test_runs_that_stay_away_make_it_stale(
        self, db: None, settings: Any, kind: str, age: timedelta, state: str
    ) -> None:
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        runs.note(kind, now=START, figures={})
        with time_machine.travel(START + age, tick=False):
            assert health.state() == state

    def test_a_wrong_endpoint_is_failing(self, db: None, settings: Any) -> None:
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        runs.note("endpoint", now=START, figures={"serious": 1})
        assert health.state() == "failing"

    def test_without_a_database_it_still_says_how_it_is_set(self, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(**_: Any) -> list[str]:
            raise OperationalError("gone")

        monkeypatch.setattr(health, "problems", away)
        assert health.state() == "not_configured"
