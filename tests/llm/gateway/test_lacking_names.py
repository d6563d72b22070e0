"""Answers without what names them: real clients read them, whatever a model's API left out."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from mistralai.client import Mistral

from benchmarks.answers import Answer
from benchmarks.own_books import BookedUpstream
from governance.models import SpendEntry
from tests.llm.gateway.test_odd_answers import plain
from tests.product import Product

HI = [{"role": "user", "content": "Hi"}]
USED = {"input_tokens": 1, "output_tokens": 3}
# With nulls, with nothing, and with what is no text.
LACKING: list[dict[str, Any]] = [{"id": None, "model": None}, {}, {"id": 5, "model": ["m"]}]


def message(own: dict[str, Any]) -> dict[str, Any]:
    text = [{"type": "text", "text": "074"}]
    return {"type": "message", "role": "assistant", "content": text, "stop_reason": "end_turn", "usage": USED, **own}


def completion(own: dict[str, Any]) -> dict[str, Any]:
    counted = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    choice = {"index": 0, "message": {"role": "assistant", "content": "074"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": counted, **dict.fromkeys(("object", "created")), **own}


def streamed(kind: str, own: dict[str, Any]) -> Answer:
    if kind == "anthropic":
        events = [
            {"type": "message_start", "message": {**message(own), "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "074"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USED},
            {"type": "message_stop"},
        ]
        data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    else:
        whole = completion(own)
        parts = [{"index": 0, "delta": {"role": "assistant", "content": "074"}, "finish_reason": None}]
        ends = [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]
        chunks = [{**own, "choices": parts}, {**own, "choices": ends, "usage": whole["usage"]}]
        data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return Answer(script=[(head + data).encode(), "close"], tokens=3)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["likes"])


@pytest.mark.parametrize("likes", ["anthropic", "openai_compatible"], indirect=True)
@pytest.mark.parametrize("own", LACKING)
class TestAnswers:
    def test_a_whole_one_is_read_by_clients(
        self, product: Product, booked: BookedUpstream, likes: str, kind: str, own: dict[str, Any]
    ) -> None:
        booked.usual = plain(message(own) if kind == "anthropic" else completion(own))
        mistral = Mistral(api_key=likes, server_url=product.url)
        read = mistral.chat.complete(model="likes/m", messages=HI, max_tokens=10)  # type: ignore[arg-type]
        said = openai.OpenAI(base_url=f"{product.url}/v1", api_key=likes).chat.completions.create(
            model="likes/m",
            messages=HI,  # type: ignore[arg-type]
            max_tokens=10,
        )
        for one in (read, said):
            assert (one.choices[0].message.content, one.object) == ("074", "chat.completion")  # type: ignore[union-attr]
            assert isinstance(one.id, str)
            assert "m" in one.model
            assert one.created > 1_700_000_000
        # What it lacked is no model's word: nothing is charged for it, and the price is that of what was asked.
        charged = SpendEntry.objects.order_by("-recorded_at").values_list("cost_nanos", flat=True)
        assert list(charged[:2]) == [150 * 1 + 600 * 3] * 2

    def test_a_stream_is_read_by_clients(
        self, product: Product, booked: BookedUpstream, likes: str, kind: str, own: dict[str, Any]
    ) -> None:
        booked.usual = streamed(kind, own)
        mistral = Mistral(api_key=likes, server_url=product.url)
        chunks: list[Any] = [
            event.data
            for event in mistral.chat.stream(model="likes/m", messages=HI, max_tokens=10)  # type: ignore[arg-type]
        ]
        chunks += openai.OpenAI(base_url=f"{product.url}/v1", api_key=likes).chat.completions.create(
            model="likes/m",
            messages=HI,  # type: ignore[arg-type]
            max_tokens=10,
            stream=True,
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "074" * 2
        for chunk in chunks:
            assert isinstance(chunk.id, str)
            assert "m" in chunk.model
            assert (chunk.object, chunk.created > 1_700_000_000) == ("chat.completion.chunk", True)
        assert len({chunk.id for chunk in chunks}) == 2
