"""The HTTP connections of the web processes: uvicorn's, with bounds for those that never come to a request.

uvicorn has no bound for a header section, and waits without an end for what is left of one, or of a body that nobody
reads any more, and for clients that do not take their answer.
"""

from __future__ import annotations

import asyncio
import struct
import termios
from fcntl import ioctl
from typing import Any

import httptools
import orjson
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llm.gateway import errors
from llm.gateway.errors import GatewayError

# How long what is left of a refused request is taken, and thrown away: a connection that is closed before loses the
# answer on its way.
LINGER_S = 2.0
MOST_HEADERS = 200
# Of a header section at a time, between which its bounds are looked at.
PIECE_BYTES = 4 * 1024
# Requests that may wait behind the one that is answered while the connection is still read, and its end seen.
MOST_WAITING = 8
# And at all: what one read holds is parsed in one go.
MOST_AT_ONCE = 64
# Header fields by which a client asks for another protocol.
OF_AN_UPGRADE = (b"connection", b"upgrade", b"http2-settings")
# A stream's own patience comes first, which knows why it ends.
AFTER_STREAMS_S = 5
# What a client takes at least of an answer that is large: a slower one holds its memory for hours.
LEAST_BYTES_PER_S = 16 * 1024


class _Parser(httptools.HttpRequestParser):
    """Goes on with a request that asks for another protocol as if it did not: none is spoken here, and what comes
    behind its head is its body all the same (RFC 9110, 7.8). httptools takes it for bytes of that protocol."""

    def __init__(self, connection: GuardedConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    def feed_data(self, data: Any) -> None:
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._connection.begins_anew(data[upgrade.args[0] :]):
                raise


class TooManyAtOnce(Exception):
    """More requests come on a connection than any client sends before it has read an answer."""


class GuardedConnection(HttpToolsProtocol):
    """One connection. Its requests' header sections come within bytes and seconds, or it ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser: httptools.HttpRequestParser = _Parser(self)
        self._is_in_head = True
        # The request asks for another protocol.
        self._is_leaving = False
        self._head_bytes = 0
        # Bytes of a body's frame since any of the body: sizes of chunks, and what may follow them.
        self._frame_bytes = 0
        # A request's body is not whole yet, also where it is answered already.
        self._is_in_body = False
        self._unread: asyncio.TimerHandle | None = None
        # Requests that are not answered yet: uvicorn tells the last one alone that its client has gone.
        self._unanswered: list[RequestResponseCycle] = []
        self._is_over = False
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        for timer in (self._late, self._stalled, self._unread):
            if timer is not None:
                timer.cancel()
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
        # What refers to each other in a circle stays, with what a client sent, until Python's collector comes by.
        self.cycle = None  # type: ignore[assignment]
        self._unanswered.clear()
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        most = settings.MAX_HEADER_BYTES
        while self._is_in_head and data and not self._is_over:
            if self._head_bytes >= most or len(self.headers or ()) > MOST_HEADERS:
                self._refuse(errors.headers_too_large(most, MOST_HEADERS))
                return
            taken_bytes = min(most - self._head_bytes, PIECE_BYTES)
            piece, data = data[:taken_bytes], data[taken_bytes:]
            self._head_bytes += len(piece)
            super().data_received(piece)
        if self._is_over or not data:
            return
        self._frame_bytes += len(data)
        super().data_received(data)
        if self._frame_bytes > most + len(data):
            # No part of a body for so long: a chunk's size or a trailer without an end.
            self._refuse(errors.headers_too_large(most, MOST_HEADERS))

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MOST_AT_ONCE:
            # Ends the parsing, and with it the connection.
            raise TooManyAtOnce
        super().on_message_begin()
        if not self._is_in_head:
            self._expect_head()
            self._head_bytes = 1

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows a chunked body is nobody's header.
        if self._is_in_head:
            super().on_header(name, value)

    def begins_anew(self, rest: bytes) -> bool:
        """Parse a request once more, without its wish for another protocol; False where that is all there is to it."""
        if not self._is_leaving:
            return False
        self._is_leaving = False
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        ends = any(name == b"connection" and b"close" in value.lower() for name, value in self.headers)
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in OF_AN_UPGRADE]
        lines += [b"connection: close"] * ends
        self.parser = _Parser(self)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]) + rest)
        return True

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._is_leaving = True
            return
        self._is_in_head, self._is_in_body, self._frame_bytes = False, True, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()
        self.cycle.transport = _Lingering(self)  # type: ignore[assignment]
        self._unanswered = [*(each for each in self._unanswered if not each.response_complete), self.cycle]
        if 0 < len(self.pipeline) <= MOST_WAITING:
            # uvicorn reads no further, and would not see that the client of the first has gone.
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._frame_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_leaving:
            return
        self._is_in_body = False
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_in_body and not self._is_over:
            # Of most refused requests the rest is on its way already, and the next one comes behind it.
            self._unread = self.loop.call_later(LINGER_S, self._close)

    def timeout_keep_alive_handler(self) -> None:
        self.finish()

    def finish(self) -> None:
        """End the connection once its answer is on its way; what is left of the request is thrown away."""
        if self._is_over:
            return
        if self._is_in_body:
            self._discard()
        else:
            self._close()

    def _expect_head(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        if self._late is None:
            self._late = self.loop.call_later(settings.HEADER_TIMEOUT_S, self._is_late)

    def _is_late(self) -> None:
        self._late = None
        if self._is_over:
            return
        if self._is_answering:
            # The next request's may wait for the end of this one's answer.
            self._late = self.loop.call_later(settings.HEADER_TIMEOUT_S, self._is_late)
        elif self._head_bytes:
            self._refuse(errors.headers_too_slow())
        else:
            self._close()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: GatewayError) -> None:
        """Answer where there is no request yet that an application could; within one, just end."""
        if not self._is_answering:
            body = orjson.dumps(error.body())
            head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            self._discard()
        else:
            self.transport.abort()

    def _discard(self) -> None:
        self._is_over = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self._close)

    def _close(self) -> None:
        self.transport.close()
        if self.transport.get_write_buffer_size() and self._stalled is None:
            self._look_at_client(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_client(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        # What is left when the connection is to end is looked at to its end.
        if self._stalled is not None and not self.transport.is_closing():
            self._stalled.cancel()
            self._stalled = None

    def _look_at_client(self, waited_bytes: int | None) -> None:
        """End the connection of a client that has taken nothing since the last look, or too little of a lot."""
        after_s = settings.CLIENT_WRITE_TIMEOUT_S + AFTER_STREAMS_S
        waits_bytes = self.transport.get_write_buffer_size() + _unacknowledged_bytes(self.transport)
        if waited_bytes is not None:
            taken_bytes = waited_bytes - waits_bytes
            if taken_bytes <= 0 or taken_bytes < LEAST_BYTES_PER_S * after_s < waits_bytes:
                self.transport.abort()
                return
        self._stalled = self.loop.call_later(after_s, self._look_at_client, waits_bytes)


def _unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Of what was sent, what the kernel still keeps: megabytes, a third of which is free before it takes more.

    Zero where no kernel tells.
    """
    try:
        found = ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError, AttributeError):
        return 0
    return int(struct.unpack("i", found)[0])


class _Lingering:
    """A transport that closes as its connection says."""

    def __init__(self, connection: GuardedConnection) -> None:
        self._connection = connection

    def close(self) -> None:
        self._connection.finish()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)
