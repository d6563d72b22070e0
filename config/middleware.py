"""Middleware of the control plane; the data plane runs none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast
from urllib.parse import urlencode, urlsplit

import uuid_utils.compat as uuids
from csp.middleware import CSPMiddleware, PolicyParts
from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.core.exceptions import MiddlewareNotUsed, SuspiciousOperation
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse

from config import content_policy, passwords, second_factor, sessions, tracing, unknown_paths
from config.console import sign_in
from governance import database, request_ids
from governance.api import errors, refusing
from governance.rules import charsets

logger = logging.getLogger(__name__)
Handler = Callable[[HttpRequest], HttpResponse]

# What nobody's page needs: sensors, payment, and to be measured for advertisements.
PERMISSIONS_POLICY = ", ".join(
    f"{feature}=()"
    for feature in (
        *("accelerometer", "autoplay", "browsing-topics", "camera", "display-capture", "fullscreen", "geolocation"),
        *("gyroscope", "magnetometer", "microphone", "midi", "payment", "publickey-credentials-get", "usb"),
    )
)


class RequestIdMiddleware:
    """Names every request, in `request.request_id` and the `x-request-id` header."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.request_id = str(uuids.uuid7())  # type: ignore[attr-defined]
        with request_ids.known_as(request.request_id):  # type: ignore[attr-defined]
            response = self.get_response(request)
        response["x-request-id"] = request.request_id  # type: ignore[attr-defined]
        return response


class TracingMiddleware:
    """Tells OpenTelemetry's collector of requests, where there is one."""

    def __init__(self, get_response: Handler) -> None:
        if not settings.OTEL_EXPORTER_OTLP_ENDPOINT:
            raise MiddlewareNotUsed
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with tracing.of_request(request, request_ids.current.get()) as answered:
            response = self.get_response(request)
            answered(response)
        return response


class GiveBackMiddleware:
    """Whoever reads an answer slowly keeps no connection to the database: the first, so that all others are done."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        database.give_back()
        return response


class Utf8Middleware:
    """Answers 415 where a content type has no end, or names another charset, which Django would decode a form by."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        problem = charsets.problem(request.META.get("CONTENT_TYPE", ""))
        if not problem:
            return self.get_response(request)
        told = errors.body("unsupported_media_type", problem, "content-type", request)
        if request.method == "POST":
            authorization = request.headers.get("authorization", "")
            refusing.note_unread(request.path_info, authorization, status=415, error=told["error"])
        return JsonResponse(told, status=415)


class QueryMiddleware:
    """Answers 400 where the query of a page has a NUL, which no text in the database has; /api/ names the field."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        query = request.META.get("QUERY_STRING", "")
        if ("%00" in query or "\0" in query) and not request.path_info.startswith("/api/"):
            return unknown_paths.bad_request(request, SuspiciousOperation("A query has a NUL."))
        return self.get_response(request)


class ContentPolicyMiddleware(CSPMiddleware):
    """django-csp's, with the policy that the path needs."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if not report_only:
            more = next((more for prefix, more in content_policy.MORE if request.path_info.startswith(prefix)), {})
            parts.replace = {**more, **(parts.replace or {})}
        return parts


class PermissionsPolicyMiddleware:
    """Browsers lend our pages none of their devices."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        return response


class SessionLimitsMiddleware:
    """Ends sessions as `config.sessions` says. What a page asks for by itself every few seconds is no use of one."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if _is_signed_in(request) and (why := sessions.over(request)):
            logger.info("The session of %s is over: %s", request.user.get_username(), why)
            logout(request)
            if _asks_by_itself(request):
                return _to_sign_in(request)
        response = self.get_response(request)
        if response.status_code == 302 and _asks_by_itself(request) and not _is_signed_in(request):
            return _to_sign_in(request)
        if _is_signed_in(request) and not _asks_by_itself(request):
            sessions.note_use(request)
        return response


def _to_sign_in(request: HttpRequest) -> HttpResponse:
    """htmx would put the sign-in page into the middle of the page that asked. From there it goes back to that page."""
    back = _asking_page(request)
    query = f"?{urlencode({'next': back})}" if back.startswith(reverse("admin:index")) else ""
    return HttpResponse(headers={"HX-Redirect": f"{reverse('admin:login')}{query}"})


def _asking_page(request: HttpRequest) -> str:
    """Path and query of the page that asked, empty where what htmx says is no address."""
    try:
        asking = urlsplit(request.headers.get("HX-Current-URL", ""))
    except ValueError:
        return ""
    return f"{asking.path}?{asking.query}" if asking.query else asking.path


def _is_signed_in(request: HttpRequest) -> bool:
    """Whether there is a session, and somebody's. Callers with a key have none; nothing is read for them."""
    has_one = settings.SESSION_COOKIE_NAME in request.COOKIES or request.session.modified
    # The framework of /api/ puts nobody at all in the place of a caller with a key.
    return has_one and bool(getattr(request.user, "is_authenticated", False))


def _asks_by_itself(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true" and request.method == "GET"


class PasswordsMiddleware:
    """Answers 429 where too many passwords are looked at already, on whichever page this one came."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return sign_in.come_again(request) if isinstance(error, passwords.TooMany) else None


class SecondFactorMiddleware:
    """With REQUIRE_TOTP, whoever signed in without a second factor gets no further than the page that sets one up."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._held_up(request) or self.get_response(request)

    def _held_up(self, request: HttpRequest) -> HttpResponse | None:
        if not settings.REQUIRE_TOTP or not _is_signed_in(request):
            return None
        page = reverse("admin:second-factor")
        if request.path in (page, reverse("admin:logout"), reverse("admin:login"), reverse("admin:jsi18n")):
            return None
        if second_factor.is_set_up(cast(User, request.user)):
            return None
        if request.path.startswith(reverse("admin:index")):
            return redirect(page)
        # Under /api/ a key decides alone, and no session is looked at. The console knows no keys.
        has_key = request.headers.get("authorization", "").lower().startswith("bearer ")
        if request.path.startswith("/api/") and not has_key:
            message = f"Set up a second factor first, at {page}."
            return JsonResponse(errors.body("second_factor_required", message, None, request), status=403)
        return None
