"""Names that come from outside: what one may be, and the form in which it is kept. Pure.

They are checked once, where they come in, by this one table: whoever names an agent, a user or a model in a header, a
body, a command, a form or a file is told the same. What is kept can go into a header, a log line, a terminal and either
database as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from governance.rules.errors import FieldError

# Says "each one of this kind" where a rule names its scope, so nobody is called that.
EACH = "*"
# Shown as nothing at all, although Unicode calls them letters and marks: two names would look like one.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
# What a header can hold as it is, but for what is written in its place, and what stands between two names.
_OF_HEADERS = "".join(map(chr, range(0x20, 0x7F))).replace("%", "").replace(",", "")
# A composed letter is at most so many characters of what comes in.
_MOST_PARTS = 4


@dataclass(frozen=True, slots=True)
class NameKind:
    """`most`: characters, of what is kept. `form`: how a name is brought into the form that is kept."""

    most: int
    form: Callable[[str], str]


def _verbatim(text: str) -> str:
    """Machines compare these by every character, so they are taken as they come."""
    return text


def composed(text: str) -> str:
    """One text however it is encoded (Unicode's NFC), without white space that nobody sees.

    Case stays: "aB3" and "ab3" may be the ids of two people.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def _folded(text: str) -> str:
    """One name whatever its case and width (Unicode's NFKC and case folding), as identifiers are compared."""
    while (again := composed(unicodedata.normalize("NFKC", text).casefold())) != text:
        text = again
    return text


KINDS = {
    "agent": NameKind(100, _folded),
    "user": NameKind(200, composed),
    "session": NameKind(200, composed),
    "task": NameKind(200, composed),
    # What people read beside a tenant or a key.
    "label": NameKind(200, composed),
    "tenant": NameKind(50, _verbatim),
    "key": NameKind(16, _verbatim),
    "provider": NameKind(40, _verbatim),
    "model": NameKind(120, _verbatim),
    "strategy": NameKind(100, _verbatim),
    "tool": NameKind(200, _verbatim),
    "request_id": NameKind(100, _verbatim),
    "idempotency_key": NameKind(255, _verbatim),
}
# What a call names beside its key.
OF_A_CALL = ("agent", "user", "session", "task")


def checked(kind: str, text: Any, *, field: str = "") -> str:
    """A name in the form that is kept; empty where it is none. `field` is what the FieldError that is raised names."""
    field, most = field or kind, KINDS[kind].most
    if not isinstance(text, str):
        raise FieldError(field, "must be a string.")
    if len(text) > most * _MOST_PARTS:
        raise FieldError(field, _too_long(most))
    if not (text.isascii() and text.isprintable()):
        _refuse_unprintable(text, field)
    name = KINDS[kind].form(text)
    if len(name) > most:
        raise FieldError(field, _too_long(most))
    if name != name.strip():
        raise FieldError(field, "may not begin or end with white space.")
    return name


def of_call(kind: str, text: Any, *, field: str = "") -> str:
    """The same for what a call names, where "*" would name nobody."""
    name = checked(kind, text, field=field)
    if name == EACH:
        raise FieldError(field or kind, f"may not be {EACH}: that stands for each {kind}.")
    return name


def spellings(kind: str, text: Any, *, field: str = "") -> tuple[str, ...]:
    """What to look for to find a name: the form that is kept, and what rows from before it was may have."""
    return tuple(dict.fromkeys((checked(kind, text, field=field), text.strip())))


def scope_key(scope_type: str, text: str, *, field: str = "scope_key") -> str:
    """The key of a rule's scope in the form that calls are matched by, or `*`."""
    return checked(scope_type, text, field=field) if scope_type in KINDS else text.strip()


def spellings_of_key(text: str, *, field: str = "scope_key") -> tuple[str, ...]:
    """The same as `spellings` for a key whose kind is not said."""
    found = spellings("user", text, field=field)
    return tuple(dict.fromkeys((*found, _folded(text))))


def spellings_of_subject(scope_type: str, text: str, *, field: str = "subject") -> tuple[str, ...]:
    """The same for whom a window is for: a key, which a platform's budget puts behind "tenant/"."""
    if scope_type not in OF_A_CALL:
        return (text,)
    tenant, slash, key = text.rpartition("/")
    whole = (text, checked(scope_type, text, field=field)) if len(text) <= KINDS[scope_type].most else (text,)
    return tuple(dict.fromkeys((*whole, f"{tenant}{slash}{checked(scope_type, key, field=field)}")))


def from_header(raw: bytes) -> str:
    """A header's text: UTF-8, as clients of today send it, else Latin-1, as HTTP once had it."""
    raw = raw.strip(b" \t")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def for_header(text: str) -> str:
    """A name for a header of an answer: ASCII, what is not of it percent-encoded as UTF-8, and so are "%" and ",".

    Bytes beyond ASCII are read as Latin-1 by one client and as UTF-8 by the next; a decoded URL component is one text.
    """
    return quote(text, safe=_OF_HEADERS)


def printable(text: str, *, keep: str = "") -> str:
    """A text for a terminal or a log: what would move its cursor, or be seen as nothing, is written as its number."""
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(char if char in keep or not _is_unprintable(char) else _escaped(char) for char in text)


def _too_long(most: int) -> str:
    return f"may have at most {most} characters."


def _refuse_unprintable(text: str, field: str) -> None:
    found = next(filter(_is_unprintable, text), None)
    if found is not None:
        raise FieldError(
            field,
            f"may not have control characters, or others that cannot be seen, as U+{ord(found):04X} is:"
            " use letters, digits, punctuation and spaces.",
        )


def _is_unprintable(char: str) -> bool:
    """Control, formatting, lone surrogates, without a meaning, the ends of lines, and what is shown as nothing."""
    category = unicodedata.category(char)
    return category[0] == "C" or category in ("Zl", "Zp") or _INVISIBLE.match(char) is not None


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
