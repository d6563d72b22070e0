"""Who calls, in the console: tenants, their agents and their keys, to be paused, stopped and revoked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from governance.actions import stops, tenancy
from governance.console import display as show
from governance.console import key_pages, reasons, stop_pages
from governance.console.base import ConsoleAdmin, ReadOnlyAdmin, actor, may
from governance.ledger import clock
from governance.models import Agent, ApiKey, Tenant


class StatusActions(ConsoleAdmin):
    """Pause, resume and emergency stop, for the selected rows and on the row's own page."""

    actions = ("pause_selected", "resume_selected", "stop_selected")
    actions_detail = ("pause_one", "resume_one", "stop_one")
    pause: Callable[..., object]
    resume: Callable[..., object]

    @display(description="Status", label=show.STATUS_COLOURS, ordering="status")
    def status_label(self, obj: Any) -> str:
        return str(obj.status)

    @admin.action(description="Pause selected", permissions=["operate"])
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._ask(request, list(queryset), "Pause", request.get_full_path(), "pause_selected")

    @admin.action(description="Resume selected", permissions=["operate"])
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._ask(request, list(queryset), "Resume", request.get_full_path(), "resume_selected")

    @action(description="Pause", url_path="pause", permissions=["operate"], icon="pause")
    def pause_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(request, [self.row(request, object_id)], "Pause", self._page(object_id))

    @action(description="Resume", url_path="resume", permissions=["operate"], icon="play_arrow")
    def resume_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(request, [self.row(request, object_id)], "Resume", self._page(object_id))

    def has_stop_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "governance.add_emergencystop")

    @admin.action(description="Emergency stop of selected", permissions=["stop"])
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return self._stop(request, list(queryset), request.get_full_path(), "stop_selected")

    @action(
        description="Emergency stop",
        url_path="stop",
        permissions=["stop"],
        icon="emergency_home",
        variant=ActionVariant.DANGER,
    )
    def stop_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._stop(request, [self.row(request, object_id)], self._page(object_id))

    def _stop(self, request: HttpRequest, rows: list[Any], back: str, name: str = "") -> HttpResponse:
        by, now, field = actor(request), timezone.now(), str(self.opts.model_name)
        return reasons.ask(
            request,
            model_admin=self,
            title="Emergency stop",
            verb="Stop now",
            explanation=f"{stop_pages.EFFECT} {stop_pages.PAUSE_OR_STOP}",
            rows=rows,
            act=lambda row, reason: stops.stop(**{field: row}, reason=reason, by=by, now=now),
            back=back,
            action=name,
            danger=True,
        )

    def _page(self, object_id: str) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id])

    def _ask(self, request: HttpRequest, rows: list[Any], verb: str, back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        act = self.pause if verb == "Pause" else self.resume
        field = str(self.opts.model_name)
        effect = "From the next call on, every call is decided by the budgets again."
        if verb == "Pause":
            effect = "From the next call on, every call is refused with 403 until it is resumed. "
            effect += stop_pages.PAUSE_OR_STOP
        return reasons.ask(
            request,
            model_admin=self,
            title=f"{verb} {self.opts.verbose_name if len(rows) == 1 else self.opts.verbose_name_plural}",
            verb=verb,
            explanation=effect,
            rows=rows,
            act=lambda row, reason: act(**{field: row}, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )


class TenantAdmin(StatusActions):
    tenant_path = "pk"
    list_display = ("slug", "name", "time_zone", "status_label", "show_amounts", "created_at")
    list_filter = ("status",)
    search_fields = ("slug", "name")
    fields = ("slug", "name", "time_zone", "show_amounts", "default_max_tokens")
    pause = staticmethod(tenancy.pause_tenant)
    resume = staticmethod(tenancy.resume_tenant)

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        by, now = actor(request), timezone.now()
        if change:
            stored = Tenant.objects.get(pk=obj.pk)
            changes = {field: getattr(obj, field) for field in tenancy.TENANT_FIELDS}
            tenancy.change_tenant(tenant=stored, changes=changes, by=by, now=now)
        else:
            fields = {field: getattr(obj, field) for field in tenancy.TENANT_FIELDS}
            obj.__dict__.update(tenancy.create_tenant(slug=obj.slug, **fields, by=by, now=now).__dict__)


class AgentAdmin(StatusActions):
    tenant_path = "tenant"
    list_display = ("slug", "tenant", "status_label", "created_at")
    list_filter = ("status", "tenant")
    search_fields = ("slug", "tenant__slug")
    list_select_related = ("tenant",)
    fields = ("tenant", "slug")
    pause = staticmethod(tenancy.pause_agent)
    resume = staticmethod(tenancy.resume_agent)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Agent]:
        return super().get_queryset(request).select_related("tenant")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # An agent is its name: there is nothing to edit, only to pause.
        return False

    def save_model(self, request: HttpRequest, obj: Agent, form: Any, change: bool) -> None:
        made = tenancy.create_agent(tenant=obj.tenant, slug=obj.slug, by=actor(request), now=timezone.now())
        obj.__dict__.update(made.__dict__)


class ApiKeyAdmin(ReadOnlyAdmin):
    tenant_path = "tenant"
    list_display = ("prefix", "name", "role", "holder", "usable", "expires_at", "revoked_at", "created_at")
    list_filter = ("role", "tenant")
    search_fields = ("prefix", "name", "tenant__slug", "agent__slug")
    list_select_related = ("tenant", "agent")
    fields = ("prefix", "name", "role", "tenant", "agent", "created_at", "expires_at", "revoked_at")
    actions = ("revoke_selected",)
    actions_detail = ("rotate_one", "revoke_one")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "add")

    def has_issue_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For the rotation, which hands out a new key."""
        return self.may(request, "add")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            return super().add_view(request, form_url, extra_context)  # type: ignore[no-any-return]
        return key_pages.issue(request, model_admin=self)

    @display(description="Holder")
    def holder(self, obj: ApiKey) -> str:
        return " / ".join(part.slug for part in (obj.tenant, obj.agent) if part) or "the platform"

    @display(description="State", label={"usable": "success", "expired": "warning", "revoked": "danger"})
    def usable(self, obj: ApiKey) -> str:
        if obj.revoked_at:
            return "revoked"
        return "usable" if obj.is_usable(clock.known_now()) else "expired"

    @admin.action(description="Revoke selected keys", permissions=["operate"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse:
        return self._revoke(request, list(queryset), request.get_full_path(), "revoke_selected")

    @action(description="Revoke", url_path="revoke", permissions=["operate"], icon="block")
    def revoke_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.row(request, object_id)
        return self._revoke(request, [key], reverse("admin:governance_apikey_change", args=[key.pk]))

    @action(description="Rotate", url_path="rotate", permissions=["issue"], icon="autorenew")
    def rotate_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.row(request, object_id)
        return key_pages.rotate(request, model_admin=self, key=key)

    def _revoke(self, request: HttpRequest, rows: list[ApiKey], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Revoke an API key" if len(rows) == 1 else f"Revoke {len(rows)} API keys",
            verb="Revoke",
            explanation="From the next call on the key is refused with 401, for good.",
            rows=rows,
            act=lambda key, reason: tenancy.revoke_key(key=key, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )
