"""The clients that teams use, unmodified, against the running gateway: what each shows of an answer, a refusal and a
cut, and how many requests it sends. docs/clients.md tells its readers what this proves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.models import SpendEntry, Tenant
from tests import factories as make
from tests.clients.conftest import Arrivals, ClientProcesses
from tests.product import Product, eventually

pytestmark = pytest.mark.sqlite_only

TOOL = {"name": "match_invoice", "arguments": {"number": 1}}
CUT_AFTER = 3


@dataclass(frozen=True)
class Client:
    """`refused` is the class that it raises for each status; `tries` how often it sends what was refused."""

    script: str
    interpreter: str
    refused: Mapping[int, str]
    tries: Mapping[str, int]
    tool_calls: str = "tool_calls"


ONCE: Mapping[str, int] = {}
MISTRAL_PYTHON = {
    **dict.fromkeys((401, 402, 429), "mistralai.client.errors.sdkerror.SDKError"),
    422: "mistralai.client.errors.httpvalidationerror.HTTPValidationError",
}
OPENAI_PYTHON = {
    401: "openai.AuthenticationError",
    402: "openai.APIStatusError",
    422: "openai.UnprocessableEntityError",
    429: "openai.RateLimitError",
}
CLIENTS = {
    "mistralai": Client(
        "python/mistralai_client.py",
        "suite",
        MISTRAL_PYTHON,
        ONCE,
    ),
    "openai": Client("python/openai_client.py", "suite", OPENAI_PYTHON, {"429": 3}),
    "openai 2": Client("python/openai_client.py", "clients", OPENAI_PYTHON, {"429": 3}),
    "langchain-mistralai": Client(
        "python/langchain_client.py",
        "clients",
        dict.fromkeys((401, 402, 422, 429), "httpx.HTTPStatusError"),
        ONCE,
    ),
    "pydantic-ai": Client(
        "python/pydantic_ai_client.py",
        "clients",
        {
            401: "pydantic_ai.exceptions.ModelAuthenticationError",
            402: "pydantic_ai.exceptions.ModelQuotaExceededError",
            422: "pydantic_ai.exceptions.ModelRequestRejectedError",
            429: "pydantic_ai.exceptions.ModelRateLimitError",
        },
        ONCE,
        tool_calls="tool_call",
    ),
    "litellm": Client(
        "python/litellm_client.py",
        "clients",
        {
            401: "litellm.exceptions.AuthenticationError",
            402: "litellm.exceptions.APIError",
            422: "litellm.exceptions.BadRequestError",
            429: "litellm.exceptions.RateLimitError",
        },
        ONCE,
    ),
    "@mistralai/mistralai": Client(
        "node/mistralai.mjs",
        "node",
        {**dict.fromkeys((401, 402, 429), "SDKError"), 422: "HTTPValidationError"},
        ONCE,
    ),
    "openai (node)": Client(
        "node/openai.mjs",
        "node",
        {401: "AuthenticationError", 402: "APIError", 422: "UnprocessableEntityError", 429: "RateLimitError"},
        {"429": 3},
    ),
    "@ai-sdk/mistral": Client(
        "node/ai-sdk.mjs",
        "node",
        {**dict.fromkeys((401, 402, 422), "APICallError"), 429: "RetryError"},
        {"429": 3, "402-as-429": 3},
        tool_calls="tool-calls",
    ),
}


@dataclass
class Seen:
    """What came of one cell: shown by the client, arrived at the gateway, and sent on to the model's API."""

    shown: dict[str, Any]
    arrived: int
    sent_on: int
    took_s: float
    tenant: Tenant

    @property
    def answer(self) -> tuple[str, str, Any]:
        assert "error" not in self.shown, self.shown
        return self.shown["content"] or "", self.shown["finish_reason"], self.shown["tool"]

    @property
    def refusal(self) -> tuple[str, int, str]:
        assert "error" in self.shown, self.shown
        return self.shown["error"], self.shown["status"], self.shown["code"]


# Plays one cell, after what `before` does to its tenant.
Play = Callable[..., Seen]


