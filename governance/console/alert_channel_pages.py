"""Alerts' channels and deliveries in the console: who is told of what, whether it arrives, and what did not."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectMultipleWidget,
)

from governance.actions import alert_channels
from governance.alerts import environment
from governance.alerts.messages import words
from governance.console import confirm, reasons
from governance.console.base import ConsoleAdmin, LongTableAdmin, actor
from governance.models import AlertChannel, AlertDelivery
from governance.models.tenancy import Tenant
from governance.rules import alert_templates
from governance.rules.alerting import AREAS
from governance.rules.errors import FieldError

TEST = "One message is sent at once, whatever the channel's rules and quiet hours say. It takes half a minute at most."
REPLAY = "It is sent again as a message of its own, within seconds, and tried for a day."
ROTATE = (
    "The receiver must know the new secret before the next message. The old one signs nothing any more; the new one is "
    "shown once."
)
OWN_WORDS = format_html(
    "Empty: as it comes. These are filled in, anything else stays as you write it; of a digest each alert is one such "
    "text. <b>Send a test</b> shows what it looks like. {}",
    format_html_join("; ", "<code>{{{}}}</code> {}", alert_templates.NAMES.items()),
)
COLOURS = {"sent": "success", "pending": "info", "sending": "info", "given up": "danger", "not needed any more": ""}


class ChannelForm(forms.ModelForm):  # type: ignore[type-arg]
    """A secret goes in here; it never comes out again."""

    secret = forms.CharField(
        label="Apprise's URL",
        required=False,
        strip=True,
        max_length=2000,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="For chats, pagers and push: slack://…, msteams://…, discord://…, pagerduty://…, ntfy://… Kept "
        "encrypted and shown to nobody. Leave it empty to keep the one that is there.",
    )
    areas = forms.MultipleChoiceField(
        choices=[(area, area.capitalize()) for area in AREAS],
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None ticked: all.",
    )
    tenants = forms.ModelMultipleChoiceField(
        Tenant.objects.order_by("slug"),
        to_field_name="slug",
        required=False,
        widget=UnfoldAdminSelectMultipleWidget,
        label="Customers",
        help_text="Of which customers. None chosen: all, and what is about none.",
    )

    class Meta:
        model = AlertChannel
        fields = (
            *("name", "kind", "tenant", "target", "enabled", "min_severity", "areas", "tenants", "pace"),
            *("quiet_from", "quiet_until", "time_zone", "tells_ends", "subject_template", "text_template"),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A new channel has none of these; its fields say what that means.
        for name in ("areas", "tenants"):
            if name in self.fields:
                self.initial.setdefault(name, getattr(self.instance, name))

    def clean_tenants(self) -> list[str]:
        return sorted(tenant.slug for tenant in self.cleaned_data["tenants"])

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if not self.errors:
            try:
                alert_channels.check(channel=self._meant(), secret=self.cleaned_data.get("secret") or "")
            except FieldError as error:
                self.add_error(error.field if error.field in self.fields else None, error.message)
        return cleaned

    def _meant(self) -> AlertChannel:
        """The channel as it is to be; the form's own row is another one until all is well."""
        found = AlertChannel.objects.filter(pk=self.instance.pk).first() or AlertChannel()
        for name in (*alert_channels.FIELDS, "kind", "tenant"):
            if name in self.cleaned_data:
                setattr(found, name, self.cleaned_data[name])
        return found


