"""A web process is killed with -9 at each point of a call's life: nothing is held for ever, and no spend is lost."""

from __future__ import annotations

import signal
from datetime import timedelta

import httpx2 as httpx
import pytest
from django.utils import timezone

from governance import ledger
from governance.models import BudgetWindow, Reservation, SpendEntry
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.mortal import POINTS
from tests.concurrency.test_gateway_processes import BODY, COST_NANOS, web_process
from tests.product import eventually

LATER = timedelta(hours=1)


def call_that_dies(url: str, key: str, *, stream: bool) -> None:
    """Make a call whose server dies; no whole answer comes."""
    headers = {"authorization": f"Bearer {key}"}
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{url}/v1/chat/completions", json=BODY | {"stream": stream}, headers=headers, timeout=30)


PLAIN, STREAM = False, True
CASES = [
    ("before_the_reserve_commits", PLAIN),
    ("after_the_reserve", STREAM),
    ("while_waiting_for_upstream", PLAIN),
    ("in_mid_stream", STREAM),
    ("after_the_answer_before_the_settle", PLAIN),
    ("after_the_answer_before_the_settle", STREAM),
    ("after_the_settle_before_the_client_has_all", PLAIN),
    ("after_the_settle_before_the_client_has_all", STREAM),
]


def test_no_point_is_left_out() -> None:
    assert {point for point, _ in CASES} == set(POINTS)


@pytest.mark.parametrize(("point", "stream"), CASES)
def test_a_call_whose_process_is_killed_is_resolved(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str, point: str, stream: bool
) -> None:
    make.budget("1.00")
    key, _ = make.key()
    sandbox.behave("latency=1.5" if point == "while_waiting_for_upstream" else "output=30|pace=0.01")
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    with web_process(environment, application=f"tests.concurrency.mortal:dying_{point}") as (url, process):
        call_that_dies(url, key, stream=stream)
        assert process.wait(10) == -signal.SIGKILL

    reached_upstream = point not in ("before_the_reserve_commits", "after_the_reserve")
    assert eventually(lambda: len(sandbox.requests) == reached_upstream)
    held = list(Reservation.objects.values_list("status", "amount_nanos"))
    if point == "before_the_reserve_commits":
        assert held == []
    elif point == "after_the_settle_before_the_client_has_all":
        assert held == [("settled", COST_NANOS)]
    else:
        assert held == [("pending", COST_NANOS)]
        assert BudgetWindow.objects.get().reserved_nanos == COST_NANOS

    pending = sum(status == "pending" for status, _ in held)
    assert ledger.expire_due(now=timezone.now() + LATER) == pending
    charged = list(SpendEntry.objects.values_list("cost_nanos", "reason"))
    if point == "before_the_reserve_commits":
        # Nothing was sent, and so nothing is charged.
        assert charged == []
    elif pending:
        # Nobody knows what was spent: all that was held counts.
        assert charged == [(COST_NANOS, "expired")]
    else:
        [(cost_nanos, reason)] = charged
        assert 0 < cost_nanos < COST_NANOS
        assert not reason
    assert not BudgetWindow.objects.exclude(reserved_nanos=0).exists()
    assert not Reservation.objects.filter(status="pending").exists()
