"""Mistral's own client."""

from __future__ import annotations

from typing import Any

import cells
from mistralai.client import Mistral
from mistralai.client.errors import MistralError


def call(url: str, key: str, cell: str) -> cells.Seen:
    client = Mistral(api_key=key, server_url=url)
    request: dict[str, Any] = {
        "model": cells.model(cell),
        "messages": cells.messages(cell),
        "max_tokens": cells.MAX_TOKENS,
    }
    if cell.startswith("tools"):
        request |= {"tools": [cells.TOOL], "tool_choice": "any"}
    if cell == "422":
        headers = {"idempotency-key": cells.IDEMPOTENCY_KEY}
        client.chat.complete(**request, http_headers=headers)
        request |= {"messages": cells.OTHER_MESSAGES, "http_headers": headers}
    if cells.streams(cell):
        with client.chat.stream(**request) as stream:
            return cells.collected(event.data for event in stream)
    choice = client.chat.complete(**request).choices[0]
    function = choice.message.tool_calls[0].function if choice.message.tool_calls else None
    return {
        "content": choice.message.content,
        "finish_reason": choice.finish_reason,
        "tool": cells.called(function.name, function.arguments) if function else None,
    }


if __name__ == "__main__":
    cells.run(
        call,
        errors=(MistralError,),
        describe=lambda error: {"status": error.status_code, "code": cells.code_in(error.body)},
    )
