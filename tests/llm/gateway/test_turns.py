"""Turns of requests that are no calls: what one key, and one tenant, takes of a processor."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from llm.gateway import turns
from llm.gateway.turns import Owner, TooManyRequests, Turns

ONE, SAME, OTHER = Owner("key 1", "tenant 1"), Owner("key 2", "tenant 1"), Owner("key 3", "tenant 2")


@pytest.fixture(autouse=True)
def nothing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "AT_ONCE_S", 0.0)


async def waited_s(shared: Turns, owner: Owner, *, took_s: float = 0.0, likely_s: float = 0.0) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with shared.turn(owner, is_read=False, patience_s=1, likely_s=likely_s) as turn:
        found = loop.time() - began
        turn.took(took_s)
    return found


async def test_a_keys_requests_wait_for_what_those_before_took_and_anothers_do_not() -> None:
    shared = Turns(share=0.5)
    assert await waited_s(shared, ONE, took_s=0.4) < 0.3
    assert await waited_s(shared, OTHER) < 0.3
    assert 0.3 < await waited_s(shared, ONE) < 1


async def test_a_tenants_keys_take_twice_the_share_of_one_together() -> None:
    shared = Turns(share=0.5)
    await waited_s(shared, ONE, took_s=0.2)
    assert 0.1 < await waited_s(shared, SAME) < 0.3


async def test_a_key_that_has_used_up_its_share_waits_for_it_before_its_tenants_other_keys() -> None:
    shared = Turns(share=0.2)
    await waited_s(shared, ONE, took_s=0.16)
    greedy = asyncio.create_task(waited_s(shared, ONE))
    await asyncio.sleep(0.05)
    # Its tenant's share is even after 0.4 s, its own after twice as long.
    assert await waited_s(shared, SAME) < 0.6
    assert await greedy > 0.6


async def test_a_read_whose_answer_is_made_leaves_its_place_to_others() -> None:
    shared = Turns(share=1.0)
    async with AsyncExitStack() as stack:
        for _ in range(turns.READS):
            turn = await stack.enter_async_context(shared.turn(ONE, is_read=True, patience_s=1))
            await turn.leave_place()
        async with shared.turn(ONE, is_read=True, patience_s=0.2):
            pass


async def test_of_those_that_begin_at_once_each_waits_for_what_others_are_likely_to_take() -> None:
    shared = Turns(share=0.5)

    async def long(owner: Owner) -> float:
        began = asyncio.get_running_loop().time()
        async with shared.turn(owner, is_read=False, patience_s=2, likely_s=0.1):
            found = asyncio.get_running_loop().time() - began
            await asyncio.sleep(0.5)
            return found

    waits = await asyncio.gather(*(long(ONE) for _ in range(3)))
    assert [round(wait, 1) for wait in waits] == [0.0, 0.2, 0.4]
    # What they did not take is given back: else it would be 0.6.
    assert await waited_s(shared, ONE) < 0.3


async def test_who_would_wait_too_long_is_refused_and_takes_nothing() -> None:
    shared = Turns(share=0.5)
    await waited_s(shared, ONE, took_s=0.2)
    with pytest.raises(TooManyRequests, match="this key wait for their share of a processor, 50%"):
        async with shared.turn(ONE, is_read=False, patience_s=0.1):
            raise AssertionError("it was its turn")
    assert not shared._waiting
    assert await waited_s(shared, ONE) < 0.5


async def test_so_many_reads_of_a_key_and_of_a_tenant_are_answered_at_a_time() -> None:
    shared = Turns(share=1.0)
    async with AsyncExitStack() as reads:
        for owner in (ONE, ONE, SAME, SAME):
            await reads.enter_async_context(shared.turn(owner, is_read=True, patience_s=1, likely_s=0))
        for owner in (ONE, Owner("key 4", "tenant 1")):
            with pytest.raises(TooManyRequests):
                await reads.enter_async_context(shared.turn(owner, is_read=True, patience_s=0.05))
        # Writes and others' reads wait for none of them.
        await reads.enter_async_context(shared.turn(ONE, is_read=False, patience_s=1))
        await reads.enter_async_context(shared.turn(OTHER, is_read=True, patience_s=1))
    await waited_s(shared, ONE)
    assert not shared._keys.reads._places
    assert not shared._tenants.first._places


async def test_no_more_than_so_many_requests_of_a_key_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_WAITING", 2)
    shared = Turns(share=0.5)
    await waited_s(shared, ONE, took_s=0.2)
    waiting = [asyncio.create_task(waited_s(shared, ONE)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        async with shared.turn(ONE, is_read=False, patience_s=1):
            pass
    await asyncio.gather(*waiting)


async def test_what_is_made_as_it_is_sent_counts_as_it_is_made() -> None:
    shared, loop = Turns(share=0.5), asyncio.get_running_loop()
    async with shared.turn(ONE, is_read=True, patience_s=1, likely_s=0) as turn:
        turn.took(0.1)
        began = loop.time()
        await turn.wait()
        assert 0.1 < loop.time() - began < 0.3
