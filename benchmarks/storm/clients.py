"""The storm's clients: bare sockets that read, crawl, stop, leave, repeat and lie."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from random import Random

from benchmarks.storm import behaviours, bodies
from benchmarks.storm.behaviours import Behaviour
from benchmarks.storm.calls import Call, read_answer

# However a client reads, an answer that should come has come by then: what is written slowest takes 6 s of it.
PATIENCE_S = 45.0
# Of what hangs by itself, a client waits so long.
HANGING_PATIENCE_S = 4.0
SMALL_BUFFER_BYTES = 4_096

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Tenant:
    """`keys` are those of its agents."""

    slug: str
    keys: tuple[str, ...]


class Ways:
    """How a client reads its answer: each takes a connection on which the request was sent, and what it has read."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def reads(self, connection: Connection, read: bytearray) -> None:
        while data := await connection[0].read(65_536):
            read += data

    async def crawls(self, connection: Connection, read: bytearray) -> None:
        end = time.monotonic() + self._random.uniform(2, 8)
        while time.monotonic() < end and (data := await connection[0].read(200)):
            read += data
            await asyncio.sleep(0.02)

    async def stops(self, connection: Connection, read: bytearray) -> None:
        """A little is read, then nothing, and then it has gone."""
        read += await connection[0].read(500)
        await asyncio.sleep(self._random.uniform(1, 6))

    async def resumes(self, connection: Connection, read: bytearray) -> None:
        read += await connection[0].read(500)
        await asyncio.sleep(self._random.uniform(1, 4))
        await self.reads(connection, read)

    async def leaves(self, connection: Connection, read: bytearray) -> None:
        wanted = self._random.randint(1, 8_000)
        while len(read) < wanted and (data := await connection[0].read(100)):
            read += data

    async def leaves_at_once(self, connection: Connection, read: bytearray) -> None:
        await asyncio.sleep(self._random.choice((0.0, 0.005, 0.05, 0.3)))


CLIENTS = {"reads": 8, "crawls": 2, "stops": 2, "resumes": 1, "leaves": 3, "leaves_at_once": 2, "repeats": 2}
# How often a body lies, and how often an answer is to go wrong.
LYING, WRONG, ODD = 0.2, 0.15, 0.2


