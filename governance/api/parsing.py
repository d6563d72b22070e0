"""What a request brings, within bounds: JSON bodies with exact numbers, query strings, the text of headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.http import QueryDict
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from governance.rules import charsets, json_bounds, names
from governance.rules.json_bounds import BeyondBounds, JsonBounds

# Longer ones are no numbers that anything here counts, and Python reads no more than a few thousand digits.
MOST_DIGITS = 100
MOST_PARAMETERS = 100
MOST_CHARACTERS = 4_000


def header(request: Request, name: str) -> str:
    """A header's text, or "". Django reads its bytes as Latin-1, whatever they are."""
    return names.from_header(request.headers.get(name, "").encode("latin-1", "replace"))


class ExactJson(JSONParser):
    """JSON whose fractions become Decimals, never floats; NaN, Infinity and what is beyond its bounds are refused."""

    # Whether texts that no database takes are refused, too.
    storable = True
    # None of its requests has nearly as many, and while they are parsed everybody else's calls wait.
    most_values = 10_000

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        if problem := charsets.problem(media_type or ""):
            raise UnsupportedMediaType(media_type or "", problem)
        bounds = JsonBounds(
            depth=settings.MAX_JSON_DEPTH,
            values=min(settings.MAX_JSON_VALUES, self.most_values),
            fields=settings.MAX_JSON_FIELDS,
        )
        data = stream.read()
        json_bounds.check_text(data, bounds)
        try:
            value = json.loads(
                data.decode("utf-8-sig"), parse_float=_fraction, parse_int=_whole, parse_constant=self._refuse
            )
        except RecursionError as error:
            raise BeyondBounds("", f"is nested deeper than {bounds.depth} levels.") from error
        except (ValueError, ArithmeticError) as error:
            raise ParseError(f"The body is not JSON: {error}") from error
        json_bounds.check(value, bounds, storable=self.storable, any_field=False)
        return value

    @staticmethod
    def _refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")


class RelayedJson(ExactJson):
    """What goes on to a model, which reads texts that no database takes."""

    storable = False
    # Three a message, of the 10,000 that there may be.
    most_values = 50_000


def _whole(digits: str) -> int | Decimal:
    """The field that it is in refuses it by its name."""
    return int(digits) if len(digits) <= MOST_DIGITS else _fraction(digits)


def _fraction(digits: str) -> Decimal:
    if len(digits) > MOST_CHARACTERS:
        raise ValueError(f"a number may have at most {MOST_CHARACTERS:,} digits")
    return Decimal(digits)


def check_query(query: QueryDict) -> None:
    """Refuse a query string that no field of a list takes. Raises BeyondBounds, which names the field."""
    if len(query) > MOST_PARAMETERS:
        raise BeyondBounds("", f"may not come with more than {MOST_PARAMETERS} parameters in the query.")
    for name, values in query.lists():
        if len(values) > 1:
            # Of several one alone would count, and nobody knows which is meant.
            raise BeyondBounds(name, "may be given once.")
        for text in values:
            if max(len(name), len(text)) > MOST_CHARACTERS:
                raise BeyondBounds(name, f"may have at most {MOST_CHARACTERS:,} characters.")
            json_bounds.check({name: text}, JsonBounds(), storable=True)
