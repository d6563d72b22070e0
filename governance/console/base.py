"""The kinds of pages that the console's models have. Staff may look at everything; operators may act."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from governance.api.authentication import role_of
from governance.audit import Actor
from governance.console.amounts import AmountField, WholeField
from governance.models.tenancy import Role
from governance.rules import names


def is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


def is_operator(request: HttpRequest) -> bool:
    user = request.user
    return user.is_active and user.is_staff and role_of(user) == Role.OPERATOR


def actor(request: HttpRequest) -> Actor:
    """Who the audit trail names."""
    return Actor(name=request.user.get_username(), user=request.user)  # type: ignore[arg-type]


class ConsoleAdmin(ModelAdmin):
    """Seen by all staff, changed by operators, deleted by nobody."""

    list_per_page = 50
    show_full_result_count = False
    list_filter_submit = False
    warn_unsaved_form = True
    formfield_overrides = {
        models.DecimalField: {"form_class": AmountField},
        models.IntegerField: {"form_class": WholeField},
        models.PositiveIntegerField: {"form_class": WholeField},
    }

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Names are looked for in the form that is kept, however they are typed."""
        found: tuple[Any, bool] = super().get_search_results(request, queryset, names.composed(search_term))
        return found

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_staff(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_staff(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For actions: shown and allowed to operators, also where the form itself is read-only."""
        return is_operator(request)


class ReadOnlyAdmin(ConsoleAdmin):
    """A table of the ledger or of its history: to be read, never edited, by operators either."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class LongTableAdmin(ReadOnlyAdmin):
    """A table of millions of rows: pages without a count of them all."""

    paginator = InfinitePaginator
    show_full_result_count = False
