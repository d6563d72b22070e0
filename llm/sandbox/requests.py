"""What the real Mistral takes, and how it refuses everything else.

Fields, types and ranges are those of its OpenAPI description
(https://github.com/mistralai/platform-docs-public/blob/main/openapi.yaml, August 2026), where every object is closed,
and of what its client (mistralai 3) sends beyond that: `min_tokens`, `top_k`, `repetition_penalty` and the log
probabilities. What does not fit is a 422 with FastAPI's list `detail`, which pydantic writes here as it does there
(seen in https://github.com/langchain-ai/langchainjs/issues/5144, https://github.com/charmbracelet/crush/issues/1590).
Where pydantic would read a text as a number this is stricter than the real one may be.

The order of messages is judged as by Mistral's own library
(https://github.com/mistralai/mistral-common, `protocol/instruct/validator.py`): a 400 with a code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm.sandbox import wire

# https://github.com/nearai/ironclaw/issues/1241: message, type and code as they were answered.
CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# What may come after a message of each role; https://github.com/pipecat-ai/pipecat-flows/issues/178 met "user" after
# "tool", https://github.com/charmbracelet/crush/issues/279 "tool" after "user".
_FOLLOWERS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"user", "assistant", "system"}),
    "user": frozenset({"assistant", "system", "user"}),
    "assistant": frozenset({"assistant", "user", "tool"}),
    "tool": frozenset({"assistant", "tool"}),
}
_LAST_ROLE = "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
_COUNTS = "Not the same number of function calls and responses"
# What one call may bring to be embedded; as many texts, or conversations, to be judged.
MOST_TEXTS, MOST_TOKENS = 512, 16_384
# Of those conversations together.
MOST_MESSAGES = 10_000


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


_Whole = Annotated[int, Field(ge=0)]
_Object = dict[str, Any]


class _Text(_Closed):
    type: Literal["text"] = "text"
    text: str


class _ImageAddress(_Closed):
    url: str
    detail: Literal["low", "auto", "high"] | None = None


class _Image(_Closed):
    type: Literal["image_url"] = "image_url"
    image_url: _ImageAddress | str


class _Document(_Closed):
    type: Literal["document_url"] = "document_url"
    document_url: str
    document_name: str | None = None


class _Reference(_Closed):
    type: Literal["reference"] = "reference"
    reference_ids: list[int | str]


class _File(_Closed):
    type: Literal["file"] = "file"
    file_id: str


class _Audio(_Closed):
    type: Literal["input_audio"] = "input_audio"
    input_audio: str | _Object


class _Thinking(_Closed):
    type: Literal["thinking"] = "thinking"
    thinking: list[_Text | _Reference | _Object]
    signature: str | None = None
    closed: bool = True


_Part = _Text | _Image | _Document | _Reference | _File | _Audio | _Thinking


class _FunctionCall(_Closed):
    name: str
    arguments: _Object | str


class _ToolCall(_Closed):
    id: str = "null"
    type: Literal["function"] = "function"
    function: _FunctionCall
    index: int = 0


class _System(_Closed):
    role: Literal["system"]
    content: str | list[_Text | _Thinking]


class _User(_Closed):
    role: Literal["user"]
    content: str | list[_Part] | None


class _Assistant(_Closed):
    role: Literal["assistant"]
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None
    prefix: bool = False


class _Tool(_Closed):
    role: Literal["tool"]
    content: str | list[_Part] | None
    tool_call_id: str | None = None
    name: str | None = None


_Message = Annotated[_System | _User | _Assistant | _Tool, Field(discriminator="role")]


class _Function(_Closed):
    name: str
    description: str = ""
    strict: bool = False
    parameters: _Object


class _FunctionTool(_Closed):
    type: Literal["function"] = "function"
    function: _Function


class _OtherTool(BaseModel):
    """A tool that runs at Mistral; the sandbox runs none."""

    type: Literal["web_search", "web_search_premium", "code_interpreter", "image_generation", "document_library"]


class _FunctionName(_Closed):
    name: str


class _ToolChoice(_Closed):
    type: Literal["function"] = "function"
    function: _FunctionName


class _Schema(_Closed):
    name: str
    description: str | None = None
    schema_: _Object = Field(alias="schema")
    strict: bool = False


class _Format(_Closed):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _Schema | None = None


class _Prediction(_Closed):
    type: Literal["content"] = "content"
    content: str = ""


class _Guardrail(BaseModel):
    block_on_error: bool = False
    moderation_llm_v1: _Object | None = None
    moderation_llm_v2: _Object | None = None


class _Writing(_Closed):
    """What chats and fill-in-the-middle have in common."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=1.5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: _Whole | None = None
    stream: bool = False
    stop: str | list[str] | None = None
    random_seed: _Whole | None = None
    metadata: _Object | None = None
    min_tokens: _Whole | None = None
    prompt_cache_key: str | None = None


