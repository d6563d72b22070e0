"""Who calls, in the console: tenants, their agents and their keys, to be paused, stopped and revoked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.decorators import action
from unfold.enums import ActionVariant

from governance.actions import stops, tenancy
from governance.console import agent_page, customer_page, key_page, key_pages, page_link_pages, reasons, stop_pages
from governance.console import display as show
from governance.console.base import ConsoleAdmin, ReadOnlyAdmin, actor, may
from governance.console.customer_list import AgentList, TenantList
from governance.console.key_page import KeyList
from governance.ledger import clock
from governance.models import Agent, ApiKey, Reservation, Tenant
from governance.queries import spend
from governance.queries.spend import TimeRange
from governance.queries.sums import LongSum

# Of a status that no person gave, neither is offered.
IDLE = ("pause_one", "resume_one")


class StatusActions(ConsoleAdmin):
    """Pause, resume and emergency stop, for the selected rows and on the row's own page, which is to be read first."""

    actions = ("pause_selected", "resume_selected", "stop_selected")
    actions_detail: tuple[str, ...] = ("pause_one", "resume_one", "stop_one")
    pause: Callable[..., object]
    resume: Callable[..., object]

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

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Those that would change something: nobody is offered to resume who is active."""
        row = self.get_object(request, str(object_id))
        idle = {"active": ("resume_one",), "paused": ("pause_one",)}.get(str(row.status) if row else "", IDLE)
        if row is None or stops.active().filter(**self.whom(row)).exists():
            idle = (*idle, "stop_one")
        offered = super().get_actions_detail(request, object_id)
        return [one for one in offered if not one.action_name.endswith(idle)]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        may_do = {"may_operate": self.has_operate_permission(request), "may_stop": self.has_stop_permission(request)}
        return super().changelist_view(request, {**may_do, **(extra_context or {})})

    def whom(self, row: Any) -> dict[str, Any]:
        """What an emergency stop names that is of this row alone."""
        raise NotImplementedError

    def read(self, request: HttpRequest, row: Any, now: datetime) -> dict[str, Any]:
        """What the row's page shows."""
        raise NotImplementedError

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        def read() -> dict[str, Any]:
            # Only where the page is shown: what was saved leads to another request.
            return self.read(request, self.row(request, object_id), timezone.now())

        return super().change_view(request, object_id, form_url, {"read": read, **(extra_context or {})})

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
            explanation=f"{stop_pages.EFFECT} {stop_pages.PAUSE_OR_STOP} {self._at_stake(rows)}",
            rows=rows,
            act=lambda row, reason: stops.stop(**{field: row}, reason=reason, by=by, now=now),
            back=back,
            action=name,
            danger=True,
        )

    def _at_stake(self, rows: list[Any]) -> str:
        """What of theirs runs now, and what they spent lately."""
        whose = Q(pk__in=[])
        for row in rows:
            whose |= Q(tenant=row) if isinstance(row, Tenant) else Q(tenant=row.tenant_id, agent=row.slug)
        pending = Reservation.objects.filter(whose, status=Reservation.Status.PENDING)
        found = pending.aggregate(count=Count("pk"), nanos=LongSum("amount_nanos"))
        spent, calls = spend.total(period=TimeRange(timezone.now() - timedelta(hours=24)), where=whose)
        running = "Nothing of it runs now"
        if found["count"]:
            running = f"{found['count']:,} of its calls run now, {show.dollars(found['nanos'] or 0)} reserved for them"
        return f"{running}; in the last 24 hours {calls:,} calls spent {show.dollars(spent)}."

    def _page(self, object_id: str) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id])

    def _ask(self, request: HttpRequest, rows: list[Any], verb: str, back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        act = self.pause if verb == "Pause" else self.resume
        field = str(self.opts.model_name)
        effect = "From the next call on, every call is decided by the budgets again."
        if verb == "Pause":
            effect = "From the next call on, every call is refused with 403 until it is resumed. "
            effect += f"{stop_pages.PAUSE_OR_STOP} {self._at_stake(rows)}"
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
    change_list_template = "console/customers.html"
    add_form_template = "admin/change_form.html"
    change_form_template = "console/customer.html"
    list_display = ("__str__",)
    list_filter = ("status",)
    list_filter_sheet = True
    search_fields = ("slug", "name")
    search_help_text = "A customer's name, or how calls name it."
    actions_detail = (*StatusActions.actions_detail, "page_link_one")
    ordering = ("-id",)
    fields = ("slug", "name", "time_zone", "show_amounts", "default_max_tokens")
    pause = staticmethod(tenancy.pause_tenant)
    resume = staticmethod(tenancy.resume_tenant)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TenantList]:
        return TenantList

    def whom(self, row: Tenant) -> dict[str, Any]:
        return {"tenant": row, "agent": None}

    def read(self, request: HttpRequest, row: Tenant, now: datetime) -> dict[str, Any]:
        return customer_page.context(request, row, now)

    def has_page_link_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "governance.add_pagelink")

    @action(description="Read-only page", url_path="page-link", permissions=["page_link"], icon="link")
    def page_link_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return page_link_pages.make(request, model_admin=self, tenant=self.row(request, object_id))

    def get_fields(self, request: HttpRequest, obj: Tenant | None = None) -> Any:
        # Its slug never changes: calls, budgets and Stripe know it by that.
        return [name for name in self.fields if obj is None or name != "slug"]

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        by, now = actor(request), timezone.now()
        if change:
            stored = Tenant.objects.get(pk=obj.pk)
            changes = {field: getattr(obj, field) for field in tenancy.TENANT_FIELDS if field in form.changed_data}
            tenancy.change_tenant(tenant=stored, changes=changes, by=by, now=now)
        else:
            fields = {field: getattr(obj, field) for field in tenancy.TENANT_FIELDS}
            obj.__dict__.update(tenancy.create_tenant(slug=obj.slug, **fields, by=by, now=now).__dict__)


