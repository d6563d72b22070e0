"""The same rows as CSV, streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from governance import database
from governance.rules.csv_tables import lines_of

CSV = "csv"


class CsvRenderer(BaseRenderer):
    """Makes `Accept: text/csv` acceptable. The view streams the rows itself; only errors come here, as JSON."""

    media_type = "text/csv"
    format = CSV

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        if renderer_context:
            renderer_context["response"]["Content-Type"] = "application/json"
        return bytes(JSONRenderer().render(data))


def wanted(request: Request) -> bool:
    return bool(getattr(request.accepted_renderer, "format", "") == CSV)


def streamed(request: Request, rows: Iterable[Mapping[str, Any]], *, columns: list[str], name: str) -> Any:
    """A CSV download of `rows`, made while it is sent."""
    lines = lines_of(rows, columns)
    asynchronous = isinstance(request._request, ASGIRequest)
    response = StreamingHttpResponse(
        _in_thread(lines) if asynchronous else lines, content_type="text/csv; charset=utf-8"
    )
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return response


async def _in_thread(lines: Iterator[str]) -> AsyncIterator[str]:
    """An ASGI server would otherwise gather the whole table in memory first. Who reads slowly keeps no connection."""

    def following() -> str | None:
        line = next(lines, None)
        database.give_back()
        return line

    while (line := await sync_to_async(following)()) is not None:
        yield line
