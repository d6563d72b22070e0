"""The console's search, opened by Ctrl-K or "/": what there is under a name or an id, and acts said in words.

Every table is asked through its own admin, so that nobody finds what they may not see.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from unfold.dataclasses import SearchResult

from billing.models import BillingAccount, CatalogEntry, Invoice, Payment, StripeEvent, Subscription
from config.console import menu
from governance.actions import stops
from governance.console import calls_page, display
from governance.console.base import has_role, may, reader
from governance.models import Agent, ApiKey, Budget, EmergencyStop, Tenant
from governance.models.tenancy import ADOPTED_PREFIX, KEY_PREFIX, digest_of
from governance.queries import calls, one_call
from governance.rules import names
from llm.models import Model as LanguageModel

# Of a request and the rest of what was typed: whom it may be for.
Act = Callable[[HttpRequest, str], Iterable[SearchResult]]
# Of each kind no more than this, and of all together.
MOST_OF_A_KIND, MOST = 5, 30
LONGEST = 255
# What Stripe calls its objects, and where ours of them are looked up.
STRIPE_ID = re.compile(r"(?:cus|sub|in|evt|ch|py|pi|re|pyr|dp|du|prod|price)_\w+")
STRIPE_COLUMNS: tuple[tuple[type[Model], tuple[str, ...], str], ...] = (
    (BillingAccount, ("stripe_customer_id",), "Stripe customer"),
    (Subscription, ("stripe_id",), "Subscription"),
    (Invoice, ("stripe_id",), "Invoice"),
    (Payment, ("stripe_id", "charge_id", "intent_id"), "Refund or dispute"),
    (CatalogEntry, ("stripe_id",), "Stripe's catalogue"),
    (StripeEvent, ("event_id", "customer_id"), "Stripe event"),
)


def find(request: HttpRequest, typed: str) -> list[SearchResult]:
    """What whoever asks may open of what was typed: acts first, then what has such an id or name, then pages."""
    text = names.composed(typed[:LONGEST])
    if not text or "\0" in text or not has_role(request):
        return []
    found: Iterator[SearchResult] = (
        result
        for source in (_acts, _calls, _stripes, _customers, _agents, _keys, _models, _pages, _callers)
        for result in islice(source(request, text), MOST_OF_A_KIND)
    )
    return list(islice(found, MOST))


def _rows(request: HttpRequest, model: type[Model], where: Q, *order: str) -> QuerySet[Any]:
    model_admin = admin.site._registry[model]
    if not model_admin.has_view_permission(request):
        return model._default_manager.none()
    return model_admin.get_queryset(request).filter(where).order_by(*order)[:MOST_OF_A_KIND]


def _page_of(row: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def _named(text: str) -> Q:
    """Agents by what they are called, alone or behind their customer: "support", "acme/support", "acme support"."""
    owner, _, slug = text.replace("/", " ").partition(" ")
    found = Q(slug__icontains=text)
    return found | Q(tenant__slug__istartswith=owner, slug__icontains=slug.strip()) if slug.strip() else found


def _customers(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    for row in _rows(request, Tenant, Q(slug__icontains=text) | Q(name__icontains=text), "slug"):
        yield SearchResult(row.slug, f"Customer {row.name}, {row.status}", _page_of(row), "apartment")


def _agents(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    rows = _rows(request, Agent, _named(text), "slug", "tenant__slug")
    for row in rows.select_related("tenant"):
        yield SearchResult(f"{row.tenant.slug} / {row.slug}", f"Agent, {row.status}", _page_of(row), "smart_toy")


def _keys(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    """By the prefix that recognises a key, also where somebody pasted all of it."""
    found = next((prefix for prefix in (KEY_PREFIX, ADOPTED_PREFIX) if text.startswith(prefix)), None)
    if found is not None and len(text) >= len(found) + 2:
        begun = [text[:length] for length in range(4, names.KINDS["key"].most + 1)]
        where = Q(prefix__startswith=text) | Q(prefix__in=begun)
    elif text.startswith("sk-"):
        # One that was issued elsewhere: nothing of its text is kept.
        where = Q(digest=digest_of(text))
    else:
        return
    for row in _rows(request, ApiKey, where, "-pk").select_related("tenant", "agent"):
        whose = row.agent or row.tenant or "the platform"
        yield SearchResult(row.prefix, f"Key of {whose}, {row.role}", _page_of(row), "key")


def _models(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    named = Q(name__icontains=text) | Q(aliases__name__iexact=text)
    for row in _rows(request, LanguageModel, Q(pk__in=LanguageModel.objects.filter(named).values("pk")), "name"):
        yield SearchResult(row.name, f"Model of {row.provider}, {row.get_status_display()}", _page_of(row), "neurology")


def _calls(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    """By any id. Words of people are none: one has a digit, and no space."""
    if len(text) < 6 or " " in text or not any(letter.isdigit() for letter in text):
        return
    for call in one_call.find(reader=reader(request), text=text):
        row = next(iter(call.rows), None)
        what = f"Refused: {call.refusals[0].reason.replace('_', ' ')}" if call.refusals else "Call"
        if not call.refusals and call.charges:
            what = f"Call, {display.plain_micro(call.cost_nanos)}"
        link = calls_page.link(row) if row else reverse("admin:call", args=[call.id])
        at = f", {calls.at(row):%b %d %H:%M} UTC" if row else ""
        yield SearchResult(call.id, f"{what} of {call.tenant.slug}{at}", link, "receipt_long")


def _stripes(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    if not STRIPE_ID.fullmatch(text):
        return
    for model, columns, what in STRIPE_COLUMNS:
        where = Q()
        for column in columns:
            where |= Q(**{column: text})
        for row in _rows(request, model, where, "-pk"):
            yield SearchResult(str(row), what, _page_of(row), "account_balance")


def _pages(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    wanted = text.casefold()
    for section, tabs in menu.shown(request):
        for tab in tabs:
            if wanted in f"{section.title} {tab.title}".casefold():
                yield SearchResult(tab.title, f"Page under {section.title}", tab.link, section.icon)


def _callers(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    """Users and sessions are nowhere listed: what there is of them are their calls."""
    if text.partition(" ")[0].casefold() in ACTS:
        return
    for field, icon in (("user", "person"), ("session", "forum")):
        link = f"{reverse('admin:calls')}?{urlencode({'range': '30d', field: text})}"
        yield SearchResult(f"Calls of {field} {text}", "The last 30 days", link, icon)


def _acts(request: HttpRequest, text: str) -> Iterator[SearchResult]:
    """ "stop support", "raise acme": an act and whom it is for. Each leads to the page that asks for a reason."""
    verb, _, whom = text.partition(" ")
    for name, act in ACTS.items():
        # While a verb is still typed, it stands for itself.
        if name == verb.casefold() or (not whom and len(verb) > 2 and name.startswith(verb.casefold())):
            yield from act(request, whom.strip())


def _stop(request: HttpRequest, whom: str) -> Iterator[SearchResult]:
    if not may(request, "governance.add_emergencystop"):
        return
    if not whom:
        yield SearchResult("Emergency stop", "Say what to stop", _add(EmergencyStop), "emergency_home")
        return
    yield from _of_callers(request, whom, "stop", "Emergency stop of", "emergency_home")


def _pause(request: HttpRequest, whom: str) -> Iterator[SearchResult]:
    if whom and may(request, "governance.change_agent"):
        yield from _of_callers(request, whom, "pause", "Pause", "pause", status="active")


def _resume(request: HttpRequest, whom: str) -> Iterator[SearchResult]:
    if may(request, "governance.change_agent"):
        yield from _of_callers(request, whom, "resume", "Resume", "play_arrow", status="paused")


def _of_callers(
    request: HttpRequest, whom: str, act: str, words: str, icon: str, status: str = ""
) -> Iterator[SearchResult]:
    more = Q(status=status) if status else Q()
    for row in _rows(request, Agent, _named(whom) & more, "slug", "tenant__slug").select_related("tenant"):
        link = reverse(f"admin:governance_agent_{act}_one", args=[row.pk])
        yield SearchResult(f"{words} {row.tenant.slug} / {row.slug}", "Agent", link, icon)
    for row in _rows(request, Tenant, Q(slug__icontains=whom) & more, "slug"):
        link = reverse(f"admin:governance_tenant_{act}_one", args=[row.pk])
        yield SearchResult(f"{words} {row.slug}", "Customer, all of its agents", link, icon)


def _lift(request: HttpRequest, whom: str) -> Iterator[SearchResult]:
    if not may(request, "governance.change_emergencystop"):
        return
    for stop in stops.active():
        named = stops.whom(stop)
        if whom.casefold() in named.casefold():
            link = reverse("admin:governance_emergencystop_lift_one", args=[stop.pk])
            yield SearchResult(f"Lift the stop of {named}", stop.reason, link, "play_arrow")


def _of_budgets(
    permission: str, act: str, words: str, icon: str
) -> Callable[[HttpRequest, str], Iterable[SearchResult]]:
    def found(request: HttpRequest, whom: str) -> Iterator[SearchResult]:
        if not whom or not may(request, permission):
            return
        where = Q(scope_key__icontains=whom) | Q(tenant__slug__icontains=whom)
        for row in _rows(request, Budget, where, "tenant__slug", "pk").select_related("tenant"):
            link = reverse(f"admin:governance_budget_{act}_one", args=[row.pk])
            what = f"{display.dollars(row.limit_nanos)} per {row.get_window_display()}"
            yield SearchResult(f"{words} {row.scope}", what, link, icon)

    return found


def _add(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add")


ACTS: dict[str, Act] = {
    "stop": _stop,
    "lift": _lift,
    "pause": _pause,
    "resume": _resume,
    "raise": _of_budgets("governance.add_allowance", "allow", "Raise or top up", "add_card"),
    "reset": _of_budgets("governance.change_budget", "reset", "Reset", "restart_alt"),
}
