"""One call of the storm: what was sent, how its client behaved, and what it saw of the answer."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Call:
    """Times in seconds since 1970. `whole`: the client read the answer to its end. `overdue`: it gave up waiting for an
    answer that should have come. `status` is None where no head came."""

    number: int
    tenant: str
    client: str
    lie: str
    answer: str
    stream: bool
    key: str
    once: str
    headers: dict[str, str]
    body: bytes
    began_at: float = 0.0
    ended_at: float = 0.0
    status: int | None = None
    request_id: str = ""
    code: str = ""
    stopped: str = ""
    whole: bool = False
    replayed: bool = False
    overdue: bool = False
    broken: str = ""
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def surely_streams(self) -> bool:
        """Whether it asks for a stream; of one that asks oddly the product may answer either way."""
        return self.stream and self.lie not in ("two streams", "odd stream")

    @property
    def label(self) -> str:
        return f"call-{self.number}"

    def described(self) -> str:
        odd = f", {self.lie}" if self.lie else ""
        return f"{self.answer} / {self.client}{odd}, {'streamed' if self.stream else 'plain'}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"body": self.body[:400].decode("utf-8", "replace"), "key": "", "headers": {}}


def read_answer(call: Call, raw: bytes, *, closed: bool) -> None:
    """Note what a client has seen of its answer. `closed`: nothing more will come."""
    head, parted, body = raw.partition(b"\r\n\r\n")
    if not parted:
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    call.status = int(first.split()[1])
    call.request_id = headers.get("x-request-id", "")
    call.replayed = headers.get("x-idempotent-replay") == "true"
    ended = closed
    if headers.get("transfer-encoding") == "chunked":
        body, ended = dechunked(body)
    elif "content-length" in headers:
        ended = len(body) >= int(headers["content-length"])
    call.stopped = _stopped(body)
    if call.status == 200:
        is_stream = headers.get("content-type", "").startswith("text/event-stream")
        call.whole = ended and (not is_stream or b"[DONE]" in body[-40:])
    else:
        call.whole = ended
        call.code = _code(body)


def dechunked(body: bytes) -> tuple[bytes, bool]:
    """What has come of a chunked body, and whether its end has."""
    parts: list[bytes] = []
    at = 0
    while (line_end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line_end] or b"0", 16)
        if size == 0:
            return b"".join(parts), True
        parts.append(body[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2
    return b"".join(parts), False


def _stopped(body: bytes) -> str:
    at = body.rfind(b'"governor":{"stopped":"')
    return body[at:].split(b'"')[5].decode() if at >= 0 else ""


def _code(body: bytes) -> str:
    """An error's code, also where only a part of the body was read; "" where it has none."""
    found = re.search(rb'"code": ?"([a-z_]+)"', body)
    return found[1].decode() if found else ""
