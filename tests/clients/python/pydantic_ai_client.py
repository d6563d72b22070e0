"""pydantic-ai with its Mistral model."""

from __future__ import annotations

import asyncio
from typing import Any

import cells
import httpx2
from mistralai.client import Mistral
from pydantic import BaseModel
from pydantic_ai import Agent, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.mistral import MistralModel
from pydantic_ai.providers.mistral import MistralProvider


class Invoice(BaseModel):
    number: int


def call(url: str, key: str, cell: str) -> cells.Seen:
    return asyncio.run(answer(url, key, cell))


async def answer(url: str, key: str, cell: str) -> cells.Seen:
    provider = MistralProvider(api_key=key, base_url=url)
    if cell == "422":
        http = httpx2.AsyncClient(headers={"idempotency-key": cells.IDEMPOTENCY_KEY})
        provider = MistralProvider(mistral_client=Mistral(api_key=key, server_url=url, async_client=http))
    # An answer of a given shape is asked for as a tool that has to be called.
    shape: Any = ToolOutput(Invoice, name="match_invoice") if cell.startswith("tools") else str
    agent = Agent(
        MistralModel(cells.model(cell), provider=provider),
        output_type=shape,
        model_settings={"max_tokens": cells.MAX_TOKENS},
    )
    question = cells.QUESTION
    if cell == "422":
        await agent.run(question)
        question = cells.OTHER_MESSAGES[0]["content"]
    if cells.streams(cell):
        async with agent.run_stream(question) as run:
            async for _ in run.stream_output():
                pass
            return shown(run.response)
    result = await agent.run(question)
    return shown(result.response)


def shown(response: ModelResponse) -> cells.Seen:
    tool = next((part for part in response.parts if isinstance(part, ToolCallPart)), None)
    return {
        "content": response.text or "",
        "finish_reason": response.finish_reason,
        "tool": cells.called(tool.tool_name, tool.args) if tool else None,
    }


if __name__ == "__main__":
    cells.run(
        call,
        errors=(ModelHTTPError,),
        describe=lambda error: {"status": error.status_code, "code": error.provider_error_code},
    )