class ChatRequest(_Writing):
    messages: list[_Message]
    response_format: _Format | None = None
    tools: list[_FunctionTool | _OtherTool] | None = None
    tool_choice: _ToolChoice | Literal["auto", "none", "any", "required"] = "auto"
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    prediction: _Prediction | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    prompt_mode: Literal["reasoning"] | None = None
    guardrails: list[_Guardrail] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    safe_prompt: bool = False
    repetition_penalty: float | None = None
    top_k: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = None


class FimRequest(_Writing):
    prompt: str
    suffix: str | None = None


class EmbeddingRequest(_Closed):
    model: str
    input: str | list[str]
    metadata: _Object | None = None
    output_dimension: Annotated[int, Field(gt=0, le=3072)] | None = None
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] = "float"
    encoding_format: Literal["float", "base64"] = "float"


class ModerationRequest(_Closed):
    model: str
    input: str | list[str]
    metadata: _Object | None = None


class ChatModerationRequest(_Closed):
    model: str
    input: list[_Message] | list[list[_Message]]


class OcrRequest(_Closed):
    model: str | None
    document: _File | _Document | _Image
    id: str | None = None
    pages: str | list[int] | None = None
    include_image_base64: bool | None = None
    image_limit: int | None = None
    image_min_size: int | None = None
    bbox_annotation_format: _Format | None = None
    document_annotation_format: _Format | None = None
    document_annotation_prompt: str | None = None
    table_format: Literal["markdown", "html"] | None = None
    extract_header: bool = False
    extract_footer: bool = False
    include_blocks: bool = True
    confidence_scores_granularity: Literal["word", "page", "block"] | None = None


def check(body: Any, kind: type[BaseModel]) -> None:
    """Raises the 422 that lists everything in a body that is not as `kind` has it."""
    try:
        kind.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        detail = [{**one, "loc": ["body", *one["loc"]]} for one in found]
        raise wire.SimulatedError(422, {"detail": detail}) from error


def check_sampling(body: Mapping[str, Any]) -> None:
    """Raises the 400 of choosing among words of which only the likeliest is taken.

    As in https://github.com/devoxx/DevoxxGenieIDEAPlugin/issues/338.
    """
    if body.get("temperature") == 0 and body.get("top_p") not in (None, 1):
        raise wire.SimulatedError(400, wire.error(400, "top_p must be 1 when using greedy sampling."))


