"""Mistral's wire format: streams, the model list and errors. Pure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import python_multipart
import python_multipart.exceptions

from llm.catalogue import seed
from llm.sandbox import answers

Headers = list[tuple[bytes, bytes]]

CREATED = 1_735_689_600
_TYPES = {401: "unauthorized", 402: "payment_required", 429: "rate_limited", 503: "service_unavailable"}


class SimulatedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Headers | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or []


def chunks(
    head: Mapping[str, Any], answer: answers.SimulatedAnswer, used: Mapping[str, Any], n: int
) -> Iterable[bytes]:
    """The role, the text piece by piece, then finish_reason and usage in one last chunk, then [DONE]."""

    def event(index: int, delta: Mapping[str, Any], finish: str | None, more: Mapping[str, Any]) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return b"data: " + orjson.dumps({**head, "choices": [choice], **more}) + b"\n\n"

    for index in range(n):
        yield event(index, {"role": "assistant", "content": ""}, None, {})
        for piece in answer.pieces:
            yield event(index, {"content": piece}, None, {})
        calls = {"tool_calls": list(answer.tool_calls)} if answer.tool_calls else {}
        more = used if index == n - 1 else {}
        yield event(index, {"content": "", **calls}, answer.finish_reason, more)
    yield b"data: [DONE]\n\n"


def cards(more: Iterable[str]) -> list[dict[str, Any]]:
    """The model list: the models of the shipped catalogue, and `more` chat models."""
    rows = {row.model: row for row in seed.rows()}
    cards = [_card(row.model, row.aliases, row.kinds, row.capabilities, row.context_tokens) for row in rows.values()]
    return cards + [_card(name, (), ("chat",), ("chat", "tools"), None) for name in more]


def _card(
    name: str, aliases: Iterable[str], kinds: Iterable[str], capabilities: Iterable[str], context: int | None
) -> dict[str, Any]:
    can = {*kinds, *capabilities}
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "mistralai",
        "capabilities": {
            "completion_chat": "chat" in can,
            "completion_fim": "fim" in can,
            "function_calling": "tools" in can,
            "fine_tuning": False,
            "vision": "vision" in can,
            "reasoning": "reasoning" in can,
            "ocr": "ocr" in can,
            "moderation": "moderation" in can,
            "classification": False,
            "audio": "audio" in can,
            "audio_transcription": "transcription" in can,
            "embedding": "embedding" in can,
        },
        "name": name,
        "description": f"{name}, simulated",
        "max_context_length": context or 32_768,
        "aliases": list(aliases),
        "deprecation": None,
        "default_model_temperature": 0.3,
        "billing_model_name": name,
        "type": "base",
    }


def form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a form: texts, of a file its bytes."""
    fields: dict[str, Any] = {}

    def keep_field(field: Any) -> None:
        fields[field.field_name.decode()] = (field.value or b"").decode()

    def keep_file(file: Any) -> None:
        file.file_object.seek(0)
        fields[file.field_name.decode()] = file.file_object.read()
        file.close()

    try:
        python_multipart.parse_form(
            {"Content-Type": content_type.encode(), "Content-Length": str(len(body)).encode()},
            io.BytesIO(body),
            keep_field,
            keep_file,
        )
    except (python_multipart.exceptions.FormParserError, ValueError) as error:
        raise unprocessable(["body"], "form_invalid", str(error)) from error
    return fields


def unprocessable(place: list[Any], kind: str, message: str, value: Any = None) -> SimulatedError:
    return SimulatedError(422, {"detail": [{"type": kind, "loc": place, "msg": message, "input": value}]})


def refused(message: str, kind: str, code: str) -> SimulatedError:
    """A 400 in the shape and with the codes of the real one."""
    return SimulatedError(400, error(400, message, kind, code))


def error(status: int, message: str, kind: str = "", code: str | None = None) -> dict[str, Any]:
    return {
        "object": "error",
        "message": message,
        "type": kind or _TYPES.get(status, "invalid_request_error" if status < 500 else "internal_server_error"),
        "param": None,
        "code": code,
        "raw_status_code": status,
    }


def failure(status: int) -> SimulatedError:
    """The refusal that was asked for; a 429 says when to come back."""
    if status == 401:
        return SimulatedError(401, {"detail": "Unauthorized"})
    if status == 403:
        # Of a key that may not use what it asks for. A guardrail's is `blocked`.
        return SimulatedError(403, error(403, "This API key has no permission for this model.", "permission_denied"))
    if status == 429:
        headers = [
            (b"retry-after", b"1"),
            (b"x-ratelimit-limit-req-minute", b"60"),
            (b"x-ratelimit-remaining-req-minute", b"0"),
        ]
        return SimulatedError(429, error(429, "Rate limit exceeded", code="1300"), headers)
    return SimulatedError(status, error(status, f"Simulated failure with status {status}"))


def blocked(guardrails: Sequence[Mapping[str, Any]]) -> SimulatedError:
    """What a guardrail that stops a prompt answers.

    https://docs.mistral.ai/resources/deprecated/guardrailing/mistral_moderation_2411
    """
    name = next((name for each in guardrails for name in each if name.startswith("moderation")), "moderation_llm_v2")
    result = {"decisions": {"sexual": {"threshold": 0.1, "score": 0.3, "violated": True}}, "violated": True}
    said = {"error": {"message": "Content blocked by guardrail", "status": 403}}
    return SimulatedError(403, {**said, "guardrails": {"results": {name: {**result, "action": "block"}}}})
