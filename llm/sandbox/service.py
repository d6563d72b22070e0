"""A simulated Mistral that speaks the real wire format: for the demo, the tests and the benchmark.

`Sandbox().app` is a bare ASGI application. It misbehaves on demand: `x-sandbox: status=500` on one request, or for
requests to come `POST /control {"do": "missing-usage", "times": 2}` and `{"default": "latency=0.2|pace=0.05"}`. The
directives are the fields of `Behaviour`. `GET /control/requests` tells what arrived, `DELETE` forgets it.
"""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from llm.sandbox import answers, requests, wire
from llm.sandbox.behaviour import Behaviour, ControlError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEPT_REQUESTS = 10_000
TRANSCRIPTIONS, MODELS = "/v1/audio/transcriptions", "/v1/models"
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_GZIP = (b"content-encoding", b"gzip")


@dataclass(slots=True)
class Received:
    """A request that arrived. `closed_early_at` is when the client left before the answer was complete (Unix time)."""

    method: str
    path: str
    headers: dict[str, str]
    has_auth: bool
    raw: bytes = b""
    body: Any = None
    received_at: float = field(default_factory=time.time)
    chunks_sent: int = 0
    finished: bool = False
    closed_early_at: float | None = None

    @property
    def model(self) -> str | None:
        model = self.body.get("model") if isinstance(self.body, dict) else None
        return model if isinstance(model, str) else None

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "model": self.model,
            "body": _printable(self.body),
            "raw": self.raw.decode(errors="replace"),
            "headers": self.headers,
            "has_auth": self.has_auth,
            "received_at": self.received_at,
            "chunks_sent": self.chunks_sent,
            "finished": self.finished,
            "closed_early_at": self.closed_early_at,
        }


def _printable(body: Any) -> Any:
    """A form's files are told of by their size."""
    if not isinstance(body, dict):
        return body
    return {name: f"{len(value)} bytes" if isinstance(value, bytes) else value for name, value in body.items()}


