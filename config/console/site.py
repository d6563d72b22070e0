"""The operators' console: the admin site, its pages and its first page."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from unfold.sites import UnfoldAdminSite

from config.console import menu, queries
from governance.console import presses


class ConsoleSite(UnfoldAdminSite):
    """The operators' console."""

    index_title = "Overview"

    def admin_view(self, view: queries.View, cacheable: bool = False) -> Any:
        return super().admin_view(queries.forgiving(presses.guarded(view)), cacheable)

    def extra_urls(self) -> list[URLPattern]:
        from config.console import first_run, second_factor_page, sign_in, story_page
        from governance.console import call_page

        return [
            *(page.url(self) for page in menu.pages()),
            path("calls/<path:id>/", self.admin_view(partial(call_page.page, site=self)), name="call"),
            path("first-steps/", self.admin_view(first_run.dismiss), name="first-steps"),
            path("story/<slug:step>/", self.admin_view(story_page.act), name="story-step"),
            path("login/code/", partial(sign_in.code_page, site=self), name="sign-in-code"),
            path("second-factor/", self.admin_view(partial(second_factor_page.page, site=self)), name="second-factor"),
        ]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """With the menu's section that the page is in, whose tabs stand over the page, and a token for its form."""
        context: dict[str, Any] = super().each_context(request)
        return context | {"section": menu.section_at(request), "press": presses.token(request)}

    def search(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """What is found is not kept, as Unfold would: it changes with every stop, and with what its reader may see."""
        from config.console import search

        began = time.perf_counter()
        found = search.find(request, request.GET.get("s", ""))
        page = Paginator(found, per_page=search.MOST).page(1)
        return TemplateResponse(
            request,
            "unfold/helpers/command_results.html",
            {
                "page_obj": page.paginator,
                "results": page,
                "page_counter": 0,
                "execution_time": time.perf_counter() - began,
                "command_show_history": False,
            },
            headers={"HX-Trigger": "search"},
        )

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The password; whoever has a second factor is asked for its code next."""
        from config.console import sign_in

        try:
            answer: HttpResponse = super().login(request, extra_context)
        except sign_in.CodeNeeded as needed:
            return sign_in.go_on_to_code(request, needed.user)
        return answer

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
        from config.console import own_password

        return own_password.page(request, self)


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK."""
    from config.console import overview

    return context | overview.context(request, timezone.now())
