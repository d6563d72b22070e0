"""What webhooks lost comes back: missing events, and customers as Stripe has them now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.core.management.base import CommandError

from billing import tasks
from billing.accounts import sync
from billing.inbox import catch_up, endpoint, envelope, handlers, runs, store
from billing.models import BillingAccount, CatalogEntry, Invoice, StripeEvent, StripeRun, Subscription
from billing.stripe_api import client
from governance.audit import Actor
from governance.models import Alert, AuditEntry, Budget, BudgetEvent, BudgetWindow, Tenant
from tests import factories
from tests.billing.conftest import window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice,
    invoice_paid,
    price_of,
    subscription,
    subscription_created,
)
from tests.fakes import stripe_api

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
NOW = START + 2 * DAY
STANDARD, PREMIUM = factories.nanos("50"), factories.nanos("200")


@pytest.fixture
def stripe(tenant: Tenant, settings: Any) -> Iterator[stripe_api.Account]:
    """Stripe's account with one paying customer, of whom nothing was heard yet."""
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.APP_URL = "https://governor.example.com"
    with stripe_api.answering() as account:
        account.customer()
        account.subscriptions = [subscription()]
        account.invoices = [invoice()]
        account.events = [
            {**event("invoice.created", invoice()), "id": "evt_unasked"},
            {**checkout_completed(), "id": "evt_checkout"},
            {**subscription_created(), "id": "evt_joined"},
            {**invoice_paid(), "id": "evt_paid"},
        ]
        yield account


def run(command: str, *arguments: str, capsys: Any) -> dict[str, Any]:
    with time_machine.travel(NOW, tick=False):
        call_command(command, "--json", *arguments)
    return dict(json.loads(capsys.readouterr().out))


def _deep(levels: int) -> Any:
    return {"a": _deep(levels - 1)} if levels else 1


def written() -> list[Any]:
    """Every row that says what anybody has or may spend; of a reading's own traces nothing."""
    traces = {"fetches", "written", "fetched_at", "version", "updated_at"}
    models = (
        BillingAccount,
        Subscription,
        Invoice,
        CatalogEntry,
        Budget,
        BudgetWindow,
        BudgetEvent,
        AuditEntry,
        Tenant,
    )
    return [
        [
            {name: value for name, value in row.items() if name not in traces}
            for row in model.objects.order_by("pk").values()
        ]
        for model in models
    ]


class TestBackfill:
    def test_events_that_never_came_are_kept_and_handled(self, stripe: stripe_api.Account, capsys: Any) -> None:
        printed = run("stripe_backfill", "--since", "7d", capsys=capsys)
        assert (printed["seen"], printed["missing"], printed["handled"]) == (4, 3, 3)
        assert set(printed["events"]) == {"evt_checkout", "evt_joined", "evt_paid"}
        assert window_of().limit_nanos == STANDARD

    def test_a_second_run_finds_nothing(self, stripe: stripe_api.Account, capsys: Any) -> None:
        run("stripe_backfill", capsys=capsys)
        before = written()
        assert run("stripe_backfill", capsys=capsys)["missing"] == 0
        assert written() == before

    def test_a_dry_run_names_them_and_keeps_none(self, stripe: stripe_api.Account, capsys: Any) -> None:
        printed = run("stripe_backfill", "--dry-run", capsys=capsys)
        assert (printed["missing"], printed["handled"]) == (3, 0)
        assert not StripeEvent.objects.exists()
        with time_machine.travel(NOW, tick=False):
            call_command("stripe_backfill", "--dry-run")
        assert "Missing: evt_paid invoice.paid" in capsys.readouterr().out

    def test_all_pages_are_read(self, stripe: stripe_api.Account) -> None:
        stripe.page_size = 1
        assert catch_up.backfill(since=START, now=NOW).figures == {"seen": 4, "missing": 3}

    def test_what_came_is_not_missing(self, stripe: stripe_api.Account) -> None:
        store.store(envelope.parse(json.dumps(stripe.events[3])), now=START)
        assert "evt_paid" not in catch_up.backfill(since=START, now=NOW).event_ids

    @pytest.mark.parametrize("since", ["31d", "2026-03-09", "yesterday", "2026-02-30"])
    def test_a_time_that_cannot_be_is_refused_by_name(
        self, stripe: stripe_api.Account, since: str, capsys: Any
    ) -> None:
        with pytest.raises(CommandError, match="--since"):
            run("stripe_backfill", "--since", since, capsys=capsys)

    def test_stripe_away_is_told(self, stripe: stripe_api.Account, capsys: Any) -> None:
        stripe.fails = 401
        with pytest.raises(CommandError, match="could not be listed"):
            run("stripe_backfill", capsys=capsys)

    def test_without_a_key_there_is_nobody_to_ask(self, db: None, capsys: Any) -> None:
        with pytest.raises(CommandError, match="STRIPE_SECRET_KEY"):
            run("stripe_backfill", capsys=capsys)


