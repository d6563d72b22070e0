"""The console's page of one call: what it cost and why, which budgets were charged; of a refusal what stood in the way.

A tenant's own staff is told of its own budgets alone, as everywhere (`governance.rules.visibility`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString

from governance import ports
from governance.actions import stops
from governance.console import calls_page, display
from governance.console.base import has_role, may, reader
from governance.console.calls_page import Badge
from governance.console.display import Card
from governance.console.filters import WORDS
from governance.ledger import clock
from governance.models import Agent, Budget, BudgetWindow, EmergencyStop, RefusedCall, Reservation, SpendEntry
from governance.models.budgets import EACH
from governance.queries import budget_status, calls, one_call, refusals
from governance.queries.budget_status import BudgetStatus
from governance.queries.one_call import WholeCall
from governance.queries.spend import Reader
from governance.rules import decision_notes, price_sentence
from governance.rules.calls import Usage
from governance.rules.decision import Reason
from governance.rules.remedies import Blocker
from governance.rules.scopes import PLATFORM
from governance.rules.visibility import STAFF, Audience

# Whose names lead to the list of their calls.
PEOPLE = ("tenant", "agent", "user", "session", "task", "key")
WORST = {"refused": "stopped", "pending": "info", "expired": "warned", "released": "info"}


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of "who and what"; `link` leads to the calls that have it too."""

    name: str
    value: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class ChargeRow:
    """A line of the ledger. `sum` is the sentence of its price; where there is none, `why` says what it was charged by.

    `open_link`: the line in the ledger, where it is corrected.
    """

    model: str
    asked: str
    cost: SafeString | str
    sum: str
    why: str
    rule: str
    tokens: str
    open_link: str


@dataclass(frozen=True, slots=True)
class ChargedBudget:
    name: str
    link: str
    period: str


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """A hold of the call, and what became of it. Amounts are written."""

    at: SafeString | str
    model: str
    status: str
    tone: str
    held: SafeString | str
    charged: SafeString | str
    returned: SafeString | str
    took: str


