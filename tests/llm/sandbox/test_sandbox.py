"""The simulated Mistral, through the real clients and by hand."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import orjson
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

from llm.rules import bounds, sse
from llm.rules.usage import read_tokens
from llm.sandbox import ControlError, Sandbox
from tests.servers import served

QUESTION = [{"role": "user", "content": "What do we owe?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
def mistral(sandbox_url: str) -> Any:
    return Mistral(api_key="any", server_url=sandbox_url)


@pytest.fixture
def openai_client(sandbox_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=f"{sandbox_url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def http(sandbox_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox_url, timeout=5) as client:
        yield client


def chat(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": "mistral-small-latest", "messages": QUESTION, **fields})


def test_mistral_client_reads_a_plain_answer(mistral: Any) -> None:
    answer = mistral.chat.complete(model="mistral-small-latest", messages=QUESTION, max_tokens=500)

    assert answer.model == "mistral-small-2603"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens is not None
    assert 0 < answer.usage.completion_tokens < 500
    assert len(str(answer.choices[0].message.content).split()) == answer.usage.completion_tokens


def test_mistral_client_reads_a_stream_with_usage_in_its_last_chunk(mistral: Any) -> None:
    chunks = [e.data for e in mistral.chat.stream(model="mistral-small-latest", messages=QUESTION)]

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_mistral_client_lists_models_with_their_aliases(mistral: Any) -> None:
    cards = {card.id: card for card in mistral.models.list().data or []}

    assert "mistral-small-latest" in cards["mistral-small-2603"].aliases
    assert cards["mistral-small-2603"].max_context_length == 256_000
    assert mistral.models.retrieve(model_id="codestral-latest").id == "codestral-2508"


def test_mistral_client_uses_the_other_routes(mistral: Any) -> None:
    completed = mistral.fim.complete(model="codestral-latest", prompt="def f(", suffix="return 1", max_tokens=20)
    embedded = mistral.embeddings.create(model="mistral-embed", inputs=["one", "two"])
    judged = mistral.classifiers.moderate(model="mistral-moderation-latest", inputs=["hello"])
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    read = mistral.ocr.process(model="mistral-ocr-latest", document=document, pages=[0, 3])

    assert completed.usage.completion_tokens == 20
    assert [len(item.embedding or []) for item in embedded.data] == [1024, 1024]
    assert judged.results[0].categories == dict.fromkeys(judged.results[0].categories or {}, False)
    assert read.usage_info.pages_processed == 2


def test_mistral_client_gets_a_typed_error_for_an_unknown_field(mistral: Any, http: httpx.Client) -> None:
    with pytest.raises(HTTPValidationError):
        mistral.chat.complete(
            model="mistral-small-latest",
            messages=QUESTION,
            http_headers={"x-sandbox": "latency=0"},
            metadata={},
            tool_choice="auto",
            max_tokens=-1,
        )

    detail = chat(http, stream_options={"include_usage": True}).json()["detail"]
    assert detail[0]["loc"] == ["body", "stream_options"]
    assert detail[0]["type"] == "extra_forbidden"


def test_unknown_field_of_a_message_is_refused(http: httpx.Client) -> None:
    answer = chat(http, messages=[{"role": "user", "content": "hi", "name": "Ann"}])

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "messages", 0, "user", "name"]


def test_openai_client_reads_answers_streams_and_models(openai_client: Any) -> None:
    answer = openai_client.chat.completions.create(model="mistral-large-latest", messages=QUESTION)
    stream = openai_client.chat.completions.create(
        model="mistral-large-latest",
        messages=QUESTION,
        stream=True,
    )
    chunks = list(stream)

    assert answer.model == "mistral-large-2512"
    assert answer.usage is not None
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_dump() == answer.usage.model_dump()
    assert "mistral-small-2603" in [model.id for model in openai_client.models.list()]


def test_openai_client_reads_embeddings_which_it_asks_for_in_base64(openai_client: Any) -> None:
    embedded = openai_client.embeddings.create(model="mistral-embed", input="text")

    assert len(embedded.data[0].embedding) == 1024
    assert embedded.usage.prompt_tokens > 0


@pytest.mark.parametrize("choice", ["any", {"type": "function", "function": {"name": "weather"}}])
def test_forced_tool_is_called_with_arguments_of_its_schema(mistral: Any, choice: Any) -> None:
    answer = mistral.chat.complete(
        model="mistral-small-latest",
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice=choice,
    )

    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert orjson.loads(str(call.function.arguments)) == {"city": "sandbox", "days": 1}


def test_forced_tool_is_called_in_a_stream(openai_client: Any) -> None:
    stream: Any = openai_client.chat.completions.create(
        model="mistral-small-latest",
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        stream=True,
    )
    last = list(stream)[-1]

    assert last.choices[0].finish_reason == "tool_calls"
    assert last.choices[0].delta.tool_calls[0].function.name == "weather"


def test_json_modes_answer_with_json(http: httpx.Client) -> None:
    schema = {"name": "total", "schema": {"type": "object", "properties": {"total": {"type": "number"}}}}
    plain = chat(http, response_format={"type": "json_object"}).json()
    fitting = chat(http, response_format={"type": "json_schema", "json_schema": schema}).json()

    assert isinstance(orjson.loads(plain["choices"][0]["message"]["content"]), dict)
    assert orjson.loads(fitting["choices"][0]["message"]["content"]) == {"total": 1.5}


def test_answer_stops_at_max_tokens(http: httpx.Client) -> None:
    answer = chat(http, max_tokens=3).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


def test_usage_counts_every_answer_of_n(http: httpx.Client) -> None:
    one, three = (chat(http, n=n).json() for n in (1, 3))

    assert len(three["choices"]) == 3
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


@pytest.mark.parametrize("tools", [[], [WEATHER] * 5])
def test_prompt_tokens_stay_below_the_bound(http: httpx.Client, tools: list[Any]) -> None:
    messages = [{"role": "user", "content": text} for text in ("", "a", "日本語", "x" * 999)]
    answer = chat(http, messages=messages, tools=tools).json()

    assert answer["usage"]["prompt_tokens"] <= bounds.chat({"messages": messages, "tools": tools}).input_tokens


def test_unknown_model_and_model_of_another_kind_are_refused(http: httpx.Client) -> None:
    for model in ("gpt-4o", "mistral-embed"):
        answer = chat(http, model=model)
        assert answer.status_code == 400
        assert answer.json()["type"] == "invalid_model"


def test_only_the_configured_key_is_accepted() -> None:
    with served(Sandbox(api_key="secret").app) as url:
        refused = httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer wrong"})
        accepted = httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer secret"})

    assert refused.status_code == 401
    assert accepted.status_code == 200


def test_control_makes_the_next_requests_fail_and_then_they_work_again(http: httpx.Client) -> None:
    http.post("/control", json={"fail": "429", "times": 2}).raise_for_status()
    answers = [chat(http) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "1"
    assert answers[0].headers["x-ratelimit-remaining-req-minute"] == "0"


def test_mistral_client_raises_its_error_for_a_failure(mistral: Any, sandbox: Sandbox) -> None:
    sandbox.next("status=500")
    with pytest.raises(SDKError) as caught:
        mistral.chat.complete(model="mistral-small-latest", messages=QUESTION)
    assert caught.value.status_code == 500


def test_control_refuses_what_it_does_not_know(http: httpx.Client, sandbox: Sandbox) -> None:
    assert http.post("/control", json={"do": "explode"}).status_code == 400
    assert http.post("/control", json={"typo": 1}).status_code == 400
    with pytest.raises(ControlError, match="needs a number"):
        sandbox.next("latency=soon")


def test_missing_and_zero_usage_are_unreadable(http: httpx.Client, sandbox: Sandbox) -> None:
    for directives in ("missing-usage", "zero-usage"):
        sandbox.next(directives)
        assert read_tokens(chat(http).json()) is None
    sandbox.next("cached=2|output=200")
    usage = read_tokens(chat(http).json())
    assert usage is not None
    assert (usage.cached_tokens, usage.output_tokens) == (2, 200)


def test_garbage_is_no_json(http: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.next("garbage")
    with pytest.raises(ValueError, match="Expecting value"):
        chat(http).json()


def test_cut_stream_ends_without_done(http: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.next("cut-stream=3")
    events: list[sse.Event] = []
    with pytest.raises(httpx.RemoteProtocolError):
        read_stream(http, events)

    assert len(events) == 3
    assert not any(event.done for event in events)


def read_stream(http: httpx.Client, events: list[sse.Event]) -> None:
    reader = sse.EventReader()
    body = {"model": "mistral-small-latest", "messages": QUESTION, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for chunk in answer.iter_bytes():
            events += reader.feed(chunk)


def test_client_that_leaves_a_stream_is_noticed(http: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.behave("pace=0.02|output=400")
    body = {"model": "mistral-small-latest", "messages": QUESTION, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_bytes())
        left_at = time.time()
    deadline = time.monotonic() + 3
    while sandbox.requests[0].closed_early_at is None and time.monotonic() < deadline:
        time.sleep(0.01)

    assert sandbox.requests[0].closed_early_at is not None
    assert sandbox.requests[0].closed_early_at - left_at < 1
    assert not sandbox.requests[0].finished


def test_requests_are_listed_and_forgotten(http: httpx.Client) -> None:
    http.post("/v1/embeddings", json={"model": "mistral-embed", "input": "x"}, headers={"authorization": "Bearer k"})
    listed = http.get("/control/requests").json()

    assert listed["count"] == 1
    request = listed["requests"][0]
    assert (request["path"], request["model"], request["has_auth"]) == ("/v1/embeddings", "mistral-embed", True)
    assert "authorization" not in request["headers"]
    assert http.delete("/control/requests").json() == {"count": 0, "requests": []}


def test_header_changes_one_request_alone(http: httpx.Client) -> None:
    body = {"model": "mistral-small-latest", "messages": QUESTION}
    failed = http.post("/v1/chat/completions", json=body, headers={"x-sandbox": "status=503"})

    assert failed.status_code == 503
    assert chat(http).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": 3}', b'{"model":"mistral-small-latest"}'])
def test_malformed_bodies_get_a_422(http: httpx.Client, body: bytes) -> None:
    assert http.post("/v1/chat/completions", content=body).status_code == 422
