"""What all views of the control plane share."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from django.conf import settings
from django.db.models import QuerySet
from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from governance import replica
from governance.api import tables
from governance.api.authentication import Principal, principal
from governance.api.pagination import LARGEST_ID, NewestFirst
from governance.api.parsing import ExactJson, check_query
from governance.models.tenancy import Role

CHUNK = 500
# RFC 9111, 5.2.1.2: how many seconds old an answer may be; without a number, however old.
MAX_STALE = re.compile(r"\bmax-stale(?:=(\d{1,9}))?", re.IGNORECASE)

Present = Callable[[Sequence[Any]], list[dict[str, Any]]]
Found = TypeVar("Found")


def paging(rows: int = NewestFirst.page_size) -> list[OpenApiParameter]:
    """What a list's pages are asked for by; `rows`: of a page, unless told."""
    told = f"Rows a page, {rows} unless told, {NewestFirst.max_page_size} at most."
    return [
        OpenApiParameter("cursor", str, description="Where a page begins; from `next` or `previous`."),
        OpenApiParameter("page_size", int, description=told),
    ]


def describe_list(operation_id: str, body: type[Serializer[Any]], *queries: type[Serializer[Any]]) -> Any:
    """Describes a list in the schema: pages of `body`, filtered by the fields of `queries`."""
    link = serializers.URLField(allow_null=True)
    fields = {"results": body(many=True), "next": link, "previous": link}
    page = inline_serializer(f"{body.__name__.removesuffix('Body')}Page", fields)
    table = {(200, "application/json"): page, (200, "text/csv"): str}
    return extend_schema(operation_id=operation_id, parameters=[*queries, *paging()], responses=table)


class Negotiation(DefaultContentNegotiation):
    """A `format` that a view has not is refused as an Accept header is."""

    def filter_renderers(self, renderers: Iterable[Any], format: str) -> list[Any]:
        try:
            return list(super().filter_renderers(renderers, format))
        except Http404 as error:
            raise NotAcceptable(f"There is no format {format!r} here.") from error


class ControlView(APIView):
    """One request, one `now`, one principal."""

    content_negotiation_class = Negotiation
    parser_classes = [ExactJson]
    renderer_classes: Sequence[Any] = [JSONRenderer]
    # By method, the statuses of errors that the API's description cannot tell from what a view takes.
    refuses: ClassVar[Mapping[str, Collection[int]]] = {}
    # What a POST of it takes.
    takes: ClassVar[type[Serializer[Any]]] = Serializer
    now: datetime

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.now = timezone.now()
        super().initial(request, *args, **kwargs)
        if _may_have_written(request):
            replica.read_primary()
        check_query(request.query_params)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        # A browser that reads with a session keeps no copy on its disk.
        response.setdefault("Cache-Control", "no-store")
        return response

    @property
    def by(self) -> Principal:
        return principal(self.request)

    def valid(self, kind: type[Serializer[Any]], data: Any, **kwargs: Any) -> dict[str, Any]:
        """The body or query as `kind` reads it; an error names the field."""
        serializer = kind(data=data, **kwargs)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def one(self, rows: QuerySet[Any, Found], **lookup: Any) -> Found:
        """The row, or a 404 that does not tell whether it is somebody else's."""
        if any(isinstance(value, int) and value > LARGEST_ID for value in lookup.values()):
            raise Http404
        found = rows.filter(**lookup).first()
        if found is None:
            raise Http404
        return found


class ListView(ControlView):
    """A list, as pages of JSON or, asked with `Accept: text/csv`, as one streamed table."""

    renderer_classes = [JSONRenderer, tables.CsvRenderer]
    table_name: ClassVar[str]

    def listed(self, rows: QuerySet[Any], present: Present, *, columns: Iterable[str]) -> Any:
        if tables.wanted(self.request):
            # From one database to its end, also after this view.
            every = _presented(rows.using(rows.db), present)
            return tables.streamed(self.request, every, columns=list(columns), name=self.table_name)
        paginator = NewestFirst()
        page = paginator.paginate_queryset(rows, self.request, view=self)
        return paginator.get_paginated_response(present(page or []))

    def answered(self, rows: Sequence[dict[str, Any]], *, columns: Iterable[str], **extra: Any) -> Any:
        """A short list that comes whole."""
        if tables.wanted(self.request):
            return tables.streamed(self.request, rows, columns=list(columns), name=self.table_name)
        return Response({**extra, "results": rows})


def _may_have_written(request: Request) -> bool:
    """Whether a key may just have written what it reads now, and has not said that an older answer will do.

    Programs keep no cookie by which the next process would know that they have.
    """
    key = request.auth.key if isinstance(request.auth, Principal) else None
    if key is None or key.role == Role.VIEWER:
        return False
    stale = MAX_STALE.search(request.headers.get("Cache-Control", ""))
    return stale is None or int(stale[1] or settings.REPLICA_MAX_LAG_S) < settings.REPLICA_MAX_LAG_S


def presenter(kind: type[Serializer[Any]]) -> Present:
    """Prints rows with a serializer."""

    def present(rows: Sequence[Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in kind(rows, many=True).data]

    return present


def columns_of(kind: type[Serializer[Any]]) -> list[str]:
    return [name for name, field in kind().fields.items() if not field.write_only]


def _presented(rows: QuerySet[Any], present: Present) -> Iterator[dict[str, Any]]:
    """Every row, newest first, read as pages are: between two of them no connection is needed."""
    rows = rows.order_by("-pk")
    page = list(rows[:CHUNK])
    while page:
        yield from present(page)
        page = list(rows.filter(pk__lt=page[-1].pk)[:CHUNK])