class AgentAdmin(StatusActions):
    tenant_path = "tenant"
    add_form_template = "admin/change_form.html"
    change_form_template = "console/agent.html"
    change_list_template = "console/agents.html"
    list_display = ("slug",)
    list_filter = ("status", "tenant")
    search_fields = ("slug", "tenant__slug")
    list_select_related = ("tenant",)
    fields = ("tenant", "slug")
    pause = staticmethod(tenancy.pause_agent)
    resume = staticmethod(tenancy.resume_agent)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[AgentList]:
        return AgentList

    def whom(self, row: Agent) -> dict[str, Any]:
        return {"agent": row}

    def read(self, request: HttpRequest, row: Agent, now: datetime) -> dict[str, Any]:
        return agent_page.context(request, row, now)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Agent]:
        return super().get_queryset(request).select_related("tenant")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # An agent is its name: there is nothing to edit, only to pause.
        return False

    def save_model(self, request: HttpRequest, obj: Agent, form: Any, change: bool) -> None:
        made = tenancy.create_agent(tenant=obj.tenant, slug=obj.slug, by=actor(request), now=timezone.now())
        obj.__dict__.update(made.__dict__)


class KeyStates(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in ("usable", "expired", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = clock.known_now()
        over = Q(revoked_at=None, expires_at__lte=now)
        chosen = {"revoked": Q(revoked_at__isnull=False), "expired": over, "usable": Q(revoked_at=None) & ~over}
        return queryset.filter(chosen.get(str(self.value()), Q()))


class ApiKeyAdmin(ReadOnlyAdmin):
    tenant_path = "tenant"
    change_form_template = "console/key.html"
    change_list_template = "console/keys.html"
    list_display = ("prefix",)
    list_filter = (KeyStates, "role", "tenant", "agent")
    search_fields = ("prefix", "name", "tenant__slug", "agent__slug")
    list_select_related = ("tenant", "agent")
    ordering = ("-id",)
    fields = ("prefix", "name", "role", "tenant", "agent", "created_at", "expires_at", "revoked_at")
    actions = ("revoke_selected",)
    actions_detail = ("rotate_one", "revoke_one")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.try_view)
        return [path("<int:pk>/try/", view, name="governance_apikey_try"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        may_do = {"may_operate": self.has_operate_permission(request)}
        return super().changelist_view(request, {**may_do, **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[KeyList]:
        return KeyList

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """None for a key that is of no use any more."""
        key = self.get_object(request, str(object_id))
        is_over = key is None or not key.is_usable(clock.known_now())
        return [] if is_over else super().get_actions_detail(request, object_id)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        def read() -> dict[str, Any]:
            return key_page.context(request, self.row(request, object_id), timezone.now())

        more = {"read": read, "may_try": self.has_issue_permission(request)}
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    def try_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Sends a call with the key that is posted; a part of its pages."""
        if request.method != "POST" or not self.has_issue_permission(request):
            raise PermissionDenied
        return key_pages.tried(request, key=self.row(request, str(pk)))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "add")

    def has_issue_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For the rotation, which hands out a new key."""
        return self.may(request, "add")

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            return super().add_view(request, form_url, extra_context)  # type: ignore[no-any-return]
        return key_pages.issue(request, model_admin=self)

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
        return key_pages.rotate(request, model_admin=self, key=key, in_use=key_page.in_use([key]))

    def _revoke(self, request: HttpRequest, rows: list[ApiKey], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Revoke an API key" if len(rows) == 1 else f"Revoke {len(rows)} API keys",
            verb="Revoke",
            explanation=f"From the next call on it is refused with 401, for good. {key_page.in_use(rows)}",
            rows=rows,
            act=lambda key, reason: tenancy.revoke_key(key=key, reason=reason, by=by, now=now),
            back=back,
            action=name,
            danger=True,
        )
