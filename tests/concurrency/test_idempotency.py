"""One Idempotency-Key, many repeats, several web processes: one call upstream, one charge, one answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2 as httpx
import pytest

from governance.models import KeptAnswer, SpendEntry
from governance.upkeep import reconcile
from llm.sandbox import Sandbox
from tests import factories as make
from tests.concurrency.test_gateway_processes import BODY, web_process
from tests.product import eventually

REPEATS = 12


async def repeat(urls: list[str], key: str, *, stream: bool) -> list[httpx.Response]:
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "k1"}
    async with httpx.AsyncClient(timeout=60, headers=headers) as client:
        body = BODY | {"stream": stream}
        return await asyncio.gather(
            *(client.post(f"{urls[n % len(urls)]}/v1/chat/completions", json=body) for n in range(REPEATS))
        )


@pytest.mark.parametrize("stream", [False, True])
def test_repeats_in_two_processes_are_one_call(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str, stream: bool
) -> None:
    make.budget("1.00")
    key, _ = make.key()
    sandbox.behave("latency=0.5|output=40")
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    with ExitStack() as stack:
        urls = [stack.enter_context(web_process(environment))[0] for _ in range(2)]
        answers = asyncio.run(repeat(urls, key, stream=stream))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("x-idempotent-replay" in answer.headers for answer in answers) == REPEATS - 1
    assert (len(sandbox.requests), SpendEntry.objects.count()) == (1, 1)
    assert reconcile.check() == []


def test_a_process_that_is_killed_in_mid_call_leaves_a_key_that_another_takes_over(
    process_environment: dict[str, str], sandbox: Sandbox, sandbox_url: str
) -> None:
    make.budget("1.00")
    key, _ = make.key()
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url}
    sandbox.next("latency=30")
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "k1"}
    with ThreadPoolExecutor(1) as pool, web_process(environment) as (dying, process):
        cut = pool.submit(httpx.post, f"{dying}/v1/chat/completions", json=BODY, headers=headers, timeout=60)
        assert eventually(lambda: bool(sandbox.requests), within_s=10)
        process.kill()
        with pytest.raises(httpx.TransportError):
            cut.result()
    # As if the minute had passed in which the run said nothing.
    KeptAnswer.objects.update(alive_until=KeptAnswer.objects.get(status="running").started_at)
    with web_process(environment) as (living, _):
        answer = httpx.post(f"{living}/v1/chat/completions", json=BODY, headers=headers, timeout=30)
    assert (answer.status_code, "x-idempotent-replay" in answer.headers) == (200, False)
    assert KeptAnswer.objects.get().runs == 2
