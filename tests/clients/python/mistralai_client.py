"""Mistral's own client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cells
from mistralai.client import Mistral
from mistralai.client.errors import MistralError


def call(url: str, key: str, cell: str) -> cells.Seen:
    client = Mistral(api_key=key, server_url=url)
    if cell in ROUTES:
        return {"content": ROUTES[cell](client)}
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


def fim_stream(client: Mistral) -> str:
    with client.fim.stream(model="codestral-latest", prompt=cells.CODE, max_tokens=cells.MAX_TOKENS) as stream:
        return "".join(choice.delta.content or "" for event in stream for choice in event.data.choices)


def fim(client: Mistral) -> str:
    answer = client.fim.complete(model="codestral-latest", prompt=cells.CODE, max_tokens=cells.MAX_TOKENS)
    return answer.choices[0].message.content


def ocr(client: Mistral) -> list[str]:
    document = {"type": "document_url", "document_url": cells.DOCUMENT}
    return [
        page.markdown for page in client.ocr.process(model="mistral-ocr-latest", document=document, pages=[0]).pages
    ]


def transcription(client: Mistral) -> str:
    file = {"file_name": "memo.wav", "content": cells.AUDIO}
    return client.audio.transcriptions.complete(model="voxtral-mini-latest", file=file).text


def embeddings(client: Mistral) -> list[int]:
    answer = client.embeddings.create(model="mistral-embed", inputs=cells.TEXTS)
    return [len(each.embedding) for each in answer.data]


# What the other routes give.
ROUTES: dict[str, Callable[[Mistral], Any]] = {
    "models": lambda client: [model.id for model in client.models.list().data],
    "model": lambda client: client.models.retrieve(model_id=cells.model("model")).id,
    "fim": fim,
    "fim-stream": fim_stream,
    "embeddings": embeddings,
    "moderations": lambda client: len(
        client.classifiers.moderate(model="mistral-moderation-latest", inputs=cells.TEXTS).results
    ),
    "ocr": ocr,
    "transcription": transcription,
}


if __name__ == "__main__":
    cells.run(
        call,
        errors=(MistralError,),
        describe=lambda error: {"status": error.status_code, "code": cells.code_in(error.body)},
    )
