"""`python -m benchmarks.writers PORT`: a model's API whose answers are streams of log-normal length.

It knows what the gateway must find out: how long each answer will be. `GET /truth` tells what its answers have cost
so far, and what those under way will come to, in tokens; so a run can say whether a refusal was needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvloop

MODEL = "mistral-small-2603"
PROMPT_BYTES_A_TOKEN = 4
# Pieces of one token each, of one to eleven bytes.
PIECES = (
    " a",
    " of",
    " the",
    ",",
    " due",
    " paid",
    " bill",
    " total",
    " amount",
    " invoice",
    " customer",
    " overdraft",
)


@dataclass
class Truth:
    """Tokens that were paid for (input, output), and those that the running answers will have in the end."""

    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    cut: int = 0
    running: dict[int, tuple[int, int]] = field(default_factory=dict)

    def as_json(self) -> bytes:
        planned = list(self.running.values())
        return json.dumps(
            {
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "calls": self.calls,
                "cut": self.cut,
                "running": len(planned),
                "running_input_tokens": sum(input_tokens for input_tokens, _ in planned),
                "running_output_tokens": sum(output_tokens for _, output_tokens in planned),
            }
        ).encode()


class Writers:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._random = random.Random(options.seed)
        self._truth = Truth()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = _length(head)
                body = await reader.readexactly(length)
                if head.startswith(b"GET"):
                    truth = self._truth.as_json()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(truth), truth))
                else:
                    await self._answer(json.loads(body), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, request: dict[str, object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        input_tokens = max(1, len(json.dumps(request["messages"])) // PROMPT_BYTES_A_TOKEN)
        wanted = int(self._random.lognormvariate(self._options.mu, self._options.sigma)) + 1
        limit = request.get("max_tokens")
        tokens = min(wanted, limit) if isinstance(limit, int) else wanted
        number = self._truth.calls = self._truth.calls + 1
        self._truth.running[number] = input_tokens, tokens
        written = 0
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event, so_far in self._events(input_tokens, tokens, cut=tokens < wanted):
                # A client that has gone is noticed with the next token, as at a real server.
                if writer.is_closing() or reader.at_eof():
                    self._truth.cut += 1
                    raise ConnectionResetError
                written = so_far
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await asyncio.sleep(self._options.pace)
            writer.write(b"0\r\n\r\n")
        finally:
            self._truth.input_tokens += input_tokens
            self._truth.output_tokens += written
            del self._truth.running[number]

    def _events(self, input_tokens: int, tokens: int, *, cut: bool) -> Iterator[tuple[bytes, int]]:
        """Events, and how many tokens were written with each."""
        written = 0
        while written < tokens:
            count = min(self._options.chunk, tokens - written)
            written += count
            yield _event("".join(self._random.choices(PIECES, k=count))), written
        usage = {"prompt_tokens": input_tokens, "completion_tokens": tokens, "total_tokens": input_tokens + tokens}
        yield _event("", finish="length" if cut else "stop", usage=usage) + b"data: [DONE]\n\n", written


def _length(head: bytes) -> int:
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)


def _event(text: str, *, finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(chunk | ({"usage": usage} if usage else {})).encode() + b"\n\n"


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writers", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--mu", type=float, default=5.3, help="of ln(tokens): e^5.3 is a median of 200 (default: 5.3)")
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--chunk", type=int, default=8, help="tokens an event (default: 8)")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between events (default: 0.1)")
    parser.add_argument("--seed", type=int, default=1)
    server = await asyncio.start_server(Writers(parser.parse_args()).serve, "127.0.0.1", parser.parse_args().port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
