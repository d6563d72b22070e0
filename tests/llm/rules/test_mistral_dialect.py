"""OpenAI's chat requests in Mistral's shape, clear refusals, and usage in three spellings."""

from contextlib import suppress
from typing import Any

import openai.types.chat.completion_create_params
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistralai.client import models as mistral_models

from llm.rules import client_requests, mistral_dialect
from llm.rules.request_checks import DialectError
from llm.sandbox import requests

CHAT_FIELDS = requests.ChatRequest.model_fields.keys()
USER = {"role": "user", "content": "hi"}


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m", "messages": [USER], **fields})


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def sent(raw: bytes, **changes: Any) -> dict[str, Any]:
    upstream: dict[str, Any] = orjson.loads(
        mistral_dialect.apply(client_requests.parse(raw), **{"model": "m", **changes})
    )
    # Nobody is put on a dearer tier, whatever came.
    assert upstream.pop("service_tier") == "standard_only"
    return upstream


def test_what_leaves_is_written_from_what_was_read() -> None:
    raw = b'{ "messages": [ {"content":"hi", "role":"user"} ],\n "model":"m", "max_tokens": 5, "metadata":{"a":1} }'
    request = client_requests.parse(raw)

    for changes in ({"max_tokens": 5}, {}, {"disabled_tools": ["unused"]}):
        leaves = mistral_dialect.apply(request, model="m", **changes)
        assert leaves == orjson.dumps({**request.payload, "service_tier": "standard_only"})
        assert orjson.loads(leaves) == orjson.loads(raw) | {"service_tier": "standard_only"}


@pytest.mark.parametrize(
    ("twice", "field"),
    [
        (b'"max_tokens":100000,"max_tokens":5', "max_tokens"),
        (b'"n":100,"n":1', "n"),
        (b'"stream":true,"stream":false', "stream"),
        (b'"temperature":1,"t\\u0065mperature":0', "temperature"),
    ],
)
def test_of_two_equal_keys_the_one_that_was_counted_leaves(twice: bytes, field: str) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"hi"}],' + twice + b"}"
    leaves = mistral_dialect.apply(client_requests.parse(raw), model="m")
    assert leaves.count(b'"' + field.encode() + b'"') == 1
    assert orjson.loads(leaves)[field] == orjson.loads(raw)[field]


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("models", "`model`"),
        ("plugins", "leave it out"),
        ("provider", "leave it out"),
        ("best_of", "leave it out"),
        ("MAX_TOKENS", "`max_tokens`"),
        ("max_output_tokens", ""),
        ("Stream", "`stream`"),
        ("a_field_of_tomorrow", "leave it out"),
        ("", "leave it out"),
        ("x" * 5_000, "leave it out"),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "fim", "embedding", "moderation", "ocr"])
def test_a_field_that_nobody_knows_is_refused_by_name(field: str, advice: str, kind: str) -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "prompt": "a", "input": "a", "document": {}}
    raw = orjson.dumps({**asked, field: 5})
    with pytest.raises(DialectError) as refused:
        client_requests.parse(raw) if kind == "chat" else client_requests.parse_other(raw, kind=kind)
    assert (refused.value.code, refused.value.param) == ("unknown_field", field[:100])
    assert advice in refused.value.message


def test_what_only_other_endpoints_take_is_not_for_mistral() -> None:
    request = client_requests.parse(body(min_p=0.1, guided_json={"type": "object"}))
    assert not {"min_p", "guided_json"} & set(request.payload)
    with pytest.raises(DialectError) as refused:
        client_requests.refuse_foreign(request)
    assert refused.value.param == "guided_json"
    client_requests.refuse_foreign(client_requests.parse(body()))


def test_another_model_or_length_is_written_into_the_request() -> None:
    assert sent(body(), model="small")["model"] == "small"
    assert sent(body(), max_tokens=7)["max_tokens"] == 7
    assert sent(body(max_tokens=9), max_tokens=7)["max_tokens"] == 7


