"""Acts that ask for a reason on a page of their own before they are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminTextareaWidget

from governance import alerts
from governance.audit import DoneBefore
from governance.console import presses
from governance.ledger.results import LedgerError
from governance.rules.errors import FieldError


class ActRefused(Exception):
    """What another app's page refuses for, in its own words."""


# What an act may refuse for; its words are shown to the operator.
REFUSALS = (
    ActRefused,
    alerts.AlertCleared,
    FieldError,
    LedgerError,
)
CONFIRM = "_confirmed"


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=300,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "autofocus": True}),
        help_text="Kept in the audit trail, and shown with the event.",
    )


def ask(
    request: HttpRequest,
    *,
    model_admin: Any,
    title: str,
    verb: str,
    explanation: str,
    rows: Sequence[Any],
    act: Callable[..., object],
    back: str,
    action: str = "",
    danger: bool = False,
    asks: Callable[..., ReasonForm] = ReasonForm,
    refusals: tuple[type[Exception], ...] = REFUSALS,
) -> HttpResponse:
    """Show the reason page; when it comes back with a reason, `act(row, reason)` on each row and go `back`.

    `action` is the list action that led here, which the page posts again together with the selection; `danger`
    shows that the act hurts. What `asks` asks for beside the reason is given to `act` by its name. `refusals` are what
    the act may raise; their words are shown.
    """
    confirmed = request.method == "POST" and CONFIRM in request.POST
    form = asks(request.POST if confirmed else None)
    if confirmed and form.is_valid():
        _act_on_each(request, rows, act, form.cleaned_data, verb, refusals)
        return redirect(back)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": title,
        "verb": verb,
        "explanation": explanation,
        "rows": rows,
        "form": form,
        "back": back,
        "action": action,
        "danger": danger,
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
        "confirm_name": CONFIRM,
    }
    return TemplateResponse(request, "console/reason.html", context)


def _act_on_each(
    request: HttpRequest,
    rows: Sequence[Any],
    act: Callable[..., object],
    given: dict[str, Any],
    verb: str,
    refusals: tuple[type[Exception], ...],
) -> None:
    done = 0
    for row in rows:
        try:
            with presses.once(request, part=str(getattr(row, "pk", row))):
                act(row, **given)
        except DoneBefore:
            messages.info(request, f"{row}: {presses.DONE_ALREADY}")
        except refusals as error:
            messages.error(request, f"{row}: {error}")
        else:
            done += 1
    if done:
        names = str(rows[0]) if len(rows) == 1 else f"{done} of them"
        messages.success(request, f"{verb}: {names}.")
