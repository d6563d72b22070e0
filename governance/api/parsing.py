"""What a request brings: JSON bodies, with numbers kept exact, and the text of headers."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from governance.rules import names


def header(request: Request, name: str) -> str:
    """A header's text, or "". Django reads its bytes as Latin-1, whatever they are."""
    return names.from_header(request.headers.get(name, "").encode("latin-1", "replace"))


class ExactJson(JSONParser):
    """JSON whose fractions become Decimals, never floats; NaN, Infinity and bottomless nesting are refused."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        encoding = (parser_context or {}).get("encoding", "utf-8")
        try:
            text = codecs.getreader(encoding)(stream)
            return json.load(text, parse_float=Decimal, parse_constant=self._refuse)
        except (ValueError, LookupError, RecursionError) as error:
            raise ParseError(f"The body is not JSON: {error}") from error

    @staticmethod
    def _refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")
