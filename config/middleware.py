"""Middleware of the control plane; the data plane runs none."""

from collections.abc import Callable

import uuid_utils.compat as uuids
from django.http import HttpRequest, HttpResponse, JsonResponse

from governance.api import errors
from governance.rules import charsets


class RequestIdMiddleware:
    """Names every request, in `request.request_id` and the `x-request-id` header."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.request_id = str(uuids.uuid7())  # type: ignore[attr-defined]
        response = self.get_response(request)
        response["x-request-id"] = request.request_id  # type: ignore[attr-defined]
        return response


class Utf8Middleware:
    """Answers 415 where a content type names another charset, which Django would decode a form by."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if charsets.is_utf_8(request.META.get("CONTENT_TYPE", "")):
            return self.get_response(request)
        told = errors.body("unsupported_media_type", charsets.SENTENCE, "content-type", request)
        return JsonResponse(told, status=415)
