"""Where a page is: the menu's section, its tab, the row, and what is done to it. The last is the page's heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django import template
from django.db.models import Model
from django.db.models.options import Options
from django.http import HttpRequest
from django.urls import reverse

from config.console import menu

register = template.Library()


@dataclass(frozen=True, slots=True)
class Crumb:
    title: str
    link: str


@dataclass(frozen=True, slots=True)
class Trail:
    """`here` is the page itself, `above` the pages that it is below, the widest first."""

    above: tuple[Crumb, ...]
    here: str


@register.simple_tag(takes_context=True)
def trail(context: template.RequestContext) -> Trail:
    """Of the page that is written: a template's tag."""
    request: HttpRequest = context["request"]
    title, opts = str(context.get("title") or ""), context.get("opts")
    crumbs = _tabs(request)
    if opts is None:
        # A page that is no model's is its tab's, or below it.
        if not crumbs or crumbs[-1].link != request.path:
            crumbs.append(Crumb(title, ""))
    elif context.get("cl") is None:
        row = _row(context, opts)
        page = reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[row.pk]) if row else ""
        if row:
            crumbs.append(Crumb(str(row), page))
        # Django calls a row's own page "Change budget", which the row's name says better.
        if request.path.rstrip("/") != page.rstrip("/"):
            crumbs.append(Crumb(title, ""))
    *above, here = crumbs or [Crumb(title, "")]
    return Trail(tuple(above), here.title)


def _tabs(request: HttpRequest) -> list[Crumb]:
    """The section and, unless it is the section's first, the tab; none for an address in no section."""
    found = menu.place(request)
    if found is None:
        return []
    section, first, tab = found
    head = Crumb(section.title, first.link)
    return [head] if tab == first else [head, Crumb(tab.title, tab.link)]


def _row(context: template.RequestContext, opts: Options[Model]) -> Model | None:
    """The row that the page is of; None where it is of none, or of many."""
    rows: Sequence[object] = context.get("rows") or ()
    candidates = (context.get("original"), context.get("object"), rows[0] if len(rows) == 1 else None)
    return next((found for found in candidates if isinstance(found, opts.model)), None)
