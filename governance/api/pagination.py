"""Pages of a list."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError as NotOfItsKind
from django.db.models import Field
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

# Of a page's size.
MOST_DIGITS = 9
# What a database's 64-bit key can hold; a larger one names nothing.
LARGEST_ID = 2**63 - 1


class NewestFirst(CursorPagination):
    """Newest first by id, from a cursor: a page costs the same at the millionth row, and none is seen twice."""

    ordering = "-id"
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500

    def __init__(self, key: Field[Any, Any]) -> None:
        """`key`: the primary key of what is listed."""
        self._key = key

    def get_page_size(self, request: Request) -> int | None:
        asked = request.query_params.get(self.page_size_query_param, "")
        if asked and not (_is_whole(asked) and int(asked)):
            raise ValidationError({self.page_size_query_param: [f"must be a number from 1 to {self.max_page_size}."]})
        return super().get_page_size(request)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Raises ValidationError for what is none of ours: a position is looked up in the database as it is."""
        try:
            cursor = super().decode_cursor(request)
            place = None if cursor is None or cursor.position is None else self._key.to_python(cursor.position)
        except (NotFound, NotOfItsKind) as error:
            raise self._no_cursor() from error
        if isinstance(place, int) and abs(place) > LARGEST_ID:
            raise self._no_cursor()
        return cursor

    def _no_cursor(self) -> ValidationError:
        return ValidationError({self.cursor_query_param: ["is none: take it from `next` or `previous` of a page."]})

    def get_paginated_response(self, data: list[Any]) -> Response:
        return Response({"results": data, "next": self.get_next_link(), "previous": self.get_previous_link()})


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
