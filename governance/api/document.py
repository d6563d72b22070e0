"""The OpenAPI document under /api/schema, which anybody may read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request


class Document(SpectacularAPIView):
    """It changes with the code alone, and takes a second to make: once a process for each format."""

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        media_type = request.accepted_renderer.media_type
        return HttpResponse(_written(media_type), content_type=media_type)


@lru_cache(maxsize=8)
def _written(media_type: str) -> str | bytes:
    document = Document.generator_class().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    renderer = next(one for one in Document.renderer_classes if one.media_type == media_type)
    written: str | bytes = renderer().render(document, media_type, {})
    return written
