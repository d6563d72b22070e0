"""A page that asks before something is done that needs no reason: what is done by a GET, a browser may do by itself."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse


def page(request: HttpRequest, *, model_admin: Any, title: str, verb: str, explanation: str, back: str) -> HttpResponse:
    """Its button, named `verb`, posts to the address that it is shown at; whoever calls acts on that POST."""
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": title,
        "verb": verb,
        "explanation": explanation,
        "back": back,
    }
    return TemplateResponse(request, "console/confirm.html", context)
