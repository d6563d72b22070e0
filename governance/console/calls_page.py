"""The console's page of calls: served and refused in one list, with what the address filters them by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.safestring import SafeString

from governance.console import display, ranges
from governance.console.base import has_role, reader
from governance.console.filters import WORDS, zone_of
from governance.console.pages import ConsolePage
from governance.console.ranges import Chosen
from governance.models import RefusedCall, SpendEntry, Tenant
from governance.queries import calls, one_call
from governance.queries.calls import Filters, Place
from governance.queries.spend import Reader
from governance.rules.errors import FieldError


@dataclass(frozen=True, slots=True)
class Badge:
    """A word for what became of a call, or for how something stands. `tone`: active, warned, stopped, info or off, with
    its colour; `meaning` is for a tooltip.
    """

    word: str
    tone: str
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class CallLine:
    """A call of the list. `asked`: the model that a budget moved it from; `more`: how many others it stands for."""

    link: str
    at: SafeString | str
    tenant: str
    agent: str
    caller: str
    model: str
    asked: str
    badges: list[Badge]
    tokens_in: str = ""
    tokens_out: str = ""
    cached: str = ""
    cost: SafeString | str = ""
    took: str = ""
    note: str = ""


def context(request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    """The page; or where to look instead, for an id that names one call and for a filter that was just typed."""
    by, asked = reader(request), request.GET
    if asked.get("field") in WORDS and asked.get("value", "").strip():
        others = {
            name: text for name in asked if name not in ("field", "value", "after", "q") and (text := asked[name])
        }
        return HttpResponseRedirect(f"?{urlencode(others | {asked['field']: asked['value'].strip()})}")
    if text := asked.get("q", "").strip():
        return _searched(by, text, request, now)
    filters, errors = _filters(asked, by)
    found_range = ranges.chosen(asked, now=now, zone=zone_of(by.tenant or filters.tenant))
    after, misplaced = _after(asked.get("after", ""))
    page = calls.Page([])
    if not errors:
        try:
            page = calls.page(reader=by, period=found_range.period, filters=filters, after=after)
        except FieldError as error:
            errors.append(f"{error.field}: {error.message}")
    kept = _kept(filters)
    address = found_range.query() | kept
    return {
        **_around(by, filters, found_range, kept),
        "errors": [*errors, *misplaced],
        "lines": [line(row) for row in page.rows],
        "older": f"?{urlencode(address | {'after': str(page.after)})}" if page.after else "",
        "newest": f"?{urlencode(address)}" if after else "",
        "looked_back_to": display.moment(page.looked_back_to) if page.looked_back_to else "",
        "looked": f"{calls.LOOKED:,}",
    }


def _around(by: Reader, filters: Filters, found_range: Chosen, kept: dict[str, str]) -> dict[str, Any]:
    """What stands over the list: range, filters, states."""
    address = found_range.query() | kept
    without_status = {name: value for name, value in address.items() if name != "status"}
    states = [("", "All"), *calls.STATUSES.items()]
    return {
        "range": found_range,
        "ranges": ranges.choices(found_range, kept),
        "kept": kept,
        "address": address,
        "is_bound": by.tenant is not None,
        "fields": [(name, word) for name, word in WORDS.items() if name != "tenant" or by.tenant is None],
        "chips": [
            (WORDS[name], kept[name], f"?{urlencode({key: value for key, value in address.items() if key != name})}")
            for name in WORDS
            if name in kept
        ],
        "statuses": [
            (f"?{urlencode(without_status | ({'status': name} if name else {}))}", word, name == filters.status)
            for name, word in states
        ],
        "all_link": f"?{urlencode(found_range.query())}",
    }


def _searched(by: Reader, text: str, request: HttpRequest, now: datetime) -> dict[str, Any] | HttpResponse:
    """One hit opens its page; several stand in the list; none is said."""
    found = one_call.find(reader=by, text=text)
    if len(found) == 1:
        return HttpResponseRedirect(reverse("admin:call", args=[_address_of(found[0])]))
    rows = sorted((row for call in found for row in call.rows), key=calls.at, reverse=True)
    chosen = ranges.chosen(request.GET, now=now, zone=zone_of(by.tenant))
    return {
        **_around(by, Filters(), chosen, {}),
        "searched": text,
        "lines": [line(row) for row in rows],
        "newest_looked_at": f"{one_call.NEWEST:,}",
    }


def _address_of(call: one_call.WholeCall) -> str:
    if call.refusals or call.holds:
        return call.refusals[0].request_id if call.refusals else str(call.holds[0].pk)
    return str(call.charges[0].pk)


def link(row: SpendEntry | RefusedCall) -> str:
    """A call's own page. Ids of a caller's own may be anything, and may be another's too: these go by our own."""
    if isinstance(row, SpendEntry):
        return reverse("admin:call", args=[str(row.reservation_id or row.pk)])
    if not row.request_id:
        # It stands for calls that were only counted.
        return reverse("admin:governance_refusedcall_change", args=[row.pk])
    return reverse("admin:call", args=[row.request_id])


