"""Bounds of the JSON that anybody may send."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from governance.rules.json_bounds import BeyondBounds, JsonBounds, check, check_text

SMALL = JsonBounds(depth=3, values=10, fields=4, characters=20, name_characters=8)


def refused(value: Any, *, storable: bool = False) -> str:
    with pytest.raises(BeyondBounds) as raised:
        check(value, SMALL, storable=storable)
    return raised.value.sentence


class TestText:
    """What is too much to be parsed at all."""

    @pytest.mark.parametrize(
        "value", [{}, {"a": [1, 2]}, {"a": "x,[{" * 50}, list(range(10)), {"a": {"b": {"c": {}}}}, {"a": '\\"[[[,' * 9}]
    )
    def test_what_is_within_its_bounds_passes(self, value: Any) -> None:
        check_text(json.dumps(value).encode(), SMALL)

    @pytest.mark.parametrize(
        ("value", "field"),
        [
            ({"a": list(range(12))}, "a"),
            ({"a": 1, "b": [[] for _ in range(12)]}, "b"),
            (list(range(12)), ""),
            ({"a": ["x"] * 12}, "a"),
        ],
    )
    def test_too_many_values_are_refused_with_the_field_that_holds_them(self, value: Any, field: str) -> None:
        with pytest.raises(BeyondBounds, match="at most 10 values") as raised:
            check_text(json.dumps(value).encode(), SMALL)
        assert raised.value.field == field

    def test_what_closes_again_is_no_deeper_for_it(self) -> None:
        check_text(b'{"a": "' + b"," * 30 + b'", "b": [[],[],[]]}', SMALL)


class TestParsed:
    def test_what_is_within_its_bounds_passes(self) -> None:
        check({"a": [1, "x" * 20, {"b": None}], "c": "\x00"}, SMALL)

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ({"a": {"b": [[1]]}}, "`a.b.0` is nested deeper than 3 levels."),
            ({"a": list(range(12))}, "`a` holds too much: the body may have at most 10 values."),
            ({"a": {str(n): 1 for n in range(5)}}, "`a` may have at most 4 fields."),
            ({str(n): 1 for n in range(5)}, "The body may have at most 4 fields."),
            ({"a": ["", "x" * 21]}, "`a.1` may have at most 20 characters."),
            ({"n" * 9: 1}, "The body may have no field whose name has more than 8 characters."),
            ("x" * 21, "The body may have at most 20 characters."),
        ],
    )
    def test_what_is_beyond_is_named_with_its_bound(self, value: Any, sentence: str) -> None:
        assert refused(value) == sentence

    @pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x\udfff"])
    def test_what_no_database_takes_is_refused_where_it_is_to_be_stored(self, text: str) -> None:
        assert refused({"a": text}, storable=True) == "`a` may not have NUL or half a surrogate pair in it."
        assert refused({text: 1}, storable=True).startswith("The body may have no field with NUL")
        check({"a": text}, SMALL)

    def test_what_a_database_takes_passes(self) -> None:
        check({"ä": "😀"}, SMALL, storable=True)

    @pytest.mark.parametrize("value", ["\ud800", "x\udfff", 2**64, -(2**63) - 1, Decimal("9" * 200)])
    def test_what_cannot_be_written_for_everybody_is_refused_where_it_is_sent_on(self, value: Any) -> None:
        with pytest.raises(BeyondBounds, match=r"^may not have (half a surrogate|a whole number beyond 64)") as raised:
            check({"a": [1, value]}, SMALL, writable=True)
        assert raised.value.field == "a.1"
        check({"a": value}, SMALL)

    @pytest.mark.parametrize("value", [Decimal("1e400"), Decimal("-1.5e999")])
    def test_a_number_that_few_can_read_is_refused_where_it_is_sent_on(self, value: Decimal) -> None:
        with pytest.raises(BeyondBounds, match=r"^may not have a number that is too large in it\.$"):
            check({"a": value}, SMALL, writable=True)

    @pytest.mark.parametrize(
        "value", ["a\x00", "😀", 2**64 - 1, -(2**63), 1.5, Decimal("0.1"), Decimal("-1e300"), True, None]
    )
    def test_what_can_be_written_passes(self, value: Any) -> None:
        check({"a": value}, SMALL, writable=True)
