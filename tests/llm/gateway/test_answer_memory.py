"""Large answers of one tenant take no more memory than its share, and all come to their end."""

from __future__ import annotations

import asyncio

import pytest

from llm.gateway.answer_memory import SMALL_BYTES, AnswerMemory

MB = 1024 * 1024


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Reading:
    """An answer of a tenant that comes in parts of a megabyte, as fast as it may."""

    def __init__(self, memory: AnswerMemory, tenant_id: int, size: int, *, key_id: int | None = None) -> None:
        self.came, self._sent = 0, asyncio.Event()
        self._task = asyncio.create_task(self._read(memory, key_id or tenant_id, tenant_id, size))

    async def _read(self, memory: AnswerMemory, key_id: int, tenant_id: int, size: int) -> None:
        with memory.share(key_id, tenant_id) as share:
            while self.came < size:
                await share.hold(self.came + MB)
                self.came += MB
                await asyncio.sleep(0)
            await self._sent.wait()

    async def is_sent(self) -> None:
        self._sent.set()
        await self._task

    async def is_left(self) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


async def until_all_wait(*readings: Reading) -> list[int]:
    before = None
    while before != (now := [reading.came // MB for reading in readings]):
        before = now
        for _ in range(3 * len(readings)):
            await settled()
    return now


async def test_small_answers_are_not_counted() -> None:
    memory = AnswerMemory(of_a_tenant=0, of_all=0)
    with memory.share(1, 1) as first, memory.share(1, 1) as second:
        await first.hold(SMALL_BYTES)
        await second.hold(SMALL_BYTES)
    assert (memory._tenants, memory._bytes) == ({}, 0)


async def test_a_tenants_oldest_comes_to_its_end_and_the_next_ones_follow() -> None:
    memory = AnswerMemory(of_a_tenant=12 * MB, of_all=100 * MB)
    readings = [Reading(memory, 1, 10 * MB) for _ in range(3)]
    came = await until_all_wait(*readings)
    assert came[0] == 10
    # The others took what there was while the oldest was small.
    assert sum(came[1:]) <= 12
    assert max(came[1:]) < 10
    await readings[0].is_sent()
    assert (await until_all_wait(*readings))[1] == 10
    await readings[1].is_sent()
    assert (await until_all_wait(*readings))[2] == 10
    await readings[2].is_sent()
    assert (memory._tenants, memory._bytes) == ({}, 0)


async def test_one_that_is_given_up_leaves_its_room_to_others() -> None:
    memory = AnswerMemory(of_a_tenant=12 * MB, of_all=100 * MB)
    first, second, third = (Reading(memory, 1, 10 * MB) for _ in range(3))
    await until_all_wait(first, second, third)
    await second.is_left()
    await first.is_left()
    assert await until_all_wait(third) == [10]
    await third.is_sent()
    assert (memory._tenants, memory._bytes) == ({}, 0)


async def test_tenants_that_hold_all_leave_room_for_one_answer_of_another() -> None:
    memory = AnswerMemory(of_a_tenant=20 * MB, of_all=24 * MB)
    hostile = [Reading(memory, tenant, 12 * MB) for tenant in (1, 2) for _ in range(4)]
    assert sum(await until_all_wait(*hostile)) >= 24
    good = Reading(memory, 3, 12 * MB)
    assert await until_all_wait(good) == [12]
    for reading in (*hostile, good):
        await reading.is_left() if reading is not good else await reading.is_sent()


async def test_a_tenants_keys_take_turns() -> None:
    """However many answers of one of them wait, another key's comes next."""
    memory = AnswerMemory(of_a_tenant=10 * MB, of_all=100 * MB)
    many = [Reading(memory, 1, 8 * MB, key_id=1) for _ in range(20)]
    await until_all_wait(*many)
    other = Reading(memory, 1, 8 * MB, key_id=2)
    await until_all_wait(other)
    ended = 0
    while other.came < 8 * MB:
        whole = next(reading for reading in many if reading.came == 8 * MB)
        many.remove(whole)
        await whole.is_sent()
        ended += 1
        await until_all_wait(*many, other)
    assert ended <= 2
    for reading in (*many, other):
        await reading.is_left()
    assert (memory._tenants, memory._bytes) == ({}, 0)


async def test_one_that_waits_is_given_room_in_the_order_in_which_it_came() -> None:
    memory = AnswerMemory(of_a_tenant=10 * MB, of_all=100 * MB)
    readings = [Reading(memory, 1, 9 * MB) for _ in range(6)]
    ended = []
    while readings:
        await until_all_wait(*readings)
        whole = next(reading for reading in readings if reading.came == 9 * MB)
        ended.append(readings.index(whole))
        readings.remove(whole)
        await whole.is_sent()
    assert ended == [0] * 6
