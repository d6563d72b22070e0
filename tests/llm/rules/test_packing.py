"""Bodies that come packed although nobody asked for it."""

from __future__ import annotations

import gzip
import zlib

import pytest

from llm.rules.packing import Packing

TEXT = b'{"usage": {}}' * 100


def undone(data: bytes, *, by: int = 7, most_bytes: int = 10_000) -> tuple[bytes, Packing]:
    packing, found = Packing(), b""
    for start in range(0, len(data), by):
        found += packing.undo(data[start : start + by], most_bytes=most_bytes)
    return found, packing


@pytest.mark.parametrize("by", [1, 7, 10_000])
@pytest.mark.parametrize("layers", [0, 1, 4])
def test_whatever_the_pieces_the_text_comes_out(layers: int, by: int) -> None:
    data = TEXT
    for _ in range(layers):
        data = gzip.compress(data)
    found, packing = undone(data, by=by)
    assert (found, packing.is_cut) == (TEXT, False)


def test_what_was_packed_more_often_stays_packed() -> None:
    data = TEXT
    for _ in range(5):
        data = gzip.compress(data)
    assert undone(data)[0] == gzip.compress(TEXT)


def test_several_one_behind_the_other_are_one() -> None:
    found, packing = undone(gzip.compress(b"a") + gzip.compress(b"b"), by=10_000)
    assert (found, packing.is_cut) == (b"ab", False)


@pytest.mark.parametrize("length", [1, 20, 40])
def test_one_that_is_not_all_there_is_cut(length: int) -> None:
    assert undone(gzip.compress(TEXT)[:length])[1].is_cut


def test_no_more_is_looked_at_than_is_asked_for() -> None:
    bomb = gzip.compress(bytes(1_000_000))
    assert len(undone(bomb, by=len(bomb), most_bytes=1_000)[0]) == 1_000


def test_a_broken_one_is_an_error() -> None:
    with pytest.raises(zlib.error):
        undone(b"\x1f\x8b" + b"x" * 50)
