"""What goes wrong is told: each condition is brought about by the product, and its message read as people do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from asgiref.sync import async_to_sync, sync_to_async
from axes.models import AccessLog
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from billing.accounts import reason_alerts
from billing.inbox import store
from billing.models import BillingAccount
from billing.stripe_api import client
from config import sign_ins
from governance import ledger
from governance.actions import alert_channels, anomalies, anomaly_rules, reviews
from governance.audit import Actor
from governance.models import Alert, Anomaly, BudgetWindow, Job
from governance.rules import outages
from governance.rules.calls import Usage
from governance.upkeep import conditions, reconcile, telling
from llm.catalogue import model_alerts
from llm.gateway.upstream import ProviderFailures
from llm.models import Model, ProviderEndpoint
from llm.providers import endpoints
from llm.state import breakers, watch
from tests import factories as make
from tests.billing.events import invoice_paid
from tests.billing.inbox.test_store import failing, stored
from tests.factories import NOON
from tests.fakes.alert_receivers import MailSink, mail_server

pytestmark = pytest.mark.django_db
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ADMIN = "http://127.0.0.1:8000/admin"


@pytest.fixture
def mail(settings: Any) -> Iterator[MailSink]:
    with mail_server(settings) as sink:
        alert_channels.create(
            kind="email", name="owner", target="owner@example.com", min_severity="info", by=Actor("ada"), now=NOON
        )
        yield sink


def letter(mail: MailSink, *, now: datetime = NOON) -> str:
    """The one message that came: its subject, and its text without the last line."""
    telling.run(clock=lambda: now)
    [message] = mail.got
    text = message.get_body(("plain",))
    assert text is not None
    mail.got.clear()
    words = " ".join(text.get_content().split())
    return f"{message['subject']} | {words.partition(' Sent by Spend Governor')[0]}"


def spend(cost: str, *, at: datetime = NOON, agent: str = "invoices") -> None:
    by = make.caller(agent=agent)
    ledger.record(make.reporting(cost, by=by, occurred_at=at), now=at)


def test_an_agent_that_runs_away_is_paused_and_one_letter_says_so_with_the_cost_and_the_button(mail: MailSink) -> None:
    make.agent("support")
    anomaly_rules.create(tenant=make.tenant(), agent="support", act="pause", by=Actor("ada"), now=NOON)
    for hours_ago in range(1, 121):
        spend("0.10", at=NOON - HOUR * hours_ago, agent="support")
    spend("3.00", agent="support")
    anomalies.look(now=NOON + MINUTE, known={})
    page = f"{ADMIN}/governance/anomaly/{Anomaly.objects.get().pk}/change/"
    assert letter(mail) == (
        "Unusual spending: cost of agent acme/support | "
        "The agent acme/support spent $3.00 in the hour from 12:00 UTC, where $0.10 is usual and $0.25 the most."
        " It was paused by itself, when its hour had spent $3.00: undo that on the anomaly's page. "
        f"See what is unusual: {page} critical, 2026-03-10 12:01 UTC"
    )


def test_money_that_goes_fast_names_who_spends_it_how_much_and_the_button(mail: MailSink) -> None:
    budget = make.budget("100", window="month")
    spend("1.00", agent="invoices")
    spend("29.00", agent="support")
    conditions.look(now=NOON + MINUTE)
    assert letter(mail) == (
        "Money is going fast: monthly budget of acme | "
        "$30.00 of the monthly budget of acme went in the last 15 minutes, $29.00 of it by support of acme. At this"
        " pace the $70.00 that are left are gone in 35 minutes. It resets at 00:00 on 2026-04-01 (UTC). "
        f"See who spends it, stop it: {ADMIN}/governance/budget/{budget.pk}/change/ critical, 2026-03-10 12:01 UTC"
    )
    conditions.look(now=NOON + HOUR)
    assert letter(mail).startswith("Over: Money is going fast: monthly budget of acme | ")


def test_a_budget_that_will_not_last_is_told_before_it_is_gone(mail: MailSink) -> None:
    make.budget("10", window="month")
    for hours_ago in range(1, 49):
        spend("0.10", at=NOON - HOUR * hours_ago)
    conditions.look_ahead(now=NOON)
    found = letter(mail)
    assert found.startswith(
        "A budget will run out before its reset: monthly budget of acme | The monthly budget of acme will run out at "
    )
    assert "$4.80 of $10.00 are spent. It resets at 00:00 on 2026-04-01 (UTC)." in found
    assert "See the forecast, raise it: " in found


def priced_out() -> None:
    spend("0.10")
    Model.objects.filter(name="mistral-small-2603").update(deprecated_at=NOON, replacement="mistral-small-9")
    report = make.reporting("0.10", occurred_at=NOON)
    ledger.record(replace(report, usage=Usage("mistral", "mistral-small-2603", 1, 0, 1)), now=NOON)
    model_alerts.look(now=NOON)


def drifted() -> None:
    make.budget("1.00")
    spend("0.10")
    BudgetWindow.objects.update(settled_nanos=make.nanos("0.90"))
    reconcile.run(now=NOON)


def overran() -> None:
    op = make.reserving("0.10")
    ledger.reserve(op, now=NOON)
    ledger.settle(make.settling(op.reservation_id, "0.25"), now=NOON)
    conditions.look(now=NOON + MINUTE)


def waiting() -> None:
    make.budget("0.10")
    caller = make.caller(key_id=make.key(role="tenant")[1].pk)
    trust = reviews.trust_in(tenant_id=caller.tenant_id, agent_is_fixed=False)
    reviews.report(report=make.reporting("5.00", by=caller, request_id="r", trust=trust), now=NOON)


def unusable() -> None:
    ProviderEndpoint.objects.create(
        name="groq",
        kind="openai",
        base_url="https://api.groq.com/openai/v1",
        key_env="NO_SUCH_API_KEY",
        updated_at=NOON,
    )
    endpoints.Watch().read(now=NOON)


def refused(status: int = 402) -> None:
    failures = ProviderFailures(breakers.shared(), lambda work: sync_to_async(work)())
    answer = SimpleNamespace(status=status, headers={})
    async_to_sync(failures.refused)("mistral/large", SimpleNamespace(name="mistral"), answer, b"", tenant=1)  # type: ignore[arg-type]


def unbound() -> None:
    account = BillingAccount.objects.create(stripe_customer_id="cus_9")
    reason_alerts.tell(account, ["unknown_tenant:acne"], now=NOON)


Provoke = Callable[[], None]


@pytest.mark.parametrize(
    ("provoke", "subject", "words"),
    [
        (
            drifted,
            "The ledger has drifted",
            "1 figure is not what the rows say. The first: invariant 1: window ",
        ),
        (
            overran,
            "Calls cost more than was held for them",
            "1 call of the last 24 hours cost $0.15 more than was held for them, the most by large for acme ($0.15).",
        ),
        (waiting, "Reports of spending wait for you: acme", "Accept or reject them; until then they count nowhere."),
        (unusable, "A provider cannot be called: groq", "The variable NO_SUCH_API_KEY holds no key."),
        (
            refused,
            "A provider wants to be paid: mistral",
            "The gateway's own account at the model's API is out of money.",
        ),
        (
            partial(refused, 401),
            "A provider refuses our key: mistral",
            "The gateway's own key was refused by the model's API.",
        ),
        (
            unbound,
            "A Stripe customer is bound to nobody: cus_9 acne",
            "cus_9 names the tenant acne, which does not exist.",
        ),
    ],
)
def test_each_condition_says_what_is_wrong_and_where_one_acts(
    mail: MailSink, provoke: Provoke, subject: str, words: str
) -> None:
    provoke()
    found = letter(mail)
    assert found.split(" | ")[0].startswith(subject), found
    assert words in found, found
    assert f": {ADMIN}/" in found


def test_models_in_use_without_a_price_and_deprecated_ones_are_one_letter(mail: MailSink) -> None:
    priced_out()
    found = letter(mail)
    assert found.startswith("3 alerts, the gravest: A model in use has no price: mistral/mistral-small-2603 | ")
    assert "mistral/large is in use, and the catalogue does not have it: calls of it through the gateway are" in found
    assert "A model in use is deprecated: mistral-small-2603" in found


def test_an_event_of_stripes_that_was_given_up(mail: MailSink, monkeypatch: pytest.MonkeyPatch) -> None:
    event = stored(invoice_paid())
    failing(monkeypatch, client.StripeRefused("no such invoice"))
    store.process(event.event_id, now=NOON)
    found = letter(mail)
    assert found.startswith(
        f"An event of Stripe's was given up: {event.event_id} | Stripe's invoice.paid was put aside:"
    )
    assert f"Replay the event: {ADMIN}/billing/stripeevent/" in found


def test_a_disk_that_is_nearly_full_and_one_that_is_not_any_more(
    mail: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=100 * 2**30, free=2**28)
    monkeypatch.setattr(conditions.shutil, "disk_usage", lambda path: usage)
    conditions.look(now=NOON)
    found = letter(mail)
    assert found.startswith(f"The disk is nearly full: {settings.VAR_DIR} at {socket.gethostname()} | ")
    assert "0.2 GiB of 100.0 GiB are free at " in found
    usage.free = 50 * 2**30
    # Another machine's disk is that machine's to judge.
    Alert.objects.create(
        kind="disk_full", subject="/var at elsewhere", severity="critical", message="x", first_at=NOON, last_at=NOON
    )
    later = NOON + conditions.UNSEEN_FOR
    conditions.look(now=later)
    assert letter(mail, now=later).startswith("Over: The disk is nearly full")
    assert Alert.objects.get(cleared_at=None).subject == "/var at elsewhere"
    # It may be gone altogether.
    conditions.look(now=NOON + HOUR)
    assert Alert.objects.filter(cleared_at=None).exists()
    conditions.look(now=NOON + HOUR + MINUTE)
    assert not Alert.objects.filter(cleared_at=None).exists()


def test_what_comes_and_goes_between_two_looks_is_told_once(mail: MailSink, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=100 * 2**30, free=2**28)
    monkeypatch.setattr(conditions.shutil, "disk_usage", lambda path: usage)

    def look(minute: int) -> None:
        conditions.look(now=NOON + minute * MINUTE)
        telling.run(clock=lambda: NOON + minute * MINUTE)

    for minute in range(12):
        usage.free = 2**28 if minute % 3 else 50 * 2**30
        look(minute)
    assert [told["subject"].partition(":")[0] for told in mail.got] == ["The disk is nearly full"]
    usage.free = 50 * 2**30
    look(16)
    assert [told["subject"].partition(":")[0] for told in mail.got][1:] == ["Over"]


def test_a_job_that_did_not_run(mail: MailSink) -> None:
    Job.objects.create(name="governance.tasks.reconcile_ledger", known_since=NOON, succeeded_at=NOON)
    others = set(settings.CELERY_BEAT_SCHEDULE) - {"governance.tasks.reconcile_ledger"}
    at = NOON + 5 * HOUR
    Job.objects.bulk_create([Job(name=name, known_since=NOON, succeeded_at=at) for name in others])
    conditions.look(now=at)
    found = letter(mail, now=at)
    assert found.startswith(
        "A job did not run: reconcile_ledger | reconcile_ledger, which runs every hour, last succeeded at 12:00 on"
    )
    assert "Look whether a worker and one beat run." in found


@pytest.mark.postgres_only
def test_a_database_whose_connections_run_out(mail: MailSink, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.vendor == "postgresql"
    monkeypatch.setattr(outages, "CONNECTIONS_PERCENT", 1)
    conditions.look(now=NOON)
    assert "connections of the database are in use" in letter(mail)


def test_a_model_that_turns_calls_away(mail: MailSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = breakers.Breakers(tmp_path / "breakers")
    monkeypatch.setattr(breakers, "shared", lambda: own)
    now = timezone.now().timestamp()
    own.cool_down("mistral/large", 1, now + 300)
    own.cool_down("mistral/large", 2, now + 300)
    own.cool_down("mistral/large", 3, now + 300)
    assert watch.look(now=NOON) == 1
    assert letter(mail).startswith(
        f"A model does not answer: mistral/large at {socket.gethostname()} | mistral/large turns"
    )
    own.close()


def test_a_sign_in_from_a_new_place_is_told_and_one_from_a_known_place_is_not(mail: MailSink) -> None:
    User.objects.create_user("olga", password="a long enough one", is_staff=True, is_superuser=True)

    def sign_in(address: str, minute: int) -> None:
        with time_machine.travel(NOON + minute * MINUTE, tick=False):
            form = {"username": "olga", "password": "a long enough one"}
            assert Client().post("/admin/login/", form, REMOTE_ADDR=address).status_code == 302

    sign_in("203.0.113.9", 0)
    sign_in("203.0.113.9", 1)
    assert AccessLog.objects.count() == 2
    telling.run(clock=lambda: NOON)
    assert mail.got == []
    sign_in("198.51.100.7", 2)
    found = letter(mail)
    assert found.startswith("olga signed in from a new place | olga signed in to the console from 198.51.100.7 for the")
    assert "If that was not them: close the account" in found
    assert sign_ins.THIS_ONE < MINUTE
