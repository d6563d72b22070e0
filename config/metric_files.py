"""The files that processes keep their figures in (VAR_DIR/metrics), on a full disk, and damaged ones.

prometheus-client maps files that have holes: writing into one ends the process (SIGBUS) where the disk is full, with
all its calls. And it reads what is there: one damaged file makes every scrape fail. Here figures may be lost, and calls
and scrapes are not.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import struct
from collections.abc import Iterable

from prometheus_client import multiprocess, values
from prometheus_client.mmap_dict import MmapedDict

log = logging.getLogger(__name__)

FIRST_BYTES = 1 << 16
# Of a value beside its key, which is filled up to eight bytes: its length, value and time, and what fills it up.
BESIDE_KEY_BYTES = 4 + 16 + 8
DAMAGED = (ValueError, RuntimeError, IndexError, struct.error)
Value = tuple[str, float, float, int]


def install() -> None:
    """Before the first figure is kept: prometheus-client has no place to say which class it is to use."""
    values.MmapedDict = multiprocess.MmapedDict = ReservedFile  # type: ignore[attr-defined]


class ReservedFile(MmapedDict):
    """A file whose bytes the disk has given before they are mapped: where it has none that is an OSError."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            _begin(filename)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + BESIDE_KEY_BYTES > self._capacity:
            _reserve(self._f.fileno(), self._capacity, self._capacity)
            self._capacity *= 2
            self._m = mmap.mmap(self._f.fileno(), self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    @staticmethod
    def read_all_values_from_file(filename: str) -> Iterable[Value]:
        """Nothing where the file is damaged. Raises FileNotFoundError."""
        try:
            return _read(filename)
        except DAMAGED as error:
            log.warning("%s is damaged, and left out: %s", filename, error)
            return []


def _read(filename: str) -> list[Value]:
    found: list[Value] = []
    for value in MmapedDict.read_all_values_from_file(filename):  # type: ignore[no-untyped-call]
        if found and value[3] <= found[-1][3]:
            raise ValueError("a length is negative")
        match json.loads(value[0]):
            case [str(), str(), dict(), str()]:
                found.append(value)
            case _:
                raise ValueError("a key is none")
    return found


def _begin(filename: str) -> None:
    """Make the file, or begin anew where one of a process with the same number is damaged."""
    with open(filename, "a+b") as file:
        if os.fstat(file.fileno()).st_size:
            try:
                _read(filename)
            except DAMAGED:
                log.warning("%s is damaged, and begun anew", filename)
                file.truncate(0)
        if not os.fstat(file.fileno()).st_size:
            try:
                _reserve(file.fileno(), 0, FIRST_BYTES)
            except OSError:
                # Half of it would be taken for all of it.
                file.truncate(0)
                raise


def _reserve(handle: int, offset: int, count: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, offset, count)
    else:
        os.ftruncate(handle, offset + count)
