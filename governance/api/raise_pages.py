"""Where the link of a refused call leads: more is asked for. Whoever has the link needs no sign-in.

What is shown is what the tenant's keys are told: the tenant's own budget, its amounts where the tenant shows amounts,
and of whoever decided no name.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from governance.actions import raises
from governance.models import BudgetWindow, RaiseRequest
from governance.rules import money, refusals
from governance.rules import raises as rules
from governance.rules.errors import Conflict, FieldError, NotOpen, Unknown
from governance.rules.visibility import Audience


class RaiseForm(forms.Form):
    amount = forms.CharField(
        label="How many dollars more", max_length=30, widget=forms.TextInput(attrs={"inputmode": "decimal"})
    )
    asker = forms.CharField(label="Who asks", max_length=rules.LONGEST_ASKER)
    reason = forms.CharField(
        label="What for", max_length=rules.LONGEST_REASON, widget=forms.Textarea(attrs={"rows": 3})
    )

    def clean_amount(self) -> int:
        try:
            return money.nanos_from_dollars(self.cleaned_data["amount"], most=rules.MOST_NANOS)
        except money.AmountError as error:
            raise forms.ValidationError(f"{error}.") from error


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def ask(request: HttpRequest, token: str) -> HttpResponse:
    """A GET shows what was refused, and what came of what was asked; a POST asks."""
    now = timezone.now()
    try:
        window = raises.window_of(token, now=now)
    except Unknown as error:
        return _page(request, "This link leads nowhere", error.message, status=404)
    except NotOpen as error:
        return _page(request, "This link is over", f"{error.message} The next refused call has a new one.", status=410)
    if request.method != "POST":
        return _shown(request, window, RaiseForm())
    form = RaiseForm(request.POST)
    if not form.is_valid():
        return _shown(request, window, form, status=400)
    given = form.cleaned_data
    try:
        raises.ask(window=window, amount_nanos=given["amount"], asker=given["asker"], reason=given["reason"], now=now)
    except Conflict:
        # Somebody was first, or this was sent twice: the page says what waits.
        pass
    except FieldError as error:
        form.add_error(error.field or None, error.message)
        status = 429 if isinstance(error, raises.TooManyAsked) else 400
        return _shown(request, window, form, status=status)
    return redirect(request.path)


def _shown(request: HttpRequest, window: BudgetWindow, form: RaiseForm, *, status: int = 200) -> HttpResponse:
    latest = window.raise_requests.order_by("-id").first()
    if latest is not None and latest.status == RaiseRequest.Status.OPEN:
        return _page(request, "An operator decides", _waits(latest))
    return _page(request, "Ask for more", _refused(window), status=status, form=form, said=_said(latest))


def _refused(window: BudgetWindow) -> str:
    budget, tenant = window.budget, window.tenant
    assert tenant is not None  # noqa: S101 - windows of links are tenants' own
    audience = Audience(is_tenants=True, show_amounts=tenant.show_amounts)
    scope = f"{budget.scope_type}:{window.subject}"
    until = f" It begins anew at {refusals.rfc3339(window.ends_at)}." if window.ends_at else ""
    spent = ""
    if audience.sees_amounts(scope):
        figures = map(money.format_dollars, (window.settled_nanos, window.limit_nanos))
        spent = " ${} of ${} is spent.".format(*figures)
    return f"{tenant.name}: a call was refused by the budget of {audience.named(scope, budget.window)}.{spent}{until}"


def _waits(row: RaiseRequest) -> str:
    return f"{row.asker} asked for ${money.format_dollars(row.amount_nanos)} more: {row.reason}"


def _said(row: RaiseRequest | None) -> str:
    """What came of the request before this one; empty where there was none."""
    if row is None or row.status == RaiseRequest.Status.LAPSED:
        return ""
    amount = money.format_dollars(row.amount_nanos)
    if row.status == RaiseRequest.Status.APPROVED:
        return f"${amount} more, for which {row.asker} asked, was approved."
    return f"${amount} more, for which {row.asker} asked, was declined: {row.answer}"


def _page(request: HttpRequest, title: str, words: str, *, status: int = 200, **more: Any) -> HttpResponse:
    return render(request, "raises/ask.html", {"title": title, "words": words, **more}, status=status)
