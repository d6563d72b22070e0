"""The OpenAPI document under /api/schema, which anybody may read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class Document(SpectacularAPIView):
    """It changes with the code alone, and takes a second to make: once a process for each format."""

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        renderer = request.accepted_renderer
        return HttpResponse(_written(type(renderer)), content_type=renderer.media_type)


@lru_cache(maxsize=8)
def _written(renderer: type[BaseRenderer]) -> bytes:
    document = Document.generator_class().get_schema(request=None, public=True)
    return bytes(renderer().render(document, media_type=renderer.media_type, renderer_context={}))