@pytest.mark.parametrize(
    ("given_fields", "wanted"),
    [
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 9, "max_tokens": 4}, {"max_tokens": 4}),
        ({"max_completion_tokens": None}, {}),
        ({"seed": 3}, {"random_seed": 3}),
        ({"seed": 3, "random_seed": 4}, {"random_seed": 4}),
        ({"stream_options": {"include_usage": True}, "store": True, "logit_bias": {}, "user": "u"}, {}),
        ({"verbosity": "low", "safety_identifier": "x", "modalities": ["text"], "audio": None}, {}),
        *(({"service_tier": tier}, {}) for tier in ("priority", "auto", "standard_only", None)),
        ({"stream": None, "tool_choice": None, "response_format": None}, {}),
        ({"parallel_tool_calls": False, "logprobs": True}, {"parallel_tool_calls": False, "logprobs": True}),
        (
            {"prediction": {"type": "content", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}},
            {"prediction": {"type": "content", "content": "ab"}},
        ),
    ],
)
def test_openai_fields_are_translated_or_dropped(given_fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert sent(body(**given_fields)) == {"model": "m", "messages": [USER], **wanted}


def test_a_tool_choice_that_is_an_object_of_its_kind_alone_is_that_kind() -> None:
    assert sent(body(tools=[tool("a")], tool_choice={"type": "auto"}))["tool_choice"] == "auto"


def test_who_takes_the_likeliest_word_alone_chooses_among_none() -> None:
    assert "top_p" not in sent(body(temperature=0, top_p=0.5))
    assert sent(body(temperature=0.1, top_p=0.5))["top_p"] == 0.5
    assert sent(body(top_p=0.5))["top_p"] == 0.5


def test_required_tool_choice_becomes_any() -> None:
    upstream = sent(body(tools=[tool("a")], tool_choice="required"))

    assert upstream["tool_choice"] == "any"


def test_messages_lose_what_openai_clients_echo() -> None:
    echoed: dict[str, Any] = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None}
    system = {"role": "developer", "content": "be kind", "name": "boss"}
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    answer = {"role": "tool", "content": "4", "tool_call_id": "abcdefghi", "name": "add"}

    assert sent(body(messages=[system, {**echoed, "tool_calls": [call]}, answer]))["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "assistant", "content": "x", "tool_calls": [call]},
        answer,
    ]


def test_a_function_without_parameters_gets_the_empty_ones_that_mistral_needs() -> None:
    bare = {"type": "function", "function": {"name": "now"}}
    full = tool("a")

    upstream = sent(body(tools=[bare, full]))

    assert upstream["tools"][0]["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}
    assert upstream["tools"][1] == full


def test_every_field_that_openais_client_knows_is_known_translated_dropped_or_refused() -> None:
    fields = openai.types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
    translated = {"max_completion_tokens", "modalities", "seed"}

    assert fields.keys() <= CHAT_FIELDS | client_requests._DROPPED | set(client_requests.REFUSED) | translated


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (mistral_models.ChatCompletionRequest, requests.ChatRequest),
        (mistral_models.FIMCompletionRequest, requests.FimRequest),
        (mistral_models.EmbeddingRequest, requests.EmbeddingRequest),
        (mistral_models.ClassificationRequest, requests.ModerationRequest),
        (mistral_models.ChatModerationRequest, requests.ChatModerationRequest),
        (mistral_models.OCRRequest, requests.OcrRequest),
    ],
)
def test_the_sandbox_knows_the_fields_that_mistrals_client_knows(model: Any, known: Any) -> None:
    names = {field.alias or name for name, field in model.model_fields.items()}
    assert names == known.model_fields.keys() - {"id"}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2, "temperature": 0.1, "stop": ["a"], "presence_penalty": 0.5, "top_k": 5},
        {"tools": [tool("a")], "tool_choice": "auto", "parallel_tool_calls": False},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}}},
        {"reasoning_effort": "high", "prompt_mode": "reasoning"},
        {"prediction": {"type": "content", "content": "x"}, "prompt_cache_key": "k"},
        {"guardrails": [{"block_on_error": True}], "safe_prompt": True, "metadata": {"a": 1}},
    ],
)
def test_what_mistral_takes_is_passed_on(fields: dict[str, Any]) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    content = [{"type": "text", "text": "é"}, image, {"type": "image_url", "image_url": "https://example.com/a.png"}]
    raw = body(messages=[{"role": "user", "content": content}], **fields)

    assert sent(raw) == orjson.loads(raw)


