"""LlamaIndex with the callback of clients/python, on a model that answers by itself. Lines as in `cells`; each prints
what the call showed."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.generic_utils import chat_to_completion_decorator
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

sys.path.insert(0, str(Path(__file__).parents[3] / "clients" / "python" / "src"))
from spend_governor_client import Governor
from spend_governor_client.llama_index import GovernorCallback

USAGE = {"prompt_tokens": 870, "completion_tokens": 210, "prompt_tokens_details": {"cached_tokens": 70}}
QUESTION = [ChatMessage(role="user", content="Say hello.")]


class Answering(LLM):
    """Answers, or fails, without a provider; completes by a chat, as integrations do."""

    model: str = "mistral-large-latest"
    max_tokens: int | None = 500
    fails: bool = False
    says: str = "raw"
    calls: int = 0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, num_output=self.max_tokens or -1)

    def _answer(self) -> ChatResponse:
        self.calls += 1
        if self.fails:
            raise ConnectionError("the provider is away")
        message = ChatMessage(role="assistant", content="Hello.")
        if self.says == "beside":
            return ChatResponse(message=message, additional_kwargs={"prompt_tokens": 11, "completion_tokens": 7})
        return ChatResponse(message=message, raw={"usage": USAGE} if self.says == "raw" else None)

    @llm_chat_callback()
    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answer()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_to_completion_decorator(self.chat)(prompt, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        def chunks() -> Any:
            yield ChatResponse(message=ChatMessage(role="assistant", content="Hel"), delta="Hel")
            yield self._answer()

        return chunks()

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answer()

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def call(url: str, key: str, cell: str) -> dict[str, Any]:
    kind, _, how = cell.partition("-")
    with Governor(url, key) as governor:
        callback = GovernorCallback(governor, task=cell, max_tokens=300)
        model = Answering(
            callback_manager=CallbackManager([callback]),
            fails="fails" in how,
            says="nothing" if "no-usage" in how else "beside" if "beside" in how else "raw",
            max_tokens=None if "no-bound" in how else 500,
        )
        try:
            text = asked(kind, model, stops="stopped" in how)
        except Exception as error:
            return {"error": type(error).__name__, "code": getattr(error, "code", None), "calls": model.calls}
        return {"content": text, "calls": model.calls}


def asked(kind: str, model: Answering, *, stops: bool) -> str:
    if kind == "complete":
        return model.complete("Say hello.").text
    if kind == "stream":
        chunks, text = model.stream_chat(QUESTION), ""
        for chunk in chunks:
            text = chunk.message.content or ""
            if stops:
                chunks.close()
                break
        return text
    if kind == "async":
        return asyncio.run(model.achat(QUESTION)).message.content or ""
    if kind == "two":
        return "".join(model.chat(QUESTION).message.content or "" for _ in range(2))
    return model.chat(QUESTION).message.content or ""


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(call(*line.split())), flush=True)
