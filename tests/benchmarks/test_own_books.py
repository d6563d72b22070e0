"""The upstream with its own books counts what it generates, whoever reads, and sends what it is told to the byte."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from benchmarks import servers
from benchmarks.answers import Answer, Used, token_texts, usage_blocks
from benchmarks.books import Request, prompt_tokens
from benchmarks.own_books import BookedUpstream
from tests.product import eventually

HI = [{"role": "user", "content": "Hi"}]
# "Hi", the template's marks of one message, and of the request.
HI_TOKENS = 2 + 4 + 8
INPUT, OUTPUT = 150, 600


def request_of(payload: bytes | dict[str, Any], head: str = "") -> bytes:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    start = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n"
    return start.encode() + body


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "mistral-small-latest", "messages": HI, "max_tokens": 100, **fields}


class Peer:
    """A bare socket."""

    def __init__(self, upstream: BookedUpstream, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", upstream.port))

    def send(self, payload: bytes | dict[str, Any], head: str = "") -> None:
        self.socket.sendall(request_of(payload, head))

    def read_all(self) -> bytes:
        read = b""
        while data := self.socket.recv(65536):
            read += data
        return read


@pytest.fixture
def peer(booked: BookedUpstream) -> Iterator[Peer]:
    made = Peer(booked)
    yield made
    made.socket.close()


def post(upstream: BookedUpstream, payload: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{upstream.base_url}/v1/chat/completions", json=payload)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_a_plain_answer_is_counted_as_it_says(booked: BookedUpstream) -> None:
    answer = post(booked, chat(user="ann")).json()
    assert answer["usage"] == {"prompt_tokens": HI_TOKENS, "completion_tokens": 20, "total_tokens": HI_TOKENS + 20}
    assert len(answer["choices"][0]["message"]["content"]) == 20
    [entry] = booked.books.entries
    assert (entry.prompt_tokens, entry.output_tokens, entry.aborted) == (HI_TOKENS, 20, False)
    assert booked.books.spent_nanos == entry.cost_nanos == HI_TOKENS * INPUT + 20 * OUTPUT
    assert booked.books.spent_by_key() == {"ann": entry.cost_nanos}


def test_a_stream_is_counted_as_it_says_and_its_text_is_all_there(booked: BookedUpstream) -> None:
    booked.next(Answer(tokens=50, event_tokens=4))
    chunks = events(post(booked, chat(stream=True)))
    assert sum(len(chunk["choices"][0]["delta"].get("content", "")) for chunk in chunks) == 50
    assert chunks[-1]["usage"]["completion_tokens"] == booked.books.entries[0].output_tokens == 50


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7.0}, 7),
        ({"max_tokens": "7"}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": True}, 20),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "best_of": 2}, 14),
    ],
)
def test_it_obeys_whatever_asks_for_most(booked: BookedUpstream, fields: dict[str, Any], tokens: int) -> None:
    post(booked, chat(**fields))
    assert booked.books.output_tokens == tokens


def test_it_may_disobey(booked: BookedUpstream) -> None:
    booked.next(Answer(obeys_max_tokens=False))
    assert post(booked, chat(max_tokens=1)).json()["usage"]["completion_tokens"] == booked.books.output_tokens == 20


def test_of_equal_keys_the_first_counts_whatever_its_letters_case(booked: BookedUpstream, peer: Peer) -> None:
    booked.next(Answer(tokens=None))
    peer.send(b'{"MAX_TOKENS":900,"max_tokens":5,"model":"mistral-large-x","model":"mistral-small","messages":[]}')
    assert eventually(lambda: booked.books.output_tokens == 900)
    assert booked.books.entries[0].rates == (500_000, 50_000, 1_500_000)


def test_every_text_of_the_prompt_is_a_token_a_byte() -> None:
    def counted(payload: dict[str, Any], counts: str = "texts") -> int:
        return prompt_tokens(Request("POST", "/", {}, json.dumps(payload).encode()), counts)

    assert counted(chat()) == HI_TOKENS
    said = {"role": "assistant", "content": "é", "reasoning_content": "x" * 50_000}
    assert counted(chat(messages=[said])) == 8 + 4 + 2 + 50_000
    tools = [{"type": "function"}]
    assert counted(chat(tools=tools)) == HI_TOKENS + len('[{"type":"function"}]')
    assert counted(chat(plugins="abc")) == HI_TOKENS + len('"abc"')
    assert counted(chat(), "raw") == len(json.dumps(chat()))
    assert counted(chat(), "quarter") == len(json.dumps(chat())) // 4


def test_it_generates_on_while_nobody_reads(booked: BookedUpstream) -> None:
    booked.next(Answer(tokens=4_000, logprobs=True))
    peer = Peer(booked, receive_bytes=4096)
    peer.send(chat(stream=True, max_tokens=4_000))
    assert eventually(lambda: booked.books.output_tokens == 4_000)
    assert not booked.books.entries[0].aborted
    peer.socket.close()


def test_it_stops_when_its_peer_has_left(booked: BookedUpstream, peer: Peer) -> None:
    booked.next(Answer(tokens=10_000, pace=200))
    peer.send(chat(stream=True, max_tokens=10_000))
    assert eventually(lambda: booked.books.output_tokens >= 10)
    left_at = time.time()
    peer.socket.close()
    assert booked.idle(within_s=1)
    [entry] = booked.books.entries
    assert entry.aborted
    assert entry.output_tokens < 200
    assert entry.gone_at is not None
    assert 0 <= entry.gone_at - left_at < 0.5


def test_one_that_keeps_going_does_not(booked: BookedUpstream, peer: Peer) -> None:
    booked.next(Answer(tokens=300, pace=1_000, keeps_going=True))
    peer.send(chat(stream=True, max_tokens=1_000))
    assert eventually(lambda: booked.books.output_tokens >= 10)
    peer.socket.close()
    assert booked.idle()
    assert booked.books.output_tokens == 300
    assert booked.books.entries[0].gone_at is not None


def test_what_stayed_in_its_queue_when_its_peer_left_is_known(booked: BookedUpstream) -> None:
    booked.next(Answer(tokens=8_000, logprobs=True))
    peer = Peer(booked, receive_bytes=4096)
    peer.send(chat(stream=True, max_tokens=8_000))
    assert eventually(lambda: booked.books.output_tokens > 5_000)
    peer.socket.close()
    assert booked.idle()
    [entry] = booked.books.entries
    assert entry.aborted
    assert 0 < entry.unsent_tokens < entry.output_tokens
    assert entry.sent_nanos < entry.cost_nanos


def test_cached_tokens_are_cheaper_and_told(booked: BookedUpstream) -> None:
    booked.next(Answer(cached_tokens=10, usage="cached_at_top"), Answer(usage="no_prompt", tokens=1))
    assert post(booked, chat()).json()["usage"]["cached_tokens"] == 10
    assert booked.books.spent_nanos == (HI_TOKENS - 10) * INPUT + 10 * 15 + 20 * OUTPUT
    assert post(booked, chat()).json()["usage"]["prompt_tokens"] == 0
    assert booked.books.entries[1].cost_nanos == OUTPUT


def test_pace_is_kept(booked: BookedUpstream) -> None:
    booked.next(Answer(tokens=100, pace=500))
    began = time.monotonic()
    post(booked, chat(stream=True))
    assert 0.15 < time.monotonic() - began < 2


def test_a_script_is_sent_to_the_byte(booked: BookedUpstream, peer: Peer) -> None:
    said: list[bytes | float | str] = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe", 0.05, b"llo"]
    booked.next(Answer(script=[*said, "close"], tokens=9))
    peer.send(chat())
    assert peer.read_all() == b"".join(part for part in said if isinstance(part, bytes))
    assert booked.books.output_tokens == 9


@pytest.mark.parametrize("after", [0, 1, 300])
def test_it_resets_at_the_byte(booked: BookedUpstream, peer: Peer, after: int) -> None:
    booked.next(Answer(ends_after_bytes=after))
    peer.send(chat(stream=True))
    with pytest.raises(ConnectionResetError):
        peer.read_all()
    assert booked.idle()
    assert booked.books.entries[0].aborted


def test_it_closes_after_so_many_tokens(booked: BookedUpstream, peer: Peer) -> None:
    booked.next(Answer(ends_after_tokens=5, ends_by="close"))
    peer.send(chat(stream=True))
    assert peer.read_all().count(b"data: ") == 5
    assert booked.books.output_tokens == 5


def test_it_hangs_until_its_peer_leaves(booked: BookedUpstream, peer: Peer) -> None:
    booked.next(Answer(stays_open=True, heartbeat_s=0.02))
    peer.send(chat(stream=True))
    read = b""
    while read.count(b": still here") < 3:
        read += peer.socket.recv(65536)
    assert b"data: [DONE]" in read
    assert booked.books.running == 1
    peer.socket.close()
    assert booked.idle()


@pytest.mark.parametrize(
    ("answer", "starts", "holds"),
    [
        (Answer(framing="ndjson"), b"{", b'"usage"'),
        (Answer(framing="sse_single"), b"data: {", b"}\ndata: [DONE]\n"),
        (Answer(framing="sse_crlf"), b"data: {", b"\r\n\r\ndata: [DONE]"),
        (Answer(framing="json"), b'{"id"', b'"message"'),
        (Answer(error={"message": "no"}, error_after=2), b"data: {", b'data: {"error": {"message": "no"}}'),
        (Answer(done=False, usage_at="end"), b"data: {", b'"choices": [], "usage"'),
        (Answer(usage_at="choice"), b"data: {", b'"finish_reason": "stop", "delta": {}, "usage"'),
        (Answer(text_field="tool_calls"), b"data: {", b'"arguments": "7"'),
    ],
    ids=lambda value: value.framing if isinstance(value, Answer) else "",
)
def test_framings(booked: BookedUpstream, answer: Answer, starts: bytes, holds: bytes) -> None:
    booked.next(answer)
    said = post(booked, chat(stream=True)).content
    assert said.startswith(starts)
    assert holds in said


def test_dribbled_and_slow(booked: BookedUpstream) -> None:
    booked.next(Answer(tokens=1, head_after_s=0.1, dribble=(60, 0.005), transfer="length"))
    began = time.monotonic()
    assert post(booked, chat()).json()["usage"]["completion_tokens"] == 1
    assert time.monotonic() - began > 0.12


def test_refusals_cost_nothing_unless_they_are_billed(booked: BookedUpstream) -> None:
    booked.next(
        Answer(error={"message": "no"}), Answer(status=500, error={"message": "no"}), Answer(status=500, billed=True)
    )
    assert post(booked, chat()).json() == {"error": {"message": "no"}}
    assert post(booked, chat()).json() == {"error": {"message": "no"}}
    assert booked.books.spent_nanos == 0
    assert post(booked, chat()).json()["usage"]["completion_tokens"] == 20
    assert booked.books.output_tokens == 20


def test_odd_usage_leaves_the_books_true(booked: BookedUpstream) -> None:
    for odd in ("peta", "no_output", "none", "larger_total", "smaller_later"):
        booked.next(Answer(usage=odd))
        post(booked, chat())
    assert {entry.output_tokens for entry in booked.books.entries} == {20}
    assert usage_blocks(Answer(usage="texts"), Used(3, 4))[0]["completion_tokens"] == "4"


def test_a_request_asks_for_its_answer_in_its_text(booked: BookedUpstream) -> None:
    asked = Answer(name="odd", tokens=3, dribble=(4000, 0.0), script=None)
    text = "Please. " + asked.marked(label="call-1", key="acme")
    post(booked, chat(messages=[{"role": "user", "content": text}]))
    [entry] = booked.books.entries
    assert (entry.answer, entry.label, entry.key, entry.output_tokens) == ("odd", "call-1", "acme", 3)
    assert Answer.from_json(asked.to_json()) == asked
    scripted = Answer(script=[b"\xff\x00", 0.5, "reset"])
    assert Answer.from_json(json.loads(json.dumps(scripted.to_json()))) == scripted


def test_texts_of_tokens() -> None:
    assert token_texts(Answer(), 12) == token_texts(Answer(), 5) + token_texts(Answer(), 7, 5)
    assert len(token_texts(Answer(token_bytes=4), 10)) == 40
    assert token_texts(Answer(text="aé"), 3) == "aéa"


def test_a_connection_is_used_again_also_by_pipelined_and_chunked_requests(booked: BookedUpstream, peer: Peer) -> None:
    body = json.dumps(chat()).encode()
    chunked = b"POST /v1/x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    peer.socket.sendall(request_of(chat()) + chunked[:50])
    peer.socket.sendall(chunked[50:])
    assert eventually(lambda: booked.books.output_tokens == 40)
    assert [entry.body for entry in booked.books.entries] == [body, body]
    assert booked.connected == 1


def test_what_is_still_to_be_written_is_planned(booked: BookedUpstream, peer: Peer) -> None:
    booked.next(Answer(tokens=90, pace=100))
    peer.send(chat(stream=True, n=2))
    assert eventually(lambda: booked.books.output_tokens > 4)
    totals = booked.books.totals()
    assert totals["running"] == totals["calls"] == 1
    assert totals["spent_nanos"] < totals["planned_nanos"] == HI_TOKENS * INPUT + 180 * OUTPUT
    peer.socket.close()
    assert booked.idle()
    totals = booked.books.totals()
    assert totals["spent_nanos"] == totals["planned_nanos"] == booked.books.spent_nanos


def test_as_a_process() -> None:
    port = servers.free_port()
    with servers.process([sys.executable, "-m", "benchmarks.own_books", str(port)], port=port):
        url = f"http://127.0.0.1:{port}"
        httpx.post(f"{url}/_next", json=[Answer(tokens=2).to_json()])
        httpx.post(f"{url}/v1/chat/completions", json=chat())
        told = httpx.get(f"{url}/_books").json()
        assert told["spent_nanos"] == told["entries"][0]["cost_nanos"] == HI_TOKENS * INPUT + 2 * OUTPUT
        assert httpx.get(f"{url}/v1/models").json()["data"]
        assert httpx.get(f"{url}/_totals").json()["calls"] == 1
        httpx.post(f"{url}/_forget", json={})
        assert httpx.get(f"{url}/_books").json()["entries"] == []
