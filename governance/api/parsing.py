"""JSON bodies, with numbers kept exact."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


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
