"""Compressed sound where a header says plain samples. Pure.

ffmpeg, which many endpoints read sound with, looks at the first samples of a WAV whatever its header says, and where
they are frames of a codec it decodes them as such (libavformat: `request_probe` in wavdec.c, `ff_spdif_probe`). So a
minute that the header tells of may be hours. What is taken for frames here is more than what ffmpeg takes for them, and
hardly any sound that is recorded: a run of frames, each of which begins where the one before it says that it ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

# More than the 32 packets of a tenth of a second that ffmpeg looks at, at 48,000 Hz in two channels.
LOOKED_AT_BYTES = 2**20
# Frames at the very beginning show enough: ffmpeg asks for as many of AAC, and for more of others.
FIRST_FRAMES = 3
# Quiet noise has some twenty thousand places that look like a frame's beginning, other sound a few hundred; to follow
# half a million takes a second.
MOST_SYNCS = 2**16

_MPEG1 = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_MPEG2 = {
    1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = (44_100, 48_000, 32_000)
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
# DTS in its four kinds of words and its lossless part, S/PDIF both ways round, TrueHD.
_WORDS = re.compile(
    rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\x00\x07[\xf0-\xff]|\xff\x1f\x00\xe8[\xf0-\xff]\x07|\x64\x58\x20\x25"
    rb"|\xf8\x72\x4e\x1f|\x72\xf8\x1f\x4e|\xf8\x72\x6f\xba"
)
_MOST_WORDS = 2


def is_packed(samples: bytes) -> bool:
    """Whether a reader may take what is said to be plain samples for something else."""
    samples = samples[:LOOKED_AT_BYTES]
    sound = samples.lstrip(b"\0")
    # A tag is passed over, and what comes behind it is looked at as if it were first.
    if sound.startswith(b"ID3") or len(_WORDS.findall(samples)) > _MOST_WORDS:
        return True
    return any(_runs(sound, sync, sizes, enough) for sync, sizes, enough in _CODECS)


def _runs(sound: bytes, sync: re.Pattern[bytes], sizes: Callable[[bytes], tuple[int, ...]], enough: int) -> bool:
    """Whether so many frames follow each other anywhere, or FIRST_FRAMES do from the beginning.

    From the end on, so that each place is looked at once. Of more places than any sound has nobody knows.
    """
    places = [found.start() for found in islice(sync.finditer(sound), MOST_SYNCS + 1)]
    if len(places) > MOST_SYNCS:
        return True
    runs: dict[int, int] = {}
    run = 0
    for at in reversed(places):
        run = 1 + max(runs.get(at + size, 0) for size in sizes(sound[at : at + 6]))
        if run >= enough or (at == 0 and run >= FIRST_FRAMES):
            return True
        runs[at] = run
    return False


def _mpeg_sizes() -> dict[int, int]:
    """The bytes of a frame of MPEG audio of each layer (MP3 is the third), by the second and third byte of its head."""
    sizes = {}
    for version, halves, table in ((3, 0, _MPEG1), (2, 1, _MPEG2), (0, 2, _MPEG2)):
        for layer, kbits in table.items():
            for index, bits in enumerate(kbits, 1):
                for code, rate in enumerate(_MPEG_RATES):
                    for padding in (0, 1):
                        hertz = rate >> halves
                        if layer == 1:
                            size = (bits * 12_000 // hertz + padding) * 4
                        else:
                            size = bits * 144_000 // (hertz << (layer == 3 and halves > 0)) + padding
                        second = 0xE0 | version << 3 | (4 - layer) << 1
                        third = index << 4 | code << 2 | padding << 1
                        sizes[second << 8 | third] = size
    return sizes


_MPEG_SIZES = _mpeg_sizes()


def _of_mpeg(head: bytes) -> tuple[int, ...]:
    # Whether there is a checksum, and a private bit, change no size.
    return (_MPEG_SIZES.get((head[1] << 8 | head[2]) & 0xFEFE, 0),)


def _of_aac(head: bytes) -> tuple[int, ...]:
    return ((int.from_bytes(head[3:6]) >> 5) & 0x1FFF,)


def _of_latm(head: bytes) -> tuple[int, ...]:
    return ((int.from_bytes(head[:3]) & 0x1FFF) + 3,)


def _of_ac3(head: bytes) -> tuple[int, ...]:
    """Of AC-3 and E-AC-3, also in words the other way round; cards that record it put 16 bytes before each frame."""
    if head[0] == 0x77:
        head = bytes(head[at ^ 1] for at in range(len(head) & ~1))
    if len(head) < 6:
        return (0,)
    if head[5] >> 3 > 10:
        size = ((int.from_bytes(head[2:4]) & 0x7FF) + 1) * 2
    else:
        code, index = head[4] >> 6, head[4] & 0x3F
        kbits = _AC3_KBITS[min(index // 2, len(_AC3_KBITS) - 1)]
        size = (kbits * 4, (320 * kbits // 147 + index % 2) * 2, kbits * 6, 0)[code]
    return size, size + 16


# What a frame begins with, how long it is by its head, and how many in a run are no chance: quiet sound has many
# samples that look like the first two.
_CODECS = (
    (re.compile(rb"\xff(?=[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xeb])"), _of_mpeg, 16),
    (re.compile(rb"\xff(?=[\xf0\xf1\xf8\xf9])"), _of_aac, 16),
    (re.compile(rb"\x56(?=[\xe0-\xff])"), _of_latm, 6),
    (re.compile(rb"\x0b(?=\x77)|\x77(?=\x0b)"), _of_ac3, 3),
)