class TestReconcile:
    def test_customers_nobody_told_of_are_found_and_written(self, stripe: stripe_api.Account, capsys: Any) -> None:
        printed = run("stripe_reconcile", capsys=capsys)
        assert (printed["customers"], printed["differed"], printed["failed"]) == (1, 1, 0)
        assert "cus_acme: limit: none -> $50" in " ".join(printed["differences"])
        assert window_of().limit_nanos == STANDARD

    def test_the_second_run_writes_nothing(self, stripe: stripe_api.Account, capsys: Any) -> None:
        run("stripe_reconcile", capsys=capsys)
        before = written()
        printed = run("stripe_reconcile", capsys=capsys)
        assert (printed["customers"], printed["differed"], printed["differences"]) == (1, 0, [])
        assert written() == before

    def test_a_dry_run_shows_the_same_and_writes_nothing(self, stripe: stripe_api.Account, capsys: Any) -> None:
        before = written()
        shown = run("stripe_reconcile", "--dry-run", capsys=capsys)
        assert (written(), BillingAccount.objects.count(), StripeRun.objects.count()) == (before, 0, 0)
        done = run("stripe_reconcile", capsys=capsys)
        assert shown["differences"] == done["differences"]
        stripe.subscriptions = [subscription(price="price_premium")]
        before, fetches = written(), BillingAccount.objects.get().fetches
        assert run("stripe_reconcile", "--dry-run", capsys=capsys)["differed"] == 1
        assert (written(), BillingAccount.objects.get().fetches) == (before, fetches)

    def test_a_customer_that_cannot_be_read_is_told_and_the_others_are_read(
        self, stripe: stripe_api.Account, capsys: Any
    ) -> None:
        BillingAccount.objects.create(stripe_customer_id="cus_of_another_account")
        with pytest.raises(SystemExit):
            run("stripe_reconcile", capsys=capsys)
        printed = json.loads(capsys.readouterr().out)
        assert (printed["customers"], printed["failed"]) == (2, 1)
        assert window_of().limit_nanos == STANDARD

    def test_without_a_key_what_was_said_last_is_computed_anew(self, tenant: Tenant, deliver: Any, capsys: Any) -> None:
        deliver(checkout_completed(), subscription_created(), invoice_paid())
        assert run("stripe_reconcile", capsys=capsys)["differed"] == 0


