"""Files of figures on a full disk, and damaged ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import multiprocess, values
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from config.metric_files import FIRST_BYTES, ReservedFile

KEY = mmap_key("calls", "calls_total", ["model"], ["m"], "Calls.")  # type: ignore[no-untyped-call]


@contextmanager
def opened(path: Path) -> Iterator[ReservedFile]:
    file = ReservedFile(str(path))
    yield file
    file.close()  # type: ignore[no-untyped-call]


def write(path: Path, count: float, *, keys: int = 1) -> None:
    with opened(path) as file:
        for number in range(keys):
            key = KEY if not number else KEY.replace('"m"', f'"{number}"')
            file.write_value(key, count, 0.0)  # type: ignore[no-untyped-call]


def scraped(folder: Path) -> dict[str, float]:
    collector = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
    return {
        sample.labels["model"]: sample.value
        for metric in collector.collect()  # type: ignore[no-untyped-call]
        for sample in metric.samples
    }


def test_the_product_uses_them() -> None:
    assert values.MmapedDict is multiprocess.MmapedDict is ReservedFile  # type: ignore[attr-defined]


def test_the_disk_has_given_all_that_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    write(path, 1.0, keys=2_000)
    held = os.stat(path)
    assert held.st_size > FIRST_BYTES
    assert held.st_blocks * 512 >= held.st_size
    # As any other does.
    assert scraped(tmp_path)["1999"] == 1.0
    with opened(path) as again:
        assert again.read_value(KEY)[0] == 1.0  # type: ignore[no-untyped-call]


def test_a_full_disk_is_an_error_and_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "counter_1.db", 1.0, keys=100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "counter_2.db", 1.0)
    with opened(tmp_path / "counter_1.db") as file:
        with pytest.raises(OSError, match="No space left"):
            file.write_value("x" * FIRST_BYTES, 1.0, 0.0)  # type: ignore[no-untyped-call]
        file.write_value(KEY, 2.0, 0.0)  # type: ignore[no-untyped-call]
    # The empty file is damaged to whoever reads it.
    assert scraped(tmp_path)["m"] == 2.0


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x01",
        b"\xff\xff\xff\x7f" + bytes(60),
        b"\x30\x00\x00\x00" + bytes(4) + b"\x9c\xff\xff\xff" + bytes(60),
        b"\x40\x00\x00\x00" + bytes(4) + b"\x04\x00\x00\x00\xff\xfe\xfd\xfc" + bytes(60),
        b"\x40\x00\x00\x00" + bytes(4) + b"\x04\x00\x00\x00nope" + bytes(60),
        b"\x40\x00\x00\x00" + bytes(4) + b"\x04\x00\x00\x00[1] " + bytes(60),
        b"\x40\x00\x00\x00" + bytes(4) + b"\x04\x00\x00\x001234" + bytes(60),
    ],
)
def test_a_damaged_file_is_left_out_and_begun_anew(damage: bytes, tmp_path: Path) -> None:
    write(tmp_path / "counter_1.db", 3.0)
    damaged = tmp_path / "counter_2.db"
    damaged.write_bytes(damage)
    assert scraped(tmp_path) == {"m": 3.0}
    write(damaged, 4.0)
    assert scraped(tmp_path) == {"m": 7.0}
