from governance.rules.errors import Conflict, FieldError, Gone, Unknown


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
