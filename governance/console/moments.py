"""Moments in Django's own tables and pages, told as everywhere in the console: in the reader's zone, UTC on hover."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.http import HttpRequest
from django.utils import timezone

from governance.console import display

# A column or a read-only field: Django's name of it, or what makes it of a row.
Shown = str | Callable[[Any], Any]


class LocalMoments:
    """A model's list and its read-only page. A form's own moments stay text, which is what a browser can change."""

    model: type[models.Model]

    def get_list_display(self, request: HttpRequest) -> list[Shown]:
        return [_told(self.model, name) for name in super().get_list_display(request)]  # type: ignore[misc]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        found = super().get_fieldsets(request, obj)  # type: ignore[misc]
        if obj is None or self.has_change_permission(request, obj):  # type: ignore[attr-defined]
            return found
        return [(title, {**options, "fields": _all_told(self.model, options["fields"])}) for title, options in found]


def _all_told(model: type[models.Model], fields: Any) -> list[Any]:
    """Fields may stand in lines of several."""
    return [tuple(_all_told(model, one)) if isinstance(one, list | tuple) else _told(model, one) for one in fields]


@cache
def _told(model: type[models.Model], name: Shown) -> Shown:
    """What shows a column of moments; whatever else there is stays as it is. Kept, as Django compares columns."""
    try:
        field = model._meta.get_field(name) if isinstance(name, str) else None
    except FieldDoesNotExist:
        return name
    if not isinstance(field, models.DateTimeField):
        return name

    def shown(row: Any) -> Any:
        at = getattr(row, field.name)
        # What is of another year says so.
        return display.moment(at, "minute" if at is None or at.year == timezone.now().year else "year")

    shown.__name__ = field.name
    shown.short_description = field.verbose_name  # type: ignore[attr-defined]
    shown.admin_order_field = field.name  # type: ignore[attr-defined]
    return shown
