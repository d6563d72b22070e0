"""Forms: where their fields are, and which bodies two readers could take differently."""

from __future__ import annotations

import email
import email.policy
import io
import re

import pytest
from django.core.handlers.wsgi import WSGIRequest
from hypothesis import given
from hypothesis import strategies as st

from llm.rules import forms
from llm.rules.request_checks import DialectError

KIND = "multipart/form-data; boundary=edge"


def form(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    return b"".join(b"--edge\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


def named(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


@given(values=st.lists(st.binary(max_size=60).filter(lambda value: b"\r\n--edge" not in value), max_size=5))
def test_every_field_is_found_where_it_is_whatever_its_bytes(values: list[bytes]) -> None:
    body = form(*((named(f"f{number}"), value) for number, value in enumerate(values)), (named("last"), b"x"))

    fields = forms.read(body, KIND)

    assert [field.name for field in fields] == [*(f"f{number}" for number in range(len(values))), "last"]
    assert [body[field.start : field.stop] for field in fields] == [*values, b"x"]


def test_a_file_is_told_from_a_text() -> None:
    fields = forms.read(form((named("a", '; filename="a.wav"'), b"1"), (named("b"), b"2")), KIND)

    assert [(field.name, field.filename) for field in fields] == [("a", "a.wav"), ("b", None)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"hello\r\n" + form((named("a"), b"1")),
        b"\r\n" + form((named("a"), b"1")),
        form((named("a"), b"1"), end=b""),
        form((named("a"), b"1"), end=b"--edge"),
        form((named("a") + "\r\n" + named("b"), b"1")),
        form(("X-Nothing: 1", b"1")),
        form(("Content-Disposition: attachment; name=a", b"1")),
        form((named("a") + "\r\nContent-Transfer-Encoding: base64", b"MQ==")),
        form(*((named(f"f{number}"), b"") for number in range(forms.MOST_FIELDS + 1))),
        form((named("a"), b"\r\n--edgeless" * forms.MOST_FIELDS)),
        form((named("a"), b"1\r\n--edge \r\n" + named("b").encode() + b"\r\n\r\n2")),
        form((named("a"), b"1\r\n--edgeless")),
        b"--edge \r\n" + form((named("a"), b"1")).removeprefix(b"--edge\r\n"),
        form((named("a") + "\r\n" + "\r\n".join(f"X-{number}: 1" for number in range(100)), b"1")),
    ],
)
def test_a_form_that_two_readers_could_take_differently_is_refused(body: bytes) -> None:
    with pytest.raises(DialectError) as caught:
        forms.read(body, KIND)
    assert caught.value.code == "invalid_form"


def test_a_part_in_another_charset_than_utf_8_is_refused() -> None:
    kind = "\r\nContent-Type: text/plain; charset="
    assert forms.read(form((named("a") + kind + "UTF-8", b"1")), KIND)
    with pytest.raises(DialectError) as caught:
        forms.read(form((named("a") + kind + "utf-7", b"1")), KIND)
    assert caught.value.param == "content-type"


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=edge",
        "multipart/form-data; boundary=edge; x=\u20ac",
        "multipart/form-data; boundary=edge; x=\xe9",
    ],
)
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(DialectError) as caught:
        forms.read(form((named("a"), b"1")), kind)
    assert caught.value.code == "invalid_content_type"


@given(body=st.binary(max_size=200), edge=st.sampled_from(["edge", "a", '"e d"', "x" * 300]))
def test_no_body_breaks_the_reader(body: bytes, edge: str) -> None:
    for data in (body, b"--edge\r\n" + body, form((named("a"), body))):
        try:
            fields = forms.read(data, f"multipart/form-data; boundary={edge}")
        except DialectError:
            continue
        assert all(0 <= field.start <= field.stop <= len(data) for field in fields)


def test_a_form_sent_again_under_another_boundary_is_the_same_form() -> None:
    body = form((named("a"), b"1"), (named("b"), b"2"))
    again = body.replace(b"--edge", b"--brim")

    same = forms.canonical(again, "multipart/form-data; boundary=brim")
    assert forms.canonical(body, KIND) == same
    assert forms.canonical(form((named("a"), b"2")), KIND) != forms.canonical(form((named("a"), b"1")), KIND)
    assert forms.canonical(b"--edge", "application/json") == b"--edge"


def test_as_many_fields_as_there_may_be_are_read_and_one_more_is_not() -> None:
    def of(count: int) -> bytes:
        return form(*((named(f"f{number}"), b"") for number in range(count)))

    assert len(forms.read(of(forms.MOST_FIELDS), KIND)) == forms.MOST_FIELDS
    with pytest.raises(DialectError, match=str(forms.MOST_FIELDS)):
        forms.read(of(forms.MOST_FIELDS + 1), KIND)