@dataclass(frozen=True, slots=True)
class CorrectionRow:
    at: SafeString | str
    what: str
    cost: SafeString | str
    link: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A budget without room, as it stood. What its reader may not know is empty; `acts` are (words, address).

    `now`: how its window stands at this moment, by which some acts are of use, or none.
    """

    name: str
    link: str
    figures: tuple[tuple[str, SafeString | str], ...]
    now: str
    acts: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class RefusalPart:
    at: SafeString | str
    reason: str
    status: int
    sentence: str
    would_pass: str
    tools: str
    obstacles: list[Obstacle]
    acts: list[tuple[str, str]]


def page(request: HttpRequest, *, site: AdminSite, id: str) -> HttpResponse:
    """Raises PermissionDenied. Under an id that names nothing whoever asks may see, the page says so."""
    if not has_role(request):
        raise PermissionDenied
    by = reader(request)
    found = one_call.find(reader=by, text=id)
    around = {**site.each_context(request), "title": "Call", "id": id, "calls_link": reverse("admin:calls")}
    if not found:
        return TemplateResponse(request, "console/call.html", {**around, "call": None}, status=404)
    return TemplateResponse(request, "console/call.html", {**around, **_context(request, by, found[0], found[1:])})


def _context(request: HttpRequest, by: Reader, call: WholeCall, others: list[WholeCall]) -> dict[str, Any]:
    audience = STAFF if by.tenant is None else Audience(is_tenants=True)
    return {
        "call": call,
        "badges": _badges(call),
        "at": display.moment(_begun_at(call), "second"),
        "facts": list(_facts(call)),
        "cards": _cards(call),
        "charges": [_charge(entry) for entry in call.charges],
        "budgets": _budgets(by, call),
        "decisions": [
            text for entry in call.charges for text in decision_notes.told(entry.metadata, audience=audience)
        ],
        "attempts": [_attempt(hold, call) for hold in call.holds],
        "corrections": [_correction(entry) for entry in call.corrections],
        "refusals": [_refusal(request, by, row, audience) for row in call.refusals],
        "others": [
            (calls_page.link(row), display.moment(calls.at(row), "second")) for other in others for row in other.rows
        ],
    }


def _begun_at(call: WholeCall) -> Any:
    moments = [
        *(row.refused_at for row in call.refusals),
        *(hold.reserved_at for hold in call.holds),
        *(entry.occurred_at for entry in call.charges),
    ]
    return min(moments)


def _badges(call: WholeCall) -> list[Badge]:
    badges = [Badge("refused", "stopped")] if call.refusals else []
    if any(calls.is_downgraded(entry) for entry in call.charges):
        badges.append(Badge("downgraded", "info"))
    if any(entry.certainty == SpendEntry.Certainty.ESTIMATED for entry in call.charges):
        badges.append(Badge("estimated", "warned"))
    if call.corrections:
        badges.append(Badge("corrected", "info"))
    if badges or call.charges:
        return badges or [Badge("served", "active")]
    status = call.holds[-1].status
    return [Badge("running" if status == Reservation.Status.PENDING else status, WORST.get(status, "active"))]


def _facts(call: WholeCall) -> Iterable[Fact]:
    row: Any = (*call.charges, *call.refusals, *call.holds)[0]
    named = {
        "tenant": row.tenant.slug,
        "key": row.key.prefix if row.key else "",
        **{name: getattr(row, name) for name in ("agent", "user", "session", "task")},
    }
    for name in PEOPLE:
        if value := named[name]:
            narrowed = {name: value} if name in ("tenant", "key") else {"tenant": row.tenant.slug, name: value}
            yield Fact(WORDS[name], value, f"{reverse('admin:calls')}?{urlencode(narrowed)}")
    asked = call.refusals[0].model if call.refusals else row.model_requested
    if asked:
        yield Fact("Asked for", asked)
    yield Fact("Request id", call.id)


def _cards(call: WholeCall) -> list[Card]:
    """What a served call comes to; of a refused one, which cost nothing, there are none."""
    if not call.charges:
        return []
    tokens_in, tokens_out = (sum(getattr(e, f"{way}_tokens") for e in call.charges) for way in ("input", "output"))
    cached = sum(entry.cached_tokens for entry in call.charges)
    held = sum(hold.amount_nanos for hold in call.holds)
    spent = sum(entry.cost_nanos for entry in call.charges)
    lasted = [duration for entry in call.charges if (duration := calls_page.took(entry)) is not None]
    corrected = f"{display.plain_micro(spent)} before corrections" if call.corrections else "in all"
    cards = [
        Card("Cost", display.micro(call.cost_nanos), corrected, "payments"),
        Card("Tokens", f"{tokens_in:,} / {tokens_out:,}", f"in / out, {cached:,} cached", "data_object"),
    ]
    if call.holds:
        returned = f"{display.plain_micro(max(0, held - spent))} returned"
        cards.append(Card("Reserved", display.micro(held), returned, "hourglass_top"))
    if lasted:
        cards.append(Card("Took", display.duration(max(lasted)), "from its reservation to its end", "timer"))
    return cards


def _charge(entry: SpendEntry) -> ChargeRow:
    usage = Usage(
        entry.provider,
        entry.model_served,
        entry.input_tokens,
        entry.cached_tokens,
        entry.output_tokens,
        entry.unit,
        entry.units,
    )
    rates = ports.rates_of(entry.price_rule, at=entry.occurred_at) if entry.price_rule else None
    counted = entry.unit == "token"
    return ChargeRow(
        model=f"{entry.provider}/{entry.model_served}" if entry.provider else entry.model_served,
        asked=entry.model_requested if calls.is_downgraded(entry) else "",
        cost=display.micro(entry.cost_nanos),
        sum=price_sentence.sentence(usage, rates, cost_nanos=entry.cost_nanos) if rates else "",
        why=_charged_by(entry, is_priced=rates is not None),
        rule=entry.price_rule,
        tokens=f"{entry.input_tokens:,} in, {entry.cached_tokens:,} of them cached, {entry.output_tokens:,} out"
        if counted
        else f"{entry.units:,} {entry.unit.replace('_', ' ')}s",
        open_link=reverse("admin:governance_spendentry_change", args=[entry.pk]),
    )


def _charged_by(entry: SpendEntry, *, is_priced: bool) -> str:
    """Of a cost that is no sum of tokens and rates: what else it is."""
    reason = entry.reason.replace("_", " ")
    if entry.certainty == SpendEntry.Certainty.ESTIMATED:
        return f"An estimate{f' ({reason})' if reason else ''}: what was seen of the call, or all that was reserved."
    if entry.reservation_id is None:
        return "As it was reported." if not is_priced else "As it was reported, and not by these tokens."
    return f"Charged as it was settled{f' ({reason})' if reason else ''}."


def _budgets(by: Reader, call: WholeCall) -> list[ChargedBudget]:
    ids = {id for row in (*call.charges, *call.holds) for id in row.windows}
    windows = BudgetWindow.objects.filter(pk__in=ids).select_related("budget__tenant", "tenant").order_by("pk")
    return [_charged(by, window) for window in windows]


def _charged(by: Reader, window: BudgetWindow) -> ChargedBudget:
    budget = window.budget
    is_wider = by.tenant is not None and budget.scope_type == PLATFORM
    kind = budget.window.replace("_", " ")
    name = f"a limit of the platform per {kind}" if is_wider else f"{display.subject_name(window)} per {kind}"
    period = f"from {window.starts_at:%b} {window.starts_at.day}"
    if window.ends_at:
        period += f" to {window.ends_at:%b} {window.ends_at.day}"
    return ChargedBudget(name, _budget_link(by, budget), period)


def _budget_link(by: Reader, budget: Budget | None) -> str:
    """Where its page is, for whoever may open it."""
    if budget is None or (by.tenant is not None and budget.tenant_id != by.tenant.pk):
        return ""
    return reverse("admin:governance_budget_change", args=[budget.pk])


def _attempt(hold: Reservation, call: WholeCall) -> AttemptRow:
    charged = [entry.cost_nanos for entry in call.charges if entry.reservation_id == hold.pk]
    is_over = hold.status != Reservation.Status.PENDING
    lasted = hold.resolved_at - hold.reserved_at if hold.resolved_at else None
    return AttemptRow(
        at=display.moment(hold.reserved_at, "second"),
        model=hold.model_served,
        status=hold.status if is_over else "running",
        tone=WORST.get(hold.status, "active"),
        held=display.micro(hold.amount_nanos),
        charged=display.micro(sum(charged)) if charged else "–",
        returned=display.micro(max(0, hold.amount_nanos - sum(charged))) if is_over else "–",
        took=display.duration(lasted),
    )


def _correction(entry: SpendEntry) -> CorrectionRow:
    what = " ".join(part for part in (entry.kind, entry.reason.replace("_", " ")) if part)
    return CorrectionRow(
        at=display.moment(entry.recorded_at, "second"),
        what=what,
        cost=display.micro(entry.cost_nanos),
        link=reverse("admin:governance_spendentry_change", args=[entry.pk]),
    )


def _refusal(request: HttpRequest, by: Reader, row: RefusedCall, audience: Audience) -> RefusalPart:
    blockers = refusals.remedy_of(row).blockers
    known = Budget.objects.select_related("tenant").in_bulk([blocker.budget_id for blocker in blockers])
    return RefusalPart(
        at=display.moment(row.refused_at, "second"),
        reason=row.reason.replace("_", " "),
        status=row.status,
        sentence=row.sentence,
        would_pass=refusals.would_pass(row, audience=audience),
        tools=", ".join(row.tools),
        obstacles=[
            _obstacle(request, by, blocker, known.get(blocker.budget_id), row, audience) for blocker in blockers
        ],
        acts=_acts(request, row),
    )


def _obstacle(
    request: HttpRequest, by: Reader, blocker: Blocker, budget: Budget | None, row: RefusedCall, audience: Audience
) -> Obstacle:
    name = audience.named(blocker.scope, blocker.kind)
    figures: tuple[tuple[str, SafeString | str], ...] = ()
    if audience.sees_amounts(blocker.scope):
        figures = (
            ("Limit", display.exact(blocker.limit_nanos)),
            ("Hard cap", f"{blocker.hard_e4 / 100:g}%"),
            ("Spent", display.exact(blocker.settled_nanos)),
            ("Reserved", display.exact(blocker.reserved_nanos)),
            ("Left", display.exact(blocker.remaining_nanos)),
            ("The call needed", display.exact(row.wanted_nanos)),
            ("Missing", display.exact(blocker.missing_nanos)),
        )
    link, subject = _budget_link(by, budget), refusals.subject_in(budget, row) if budget else None
    if budget is None or subject is None or not audience.sees_amounts(blocker.scope):
        return Obstacle(name, link, figures, "", [])
    if not budget.enabled:
        return Obstacle(name, link, figures, "It is switched off now.", [])
    status = budget_status.of_subject(budget, subject, now=clock.known_now())
    wanted = max(1, row.wanted_nanos or 0)
    left = f"{display.dollars(status.remaining_nanos)} of {display.dollars(status.limit_nanos)} is left"
    if status.remaining_nanos >= wanted:
        return Obstacle(name, link, figures, f"Now {left}: such a call has room again.", [])
    return Obstacle(name, link, figures, f"Now {left}.", _more_money(request, budget, subject, status, wanted))


def _more_money(
    request: HttpRequest, budget: Budget, subject: str, status: BudgetStatus, wanted_nanos: int
) -> list[tuple[str, str]]:
    """What gives the window that is short of money more: this one alone, where the budget has one for each."""
    acts, whose = [], f"?{urlencode({'subject': subject})}" if budget.scope_key == EACH else ""
    if may(request, "governance.add_allowance"):
        acts.append(("Raise", reverse("admin:governance_budget_allow_one", args=[budget.pk]) + whose))
    has_room_empty = replace(status, settled_nanos=0, reserved_nanos=0).remaining_nanos >= wanted_nanos
    if status.window_id is not None and has_room_empty and may(request, "governance.change_budget"):
        acts.append(("Reset", reverse("admin:governance_budget_reset_one", args=[budget.pk]) + whose))
    return acts


def _acts(request: HttpRequest, row: RefusedCall) -> list[tuple[str, str]]:
    """What lets calls like it go on, where somebody stopped or paused them, and still has."""
    if row.reason == Reason.EMERGENCY_STOP and may(request, "governance.change_emergencystop"):
        found = stops.active().filter(_covers(row))
        return [(f"Lift the stop of {stops.whom(stop)}", _lift(stop)) for stop in found]
    if row.reason == Reason.AGENT_PAUSED and may(request, "governance.change_agent"):
        paused = Agent.objects.filter(tenant=row.tenant_id, slug=row.agent, status=Agent.Status.PAUSED)
        return [(f"Resume {row.agent}", reverse("admin:governance_agent_resume_one", args=[one.pk])) for one in paused]
    is_paused = row.reason == Reason.TENANT_PAUSED and row.tenant.status == row.tenant.Status.PAUSED
    if is_paused and may(request, "governance.change_tenant"):
        return [(f"Resume {row.tenant.slug}", reverse("admin:governance_tenant_resume_one", args=[row.tenant_id]))]
    return []


def _covers(row: RefusedCall) -> Q:
    mine = Q(tenant=row.tenant_id) & (Q(agent=None) | Q(agent__slug=row.agent))
    return Q(tenant=None) | mine


def _lift(stop: EmergencyStop) -> str:
    return reverse("admin:governance_emergencystop_lift_one", args=[stop.pk])
