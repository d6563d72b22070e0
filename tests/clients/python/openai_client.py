"""OpenAI's own client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cells
import openai


def call(url: str, key: str, cell: str) -> cells.Seen:
    client = openai.OpenAI(api_key=key, base_url=f"{url}/v1")
    if cell in ROUTES:
        return {"content": ROUTES[cell](client)}
    request: dict[str, Any] = {
        "model": cells.model(cell),
        "messages": cells.messages(cell),
        "max_completion_tokens": cells.MAX_TOKENS,
    }
    if cell.startswith("tools"):
        request |= {"tools": [cells.TOOL], "tool_choice": "required"}
    if cell == "422":
        headers = {"idempotency-key": cells.IDEMPOTENCY_KEY}
        client.chat.completions.create(**request, extra_headers=headers)
        request |= {"messages": cells.OTHER_MESSAGES, "extra_headers": headers}
    if cell.endswith("helper"):
        return told(client, request)
    if cells.streams(cell):
        options = {"include_usage": True}
        return cells.collected(client.chat.completions.create(**request, stream=True, stream_options=options))
    return shown(client.chat.completions.create(**request).choices[0])


def told(client: openai.OpenAI, request: dict[str, Any]) -> cells.Seen:
    """What the helper for streams tells on the way, beside the answer that it puts together."""
    with client.chat.completions.stream(**request) as stream:
        names = [event.type for event in stream if event.type != "chunk"]
    return {**shown(stream.get_final_completion().choices[0]), "told": names}


def shown(choice: Any) -> cells.Seen:
    function = choice.message.tool_calls[0].function if choice.message.tool_calls else None
    return {
        "content": choice.message.content,
        "finish_reason": choice.finish_reason,
        "tool": cells.called(function.name, function.arguments) if function else None,
    }


def embeddings(client: openai.OpenAI) -> list[int]:
    answer = client.embeddings.create(model="mistral-embed", input=cells.TEXTS)
    return [len(each.embedding) for each in answer.data]


def transcription(client: openai.OpenAI) -> str:
    file = ("memo.wav", cells.AUDIO)
    return client.audio.transcriptions.create(model="voxtral-mini-latest", file=file).text


# What the other routes give.
ROUTES: dict[str, Callable[[openai.OpenAI], Any]] = {
    "models": lambda client: [model.id for model in client.models.list().data],
    "model": lambda client: client.models.retrieve(cells.model("model")).id,
    "embeddings": embeddings,
    "transcription": transcription,
}


if __name__ == "__main__":
    cells.run(
        call,
        errors=(openai.APIStatusError,),
        describe=lambda error: {"status": error.status_code, "code": error.code},
    )
