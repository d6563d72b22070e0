"""Refusals that show work: what it was, read from wherever an endpoint puts it."""

from __future__ import annotations

import html
import json
from copy import deepcopy
from typing import Any

import pytest

from llm.rules import shown_work
from llm.rules.shown_work import AskedTexts, ShownWork

USED = {"total_tokens": 7}
VLLM = (
    "1 validation error for list[function-wrap[__log_extra_fields__()]]\n  Invalid JSON: EOF while parsing an object at"
    ' line 1 column 30 [type=json_invalid, input_value=\'[{"name": "look",\', input_type=str]'
)


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "failed_generation",
        {},
        {"error": {"message": "no", "code": "invalid_request_error"}},
        # A usage at the top is read as an answer's.
        {"choices": [], "usage": USED},
        {"error": {"usage": {}, "output": None, "completion": 7, "choices": []}},
        # The request, again.
        {"detail": [{"input": {"output": "abc", "usage": USED}, "msg": "too large"}]},
        {"error": {"message": "{broken", "raw": "{}"}},
        {"error": {"message": "}{", "content": None, "text": "", "delta": {}}},
        {"error": {"message": "no", "notes": "What errors say in words of their own."}},
        {"error": {"message": "Provider returned error"}},
        {"error": {"message": "The model returned an error."}},
        {"error": {"message": "The model returned 400"}},
        {"message": "The model returned the following errors: `temperature` is deprecated for this model."},
        {"error": {"message": 'BedrockException - {"message":"The model returned the following errors: top_p"}'}},
        {"error": {"message": "Failed to parse model parameters"}},
        {"error": {"message": "Failed to validate model: not found"}},
        {"error": {"message": "Invalid JSON schema for response_format"}},
        {"error": {"message": "Failed to parse output_format"}},
        {"error": {"message": "Failed to parse tool call arguments of messages.2"}},
        {"error": {"message": "failed to parse tool schema"}},
        {"error": {"message": "max_tokens is more than the model can write"}},
    ],
)
def test_what_shows_no_work(said: Any) -> None:
    assert shown_work.of(said) == ShownWork()


@pytest.mark.parametrize(
    ("said", "text_bytes"),
    [
        ({"error": {"failed_generation": "abcd"}}, 4),
        ({"error": {"failed_generation": ""}}, 0),
        ({"error": {"completion": ["ab", "c"]}}, 3),
        ({"output": "\u00e9"}, 2),
        ({"choices": {"0": {"text": "abc"}}}, 4),
        ({"error": {}, "results": [{"outputText": "abc"}]}, 3),
        ({"error": {}, "message": {"role": "assistant", "content": "abc"}}, 3),
        ({"error": {"content": [{"type": "text", "text": "abc"}]}}, 3),
        ({"error": {"partial": "abc"}}, 3),
        ({"error": "no", "result": {"response": "abc"}}, 3),
        ({"error": "no", "answer": "abc"}, 3),
        ({"error": "no", "delta": {"reasoning_content": "abc"}}, 3),
        ({"error": "no", "tool_calls": [{"function": {"name": "f", "arguments": "abc"}}]}, 4),
        # Of what a text quotes nothing is counted.
        ({"error": {"metadata": {"raw": json.dumps({"error": {"failed_generation": "abc"}})}}}, 0),
        ({"message": "GroqException - " + json.dumps({"error": {"partial_output": "abc"}})}, 0),
        ({"message": "upstream said " + json.dumps({"choices": [{"message": {"content": "abc"}}]})}, 0),
        ({"message": "upstream said " + json.dumps({"text": "abc"})}, 0),
        ({"message": "upstream said " + json.dumps({"usage": USED})}, 0),
        ({"message": "upstream said " + json.dumps({"error": {"message": "{}", "usage": USED}})}, 0),
        ({"error": {"message": json.dumps({"message": json.dumps({"usage": USED})})}}, 0),
        ({"error": {"message": 'The model produced invalid {"a": 1}'}}, 0),
        # Nor is a usage where no endpoint has been seen to put one.
        ({"error": {"details": [{"usage": USED}]}}, 0),
        ({"detail": {"x_groq": {"usage": USED}}}, 0),
        ({"error": {"message": "Could not parse the model output: abc"}}, 0),
        ({"error": {"message": "error parsing tool call: raw='abc', err=invalid character"}}, 0),
        ({"error": {"code": "tool_use_failed"}}, 0),
        ({"error": {"message": "The model produced invalid content."}}, 0),
        ({"error": {"message": "Could not finish the message because max_tokens was reached."}}, 0),
        ({"error": {"message": "The model output could not be parsed as JSON"}}, 0),
        ({"error": {"message": "Failed to parse the model's output"}}, 0),
        ({"error": {"message": "Failed to validate model response"}}, 0),
        ({"error": {"message": "failed to parse model_output"}}, 0),
        ({"error": {"message": "Failed to parse output as JSON"}}, 0),
        ({"error": {"message": VLLM, "type": "BadRequestError", "code": 400}}, 0),
        ({"error": {"message": "Invalid JSON"}}, 0),
        ({"error": {"message": "EOF while parsing a string at line 1"}}, 0),
        ({"error": {"message": "Unterminated string starting at: line 1 column 10 (char 9)"}}, 0),
        ({"error": {"message": "Expecting ',' delimiter: line 1 column 20 (char 19)"}}, 0),
        ({"error": "Tool error: Failed to parse generated text: EOF", "error_type": "tool_error"}, 0),
        ({"error": "Failed to parse generated text"}, 0),
        ({"error": "Tool error: no tool was chosen"}, 0),
        ({"error": "Request failed during generation: out of memory", "error_type": "generation"}, 0),
        ({"error": "Incomplete generation", "error_type": "incomplete_generation"}, 0),
    ],
)
def test_what_was_written_is_shown(said: Any, text_bytes: int) -> None:
    assert shown_work.of(said) == ShownWork(text_bytes=text_bytes, is_told=not text_bytes)