def test_everything_that_is_sent_is_known_to_mistral() -> None:
    raw = body(
        user="u",
        seed=1,
        store=False,
        stream_options={},
        max_completion_tokens=5,
        logit_bias={},
        functions=None,
        tools=[tool("a")],
        tool_choice="required",
        modalities=["text"],
        prompt_cache_retention="24h",
    )

    assert sent(raw).keys() <= CHAT_FIELDS


def test_attribution_is_kept_from_user_and_metadata() -> None:
    request = client_requests.parse(body(user="ann", metadata={"task": "t"}))

    assert (request.user, request.metadata) == ("ann", {"task": "t"})


def test_plain_facts_of_a_request_are_read() -> None:
    request = client_requests.parse(body(stream=True, max_tokens=5, n=2, tools=[tool("a"), {"type": "web_search"}]))

    assert (request.model, request.stream, request.max_tokens, request.n) == ("m", True, 5, 2)
    assert request.tools == ("a", "web_search")


@pytest.mark.parametrize(
    ("choice", "tools", "forced"),
    [
        ("auto", ["a"], ""),
        ("none", ["a"], ""),
        ("any", ["a", "b"], ""),
        ("required", ["a"], "a"),
        ({"type": "function", "function": {"name": "b"}}, ["a", "b"], "b"),
    ],
)
def test_forced_tool_is_the_one_without_a_way_around(choice: Any, tools: list[str], forced: str) -> None:
    request = client_requests.parse(body(tools=[tool(name) for name in tools], tool_choice=choice))

    assert request.forced_tool == forced


def test_disabled_tools_are_removed_and_with_the_last_one_the_choice() -> None:
    raw = body(tools=[tool("a"), tool("b")], tool_choice="any", parallel_tool_calls=True)
    some, none = sent(raw, disabled_tools=["a", "c"]), sent(raw, disabled_tools=["a", "b"])

    assert [item["function"]["name"] for item in some["tools"]] == ["b"]
    assert some["tool_choice"] == "any"
    assert none.keys() == {"model", "messages"}


