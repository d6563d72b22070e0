"""Console users and their roles, in the console: seen and given by owners."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget

from config import second_factor
from governance import staff
from governance.actions import people
from governance.actions.people import Grants
from governance.console import reasons
from governance.console.base import OfferedLookups, OpenedForms, actor
from governance.console.moments import LocalMoments
from governance.models import Tenant
from governance.rules.errors import FieldError
from governance.staff import StaffRole

WHAT_THEY_DO = {
    StaffRole.OWNER: "everything, users and roles too",
    StaffRole.OPERATOR: "reads everything; changes budgets, stops, keys, models and prices",
    StaffRole.BILLING: "reads everything; changes plans and what concerns Stripe",
    StaffRole.VIEWER: "reads everything, changes nothing",
    StaffRole.TENANT_STAFF: "reads what is one tenant's",
}


def is_owner(request: HttpRequest) -> bool:
    return staff.access_of(request.user).is_owner


class RolesField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, group: Any) -> str:
        return f"{group.name}: {WHAT_THEY_DO[StaffRole(group.name)]}"


class GrantsForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a user is given: `people` says what does not go together."""

    groups = RolesField(
        Group.objects.filter(name__in=list(StaffRole)).order_by("id"),
        label="Roles",
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="Without a role nothing is shown. A change ends the user's sessions.",
    )
    tenant = forms.ModelChoiceField(
        Tenant.objects.order_by("slug"),
        required=False,
        empty_label="None",
        widget=UnfoldAdminSelectWidget(),
        help_text="The one that tenant staff sees.",
    )
    # Set by the page: who gives.
    by: Any = None

    def grants(self) -> Grants:
        """Of a new user: the roles, and what whoever has one needs to sign in."""
        given = self.cleaned_data
        roles = frozenset(StaffRole(group.name) for group in given["groups"])
        return Grants(roles=roles, tenant=given["tenant"])

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if not self.errors:
            try:
                people.check(user=self.instance, grants=self.grants(), by=self.by)
            except FieldError as error:
                self.add_error(error.field if error.field in self.fields else None, error.message)
        return cleaned


class AddUserForm(GrantsForm, UserCreationForm):
    """A new user with their roles: one form, one act."""


class UserForm(GrantsForm, UserChangeForm):
    """What people are called, and what they are given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        bound = people.grants_of(self.instance).tenant
        if "tenant" in self.fields:
            self.fields["tenant"].initial = bound

    def grants(self) -> Grants:
        given = self.cleaned_data
        # What the page does not let this owner change stays as it is.
        kept = people.grants_of(User.objects.get(pk=self.instance.pk))
        return Grants(
            is_active=given["is_active"],
            is_staff=given["is_staff"],
            is_superuser=given.get("is_superuser", kept.is_superuser),
            roles=frozenset(StaffRole(group.name) for group in given["groups"]),
            tenant=given["tenant"],
        )


class UserAdmin(LocalMoments, OfferedLookups, OpenedForms, DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    """Nobody is deleted: the audit trail names them. Who has left is made inactive."""

    form = UserForm
    add_form = AddUserForm
    add_fieldsets = (
        (None, {"fields": ("username", "usable_password", "password1", "password2")}),
        ("What they may do", {"fields": ("groups", "tenant")}),
    )
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "roles", "is_active", "is_staff", "has_second_factor", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "groups")
    filter_horizontal = ()
    actions_detail = ("remove_second_factor",)
    fieldsets = (
        (None, {"fields": ("username", "password", ("first_name", "last_name"), "email")}),
        (
            "What they may do",
            {"fields": ("groups", "tenant", "is_active", "is_staff", "is_superuser")},
        ),
        ("Times", {"fields": (("last_login", "date_joined"),)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        rows: QuerySet[User] = super().get_queryset(request)
        return rows.prefetch_related("groups", "totpdevice_set").select_related("tenant_staff__tenant")

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        times = ("last_login", "date_joined")
        return times if cast(User, request.user).is_superuser else (*times, "is_superuser")

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None or self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        names = ("username", ("first_name", "last_name"), "email", "roles", ("is_active", "is_staff", "is_superuser"))
        return [(None, {"fields": names}), ("Times", {"fields": (("last_login", "date_joined"),)})]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        made = super().get_form(request, obj, change=change, **kwargs)
        return type(made.__name__, (made,), {"by": actor(request)})

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_owner(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_owner(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_owner(request)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Whoever can give a superuser a password can sign in as one."""
        return is_owner(request) and (obj is None or not obj.is_superuser or cast(User, request.user).is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change:
            people.rename(user=obj, by=actor(request), now=timezone.now())
        else:
            people.create(user=obj, grants=form.grants(), by=actor(request), now=timezone.now())

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        if change:
            people.grant(user=form.instance, grants=form.grants(), by=actor(request), now=timezone.now())

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        # Read as Django's page reads it: an id can be written in many ways.
        user = self.get_object(request, unquote(id))
        if user is not None and user == request.user:
            # One's own asks for the old one and a code.
            return redirect("admin:password_change")
        answer: HttpResponse = super().user_change_password(request, id, form_url)
        if user is not None and user.password != User.objects.get(pk=user.pk).password:
            people.record_password(user=user, by=actor(request), now=timezone.now())
        return answer

    @display(description="Roles")
    def roles(self, obj: User) -> str:
        names = ["superuser"] if obj.is_superuser else [group.name for group in obj.groups.all()]
        bound = getattr(obj, "tenant_staff", None)
        return ", ".join(names) + (f" of {bound.tenant.slug}" if bound else "") or "–"

    @display(description="Second factor", boolean=True)
    def has_second_factor(self, obj: Any) -> bool:
        return any(device.confirmed for device in obj.totpdevice_set.all())

    def has_reset_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """`object_id` is text from an address: of no user, or of none at all on the list."""
        obj = self.get_object(request, str(object_id)) if object_id else None
        return self.has_change_permission(request, obj)

    @action(
        description="Remove second factor", url_path="remove-second-factor", permissions=["reset"], icon="no_encryption"
    )
    def remove_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponse:
        user = self.get_object(request, object_id)
        if user is None:
            raise Http404
        if user == request.user:
            # One's own asks for its code.
            return redirect("admin:second-factor")
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Remove a second factor",
            verb="Remove the second factor of",
            explanation="For somebody who has lost their device and their recovery codes. Be sure that it is them.",
            rows=[user],
            act=lambda row, reason: second_factor.remove(user=row, reason=reason, by=by, now=now),
            back=reverse("admin:auth_user_change", args=[user.pk]),
        )


class RoleAdmin(OfferedLookups, DjangoGroupAdmin, ModelAdmin):
    """What each role may do: as the product says, so to be read here, not changed."""

    list_display = ("name", "does", "people")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        rows: QuerySet[Group] = super().get_queryset(request)
        return rows.prefetch_related("user_set")

    @display(description="May")
    def does(self, obj: Group) -> str:
        return WHAT_THEY_DO[StaffRole(obj.name)] if obj.name in list(StaffRole) else "–"

    @display(description="Given to")
    def people(self, obj: Any) -> str:
        return ", ".join(user.username for user in obj.user_set.all()) or "–"

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_owner(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_owner(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
