"""Web processes on machines whose clocks are wrong, beside one whose clock is right, on one PostgreSQL."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from governance.models import BudgetWindow, Reservation, SpendEntry
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.processes import let_go_of_connections
from tests.concurrency.test_gateway_processes import BODY, web_process
from tests.environment import ROOT
from tests.product import eventually

pytestmark = pytest.mark.postgres_only


def machine(environment: dict[str, str], off: timedelta) -> dict[str, str]:
    """The environment of a process whose clock is off, where it is."""
    if not off:
        return environment
    path = os.pathsep.join(filter(None, (str(ROOT / "tests" / "clocks"), environment.get("PYTHONPATH"))))
    return environment | {"TESTS_CLOCK_OFFSET_S": str(off.total_seconds()), "PYTHONPATH": path}


def test_a_machine_that_is_a_day_ahead_or_behind_counts_in_todays_window(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str
) -> None:
    make.budget("1000")
    key, _ = make.key()
    let_go_of_connections()
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    offs = [timedelta(0), timedelta(hours=25), -timedelta(hours=25)]
    with ExitStack() as stack:
        urls = [stack.enter_context(web_process(machine(environment, off)))[0] for off in offs]
        with httpx.Client(timeout=30, headers={"authorization": f"Bearer {key}"}) as client:

            def call(url: str) -> Any:
                return client.post(f"{url}/v1/chat/completions", json=BODY)

            for url in (*urls, *urls):
                assert call(url).status_code == 200
            said = [client.get(f"{url}/api/health").json()["services"]["database"] for url in urls]
    assert said == ["ok", "clock_differs", "clock_differs"]
    assert eventually(lambda: not Reservation.objects.filter(status="pending").exists())
    window = BudgetWindow.objects.get()
    assert window.starts_at <= timezone.now() < window.ends_at
    assert window.closed_at is None
    assert SpendEntry.objects.count() == 6
    for entry in SpendEntry.objects.all():
        assert abs(entry.occurred_at - timezone.now()) < timedelta(minutes=5)


@pytest.mark.parametrize("off", [timedelta(hours=25), -timedelta(hours=25)], ids=["ahead", "behind"])
def test_a_request_under_a_key_is_run_once_whatever_the_clocks_say(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str, off: timedelta
) -> None:
    make.budget("1000")
    key, _ = make.key()
    sandbox.behave("latency=2")
    let_go_of_connections()
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    with ExitStack() as stack:
        right = stack.enter_context(web_process(environment))[0]
        wrong = stack.enter_context(web_process(machine(environment, off)))[0]
        named = {"authorization": f"Bearer {key}", "idempotency-key": "invoice-7"}
        with httpx.Client(timeout=30, headers=named) as client, ThreadPoolExecutor(1) as beside:

            def call(url: str) -> httpx.Response:
                return client.post(f"{url}/v1/chat/completions", json=BODY)

            first = beside.submit(call, right)
            assert eventually(lambda: Reservation.objects.filter(status="pending").exists())
            # While it runs, and when it has ended.
            answers = [call(wrong), first.result(), call(wrong), call(right)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(sandbox.requests) == SpendEntry.objects.count() == 1
