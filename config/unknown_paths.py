"""What paths answer that there are none of: a page to browsers, JSON to everybody else."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

from governance.api import errors

WHERE = "The base address for clients of models is /v1, the control plane is below /api/, the console is /admin/."


@csrf_exempt
def root(request: HttpRequest) -> HttpResponseBase:
    """Leads people to the console."""
    if request.method in ("GET", "HEAD"):
        return redirect("admin:index")
    response = JsonResponse(errors.body("method_not_allowed", f"Nothing is posted here. {WHERE}", None, request))
    response.status_code = 405
    response["Allow"] = "GET, HEAD"
    return response


@csrf_exempt
def unknown(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Also Django's handler404."""
    if _is_browser(request):
        return defaults.page_not_found(request, exception or Exception("There is no such page."))
    return JsonResponse(errors.body("not_found", f"There is no such path. {WHERE}", None, request), status=404)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: a host that is not ours, too many fields."""
    if _is_browser(request):
        return defaults.bad_request(request, exception)
    message = "The request cannot be answered: its host is none of ALLOWED_HOSTS, or it is malformed."
    return JsonResponse(errors.body("invalid", message, None, request), status=400)


def failed(request: HttpRequest) -> HttpResponse:
    """Django's handler500."""
    if _is_browser(request):
        return defaults.server_error(request)
    message = "The request failed; the request id names the log entry."
    return JsonResponse(errors.body("internal_error", message, None, request), status=500)


def no_csrf(request: HttpRequest, reason: str = "", **more: Any) -> HttpResponse:
    """CSRF_FAILURE_VIEW."""
    from django.views.csrf import csrf_failure

    if _is_browser(request):
        return csrf_failure(request, reason, **more)
    return JsonResponse(
        errors.body("forbidden", f"This is for the console's own pages: {reason}", None, request), status=403
    )


def _is_browser(request: HttpRequest) -> bool:
    return "text/html" in request.headers.get("Accept", "")
