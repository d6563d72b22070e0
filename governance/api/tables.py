"""The same rows as CSV, streamed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from governance import database

# Where a spreadsheet would run what follows as a formula: at the beginning of a cell, and of what becomes one where it
# takes semicolons or tabs for what is between cells, in quotes too. Some read the wide forms of the signs as the signs.
FORMULA = re.compile("^(?=[\t\r])|(?:^|(?<=[;\t\r\n]))(?=[ \u00a0]*[=+@\uff1d\uff0b\uff0d\uff20\u2212-])")
CSV = "csv"
LINES_A_PIECE = 250


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


class _Line:
    """What csv.writer writes to: hands each line back."""

    def write(self, text: str) -> str:
        return text


def lines_of(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> Iterator[str]:
    """CSV: the header, then some hundred lines a piece: each is a write to the network, and a hop of threads."""
    writer, rest = csv.writer(_Line()), iter(rows)
    yield writer.writerow(columns)
    while piece := list(islice(rest, LINES_A_PIECE)):
        yield "".join(writer.writerow([_cell(row[column]) for column in columns]) for row in piece)


async def _in_thread(lines: Iterator[str]) -> AsyncIterator[str]:
    """An ASGI server would otherwise gather the whole table in memory first. Who reads slowly keeps no connection."""

    def following() -> str | None:
        line = next(lines, None)
        database.give_back()
        return line

    while (line := await sync_to_async(following)()) is not None:
        yield line


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        value = json.dumps(value, default=str)
    text = str(value)
    return text if _is_number(text) else FORMULA.sub("'", text)


def _is_number(text: str) -> bool:
    return text[:1] == "-" and text[1:].replace(".", "", 1).isdigit()