class Sandbox:
    """The simulated service and the record of what it received.

    `api_key`: the one key that is accepted (empty: any, and none at all). `models` are further names to serve as chat
    models. `default` is how requests are answered where nothing else was asked for.
    """

    def __init__(
        self,
        *,
        api_key: str = "",
        latency_s: float = 0.0,
        pace_s: float = 0.0,
        default: str = "",
        models: Iterable[str] = (),
        chunk_tokens: int = 4,
        keep_requests: int = KEPT_REQUESTS,
    ) -> None:
        self.api_key = api_key
        self.chunk_tokens = chunk_tokens
        self._start = Behaviour(latency=latency_s, pace=pace_s).with_directives(default)
        self._cards = wire.cards(models)
        self._ids: dict[str, str] = {
            name: card["id"] for card in self._cards for name in (card["id"], *card["aliases"])
        }
        self._kinds = {card["id"]: card["capabilities"] for card in self._cards}
        self._contexts = {card["id"]: card["max_context_length"] for card in self._cards}
        self.requests: deque[Received] = deque(maxlen=keep_requests)
        self.received = 0
        self._numbers = count(1)
        self.reset()

    def reset(self) -> None:
        """Forget the requests and every behaviour asked for."""
        self.forget()
        self.behave()

    def forget(self) -> None:
        self.requests.clear()
        self.received = 0

    def behave(self, directives: str = "") -> None:
        """From now on answer like this; what was asked for the next requests is forgotten."""
        self._default = self._start.with_directives(directives)
        self._next: deque[str] = deque()

    def next(self, directives: str, *, times: int = 1) -> None:
        """Answer the next `times` requests like this, after those already spoken for."""
        self._default.with_directives(directives)
        self._next.extend([directives] * times)

    @property
    def app(self) -> Sandbox:
        """The ASGI application: the sandbox itself, as servers tell applications by their `__call__`."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        body = await _body(receive)
        path = scope["path"].rstrip("/") or "/"
        if path.startswith("/control"):
            return await self._control(scope["method"], path, body, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        authorization = headers.pop("authorization", "")
        request = Received(scope["method"], path, headers, has_auth=bool(authorization), raw=body)
        if path == "/":
            return await _respond(send, 200, {"service": "simulated Mistral", "received": self.received})
        self.requests.append(request)
        self.received += 1
        await self._answer(request, authorization, receive, send)

    async def _answer(self, request: Received, authorization: str, receive: Receive, send: Send) -> None:
        try:
            behaviour = self._behaviour(request)
            self._admit(request, authorization)
            reply = self._reply(request, behaviour)
        except wire.SimulatedError as refusal:
            await _respond(send, refusal.status, refusal.body, refusal.headers)
            request.finished = True
            return
        if isinstance(reply, bytes):
            await self._send_plain(reply, request, behaviour, receive, send)
        else:
            await self._send_stream(reply, request, behaviour, receive, send)

    def _behaviour(self, request: Received) -> Behaviour:
        directives = self._next.popleft() if self._next and request.method == "POST" else ""
        try:
            return self._default.with_directives(f"{directives}|{request.headers.get('x-sandbox', '')}")
        except ControlError as error:
            raise wire.SimulatedError(400, wire.error(400, str(error))) from error

    def _admit(self, request: Received, authorization: str) -> None:
        if self.api_key and authorization != f"Bearer {self.api_key}":
            raise wire.SimulatedError(401, {"detail": "Unauthorized"})
        takes = "POST" if request.path in _ROUTES else "GET"
        if request.method != takes and (request.path in _ROUTES or request.path.startswith(MODELS)):
            # As FastAPI does, also of HEAD.
            raise wire.SimulatedError(405, {"detail": "Method Not Allowed"}, [(b"allow", takes.encode())])
        if request.method == "GET":
            return
        if request.path == TRANSCRIPTIONS:
            request.body = wire.form(request.headers.get("content-type", ""), request.raw)
            return
        try:
            request.body = orjson.loads(request.raw)
        except orjson.JSONDecodeError as error:
            raise wire.unprocessable(["body", error.pos], "json_invalid", "JSON decode error") from error
        if not isinstance(request.body, dict):
            raise wire.unprocessable(["body"], "model_attributes_type", "Input should be a valid dictionary")

    def _reply(self, request: Received, behaviour: Behaviour) -> bytes | Iterable[bytes]:
        """The whole answer, or the chunks of a stream."""
        if request.method == "GET":
            return self._models(request.path)
        route = _ROUTES.get(request.path)
        if route is None:
            raise wire.SimulatedError(404, {"detail": "Not Found"})
        if behaviour.status and behaviour.status != 200:
            raise wire.failure(behaviour.status)
        return route(self, request.body, behaviour)

    def _models(self, path: str) -> bytes:
        if path == MODELS:
            return orjson.dumps({"object": "list", "data": self._cards})
        model = self._ids.get(path.removeprefix(f"{MODELS}/"))
        card = next((card for card in self._cards if card["id"] == model), None)
        if card is None:
            raise wire.SimulatedError(404, wire.error(404, "No such model or path"))
        return orjson.dumps(card)

    def _served(self, body: Mapping[str, Any], *, capability: str) -> str:
        """The canonical id of the model asked for."""
        model = body["model"]
        served = self._ids.get(model)
        if served is None or not self._kinds[served].get(capability):
            raise wire.SimulatedError(400, wire.error(400, f"Invalid model: {model}", "invalid_model", "1500"))
        return served

    def _chat(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes | Iterable[bytes]:
        requests.check(body, requests.ChatRequest)
        requests.check_sampling(body)
        model = self._served(body, capability="completion_chat")
        requests.check_conversation(body["messages"], body.get("tools") or ())
        requests.check_choice(body.get("tool_choice"), body.get("tools") or ())
        if not self._kinds[model]["vision"]:
            requests.check_pictures(body["messages"])
        if behaviour.blocked and body.get("guardrails"):
            raise wire.blocked(body["guardrails"])
        return self._complete(model, body, behaviour)

    def _fim(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes | Iterable[bytes]:
        requests.check(body, requests.FimRequest)
        requests.check_sampling(body)
        return self._complete(self._served(body, capability="completion_fim"), body, behaviour)

    def _complete(self, model: str, body: Mapping[str, Any], behaviour: Behaviour) -> bytes | Iterable[bytes]:
        answer = answers.answer(body, output_tokens=behaviour.output, chunk_tokens=self.chunk_tokens)
        n = body.get("n") or 1
        prompt = answers.prompt_tokens(body)
        requests.check_length(prompt, context_tokens=self._contexts[model])
        used = _used(behaviour, answers.usage(prompt, answer.tokens * n, cached=behaviour.cached))
        head = {"id": f"{next(self._numbers):032x}", "created": int(time.time()), "model": model}
        if body.get("stream"):
            return wire.chunks({**head, "object": "chat.completion.chunk"}, answer, used, n)
        choices = [{"index": i, "finish_reason": answer.finish_reason, "message": answer.message} for i in range(n)]
        return orjson.dumps({**head, **used, "object": "chat.completion", "choices": choices})

    def _embed(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes:
        requests.check(body, requests.EmbeddingRequest)
        model = self._served(body, capability="embedding")
        texts = answers.texts(body.get("input"))
        tokens = sum(-(-len(text.encode()) // 4) + 2 for text in texts)
        requests.check_batch(texts, tokens)
        size, encoding = body.get("output_dimension"), body.get("encoding_format")
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": answers.embedding(text, encoding=encoding, size=size),
            }
            for i, text in enumerate(texts)
        ]
        head = {"id": f"{next(self._numbers):032x}", "object": "list", "model": model}
        return orjson.dumps({**head, "data": data, **_used(behaviour, answers.usage(tokens, 0))})

    def _moderate(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes:
        requests.check_inputs(body.get("input"))
        requests.check(body, requests.ModerationRequest)
        return self._judge(body, behaviour)

    def _moderate_chat(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes:
        requests.check_inputs(body.get("input"))
        requests.check(body, requests.ChatModerationRequest)
        return self._judge(body, behaviour)

    def _judge(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes:
        model = self._served(body, capability="moderation")
        names = ("sexual", "hate_and_discrimination", "violence_and_threats", "pii")
        result = {"categories": dict.fromkeys(names, False), "category_scores": dict.fromkeys(names, 0.001)}
        texts = answers.texts(body.get("input"))
        usage = answers.usage(sum(len(text) // 4 + 2 for text in texts), 0)
        head = {"id": f"{next(self._numbers):032x}", "model": model, "results": [result for _ in texts]}
        return orjson.dumps({**head, **_used(behaviour, usage)})

    def _ocr(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes:
        requests.check(body, requests.OcrRequest)
        model = self._served(body, capability="ocr")
        listed = body.get("pages")
        document = body.get("document")
        single = isinstance(document, dict) and document.get("type") == "image_url"
        pages = listed if isinstance(listed, list) and listed else [0] if single else [0, 1]
        dimensions = {"dpi": 200, "height": 2200, "width": 1700}
        read: list[dict[str, Any]] = [
            {"index": page, "markdown": f"# Page {page}", "images": [], "dimensions": dimensions} for page in pages
        ]
        used = _used(behaviour, {"pages_processed": len(pages), "doc_size_bytes": 1_000}, name="usage_info")
        return orjson.dumps({"model": model, "pages": read, **used, "document_annotation": None})

    def _transcribe(self, body: Mapping[str, Any], behaviour: Behaviour) -> bytes:
        if not body.get("model"):
            raise wire.unprocessable(["body", "model"], "missing", "Field required")
        model = self._served(body, capability="audio_transcription")
        if not any(body.get(name) for name in ("file", "file_url", "file_id")):
            raise wire.unprocessable(["body", "file"], "missing", "Field required")
        seconds = answers.audio_seconds(body.get("file") or b"")
        text = "".join(answers.prose(min(3 * seconds, 500), chunk_tokens=500)).strip()
        usage = {**answers.usage(4, 3 * seconds), "prompt_audio_seconds": seconds}
        said: dict[str, Any] = {"model": model, "text": text, "language": None, "segments": []}
        return orjson.dumps({**said, **_used(behaviour, usage)})

    async def _send_plain(
        self, body: bytes, request: Received, behaviour: Behaviour, receive: Receive, send: Send
    ) -> None:
        if behaviour.latency and not await self._pause(behaviour.latency, request, receive):
            return
        if behaviour.garbage:
            body = b"<html>this is no JSON</html>"
        headers = [_JSON]
        if behaviour.gzip:
            body, headers = gzip.compress(body), [_JSON, _GZIP]
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"content-length", length)]})
        if behaviour.cut_stream:
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            return
        await send({"type": "http.response.body", "body": body})
        request.finished = True

    async def _send_stream(
        self, chunks: Iterable[bytes], request: Received, behaviour: Behaviour, receive: Receive, send: Send
    ) -> None:
        """Chunks at their pace, until the client leaves. A cut stream ends without its last bytes."""
        left = asyncio.ensure_future(_until_left(receive))
        try:
            await self._wait(behaviour.latency, left)
            headers = [_EVENTS, _GZIP] if behaviour.gzip else [_EVENTS]
            packer = zlib.compressobj(wbits=31) if behaviour.gzip else None
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for number, chunk in enumerate(chunks):
                if number:
                    await self._wait(behaviour.pace, left)
                if left.done():
                    request.closed_early_at = time.time()
                    return
                if behaviour.cut_stream and number >= behaviour.cut_stream:
                    return
                data = b"data: {no JSON\n\n" if behaviour.garbage else chunk
                if packer is not None:
                    data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
                await send({"type": "http.response.body", "body": data, "more_body": True})
                request.chunks_sent += 1
            await send({"type": "http.response.body", "body": packer.flush() if packer else b""})
            request.finished = True
        finally:
            left.cancel()

    async def _pause(self, seconds: float, request: Received, receive: Receive) -> bool:
        """Wait, and tell whether the client is still there."""
        left = asyncio.ensure_future(_until_left(receive))
        await self._wait(seconds, left)
        if left.done():
            request.closed_early_at = time.time()
        left.cancel()
        return request.closed_early_at is None

    async def _wait(self, seconds: float, left: asyncio.Future[None]) -> None:
        if seconds > 0:
            await asyncio.wait({left}, timeout=seconds)
        else:
            await asyncio.sleep(0)

    async def _control(self, method: str, path: str, body: bytes, send: Send) -> None:
        try:
            if path == "/control/requests":
                if method == "DELETE":
                    self.forget()
                requests = [request.as_json() for request in self.requests]
                return await _respond(send, 200, {"count": self.received, "requests": requests})
            if method == "DELETE":
                self.reset()
            elif method == "POST":
                self._obey(orjson.loads(body))
            state = {
                "next": list(self._next),
                "default": {name: getattr(self._default, name) for name in Behaviour.__slots__},
            }
            await _respond(send, 200, state)
        except (ControlError, orjson.JSONDecodeError) as error:
            await _respond(send, 400, wire.error(400, str(error)))

    def _obey(self, order: Any) -> None:
        """`{"do" or "fail": directives, "times": 1}` for requests to come, `{"default": directives}` for all."""
        if not isinstance(order, dict) or not order.keys() <= {"do", "fail", "times", "default"}:
            raise ControlError('use {"do": "status=500", "times": 1} or {"default": "latency=0.2"}')
        if "default" in order:
            self.behave(str(order["default"] or ""))
        times = order.get("times", 1)
        if not isinstance(times, int) or times < 1:
            raise ControlError("times must be a whole number from 1 on")
        for name in ("do", "fail"):
            if name in order:
                self.next(str(order[name]), times=times)


Route = Callable[[Sandbox, Mapping[str, Any], Behaviour], bytes | Iterable[bytes]]
_ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Sandbox._chat,
    "/v1/fim/completions": Sandbox._fim,
    "/v1/embeddings": Sandbox._embed,
    "/v1/moderations": Sandbox._moderate,
    "/v1/chat/moderations": Sandbox._moderate_chat,
    "/v1/ocr": Sandbox._ocr,
    TRANSCRIPTIONS: Sandbox._transcribe,
}


def _used(behaviour: Behaviour, usage: Mapping[str, Any], *, name: str = "usage") -> dict[str, Any]:
    """The answer's block of usage, as it was asked for."""
    if behaviour.missing_usage:
        return {}
    return {
        name: {key: 0 if isinstance(value, int) else value for key, value in usage.items()}
        if behaviour.zero_usage
        else usage
    }


async def _respond(send: Send, status: int, body: Mapping[str, Any], headers: wire.Headers | None = None) -> None:
    data = orjson.dumps(body)
    length = (b"content-length", str(len(data)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *(headers or [])]})
    await send({"type": "http.response.body", "body": data})


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
