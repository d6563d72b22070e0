"""OpenAI, and every endpoint that speaks its dialect: Groq, OpenRouter, Together, vLLM and many more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from llm.providers import Answer
from llm.providers.http import HttpProvider
from llm.providers.translated import RefusedAnswer, ShapedAnswer, note_left_out
from llm.rules import bounds, openai_dialect, request_fields, shown_work, sse, thinking, unreadable
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.request_checks import DialectError
from llm.rules.usage import WRITE_E2

OK, PAYMENT_REQUIRED, TOO_MANY_REQUESTS = 200, 402, 429
UNPROCESSABLE = (400, 422)


class OpenAICompatible(HttpProvider):
    """One API base, /v1 included, as OpenAI's clients take it. `native`: OpenAI itself, whose fields are known."""

    def __init__(
        self,
        *,
        name: str,
        api_base: str,
        api_key: str,
        native: bool = False,
        public_only: bool = False,
        extra_fields: frozenset[str] = frozenset(),
    ) -> None:
        """`extra_fields`: what it takes beside the known fields of a chat, as its operator says."""
        # A server of one's own may need no key.
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        super().__init__(name=name, base=api_base, headers=headers, key=api_key, public_only=public_only)
        self._native = native
        self._extra_fields = extra_fields
        # Models whose endpoint has said that it takes the newer name of `max_tokens` alone.
        self._newer: set[str] = set()

    def body(self, request: Request, *, model: str, max_tokens: int | None, disabled_tools: Collection[str]) -> bytes:
        self._refuse_others_extra(request)
        return openai_dialect.request_body(
            request,
            model=model,
            max_tokens=max_tokens,
            disabled_tools=disabled_tools,
            native=self._native,
            newer=self._native or model in self._newer,
        )

    def bound(self, request: Request, estimate: Estimate) -> Estimate:
        if request.kind != "chat":
            return estimate
        # OpenAI (from GPT-5.6 on) and Azure write prompts into their caches unasked, and charge for that. What stands
        # behind another endpoint may keep them for as long as a mark says, as Anthropic does.
        marked_e2 = 100 if self._native else bounds.write_price_e2(request.payload)
        estimate = replace(estimate, input_e2=max(WRITE_E2, marked_e2))
        body = openai_dialect.shape(request, model=request.model, native=self._native)
        hides = request_fields.hides_tokens(body)
        estimate = replace(estimate, tokens_beside=thinking.tokens_beside(body), hides=hides)
        if estimate.whole_context:
            return estimate
        # Whatever such a field is for: a byte is a token.
        extra = len(orjson.dumps({name: body[name] for name in request.extra & body.keys()}))
        more = 0 if self._native else _written_otherwise(body)
        return estimate.with_text(bounds.chat_text(body) + more + extra, bounds.chat_texts(body))

    def _refuse_others_extra(self, request: Request) -> None:
        """Raises DialectError for a field that another endpoint takes."""
        if others := request.extra - self._extra_fields:
            field = min(others)
            raise DialectError(f"`{field}` is not taken by {self.name}: leave it out.", field, "unsupported_field")

    async def send(self, path: str, body: bytes, *, content_type: str, request_id: str) -> Answer:
        answer = await self.connection.post(path, body, content_type=content_type, request_id=request_id)
        if answer.status in UNPROCESSABLE and not self._native:
            said, broken = await answer.read()
            renamed = openai_dialect.renamed_length(body, said)
            # The hold is for one answer: a refusal that bills, or has one, is not sent again.
            is_answer = sse.is_stream(said) or unreadable.begins_answer(said, "choices")
            work = shown_work.of(shown_work.refusal(said), asked=shown_work.AskedTexts(lambda: body))
            if renamed is None or broken is not None or is_answer or work:
                return RefusedAnswer(answer, status=answer.status, body=said, broken=broken)
            answer.close()
            answer = await self.connection.post(path, renamed, content_type=content_type, request_id=request_id)
            if answer.status == OK:
                self._newer.add(openai_dialect.model_of(body))
        if answer.status == TOO_MANY_REQUESTS:
            said, broken = await answer.read()
            # An empty account is the operators' to fill; waiting, as for a rate limit, would not help.
            status = PAYMENT_REQUIRED if openai_dialect.out_of_money(said) else answer.status
            return RefusedAnswer(answer, status=status, body=said, broken=broken)
        if answer.is_stream:
            return ShapedAnswer(
                answer, openai_dialect.Shaper(), partial(note_left_out, provider=self.name, request_id=request_id)
            )
        return answer

    async def list_models(self) -> list[str]:
        return await self.connection.list_models("/models")


def _written_otherwise(body: Mapping[str, Any]) -> int:
    """Tokens more of tools and their calls, however the template of an endpoint of one's own writes JSON."""
    tools = body.get("tools")
    calls = [message["tool_calls"] for message in body["messages"] if message.get("tool_calls")]
    return bounds.indents(tools) + bounds.escapes(tools) + bounds.escapes(calls)
