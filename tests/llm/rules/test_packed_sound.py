"""Frames of codecs are found where plain samples are said to be, and plain sound is none."""

from __future__ import annotations

import math
import random
import struct

import pytest

from llm.rules import packed_sound

WORDS = [
    b"\x7f\xfe\x80\x01",
    b"\xfe\x7f\x01\x80",
    b"\x1f\xff\xe8\x00\x07\xf1",
    b"\xff\x1f\x00\xe8\xf1\x07",
    b"\x64\x58\x20\x25",
    b"\xf8\x72\x4e\x1f",
    b"\x72\xf8\x1f\x4e",
    b"\xf8\x72\x6f\xba",
]


def framed(head: bytes, size: int) -> bytes:
    return head + b"\x2a" * (size - len(head))


def aac(size: int) -> bytes:
    return framed(b"\xff\xf1\x6c" + (size << 5 | 0x1F).to_bytes(3), size)


def swapped(data: bytes) -> bytes:
    return b"".join(data[at : at + 2][::-1] for at in range(0, len(data), 2))


AC3 = framed(b"\x0b\x77\0\0\x02\x40", 160)
FRAMES = {
    "mp3": framed(b"\xff\xfb\x90\xc4", 417),
    "mp3, padded": framed(b"\xff\xfa\x93\xc4", 418),
    "mp3, half the rate": framed(b"\xff\xf3\x14\xc4", 24),
    "mp3, a quarter": framed(b"\xff\xe3\x18\xc4", 72),
    "mp2": framed(b"\xff\xfd\x84\xc4", 384),
    "mp1": framed(b"\xff\xff\x48\xc4", 192),
    "aac": aac(9),
    "latm": framed(b"\x56\xe0\x0d", 16),
    "ac-3 at 48,000": AC3,
    "ac-3 at 44,100": framed(b"\x0b\x77\0\0\x45\x40", 210),
    "ac-3 at 32,000": framed(b"\x0b\x77\0\0\x80\x40", 192),
    "ac-3, the other way round": swapped(AC3),
    "ac-3 of a card": b"\x01\x10" + bytes(14) + AC3,
    "e-ac-3": framed(b"\x0b\x77\x00\x1f\x3f\x80", 64),
}


def samples(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}h", *(max(-32_768, min(32_767, int(value))) for value in values))


def noise(loudness: float, n: int = 40_000) -> bytes:
    chance = random.Random(7)
    return samples([chance.gauss(0, loudness) for _ in range(n)])


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("before", [b"", bytes(5_001), b"\x01" * 5_001], ids=["first", "after silence", "within"])
def test_a_run_of_frames_is_packed_sound(frame: bytes, before: bytes) -> None:
    assert packed_sound.is_packed(before + frame * 20)


@pytest.mark.parametrize("kind", ["mp3", "aac", "latm", "ac-3 at 48,000"])
def test_three_frames_at_the_beginning_are_enough_and_two_anywhere_are_not(kind: str) -> None:
    assert packed_sound.is_packed(FRAMES[kind] * 3)
    assert not packed_sound.is_packed(b"\x01" * 51 + FRAMES[kind] * 2 + bytes(5_000))


@pytest.mark.parametrize("word", WORDS)
def test_marks_that_no_sound_has_three_times_are_packed_sound(word: bytes) -> None:
    apart = word + b"\x01" * 500
    assert packed_sound.is_packed(apart * 3)
    assert not packed_sound.is_packed(apart * 2)


def test_a_tag_before_it_is_none_of_a_sound() -> None:
    assert packed_sound.is_packed(bytes(4) + b"ID3\x04" + bytes(100))


@pytest.mark.parametrize("loudness", [0, 1, 4, 10, 40, 200, 1_000, 8_000, 40_000])
def test_noise_is_plain_sound_however_quiet(loudness: int) -> None:
    assert not packed_sound.is_packed(noise(loudness))


@pytest.mark.parametrize("loudness", [3, 10, 30])
def test_so_is_as_much_of_it_as_is_looked_at(loudness: int) -> None:
    assert not packed_sound.is_packed(noise(loudness, packed_sound.LOOKED_AT_BYTES // 2))


@pytest.mark.parametrize("head", [b"\xff\xf1", b"\x56\xff", b"\xff\xf1\x50\x80\x00\x1f\xfc"])
def test_nothing_but_heads_is_no_sound_and_is_not_followed(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packed_sound.is_packed(head * (packed_sound.LOOKED_AT_BYTES // len(head)))
    monkeypatch.setattr(packed_sound, "MOST_SYNCS", packed_sound.LOOKED_AT_BYTES)
    assert not packed_sound.is_packed(head * (packed_sound.LOOKED_AT_BYTES // len(head)))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("hertz", [440, 997, 2_000])
@pytest.mark.parametrize("loudness", [20, 300, 9_000, 32_767])
def test_a_tone_is_plain_sound(hertz: int, rate: int, loudness: int) -> None:
    """But one that repeats itself to the byte may look like frames, to ffmpeg as well: nobody speaks so."""
    tone = [loudness * math.sin(2 * math.pi * hertz * at / rate) for at in range(8_000)]
    assert not packed_sound.is_packed(samples(tone))


@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xD5, 0xFF])
def test_silence_is_plain_sound_in_every_kind_of_samples(byte: int) -> None:
    assert not packed_sound.is_packed(bytes([byte]) * 100_000)


def test_chance_is_plain_sound() -> None:
    assert not packed_sound.is_packed(random.Random(3).randbytes(200_000))


@pytest.mark.parametrize("end", [b"\xff", b"\xff\xf1", b"\x56\xe0", b"\x0b\x77\x00", b"\x77\x0b\x00", b"\xff\xfb\x90"])
def test_a_head_that_is_cut_off_begins_no_frame(end: bytes) -> None:
    assert not packed_sound.is_packed(b"\x01" * 100 + end)


@pytest.mark.parametrize(
    "head",
    [
        # A rate that none has.
        b"\x0b\x77\0\0\xc0\x40",
        # More than the most bits a second.
        b"\x0b\x77\0\0\x3f\x40",
    ],
)
def test_heads_that_make_no_sense_begin_no_run(head: bytes) -> None:
    assert not packed_sound.is_packed(framed(head, 160) * 20)
