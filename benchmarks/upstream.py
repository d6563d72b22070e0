"""`python -m benchmarks.upstream PORT`: answers every request with one fixed completion, as cheaply as Python can.

It stands for a model's API where the simulated one, which reads and writes real requests, would take too much of the
machine that is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

COMPLETION = {
    "id": "cmpl-benchmark",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "mistral-small-latest",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "The invoice is paid. " * 5, "tool_calls": None},
        }
    ],
    "usage": {"prompt_tokens": 40, "completion_tokens": 30, "total_tokens": 70},
}
BODY = json.dumps(COMPLETION).encode()
ANSWER = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)) + BODY


class Upstream(asyncio.Protocol):
    """Reads heads and bodies by their length alone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.read = b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        while (end := self.read.find(b"\r\n\r\n")) >= 0:
            head = self.read[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.read) < end + 4 + length:
                return
            self.read = self.read[end + 4 + length :]
            self.transport.write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
