"""What the real Mistral refuses, the simulated one refuses: with the same status, shape and code."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

USER = {"role": "user", "content": "What do we owe?"}
ID, OTHER_ID = "abcDEF123", "zyxWVU987"


def call(id: Any = ID, name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}, **more}


def calls(*made: dict[str, Any], content: Any = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made) or [call()]}


def result(id: Any = ID, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": "Sunny.", **more}


def ask(sandbox_url: str, messages: list[Any] | None = None, path: str = "/chat/completions", **fields: Any) -> Any:
    said = {} if messages is None and path != "/chat/completions" else {"messages": messages or [USER]}
    body = {"model": "mistral-small-latest", **said, **fields}
    return httpx.post(f"{sandbox_url}/v1{path}", json=body, timeout=5)


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [{"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": "Be brief."}, USER, USER],
        [USER, {"role": "system", "content": "Be brief."}, USER],
        [USER, calls(), result()],
        [USER, calls(content="Let me see."), result(name="weather")],
        [USER, calls(call(), call(OTHER_ID)), result(OTHER_ID), result()],
        [USER, calls(), result(), calls(), result(), {"role": "assistant", "content": "Sunny."}, USER],
        [USER, {"role": "assistant", "content": "So", "prefix": True}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": "https://x"}],
            }
        ],
    ],
)
def test_a_conversation_in_order_is_answered(sandbox_url: str, messages: list[Any]) -> None:
    answer = ask(sandbox_url, messages)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("messages", "code", "said"),
    [
        ([{"role": "assistant", "content": "Hi"}], "3230", "start with a user message"),
        ([USER, {"role": "assistant", "content": "Hi"}], "3230", "Expected last role User or Tool"),
        ([USER, result()], "3230", "Unexpected role 'tool' after role 'user'"),
        ([USER, calls(), result(), USER], "3230", "Unexpected role 'user' after role 'tool'"),
        ([USER, calls(), result(), {"role": "system", "content": "x"}], "3230", "Unexpected role 'system'"),
        ([USER, {"role": "assistant", "content": "x"}, {"role": "system", "content": "x"}, USER], "3230", "Unexpected"),
        ([USER, calls(), USER], "3230", "Not the same number of function calls and responses"),
        ([USER, calls(call(), call(OTHER_ID)), result()], "3230", "Not the same number"),
        ([USER, calls(), result(OTHER_ID)], "3230", "Unexpected tool call id zyxWVU987"),
        ([USER, calls(), result(), result()], "3230", "Duplicate tool call id abcDEF123 in tool results"),
        ([USER, calls(call(), call()), result()], "3230", "Duplicate tool call id abcDEF123 in assistant message"),
        ([USER, {"role": "assistant", "content": ""}, USER], "3240", "either content or tool_calls"),
        ([USER, {"role": "assistant", "content": "x", "prefix": True}, USER], "3240", "must be last message"),
        ([USER, calls(call("call_1")), result("call_1")], "3280", "Tool call id was call_1 but must be"),
        ([USER, calls(call("abcdefgh")), result("abcdefgh")], "3280", "with a length of 9"),
        ([USER, calls(call("abcdefghij")), result("abcdefghij")], "3280", "with a length of 9"),
        ([USER, calls(call(name="what now")), result()], "3280", "Function name was what now"),
        ([USER, calls(), result(name="x" * 65)], "3280", "Function name was"),
    ],
)
def test_a_conversation_that_no_model_is_given_is_a_400(
    sandbox_url: str, messages: list[Any], code: str, said: str
) -> None:
    answer = ask(sandbox_url, messages)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert said in answer.json()["message"]
    assert answer.json()["object"] == "error"


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["x"] * 512, None), (["x"] * 513, "Too many inputs in request"), (["x" * 70_000], "Too many tokens overall")],
)
def test_a_call_brings_no_more_to_be_embedded_than_the_real_one_takes(
    sandbox_url: str, texts: list[str], said: str | None
) -> None:
    answer = ask(sandbox_url, path="/embeddings", model="codestral-embed", input=texts, output_dimension=3072)
    if said is None:
        assert [len(each["embedding"]) for each in answer.json()["data"]] == [3072] * len(texts)
        return
    assert (answer.status_code, answer.json()["code"]) == (400, "3210")
    assert said in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "given", "said"),
    [
        ("/moderations", ["x"] * 512, None),
        ("/moderations", ["x"] * 513, "Too many inputs in request"),
        ("/chat/moderations", [[USER]] * 512, None),
        ("/chat/moderations", [[USER]] * 513, "Too many inputs in request"),
        ("/chat/moderations", [USER] * 10_000, None),
        ("/chat/moderations", [USER] * 10_001, "Too many messages overall"),
        ("/chat/moderations", [[USER] * 5_000, [USER] * 5_001], "Too many messages overall"),
    ],
)
def test_a_call_brings_no_more_to_be_judged(sandbox_url: str, path: str, given: list[Any], said: str | None) -> None:
    answer = ask(sandbox_url, path=path, model="mistral-moderation-latest", input=given)
    assert answer.status_code == (400 if said else 200)
    assert said is None or said in answer.json()["message"]


@pytest.mark.parametrize(("size", "status"), [(1, 200), (3072, 200), (3073, 422), (10**19, 422)])
def test_a_vector_has_a_size_that_there_is(sandbox_url: str, size: int, status: int) -> None:
    body = {"model": "mistral-embed", "input": "a", "output_dimension": size}
    answer = httpx.post(f"{sandbox_url}/v1/embeddings", json=body, timeout=5)
    assert answer.status_code == status
    if status == 200:
        assert len(answer.json()["data"][0]["embedding"]) == size


@pytest.mark.parametrize(("top_p", "status"), [(0.5, 400), (1, 200), (None, 200)])
def test_who_takes_the_likeliest_word_alone_chooses_among_all(
    sandbox_url: str, top_p: float | None, status: int
) -> None:
    answer = ask(sandbox_url, [USER], temperature=0, top_p=top_p)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["message"] == "top_p must be 1 when using greedy sampling."
    assert ask(sandbox_url, [USER], temperature=0.1, top_p=top_p).status_code == 200


@pytest.mark.parametrize(
    ("fields", "loc", "kind"),
    [
        ({"stream_options": {}}, ["stream_options"], "extra_forbidden"),
        ({"max_completion_tokens": 5}, ["max_completion_tokens"], "extra_forbidden"),
        ({"temperature": 1.6}, ["temperature"], "less_than_equal"),
        ({"temperature": -0.1}, ["temperature"], "greater_than_equal"),
        ({"temperature": "hot"}, ["temperature"], "float_type"),
        ({"top_p": 0}, ["top_p"], "greater_than"),
        ({"top_p": 1.1}, ["top_p"], "less_than_equal"),
        ({"max_tokens": -1}, ["max_tokens"], "greater_than_equal"),
        ({"max_tokens": 1.5}, ["max_tokens"], "int_type"),
        ({"max_tokens": True}, ["max_tokens"], "int_type"),
        ({"n": 0}, ["n"], "greater_than_equal"),
        ({"random_seed": -1}, ["random_seed"], "greater_than_equal"),
        ({"presence_penalty": 2.1}, ["presence_penalty"], "less_than_equal"),
        ({"frequency_penalty": -3}, ["frequency_penalty"], "greater_than_equal"),
        ({"stream": "yes"}, ["stream"], "bool_type"),
        ({"stream": None}, ["stream"], "bool_type"),
        ({"response_format": {"type": "xml"}}, ["response_format", "type"], "literal_error"),
        ({"reasoning_effort": "most"}, ["reasoning_effort"], "literal_error"),
        ({"service_tier": "flex"}, ["service_tier"], "literal_error"),
        ({"metadata": []}, ["metadata"], "dict_type"),
        ({"messages": []}, None, ""),
        ({"messages": "Hi"}, ["messages"], "list_type"),
        ({"messages": [{"content": "Hi"}]}, ["messages", 0], "union_tag_not_found"),
        ({"messages": [{"role": "developer", "content": "Hi"}]}, ["messages", 0], "union_tag_invalid"),
        ({"messages": [{"role": "user"}]}, ["messages", 0, "user", "content"], "missing"),
        (
            {"messages": [{"role": "system", "content": None}]},
            ["messages", 0, "system", "content", "str"],
            "string_type",
        ),
        ({"messages": [{**USER, "name": "Ann"}]}, ["messages", 0, "user", "name"], "extra_forbidden"),
        (
            {"messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "y"}, USER]},
            ["messages", 1, "assistant", "reasoning_content"],
            "extra_forbidden",
        ),
        (
            {"messages": [USER, calls(call(extra_content={})), result()]},
            ["messages", 1, "assistant", "tool_calls", 0, "extra_content"],
            "extra_forbidden",
        ),
        (
            {"messages": [USER, calls(call(id=None)), result()]},
            ["messages", 1, "assistant", "tool_calls", 0, "id"],
            "string_type",
        ),
    ],
)
def test_a_body_that_is_not_as_described_is_a_422_that_lists_what_is_wrong(
    sandbox_url: str, fields: dict[str, Any], loc: list[Any] | None, kind: str
) -> None:
    body = {"model": "mistral-small-latest", "messages": [USER], **fields}
    answer = httpx.post(f"{sandbox_url}/v1/chat/completions", json=body, timeout=5)
    if loc is None:
        assert (answer.status_code, answer.json()["code"]) == (400, "3230")
        return
    assert answer.status_code == 422, answer.text
    [found] = [one for one in answer.json()["detail"] if one["type"] == kind]
    assert found["loc"] == ["body", *loc]
    assert found["msg"]
    assert "input" in found


@pytest.mark.parametrize("place", ["tool", "function", "part"])
def test_nothing_is_open_for_fields_of_others(sandbox_url: str, place: str) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    function = {"name": "weather", "parameters": {}, **(mark if place == "function" else {})}
    tool = {"type": "function", "function": function, **(mark if place == "tool" else {})}
    part = {"type": "text", "text": "Hi", **(mark if place == "part" else {})}
    answer = ask(sandbox_url, [{"role": "user", "content": [part]}], tools=[tool])
    assert answer.status_code == 422, answer.text
    assert any(one["type"] == "extra_forbidden" for one in answer.json()["detail"])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/fim/completions", {"model": "codestral-latest", "prompt": "a", "n": 2}),
        ("/fim/completions", {"model": "codestral-latest"}),
        ("/embeddings", {"model": "mistral-embed", "input": [1, 2]}),
        ("/embeddings", {"model": "mistral-embed", "input": "a", "dimensions": 4}),
        ("/moderations", {"model": "mistral-moderation-latest", "input": [USER]}),
        ("/chat/moderations", {"model": "mistral-moderation-latest", "input": ["Hi"]}),
        ("/ocr", {"model": "mistral-ocr-latest", "document": {"type": "text", "text": "a"}}),
    ],
)
def test_the_other_routes_have_their_own_fields(sandbox_url: str, path: str, fields: dict[str, Any]) -> None:
    answer = ask(sandbox_url, None, path, **fields)
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], list)


def test_a_guardrail_answers_as_documented(sandbox_url: str) -> None:
    guarded = {"guardrails": [{"block_on_error": True, "moderation_llm_v2": {"action": "block"}}]}
    body = {"model": "mistral-small-latest", "messages": [USER]}
    url, headers = f"{sandbox_url}/v1/chat/completions", {"x-sandbox": "blocked"}
    assert httpx.post(url, json=body, headers=headers, timeout=5).status_code == 200
    answer = httpx.post(url, json=body | guarded, headers=headers, timeout=5)
    assert (answer.status_code, answer.json()["error"]["message"]) == (403, "Content blocked by guardrail")
    assert answer.json()["guardrails"]["results"]["moderation_llm_v2"]["violated"] is True


PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/a.png"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("messages", [[PICTURE], [PICTURE, {"role": "assistant", "content": "A cat."}, USER]])
def test_a_model_that_sees_nothing_takes_no_picture(sandbox_url: str, messages: list[Any], stream: bool) -> None:
    refused = ask(sandbox_url, messages, model="codestral-latest", stream=stream)
    said = refused.json()
    assert (refused.status_code, said["type"], said["code"]) == (400, "invalid_request_error", "3051")
    assert said["message"] == "Image input is not enabled for this model"
    assert ask(sandbox_url, messages).status_code == 200


def test_a_prompt_is_no_longer_than_what_its_model_reads(sandbox_url: str) -> None:
    long = "a" * 4 * 128_000
    for refused in (
        ask(sandbox_url, [{"role": "user", "content": long}], model="ministral-3b-2512"),
        ask(sandbox_url, path="/fim/completions", prompt=long, model="codestral-latest"),
    ):
        said = refused.json()
        assert (refused.status_code, said["type"]) == (400, "invalid_request_error")
        assert said["message"].startswith("Prompt contains 1280")
        assert said["message"].endswith("tokens, too large for model with 128000 maximum context length")
    fits = "a" * 4 * 127_000
    assert ask(sandbox_url, [{"role": "user", "content": fits}], model="ministral-3b-2512").status_code == 200
    assert ask(sandbox_url, [{"role": "user", "content": long}]).status_code == 200


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_a_tool_that_is_chosen_is_there(sandbox_url: str) -> None:
    for tools in ({}, {"tools": [TOOL]}):
        refused = ask(sandbox_url, tool_choice={"type": "function", "function": {"name": "clock"}}, **tools)
        assert (refused.status_code, refused.json()["type"]) == (400, "invalid_request_error")
        assert "clock" in refused.json()["message"]
    chosen = ask(sandbox_url, tool_choice={"type": "function", "function": {"name": "weather"}}, tools=[TOOL])
    assert chosen.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    ("path", "takes"), [("/models", "GET"), ("/models/mistral-small-latest", "GET"), ("/chat/completions", "POST")]
)
@pytest.mark.parametrize("method", ["HEAD", "PUT", "GET", "POST"])
def test_a_path_takes_its_method_alone(sandbox_url: str, path: str, takes: str, method: str) -> None:
    answer = httpx.request(method, f"{sandbox_url}/v1{path}", timeout=5)
    if method != takes:
        assert (answer.status_code, answer.headers["allow"]) == (405, takes)
        assert method == "HEAD" or answer.json() == {"detail": "Method Not Allowed"}
    else:
        assert answer.status_code in (200, 422)