def line(row: SpendEntry | RefusedCall) -> CallLine:
    return _served(row) if isinstance(row, SpendEntry) else _refused(row)


def _served(entry: SpendEntry) -> CallLine:
    moved = calls.is_downgraded(entry)
    badges = [Badge("downgraded", "info")] if moved else []
    if entry.certainty == SpendEntry.Certainty.ESTIMATED:
        badges.append(Badge("estimated", "warned"))
    counted = entry.unit == "token"
    return CallLine(
        link=link(entry),
        at=display.moment(entry.occurred_at, "second"),
        tenant=entry.tenant.slug,
        agent=entry.agent,
        caller=_caller(entry),
        model=entry.model_served,
        asked=entry.model_requested if moved else "",
        badges=badges or [Badge("served", "active")],
        tokens_in=display.count(entry.input_tokens) if counted else "",
        tokens_out=display.count(entry.output_tokens) if counted else f"{entry.units:,} {entry.unit.replace('_', ' ')}",
        cached=f"{entry.cached_tokens:,} cached" if entry.cached_tokens else "",
        cost=display.micro(entry.cost_nanos),
        took=display.duration(took(entry)),
    )


def _refused(row: RefusedCall) -> CallLine:
    return CallLine(
        link=link(row),
        at=display.moment(row.refused_at, "second"),
        tenant=row.tenant.slug,
        agent=row.agent,
        caller=_caller(row),
        model=row.model or "–",
        asked="",
        badges=[Badge("refused", "stopped")],
        note=row.reason.replace("_", " ") if row.request_id else f"{row.more:,} more, only counted",
        cost="–",
        took="–",
    )


def took(entry: SpendEntry) -> Any:
    """From the hold to its end; None where nothing was held, or nobody saw the end."""
    hold = entry.reservation
    if hold is None or hold.resolved_at is None or hold.status != hold.Status.SETTLED:
        return None
    return hold.resolved_at - hold.reserved_at


def _caller(row: SpendEntry | RefusedCall) -> str:
    return " · ".join(part for part in (row.user, row.session, row.task) if part)


def _filters(asked: QueryDict, by: Reader) -> tuple[Filters, list[str]]:
    """What the address asks for, and what is wrong with it."""
    errors = []
    named = {name: text for name in calls.NAMED if (text := asked.get(name, "").strip())}
    status = asked.get("status", "")
    if status not in ("", *calls.STATUSES):
        errors.append(f'status: is one of {", ".join(calls.STATUSES)}, not "{status}".')
        status = ""
    slug = asked.get("tenant", "").strip()
    tenant = Tenant.objects.filter(slug=slug[:50]).first() if slug and "\0" not in slug else None
    if by.tenant is not None:
        # Whoever sees one customer alone is told nothing of the others, not even whether there are any.
        tenant = None
        if slug not in ("", by.tenant.slug):
            errors.append(f'tenant: you see "{by.tenant.slug}" alone.')
    elif slug and tenant is None:
        errors.append(f'tenant: there is no customer "{slug}".')
    return Filters(tenant=tenant, named=named, status=status), errors


def _kept(filters: Filters) -> dict[str, str]:
    """What the address says beside its range, as far as it is understood."""
    kept = {"tenant": filters.tenant.slug} if filters.tenant else {}
    return kept | filters.named | ({"status": filters.status} if filters.status else {})


def _after(text: str) -> tuple[Place | None, list[str]]:
    if not text:
        return None, []
    try:
        return Place.read(text), []
    except (ValueError, OverflowError):
        return None, ["after: is no place in this list; here it begins anew."]


PAGE = ConsolePage(
    title="Calls", path="calls/", name="calls", template="console/calls.html", context=context, permission=has_role
)