class Clients:
    """So many clients, one call after the other each, while `gate` is open."""

    def __init__(
        self,
        url: str,
        tenants: list[Tenant],
        *,
        seed: str,
        done: Callable[[Call], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._tenants = tenants
        self._seed = seed
        self._done = done
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self.gate = asyncio.Event()
        self.running: dict[int, Call] = {}

    async def run(self, count: int) -> None:
        await asyncio.gather(*(self._client(Random(f"{self._seed}/{number}")) for number in range(count)))

    async def quiet(self, *, within_s: float) -> bool:
        """Close the gate; whether all calls have ended in time."""
        self.gate.clear()
        end = time.monotonic() + within_s
        while self.running and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return not self.running

    async def _client(self, random: Random) -> None:
        while True:
            await self.gate.wait()
            call, behaviour = self._plan(random)
            if call.client == "repeats":
                await self._repeat(call, behaviour, random)
            else:
                await self._call(call, behaviour, random)
            # Who is refused for money or by an operator tries again, but not at once.
            await asyncio.sleep(random.uniform(0.5, 1.5) if call.status in (402, 403, 429) else 0.0)

    def _plan(self, random: Random) -> tuple[Call, Behaviour]:
        number, tenant = next(self._numbers), random.choice(self._tenants)
        dice = random.random()
        among = behaviours.WRONG if dice < WRONG else behaviours.ODD if dice < WRONG + ODD else behaviours.WELL
        behaviour = behaviours.chosen(random, among)
        lie = random.choice(list(bodies.LIES)) if random.random() < LYING else ""
        answer = behaviour.answer
        if lie.startswith(("two ", "MAX")) or lie in ("best_of", "max_output_tokens"):
            # What is asked for is what is written, and so much not at once.
            answer = replace(
                answer,
                tokens=None if answer.tokens and not answer.script else answer.tokens,
                pace=max(behaviours.PACES),
            )
        stream = random.random() < 0.65
        model = random.choice(bodies.BAD_MODELS if behaviour.fails else bodies.GOOD_MODELS)
        text = f"{answer.marked(label=f'call-{number}', key=tenant.slug)} {bodies.dense(random)}"
        written = (answer.tokens or 50) + answer.unseen_tokens
        max_tokens = random.choice((None, written, written + 10, 4 * written, max(1, written // 2)))
        payload = bodies.honest(model=model, text=text, stream=stream, max_tokens=max_tokens)
        headers = {"x-allow-downgrade": "false"} if behaviour.fails and random.random() < 0.8 else {}
        if random.random() < 0.5:
            headers["x-user"] = f"user-{random.randint(1, 5)}"
        [client] = random.choices(list(CLIENTS), weights=list(CLIENTS.values()))
        call = Call(
            number=number,
            tenant=tenant.slug,
            client=client,
            lie=lie,
            answer=answer.name,
            stream=stream,
            key=random.choice(tenant.keys),
            once=f"{self._seed}-{number}" if client == "repeats" else "",
            headers=headers,
            body=bodies.LIES[lie](payload, random) if lie else bodies.honest_bytes(payload),
        )
        return call, behaviour

    async def _repeat(self, call: Call, behaviour: Behaviour, random: Random) -> None:
        """The same request again under its Idempotency-Key: beside the first one, and after it."""
        again = [replace(call, number=next(self._numbers), headers=dict(call.headers), seen={}) for _ in range(2)]
        ways: list[Awaitable[None]] = [self._call(call, behaviour, random)]
        if random.random() < 0.5:
            ways.append(self._call(again[0], behaviour, random, after_s=random.uniform(0, 0.2)))
        await asyncio.gather(*ways)
        await self._call(again[1], behaviour, random)

    async def _call(self, call: Call, behaviour: Behaviour, random: Random, *, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        self.running[call.number] = call
        call.began_at = time.time()
        read = bytearray()
        way = getattr(Ways(random), "reads" if call.client == "repeats" else call.client)
        patience_s = HANGING_PATIENCE_S if behaviour.hangs else self._patience_s
        try:
            async with asyncio.timeout(patience_s):
                closed = await self._exchange(call, way, read)
        except TimeoutError:
            closed, call.overdue = False, not behaviour.hangs
        except OSError as error:
            closed, call.broken = True, type(error).__name__
        finally:
            call.ended_at = time.time()
            del self.running[call.number]
        read_answer(call, bytes(read), closed=closed)
        self._done(call)

    async def _exchange(
        self, call: Call, way: Callable[[Connection, bytearray], Awaitable[None]], read: bytearray
    ) -> bool:
        raw = socket.socket()
        raw.setblocking(False)
        slow = call.client in ("crawls", "stops", "resumes")
        if slow:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(raw, self._address)
            connection = await asyncio.open_connection(sock=raw, limit=SMALL_BUFFER_BYTES if slow else 2**20)
        except BaseException:
            raw.close()
            raise
        try:
            connection[1].write(self._head(call) + call.body)
            await connection[1].drain()
            await way(connection, read)
            return connection[0].at_eof()
        finally:
            connection[1].transport.abort()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await connection[1].wait_closed()

    def _head(self, call: Call) -> bytes:
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "host: gateway",
            "connection: close",
            "content-type: application/json",
            f"authorization: Bearer {call.key}",
            f"content-length: {len(call.body)}",
            *(f"{name}: {value}" for name, value in call.headers.items()),
        ]
        if call.once:
            lines.append(f"idempotency-key: {call.once}")
        return "\r\n".join([*lines, "", ""]).encode()
