"""Saved views of the list of budgets: a name and the list's query, each console user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse

from governance.actions import saved_views
from governance.models import SavedView
from governance.rules.errors import FieldError


@dataclass(frozen=True, slots=True)
class ShownViews:
    """`query`: what of the list's address would be saved; `current`: the view that shows just that."""

    views: list[SavedView]
    query: str
    current: SavedView | None
    longest: int = saved_views.MOST_CHARACTERS


def shown(request: HttpRequest) -> ShownViews:
    query = saved_views.query_of(request.GET)
    views = list(_own(request))
    return ShownViews(views, query, next((view for view in views if view.query == query), None))


def save(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    user: Any = request.user
    query = request.POST.get("query", "")
    try:
        view = saved_views.save(user=user, name=request.POST.get("name", ""), query=query)
    except FieldError as error:
        return _refused(request, error)
    return _list(view.query)


def change(request: HttpRequest, pk: int) -> HttpResponse:
    """Rename or delete; another's view is not there."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    view = get_object_or_404(_own(request), pk=pk)
    if request.POST.get("act") == "delete":
        view.delete()
        messages.success(request, f"The view “{view}” is deleted.")
        return _list("")
    try:
        saved_views.rename(view=view, name=request.POST.get("name", ""))
    except FieldError as error:
        return _refused(request, error)
    return _list(view.query)


def _own(request: HttpRequest) -> Any:
    user: Any = request.user
    return SavedView.objects.filter(user=user)


def _refused(request: HttpRequest, error: FieldError) -> HttpResponse:
    messages.error(request, f"The {error.field or 'view'} {error.message.removesuffix('.')}.")
    return _list(saved_views.query_of(QueryDict(request.POST.get("query", ""))))


def _list(query: str) -> HttpResponse:
    return redirect(reverse("admin:governance_budget_changelist") + (f"?{query}" if query else ""))