@pytest.fixture
def play(request: pytest.FixtureRequest, product: Product, arrivals: Arrivals, clients: ClientProcesses) -> Play:
    client: Client = request.getfixturevalue("client")
    process = clients.of(client.script, interpreter=client.interpreter)

    def played(cell: str, *, before: Callable[[Tenant], None] = lambda _: None, key: str = "") -> Seen:
        tenant = make.tenant(cell)
        make.budget("1.00", tenant=tenant)
        key = key or product.key(of=tenant)
        before(tenant)
        sent_before = product.sandbox.received
        began = time.monotonic()
        shown = process.see(product.url, key, cell)
        took_s = time.monotonic() - began
        return Seen(shown, arrivals.of(key), product.sandbox.received - sent_before, took_s, tenant)

    return played


def spent(tenant: Tenant) -> None:
    ledger.record(make.reporting("1.00", by=make.caller(tenant)), now=timezone.now())


def held(tenant: Tenant) -> None:
    ledger.reserve(make.reserving("1.00", by=make.caller(tenant)), now=timezone.now())


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_client_works_unmodified(
    client: Client, play: Play, product: Product, settings: Any, subtests: pytest.Subtests
) -> None:
    plain = play("plain")
    text = plain.answer[0]
    with subtests.test("plain"):
        assert text.startswith(" The budget covers this request")
        assert plain.answer == (text, "stop", None)
        assert (plain.arrived, plain.sent_on) == (1, 1)

    with subtests.test("stream"):
        seen = play("stream")
        assert seen.answer == (text, "stop", None)
        assert (seen.arrived, seen.sent_on) == (1, 1)

    for cell in ("tools", "tools-stream"):
        with subtests.test(cell):
            seen = play(cell)
            assert seen.answer == ("", client.tool_calls, TOOL)
            assert (seen.arrived, seen.sent_on) == (1, 1)

    for cell in ("402", "402-stream"):
        with subtests.test(cell):
            seen = play(cell, before=spent)
            assert seen.refusal == (client.refused[402], 402, "budget_exhausted")
            assert (seen.arrived, seen.sent_on) == (1, 0)

    with subtests.test("402-as-429"):
        settings.OVER_BUDGET_STATUS = 429
        seen = play("402-as-429", before=spent)
        assert seen.refusal == (client.refused[429], 429, "budget_exhausted")
        assert (seen.arrived, seen.sent_on) == (client.tries.get("402-as-429", 1), 0)

    with subtests.test("429"):
        seen = play("429", before=held)
        assert seen.refusal == (client.refused[429], 429, "budget_in_flight")
        tries = client.tries.get("429", 1)
        assert (seen.arrived, seen.sent_on) == (tries, 0)
        # It waits as long as it is told between two tries, and not longer.
        assert tries - 1 <= seen.took_s < 2 * tries

    with subtests.test("401"):
        seen = play("401", key="sg_nobody")
        assert seen.refusal == (client.refused[401], 401, "invalid_api_key")
        assert (seen.arrived, seen.sent_on) == (1, 0)

    with subtests.test("422"):
        # The first of the two requests under one key is answered.
        seen = play("422")
        assert seen.refusal == (client.refused[422], 422, "idempotency_mismatch")
        assert (seen.arrived, seen.sent_on) == (2, 1)

    with subtests.test("cut-stream"):
        seen = play("cut-stream", before=lambda _: product.sandbox.next(f"cut-stream={CUT_AFTER}"))
        content, finish_reason, tool = seen.answer
        assert text.startswith(content)
        assert 0 < len(content) < len(text)
        assert (finish_reason, tool) == ("length", None)
        assert (seen.arrived, seen.sent_on) == (1, 1)
        assert eventually(lambda: SpendEntry.objects.filter(tenant=seen.tenant).exists())
        entry = SpendEntry.objects.get(tenant=seen.tenant)
        assert (entry.certainty, entry.reason) == ("estimated", "upstream_cut")
        assert entry.cost_nanos > 0
