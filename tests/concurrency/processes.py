"""Real processes and threads that start together.

Processes are forked, so that they begin within a millisecond of each other with Django loaded; each opens
connections of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from django.db import connections

FORK = multiprocessing.get_context("fork")
TIMEOUT_S = 60


def in_processes(count: int, work: Callable[[int], Any]) -> list[Any]:
    """`work(0)` ... `work(count - 1)`, each in a process of its own, let go at one moment; their results in order."""
    let_go_of_connections()
    barrier = FORK.Barrier(count)
    pipes = [FORK.Pipe(duplex=False) for _ in range(count)]
    children = [
        FORK.Process(target=_child, args=(work, index, barrier, ours), daemon=True)
        for index, (_, ours) in enumerate(pipes)
    ]
    for child in children:
        child.start()
    try:
        return [_answer(theirs) for theirs, _ in pipes]
    finally:
        for child in children:
            child.join(5)
            child.kill()


def kill_at(owner: Any, name: str, work: Callable[[], Any]) -> None:
    """Work in a process of its own, which is killed as it comes to what is called so."""
    let_go_of_connections()

    def until_then() -> None:
        setattr(owner, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
        work()

    child = FORK.Process(target=until_then, daemon=True)
    child.start()
    child.join(TIMEOUT_S)
    assert child.exitcode == -signal.SIGKILL


def let_go_of_connections() -> None:
    """Close this process's connections and its pool: what is open at a fork would be shared by both sides."""
    connections.close_all()
    if connections["default"].vendor == "postgresql":
        connections["default"].close_pool()  # type: ignore[attr-defined]


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """`work(0)` ... `work(count - 1)`, each on a thread of its own, let go at one moment; their results in order."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        try:
            barrier.wait(TIMEOUT_S)
            results[index] = work(index)
        except BaseException as error:
            results[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _child(work: Callable[[int], Any], index: int, barrier: Any, pipe: Connection) -> None:
    try:
        barrier.wait(TIMEOUT_S)
        pipe.send((work(index), ""))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
    finally:
        connections.close_all()


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(TIMEOUT_S):
        raise AssertionError("a process did not answer")
    result, failure = pipe.recv()
    if failure:
        raise AssertionError(f"in a process:\n{failure}")
    return result
