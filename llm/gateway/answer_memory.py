"""The memory that answers take which come whole: so much of a tenant's and of all, beyond that in turns.

What is not read yet stays with the model's API, and in the buffers of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

# What takes no more is not counted.
SMALL_BYTES = 256 * 1024
# How much is asked for at a time: an answer's size is not known before it is there.
STEP_BYTES = 1024 * 1024


class Share:
    """What one answer takes, until whoever asked for it has it."""

    def __init__(self, memory: AnswerMemory, key_id: int, tenant_id: int) -> None:
        self._memory, self.key_id, self.tenant_id = memory, key_id, tenant_id
        # What counts of it.
        self.held_bytes = 0

    async def hold(self, size_bytes: int) -> None:
        """Wait until an answer may be so large."""
        if size_bytes > max(SMALL_BYTES, self.held_bytes):
            await self._memory.grow(self, size_bytes + STEP_BYTES)

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *error: object) -> None:
        self._memory.give_back(self)


class AnswerMemory:
    """`of_a_tenant` and `of_all`: bytes that large answers hold.

    One large answer of each tenant waits for nothing, so that each comes to its end; its keys take turns at that.
    Beyond these bounds every tenant holds one answer more.
    """

    def __init__(self, *, of_a_tenant: int, of_all: int) -> None:
        self._of_a_tenant, self._of_all = of_a_tenant, of_all
        # Nothing is kept of a tenant that holds none.
        self._tenants: dict[int, _Tenant] = {}
        self._bytes = 0

    def share(self, key_id: int, tenant_id: int) -> Share:
        return Share(self, key_id, tenant_id)

    async def grow(self, share: Share, size_bytes: int) -> None:
        """Wait until a share may be so large; from then on it is."""
        tenant = self._tenants.setdefault(share.tenant_id, _Tenant())
        tenant.enter(share)
        more = size_bytes - share.held_bytes
        if self._has_room(tenant, share, more) and (tenant.first() is share or not tenant.waiting):
            self._add(tenant, share, more)
        else:
            await tenant.wait(share, more)

    def give_back(self, share: Share) -> None:
        tenant = self._tenants.get(share.tenant_id)
        if tenant is None or not tenant.leave(share):
            return
        self._add(tenant, share, -share.held_bytes)
        if not tenant.keys:
            del self._tenants[share.tenant_id]
        for each in list(self._tenants.values()):
            while (found := each.next(partial(self._has_room, each))) is not None:
                self._add(each, found.share, found.more)
                found.granted.set_result(None)

    def _has_room(self, tenant: _Tenant, share: Share, more: int) -> bool:
        if tenant.first() is share:
            return True
        return tenant.bytes + more <= self._of_a_tenant and self._bytes + more <= self._of_all

    def _add(self, tenant: _Tenant, share: Share, more: int) -> None:
        share.held_bytes += more
        tenant.bytes += more
        self._bytes += more


class _Waiting(NamedTuple):
    share: Share
    more: int
    granted: asyncio.Future[None]


class _Tenant:
    """The large answers of a tenant by their keys, the oldest of each first; and those of them that wait."""

    def __init__(self) -> None:
        self.bytes = 0
        # The first key's first waits for nothing.
        self.keys: dict[int, dict[Share, None]] = {}
        # The key whose turn it is first.
        self.waiting: dict[int, dict[Share, _Waiting]] = {}

    def first(self) -> Share:
        return next(iter(next(iter(self.keys.values()))))

    def enter(self, share: Share) -> None:
        self.keys.setdefault(share.key_id, {}).setdefault(share)

    def leave(self, share: Share) -> bool:
        """Whether it was here. Where it waited for nothing, another key's does from now on."""
        own = self.keys.get(share.key_id, {})
        if share not in own:
            return False
        if self.first() is share:
            self.keys[share.key_id] = self.keys.pop(share.key_id)
        del own[share]
        if not own:
            del self.keys[share.key_id]
        return True

    async def wait(self, share: Share, more: int) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(share.key_id, {})[share] = _Waiting(share, more, granted)
        try:
            await granted
        except asyncio.CancelledError:
            self._forget(share)
            raise

    def next(self, has_room: Callable[[Share, int], bool]) -> _Waiting | None:
        """Who waits for room that there is, and waits no more: what waits for nothing, else the next key's oldest."""
        if not self.waiting:
            return None
        first = self.first()
        heads = [self.waiting.get(first.key_id, {}).get(first)]
        heads += [next(iter(own.values())) for own in self.waiting.values()]
        found = next((head for head in heads if head is not None and has_room(head.share, head.more)), None)
        if found is not None:
            self._forget(found.share)
        return found

    def _forget(self, share: Share) -> None:
        own = self.waiting.pop(share.key_id, {})
        own.pop(share, None)
        if own:
            # Behind the other keys.
            self.waiting[share.key_id] = own