def check_pictures(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises the 400 of pictures for a model that sees none; message and code as clients have met them."""
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    if any(part.get("type") == "image_url" for part in parts):
        raise wire.refused("Image input is not enabled for this model", "invalid_request_error", "3051")


def check_length(prompt_tokens: int, *, context_tokens: int) -> None:
    """Raises the 400 of a prompt that is longer than its model reads; the sentence is as clients know it, the code is
    that of other values which a model does not take."""
    if prompt_tokens > context_tokens:
        raise wire.refused(
            f"Prompt contains {prompt_tokens} tokens, too large for model with {context_tokens} maximum context length",
            "invalid_request_error",
            "3051",
        )


def check_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> None:
    """Raises a 400 where the tool to be called is none of `tools`. In which words the real one refuses that, if it
    does, nobody has told."""
    if isinstance(choice, Mapping) and (name := choice["function"]["name"]) not in {
        tool["function"]["name"] for tool in tools if "function" in tool
    }:
        raise wire.refused(f"Tool choice {name} is not one of the tools.", "invalid_request_error", "3051")


def check_batch(texts: Sequence[str], tokens: int) -> None:
    """Raises the 400 of more texts, or more tokens of them, than one call may bring to be embedded.

    As in https://github.com/raphaelmansuy/edgequake-llm/pull/74 and
    https://github.com/aurelio-labs/semantic-router/issues/297.
    """
    check_inputs(texts)
    if tokens > MOST_TOKENS:
        raise _too_many("tokens overall")


def check_inputs(given: Any) -> None:
    """Raises the 400 of more texts, or conversations, than one call may bring; messages by themselves are one.

    What is to be judged is counted before it is read, which takes its time. How much the real one judges, and in which
    words it refuses more, nobody has told.
    """
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        return
    inputs = [given] if isinstance(given[0], Mapping) else given
    if len(inputs) > MOST_TEXTS:
        raise _too_many("inputs in request")
    if sum(len(one) for one in inputs if isinstance(one, list)) > MOST_MESSAGES:
        raise _too_many("messages overall")


def _too_many(what: str) -> wire.SimulatedError:
    return wire.refused(f"Too many {what}, split into more batches.", "invalid_request_prompt", "3210")


def check_conversation(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    """Raises the 400 of a conversation that no model is given; its types are in order."""
    _check_order(messages)
    _check_results(messages)
    for message in messages:
        if message["role"] == "assistant":
            _check_assistant(message, is_last=message is messages[-1])
        elif message["role"] == "tool":
            _check_id(message.get("tool_call_id"))
            _check_name(message.get("name") or "any")
    for tool in tools:
        if "function" in tool:
            _check_name(tool["function"]["name"])


def _check_order(messages: Sequence[Mapping[str, Any]]) -> None:
    """The last one is a user's or a tool's, or an answer's beginning: https://github.com/anomalyco/opencode/issues/19115."""
    if not messages:
        raise _out_of_order("Conversation must have at least one message")
    if len(messages) == 1 and messages[0]["role"] not in ("user", "system"):
        raise _out_of_order("Conversation must start with a user message or system message")
    if messages[-1]["role"] == "assistant" and not messages[-1].get("prefix"):
        raise _out_of_order(_LAST_ROLE)
    for before, after in pairwise(messages):
        if after["role"] not in _FOLLOWERS[before["role"]]:
            raise _out_of_order(f"Unexpected role '{after['role']}' after role '{before['role']}'")


def _check_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """Each call has its one result before the model speaks again (mistral-common, from its version 13 on by id).

    https://github.com/mistralai/client-ts/issues/106
    """
    called: set[str] = set()
    answered: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            id = message.get("tool_call_id")
            if id in answered:
                raise _out_of_order(f"Duplicate tool call id {id} in tool results")
            if id not in called:
                raise _out_of_order(f"Unexpected tool call id {id} in tool results")
            answered.add(str(id))
        elif message["role"] == "assistant":
            if called != answered:
                raise _out_of_order(_COUNTS)
            ids = [call.get("id", "null") for call in message.get("tool_calls") or ()]
            called, answered = set(ids), set()
            if len(called) < len(ids):
                raise _out_of_order(f"Duplicate tool call id {max(ids, key=ids.count)} in assistant message")
    if called != answered:
        raise _out_of_order(_COUNTS)


def _check_assistant(message: Mapping[str, Any], *, is_last: bool) -> None:
    """Text and calls together are taken: by mistral-common since its version 5. Neither is refused.

    https://github.com/OpenHands/OpenHands/issues/8685
    """
    if not message.get("content") and not message.get("tool_calls"):
        raise wire.refused(
            "Assistant message must have either content or tool_calls, but not none.",
            "invalid_request_assistant_message",
            "3240",
        )
    if message.get("prefix") and not is_last:
        raise wire.refused(
            "Assistant message with prefix True must be last message", "invalid_request_assistant_message", "3240"
        )
    for call in message.get("tool_calls") or ():
        _check_id(call.get("id", "null"))
        _check_name(call["function"]["name"])


def _check_id(id: str | None) -> None:
    """https://github.com/mistralai/client-js/issues/69 for one that is missing, anomalyco/opencode#1680 for others."""
    if id is None or not CALL_ID.fullmatch(id):
        text = f"Tool call id was {'null' if id is None else id} but must be a-z, A-Z, 0-9, with a length of 9."
        raise wire.refused(text, "invalid_function_call", "3280")


def _check_name(name: str) -> None:
    if not FUNCTION_NAME.fullmatch(name):
        raise wire.refused(
            f"Function name was {name} but must be a-z, A-Z, 0-9, or contain underscores and dashes, "
            "with a maximum length of 64.",
            "invalid_function_call",
            "3280",
        )


def _out_of_order(message: str) -> wire.SimulatedError:
    return wire.refused(message, "invalid_request_message_order", "3230")
