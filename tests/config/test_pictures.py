"""The console's pictures in the documents: those that `make pictures` takes, small, and each shown to somebody."""

from __future__ import annotations

import pytest

from tests.browser import pictures
from tests.environment import ROOT

LARGEST_BYTES, ALL_BYTES = 150_000, 2_500_000
TEXT = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/console.md"))


def test_pictures_are_those_that_are_taken_and_few_bytes() -> None:
    sizes = {path.stem: path.stat().st_size for path in pictures.FOLDER.iterdir()}
    assert sorted(sizes) == sorted(picture.name for picture in pictures.PICTURES)
    assert {name: size for name, size in sizes.items() if size > LARGEST_BYTES} == {}
    assert sum(sizes.values()) <= ALL_BYTES


@pytest.mark.parametrize("name", [picture.name for picture in pictures.PICTURES])
def test_a_picture_is_shown(name: str) -> None:
    assert f"console/{name}.png" in TEXT
