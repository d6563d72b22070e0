"""The memory that answers take which come whole: so much of a tenant's and of all, beyond that in turns.

What is not read yet stays with the model's API, and in the buffers of the connection.
"""

from __future__ import annotations

import asyncio

# What takes no more is not counted.
SMALL_BYTES = 256 * 1024
# How much is asked for at a time: an answer's size is not known before it is there.
STEP_BYTES = 1024 * 1024


class Share:
    """What one answer takes, until whoever asked for it has it."""

    def __init__(self, memory: AnswerMemory, tenant_id: int) -> None:
        self._memory, self._tenant_id = memory, tenant_id
        self._bytes = SMALL_BYTES

    async def hold(self, size_bytes: int) -> None:
        """Wait until an answer may be so large."""
        if size_bytes > self._bytes:
            await self._memory.grow(self, self._tenant_id, size_bytes + STEP_BYTES)
            self._bytes = size_bytes + STEP_BYTES

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *error: object) -> None:
        self._memory.give_back(self, self._tenant_id)


class AnswerMemory:
    """`of_a_tenant` and `of_all`: bytes that large answers hold.

    A tenant's oldest large answer waits for nothing, so that each comes to its end: beyond these bounds every tenant
    holds one answer more.
    """

    def __init__(self, *, of_a_tenant: int, of_all: int) -> None:
        self._of_a_tenant, self._of_all = of_a_tenant, of_all
        # Each tenant's, the oldest first. Nothing is kept of a tenant that holds none.
        self._held: dict[int, dict[Share, int]] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def share(self, tenant_id: int) -> Share:
        return Share(self, tenant_id)

    async def grow(self, share: Share, tenant_id: int, size_bytes: int) -> None:
        """Wait until a share may be so large; from then on it is."""
        own = self._held.setdefault(tenant_id, {})
        own.setdefault(share, 0)
        while not self._has_room(share, own, size_bytes):
            self._waiting.append(freed := asyncio.get_running_loop().create_future())
            await freed
        own[share] = size_bytes

    def give_back(self, share: Share, tenant_id: int) -> None:
        own = self._held.get(tenant_id, {})
        if own.pop(share, None) is None:
            return
        if not own:
            del self._held[tenant_id]
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _has_room(self, share: Share, own: dict[Share, int], size_bytes: int) -> bool:
        if next(iter(own)) is share:
            return True
        more = size_bytes - own[share]
        of_all = sum(sum(held.values()) for held in self._held.values())
        return sum(own.values()) + more <= self._of_a_tenant and of_all + more <= self._of_all