@pytest.mark.parametrize(
    ("raw", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"{", None, "invalid_json"),
        (b'{"model": NaN}', None, "invalid_json"),
        (b'{"model": "\\ud800"}', None, "invalid_json"),
        (b"[" * 5_000, None, "invalid_json"),
        (b"[]", None, "invalid_type"),
        (b'{"messages": []}', "model", "missing_field"),
        (b'{"model": 3}', "model", "invalid_type"),
        (b'{"model": " "}', "model", "invalid_value"),
        (b'{"model": "m"}', "messages", "missing_field"),
        (body(messages="hi"), "messages", "invalid_type"),
        (body(messages=[]), "messages", "invalid_value"),
        (body(messages=["hi"]), "messages.0", "invalid_type"),
        (body(messages=[{"content": "x"}]), "messages.0.role", "invalid_value"),
        (body(messages=[{"role": ["user"], "content": "x"}]), "messages.0.role", "invalid_value"),
        (body(messages=[USER, {"role": "critic", "content": "x"}]), "messages.1.role", "invalid_value"),
        (body(messages=[{"role": "user"}]), "messages.0.content", "missing_field"),
        (body(messages=[{"role": "user", "content": 5}]), "messages.0.content", "invalid_type"),
        (body(messages=[{"role": "user", "content": ["x"]}]), "messages.0.content.0", "invalid_type"),
        (body(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages.0.content.0.text", "invalid_type"),
        (body(messages=[{"role": "user", "content": [{"type": 1}]}]), "messages.0.content.0.type", "invalid_type"),
        (
            body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages.0.content.0.image_url",
            "invalid_type",
        ),
        (
            body(messages=[{"role": "assistant", "tool_calls": [1]}]),
            "messages.0.tool_calls.0",
            "invalid_type",
        ),
        (body(messages=[{"role": "assistant", "tool_calls": {}}]), "messages.0.tool_calls", "invalid_type"),
        (
            body(messages=[{"role": "assistant", "audio": {"id": "a"}}]),
            "messages.0.audio",
            "unsupported_field",
        ),
        (body(max_tokens=True), "max_tokens", "invalid_type"),
        (body(max_tokens=1.5), "max_tokens", "invalid_type"),
        (body(max_tokens="5"), "max_tokens", "invalid_type"),
        (body(max_tokens=0), "max_tokens", "invalid_value"),
        (body(max_tokens=-1), "max_tokens", "invalid_value"),
        (body(max_completion_tokens=0), "max_completion_tokens", "invalid_value"),
        (body(n=0), "n", "invalid_value"),
        (body(n=129), "n", "invalid_value"),
        (body(n="2"), "n", "invalid_type"),
        (body(stream="yes"), "stream", "invalid_type"),
        (body(stream=1), "stream", "invalid_type"),
        (body(tools={}), "tools", "invalid_type"),
        (body(tools=["a"]), "tools.0", "invalid_type"),
        (body(tools=[{**tool("a"), "type": 1}]), "tools.0.type", "invalid_type"),
        (body(tools=[tool("a"), {"type": "function"}]), "tools.1.function.name", "missing_field"),
        (body(tools=[tool("")]), "tools.0.function.name", "missing_field"),
        (body(tool_choice="any"), "tool_choice", "invalid_value"),
        (body(tools=[tool("a")], tool_choice="a"), "tool_choice", "invalid_value"),
        (body(tools=[tool("a")], tool_choice=[1]), "tool_choice", "invalid_value"),
        (
            body(tools=[tool("a")], tool_choice={"type": "function", "function": {"name": "b"}}),
            "tool_choice",
            "invalid_value",
        ),
        (body(user=5), "user", "invalid_type"),
        (body(metadata=[1]), "metadata", "invalid_type"),
        (body(response_format="json"), "response_format", "invalid_value"),
        (body(response_format={"type": "xml"}), "response_format", "invalid_value"),
        (body(prediction="x"), "prediction", "invalid_type"),
        (body(prediction={"content": [1]}), "prediction.content", "invalid_type"),
        (body(functions=[]), "functions", "unsupported_field"),
        (body(modalities=["audio"]), "modalities", "unsupported_field"),
        (body(audio={"voice": "x"}), "audio", "unsupported_field"),
        (body(web_search_options={}), "web_search_options", "unsupported_field"),
    ],
)
def test_bad_request_is_refused_naming_the_field(raw: bytes, param: str | None, code: str) -> None:
    with pytest.raises(DialectError) as caught:
        client_requests.parse(raw)

    assert (caught.value.param, caught.value.code) == (param, code)
    assert param is None or param.split(".")[0] in caught.value.message


@given(
    raw=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(st.sampled_from(["model", "messages", "role", "content", "type", "n"]), v, max_size=4)
        ),
    ).map(lambda v: orjson.dumps(v))
)
def test_no_body_breaks_the_parser(raw: bytes) -> None:
    with suppress(DialectError):
        assert client_requests.parse(raw).model


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("fim", {}, "prompt"),
        ("fim", {"prompt": 5}, "prompt"),
        ("fim", {"prompt": "a", "suffix": 5}, "suffix"),
        ("fim", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("embedding", {}, "input"),
        ("embedding", {"input": []}, "input"),
        ("embedding", {"input": [1, "a"]}, "input"),
        ("moderation", {"input": 5}, "input"),
        ("ocr", {"document": "a.pdf"}, "document"),
    ],
)
def test_bad_request_of_another_kind_is_refused_naming_the_field(kind: str, fields: Any, param: str) -> None:
    with pytest.raises(DialectError) as caught:
        client_requests.parse_other(orjson.dumps({"model": "m", **fields}), kind=kind)
    assert caught.value.param == param


def test_requests_of_other_kinds_are_translated() -> None:
    raw = orjson.dumps({"model": "m", "input": ["a"], "dimensions": 8, "user": "ann"})
    request = client_requests.parse_other(raw, kind="embedding")
    filled = client_requests.parse_other(b'{"model":"m","prompt":"a","suffix":null,"stream":true}', kind="fim")

    assert orjson.loads(mistral_dialect.apply(request, model="m")) == {
        "model": "m",
        "input": ["a"],
        "output_dimension": 8,
    }
    assert request.user == "ann"
    assert filled.stream


def test_a_tool_that_runs_at_mistral_is_left_as_it_is_for_whoever_refuses_it() -> None:
    request = client_requests.parse(body(tools=[{"type": "web_search"}]))
    assert mistral_dialect.shape(request)["tools"] == [{"type": "web_search"}]
