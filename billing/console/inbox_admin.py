"""The inbox of Stripe's events in the console: by what became of them, and each beside what came of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action

from billing import dispatch
from billing.console import event_page
from billing.inbox import store
from billing.models import BillingAccount, StripeEvent
from billing.queries import inbox
from governance.console import confirm
from governance.console.base import LongTableAdmin, actor, latest_values

STATE = "state"


class EventState(admin.SimpleListFilter):
    title, parameter_name = "state", STATE

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name.capitalize()) for name in inbox.STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[StripeEvent]) -> QuerySet[StripeEvent]:
        choose = inbox.STATES.get(self.value() or "")
        return choose(queryset) if choose else queryset


class InboxList(ChangeList):
    """Django's list, whose tabs are what became of the events."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.rows = event_page.rows(list(self.result_list))
        self.tabs = self._tabs(self.params.get(STATE, ""))

    def _tabs(self, chosen: str) -> list[tuple[str, str, int | None, bool]]:
        """(address, words, how many, whether it is the present one). What is done is not counted: it is the rest."""
        counts = inbox.counts()
        kept = {name: value for name, value in {"type": self.params.get("type"), "q": self.query}.items() if value}
        shown = ["", *(name for name in inbox.STATES if name in (chosen, inbox.WAITING, inbox.DONE) or counts[name])]
        return [
            (
                f"?{urlencode(kept | ({STATE: name} if name else {}))}",
                name.capitalize() or "All",
                counts.get(name),
                name == chosen,
            )
            for name in shown
        ]


class StripeEventAdmin(LongTableAdmin):
    change_list_template = "console/inbox.html"
    change_form_template = "console/event.html"
    list_display = ("event_id",)
    # Not by what all rows have, which there may be millions of.
    list_filter = (EventState, latest_values("type"))
    list_filter_sheet = True
    search_fields = ("event_id__exact", "customer_id__exact")
    search_help_text = "The id of an event or of a Stripe customer, or the name of one of your customers."
    exclude = ("payload",)
    actions = ("process_again",)
    actions_detail = ("replay_one",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[InboxList]:
        return InboxList

    def get_queryset(self, request: HttpRequest) -> QuerySet[StripeEvent]:
        rows: QuerySet[StripeEvent] = super().get_queryset(request)
        is_list = request.path == reverse("admin:billing_stripeevent_changelist")
        return rows.defer("payload") if is_list else rows

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        account = BillingAccount.objects.filter(tenant__slug=search_term.strip()).first() if search_term else None
        return super().get_search_results(request, queryset, account.stripe_customer_id if account else search_term)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        more = {"may_replay": self.has_operate_permission(request)}
        return super().changelist_view(request, {**more, **(extra_context or {})})

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        context["page"] = event_page.context(context["original"], timezone.now())
        return super().render_change_form(request, context, *args, **kwargs)

    @action(description="Process again", permissions=["operate"])
    def process_again(self, request: HttpRequest, queryset: QuerySet[StripeEvent]) -> None:
        self._replay(request, queryset)

    @action(description="Replay", url_path="replay", permissions=["operate"], icon="replay")
    def replay_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        event = self.row(request, object_id)
        back = reverse("admin:billing_stripeevent_change", args=[event.pk])
        explanation = (
            f"{event.type} of {event.customer_id or 'no customer'} is handled again, with all its tries. What it leads "
            "to is read from Stripe as it is now, so that nothing is done twice."
        )
        if asked := confirm.page(
            request, model_admin=self, title="Replay an event", verb="Replay", explanation=explanation, back=back
        ):
            return asked
        self._replay(request, StripeEvent.objects.filter(pk=event.pk))
        return redirect(back)

    def _replay(self, request: HttpRequest, events: QuerySet[StripeEvent]) -> None:
        asked = events.count()
        due = store.replay(events=events, by=actor(request), now=timezone.now())
        for event_id in due:
            dispatch.soon(event_id)
        if due:
            self.message_user(request, f"{_events(len(due))} will be handled again.")
        if left := asked - len(due):
            self.message_user(request, f"{_events(left)}: not ours, and left as it is.", messages.WARNING)


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"
