"""What a name may be, and the form that it is kept in."""

from __future__ import annotations

import sys
import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.rules import names
from governance.rules.errors import FieldError

EVERY_CHARACTER = [chr(number) for number in range(sys.maxunicode + 1)]
FORMED = ("agent", "user")


@pytest.mark.parametrize("kind", names.KINDS)
@pytest.mark.parametrize(
    "odd",
    [
        *("\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b"),
        *("\u200b", "\u202e", "\u2066", "\ufeff", "\u2028", "\u2029", "\u00ad"),
        *("\ud800", "\udfff", "\ufffe", "\ue000", "\u3164", "\ufe0f", "\U000e0041", "\U000e0100"),
    ],
)
@pytest.mark.parametrize("form", ["{0}bot", "b{0}t", "bot{0}"])
def test_what_cannot_be_seen_is_in_no_name(kind: str, odd: str, form: str) -> None:
    with pytest.raises(FieldError, match=f"U\\+{ord(odd):04X} is: use letters") as refused:
        names.checked(kind, form.format(odd), field="x-name")
    assert refused.value.field == "x-name"


@pytest.mark.parametrize("kind", names.KINDS)
def test_a_name_of_its_most_characters_is_taken_and_a_longer_one_is_not(kind: str) -> None:
    most = names.KINDS[kind].most
    assert names.checked(kind, "a" * most) == "a" * most
    for length in (most + 1, most * 4, 3_000_000):
        with pytest.raises(FieldError, match=f"^may have at most {most} characters.$"):
            names.checked(kind, "a" * length)


def test_length_is_that_of_what_is_kept() -> None:
    assert names.checked("user", "e\u0301" * 200) == "é" * 200
    with pytest.raises(FieldError, match="at most 100"):
        names.checked("agent", "ß" * 60)


@pytest.mark.parametrize("value", [None, 7, True, ["bot"], {"a": 1}, b"bot"])
def test_only_a_string_is_a_name(value: object) -> None:
    with pytest.raises(FieldError, match="must be a string"):
        names.checked("user", value)


@pytest.mark.parametrize("spelled", ["bot", "Bot", "BOT", " bot ", "\u3000bot", "ｂｏｔ", "ｂＯｔ\xa0"])
def test_an_agent_is_one_whatever_its_case_and_width(spelled: str) -> None:
    assert names.checked("agent", spelled) == "bot"


@pytest.mark.parametrize(
    ("kind", "spelled", "kept"),
    [
        ("user", "Zoe\u0308", "Zoë"),
        ("user", " Zoë ", "Zoë"),
        ("session", "a  \xa0b", "a b"),
        ("task", "\u212b", "Å"),
        ("agent", "My  Agent", "my agent"),
        ("agent", "STRASSE", "strasse"),
        ("agent", "straße", "strasse"),
    ],
)
def test_a_name_is_one_however_it_is_spelled(kind: str, spelled: str, kept: str) -> None:
    assert names.checked(kind, spelled) == kept


@pytest.mark.parametrize("kind", ["user", "session", "task"])
@pytest.mark.parametrize(("one", "other"), [("aB3", "ab3"), ("bob", "Bob"), ("x²", "x2"), ("a-b", "a_b"), ("ﬁ", "fi")])
def test_two_people_are_not_one(kind: str, one: str, other: str) -> None:
    assert names.checked(kind, one) != names.checked(kind, other)


@pytest.mark.parametrize("kind", ["model", "request_id", "idempotency_key", "tool", "provider", "tenant"])
def test_what_machines_compare_is_taken_as_it_comes(kind: str) -> None:
    assert names.checked(kind, "Ze\u0308-A  b") == "Ze\u0308-A  b"
    for spaced in (" a", "a ", "a\xa0"):
        with pytest.raises(FieldError, match="white space"):
            names.checked(kind, spaced)


def test_the_form_of_every_character_is_a_name_in_that_form() -> None:
    for char in EVERY_CHARACTER:
        try:
            kept = names.checked("agent", char)
        except FieldError:
            continue
        if kept != char:
            assert names.checked("agent", kept) == kept, f"U+{ord(char):04X}"


@given(st.sampled_from(FORMED), st.text(max_size=40))
def test_the_form_is_a_form(kind: str, text: str) -> None:
    try:
        kept = names.checked(kind, text)
    except FieldError:
        return
    assert names.checked(kind, kept) == kept
    assert names.checked(kind, unicodedata.normalize("NFD", text)) == kept


def test_each_of_a_kind_is_nobodys_name() -> None:
    assert names.of_call("user", "a*") == "a*"
    with pytest.raises(FieldError, match="stands for each user"):
        names.of_call("user", " * ", field="x-user")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Zo\xc3\xab", "Zoë"),
        (b"Zo\xeb", "Zoë"),
        (b" \tbob ", "bob"),
        # Its last byte is white space in Latin-1.
        (b"voil\xc3\xa0", "voilà"),
        (b"bob\x85", "bob\x85"),
        (b"bob\x1f", "bob\x1f"),
    ],
)
def test_a_header_is_utf_8_or_else_latin_1(raw: bytes, text: str) -> None:
    assert names.from_header(raw) == text


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("user:bob per day", "user:bob per day"),
        ("user:Zoë", "user:Zo%C3%AB"),
        ("user:日本", "user:%E6%97%A5%E6%9C%AC"),
        ("user:50%", "user:50%25"),
        ("a,b", "a%2Cb"),
    ],
)
def test_a_name_comes_through_a_header_as_ascii(name: str, header: str) -> None:
    assert names.for_header(name) == header
    assert unquote(header) == name


def test_a_terminal_sees_the_number_of_what_would_move_its_cursor() -> None:
    assert names.printable("Zoë  ok") == "Zoë  ok"
    assert names.printable("a\x1b[2J\r\n\x9b\u202eb\U000e0041\ufe0f") == r"a\x1b[2J\x0d\x0a\x9b\u202eb\U000e0041\ufe0f"
    assert names.printable("a\n\x1b", keep="\n") == "a\n\\x1b"


@pytest.mark.parametrize(
    ("scope_type", "subject", "found"),
    [
        ("agent", "Bot", ("Bot", "bot")),
        ("agent", "acme/Bot", ("acme/Bot", "acme/bot")),
        ("agent", "Acme/Bot", ("Acme/Bot", "acme/bot", "Acme/bot")),
        ("user", "Bob", ("Bob",)),
        ("user", f"acme/{'u' * 200}", (f"acme/{'u' * 200}",)),
        ("tenant", "acme", ("acme",)),
        ("platform", "", ("",)),
    ],
)
def test_a_subject_is_looked_for_by_the_spellings_of_its_name(
    scope_type: str, subject: str, found: tuple[str, ...]
) -> None:
    assert names.spellings_of_subject(scope_type, subject) == found


def test_a_scopes_key_is_of_its_kind() -> None:
    assert names.scope_key("agent", "Bot ") == "bot"
    assert names.scope_key("user", "*") == "*"
    assert names.scope_key("platform", " * ") == "*"
    assert names.spellings_of_key("Bot ") == ("Bot", "bot")
    with pytest.raises(FieldError) as refused:
        names.scope_key("user", "a\x1b")
    assert refused.value.field == "scope_key"


def test_old_rows_are_looked_for_by_both_spellings() -> None:
    assert names.spellings("agent", " Bot") == ("bot", "Bot")
    assert names.spellings("agent", "bot") == ("bot",)
