"""docs/guards.md names real tests."""

import re

import pytest

from tests.environment import ROOT

NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::((?:\w+::)?test_\w+)`", (ROOT / "docs" / "guards.md").read_text())))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_test_that_proves_a_guard_is_there(file: str, name: str) -> None:
    text = (ROOT / "tests" / file).read_text()
    assert all(re.search(rf"^\s*(?:async )?(?:def|class) {part}\b", text, re.MULTILINE) for part in name.split("::"))


def test_there_are_guards() -> None:
    assert len(NAMED) > 20
