"""Refused calls in the console: found by their request id, with the figures of that moment."""

from __future__ import annotations

from typing import Any

from django.utils.html import format_html_join
from unfold.decorators import display

from governance.console import display as show
from governance.console.base import LongTableAdmin
from governance.models import RefusedCall
from governance.queries import refusals
from governance.rules.visibility import STAFF


class RefusalAdmin(LongTableAdmin):
    list_display = ("refused_at", "who", "asked", "reason_label", "because", "cost", "would_pass", "more")
    list_filter = ("reason", "tenant")
    search_fields = (
        "request_id__exact",
        "agent__exact",
        "user__exact",
        "session__exact",
        "task__exact",
        "model__exact",
    )
    search_help_text = "A request id, or the whole name of an agent, user, session, task or model."
    list_select_related = ("tenant",)
    ordering = ("-id",)
    fields = (
        ("request_id", "refused_at", "status"),
        ("reason_label", "sentence"),
        ("would_pass",),
        ("cost", "max_tokens"),
        ("standing",),
        ("tenant", "key"),
        ("agent", "user", "session", "task"),
        ("model", "tools"),
        ("more",),
    )

    @display(description="Who", header=True)
    def who(self, obj: RefusedCall) -> list[str]:
        more = " · ".join(part for part in (obj.user, obj.session, obj.task) if part)
        return [f"{obj.tenant.slug} / {obj.agent}" if obj.agent else obj.tenant.slug, more]

    @display(description="Asked for", header=True)
    def asked(self, obj: RefusedCall) -> list[str]:
        return [obj.model or "–", ", ".join(obj.tools)]

    @display(description="Reason", label=True, ordering="reason")
    def reason_label(self, obj: RefusedCall) -> str:
        return obj.reason.replace("_", " ")

    @display(description="Because of", header=True)
    def because(self, obj: RefusedCall) -> list[str]:
        if not obj.scope:
            return ["–", ""]
        return [f"{obj.scope} per {obj.window.replace('_', ' ') or 'minute'}", self._left(obj)]

    @display(description="Needed", ordering="wanted_nanos")
    def cost(self, obj: RefusedCall) -> Any:
        return show.exact(obj.wanted_nanos)

    @display(description="Would have passed", empty_value="–")
    def would_pass(self, obj: RefusedCall) -> str:
        return refusals.would_pass(obj, audience=STAFF)

    @display(description="Budgets without room", empty_value="–")
    def standing(self, obj: RefusedCall) -> Any:
        return format_html_join(
            "",
            "<div>{} per {}: {} spent and {} reserved of {}</div>",
            (
                (
                    blocker.scope,
                    blocker.kind.replace("_", " "),
                    show.exact(blocker.settled_nanos),
                    show.exact(blocker.reserved_nanos),
                    show.exact(blocker.limit_nanos),
                )
                for blocker in refusals.remedy_of(obj).blockers
            ),
        )

    def _left(self, obj: RefusedCall) -> str:
        blockers = refusals.remedy_of(obj).blockers
        return f"{show.dollars(blockers[0].remaining_nanos)} left" if blockers else ""
