"""Links to customers' own read-only pages, in the console: made on a page that shows the link once, and taken back."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextInputWidget

from governance.actions import page_links
from governance.console import reasons
from governance.console.base import ReadOnlyAdmin, actor
from governance.models import PageLink, Tenant
from governance.rules.errors import FieldError

LIST = "admin:governance_pagelink_changelist"
END = "Whoever opens the link from now on is told that it is over. Other links of the same customer go on working."


class PageLinkForm(forms.Form):
    days = forms.IntegerField(
        min_value=1,
        max_value=page_links.MOST_DAYS,
        initial=page_links.DEFAULT_DAYS,
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text="How many days it is good. It can be taken back sooner.",
    )
    note = forms.CharField(
        max_length=200,
        required=False,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Whom it is for, so that you know it again; the page does not show it.",
    )


def make(request: HttpRequest, *, model_admin: Any, tenant: Tenant) -> HttpResponse:
    """The form; and once it is right, the link."""
    form = PageLinkForm(request.POST or None)
    back = reverse("admin:governance_tenant_change", args=[tenant.pk])
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": "Make a read-only page",
        "tenant": tenant,
        "form": form,
        "back": back,
    }
    if form.is_valid():
        given = form.cleaned_data
        try:
            url, link = page_links.make(tenant=tenant, **given, by=actor(request), now=timezone.now())
        except FieldError as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            made = context | {"title": "The read-only page", "url": url, "link": link}
            return TemplateResponse(request, "console/page_link_made.html", made, headers={"Cache-Control": "no-store"})
    return TemplateResponse(request, "console/page_link_form.html", context)


class LinkStates(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("works", "works"), ("over", "over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        works = queryset.filter(ended_at=None, ends_at__gt=timezone.now())
        if self.value() == "works":
            return works
        return queryset.exclude(pk__in=works.order_by().values("pk")) if self.value() == "over" else queryset


class PageLinkAdmin(ReadOnlyAdmin):
    """Made from a customer's page; taken back here, one or all that are selected."""

    list_display = ("tenant", "note", "made_by", "made_at", "ends_at", "state_label")
    list_filter = (LinkStates, "tenant")
    search_fields = ("tenant__slug", "note", "made_by")
    list_select_related = ("tenant",)
    ordering = ("-id",)
    fields = (("tenant", "note", "state_label"), ("made_by", "made_at", "ends_at"), ("ended_by", "ended_at"))
    actions = ("end_selected",)
    actions_detail = ("end_one",)

    @display(description="State", label={"works": "success", "taken back": "danger", "over": ""})
    def state_label(self, obj: PageLink) -> str:
        if obj.ended_at is not None:
            return "taken back"
        return "works" if obj.works(timezone.now()) else "over"

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """None for a link that is over."""
        link = self.get_object(request, str(object_id))
        offered = super().get_actions_detail(request, object_id)
        return offered if link is not None and link.works(timezone.now()) else []

    @admin.action(description="Take back selected", permissions=["operate"])
    def end_selected(self, request: HttpRequest, queryset: QuerySet[PageLink]) -> HttpResponse:
        rows = list(queryset.select_related("tenant"))
        return self._end(request, rows, request.get_full_path(), "end_selected")

    @action(
        description="Take back", url_path="end", permissions=["operate"], icon="block", variant=ActionVariant.DANGER
    )
    def end_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        link = self.row(request, object_id)
        return self._end(request, [link], reverse("admin:governance_pagelink_change", args=[link.pk]))

    def _end(self, request: HttpRequest, rows: list[PageLink], back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Take back a read-only page" if len(rows) == 1 else f"Take back {len(rows)} read-only pages",
            verb="Take back",
            explanation=END,
            rows=rows,
            act=lambda link, reason: page_links.end(link=link, reason=reason, by=by, now=now),
            back=back,
            action=name,
            danger=True,
        )
