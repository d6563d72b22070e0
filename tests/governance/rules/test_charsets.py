from __future__ import annotations

import pytest

from governance.rules import charsets


@pytest.mark.parametrize("kind", ["", "text/csv", "a/b; charset=utf-8", 'a/b; charset="UTF8"', "a" * charsets.LONGEST])
def test_what_is_utf_8_or_says_nothing_is_right(kind: str) -> None:
    assert charsets.problem(kind) == ""


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("a/b; charset=latin-1", "utf-8"), ("a/b; charset=utf-8; charset=bz2", "utf-8"), ("a" * 1_001, "1,000")],
)
def test_another_charset_or_a_type_without_end_is_wrong(kind: str, problem: str) -> None:
    assert problem in charsets.problem(kind)
