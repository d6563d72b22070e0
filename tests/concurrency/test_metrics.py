"""What several web processes of a machine observed is one sum, also of those that have ended."""

from __future__ import annotations

import re

import httpx2 as httpx

from tests import factories as make
from tests.concurrency.test_gateway_processes import BODY, web_process
from tests.product import eventually

TOKEN = "scrape"
CALLS = 5


def calls_at(url: str) -> int:
    """How many calls a scrape of one process tells of."""
    text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    found = re.findall(r"^gen_ai_client_operation_duration_seconds_count\{.*\} (\S+)$", text, re.MULTILINE)
    return sum(map(int, map(float, found)))


def call(url: str, key: str) -> None:
    for _ in range(CALLS):
        answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200


def test_a_scrape_of_one_process_tells_of_all_and_of_those_that_ended(
    process_environment: dict[str, str], sandbox_url: str
) -> None:
    make.budget("10.00")
    key, _ = make.key()
    environment = process_environment | {"MISTRAL_API_BASE": sandbox_url, "METRICS_TOKEN": TOKEN, "DEBUG": "true"}
    with web_process(environment) as (first, _):
        with web_process(environment) as (second, process):
            call(first, key)
            call(second, key)
            assert calls_at(second) >= CALLS
            assert eventually(lambda: calls_at(first) == calls_at(second) == 2 * CALLS)
            call(second, key)
            # It is asked to end before it would have written these.
            process.terminate()
            process.wait(30)
        assert calls_at(first) == 3 * CALLS
