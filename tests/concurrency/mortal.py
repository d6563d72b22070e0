"""The product's ASGI application, which kills its own process with -9 at one point of a call's life.

`uvicorn tests.concurrency.mortal:dying_<point>`; the product knows nothing of it. `POINTS` says what each stands for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from config.asgi import application
from governance import ledger
from governance.ledger.batch import Batch
from governance.ledger.operations import Reserve, Settle
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.providers.mistral import Mistral

POINTS = (
    "before_the_reserve_commits",
    "after_the_reserve",
    "while_waiting_for_upstream",
    "in_mid_stream",
    "after_the_answer_before_the_settle",
    "after_the_settle_before_the_client_has_all",
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def before_the_reserve_commits() -> None:
    write = Batch.write

    def dying(batch: Batch) -> None:
        write(batch)
        if any(isinstance(operation, Reserve) for operation in batch.operations):
            die()

    Batch.write = dying  # type: ignore[method-assign]


def after_the_reserve() -> None:
    _after_the_ledger_did(Reserve)


def while_waiting_for_upstream() -> None:
    send = Mistral.send

    async def dying(self: Mistral, *args: Any, **kwargs: Any) -> Any:
        waiting = asyncio.ensure_future(send(self, *args, **kwargs))
        # The request is on its way, and its answer is not.
        await asyncio.sleep(0.3)
        assert not waiting.done()
        die()

    Mistral.send = dying  # type: ignore[method-assign]


def in_mid_stream() -> None:
    write, written = Exchange.write, []

    async def dying(self: Exchange, data: bytes, *args: Any, **kwargs: Any) -> None:
        await write(self, data, *args, **kwargs)
        written.append(data)
        if len(written) == 4:
            die()

    Exchange.write = dying  # type: ignore[method-assign]


def after_the_answer_before_the_settle() -> None:
    async def dying(self: Hold, operation: Any) -> None:
        die()

    Hold._land = dying  # type: ignore[method-assign]


def after_the_settle_before_the_client_has_all() -> None:
    _after_the_ledger_did(Settle)


def _after_the_ledger_did(kind: type) -> None:
    apply = ledger.apply

    def dying(operations: Any, **kwargs: Any) -> list[Any]:
        results = apply(operations, **kwargs)
        if any(isinstance(operation, kind) for operation in operations):
            die()
        return results

    ledger.apply = dying


_PREPARE: dict[str, Callable[[], None]] = {f"dying_{point}": globals()[point] for point in POINTS}


def __getattr__(name: str) -> Any:
    try:
        prepare = _PREPARE[name]
    except KeyError:
        raise AttributeError(name) from None
    prepare()
    return application
