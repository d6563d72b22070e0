"""Forms (multipart/form-data): which fields there are, and where in the body. Pure.

A form is relayed as the bytes it came in, so what we read in it must be what the provider reads: a body that two
readers could take differently (a field twice, bytes before the first boundary, no end) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from governance.rules import charsets
from llm.rules.request_checks import DialectError

# A form of a transcription has a dozen fields.
MOST_FIELDS = 200
WRONG_CHARSET = "unsupported_charset"
# A part may say that it is encoded; nobody does, and what it says would have to be undone first.
_PLAIN_ENCODINGS = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field; its value is `body[start:stop]`."""

    name: str
    start: int
    stop: int
    is_file: bool = False


def read(body: bytes, content_type: str) -> list[Field]:
    """The fields of a form, in order. Raises DialectError."""
    boundary = _boundary(content_type)
    if not boundary:
        raise DialectError("Send this as multipart/form-data.", "content-type", "invalid_content_type")
    if not body.startswith(b"--" + boundary):
        raise _malformed("it does not begin with its boundary")
    # Also counts lines that only begin like a boundary, which no part may have and which cost the parser much time.
    if body.count(b"\r\n--" + boundary) > MOST_FIELDS:
        raise _malformed(f"it has more than {MOST_FIELDS} fields")
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
        if problem := charsets.problem(self._headers.get(b"content-type", b"").decode("latin-1")):
            raise DialectError(problem, "content-type", WRONG_CHARSET)
        name = options[b"name"].decode("latin-1")
        self.fields.append(Field(name, self._start, self._stop, is_file=b"filename" in options))

    def finish(self) -> None:
        self.finished = True


def _malformed(why: str) -> DialectError:
    return DialectError(f"The form cannot be read: {why}.", code="invalid_form")
