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
from llm.gateway.routes import ROUTES
from tests import factories as make
from tests.clients.conftest import Arrivals, ClientProcesses
from tests.clients.processes import ClientProcess
from tests.product import Product, eventually

pytestmark = pytest.mark.sqlite_only

TOOL = {"name": "match_invoice", "arguments": {"number": 1}}


@dataclass(frozen=True)
class Client:
    """`refused` is the class that it raises for each status; `tries` how often it sends what is worth a retry."""

    script: str
    interpreter: str
    refused: Mapping[int, str]
    tries: int = 1
    tool_calls: str = "tool_calls"
    # Without a Retry-After it waits 6 s in all, and x-should-retry means nothing to it: cells without are left out.
    dawdles: bool = False
    # Whether its script has the cells about size: one client of each HTTP library does.
    sized: bool = False
    # Whether it has a helper for streams, which tells what is whole.
    helps: bool = False
    # Further routes that it is tried on.
    routes: tuple[str, ...] = ()


MISTRAL_ROUTES = ("models", "model", "fim", "fim-stream", "embeddings", "moderations", "ocr", "transcription")
OPENAI_ROUTES = ("models", "model", "embeddings", "transcription")
MISTRAL_PYTHON = {
    **dict.fromkeys((400, 401, 402, 403, 413, 429, 502), "mistralai.client.errors.sdkerror.SDKError"),
    422: "mistralai.client.errors.httpvalidationerror.HTTPValidationError",
}
OPENAI = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    502: "InternalServerError",
}
OPENAI_PYTHON = {
    status: f"openai.{name}" for status, name in ({402: "APIStatusError", 413: "APIStatusError"} | OPENAI).items()
}
CLIENTS = {
    "mistralai": Client("python/mistralai_client.py", "suite", MISTRAL_PYTHON, sized=True, routes=MISTRAL_ROUTES),
    "openai": Client(
        "python/openai_client.py", "suite", OPENAI_PYTHON, tries=3, sized=True, helps=True, routes=OPENAI_ROUTES
    ),
    "openai 2": Client("python/openai_client.py", "clients", OPENAI_PYTHON, tries=3, helps=True),
    "langchain-mistralai": Client(
        "python/langchain_client.py",
        "clients",
        dict.fromkeys((400, 401, 402, 403, 422, 429, 502), "httpx.HTTPStatusError"),
    ),
    "pydantic-ai": Client(
        "python/pydantic_ai_client.py",
        "clients",
        {
            400: "pydantic_ai.exceptions.ModelRequestRejectedError",
            401: "pydantic_ai.exceptions.ModelAuthenticationError",
            402: "pydantic_ai.exceptions.ModelQuotaExceededError",
            403: "pydantic_ai.exceptions.ModelAuthenticationError",
            422: "pydantic_ai.exceptions.ModelRequestRejectedError",
            429: "pydantic_ai.exceptions.ModelRateLimitError",
            502: "pydantic_ai.exceptions.ModelServerError",
        },
        tool_calls="tool_call",
    ),
    "litellm": Client(
        "python/litellm_client.py",
        "clients",
        {
            400: "litellm.exceptions.BadRequestError",
            401: "litellm.exceptions.AuthenticationError",
            402: "litellm.exceptions.APIError",
            403: "litellm.exceptions.APIError",
            422: "litellm.exceptions.BadRequestError",
            429: "litellm.exceptions.RateLimitError",
            502: "litellm.exceptions.BadGatewayError",
        },
    ),
    "@mistralai/mistralai": Client(
        "node/mistralai.mjs",
        "node",
        {**dict.fromkeys((400, 401, 402, 403, 413, 429, 502), "SDKError"), 422: "HTTPValidationError"},
        sized=True,
        routes=MISTRAL_ROUTES,
    ),
    "openai (node)": Client(
        "node/openai.mjs",
        "node",
        {402: "APIError", 413: "APIError"} | OPENAI,
        tries=3,
        sized=True,
        helps=True,
        routes=OPENAI_ROUTES,
    ),
    "@ai-sdk/mistral": Client(
        "node/ai-sdk.mjs",
        "node",
        {**dict.fromkeys((400, 401, 402, 403, 422), "APICallError"), 429: "RetryError"},
        tries=3,
        tool_calls="tool-calls",
        dawdles=True,
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


@dataclass
class Matrix:
    """One client before the running product: plays a cell and says what came of it."""

    client: Client
    process: ClientProcess
    product: Product
    arrivals: Arrivals

    def play(self, cell: str, *, before: Callable[[Tenant], None] | None = None, key: str = "") -> Seen:
        """`before` is done to the cell's tenant, who has a dollar."""
        tenant = make.tenant(cell)
        make.budget("1.00", tenant=tenant, window="lifetime")
        key = key or self.product.key(of=tenant)
        if before is not None:
            before(tenant)
        sent_before = self.product.sandbox.received
        began = time.monotonic()
        shown = self.process.see(self.product.url, key, cell)
        took_s = time.monotonic() - began
        return Seen(shown, self.arrivals.of(key), self.product.sandbox.received - sent_before, took_s, tenant)


@pytest.fixture
def matrix(request: pytest.FixtureRequest, product: Product, arrivals: Arrivals, clients: ClientProcesses) -> Matrix:
    client: Client = request.getfixturevalue("client")
    return Matrix(client, clients.of(client.script, interpreter=client.interpreter), product, arrivals)


def spent(tenant: Tenant) -> None:
    ledger.record(make.reporting("1.00", by=make.caller(tenant)), now=timezone.now())


def held(tenant: Tenant) -> None:
    ledger.reserve(make.reserving("1.00", by=make.caller(tenant)), now=timezone.now())


def paused(tenant: Tenant) -> None:
    Tenant.objects.filter(pk=tenant.pk).update(status="paused")


def suspended(tenant: Tenant) -> None:
    Tenant.objects.filter(pk=tenant.pk).update(status="suspended")


# One test a client, as starting the product for each of the cells would take longer than they do.
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_client_works_unmodified(client: Client, matrix: Matrix, settings: Any, subtests: pytest.Subtests) -> None:
    text = answers(matrix, subtests)
    if client.helps:
        helpers(matrix, subtests, text)
    a_cut_stream(matrix, subtests, text)
    refusals_that_are_final(matrix, subtests)
    refusals_that_pass(matrix, subtests, settings)
    if client.sized:
        sizes(matrix, subtests)
    other_routes(matrix, subtests)


def answers(matrix: Matrix, subtests: pytest.Subtests) -> str:
    """What comes as it is; the text of an answer."""
    plain = matrix.play("plain")
    text = plain.answer[0]
    assert text.startswith(" The budget covers this request")
    for cell, answer in {
        "plain": (text, "stop", None),
        "stream": (text, "stop", None),
        "tools": ("", matrix.client.tool_calls, TOOL),
        "tools-stream": ("", matrix.client.tool_calls, TOOL),
    }.items():
        with subtests.test(cell):
            seen = plain if cell == "plain" else matrix.play(cell)
            assert seen.answer == answer
            assert (seen.arrived, seen.sent_on) == (1, 1)
    return text


def helpers(matrix: Matrix, subtests: pytest.Subtests, text: str) -> None:
    """What the client's own helper for streams tells last: that a text, or a call, is whole."""
    for cell, answer, whole in (
        ("helper", (text, "stop", None), "content"),
        ("tools-helper", ("", "tool_calls", TOOL), "tool_calls.function.arguments"),
    ):
        with subtests.test(cell):
            seen = matrix.play(cell)
            assert seen.answer == answer
            assert seen.shown["told"][-2:] == [f"{whole}.delta", f"{whole}.done"]
            assert (seen.arrived, seen.sent_on) == (1, 1)


def a_cut_stream(matrix: Matrix, subtests: pytest.Subtests, text: str) -> None:
    with subtests.test("cut-stream"):
        matrix.product.sandbox.next("cut-stream=3")
        seen = matrix.play("cut-stream")
        content, finish_reason, tool = seen.answer
        assert text.startswith(content)
        assert 0 < len(content) < len(text)
        assert (finish_reason, tool) == ("length", None)
        assert (seen.arrived, seen.sent_on) == (1, 1)
        assert eventually(lambda: SpendEntry.objects.filter(tenant=seen.tenant).exists())
        entry = SpendEntry.objects.get(tenant=seen.tenant)
        assert (entry.certainty, entry.reason) == ("estimated", "upstream_cut")
        assert entry.cost_nanos > 0


def refusals_that_are_final(matrix: Matrix, subtests: pytest.Subtests) -> None:
    """One request arrives, nothing is sent on."""
    refused = matrix.client.refused
    for cell, before, status, code in (
        ("402", spent, 402, "budget_exhausted"),
        ("402-stream", spent, 402, "budget_exhausted"),
        ("402-suspended", suspended, 402, "subscription_inactive"),
        ("403", paused, 403, "paused"),
        ("400", None, 400, "model_not_priced"),
    ):
        with subtests.test(cell):
            seen = matrix.play(cell, before=before)
            assert seen.refusal == (refused[status], status, code)
            assert (seen.arrived, seen.sent_on) == (1, 0)
    with subtests.test("401"):
        seen = matrix.play("401", key="sg_nobody")
        assert seen.refusal == (refused[401], 401, "invalid_api_key")
        assert (seen.arrived, seen.sent_on) == (1, 0)
    with subtests.test("422"):
        # The first of the two requests under one key is answered.
        seen = matrix.play("422")
        assert seen.refusal == (refused[422], 422, "idempotency_mismatch"), seen.shown
        assert (seen.arrived, seen.sent_on) == (2, 1)


def refusals_that_pass(matrix: Matrix, subtests: pytest.Subtests, settings: Any) -> None:
    """They may be sent again, a few times, and after no more than the pause that was asked for."""
    client = matrix.client
    with subtests.test("429"):
        seen = matrix.play("429", before=held)
        assert seen.refusal == (client.refused[429], 429, "budget_in_flight")
        assert (seen.arrived, seen.sent_on) == (client.tries, 0)
        # A second each, as told; and no more but for a slow machine.
        assert client.tries - 1 <= seen.took_s < client.tries + 5
    if client.dawdles:
        return
    with subtests.test("502"):
        matrix.product.sandbox.behave("status=500")
        seen = matrix.play("502")
        matrix.product.sandbox.behave()
        assert seen.refusal == (client.refused[502], 502, "upstream_failed")
        assert seen.arrived == client.tries
    with subtests.test("402-as-429"):
        # It would not pass, so it says that it is not worth a retry.
        settings.OVER_BUDGET_STATUS = 429
        seen = matrix.play("402-as-429", before=spent)
        assert seen.refusal == (client.refused[429], 429, "budget_exhausted")
        assert (seen.arrived, seen.sent_on) == (1, 0)


def sizes(matrix: Matrix, subtests: pytest.Subtests) -> None:
    with subtests.test("large"):
        seen = matrix.play("large")
        assert seen.answer[1] == "stop"
        assert (seen.arrived, seen.sent_on) == (1, 1)
        assert len(matrix.product.sandbox.requests[-1].raw) > 30_000_000
    with subtests.test("413"):
        seen = matrix.play("413")
        assert seen.refusal == (matrix.client.refused[413], 413, "body_too_large")
        assert (seen.arrived, seen.sent_on) == (1, 0)


# Path of a further route, and what is true of the answer.
OTHER_ROUTES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "models": ("/v1/models", lambda ids: "mistral-small-2603" in ids),
    "model": ("/v1/models/mistral-small-latest", lambda id: id == "mistral-small-2603"),
    "fim": ("/v1/fim/completions", lambda text: text.startswith(" The budget covers")),
    "fim-stream": ("/v1/fim/completions", lambda text: text.startswith(" The budget covers")),
    "embeddings": ("/v1/embeddings", lambda sizes: sizes == [1024, 1024]),
    "moderations": ("/v1/moderations", lambda results: results == 2),
    "ocr": ("/v1/ocr", lambda pages: pages == ["# Page 0"]),
    "transcription": ("/v1/audio/transcriptions", lambda text: len(text) > 0),
}


def other_routes(matrix: Matrix, subtests: pytest.Subtests) -> None:
    for cell in matrix.client.routes:
        path, holds = OTHER_ROUTES[cell]
        with subtests.test(cell):
            if not (path in ROUTES or path.startswith("/v1/models")):
                pytest.skip(f"the gateway has no {path} yet")
            seen = matrix.play(cell)
            assert "error" not in seen.shown, seen.shown
            assert holds(seen.shown["content"])
            assert seen.arrived == 1
            if path.startswith("/v1/models"):
                continue
            assert [request.path for request in list(matrix.product.sandbox.requests)[-seen.sent_on :]] == [path]
            entry = SpendEntry.objects.get(tenant=seen.tenant)
            assert entry.certainty == "confirmed"
            # Moderation is free.
            assert (entry.cost_nanos > 0) == (cell != "moderations")
