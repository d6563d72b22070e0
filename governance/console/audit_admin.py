"""The audit trail in the console: sentences with what differs, by whom, about what and when."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import RangeDateFilter
from unfold.decorators import display

from governance.console import audit_words
from governance.console import display as show
from governance.console.base import LATEST, LongTableAdmin, latest_values
from governance.models import AuditEntry


class AboutFilter(admin.SimpleListFilter):
    """What an act is about, which its name begins with."""

    title = "about"
    parameter_name = "about"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = AuditEntry.objects.order_by("-pk").values_list("action", flat=True)[:LATEST]
        kinds = {action.partition(".")[0] for action in newest} | {kind for kind in (self.value(),) if kind}
        return [(kind, kind.replace("_", " ")) for kind in sorted(kinds)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        return queryset.filter(action__startswith=f"{self.value()}.") if self.value() else queryset


class DaysFilter(RangeDateFilter):
    """From one day of UTC to another, both whole. What is no day is left out."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        if first := self._day("from"):
            queryset = queryset.filter(occurred_at__gte=first)
        if last := self._day("to"):
            queryset = queryset.filter(occurred_at__lt=last + timedelta(days=1))
        return queryset

    def _day(self, end: str) -> datetime | None:
        try:
            found = date.fromisoformat(self.used_parameters.get(f"{self.parameter_name}_{end}", ""))
        except ValueError:
            return None
        # Of the last day that there is, no next one can be said.
        return datetime.combine(found, time(), UTC) if found < date.max else None


class AuditEntryAdmin(LongTableAdmin):
    list_display = ("occurred_at", "who", "done")
    list_filter = (latest_values("actor"), AboutFilter, ("occurred_at", DaysFilter))
    # A range of days is typed.
    list_filter_submit = True
    search_fields = ("actor", "action", "target", "reason")
    search_help_text = "Who, what it was done to, or why."
    fields = (("occurred_at", "who"), "what", "reason", "differences", ("action", "target"))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        # The words of days' filter, which are no lookups of the database's.
        is_of_days = lookup in ("occurred_at_from", "occurred_at_to")
        return is_of_days or super().lookup_allowed(lookup, value, request)

    @display(description="Who", ordering="actor")
    def who(self, obj: AuditEntry) -> SafeString:
        return format_html("<bdi>{}</bdi>", obj.actor)

    @display(description="What was done")
    def done(self, obj: AuditEntry) -> SafeString:
        because = format_html(' <span class="sg-note">· {}</span>', obj.reason) if obj.reason else ""
        return format_html('<span class="sg-told">{}{}</span>', audit_words.sentence(obj), because)

    @display(description="What was done")
    def what(self, obj: AuditEntry) -> SafeString:
        page = audit_words.link(obj)
        there = format_html(" · {}", show.link(page, "its page")) if page else ""
        return format_html('<span class="sg-told">{}{}</span>', audit_words.sentence(obj), there)

    @display(description="What differs")
    def differences(self, obj: AuditEntry) -> SafeString | str:
        found = audit_words.kept(obj)
        if not found:
            return "nothing that is kept"
        return SafeString(render_to_string("console/differences.html", {"differences": found}))
