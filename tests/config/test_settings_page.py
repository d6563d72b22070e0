"""The page of settings: jobs with their last success, who may what, providers, alerts and what was done."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from config.console import settings_page
from governance import alerts, audit
from governance.audit import Actor
from governance.models import Job
from governance.queries import jobs
from tests import factories
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
PAGE = reverse("admin:settings")
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def told(answer: Any) -> str:
    return " ".join(re.sub("<[^>]*>", " ", answer.content.decode()).split())


def titles(client: Client) -> list[str]:
    page: Any = client.get(PAGE)
    return [name for name in ("providers", "roles", "alerts", "acts") if name in page.context]


def test_each_job_of_the_schedule_is_said_in_words() -> None:
    assert {jobs.short(task) for task in settings.CELERY_BEAT_SCHEDULE} == set(settings_page.JOBS)


def test_jobs_are_told_with_their_last_success_and_what_the_last_run_ended_with() -> None:
    now = timezone.now()
    Job.objects.create(
        name="governance.tasks.send_alerts", known_since=now, succeeded_at=now, started_at=now, took_ms=1500
    )
    Job.objects.create(
        name="governance.tasks.reconcile_ledger",
        known_since=now - timedelta(days=2),
        failures=3,
        error="<b>no</b> disk",
    )
    answer = signed_in("vera", "viewer").get(PAGE)
    page = answer.content.decode()
    assert f'datetime="{now.isoformat()}"' in page
    assert "<b>no" not in page
    text = told(answer)
    assert "Tells whoever is to be told send_alerts 10 s" in text
    assert "1.5 s ok" in text
    assert "reconcile_ledger : &lt;b&gt;no&lt;/b&gt; disk" in text
    assert "1 h never yet – late" in text


def test_owners_see_who_has_which_role() -> None:
    factories.person("ada", "billing")
    text = told(signed_in("olga", "owner").get(PAGE))
    assert "owner olga everything, users and roles too" in text
    assert "billing ada" in text
    assert "2 of them have no second factor" in text


def test_each_part_is_for_whoever_may_see_what_is_behind_it() -> None:
    assert titles(signed_in("olga", "owner")) == ["providers", "roles", "alerts", "acts"]
    assert titles(signed_in("vera", "viewer")) == ["providers", "alerts", "acts"]
    assert signed_in("tina", "tenant staff", of=factories.tenant()).get(PAGE).status_code == 403


def test_a_provider_is_tested_by_who_may_change_it() -> None:
    address = reverse("admin:llm_providerendpoint_try_environment", args=["mistral"])
    with_key = signed_in("olga", "operator").get(PAGE).content.decode()
    assert (f'action="{address}"' in with_key) is ("Test mistral" in with_key)
    assert "Test mistral" not in signed_in("vera", "viewer").get(PAGE).content.decode()


def test_what_is_open_and_what_was_done_is_told() -> None:
    alerts.report(kind="overrun", subject="acme", message="too much", severity="critical", now=NOW)
    audit.record(action="agent.pause", target="agent acme/support", by=Actor("olga"), now=NOW, reason="a loop")
    text = told(signed_in("vera", "viewer").get(PAGE))
    assert "Alerts 1 open overrun acme" in text
    assert "olga paused agent acme/support · a loop" in text
