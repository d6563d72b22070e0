"""Middleware of the control plane; the data plane runs none."""

from collections.abc import Callable

import uuid_utils.compat as uuids
from django.http import HttpRequest, HttpResponse


class RequestIdMiddleware:
    """Names every request, in `request.request_id` and the `x-request-id` header."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.request_id = str(uuids.uuid7())  # type: ignore[attr-defined]
        response = self.get_response(request)
        response["x-request-id"] = request.request_id  # type: ignore[attr-defined]
        return response