@pytest.mark.parametrize(
    "error", [{}, {"error": {}}, [{"error": {}}], [{}, {"message": "no"}], {"error": {"type": "e", "error": {}}}]
)
@pytest.mark.parametrize("name", ["usage", "usageMetadata", "x_groq"])
def test_a_usage_is_read_in_the_error_itself(error: Any, name: str) -> None:
    error = inner = deepcopy(error)
    while isinstance(inner, list) or "error" in inner:
        inner = inner[0] if isinstance(inner, list) else inner["error"]
    inner[name] = USED
    assert shown_work.of({"model": "m", "error": error}) == ShownWork(counts=[{"model": "m", name: USED}])


QUOTED = '{"usage": {"prompt_tokens": 9, "completion_tokens": 9999999}, "output": "\u00e9 \\"x"}'
REQUESTS: dict[str, Any] = {
    "a text": {"messages": [{"role": "user", "content": f"Say {QUOTED}!"}]},
    "a name": {"messages": [{"tool_calls": [{"function": {"name": QUOTED, "arguments": "{}"}}]}]},
    "a schema": {"tools": [{"function": {"name": "f", "parameters": json.loads(QUOTED)}}]},
}


@pytest.mark.parametrize("is_answer", [False, True])
@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_of_what_a_refusal_quotes_the_request_s_own_shows_nothing(
    request_body: Any, escapes: bool, is_answer: bool
) -> None:
    body = json.dumps(request_body, ensure_ascii=escapes, indent=2).encode()
    said = {"error": {"message": f"Function name was {QUOTED} but must be a-z", "code": 3000}}
    assert shown_work.of(said, asked=AskedTexts(lambda: body), is_answer=is_answer) == ShownWork()
    assert shown_work.of(said, asked=AskedTexts(lambda: b"{}"), is_answer=is_answer) == ShownWork(is_told=True)
    for before, after in (("The model produced invalid ", ""), ("", " failed_generation")):
        told = {"message": before + QUOTED + after}
        assert shown_work.of(told, asked=AskedTexts(lambda: body), is_answer=is_answer) == ShownWork(is_told=True)


