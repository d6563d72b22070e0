"""What one key's requests take of what all share: of the thread that parses, and of the database."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx2 as httpx
import orjson
import pytest

from governance import ledger
from llm.gateway import bodies, process
from llm.gateway.bodies import Bodies, Held, TooManyBodies
from llm.gateway.http import Exchange
from tests import factories as make
from tests.llm.gateway.test_bodies import HI, error_of, send
from tests.product import Product, eventually

PLENTY = Held(of_a_key=10**9, of_a_tenant=10**9, of_all=10**9)


@pytest.fixture
async def shared() -> Any:
    found = Bodies(at_a_time=2, held=PLENTY, patience_s=5)
    yield found
    found.close()


async def test_one_keys_large_bodies_wait_for_each_other_and_anothers_for_one_of_them(shared: Bodies) -> None:
    done: list[int] = []

    async def work(key_id: int) -> None:
        with shared.turn(key_id, 1) as turn:
            await turn.work(bodies.LARGE_BYTES + 1, lambda: done.append(key_id))

    await asyncio.gather(*(work(1) for _ in range(50)), work(2), work(2))

    assert done[:4] == [1, 2, 1, 2]
    assert len(done) == 52


async def test_a_keys_bodies_take_their_share_of_a_processor_and_no_more() -> None:
    now_s = 100.0
    shares = bodies.Shares(share=0.25, clock=lambda: now_s)
    assert shares.wait_s(1) == 0
    shares.took(1, bodies.AT_ONCE_S)
    # So much may be taken at once, ...
    assert shares.wait_s(1) == pytest.approx(0)
    shares.took(1, 0.05)
    # ... and for each second beyond it three are left to others.
    assert shares.wait_s(1) == pytest.approx(0.2)
    assert shares.wait_s(2) == 0
    now_s += 0.2
    assert shares.wait_s(1) == pytest.approx(0)
    now_s += 10
    shares.took(2, 0.01)
    assert list(shares._even_at) == [2]


async def test_what_parses_counts_also_where_it_fails_and_what_unpacks_does_not() -> None:
    found = Bodies(at_a_time=2, held=PLENTY, patience_s=5, share=0.05)
    waits: list[float] = []

    def busy() -> None:
        until_s = time.thread_time() + bodies.AT_ONCE_S
        while time.thread_time() < until_s:
            pass
        waits.append(found._shares.wait_s(1))
        raise ValueError("no JSON")

    try:
        with found.turn(1, 1) as turn:
            await turn.beside(lambda: time.sleep(0.01))
            for _ in range(2):
                with pytest.raises(ValueError, match="no JSON"):
                    await turn.work(bodies.LARGE_BYTES + 1, busy)
            # The second one pays for itself, not for the first.
            assert waits == [0, 0]
            assert 0.5 < found._shares.wait_s(1) < bodies.AT_ONCE_S / 0.05
            # A small one is nobody's burden.
            began_s = time.monotonic()
            assert await turn.work(1, lambda: 7) == 7
            assert time.monotonic() - began_s < 0.1
    finally:
        found.close()


async def test_what_waits_for_a_cancelled_ones_place_gets_it(shared: Bodies) -> None:
    free, began = threading.Event(), threading.Event()

    def stand() -> None:
        began.set()
        free.wait(5)

    running = asyncio.create_task(shared.beside(1, stand))
    await asyncio.to_thread(began.wait, 5)
    waiting = [asyncio.create_task(shared.beside(1, lambda: None)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    free.set()
    await asyncio.gather(running, waiting[1])
    assert waiting[0].cancelled()


async def test_a_packed_body_is_unpacked_by_slices() -> None:
    data = b"ab" * (2 * 2**20) + bytes(range(256)) * 1000
    found = list(bodies.slices(gzip.compress(data), "gzip", limit=len(data)))

    assert b"".join(found) == data
    assert len(found[0]) <= bodies.LARGE_BYTES
    assert max(map(len, found)) <= bodies.SLICE_BYTES
    with pytest.raises(bodies.BodyTooLarge):
        list(bodies.slices(gzip.compress(data), "gzip", limit=len(data) - 1))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.Event]]:
    """Reads of whether a key may call, each held up until its event is set."""
    begun: list[threading.Event] = []
    dry_run = ledger.dry_run

    def held_up(*args: Any, **named: Any) -> Any:
        begun.append(threading.Event())
        begun[-1].wait(10)
        return dry_run(*args, **named)

    monkeypatch.setattr(ledger, "dry_run", held_up)
    yield begun
    for one in begun:
        one.set()


def test_a_flood_of_malformed_bodies_takes_one_thread_that_reads(
    product: Product, reads: list[threading.Event]
) -> None:
    hostile, good = product.key(of=make.tenant("hostile")), product.key(agent="reports")
    answers: list[httpx.Response] = []

    def flood() -> None:
        answers.append(send(product, b"{", key=hostile))

    threads = [threading.Thread(target=flood) for _ in range(3 * process.READERS)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: bool(reads))

    # Its first call: its key and its agent are looked up by the same threads.
    assert product.chat(good).status_code == 200

    assert len(reads) == 1
    reads[0].set()
    for thread in threads:
        thread.join()
    assert {error_of(answer)[0] for answer in answers} == {400}
    assert len(reads) == 1


def test_a_small_packed_body_asks_the_database_no_more_than_one_that_is_not(
    product: Product, reads: list[threading.Event]
) -> None:
    assert send(product, gzip.compress(orjson.dumps(HI)), content_encoding="gzip").status_code == 200
    assert not reads


def test_threads_take_short_turns_while_the_gateway_runs(product: Product) -> None:
    assert sys.getswitchinterval() == pytest.approx(process.SWITCH_INTERVAL_S)


def test_what_is_held_is_bounded_for_a_key_a_tenant_and_all() -> None:
    held = Held(of_a_key=10, of_a_tenant=15, of_all=40)
    held.add(10, key_id=1, tenant_id=1)
    for size, key_id, tenant_id, whose in ((1, 1, 1, "of this key"), (6, 2, 1, "of this tenant")):
        with pytest.raises(TooManyBodies, match=whose):
            held.add(size, key_id=key_id, tenant_id=tenant_id)
    # What was refused counts nowhere, and what is over no longer.
    held.add(5, key_id=2, tenant_id=1)
    held.give_back(5, key_id=2, tenant_id=1)
    held.give_back(10, key_id=1, tenant_id=1)
    assert not held._held


def test_a_tenant_holds_half_of_what_others_leave_so_that_one_more_finds_room() -> None:
    held = Held(of_a_key=200, of_a_tenant=200, of_all=400)
    for tenant, most in ((1, 200), (2, 100), (3, 50), (4, 25)):
        held.add(most, key_id=tenant, tenant_id=tenant)
        with pytest.raises(TooManyBodies, match="large bodies are on their way" if tenant > 1 else "of this key"):
            held.add(1, key_id=tenant, tenant_id=tenant)
    held.add(12, key_id=5, tenant_id=5)
    held.give_back(200, key_id=1, tenant_id=1)
    held.add(56, key_id=2, tenant_id=2)


async def test_what_a_body_announces_is_not_held_before_it_comes(shared: Bodies) -> None:
    length = 10 * bodies.LARGE_BYTES
    parts = iter([bodies.LARGE_BYTES, 1, length - bodies.LARGE_BYTES - 1])
    held: list[int] = []

    async def receive() -> dict[str, Any]:
        held.append(shared.held._held[("", 0)])
        return {"type": "http.request", "body": b"a" * (size := next(parts)), "more_body": size < length // 2}

    async def known() -> None:
        """Whoever sends it may call."""

    scope = {"method": "POST", "path": "/", "headers": [(b"content-length", str(length).encode())]}
    exchange = Exchange(scope, receive, cast(Any, None), request_id="")
    with shared.turn(1, 7) as turn:
        exchange.admit(limit=length, patience_s=5, turn=turn, when_large=known)
        await exchange.body()
        assert turn.is_taken
        held.append(shared.held._held[("", 0)])
    assert held == [0, 0, bodies.LARGE_BYTES + 1, length]


async def test_a_call_gives_back_what_its_body_held(shared: Bodies) -> None:
    with shared.turn(1, 7) as turn:
        turn.hold(100)
        turn.hold(50)
        turn.hold(300)
        assert shared.held._held == {(" of this key", 1): 300, (" of this tenant", 7): 300, ("", 0): 300}
    assert not shared.held._held


def test_another_key_of_a_tenant_brings_no_more(product: Product) -> None:
    from llm.gateway.application import gateway

    body = orjson.dumps(HI | {"messages": [{"role": "user", "content": "a" * 300_000}]})
    make.budget("10.00")
    held, other = gateway.bodies.held, product.key(agent="refunds")
    room = held._most[1] - 200_000
    held.add(room, key_id=0, tenant_id=make.tenant().pk)
    assert error_of(send(product, body, key=other)) == (429, "too_many_large_bodies", None)
    held.give_back(room, key_id=0, tenant_id=make.tenant().pk)
    assert send(product, body, key=other).status_code == 200
