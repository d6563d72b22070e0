"""Forms (multipart/form-data): which fields a body has, and a body that has them. Pure, but for the boundary.

Readers of forms differ in more than can be told, from each other and from one version to the next. So a form goes on
written anew from what was read in it, in the plainest way there is, between boundaries that nobody outside can know.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from governance.rules import charsets
from llm.rules.request_checks import DialectError

# A form of a transcription has a dozen fields.
MOST_FIELDS = 200
WRONG_CHARSET = "unsupported_charset"
# A part may say that it is encoded; nobody does, and what it says would have to be undone first.
_PLAIN_ENCODINGS = frozenset({b"", b"binary", b"8bit", b"7bit"})
# Names that every reader takes as they are. A provider may look at how a file's name ends, and at its type.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}(\[\])?")
_UNSAFE_IN_FILENAME = re.compile(r"[^A-Za-z0-9 ._()-]")
_TYPE = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+")
_LONGEST_FILENAME = 100


@dataclass(frozen=True, slots=True)
class Field:
    """One field; its value is `body[start:stop]`. `filename`: None where it is no file."""

    name: str
    start: int
    stop: int
    filename: str | None = None
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class WrittenForm:
    """`values` says where in the body each field's is, by its place among the fields."""

    body: bytes
    content_type: str
    values: Sequence[tuple[int, int]]


def read(body: bytes, content_type: str) -> list[Field]:
    """The fields of a form, in order. Raises DialectError."""
    boundary = _boundary(content_type)
    if not boundary:
        raise DialectError("Send this as multipart/form-data.", "content-type", "invalid_content_type")
    if not body.startswith(b"--" + boundary + b"\r\n"):
        raise _malformed("it does not begin with its boundary")
    # Blanks behind a boundary, and lines that only begin like one, no writer has; they cost the parser much time.
    behind = [body[found.end() : found.end() + 2] for found in islice(_delimiters(body, boundary), MOST_FIELDS + 1)]
    if len(behind) > MOST_FIELDS:
        raise _malformed(f"it has more than {MOST_FIELDS} fields")
    if not set(behind) <= {b"\r\n", b"--"}:
        raise _malformed("something stands behind a boundary")
    reader = _Reader()
    try:
        MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin,
                "on_part_data": reader.data,
                "on_part_end": reader.end,
                "on_header_field": reader.header_name,
                "on_header_value": reader.header_value,
                "on_end": reader.finish,
            },
        ).write(body)
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if not reader.finished:
        raise _malformed("it breaks off")
    return reader.fields


def _delimiters(body: bytes, boundary: bytes) -> Iterator[re.Match[bytes]]:
    return re.finditer(rb"\r\n--" + re.escape(boundary), body)


def write(fields: Sequence[Field], body: bytes) -> WrittenForm:
    """A form of these fields of a body that was read, in their order."""
    boundary = secrets.token_hex(16)
    came, pieces, values, length = memoryview(body), list[bytes | memoryview](), list[tuple[int, int]](), 0
    for field in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field.name}"'
        if field.filename is not None:
            head += f'; filename="{field.filename}"'
        if field.content_type:
            head += f"\r\nContent-Type: {field.content_type}"
        begin = f"{head}\r\n\r\n".encode()
        start = length + len(begin)
        length = start + field.stop - field.start + 2
        values.append((start, length - 2))
        pieces += [begin, came[field.start : field.stop], b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return WrittenForm(b"".join(pieces), f"multipart/form-data; boundary={boundary}", values)


def canonical(body: bytes, content_type: str) -> bytes:
    """A form without its boundary, which clients make anew each time they send it; anything else as it is."""
    boundary = _boundary(content_type)
    return body.replace(b"--" + boundary, b"--") if boundary else body


def _boundary(content_type: str) -> bytes:
    """What parts a form's fields; empty where this is no form's type."""
    # Letters that are not ASCII's are bytes to one reader and text to another.
    if not content_type.isascii():
        return b""
    kind, options = parse_options_header(content_type)
    return options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""


class _Reader:
    """What the parser calls. It is given the body in one piece, so that its offsets are the body's."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.finished = False

    def begin(self) -> None:
        self._start = self._stop = 0
        self._header = b""
        self._headers: dict[bytes, bytes] = {}

    def header_name(self, data: bytes, start: int, stop: int) -> None:
        self._header = data[start:stop].lower()
        if self._header in self._headers:
            raise _malformed(f"a part has two headers {self._header.decode('latin-1')!r}")

    def header_value(self, data: bytes, start: int, stop: int) -> None:
        self._headers[self._header] = data[start:stop]

    def data(self, data: bytes, start: int, stop: int) -> None:
        self._start, self._stop = start, stop

    def end(self) -> None:
        if any(len(value) > charsets.LONGEST for value in self._headers.values()):
            raise _malformed(f"a part's header has more than {charsets.LONGEST:,} characters")
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or not options.get(b"name"):
            raise _malformed("a part has no name")
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN_ENCODINGS:
            raise _malformed("a part is encoded")
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        if problem := charsets.problem(content_type):
            raise DialectError(problem, "content-type", WRONG_CHARSET)
        name = options[b"name"].decode("latin-1")
        if not _NAME.fullmatch(name):
            raise _malformed("a part's name has other characters than letters, digits, _ and -")
        filename = None
        if b"filename" in options:
            filename = _UNSAFE_IN_FILENAME.sub("_", options[b"filename"].decode("latin-1"))[-_LONGEST_FILENAME:]
        known = _TYPE.match(content_type.strip())
        self.fields.append(Field(name, self._start, self._stop, filename, known[0] if known else ""))

    def finish(self) -> None:
        self.finished = True


def _malformed(why: str) -> DialectError:
    return DialectError(f"The form cannot be read: {why}.", code="invalid_form")
