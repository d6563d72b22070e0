"""Idempotency-Key of the data plane, over real sockets: answered alike, sent upstream once, charged once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import openai
import pytest
from django.db import OperationalError
from django.utils import timezone

from governance import idempotency
from governance.models import ApiKey, BudgetWindow, KeptAnswer, SpendEntry
from tests import factories as make
from tests.product import Product, eventually

HELLO = [{"role": "user", "content": "Hi"}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "mistral-large-latest", "messages": HELLO, "max_tokens": 100} | fields


def ask(product: Product, key: str, name: str, **fields: Any) -> httpx.Response:
    """A chat request under the Idempotency-Key `name`."""
    return product.post("/v1/chat/completions", key, headers={"idempotency-key": name}, **body(**fields))


def charged_once(product: Product) -> bool:
    return SpendEntry.objects.count() == 1 and len(product.sandbox.requests) == 1


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key()


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_gets_the_stored_answer_and_is_charged_once(product: Product, key: str, stream: bool) -> None:
    first = ask(product, key, "k1", stream=stream)
    again = ask(product, key, "k1", stream=stream)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    assert ("x-idempotent-replay" in first.headers, again.headers["x-idempotent-replay"]) == (False, "true")
    assert charged_once(product)


def test_without_the_header_every_request_is_a_call_and_nothing_is_kept(product: Product, key: str) -> None:
    product.chat(key)
    product.chat(key)
    assert (len(product.sandbox.requests), KeptAnswer.objects.count()) == (2, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_repeats_that_come_while_the_first_runs_wait_for_its_answer(product: Product, key: str, stream: bool) -> None:
    product.sandbox.behave("latency=0.3|pace=0.01|output=20")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(product, key, "k1", stream=stream), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("x-idempotent-replay" in answer.headers for answer in answers) == 3
    assert charged_once(product)


def test_a_first_that_runs_longer_than_our_patience_is_a_409_to_come_back_on(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "PATIENCE_S", 0.1)
    product.sandbox.behave("latency=1.5")
    first = threading.Thread(target=ask, args=(product, key, "k1"))
    first.start()
    assert eventually(lambda: KeptAnswer.objects.exists())
    again = ask(product, key, "k1")
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_in_progress")
    assert again.headers["retry-after"] == "1"
    first.join()
    assert ask(product, key, "k1").headers["x-idempotent-replay"] == "true"
    assert charged_once(product)


def test_openais_client_that_repeats_itself_is_charged_once(product: Product, key: str) -> None:
    client = openai.OpenAI(base_url=f"{product.url}/v1", api_key=key, max_retries=3)

    def say(stream: bool, name: str) -> Any:
        return client.chat.completions.create(**body(stream=stream), extra_headers={"Idempotency-Key": name})

    plain = [say(False, "plain") for _ in range(2)]
    assert plain[0].choices[0].message.content == plain[1].choices[0].message.content
    assert plain[0].id == plain[1].id

    def text(chunks: Any) -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    streamed = [text(say(True, "stream")) for _ in range(2)]
    assert streamed[0] == streamed[1] != ""
    assert SpendEntry.objects.count() == len(product.sandbox.requests) == 2


def test_openais_client_that_times_out_and_retries_under_its_key_is_charged_once(product: Product, key: str) -> None:
    product.sandbox.next("latency=1")
    client = openai.OpenAI(base_url=f"{product.url}/v1", api_key=key, max_retries=3, timeout=0.4)
    answer = client.chat.completions.create(**body(), extra_headers={"Idempotency-Key": "retried"})
    assert answer.usage is not None
    assert charged_once(product)


@pytest.mark.parametrize("change", [{"max_tokens": 7}, {"stream": True}])
def test_the_same_key_with_another_body_is_a_422_that_no_client_chokes_on(
    product: Product, key: str, change: dict[str, Any]
) -> None:
    ask(product, key, "k1")
    other = ask(product, key, "k1", **change)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert "detail" not in other.json()
    assert charged_once(product)


def test_another_agents_answer_is_not_handed_out(product: Product, key: str) -> None:
    ask(product, key, "k1")
    other = ask(product, product.key(agent="support"), "k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("name", ["x-user", "x-session", "x-task", "x-allow-downgrade"])
def test_another_users_answer_is_not_handed_out(product: Product, key: str, name: str) -> None:
    value = "false" if name == "x-allow-downgrade" else "one"
    assert ask(product, key, "k1").status_code == 200
    other = product.post("/v1/chat/completions", key, headers={"idempotency-key": "k1", name: value}, **body())
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_another_tenants_key_of_the_same_name_is_another_key(product: Product, key: str) -> None:
    ask(product, key, "k1")
    other = ask(product, product.key(of=make.tenant("globex")), "k1")
    assert other.status_code == 200
    assert "x-idempotent-replay" not in other.headers


def test_a_revoked_key_gets_no_stored_answer(product: Product, key: str) -> None:
    ask(product, key, "k1")
    ApiKey.objects.update(revoked_at=timezone.now())
    assert ask(product, key, "k1").status_code == 401


def test_the_key_is_looked_up_before_any_limit(product: Product) -> None:
    budget = make.budget("0.01", soft_cap=None)
    key = product.key()
    first = ask(product, key, "k1", max_tokens=10)
    type(budget).objects.update(limit_nanos=1)
    BudgetWindow.objects.update(limit_nanos=1, limit_lowered=True, state="stopped")
    assert product.chat(key).status_code == 402
    again = ask(product, key, "k1", max_tokens=10)
    assert (again.status_code, again.content) == (200, first.content)


def test_a_refusal_is_not_kept_so_that_a_retry_may_succeed(product: Product) -> None:
    budget = make.budget("0.000001")
    key = product.key()
    assert ask(product, key, "k1").status_code == 402
    assert not KeptAnswer.objects.exists()
    type(budget).objects.update(limit_nanos=10**9)
    BudgetWindow.objects.update(limit_nanos=10**9)
    assert ask(product, key, "k1").status_code == 200
    assert charged_once(product)


def replayed(response: httpx.Response) -> bool:
    return "x-idempotent-replay" in response.headers


@pytest.mark.parametrize("behaviour", ["status=500", "status=429"])
def test_the_providers_failure_is_not_kept(product: Product, key: str, behaviour: str) -> None:
    # Of the model asked for and of those that stand in for it.
    product.sandbox.next(behaviour, times=4)
    assert ask(product, key, "k1").status_code in (429, 502)
    assert eventually(lambda: (again := ask(product, key, "k1")).status_code == 200 and not replayed(again))
    assert SpendEntry.objects.filter(certainty="confirmed").count() == 1


def test_a_bad_request_is_answered_alike(product: Product, key: str) -> None:
    first = ask(product, key, "k1", model="gpt-9")
    again = ask(product, key, "k1", model="gpt-9")
    assert (first.status_code, again.status_code) == (400, 400)
    assert again.headers["x-idempotent-replay"] == "true"
    assert again.json() == first.json()


def test_a_stream_that_was_cut_is_not_kept(product: Product, key: str) -> None:
    product.sandbox.next("cut-stream")
    assert ask(product, key, "k1", stream=True).status_code == 200
    assert not KeptAnswer.objects.exists()
    again = ask(product, key, "k1", stream=True)
    assert "x-idempotent-replay" not in again.headers
    assert len(product.sandbox.requests) == 2


def test_a_stream_that_the_client_left_is_not_kept(product: Product, key: str) -> None:
    product.sandbox.behave("pace=0.05|output=200")
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "k1"}
    with httpx.stream(
        "POST", f"{product.url}/v1/chat/completions", json=body(stream=True, max_tokens=200), headers=headers
    ) as response:
        next(response.iter_lines())
    assert eventually(lambda: SpendEntry.objects.exists())
    assert eventually(lambda: not KeptAnswer.objects.exists())


def test_an_answer_longer_than_is_kept_is_still_given(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MOST_BYTES", 100)
    assert ask(product, key, "k1", stream=True).content.endswith(b"data: [DONE]\n\n")
    assert not KeptAnswer.objects.exists()


def test_a_run_says_that_it_is_alive_while_the_model_thinks(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "ALIVE_FOR", timedelta(seconds=0.3))
    product.sandbox.behave("latency=1")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(product, key, "k1"), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert charged_once(product)


def test_a_dead_runs_request_is_run_anew(product: Product, key: str) -> None:
    ask(product, key, "k1")
    KeptAnswer.objects.update(status="running", response_status=None, alive_until=timezone.now() - timedelta(seconds=1))
    again = ask(product, key, "k1")
    assert (again.status_code, "x-idempotent-replay" in again.headers) == (200, False)


def test_a_key_of_more_than_255_characters_is_a_400(product: Product, key: str) -> None:
    assert ask(product, key, "k" * 255).status_code == 200
    refused = ask(product, key, "k" * 256)
    assert (refused.status_code, refused.json()["param"]) == (400, "idempotency-key")
    assert charged_once(product)


def test_an_answer_that_ends_while_the_database_is_away_is_kept_when_it_is_back(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, tried = idempotency.keep, []

    def away(claim: Any, answer: Any) -> bool:
        tried.append(answer)
        if len(tried) < 4:
            raise OperationalError("away")
        return keep(claim, answer)

    monkeypatch.setattr(idempotency, "keep", away)
    first = ask(product, key, "k1")
    assert first.status_code == 200
    assert eventually(lambda: KeptAnswer.objects.filter(status="done").exists())
    again = ask(product, key, "k1")
    assert (again.content, replayed(again)) == (first.content, True)
    assert charged_once(product)
    assert len(tried) == 4
