"""Every path of the control plane with what no client sends: never a 5xx, and a 400 that names the field."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.generators import SchemaGenerator

from tests import factories as make

UUID = "019a0000-0000-7000-8000-000000000000"
IDS = {"int": "1", "uuid": UUID, "str": UUID, "slug": "acme", "path": "mistral-small-latest"}
HUGE = "9" * 5_000
# Nothing that may be wrong with a request makes these read a query or a body.
UNREAD = re.compile(r"^api/(schema|docs|redoc|health.*|webhooks/.*)$")


def paths(patterns: Any = None, before: str = "") -> Iterator[str]:
    """Every path under /api/, with an id in it that names nothing, or the first row."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        here = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from paths(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern) and here.startswith("api/") and not here.endswith("/"):
            yield re.sub(r"<(\w+):\w+>", lambda found: IDS[found[1]], here)


PATHS = sorted(path for path in set(paths()) if not UNREAD.match(path))


@pytest.fixture
def operator(db: None) -> Client:
    make.tenant("acme")
    # The first one, which paths name and may revoke.
    make.key(role="viewer")
    key, _ = make.key(role="operator")
    return Client(headers={"authorization": f"Bearer {key}"}, raise_request_exception=False)


def cursor(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


QUERIES: list[tuple[str, str, bool]] = [
    # (field, value, whether a list that is paged minds it; all others may ignore it)
    ("anything", "a\x00b", False),
    ("a\x00b", "1", False),
    ("anything", "a" * 5_000, False),
    ("tenant", HUGE, False),
    ("page_size", HUGE, False),
    ("cursor", HUGE, False),
    ("cursor", "\x00", False),
    ("page_size", "many", True),
    ("page_size", "-1", True),
    ("page_size", "9" * 30, True),
    ("cursor", "x", True),
    ("cursor", cursor(f"p={'9' * 500}"), True),
    ("cursor", cursor("p=9223372036854775808"), True),
    ("cursor", cursor("p=a"), True),
    ("cursor", cursor("p=%00"), True),
    ("cursor", cursor("o=99999999999999999999&p=x"), True),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_query_is_refused_by_the_name_of_its_field(operator: Client, path: str) -> None:
    shown = operator.get(f"/{path}")
    is_list = shown.status_code == 200 and "next" in shown.json()
    for name, value, by_lists in QUERIES:
        answer = operator.get(f"/{path}", query_params={name: value})
        assert answer.status_code < 500, (name, value[:50])
        if shown.status_code == 405 and answer.status_code == 405:
            continue
        if is_list or not by_lists:
            assert answer.status_code == 400, (name, value[:50], answer.content[:200])
            error = answer.json()["error"]
            if "\x00" in name:
                continue
            assert error["param"] == name, (name, value[:50], error)
            assert name in error["message"]


@pytest.mark.parametrize("value", ["9" * 20, "9223372036854775808", "-1", "1e9", "true", "9999-12-31T23:59:59-14:00"])
def test_a_filter_may_say_anything(operator: Client, value: str) -> None:
    """All that the documentation names, so that a new one is among them."""
    schema = SchemaGenerator().get_schema(request=None, public=True)
    filters = [
        (path.replace("{id}", "1"), each["name"])
        for path, acts in schema["paths"].items()
        for each in acts.get("get", {}).get("parameters", ())
        if each["in"] == "query" and path.startswith("/api/")
    ]
    assert len(filters) > 100
    answers = [(path, name, operator.get(path, query_params={name: value}).status_code) for path, name in filters]
    assert [answer for answer in answers if answer[2] >= 500] == []


@pytest.mark.parametrize("path", PATHS)
def test_a_query_of_thousands_of_fields_is_a_400(operator: Client, path: str) -> None:
    for many in ("&".join(f"a{number}=1" for number in range(1_001)), "&" * 5_000, "%", "=%ff", "a[]=1&a[]=2", "%00"):
        answer = operator.get(f"/{path}?{many}")
        assert answer.status_code < 500
        if many.count("=") > 1_000 and answer.status_code != 405:
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


BODIES = [
    *[(f'{{"{{field}}": {deep(levels)}}}') for levels in (64, 255, 1_000, 5_000, 100_000)],
    *['{"{field}": ' + '{"a":' * levels + "1" + "}" * levels + "}" for levels in (255, 1_000)],
    '{"{field}": ' + HUGE + "}",
    '{"{field}": -' + HUGE + ".5e99}",
    '{"{field}": 1e999999999}',
    '{"{field}": "a\\u0000b"}',
    '{"{field}": "\\ud800"}',
    '{"{field}": ["\\ud800"]}',
    '{"{field}": {"a\\u0000": 1}}',
    '{"{field}": {"a": "\\udfff"}}',
    '{"{field}": [' + "1," * 200_001 + "1]}",
    '{"{field}": NaN}',
    '{"{field}": {}}',
    '{"{field}": [[]]}',
    '{"{field}": 0.1}',
    '{"{field}": true}',
    '{"{field}": null}',
    '{"{field}": "9999-12-31T23:59:59-14:00"}',
    '{"{field}": "0001-01-01T00:00:00+14:00"}',
    '{"a\\u0000b": 1}',
    "[" * 100_000,
    '"a"',
    "9" * 5_000,
    "null",
    "",
    "\ufeff{}",
]


# Refused by name in whatever field.
UNSTORABLE = [template for template in BODIES if re.match(r'\{"\{field.*(u0000|ud800|udfff)', template)]


def fields_of(client: Client, path: str, method: str) -> list[str]:
    """The fields that a path's body has, as it says itself where one is not known to it."""
    answer = client.generic(method, f"/{path}", json.dumps({"no_such_field": 1}), content_type="application/json")
    if answer.status_code != 400:
        return ["anything"]
    named = re.search(r"There are: (.+)\.", answer.json()["error"]["message"])
    return named[1].split(", ") if named else ["anything"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_is_refused_and_never_fails(operator: Client, path: str) -> None:
    for method in ("POST", "PATCH", "PUT"):
        if operator.generic(method, f"/{path}", "{}", content_type="application/json").status_code == 405:
            continue
        for field in fields_of(operator, path, method):
            for template in BODIES:
                body = template.replace("{field}", field)
                answer = operator.generic(method, f"/{path}", body.encode(), content_type="application/json")
                assert answer.status_code < 500, (method, field, template[:60])
                if template in UNSTORABLE and answer.status_code not in (403, 404):
                    assert answer.status_code == 400, (method, field, template[:60])
                    assert answer.json()["error"]["param"].startswith(field), (method, field, template[:60])


@pytest.mark.parametrize("path", [path for path in PATHS if "/1" in path])
def test_an_id_of_thousands_of_digits_names_nothing(operator: Client, path: str) -> None:
    for id in (HUGE, str(2**63), "0" * 5_000 + "1"):
        assert operator.get("/" + path.replace("/1", f"/{id}")).status_code in (404, 405, 400, 200)


@pytest.mark.parametrize("path", PATHS)
def test_odd_headers_are_no_failure(operator: Client, path: str) -> None:
    for name, value in (
        ("accept", "text/csv;q=9999999999999999999999, */*"),
        ("accept", "\xff/*"),
        ("authorization", "Bearer \xff"),
        ("authorization", "Bearer " + "x" * 60_000),
        ("cookie", "sessionid=\x80\xff; csrftoken=a\tb"),
        # In quotes a cookie may have any character, NUL too, which PostgreSQL takes nowhere.
        ("cookie", r'sessionid="\000aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"; csrftoken="\000a"'),
        ("if-none-match", "*"),
        ("content-type", "x" * 10_000),
    ):
        assert operator.get(f"/{path}", headers={name: value}).status_code < 500, (name, value[:40])