class TestByThemselves:
    def test_beat_asks_and_everything_is_done_once(self, stripe: stripe_api.Account) -> None:
        done = catch_up.run_due(now=NOW)
        assert [one.kind for one in done] == ["endpoint", "backfill", "reconcile"]
        assert all(one.finished_at == NOW for one in done)
        assert catch_up.run_due(now=NOW + timedelta(minutes=1)) == []

    def test_events_are_looked_for_again_after_an_hour_and_customers_the_next_night(
        self, stripe: stripe_api.Account
    ) -> None:
        catch_up.run_due(now=NOW)
        assert [one.kind for one in catch_up.run_due(now=NOW + HOUR)] == ["endpoint", "backfill"]
        # NOW is midnight: the night's hour comes three hours later.
        kinds = [one.kind for one in catch_up.run_due(now=NOW + 3 * HOUR)]
        assert kinds == ["endpoint", "backfill", "reconcile"]

    def test_after_an_outage_what_was_missed_comes_and_operators_are_told(
        self, stripe: stripe_api.Account, trusting: None
    ) -> None:
        catch_up.run_due(now=NOW)
        store.sweep(now=NOW)
        back = NOW + 9 * HOUR
        stripe.subscriptions = [subscription(price="price_premium")]
        stripe.events.append(event("customer.subscription.updated", subscription(), created=NOW + HOUR))
        [missed] = [one for one in catch_up.run_due(now=back) if one.kind == "backfill"]
        assert missed.figures["missing"] == 1
        assert "1 of Stripe's events never came" in Alert.objects.get(kind="stripe_events_missed").message
        assert store.sweep(now=back) == 1
        assert window_of().limit_nanos == PREMIUM
        catch_up.run_due(now=back + HOUR)
        assert not Alert.objects.filter(kind="stripe_events_missed", cleared_at=None).exists()

    @pytest.mark.parametrize(("sent", "alerts"), [(False, 0), (True, 1)])
    def test_what_the_endpoint_does_not_send_is_fetched_and_was_not_missed(
        self, stripe: stripe_api.Account, sent: bool, alerts: int
    ) -> None:
        """A version that asks for more types is installed, and stripe_setup has not been run since."""
        left_out = set() if sent else {"customer.created", "price.created"}
        endpoint.set_up(url="https://governor.example.com/api/webhooks/stripe", by=Actor("ann"), now=START)
        stripe.webhook_endpoints[0]["enabled_events"] = sorted(handlers.asked_for() - left_out)
        catch_up.run_due(now=NOW)
        later = NOW + 2 * HOUR
        for kind, data in (("customer.created", stripe.customers["cus_acme"]), ("price.created", price_of("price_x"))):
            stripe.events.append(event(kind, data, created=NOW + HOUR))
        done = {one.kind: one for one in catch_up.run_due(now=later)}
        assert store.sweep(now=later) == 5
        assert done["backfill"].figures["missing"] == 2
        assert Alert.objects.filter(kind="stripe_events_missed").count() == alerts
        assert Alert.objects.filter(kind="stripe_endpoint", message__contains="run stripe_setup").exists() != sent

    @pytest.mark.parametrize("alerts", [0, 1])
    def test_what_was_made_before_the_endpoint_was_mended_was_not_missed(
        self, stripe: stripe_api.Account, alerts: int
    ) -> None:
        url = "https://governor.example.com/api/webhooks/stripe"
        endpoint.set_up(url=url, by=Actor("ann"), now=START)
        stripe.webhook_endpoints[0]["enabled_events"] = sorted(handlers.asked_for() - {"customer.created"})
        catch_up.run_due(now=NOW)
        endpoint.set_up(url=url, by=Actor("ann"), now=START)
        if alerts:
            # Seen to be right before the event was made: then it was lost on the way.
            catch_up.run_due(now=NOW + HOUR)
        made = NOW + timedelta(minutes=60 * alerts + 20)
        stripe.events.append(event("customer.created", stripe.customers["cus_acme"], created=made))
        done = {one.kind: one for one in catch_up.run_due(now=NOW + timedelta(minutes=60 * alerts + 61))}
        assert done["backfill"].figures["missing"] == 1
        assert done["backfill"].figures.get("unsent", 0) == 1 - alerts
        assert Alert.objects.filter(kind="stripe_events_missed").count() == alerts

    @pytest.mark.parametrize("why", ["refused", "another address", "local"])
    @pytest.mark.parametrize("came", [{}, {"invoice.paid": 0}, {"customer.created": 0}, {"customer.created": 30}])
    def test_where_the_endpoint_is_unknown_webhooks_say_what_it_sends(
        self, stripe: stripe_api.Account, settings: Any, monkeypatch: Any, why: str, came: dict[str, int]
    ) -> None:
        def refused() -> Any:
            raise client.StripeUnavailable("this key may not read webhook endpoints", status=403)

        endpoint.set_up(url="https://elsewhere.example.com/api/webhooks/stripe", by=Actor("ann"), now=START)
        if why == "refused":
            monkeypatch.setattr(endpoint, "endpoints", refused)
        elif why == "local":
            settings.APP_URL = "http://127.0.0.1:8000"
        catch_up.run_due(now=NOW)
        for kind, minutes in came.items():
            at = NOW + timedelta(minutes=minutes)
            data = invoice() if kind == "invoice.paid" else stripe.customers["cus_acme"]
            store.store(envelope.parse(json.dumps(event(kind, data, created=at, id="evt_came"))), now=at)
        made = NOW + timedelta(minutes=20)
        stripe.events.append(event("customer.created", stripe.customers["cus_acme"], created=made, id="evt_fetched"))
        done = {one.kind: one for one in catch_up.run_due(now=NOW + timedelta(minutes=61))}
        assert done["backfill"].figures["missing"] == 1
        # Where nothing ever came, nothing is right.
        lost = came in ({}, {"customer.created": 0})
        assert Alert.objects.filter(kind="stripe_events_missed").exists() == lost

    def test_a_key_that_may_not_read_endpoints_fetches_events(
        self, stripe: stripe_api.Account, monkeypatch: Any
    ) -> None:
        def refused() -> Any:
            raise client.StripeUnavailable("this key may not read webhook endpoints", status=403)

        monkeypatch.setattr(endpoint, "endpoints", refused)
        done = {one.kind: one for one in catch_up.run_due(now=NOW)}
        assert (done["endpoint"].figures, done["backfill"].figures["missing"]) == ({"failed": 1}, 3)

    def test_what_may_still_be_on_its_way_is_left_to_come(self, stripe: stripe_api.Account) -> None:
        catch_up.run_due(now=NOW)
        later = NOW + HOUR
        stripe.events.append(event("invoice.paid", invoice(), created=later - timedelta(minutes=1), id="evt_young"))
        catch_up.run_due(now=later)
        assert not StripeEvent.objects.filter(event_id="evt_young").exists()
        catch_up.run_due(now=later + HOUR)
        assert StripeEvent.objects.filter(event_id="evt_young").exists()

    def test_long_runs_go_on_in_slices_from_where_they_are(self, stripe: stripe_api.Account) -> None:
        stripe.page_size = 1
        for name in ("cus_b", "cus_c"):
            stripe.customer(name, tenant="")
            stripe.subscriptions.append(subscription(customer=name, subscription=f"sub_{name}"))
        now, slices = NOW, 0
        while catch_up.run_due(now=now, slice_s=0.0):
            now, slices = now + timedelta(minutes=1), slices + 1
            assert slices < 20
        assert slices > 3
        backfill, reconcile = (runs.last(kind) for kind in ("backfill", "reconcile"))
        assert backfill is not None
        assert reconcile is not None
        assert (backfill.figures["seen"], backfill.figures["missing"]) == (4, 3)
        # Nobody was read twice.
        assert reconcile.figures["customers"] == 3
        assert set(BillingAccount.objects.values_list("fetches", flat=True)) == {1}

    def test_a_slice_of_a_long_listing_is_one_page_of_it(
        self, stripe: stripe_api.Account, django_assert_max_num_queries: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "PAGE", 10)
        stripe.page_size = 10
        stripe.subscriptions = [
            subscription(customer=f"cus_{number}", subscription=f"sub_{number}") for number in range(30)
        ]
        reconcile = runs.begin("reconcile", now=NOW)
        for page in (1, 2, 3):
            with django_assert_max_num_queries(10):
                assert not catch_up._reconcile_slice(reconcile, now=NOW, enough=lambda: True)
            assert BillingAccount.objects.count() == 10 * page
        assert reconcile.cursor == "0"

    def test_one_process_goes_on_and_another_takes_over_when_it_is_dead(self, stripe: stripe_api.Account) -> None:
        run = runs.begin("reconcile", now=NOW)
        assert runs.take(run, now=NOW)
        assert not runs.take(run, now=NOW + runs.LEASE - timedelta(seconds=1))
        assert runs.take(run, now=NOW + runs.LEASE)
        assert runs.begin("reconcile", now=NOW) == run

    def test_while_stripe_is_away_runs_wait_and_go_on_later(self, stripe: stripe_api.Account, monkeypatch: Any) -> None:
        monkeypatch.setattr("stripe._http_client.HTTPClient._sleep_time_seconds", lambda *_, **__: 0)
        stripe.fails = 500
        done = catch_up.run_due(now=NOW)
        assert [bool(one.figures.get("failed") or one.figures.get("interrupted")) for one in done] == [True] * 3
        stripe.fails = 0
        assert catch_up.run_due(now=NOW + timedelta(minutes=9)) == []
        again = catch_up.run_due(now=NOW + timedelta(minutes=10))
        assert [one.kind for one in again] == ["endpoint", "backfill", "reconcile"]
        assert window_of().limit_nanos == STANDARD

    def test_what_cannot_be_kept_or_computed_holds_up_nothing_else(
        self, stripe: stripe_api.Account, monkeypatch: Any
    ) -> None:
        stripe.events.append(event("invoice.paid", {**invoice(), "deep": _deep(100)}, id="evt_deep"))
        stripe.customer("cus_broken", tenant="")
        stripe.subscriptions.insert(0, subscription(customer="cus_broken", subscription="sub_broken"))
        apply = sync.apply

        def broken(account: BillingAccount, **kwargs: Any) -> Any:
            if account.stripe_customer_id == "cus_broken":
                raise KeyError("surprise")
            return apply(account, **kwargs)

        monkeypatch.setattr(sync, "apply", broken)
        done = {one.kind: one for one in catch_up.run_due(now=NOW)}
        assert all(one.finished_at for one in done.values())
        assert StripeEvent.objects.count() == 3
        assert done["reconcile"].figures == {"customers": 2, "differed": 1, "failed": 1}
        assert window_of().limit_nanos == STANDARD

    def test_without_a_key_nothing_is_due(self, db: None) -> None:
        assert catch_up.run_due(now=NOW) == []
        assert not StripeRun.objects.exists()

    def test_an_address_that_stripe_cannot_reach_is_no_fault(self, stripe: stripe_api.Account, settings: Any) -> None:
        settings.APP_URL = "http://127.0.0.1:8000"
        [run] = [one for one in catch_up.run_due(now=NOW) if one.kind == "endpoint"]
        assert run.figures == {"local": 1}
        assert not Alert.objects.exists()

    def test_old_runs_are_let_go(self, stripe: stripe_api.Account, monkeypatch: Any) -> None:
        monkeypatch.setattr(runs, "KEPT_OF_A_KIND", 3)
        for hours in range(5):
            runs.note("endpoint", now=NOW + hours * HOUR, figures={})
        assert StripeRun.objects.count() == 3