def test_what_may_be_written_is_not_where_the_request_has_it() -> None:
    asked = AskedTexts(lambda: b'{"messages": [{"role": "user", "content": "Hi, \\u00e9"}], "n": 1}')
    message = {"role": "user", "content": "Hi, \u00e9"}
    assert not shown_work.of({"error": "no", "message": message, "text": "Hi"}, asked=asked)
    assert shown_work.of({"error": "no", "text": "Ho"}, asked=asked).text_bytes == 2
    # What only a model writes is its own, whatever it was told to write.
    assert shown_work.of({"failed_generation": "Hi"}, asked=asked).text_bytes == 2
    # A form is no JSON.
    assert not shown_work.of({"error": "no", "text": "Hi"}, asked=AskedTexts(lambda: b"--x\r\nHi\xff\r\n"))


def test_no_more_texts_are_looked_for_than_an_error_has() -> None:
    asked = AskedTexts(lambda: b"[]")
    assert [asked.has("[]") for _ in range(51)] == [True] * 50 + [False]


@pytest.mark.parametrize(
    ("said", "text_bytes"),
    [
        ({"error": {"message": "no", "code": 400, "metadata": {"raw": "no", "provider_name": "x"}}, "id": "c"}, 0),
        ({"error": {"message": "no", "flagged": 5, "seen": None}, "user_id": "u"}, 0),
        ({"error": {"message": "no"}, "made": "abc"}, 3),
        ({"error": {"message": "no"}, "said": {"here": ["ab", "c"]}}, 3 + len("here")),
        ({"error": {"message": "no", "left": "abc"}}, 3),
    ],
)
def test_in_the_place_of_an_answer_what_is_no_error_s_may_be_written(said: Any, text_bytes: int) -> None:
    assert shown_work.of(said, is_answer=True) == ShownWork(text_bytes=text_bytes)
    assert not shown_work.of(said)


def test_no_more_is_looked_at_than_an_error_may_be() -> None:
    deep: Any = {"output": "abc"}
    for _ in range(2_000):
        deep = {"inner": deep}
    # What is not looked at may show anything.
    assert shown_work.of(deep) == ShownWork(is_told=True)
    assert shown_work.of({"detail": [{"loc": n} for n in range(1_000)]}) == ShownWork(is_told=True)
    assert shown_work.of({"detail": list(range(2_000))}) == ShownWork()
    assert shown_work.of({"detail": ["a" * 500_000] * 2}) == ShownWork()
    assert shown_work.of({"detail": ["a" * 500_000] * 2 + ["a"]}) == ShownWork(is_told=True)


def test_words_beside_what_was_generated_speak_of_that() -> None:
    failed = {"message": "Failed to call a function.", "code": "tool_use_failed"}
    assert shown_work.of({"error": failed}) == ShownWork(is_told=True)
    assert shown_work.of({"error": {**failed, "failed_generation": "abcd"}}) == ShownWork(text_bytes=4)
    assert shown_work.of({"error": {**failed, "partial": "abcd"}}) == ShownWork(text_bytes=4, is_told=True)
    quoting = {"message": json.dumps({"usage": USED}), "failed_generation": "abcd"}
    assert shown_work.of({"error": quoting}) == ShownWork(text_bytes=4, is_told=True)


def test_several_errors_show_what_each_does() -> None:
    said = [{"error": {"completion": "ab"}}, {"usage": USED, "model": "m", "error": {"usage": USED}}, "no"]
    assert shown_work.of(*said) == ShownWork(counts=[{"model": "m", "usage": USED}], text_bytes=2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "no"}', {"error": "no"}),
        (b"{}", {}),
        (b'[{"error": {"code": 400}}]', {"error": [{"error": {"code": 400}}]}),
        (b'"no"', {"error": "no"}),
        (b"no\xff", {"error": "no\ufffd"}),
        (b"", {"error": ""}),
    ],
)
def test_a_refusal_is_an_object_whatever_it_came_as(body: bytes, said: dict[str, Any]) -> None:
    assert shown_work.refusal(body) == said


