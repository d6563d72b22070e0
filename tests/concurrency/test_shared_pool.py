"""Requests share a pool of few connections to the database: whoever waits for anything else has none of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx2 as httpx
import pytest
from django.utils import timezone

from governance.actions import stops
from governance.audit import Actor
from governance.models import Agent
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.test_gateway_processes import web_process
from tests.product import eventually

# More than the pool has.
CALLS = 16
LATENCY_S = 12
ROWS, PADDING = 40_000, "x" * 60


@pytest.fixture
def url(process_environment: dict[str, str], sandbox_url: str) -> Iterator[str]:
    with web_process(process_environment | {"MISTRAL_API_BASE": sandbox_url}) as (url, _):
        yield url


def is_served(url: str) -> bool:
    """Whether a key that nobody knows yet is answered at once, by the gateway and by the control plane."""
    key, _ = make.key(of=make.tenant("other"), agent_slug=f"agent-{time.monotonic_ns()}")
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=2) as client:
        return all(client.get(path).status_code == 200 for path in ("/v1/budget", "/v1/models", "/api/budgets") * 3)


def test_calls_of_the_control_plane_wait_for_a_model_without_one(url: str, sandbox: Sandbox) -> None:
    make.budget("10.00")
    key, _ = make.key()
    sandbox.behave(f"latency={LATENCY_S}")

    def call(_: int) -> int:
        body = {"prompt": "Hi", "model": "mistral-large-latest", "max_tokens": 10}
        return httpx.post(
            f"{url}/api/llm/route", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60
        ).status_code

    with ThreadPoolExecutor(CALLS) as threads:
        began = time.monotonic()
        answers = threads.map(call, range(CALLS))
        assert eventually(lambda: len(sandbox.requests) == CALLS, within_s=8)
        assert is_served(url)
        stops.stop(tenant=make.tenant(), agent=None, reason="runs wild", by=Actor("ops"), now=timezone.now())
        assert set(answers) == {403}
    assert time.monotonic() - began < LATENCY_S


@contextmanager
def downloading(url: str, key: str) -> Iterator[socket.socket]:
    """Somebody who asks for a table and reads nothing of it."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        head = f"GET /api/agents HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\naccept: text/csv\r\n\r\n"
        reader.sendall(head.encode())
        yield reader


def test_a_table_that_nobody_reads_keeps_none(url: str) -> None:
    tenant = make.tenant()
    Agent.objects.bulk_create(
        (Agent(tenant=tenant, slug=f"agent-{n}-{PADDING}") for n in range(ROWS)), batch_size=2_000
    )
    # A key by itself has two reads at a time.
    keys = [make.key(role="viewer")[0] for _ in range(CALLS)]
    with ExitStack() as stack:
        readers = [stack.enter_context(downloading(url, key)) for key in keys]
        for reader in readers:
            assert reader.recv(12) == b"HTTP/1.1 200"
        time.sleep(1)
        assert is_served(url)