def test_the_task_makes_one_call_and_keeps_its_registered_name(stripe: stripe_api.Account) -> None:
    assert tasks.run_catch_up.name == "billing.tasks.heal"
    with time_machine.travel(NOW, tick=False):
        assert tasks.run_catch_up() == 3


class TestReplay:
    def test_by_id_type_and_time(self, tenant: Tenant, deliver: Any, capsys: Any) -> None:
        first, second = invoice_paid(), subscription_created()
        deliver(checkout_completed(), first)
        deliver(second, now=START + DAY)
        assert run("stripe_replay", first["id"], capsys=capsys)["events"] == [first["id"]]
        assert run("stripe_replay", "--type", "invoice.paid", capsys=capsys)["handled"] == 1
        assert run("stripe_replay", "--since", "2026-03-02", capsys=capsys)["events"] == [second["id"]]
        assert run("stripe_replay", "--until", "2026-03-02", capsys=capsys)["handled"] == 2
        assert not StripeEvent.objects.waiting().exists()

    def test_the_whole_log_three_times_changes_nothing(self, tenant: Tenant, deliver: Any, capsys: Any) -> None:
        deliver(checkout_completed(), subscription_created(), invoice_paid())
        before = list(BudgetWindow.objects.values()), list(BillingAccount.objects.values())
        for _ in range(3):
            assert run("stripe_replay", "--since", "2026-01-01", capsys=capsys)["handled"] == 3
        assert (list(BudgetWindow.objects.values()), list(BillingAccount.objects.values())) == before

    def test_dead_letters_alone(self, tenant: Tenant, deliver: Any, capsys: Any) -> None:
        paid = invoice_paid()
        deliver(checkout_completed(), paid)
        StripeEvent.objects.filter(event_id=paid["id"]).update(
            processed_at=None, dead_at=START, quarantine_reason="gave up after 12 tries"
        )
        assert run("stripe_replay", "--dead", "--dry-run", capsys=capsys)["events"] == [paid["id"]]
        assert StripeEvent.objects.dead().count() == 1
        assert run("stripe_replay", "--dead", capsys=capsys) == {
            "events": [paid["id"]],
            "handled": 1,
            "left": 0,
            "dry_run": False,
        }
        assert not StripeEvent.objects.dead().exists()

    def test_what_fails_again_is_told_by_the_exit_status(self, tenant: Tenant, deliver: Any, capsys: Any) -> None:
        foreign = {**invoice_paid(), "account": "acct_other"}
        deliver(foreign)
        with pytest.raises(SystemExit):
            run("stripe_replay", foreign["id"], capsys=capsys)
        assert json.loads(capsys.readouterr().out)["left"] == 1

    @pytest.mark.parametrize("arguments", [[], ["evt_unknown"], ["--dead", "evt_unknown"]])
    def test_what_names_no_event_is_refused(self, db: None, arguments: list[str], capsys: Any) -> None:
        with pytest.raises(CommandError, match=r"which events|no (dead )?event"):
            run("stripe_replay", *arguments, capsys=capsys)