@pytest.mark.parametrize(
    "body",
    [
        b'[{"error": {"message": "no", "failed_generation": "abcd"}}]',
        b'[{"failed_generation": "abcd"}]',
    ],
)
def test_lists_show_work_too(body: bytes) -> None:
    found = shown_work.of(shown_work.refusal(body))
    assert found == ShownWork(text_bytes=4)


def test_texts_tell_of_it() -> None:
    body = b'upstream said {"error": {"failed_generation": "abcd"}}'
    assert shown_work.of(shown_work.refusal(body)) == ShownWork(is_told=True)


@pytest.mark.parametrize(
    ("shown", "is_any"),
    [
        (ShownWork(), False),
        (ShownWork(is_told=True), True),
        (ShownWork(text_bytes=1), True),
        (ShownWork(counts=[{"usage": USED}]), True),
    ],
)
def test_work_is_shown_by_any_of_three(shown: ShownWork, is_any: bool) -> None:
    assert bool(shown) is is_any


WROTE = json.dumps({"id": "c", "choices": [{"message": {"role": "assistant", "content": "abc" * 30}}]})
QUOTING = {
    "cut": WROTE[:-9],
    "behind a brace": "{400} " + WROTE,
    "twice": WROTE + "\n" + WROTE,
    "events": f"data: {WROTE}\n\ndata: [DONE]\n\n",
    "a list": f"[{WROTE},{WROTE}]",
    "Python's": str(json.loads(WROTE)),
    "escaped": json.dumps(WROTE)[:-9],
    "Ollama's, cut": '{"message": {"role": "assistant", "content": "abc',
    "without a role, cut": '{"model": "m", "message": {"content": "abc',
    "Converse's, cut": '{"output":{"message":{"content":[{"text":"abc',
    "Llama's, cut": '{"generation":"abc","prompt_token_count":14,"generation_token_count":300',
    "Gemini's, cut": '{"content":{"parts":[{"text":"abc"}],"role":"assist',
    "cut before": 'abc"},"finishReason":"STOP"}]}',
    "a count, cut": '"abc"},"completion_tokens": 300',
    "a call, cut": '{"tool_calls":[{"function":{"name":"f","arguments":"abc',
    "a thought, cut": '{"reasoning_content":"abc',
    "in capitals": '{"Choices":[{"Message":{"Content":"abc"}}',
    "HTML": html.escape(WROTE),
    "HTML's digits": WROTE.replace('"', "&#34;"),
    "letters' numbers": WROTE.replace('"', "\\u0022"),
    "Ruby's": WROTE.replace('": ', '"=>'),
    "a class of Python": "ChatCompletion(id='x', choices=[Choice(finish_reason='stop', message=M(content='abc'))])",
    "Go's": "map[choices:[map[finish_reason:stop message:map[content:abc role:assistant]]]]",
    "Rust's": 'Choice { message: Message { content: Some("abc") } }, usage: Some(Usage { completion_tokens: 300 }) }',
    "YAML": "choices:\n- message:\n    content: abc\nusage:\n  completion_tokens: 300",
    "Node's": "{ choices: [ { message: { content: 'abc' } } ], usage: { completion_tokens: 300 } }",
    "a template's call": '<tool_call>{"name": "f", "arguments": {"x": "abc"}}</tool_call>',
    "a template's thought": "<|channel|>analysis<|message|>abc<|end|>",
}


@pytest.mark.parametrize("text", QUOTING.values(), ids=QUOTING)
def test_an_answer_in_words_is_told_however_it_is_quoted(text: str) -> None:
    said = {"error": {"message": f"upstream said: {text}", "code": 400}}
    assert shown_work.of(said) == ShownWork(is_told=True)
    assert shown_work.of({"error": {"body": text}}) == ShownWork(is_told=True)
    own = AskedTexts(lambda: json.dumps({"messages": [{"content": text}]}).encode())
    assert shown_work.of(said, asked=own) == ShownWork()
    # What of it can be guessed is not all.
    half = len(text) // 2
    for guessed in (text[:half], text[half:]):
        asked = AskedTexts(json.dumps({"messages": [{"content": guessed}]}).encode)
        assert shown_work.of(said, asked=asked) == ShownWork(is_told=True)


