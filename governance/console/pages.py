"""Pages of the console that are no model's: each is a `ConsolePage` in its own module, listed in the console's site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from governance.console.base import is_of_the_platform


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolePage:
    """`path` is below the console's own, `name` the URL's and the menu's.

    `context` may answer itself: with its figures as a file, or with an address that says the same better.
    `is_part`: only a part of a page that is on the screen already, so without what the console puts around a page.
    """

    title: str
    path: str
    name: str
    template: str
    context: Callable[[HttpRequest, datetime], dict[str, Any] | HttpResponse]
    permission: Callable[[HttpRequest], bool] = is_of_the_platform
    is_part: bool = False

    def url(self, site: AdminSite) -> URLPattern:
        return path(self.path, site.admin_view(partial(self.show, site)), name=self.name)

    def show(self, site: AdminSite, request: HttpRequest) -> HttpResponse:
        """Raises PermissionDenied."""
        if not self.permission(request):
            raise PermissionDenied
        found = self.context(request, timezone.now())
        if isinstance(found, HttpResponse):
            return found
        around = {} if self.is_part else {**site.each_context(request), "title": self.title}
        return TemplateResponse(request, self.template, {**around, **found})