class TestSetup:
    def test_the_secret_is_printed_once(self, stripe: stripe_api.Account, capsys: Any) -> None:
        call_command("stripe_setup")
        assert capsys.readouterr().out.count("whsec_made") == 1
        call_command("stripe_setup")
        printed = capsys.readouterr().out
        assert "whsec" not in printed
        assert "as it should be" in printed

    def test_a_dry_run_says_what_is_wrong(self, stripe: stripe_api.Account, capsys: Any) -> None:
        with pytest.raises(SystemExit):
            run("stripe_setup", "--dry-run", capsys=capsys)
        printed = json.loads(capsys.readouterr().out)
        assert (printed["secrets"], [one["code"] for one in printed["findings"]]) == ({}, ["missing"])
        assert stripe.calls() == []

    def test_an_address_that_stripe_cannot_reach_is_refused(
        self, stripe: stripe_api.Account, settings: Any, capsys: Any
    ) -> None:
        settings.APP_URL = "http://127.0.0.1:8000"
        with pytest.raises(CommandError, match="https"):
            call_command("stripe_setup")


class TestReadingMany:
    """What is read of ten customers tells of ten thousand: nothing is kept of one when the next is read."""

    CUSTOMERS = 10
    # A reading is numbered, the customer locked, and what it says compared.
    MOST_QUERIES = 25
    # The first time its rows are made, its tenant is bound and has a budget and a window.
    MOST_QUERIES_AT_FIRST = 80

    @pytest.fixture
    def many(self, stripe: stripe_api.Account) -> stripe_api.Account:
        stripe.page_size = 3
        stripe.customers, stripe.subscriptions, stripe.invoices = {}, [], []
        for number in range(self.CUSTOMERS):
            factories.tenant(f"tenant-{number}")
            of: dict[str, Any] = {"customer": f"cus_{number}", "subscription": f"sub_{number}"}
            stripe.customer(of["customer"], tenant=f"tenant-{number}")
            stripe.subscriptions.append(subscription(**of))
            for month in range(4):
                at = START - month * 30 * DAY
                stripe.invoices.append(
                    invoice(period_start=at, period_end=at + 30 * DAY, id=f"in_{number}_{month}", **of)
                )
        return stripe

    def test_takes_few_queries_for_each_and_tells_how_far_it_is(
        self, many: stripe_api.Account, django_assert_max_num_queries: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catch_up, "CUSTOMERS_A_REPORT", 4)
        with django_assert_max_num_queries(self.MOST_QUERIES_AT_FIRST * self.CUSTOMERS):
            assert catch_up.reconcile(now=NOW).figures["differed"] == self.CUSTOMERS
        told: list[str] = []
        with django_assert_max_num_queries(self.MOST_QUERIES * self.CUSTOMERS):
            done = catch_up.reconcile(now=NOW + HOUR, report=told.append)
        assert (done.figures, done.lines) == ({"customers": 10, "differed": 0, "failed": 0}, [])
        assert told == ["4 of 10 customers", "8 of 10 customers"]
        many.subscriptions[3]["cancel_at_period_end"] = True
        done = catch_up.reconcile(now=NOW + 2 * HOUR)
        assert (done.figures["differed"], {line.split(":")[0] for line in done.lines}) == (1, {"cus_3"})

    def test_looks_again_where_plans_settings_or_the_time_have_changed(
        self, many: stripe_api.Account, settings: Any
    ) -> None:
        catch_up.reconcile(now=NOW)
        spoilt = BudgetWindow.objects.filter(tenant__slug="tenant-1")
        spoilt.update(limit_nanos=1)
        settings.STRIPE_GRACE_DAYS = 1
        assert catch_up.reconcile(now=NOW + HOUR).figures["differed"] == 1
        assert spoilt.get().limit_nanos == STANDARD
        assert catch_up.reconcile(now=START + 30 * DAY).figures["differed"] == self.CUSTOMERS

    def test_keeps_a_bounded_number_of_lines(self, many: stripe_api.Account, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catch_up, "MOST_LINES", 5)
        done = catch_up.reconcile(now=NOW)
        assert (len(done.lines), done.figures["differed"]) == (5, self.CUSTOMERS)
