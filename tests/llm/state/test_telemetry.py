"""What a call tells whoever watches it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from llm.gateway.application import gateway
from llm.state.telemetry import Attempt, Telemetry
from tests import factories as make
from tests.llm.gateway.test_chat import streaming
from tests.product import Product, eventually

ATTEMPT = Attempt(
    kind="chat",
    provider="mistral",
    model_requested="mistral-large-latest",
    model_served="mistral-large-2512",
    tenant="acme",
    agent="invoices",
    request_id="r",
    reservation_id="r",
    streamed=False,
    input_tokens=100,
    cached_tokens=80,
    output_tokens=20,
    reserved_nanos=90_000,
    cost_nanos=44_000,
    certainty="confirmed",
    error="",
    duration_s=0.5,
    first_byte_s=0.4,
    traceparent="",
)


def test_attributes_are_named_by_the_conventions() -> None:
    assert ATTEMPT.attributes() == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "mistral-large-latest",
        "gen_ai.response.model": "mistral-large-2512",
        "gen_ai.agent.id": "invoices",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 80,
        "gen_ai.usage.output_tokens": 20,
        "spend_governor.tenant": "acme",
        "spend_governor.request.id": "r",
        "spend_governor.cost.usd": "0.000044",
        "spend_governor.reserved.usd": "0.00009",
        "spend_governor.cost.certainty": "confirmed",
    }


def test_an_attempt_that_failed_says_why() -> None:
    assert replace(ATTEMPT, error="upstream_timeout").attributes()["error.type"] == "upstream_timeout"


def test_an_observer_that_fails_is_logged_and_hides_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Attempt] = []

    def failing(_: Attempt) -> None:
        raise RuntimeError("the collector is away")

    with caplog.at_level(logging.ERROR):
        Telemetry([failing, seen.append]).ended(ATTEMPT)
    assert seen == [ATTEMPT]
    assert "the collector is away" in caplog.text


OBSERVED: list[Attempt] = []


def observe(attempt: Attempt) -> None:
    """What an operator's TELEMETRY_OBSERVERS would name."""
    OBSERVED.append(attempt)


def test_an_operator_s_observers_come_beside_ours() -> None:
    ours: list[Attempt] = []
    OBSERVED.clear()
    Telemetry.load([f"{__name__}.observe"], always=[ours.append]).ended(ATTEMPT)
    assert ours == OBSERVED == [ATTEMPT]


def test_a_name_that_leads_nowhere_stops_the_start() -> None:
    with pytest.raises(ImportError):
        Telemetry.load(["llm.state.metrics.nothing"])


@pytest.fixture
def seen(product: Product, monkeypatch: pytest.MonkeyPatch) -> list[Attempt]:
    attempts: list[Attempt] = []
    monkeypatch.setattr(gateway, "telemetry", Telemetry([attempts.append]))
    make.budget("1.00")
    return attempts


def test_every_ending_of_a_call_is_told_once(product: Product, seen: list[Attempt]) -> None:
    key = product.key()
    product.chat(key)
    with streaming(product, key) as response:
        response.read()
    product.sandbox.next("status=400")
    product.chat(key)
    product.sandbox.next("cut-stream=2")
    with streaming(product, key) as response:
        response.read()
    assert eventually(lambda: len(seen) == 4)
    assert [(a.streamed, a.error, a.certainty) for a in seen] == [
        (False, "", "confirmed"),
        (True, "", "confirmed"),
        (False, "", ""),
        (True, "upstream_cut", "estimated"),
    ]
    assert all(a.first_byte_s is not None and a.first_byte_s <= a.duration_s for a in seen[:2])
    assert seen[0].cost_nanos > 0


def test_a_refused_call_was_never_made(product: Product, seen: list[Attempt]) -> None:
    make.budget("0.000001", scope_type="agent", scope_key="invoices")
    assert product.chat(product.key()).status_code == 402
    assert seen == []


def test_the_histograms_are_among_the_metrics(product: Product, settings) -> None:
    settings.METRICS_TOKEN = "scrape"
    make.budget("1.00")
    key = product.key()
    product.chat(key)
    with streaming(product, key) as response:
        response.read()
    text = product.get("/metrics", "scrape").text
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="mistral_ai",gen_ai_response_model="mistral-large-2512"'
    assert f'gen_ai_client_operation_duration_seconds_count{{error_type="",{labels}}}' in text
    assert "gen_ai_client_operation_time_to_first_chunk_seconds_bucket" in text
    assert 'gen_ai_token_type="output"' in text
    assert "spend_governor_charged_dollars_total" in text
