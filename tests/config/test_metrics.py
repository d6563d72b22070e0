"""GET /metrics: who may read it, and that each figure is the database's."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from billing.models import StripeEvent
from config import metrics
from config.celery import PERIODS
from governance import ledger
from governance.actions import stops
from governance.audit import Actor
from governance.ledger.operations import Release
from governance.models import AlertChannel, AlertDelivery, AlertNotice, LedgerCheck, LedgerJudgement
from governance.queries import metrics as governance_metrics
from governance.upkeep import jobs, judgement, reconcile
from tests import factories as make

TOKEN = "a-scrape-token"


@pytest.fixture
def scrape(db: None, settings: Any, client: Client) -> Any:
    """The samples by name and labels."""
    settings.METRICS_TOKEN = TOKEN

    def scrape() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        families = list(text_string_to_metric_families(answer.content.decode()))
        assert [family.name for family in families if not family.documentation] == []
        return {
            (sample.name.removeprefix("spend_governor_"), frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    return scrape


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.mark.django_db
def test_without_a_token_set_there_is_no_such_page(settings: Any, client: Client) -> None:
    settings.METRICS_TOKEN = ""
    for given in ("", "Bearer ", "Bearer x"):
        assert client.get("/metrics", headers={"Authorization": given}).status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer é", f"Bearer {TOKEN}x"]
)
def test_a_wrong_token_is_a_401(settings: Any, client: Client, given: str | None) -> None:
    settings.METRICS_TOKEN = TOKEN
    answer = client.get("/metrics", headers={"Authorization": given} if given is not None else {})
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="metrics"'


@pytest.mark.django_db
def test_an_operator_s_key_is_no_scrape_token(settings: Any, client: Client) -> None:
    settings.METRICS_TOKEN = TOKEN
    text, _ = make.key(role="operator")
    assert client.get("/metrics", headers={"Authorization": f"Bearer {text}"}).status_code == 401


@pytest.mark.django_db
def test_it_is_read_only_and_works_with_a_slash(settings: Any, client: Client) -> None:
    settings.METRICS_TOKEN = TOKEN
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405
    assert client.get("/metrics/", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.django_db
def test_openmetrics_is_spoken_to_who_asks_for_it(settings: Any, client: Client) -> None:
    settings.METRICS_TOKEN = TOKEN
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/metrics", headers=headers)["Content-Type"].startswith("text/plain")
    answer = client.get("/metrics", headers=headers | {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


@pytest.mark.django_db
@pytest.mark.parametrize("version", ["x", "", "1.x", "-1", "1" * 5_000])
def test_a_version_that_is_none_is_what_everybody_reads(settings: Any, client: Client, version: str) -> None:
    settings.METRICS_TOKEN = TOKEN
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": f"application/openmetrics-text; version={version}"}
    assert client.get("/metrics", headers=headers).status_code == 200


def test_a_database_that_does_not_answer_is_a_503(settings: Any, client: Client, monkeypatch: Any) -> None:
    def down(now: Any) -> Any:
        raise DatabaseError("gone")

    settings.METRICS_TOKEN = TOKEN
    monkeypatch.setattr(metrics, "COLLECTORS", (down,))
    assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 503


def test_drift_is_that_of_the_last_check_and_says_how_old_it_is(scrape: Any) -> None:
    assert labelled("ledger_drift") not in scrape()
    reconcile.run(now=timezone.now() - timedelta(minutes=30))
    LedgerCheck.objects.update(drifts=3)
    found = scrape()
    assert found[labelled("ledger_drift")] == 3
    assert 1800 <= found[labelled("ledger_check_age_seconds")] < 1900


@time_machine.travel("2026-03-10T12:00:00Z")
def test_what_rests_on_the_ledger_s_own_word_is_told_by_kind_and_reason(scrape: Any) -> None:
    assert labelled("providers_disagreeing") not in scrape()
    now = timezone.now()
    for n in range(3):
        # Whose calls they were is free text, and no label.
        report = make.reporting("0.25")
        ledger.record(replace(report, usage=replace(report.usage, provider=f"made-up-{n}")), now=now)
    judgement.run(now=now - timedelta(minutes=30))
    LedgerJudgement.objects.update(disagreeing=2, silent=1)
    found = scrape()
    assert found[labelled("unproven_dollars", kind="reported", reason="spend_report")] == 0.75
    assert [name for name, _ in found].count("unproven_dollars") == 1
    assert (found[labelled("providers_disagreeing")], found[labelled("providers_silent")]) == (2, 1)
    assert 1800 <= found[labelled("ledger_judgement_age_seconds")] < 1900


def test_reservations_are_counted_by_what_became_of_them(scrape: Any) -> None:
    now = timezone.now()
    for _ in range(2):
        ledger.reserve(make.reserving("0.10"), now=now)
    ledger.reserve(make.reserving("0.50"), now=now - timedelta(days=1))
    assert scrape()[labelled("reservations_overdue")] == 1
    ledger.expire_due(now=now)
    released = make.reserving("9.00")
    ledger.reserve(released, now=now)
    ledger.release(Release(released.reservation_id), now=now)
    over = make.reserving("0.10")
    ledger.reserve(over, now=now)
    ledger.settle(make.settling(over.reservation_id, "0.30"), now=now)
    found = scrape()
    assert found[labelled("reservations_pending")] == 2
    assert found[labelled("reserved_dollars")] == 0.2
    assert found[labelled("reservations_overdue")] == 0
    assert found[labelled("reservations_expired")] == 1
    assert found[labelled("overages")] == 1


def test_open_windows_are_counted_by_state_and_kind(scrape: Any) -> None:
    make.budget("1.00")
    make.budget("9.00", window="month")
    ledger.record(make.reporting("1.00"), now=timezone.now())
    found = scrape()
    assert found[labelled("windows", state="stopped", window="day")] == 1
    assert found[labelled("windows", state="active", window="month")] == 1
    assert found[labelled("windows", state="active", window="hour")] == 0


def test_spend_calls_and_tokens_are_the_rollups(scrape: Any) -> None:
    for _ in range(3):
        ledger.record(make.reporting("0.25"), now=make.NOON)
    found = scrape()
    names = {"provider": "mistral", "model": "large"}
    assert found[labelled("spend_dollars", **names)] == 0.75
    assert found[labelled("calls_total", **names)] == 3
    assert found[labelled("tokens_total", **names, kind="input")] == 300
    assert found[labelled("tokens_total", **names, kind="output")] == 60


def test_models_beyond_the_dearest_are_added_up(scrape: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(governance_metrics, "NAMED_MODELS", 1)
    for cost, model in (("0.50", "large"), ("0.20", "medium"), ("0.10", "small")):
        report = make.reporting(cost)
        ledger.record(replace(report, usage=replace(report.usage, model=model)), now=make.NOON)
    found = scrape()
    models = {dict(labels)["model"] for name, labels in found if name == "spend_dollars"}
    assert models == {"large", "other"}
    assert found[labelled("spend_dollars", provider="other", model="other")] == pytest.approx(0.3)


def test_windows_near_their_cap_are_counted_with_what_is_held(scrape: Any) -> None:
    make.budget("1.00")
    make.budget("9.00", scope_type="agent", scope_key="invoices")
    now = timezone.now()
    ledger.record(make.reporting("0.50"), now=now)
    assert scrape()[labelled("windows_near_cap", scope="tenant")] == 0
    ledger.reserve(make.reserving("0.40"), now=now)
    found = scrape()
    assert found[labelled("windows_near_cap", scope="tenant")] == 1
    assert found[labelled("windows_near_cap", scope="agent")] == 0
    assert found[labelled("windows_near_cap", scope="session")] == 0


def test_jobs_say_when_they_succeeded_how_long_it_took_and_whether_they_are_late(scrape: Any) -> None:
    assert "job_late" not in {name for name, _ in scrape()}
    with time_machine.travel(make.NOON, tick=False) as traveller:
        jobs.run("governance.tasks.reconcile_ledger", lambda: None)
        with pytest.raises(ZeroDivisionError):
            jobs.run("llm.tasks.sync_models", lambda: 1 // 0)
        traveller.shift(timedelta(hours=3))
        found = scrape()
    assert found[labelled("job_last_success_timestamp_seconds", task="reconcile_ledger")] == make.NOON.timestamp()
    assert found[labelled("job_duration_seconds", task="reconcile_ledger")] < 60
    late = {dict(labels)["task"]: value for (name, labels), value in found.items() if name == "job_late"}
    assert (late["reconcile_ledger"], late["roll_windows"], late["sync_models"]) == (1, 1, 0)
    assert found[labelled("job_failures", task="sync_models")] == 1
    assert len(late) == len(PERIODS)


def test_messages_that_do_not_leave_are_counted(scrape: Any) -> None:
    channel = AlertChannel.objects.create(name="owner", kind="email", target="owner@example.com")
    for number, error in enumerate(("", "", "It answers 500.")):
        notice = AlertNotice.objects.create(
            kind="test", incident=f"i-{number}", severity="info", title="T", message="M", occurred_at=make.NOON
        )
        AlertDelivery.objects.create(
            notice=notice, channel=channel, created_at=make.NOON, next_at=make.NOON, error=error
        )
    found = scrape()
    assert found[labelled("outbox_messages", of="alerts", state="waiting")] == 2
    assert found[labelled("outbox_messages", of="alerts", state="failing")] == 1
    assert found[labelled("outbox_messages", of="reports", state="failing")] == 0


def test_active_emergency_stops_are_counted(scrape: Any) -> None:
    assert scrape()[labelled("emergency_stops")] == 0
    stop = stops.stop(tenant=make.tenant(), reason="runaway", by=Actor("ada"), now=timezone.now())
    assert scrape()[labelled("emergency_stops")] == 1
    stops.lift(stop=stop, by=Actor("ada"), now=timezone.now())
    assert scrape()[labelled("emergency_stops")] == 0


def test_stripe_s_events_that_wait_are_counted_with_their_age(scrape: Any) -> None:
    assert scrape()[labelled("stripe_inbox_waiting")] == scrape()[labelled("stripe_inbox_age_seconds")] == 0
    now = timezone.now()
    for number, handled_at in enumerate([None, None, now]):
        StripeEvent.objects.create(
            event_id=f"evt_{number}",
            type="invoice.paid",
            created=1,
            payload={},
            processed_at=handled_at,
            received_at=now - timedelta(minutes=number),
        )
    found = scrape()
    assert found[labelled("stripe_inbox_waiting")] == 2
    assert 60 <= found[labelled("stripe_inbox_age_seconds")] < 90


def test_no_label_names_a_tenant_a_person_or_a_key(scrape: Any) -> None:
    by = make.caller(agent="invoices", user="ada@example.test")
    ledger.record(make.reporting("0.25", by=by), now=make.NOON)
    labels = {label for _, found in scrape() for label in found}
    names, values = {name for name, _ in labels}, {value for _, value in labels}
    assert {"state", "window", "provider", "model", "kind"} <= names
    assert not {"tenant", "agent", "user", "session", "task", "key"} & names
    assert not {by.tenant, by.agent, by.user} & values


@pytest.mark.django_db
def test_names_follow_prometheus(settings: Any) -> None:
    for family in governance_metrics.collect(timezone.now()):
        assert re.fullmatch(r"spend_governor_[a-z_]+", family.name)
