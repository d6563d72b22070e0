"""LangChain with the callback of clients/python, on a model that answers by itself. Lines as in `cells`; each prints
what the chain showed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

sys.path.insert(0, str(Path(__file__).parents[3] / "clients" / "python" / "src"))
from spend_governor_client import AsyncGovernor, Governor
from spend_governor_client.langchain import AsyncGovernorCallback, GovernorCallback

USAGE: Any = {
    "input_tokens": 870,
    "output_tokens": 210,
    "total_tokens": 1_080,
    "input_token_details": {"cache_read": 70},
}


class Answering(BaseChatModel):
    """Answers, or fails, without a provider. It counts how often it was called."""

    model: str = "mistral-large-latest"
    max_tokens: int | None = 500
    fails: bool = False
    has_usage: bool = True
    by_provider: bool = False
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "answering"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": self.max_tokens}

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> ChatResult:
        self.calls += 1
        if self.fails:
            raise ConnectionError("the provider is away")
        message = AIMessage("Hello.", usage_metadata=USAGE if self.has_usage else None)
        told = {"token_usage": {"prompt_tokens": 11, "completion_tokens": 7}} if self.by_provider else {}
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=told)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self.calls += 1
        for text in ("Hel", "lo."):
            chunk = ChatGenerationChunk(message=AIMessageChunk(text))
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
            if self.fails:
                raise ConnectionError("the provider went away")
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=USAGE if self.has_usage else None))


class Completing(LLM):
    """One of the older kind, which says neither its name nor what it used."""

    @property
    def _llm_type(self) -> str:
        return "completing"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return "Hello."


def call(url: str, key: str, cell: str) -> dict[str, Any]:
    kind, _, how = cell.partition("-")
    model = Answering(
        fails="fails" in how,
        has_usage="no-usage" not in how,
        by_provider="by-provider" in how,
        max_tokens=None if "no-bound" in how else 500,
        model="mistral-unheard-of" if "unpriced" in how else "mistral-large-latest",
    )
    text = ""
    try:
        if kind.startswith("async"):
            text = asyncio.run(in_a_loop(url, key, kind, model))
        else:
            with Governor(url, key) as governor:
                callback = GovernorCallback(governor, task=cell, max_tokens=300, model="mistral-small-latest")
                text = plainly(kind, model, {"callbacks": [callback]}, "stopped" in how)
    except Exception as error:
        return {"error": type(error).__name__, "code": getattr(error, "code", None), "calls": model.calls}
    return {"content": text, "calls": model.calls}


def plainly(kind: str, model: Answering, config: Any, stops: bool) -> str:
    if kind == "completion":
        return Completing().invoke("Say hello.", config=config)
    if kind == "invoke":
        return model.invoke("Say hello.", config=config).text
    text = ""
    for chunk in (chunks := model.stream("Say hello.", config=config)):
        text += chunk.text
        if stops:
            chunks.close()  # type: ignore[attr-defined]
            break
    return text


async def in_a_loop(url: str, key: str, kind: str, model: Answering) -> str:
    if kind == "async_plain":
        # The plain callback where all else is asynchronous.
        with Governor(url, key) as governor:
            config: Any = {"callbacks": [GovernorCallback(governor, task="async")]}
            return (await model.ainvoke("Say hello.", config=config)).text
    async with AsyncGovernor(url, key) as governor:
        config = {"callbacks": [AsyncGovernorCallback(governor, task="async")]}
        if kind == "async_stream":
            return "".join([chunk.text async for chunk in model.astream("Say hello.", config=config)])
        return (await model.ainvoke("Say hello.", config=config)).text


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(call(*line.split())), flush=True)
