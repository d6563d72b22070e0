"""What a model's API sends at once is read in parts, and none of them is lost where somebody stops waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest

from llm.providers.http import TURN_BYTES, HttpAnswer

CHUNKS = [b"a" * (3 * TURN_BYTES + 5), b"b", b"c" * TURN_BYTES, b"d" * (TURN_BYTES + 1)]


class Content:
    """What aiohttp reads: each chunk once, whoever asks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = list(chunks)

    async def iter_any(self) -> AsyncIterator[bytes]:
        while self._chunks:
            yield self._chunks.pop(0)


def answer(chunks: list[bytes]) -> HttpAnswer:
    response: Any = Mock(headers={}, content=Content(chunks))
    return HttpAnswer(response, Mock(forms_of_key=()))


async def test_all_of_it_comes_in_parts_between_which_others_have_their_turns() -> None:
    parts, turns = list[bytes](), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    async for part in answer(CHUNKS).chunks():
        parts.append(part)
    other.cancel()
    assert b"".join(parts) == b"".join(CHUNKS)
    assert max(map(len, parts)) == TURN_BYTES
    assert turns >= len(b"".join(CHUNKS)) // TURN_BYTES


@pytest.mark.parametrize("after", range(9))
async def test_who_stops_waiting_and_comes_back_has_missed_nothing(after: int) -> None:
    """As streams do, which wait for an end only so long."""
    read = answer(CHUNKS)
    came, source = b"", read.chunks()
    for number in range(100):
        waiting = asyncio.ensure_future(anext(source, b""))
        await asyncio.sleep(0)
        if number >= after and not waiting.done():
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            source = read.chunks()
            continue
        part = await waiting
        if not part:
            break
        came += part
    assert came == b"".join(CHUNKS)
