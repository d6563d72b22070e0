"""What agents' owners ask for beyond their budgets, in the console: the list, and an operator's word on each."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import Case, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from governance.actions import raises
from governance.console import confirm, reasons
from governance.console import display as show
from governance.console.base import ReadOnlyAdmin, actor, may
from governance.models import RaiseRequest
from governance.rules.errors import FieldError
from governance.upkeep.budget_notices import name_of, resets

Status = RaiseRequest.Status
LIST = "admin:governance_raiserequest_changelist"


class RaiseRequestAdmin(ReadOnlyAdmin):
    """Open ones first. Decided by whoever may raise budgets by hand."""

    list_display = ("asked_at", "whom", "amount", "asker", "reason", "status_label", "decided_by")
    list_filter = ("status", "window__tenant")
    search_fields = ("asker", "reason", "window__tenant__slug", "window__subject")
    list_select_related = ("window__budget__tenant", "window__tenant")
    ordering = (Case(When(status=Status.OPEN, then=0), default=1), "-id")
    fields = (
        ("whom", "amount", "standing"),
        ("asker", "reason", "asked_at"),
        ("status_label", "decided_by", "decided_at"),
        "answer",
    )
    actions_detail = ("approve_one", "decline_one")

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "governance.add_allowance")

    @display(description="Budget", header=True)
    def whom(self, obj: RaiseRequest) -> list[str]:
        return [show.subject_name(obj.window), f"per {obj.window.budget.get_window_display()}"]

    @display(description="Its window")
    def standing(self, obj: RaiseRequest) -> str:
        window = obj.window
        spent, held, limit = map(show.dollars, (window.settled_nanos, window.reserved_nanos, window.limit_nanos))
        return f"{spent} of {limit} is spent, and {held} is held. {resets(window)}"

    @display(description="More", ordering="amount_nanos")
    def amount(self, obj: RaiseRequest) -> Any:
        return show.exact(obj.amount_nanos)

    @display(
        description="Status",
        label={"open": "warning", "approved": "success", "declined": "danger", "lapsed": ""},
        ordering="status",
    )
    def status_label(self, obj: RaiseRequest) -> str:
        return obj.status

    @action(
        description="Approve", url_path="approve", permissions=["operate"], icon="check", variant=ActionVariant.PRIMARY
    )
    def approve_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        change_page = reverse("admin:governance_raiserequest_change", args=[object_id])
        try:
            raises.check_open(row)
        except FieldError as error:
            messages.error(request, f"{row}: {error}")
            return redirect(change_page)
        page = confirm.page(
            request,
            model_admin=self,
            title=f"Approve {row}?",
            verb="Approve",
            explanation=_explained(row),
            back=change_page,
        )
        if page is not None:
            return page
        try:
            raises.approve(asked=row, by=actor(request), now=timezone.now())
        except reasons.REFUSALS as error:
            messages.error(request, f"{row}: {error}")
        else:
            messages.success(request, f"Approved: {row}.")
        return redirect(LIST)

    @action(
        description="Decline", url_path="decline", permissions=["operate"], icon="block", variant=ActionVariant.DANGER
    )
    def decline_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Decline a raise",
            verb="Decline",
            explanation="The budget stays as it is. Whoever asked reads the reason. It can be decided once.",
            rows=[self.row(request, object_id)],
            act=lambda row, reason: raises.decline(asked=row, reason=reason, by=by, now=now),
            back=reverse(LIST),
            danger=True,
        )


def _explained(row: RaiseRequest) -> str:
    """Nothing that calls change: what the page says must be so still when its button is pressed."""
    window = row.window
    return (
        f"{row.asker} asks, by the link of a refused call: {row.reason}\n\n"
        f"The open window of {name_of(window)} has {show.dollars(row.amount_nanos)} more than"
        f" {show.dollars(window.limit_nanos)} then, and no other has. {resets(window)}"
    )