class AlertChannelAdmin(ConsoleAdmin):
    """Who is told of what."""

    form = ChannelForm
    list_display = ("name", "kind", "whose", "told_of", "when", "state", "last_sent_at")
    list_select_related = ("tenant",)
    list_filter = ("kind", "enabled", "min_severity")
    search_fields = ("name", "target")
    list_per_page = 200
    fieldsets = (
        (None, {"fields": (("name", "kind"), ("target", "secret"), ("tenant", "enabled"))}),
        ("What it is told", {"fields": ("min_severity", "areas", "tenants", "tells_ends")}),
        ("When", {"fields": (("pace", "time_zone"), ("quiet_from", "quiet_until"))}),
        ("In your own words", {"fields": ("subject_template", "text_template"), "description": OWN_WORDS}),
    )
    actions_detail = ("try_out", "rotate", "remove")

    def get_readonly_fields(self, request: HttpRequest, obj: AlertChannel | None = None) -> tuple[str, ...]:
        if obj is None:
            return ()
        fixed = ("kind", "tenant", "state", "failures", "last_sent_at", "last_error")
        return (*fixed, "target") if obj.digest_of_url else fixed

    def has_rotate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Only webhooks are signed. Of what `object_id`, text from an address, finds none, the act itself says so."""
        obj = self.get_object(request, str(object_id)) if object_id else None
        return self.has_operate_permission(request) and (obj is None or obj.kind == AlertChannel.Kind.WEBHOOK)

    def get_fieldsets(self, request: HttpRequest, obj: AlertChannel | None = None) -> Any:
        whole = super().get_fieldsets(request, obj)
        if obj is not None:
            fares = {"fields": (("state", "failures"), ("last_sent_at", "last_error"))}
            whole = (*whole, ("Whether it arrives", fares))
        if self.has_change_permission(request, obj) and (
            obj is None or (obj.kind == "apprise" and not obj.digest_of_url)
        ):
            return whole
        [(_, first), *rest] = whole
        rows = [tuple(name for name in row if name != "secret") for row in first["fields"]]
        return ((None, {"fields": tuple(rows)}), *rest)

    def save_model(self, request: HttpRequest, obj: AlertChannel, form: Any, change: bool) -> None:
        values = {name: form.cleaned_data[name] for name in alert_channels.FIELDS if name in form.cleaned_data}
        secret, by, now = form.cleaned_data.get("secret") or "", actor(request), timezone.now()
        if change:
            alert_channels.change(channel=obj, changes=values, secret=secret, by=by, now=now)
            return
        made = alert_channels.create(kind=obj.kind, tenant=obj.tenant, secret=secret, **values, by=by, now=now)
        # Django's pages go on with their own row.
        obj.pk = made.channel.pk
        self._show(request, made)

    def _show(self, request: HttpRequest, made: alert_channels.Made) -> None:
        if made.secret:
            words = "Its receiver checks signatures with {}; that is shown this once."
            messages.warning(request, format_html(words, made.secret))

    @display(description="Whose", ordering="tenant__slug")
    def whose(self, obj: AlertChannel) -> str:
        return obj.tenant.slug if obj.tenant else "operators"

    @display(description="Told of")
    def told_of(self, obj: AlertChannel) -> str:
        what = ", ".join(obj.areas) or "everything"
        whom = f" of {', '.join(obj.tenants)}" if obj.tenants else ""
        return f"{what}{whom}, from {obj.min_severity} on"

    @display(description="When")
    def when(self, obj: AlertChannel) -> str:
        quiet = (
            f", quiet {obj.quiet_from:%H:%M} to {obj.quiet_until:%H:%M}" if obj.quiet_from and obj.quiet_until else ""
        )
        return f"{obj.get_pace_display()}{quiet}"

    @display(description="State", label={"works": "success", "not tried yet": "info", "off": "", "fails": "danger"})
    def state(self, obj: AlertChannel) -> str:
        if not obj.enabled:
            return "off"
        if obj.failures:
            return "fails"
        return "works" if obj.last_sent_at else "not tried yet"

    @action(
        description="Send a test", url_path="test", permissions=["operate"], icon="send", variant=ActionVariant.PRIMARY
    )
    def try_out(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        back = reverse("admin:governance_alertchannel_change", args=(object_id,))
        title = f"Send a test to {row.name}"
        page = confirm.page(request, model_admin=self, title=title, verb="Send", explanation=TEST, back=back)
        if page is not None:
            return page
        try:
            tried = alert_channels.try_out(channel=row, by=actor(request), clock=timezone.now)
        except FieldError as error:
            messages.error(request, f"{row}: {error}")
        else:
            if tried.state == AlertDelivery.State.SENT:
                messages.success(request, f"{row} took the message.")
            else:
                messages.error(
                    request, f"It did not arrive. {tried.error or 'It is still under way; look at the deliveries.'}"
                )
        return HttpResponseRedirect(back)

    @action(description="New signing secret", url_path="rotate", permissions=["rotate"], icon="key")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        back = reverse("admin:governance_alertchannel_change", args=(object_id,))
        title = f"A new signing secret for {row.name}"
        page = confirm.page(request, model_admin=self, title=title, verb="Make it", explanation=ROTATE, back=back)
        if page is not None:
            return page
        try:
            self._show(request, alert_channels.rotate(channel=row, by=actor(request), now=timezone.now()))
        except FieldError as error:
            messages.error(request, f"{row}: {error}")
        return HttpResponseRedirect(back)

    @action(
        description="Delete", url_path="remove", permissions=["operate"], icon="delete", variant=ActionVariant.DANGER
    )
    def remove(self, request: HttpRequest, object_id: str) -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Delete a channel",
            verb="Delete",
            explanation="Nobody is told there any more, and what was sent to it can be looked up no longer.",
            rows=[self.row(request, object_id)],
            act=lambda row, reason: alert_channels.delete(channel=row, reason=reason, by=by, now=now),
            back=reverse("admin:governance_alertchannel_changelist"),
            danger=True,
        )

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # ALERT_URLS may have been changed since a worker looked.
        environment.adopt()
        return super().changelist_view(request, extra_context)


class AlertDeliveryAdmin(LongTableAdmin):
    """What was sent to whom, and what was not."""

    list_display = ("named", "channel", "severity", "state_label", "tries", "created_at", "sent_at", "error")
    list_select_related = ("notice__tenant", "channel")
    list_filter = ("state", "channel", "notice__severity")
    search_fields = ("notice__title", "notice__kind")
    fields = (
        "named",
        "message",
        ("channel", "severity"),
        ("state_label", "tries"),
        "error",
        ("created_at", "next_at", "sent_at"),
        "message_id",
    )
    readonly_fields = ("named", "message", "severity", "state_label")
    actions = ("replay_selected",)
    actions_detail = ("replay",)

    @display(description="Alert", header=True)
    def named(self, obj: AlertDelivery) -> list[str]:
        return [obj.notice.title, f"{obj.notice.kind.replace('_', ' ')}, {obj.notice.what}"]

    @display(description="Message")
    def message(self, obj: AlertDelivery) -> str:
        return words(obj.notice, obj.channel)

    @display(description="Severity", label={"info": "info", "warning": "warning", "critical": "danger"})
    def severity(self, obj: AlertDelivery) -> str:
        return obj.notice.severity

    @display(description="State", label=COLOURS, ordering="state")
    def state_label(self, obj: AlertDelivery) -> str:
        return obj.get_state_display().lower()

    @admin.action(description="Send selected again", permissions=["operate"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[AlertDelivery]) -> HttpResponse:
        return self._ask(request, list(queryset), back=request.get_full_path(), name="replay_selected")

    @action(description="Send again", url_path="replay", permissions=["operate"], icon="replay")
    def replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        return self._ask(request, [row], back=reverse("admin:governance_alertdelivery_change", args=(object_id,)))

    def _ask(self, request: HttpRequest, rows: list[AlertDelivery], *, back: str, name: str = "") -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Send an alert again" if len(rows) == 1 else f"Send {len(rows)} alerts again",
            verb="Send again",
            explanation=REPLAY,
            rows=rows,
            act=lambda row, reason: alert_channels.replay(delivery=row, reason=reason, by=by, now=now),
            back=back,
            action=name,
        )
