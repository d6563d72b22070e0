"""langchain-mistralai."""

from __future__ import annotations

from typing import Any

import cells
import httpx
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_mistralai import ChatMistralAI


def call(url: str, key: str, cell: str) -> cells.Seen:
    model: Any = ChatMistralAI(
        model_name=cells.model(cell), api_key=key, base_url=f"{url}/v1", max_tokens=cells.MAX_TOKENS
    )
    question = cells.QUESTION
    if cell == "422":
        model.client.headers["idempotency-key"] = cells.IDEMPOTENCY_KEY
        model.invoke(question)
        question = cells.OTHER_MESSAGES[0]["content"]
    if cell.startswith("tools"):
        model = model.bind_tools([cells.TOOL], tool_choice="any")
    if cells.streams(cell):
        chunks: list[AIMessageChunk] = list(model.stream(question))
        return shown(sum(chunks[1:], start=chunks[0]))
    return shown(model.invoke(question))


def shown(message: AIMessage) -> cells.Seen:
    tool = message.tool_calls[0] if message.tool_calls else None
    return {
        "content": message.text,
        "finish_reason": message.response_metadata.get("finish_reason"),
        "tool": cells.called(tool["name"], tool["args"]) if tool else None,
    }


if __name__ == "__main__":
    cells.run(
        call,
        errors=(httpx.HTTPStatusError,),
        describe=lambda error: {
            "status": error.response.status_code,
            "code": cells.code_in(error.response.text),
        },
    )
