"""The kinds of pages that the console's models have. Who may look and who may act is a permission for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db import models
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.paginator import InfinitePaginator

from governance import staff
from governance.audit import Actor
from governance.console import opened, presses
from governance.console.amounts import AmountField, WholeField
from governance.console.moments import LocalMoments
from governance.queries.spend import Reader
from governance.rules import names


def may(request: HttpRequest, permission: str) -> bool:
    """Whether whoever asks may do an act: "governance.change_budget"."""
    return staff.may(request.user, permission)


def has_role(request: HttpRequest) -> bool:
    """Whether whoever asks has any role, and so something to see."""
    access = staff.access_of(request.user)
    return bool(access.roles) and (access.tenant is not None or not access.is_bound)


def is_of_the_platform(request: HttpRequest) -> bool:
    """Whether whoever asks has a role, and not one that is bound to a tenant."""
    return has_role(request) and not staff.access_of(request.user).is_bound


def reader(request: HttpRequest) -> Reader:
    """What whoever asks may read: everything, or one tenant's. Whoever has no role must be turned away before."""
    return Reader(tenant=staff.access_of(request.user).tenant)


def actor(request: HttpRequest) -> Actor:
    """Who the audit trail names, and the press of the button by which they act."""
    name, press = request.user.get_username(), presses.press_of(request)
    return Actor(name=name, user=request.user, press=press)  # type: ignore[arg-type]


# A long table's filter offers what so many of its newest rows have: all that ever was would be read to be known.
LATEST = 1_000


class LatestValues(admin.SimpleListFilter):
    """A filter by a column of a long table, made by `latest_values`."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = model_admin.get_queryset(request).order_by("-pk").values_list(self.parameter_name, flat=True)[:LATEST]
        found = {value for value in newest if value} | {value for value in (self.value(),) if value}
        return [(value, value.replace("_", " ")) for value in sorted(found)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


def latest_values(field: str) -> type[LatestValues]:
    """For `list_filter`, in the place of the field's name."""
    return type(f"Latest{field.title()}", (LatestValues,), {"title": field, "parameter_name": field})


# Whose filters would be lists of thousands.
LONG = ("tenant", "agent", "budget")


def _is_long(one: Any) -> bool:
    return isinstance(one, str) and one.split("__")[-1] in LONG


class TypedFilter(AutocompleteSelectFilter):
    """A row of another table, looked for by typing. It names no row that whoever asks does not see."""

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        seen_by = changelist.model_admin.admin_site.get_model_admin(self.field.remote_field.model)
        for choice in super().choices(changelist):
            choice["form"].fields[self.lookup_kwarg].queryset = seen_by.get_queryset(self.request)
            yield choice


class OfferedLookups:
    """A list whose address takes what its filters offer, and no pattern: that is the database's trouble.

    A row holds what its page does not show, as sealed keys, and a lookup tells it by a character a time.
    """

    date_hierarchy: str | None

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        is_pattern = lookup.endswith(("__regex", "__iregex"))
        if is_pattern or not super().lookup_allowed(lookup, value, request):  # type: ignore[misc]
            return False
        filters = self.get_list_filter(request)  # type: ignore[attr-defined]
        # Some are for a field, some a class of ours with a word of its own.
        words = [getattr(each, "parameter_name", "") for each in filters]
        fields = [each if isinstance(each, str) else each[0] for each in filters if isinstance(each, str | tuple)]
        fields += [self.date_hierarchy] if self.date_hierarchy else []
        return lookup in words or any(lookup == name or lookup.startswith(f"{name}__") for name in fields)


class OpenedForms:
    """A model's page whose form refuses what was changed since it was opened: see `governance.console.opened`."""

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        made = super().get_form(request, obj, change=change, **kwargs)  # type: ignore[misc]
        return opened.form(made) if obj is not None else made


class ConsoleAdmin(LocalMoments, OfferedLookups, OpenedForms, ModelAdmin):
    """Seen and changed by whoever has the permission, deleted by nobody.

    `tenant_path` leads from a row to its tenant: "budget__tenant"; "pk" for the tenant itself. Whoever is bound to a
    tenant sees that tenant's rows alone, and none where there is no path. A row without a tenant is the platform's.
    """

    tenant_path = ""
    list_per_page = 50
    show_full_result_count = False
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

    def may(self, request: HttpRequest, verb: str) -> bool:
        """`verb` is Django's: view, add, change, delete."""
        return may(request, f"{self.opts.app_label}.{verb}_{self.opts.model_name}")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_hidden = staff.access_of(request.user).is_bound and not self.tenant_path
        return not is_hidden and (self.may(request, "view") or self.may(request, "change"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "add")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "change")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For actions, also where the form itself is read-only: whoever may change such a row may act on it."""
        return self.may(request, "change")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        access = staff.access_of(request.user)
        if not access.is_bound:
            return rows
        if access.tenant is None or not self.tenant_path:
            return rows.none()
        return rows.filter(**{self.tenant_path: access.tenant.pk})

    def row(self, request: HttpRequest, object_id: str) -> Any:
        """For a page or an act of one row. Raises Http404 for one that whoever asks does not see."""
        found = self.get_object(request, object_id)
        if found is None:
            raise Http404
        return found

    @property
    def list_filter_submit(self) -> bool:
        """What is looked for by typing is a form, which has a button."""
        return any(_is_long(one) for one in self.list_filter)

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Rows of long tables are looked for by typing, before all else. A tenant's own staff has none by tenant."""
        filters = super().get_list_filter(request)
        if staff.access_of(request.user).is_bound:
            filters = [one for one in filters if not (isinstance(one, str) and one.split("__")[-1] == "tenant")]
        typed = [(one, TypedFilter) for one in filters if _is_long(one)]
        return [*typed, *(one for one in filters if not _is_long(one))]


class ReadOnlyAdmin(ConsoleAdmin):
    """A table of the ledger or of its history: to be read, never edited, by owners either."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class LongTableAdmin(ReadOnlyAdmin):
    """A table of millions of rows: pages without a count of them all."""

    paginator = InfinitePaginator
    show_full_result_count = False
