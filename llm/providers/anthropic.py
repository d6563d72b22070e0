"""Anthropic's Messages API, translated by `llm.rules.anthropic_dialect` and back by `anthropic_answers`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from llm.providers import Answer, ProviderError
from llm.providers.http import HttpProvider
from llm.providers.translated import RefusedAnswer, ShapedAnswer, TranslatedAnswer, note_left_out
from llm.rules import (
    anthropic_answers,
    anthropic_dialect,
    bounds,
    client_requests,
    joined_events,
    shown_work,
    sse,
    unreadable,
)
from llm.rules.answers import read_json
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.openai_dialect import Shaper

PAYMENT_REQUIRED, OVERLOADED = 402, 529
OVERLOADED_FOR_S = "5"
UNREADABLE = "The model's API sent no answer that could be read."


class Anthropic(HttpProvider):
    """One API base, without /v1, as Anthropic's clients take it. See `llm.providers.Provider`."""

    def __init__(self, *, api_base: str, api_key: str, name: str = "anthropic", public_only: bool = False) -> None:
        headers = {"x-api-key": api_key, "anthropic-version": anthropic_dialect.VERSION}
        super().__init__(
            name=name, base=api_base.rstrip("/") + "/v1", headers=headers, key=api_key, public_only=public_only
        )

    def body(self, request: Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str]) -> bytes:
        if request.extra:
            client_requests.refuse_foreign(request)
        return anthropic_dialect.request_body(
            request, model=model, max_tokens=max_tokens, disabled_tools=disabled_tools
        )

    def bound(self, request: Request, estimate: Estimate) -> Estimate:
        if estimate.whole_context:
            return replace(estimate, input_e2=bounds.write_price_e2(request.payload))
        # With its last tool a conversation gets others in their place: whichever body is larger may leave.
        text_tokens = max(_text_tokens(request, disabled) for disabled in {(), request.tools})
        return replace(estimate.with_text(text_tokens), input_e2=bounds.write_price_e2(request.payload))

    async def send(self, path: str, body: bytes, *, content_type: str, request_id: str) -> Answer:
        """See `llm.providers.Provider`; whatever the path, it is a message that is asked for."""
        answer = await self.connection.post("/messages", body, content_type=content_type, request_id=request_id)
        created = int(time.time())
        left_out = partial(note_left_out, provider=self.name, request_id=request_id)
        if not 200 <= answer.status < 300:
            said, broken = await answer.read()
            status = 503 if answer.status == OVERLOADED else answer.status
            if anthropic_answers.out_of_money(answer.status, answer.headers, said):
                status = PAYMENT_REQUIRED
            paid, unseen_bytes = _paid_refusal(said, created=created, left_out=left_out) or (None, 0)
            # What broke off, or shows work in another place than answers do, is judged as it came.
            asked = shown_work.AskedTexts(lambda: body)
            is_judged = broken or shown_work.of({"error": shown_work.refusal(said)}, asked=asked)
            shown = said if is_judged and paid is None else orjson.dumps(paid or anthropic_answers.refusal(said))
            refused = RefusedAnswer(answer, status=status, body=shown, broken=broken, unseen_bytes=unseen_bytes)
            if answer.status == OVERLOADED:
                # It took no work on, which others say so.
                refused.headers.setdefault("retry-after", OVERLOADED_FOR_S)
            return refused
        if answer.is_stream:
            return ShapedAnswer(answer, _Shaping(created=created), left_out)
        return TranslatedAnswer(answer, lambda body: _translated(body, created=created))

    async def list_models(self) -> list[str]:
        return await self.connection.list_models("/models?limit=1000")


def _text_tokens(request: Request, disabled_tools: Collection[str]) -> int:
    body = anthropic_dialect.request_body(request, model="", max_tokens=None, disabled_tools=disabled_tools)
    return bounds.body_text(anthropic_dialect.without_pictures(orjson.loads(body)))


class _Shaping:
    """Messages' events become OpenAI's chunks, and those become Mistral's."""

    def __init__(self, *, created: int) -> None:
        self._translator = anthropic_answers.Translator(created=created)
        self._shaper = Shaper()

    @property
    def kept_bytes(self) -> int:
        return self._shaper.kept_bytes

    @property
    def unseen_bytes(self) -> int:
        return self._translator.unseen_bytes

    @property
    def used(self) -> Mapping[str, Any]:
        return self._translator.used

    @property
    def waits(self) -> bool:
        return self._shaper.waits

    def flush(self) -> bytes:
        return self._shaper.flush()

    def feed(self, event: sse.Event) -> bytes:
        return b"".join(map(self._shaper.feed, self._translator.feed(event)))

    def rest(self) -> bytes:
        return self._shaper.rest()


def _paid_refusal(
    said: bytes, *, created: int, left_out: Callable[[Exception], None]
) -> tuple[dict[str, Any], int] | None:
    """The answer, and the bytes that have no place in it, that came with an error's status; None for a mere error.

    `left_out` is told why the first event that cannot be translated could not.
    """
    if sse.is_stream(said):
        shaping, reader = _Shaping(created=created), sse.EventReader()
        shaped, unread_bytes = b"", 0
        for event in [*reader.feed(said), *reader.rest()[0]]:
            try:
                shaped += shaping.feed(event)
            except Exception as error:
                if not unread_bytes:
                    left_out(error)
                unread_bytes += len(event.raw)
        answer = joined_events.whole_answer(shaped + shaping.rest()) or {}
        unseen_bytes = shaping.unseen_bytes + unread_bytes
    else:
        message = read_json(said)
        if not isinstance(message, dict) or not (message.get("usage") or message.get("content")):
            return None
        try:
            data, unseen_bytes = _translated(orjson.dumps(message), created=created)
            answer = orjson.loads(data)
        except ProviderError:
            return None
    shows_work = answer.get("usage") or sse.choices_of(answer) or shown_work.of(answer)
    return (answer, unseen_bytes) if shows_work else None


def _translated(body: bytes, *, created: int) -> tuple[bytes, int]:
    """The answer as a chat completion, and the bytes of what was written and has no place there."""
    message = read_json(body)
    if not isinstance(message, dict) or not ({"type", "content", "usage"} & message.keys()):
        raise ProviderError("upstream_garbage", UNREADABLE, sent=unreadable.shows_work(body))
    if message.get("type") == "error":
        used = message.get("usage")
        billed = {"usage": anthropic_answers.usage(used) or used} if used else {}
        return orjson.dumps(message | billed), 0
    try:
        answer = anthropic_answers.answer(message, created=created)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ProviderError("upstream_garbage", UNREADABLE, sent=True) from error
    return orjson.dumps(answer), anthropic_answers.unseen_bytes(message.get("content"), [answer])
