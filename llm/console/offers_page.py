"""The console's page of prices as another source has them: what differs from ours, and what is taken over of it.

What `manage.py import_prices` does without a file. Sources are wrong now and then: nothing is ticked beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.base import actor, is_of_the_platform, may
from governance.console.pages import ConsolePage
from governance.ledger import clock
from llm.catalogue import comparison, prices
from llm.catalogue.comparison import Difference, Offer, SourceMissing
from llm.console import rates
from llm.models import Model, Price
from llm.queries import model_use
from llm.rules.pricing import DEFAULT_PROVIDER

# So much larger or smaller than ours is rather a source's slip than a new price.
ODD_RATIO = 3


@dataclass(frozen=True, slots=True)
class OfferRow:
    """A difference, and what its tick box sends: it says the price that was seen, so that no other is taken over.

    What cannot be has no key.
    """

    key: str
    name: str
    link: str
    unit: str
    ours: SafeString | str
    theirs: SafeString | str
    change: str
    is_odd: bool
    calls: str
    source: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    providers = sorted(set(Model.objects.values_list("provider", flat=True)))
    asked = request.POST.get("provider") or request.GET.get("provider") or ""
    provider = asked if asked in providers else DEFAULT_PROVIDER
    may_act = may(request, "llm.add_price")
    page: dict[str, Any] = {
        "providers": [(name, name == provider) for name in providers],
        "provider": provider,
        "may_act": may_act,
        "error": "" if asked in ("", *providers) else f'provider: there is no model of "{asked[:60]}".',
        "now": clock.known_now(),
    }
    at = clock.known_now()
    try:
        found = [
            one for one in comparison.differences(comparison.from_genai(provider=provider, at=at), at=at) if one.row
        ]
    except SourceMissing as error:
        return page | {"missing": f"There is nothing to compare with: {error}."}
    if request.method == "POST":
        if not may_act:
            raise PermissionDenied
        if answered := _approve(request, found, page):
            return answered
    return page | {"rows": _rows(found, now), "typed": request.POST}


def _approve(request: HttpRequest, found: Sequence[Difference], page: dict[str, Any]) -> HttpResponse | None:
    """Takes the ticked ones over and leads back; None where something is wrong, which `page` says then."""
    ticked = set(request.POST.getlist("offer"))
    chosen = [one for one in found if _key(one) in ticked and not one.offer.has_fee]
    reason = request.POST.get("reason", "").strip()
    if not ticked:
        page["error"] = "Tick what is to be taken over."
    elif len(chosen) != len(ticked):
        page["error"] = "The list has changed since it was shown: look at it again, and tick anew."
    elif not reason or len(reason) > 300:
        page["error"] = "Give a reason, of 300 letters at most: it is kept in the audit trail."
    if page["error"]:
        return None
    now = clock.now()
    since = _since(request.POST.get("since", ""), now)
    if since is None:
        page["error"] = "From: is a moment of UTC such as 2026-12-01T00:00."
        return None
    wrong = request.POST.get("wrong") == "yes"
    try:
        made = comparison.take_over(
            chosen, effective_from=since, by=actor(request), now=now, reason=reason, from_beginning=wrong
        )
    except (prices.PriceExists, prices.CorrectedBefore) as error:
        page["error"] = str(error)
        return None
    more = " What calls were charged by the wrong ones stays until manage.py reprice is run." if wrong else ""
    messages.success(request, f"{len(made)} price{'s' if len(made) != 1 else ''} taken over.{more}")
    return redirect(f"{reverse('admin:offers')}?provider={page['provider']}")


def _since(text: str, now: datetime) -> datetime | None:
    """When they begin: now, unless a moment of UTC is given."""
    if not text.strip():
        return now
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if 2000 <= found.year <= 9000 and found.tzinfo is None else None


def _key(one: Difference) -> str:
    return f"{one.name}:{one.offer.part}:{one.offer.picos}"


def _rows(found: Sequence[Difference], now: datetime) -> list[OfferRow]:
    # Those that are in use come first.
    rows = {one.row.pk: one.row for one in found if one.row}
    used = model_use.used(rows.values(), now=now) if rows else {}
    calls = {pk: sum(each.calls for each in of_one) for pk, of_one in used.items()}
    ordered = sorted(found, key=lambda one: -(calls[one.row.pk] if one.row else 0))
    return [_row(one, calls[one.row.pk]) for one in ordered if one.row]


def _row(one: Difference, calls: int) -> OfferRow:
    ratio = one.ratio
    odd = ratio is not None and not 1 / ODD_RATIO <= ratio <= ODD_RATIO
    return OfferRow(
        key="" if one.offer.has_fee else _key(one),
        name=one.name,
        link=reverse("admin:llm_model_change", args=[one.row.pk]) if one.row else "",
        unit=_unit(one.offer),
        ours=rates.cell(one.offer.unit, one.ours.picos_per_unit) if one.ours else "–",
        theirs=rates.cell(one.offer.unit, one.offer.picos),
        change="new" if ratio is None else f"{(ratio - 1) * 100:+.1f}%",
        is_odd=odd,
        calls=display.count(calls) if calls else "–",
        source=f"{one.offer.source}: a fee for each request, too" if one.offer.has_fee else one.offer.source,
    )


def _unit(offer: Offer) -> str:
    label = str(Price.Unit(offer.unit).label) if offer.unit in Price.Unit.values else offer.unit
    return f"{label}, above {offer.above:,}" if offer.above else label


PAGE = ConsolePage(
    title="Prices elsewhere",
    path="models/offers/",
    name="offers",
    template="console/offers.html",
    context=context,
    permission=lambda request: is_of_the_platform(request) and may(request, "llm.view_price"),
)
