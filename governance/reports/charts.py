"""What was spent each day, as a picture that a message carries."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

# As it is shown on a desk; drawn at twice the size, for screens with fine dots. A phone shows half of it.
WIDTH, HEIGHT, SCALE = 600, 200, 2
TOP, BOTTOM = 30, 28
# Readable on white and on black: mail programs put either behind it.
BAR, QUIET, INK = (99, 102, 241, 255), (148, 151, 162, 110), (134, 138, 149, 255)
# Labels are no nearer to each other than this.
LABEL_WIDTH = 50


@dataclass(frozen=True, slots=True)
class ChartBar:
    """One day: its label, its amount in words, and in nanodollars, which may be below zero after a correction."""

    label: str
    amount: str
    nanos: int


def png(bars: Sequence[ChartBar]) -> bytes:
    """Bars from left to right on nothing (transparent), the highest with its amount above it."""
    # It takes a moment to load: where it draws, and in no other process.
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGBA", (WIDTH * SCALE, HEIGHT * SCALE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14 * SCALE)
    floor, step = (HEIGHT - BOTTOM) * SCALE, WIDTH * SCALE / len(bars)
    most = max(1, *(bar.nanos for bar in bars))
    width = step * 0.68
    every = max(1, -(-LABEL_WIDTH * SCALE // int(step)))
    highest = max(range(len(bars)), key=lambda n: bars[n].nanos)
    draw.line((0, floor, WIDTH * SCALE, floor), fill=QUIET, width=SCALE)
    for number, bar in enumerate(bars):
        middle = step * (number + 0.5)
        height = max(0, bar.nanos) * (floor - TOP * SCALE) // most
        if height > 0:
            top = min(floor - height, floor - SCALE)
            box = (middle - width / 2, top, middle + width / 2, floor - 1)
            draw.rounded_rectangle(box, radius=3 * SCALE, fill=BAR, corners=(True, True, False, False))
        if number % every == 0:
            draw.text((middle, floor + 5 * SCALE), bar.label, font=font, fill=INK, anchor="ma")
        if number == highest and bar.nanos > 0:
            half = draw.textlength(bar.amount, font=font) / 2
            at = min(max(middle, half), WIDTH * SCALE - half)
            draw.text((at, floor - height - 4 * SCALE), bar.amount, font=font, fill=INK, anchor="ms")
    kept = io.BytesIO()
    picture.save(kept, format="PNG", optimize=True)
    return kept.getvalue()