@pytest.mark.parametrize(
    "message",
    [
        "Invalid choices: a, b",
        "choices=['low', 'high']",
        "messages.1.reasoning_content: Extra inputs are not permitted",
        "max_completion_tokens: 9000 is too large",
        "messages.2.tool_calls: field required",
        "Unexpected role: assistant",
        "message: content is required",
        "'usage' is no field",
    ],
)
def test_names_of_fields_are_no_answer(message: str) -> None:
    assert shown_work.of({"error": {"message": message}}) == ShownWork()


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ({"error": {"token_usage": {"completion_tokens": 300, "prompt_tokens": 14}}}, True),
        ({"error": {"tokens": {"output_tokens": 300}}}, True),
        ({"error": "no", "meta": {"billed_units": {"input_tokens": 14, "output_tokens": 300}}}, True),
        ({"error": "no", "timings": {"prompt_n": 14, "predicted_n": 300}}, True),
        ({"error": "no", "completion_tokens": 300}, True),
        ({"error": {"candidatesTokenCount": "300"}}, True),
        ({"error": {"completion_tokens": 0, "prompt_tokens": 14}}, False),
        ({"error": {"completion_tokens": None, "output_tokens": True}}, False),
        ({"error": {"max_output_tokens": 4_096, "n_prompt_tokens": 14}}, False),
    ],
)
def test_a_count_of_what_was_written_tells_of_it_wherever_it_stands(said: Any, is_told: bool) -> None:
    assert shown_work.of(said) == ShownWork(is_told=is_told)


def test_what_a_request_asks_to_repeat_is_not_its_own() -> None:
    asked = AskedTexts(lambda: b'{"messages": [{"content": "Repeat: abc"}, {"content": "\\"abc\\""}]}')
    for name in ("partial", "content"):
        assert shown_work.of({"error": "no", name: "abc"}, asked=asked).text_bytes == 3
        assert not shown_work.of({"error": "no", name: "Repeat: a"}, asked=asked)


@pytest.mark.parametrize("said", ["{'error': {'message': 'no', 'type': 'invalid'}}", '{"a"} {"message": "no", "data":'])
def test_an_error_in_words_is_no_answer(said: str) -> None:
    assert shown_work.of({"error": {"message": f"Error code: 400 - {said}"}}, is_answer=True) == ShownWork()


def test_in_the_place_of_an_answer_what_is_named_the_request_s_is_looked_for_there() -> None:
    body = b'{"messages": [{"role": "user", "content": "Hi there"}], "n": 1}'
    own = {"messages": [{"content": "Hi there", "role": "user"}], "input": None, "params": {"n": 1}, "loc": ["body", 0]}
    written = {"role": "assistant", "content": "abc"}
    for name in ("messages", "input", "body", "request", "prompt"):
        for value in (written, [*own["messages"], written], "abc"):
            said = {"error": {"message": "no"}, name: value}
            assert shown_work.of(said, asked=AskedTexts(lambda: body), is_answer=True) == ShownWork(is_told=True)
    for is_answer in (True, False):
        assert not shown_work.of({"error": own}, asked=AskedTexts(lambda: body), is_answer=is_answer)
    # Under a refusal's own status they are believed, but for a body, which may be that of an answer.
    assert shown_work.of({"error": {"input": written}}) == ShownWork()
    assert shown_work.of({"error": {"body": written}}) == ShownWork(text_bytes=3)
    assert shown_work.of({"error": {"body": {"choices": [{"message": written}]}}}) == ShownWork(text_bytes=3)


@pytest.mark.parametrize("name", ["function_call", "tool_call"])
def test_one_call_is_written_as_several_are(name: str) -> None:
    assert shown_work.of({"error": "no", name: {"name": "f", "arguments": "abc"}}) == ShownWork(text_bytes=4)


def test_lines_of_json_are_a_refusal_s_parts() -> None:
    body = b'{"message": {"role": "assistant", "content": "abc"}}\n\n{"error": "no"}\n'
    assert shown_work.of(shown_work.refusal(body)) == ShownWork(text_bytes=3)
    assert shown_work.refusal(b'{"a": 1}\nno') == {"error": '{"a": 1}\nno'}