@pytest.mark.parametrize("encoding", ["", "binary", "8bit", "7bit", " BINARY "])
def test_a_part_that_is_as_it_is_may_say_so(encoding: str) -> None:
    body = form((named("a") + f"\r\nContent-Transfer-Encoding: {encoding}", b"1"))
    [field] = forms.read(body, KIND)
    assert (field.name, body[field.start : field.stop], field.filename) == ("a", b"1", None)


def by_django(form: forms.WrittenForm) -> list[tuple[str, bytes]]:
    environ = {"CONTENT_TYPE": form.content_type, "CONTENT_LENGTH": str(len(form.body)), "REQUEST_METHOD": "POST"}
    request = WSGIRequest(environ | {"wsgi.input": io.BytesIO(form.body)})
    texts = [(name, value.encode()) for name, values in request.POST.lists() for value in values]
    return texts + [(name, file.read()) for name, files in request.FILES.lists() for file in files]


def by_mail(form: forms.WrittenForm) -> list[tuple[str, bytes]]:
    head = f"Content-Type: {form.content_type}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + form.body, policy=email.policy.HTTP).iter_parts()
    return [
        (str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)) for part in parts
    ]


# What other readers, or other versions of this one, take for something else.
TRICKS = {
    "a second name in another spelling": form(
        (named("file", '; filename="a.wav"'), b"short"),
        (named("prompt", "; name*=UTF-8''file; filename=b.wav"), b"long"),
    ),
    "a name in pieces": form(
        (named("file", '; filename="a.wav"'), b"short"), (named("prompt", "; name*0=fi; name*1=le"), b"long")
    ),
    "two names": form((named("file", '; name="prompt"; filename="a.wav"'), b"long")),
    "another form behind its end": form((named("file"), b"short")) + form((named("file"), b"long")),
    "lines that end otherwise": form((named("file"), b"short\n--edge\n" + named("prompt").encode() + b"\n\nlong")),
    "headers that nobody needs": form((named("file") + "\r\nX-More: 1\r\nContent-Type: audio/webm;codecs=opus", b"1")),
    "a file's name of any characters": form((named("file", '; filename="a\\"; name=x; é.wav"'), b"1")),
}


@pytest.mark.parametrize("body", TRICKS.values(), ids=TRICKS)
def test_a_form_that_is_written_is_read_in_one_way_by_all(body: bytes) -> None:
    fields = forms.read(body, KIND)
    mine = [(field.name, body[field.start : field.stop]) for field in fields]
    written = forms.write(fields, body)
    again = forms.read(written.body, written.content_type)
    assert [(field.name, written.body[field.start : field.stop]) for field in again] == mine
    assert [(field.start, field.stop) for field in again] == list(written.values)
    assert [(field.filename, field.content_type) for field in again] == [(f.filename, f.content_type) for f in fields]
    assert (by_mail(written), sorted(by_django(written))) == (mine, sorted(mine))
    # Nothing of what came is left but the values, and what of names and types every reader knows.
    plain = rb'--B\r\nContent-Disposition: form-data; name="\w+"(; filename="[\w ._()-]*")?(\r\nContent-Type: [\w/]+)?'
    heads = written.body.replace(written.content_type[-32:].encode(), b"B").split(b"\r\n\r\n")[0]
    assert re.fullmatch(plain, heads)


def test_a_form_is_written_between_boundaries_that_nobody_knows_before() -> None:
    body = form((named("a"), b"1"))
    fields = forms.read(body, KIND)
    assert forms.write(fields, body).content_type != forms.write(fields, body).content_type


@pytest.mark.parametrize("name", ["a b", "a*", "file[0]", 'fi\\"le', "é", "a" * 101, "file;x"])
def test_a_part_whose_name_readers_may_differ_in_is_refused(name: str) -> None:
    with pytest.raises(DialectError, match="characters"):
        forms.read(form((named(name), b"1")), KIND)


@pytest.mark.parametrize("header", ['form-data; name=""', "form-data", "", 'attachment; name="a"'])
def test_a_part_needs_a_name(header: str) -> None:
    with pytest.raises(DialectError, match="name"):
        forms.read(form((f"Content-Disposition: {header}", b"1")), KIND)


def test_headers_are_told_whatever_their_letters() -> None:
    body = form(('content-DISPOSITION: form-data; name="a"', b"1"))
    assert [field.name for field in forms.read(body, KIND)] == ["a"]
    with pytest.raises(DialectError, match="two headers"):
        forms.read(form((named("a") + "\r\ncontent-disposition: x", b"1")), KIND)


def test_what_is_no_form_stays_as_it_is_for_comparing() -> None:
    body = b"--edge--"
    for kind in ("application/json; boundary=edge", "multipart/form-data", "multipart/mixed; boundary=edge"):
        assert forms.canonical(body, kind) == body
    assert forms.canonical(body, KIND) == b"----"


def test_a_parts_headers_have_an_end() -> None:
    with pytest.raises(DialectError, match="1,000"):
        forms.read(form(('Content-Disposition: form-data; name="a"' + ";" * 1_000, b"1")), KIND)
