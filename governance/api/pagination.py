"""Pages of a list."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import QueryDict
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

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        self._key = queryset.model._meta.pk
        return super().paginate_queryset(queryset, request, view)

    def get_page_size(self, request: Request) -> int | None:
        asked = request.query_params.get(self.page_size_query_param, "")
        if asked and not (_is_whole(asked) and int(asked)):
            raise ValidationError({self.page_size_query_param: [f"must be a number from 1 to {self.max_page_size}."]})
        return super().get_page_size(request)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Where the page begins. Raises ValidationError where no answer of ours has said so."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None:
                self._check(cursor, request.query_params[self.cursor_query_param])
        except (NotFound, ValueError, DjangoValidationError) as error:
            message = "is none of this list's: take it from `next` or `previous`."
            raise ValidationError({"cursor": [message]}) from error
        return cursor

    def _check(self, cursor: Cursor, asked: str) -> None:
        """Raise ValueError or Django's ValidationError where no answer has this cursor, whose text was `asked`."""
        if cursor.position is not None:
            self._position(str(cursor.position))
        # What holds something else, or nothing that can be read, is taken for the first page.
        if QueryDict(urlsplit(self.encode_cursor(cursor)).query).get(self.cursor_query_param) != asked:
            raise ValueError("not as it was written")

    def _position(self, text: str) -> None:
        """Raise ValueError or Django's ValidationError where no row's key can be written so."""
        key = self._key.to_python(text)
        if isinstance(key, int) and not 0 <= key <= LARGEST_ID:
            raise ValueError(f"no key is {text}")

    def get_paginated_response(self, data: list[Any]) -> Response:
        return Response({"results": data, "next": self.get_next_link(), "previous": self.get_previous_link()})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri"}
        return {
            "type": "object",
            "required": ["results", "next", "previous"],
            "properties": {"results": schema, "next": link, "previous": link},
        }


class ByPlace(NewestFirst):
    """Pages of what is put together anew for each, such as sums: a cursor says how many rows come before.

    What is written meanwhile may move a row over a page's edge.
    """

    page_size = 500
    # Of a cursor; more rows than a summary has.
    offset_cutoff = 10**MOST_DIGITS

    def begin(self, request: Request) -> tuple[int, int]:
        """(rows before the page, rows of the page). Raises ValidationError."""
        self.base_url = request.build_absolute_uri()
        self._size = self.get_page_size(request) or self.page_size
        cursor = self.decode_cursor(request)
        self._place = cursor.offset if cursor else 0
        return self._place, self._size

    def links(self, *, more: bool) -> dict[str, str | None]:
        """Where the pages beside this one are; `more`: whether rows come after it."""
        before = max(0, self._place - self._size)
        return {
            "next": self._link(self._place + self._size) if more else None,
            "previous": self._link(before) if self._place else None,
        }

    def _link(self, place: int) -> str:
        return str(self.encode_cursor(Cursor(offset=place, reverse=False, position=None)))

    def _position(self, text: str) -> None:
        raise ValueError("a page of sums begins at no row's key")


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
