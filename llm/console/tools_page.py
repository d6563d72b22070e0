"""The console's page of tools and searches that agents run themselves: what a call of each costs, and was spent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.amounts import AmountField
from governance.console.base import actor, is_of_the_platform, may
from governance.console.calls_page import Badge
from governance.console.pages import ConsolePage
from governance.ledger import clock
from governance.rules import money
from governance.rules.calls import CALL_UNIT, DEAREST_CALL_NANOS, LONGEST_TOOL
from governance.rules.errors import FieldError
from llm.catalogue import prices, tools
from llm.console import model_list, rates
from llm.console.model_list import ModelRow
from llm.models import Model
from llm.queries import model_standings
from llm.queries.model_standings import ModelStanding


class ToolPriceForm(forms.Form):
    """A price of one call; what it is for is named, and is known from its first price on."""

    name = forms.CharField(max_length=LONGEST_TOOL)
    usd_per_call = AmountField(
        label="Dollars a call",
        min_value=0,
        max_value=money.dollars_from_nanos(DEAREST_CALL_NANOS),
        max_digits=16,
        decimal_places=9,
    )
    since = forms.DateTimeField(label="From", required=False)
    source = forms.CharField(max_length=200, required=False)

    def clean_since(self) -> datetime | None:
        since: datetime | None = self.cleaned_data["since"]
        return since and since.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A tool as the page shows it; its links are empty where there is nothing to see."""

    name: str
    link: str
    price: SafeString | str
    coming: str
    badges: list[Badge]
    calls: str
    spent: SafeString | str
    calls_link: str
    spend_link: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    may_act = may(request, "llm.add_price")
    form = ToolPriceForm(request.POST or None)
    if request.method == "POST":
        if not may_act:
            raise PermissionDenied
        if form.is_valid() and _set(form, request, now):
            return redirect("admin:tools")
    at = clock.known_now()
    return {
        "rows": [_row(one, at) for one in model_standings.standings(tools.every(), now=now, at=at)],
        "form": form,
        "may_act": may_act,
        "problems": [f"{form[name].label if name in form.fields else ''} {said}" for name, said in _problems(form)],
    }


def _set(form: ToolPriceForm, request: HttpRequest, now: datetime) -> bool:
    """Whether the price is set; else the form says why not."""
    name, since = form.cleaned_data["name"].strip(), form.cleaned_data["since"]
    nanos = money.nanos_from_dollars(form.cleaned_data["usd_per_call"])
    if tools.price_of(name, at=since) == nanos:
        # Nor is it set twice by pressing twice.
        form.add_error("usd_per_call", "is what it costs then already.")
        return False
    try:
        tools.set_price(
            name=name,
            nanos_per_call=nanos,
            effective_from=since,
            source=form.cleaned_data["source"],
            by=actor(request),
            now=now,
        )
    except FieldError as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)
        return False
    except prices.PriceExists as error:
        form.add_error("since", str(error))
        return False
    shown = money.format_dollars(nanos)
    messages.success(
        request, f"A call of {name} costs ${shown}{f' from {since:%Y-%m-%d %H:%M} UTC on' if since else ''}."
    )
    return True


def _problems(form: ToolPriceForm) -> list[tuple[str, str]]:
    return [(field, str(said)) for field, each in form.errors.items() for said in each] if form.is_bound else []


def _row(standing: ModelStanding, at: datetime) -> ToolRow:
    model = standing.model
    calls, spent = ModelRow(standing).links
    picos = standing.rates.units.get(CALL_UNIT) if standing.rates else None
    used = bool(standing.calls)
    return ToolRow(
        name=model.name,
        link=reverse("admin:llm_model_change", args=[model.pk]),
        price=rates.cell(CALL_UNIT, picos),
        coming=_coming(model, at),
        badges=model_list.badges(standing),
        calls=display.count(standing.calls) if used else "–",
        spent=display.exact(standing.cost_nanos) if used else "–",
        calls_link=calls if used else "",
        spend_link=spent if used else "",
    )


def _coming(model: Model, at: datetime) -> str:
    """The next price that is set already."""
    wrong = {price.supersedes_id for price in model.prices.all()}
    later = [
        (price.effective_from, price.picos_per_unit)
        for price in model.prices.all()
        if price.pk not in wrong and price.effective_from is not None and price.effective_from > at
    ]
    if not later:
        return ""
    since, picos = min(later)
    return f"${money.format_dollars(money.round_from_picos(picos))} from {since:%Y-%m-%d %H:%M} UTC"


PAGE = ConsolePage(
    title="Tools",
    path="models/tools/",
    name="tools",
    template="console/tools.html",
    context=context,
    permission=lambda request: is_of_the_platform(request) and may(request, "llm.view_price"),
)
