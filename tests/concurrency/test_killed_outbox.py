"""A worker is killed with -9 at each point of reporting usage, and workers race: Stripe bills each hour once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.models import BillingAccount, MeterEvent, UsageMeter
from billing.usage import outbox, proof
from governance import ledger
from tests import factories
from tests.concurrency.mortal_outbox import POINTS
from tests.concurrency.processes import in_threads
from tests.environment import ROOT
from tests.fakes.stripe_meters import FakeMeters
from tests.servers import served

TEN = datetime(2026, 3, 10, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
READY = TEN + HOUR + timedelta(minutes=10)


@pytest.fixture
def fake() -> FakeMeters:
    return FakeMeters(READY)


@pytest.fixture
def url(fake: FakeMeters, settings: Any) -> Iterator[str]:
    settings.STRIPE_METERS = {"llm_cost": "microdollars"}
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    with served(fake) as url:
        settings.STRIPE_API_BASE = url
        yield url


def customer_that_spends(slug: str, *hours: datetime) -> None:
    tenant = factories.tenant(slug)
    BillingAccount.objects.create(stripe_customer_id=f"cus_{slug}", tenant=tenant)
    outbox.open_meters("llm_cost", "microdollars", now=TEN)
    for hour in hours:
        ledger.record(factories.reporting("1", by=factories.caller(tenant), occurred_at=hour), now=hour)


def worker(environment: dict[str, str], point: str) -> int:
    command = [sys.executable, "-m", "tests.concurrency.mortal_outbox", point, READY.isoformat()]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


SOON, FORGOTTEN = outbox.CLAIM, timedelta(hours=30)
CASES = [(point, SOON) for point in POINTS] + [(point, FORGOTTEN) for point in POINTS[1:-1]]


@pytest.mark.parametrize(("point", "wait"), CASES)
def test_an_hour_is_billed_once_wherever_its_worker_is_killed(
    process_environment: dict[str, str], fake: FakeMeters, url: str, point: str, wait: timedelta
) -> None:
    customer_that_spends("acme", TEN)
    environment = process_environment | {
        "STRIPE_API_BASE": url,
        "STRIPE_SECRET_KEY": "sk_test_1",
        "STRIPE_METERS": "llm_cost:microdollars",
    }
    assert worker(environment, point) == -signal.SIGKILL

    reached = point not in ("before_the_claim_commits", "after_the_claim")
    assert fake.total == (1_000_000 if reached else 0)
    fake.now = later = READY + wait
    for _ in range(2):
        outbox.write(now=later)
        outbox.drain(clock=lambda: later)
        proof.reconcile(now=later)
    assert MeterEvent.objects.get().state == "sent"
    assert fake.total == 1_000_000


def test_workers_that_race_send_each_row_once_and_one_at_a_time_for_a_customer(fake: FakeMeters, url: str) -> None:
    hours = [TEN + number * HOUR for number in range(5)]
    for slug in ("acme", "globex"):
        customer_that_spends(slug, *hours)
    fake.now = now = hours[-1] + HOUR + timedelta(minutes=10)

    def work(index: int) -> int:
        outbox.write(now=now)
        arrived = 0
        while MeterEvent.objects.exclude(state="sent").exists():
            arrived += outbox.drain(clock=lambda: now)
        return arrived

    assert sum(in_threads(4, work)) == 10
    assert fake.total == 10_000_000
    assert set(MeterEvent.objects.values_list("attempts", "units")) == {(1, 1_000_000)}
    assert {meter.claims for meter in UsageMeter.objects.all()} == {5}
    assert fake.busiest == 1
