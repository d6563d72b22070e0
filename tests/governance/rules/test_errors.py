from decimal import Decimal
from pathlib import Path

import pytest

from governance.rules.errors import Conflict, FieldError, Gone, Unknown, own_of, quoted


def test_an_error_names_its_field_and_reads_as_its_message() -> None:
    error = Unknown("tenant", "there is no such tenant")

    assert (error.field, error.message, str(error)) == ("tenant", "there is no such tenant", "there is no such tenant")
    assert isinstance(error, FieldError)


def test_a_conflict_has_the_row_that_is_there_already() -> None:
    row = object()
    error = Conflict("name", "there is one already", existing=row)

    assert (error.field, str(error), error.existing) == ("name", "there is one already", row)
    assert Conflict("name", "there is one already").existing is None


def test_what_is_gone_names_no_field() -> None:
    error = Gone("the budget has just been deleted")

    assert (error.field, str(error)) == ("", "the budget has just been deleted")


def test_each_of_several_has_an_error_of_its_own_that_says_the_same() -> None:
    with pytest.raises(Gone) as raised:
        raise Gone("the budget has just been deleted")
    own = own_of(raised.value)

    assert own is not raised.value
    assert (type(own), own.args, own.field, str(own)) == (Gone, raised.value.args, "", str(raised.value))
    assert (own.__traceback__, own.__cause__, own.__context__) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ab", "'ab'"),
        ("a'b", '"a\'b"'),
        (Path("a"), '"a"'),
        (Decimal("0.12345"), "0.12345"),
        (None, "null"),
        (True, "true"),
        ([1, "x"], '[1, "x"]'),
    ],
)
def test_a_refused_value_is_quoted_as_it_was_sent(value: object, said: str) -> None:
    assert quoted(value) == said
