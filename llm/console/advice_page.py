"""The console's page of what would have saved money: for all agents, and for one of them with the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from governance.console import display
from governance.console.base import has_role, may, reader
from governance.console.pages import ConsolePage
from governance.models import Agent, Tenant
from governance.queries.spend import Reader
from llm.queries import advice
from llm.queries.advice import LOOKED, AgentAdvice
from llm.rules.advice import LessOf, OtherModel, Term

MOST_AGENTS = 100
PICOS_PER_DOLLAR_A_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class AgentSaving:
    """`saved`: by other models alone, which is all that hourly sums can tell."""

    name: str
    link: str
    spent: str
    saved: str
    part: str
    words: str


@dataclass(frozen=True, slots=True)
class AdviceLine:
    """A sentence, what it would have saved, and the arithmetic."""

    words: str
    saved: str
    sums: tuple[str, ...]
    doubt: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    by = reader(request)
    asked = _asked(request, by)
    if asked is not None:
        found = advice.of_agent(reader=asked, now=now)
        return {"agent": asked.agent, "tenant": asked.tenant, "advice": found, **_of_one(asked, found)}
    found_all = advice.of_agents(reader=by, now=now)
    return {
        "lines": [_line(one, is_bound=by.tenant is not None) for one in found_all[:MOST_AGENTS]],
        "more": max(0, len(found_all) - MOST_AGENTS),
        "problem": "There is no such agent." if request.GET.get("agent") else "",
    }


def _asked(request: HttpRequest, by: Reader) -> Reader | None:
    """The one agent that the address names, if whoever asks may see it."""
    slug = request.GET.get("tenant", "")
    tenant = by.tenant or Tenant.objects.filter(slug=slug[:50].replace("\x00", "")).first()
    name = request.GET.get("agent", "")[:100].replace("\x00", "")
    if tenant is None or not name or not Agent.objects.filter(tenant=tenant, slug=name).exists():
        return None
    return Reader(tenant=tenant, agent=name)


def _line(one: AgentAdvice, *, is_bound: bool) -> AgentSaving:
    best = one.models[0] if one.models else None
    words = f"{best.used.id} → {best.other.id}" if best else "no cheaper model can do the same"
    whom = {"agent": one.agent} if is_bound else {"tenant": one.tenant, "agent": one.agent}
    return AgentSaving(
        f"{one.tenant} / {one.agent}" if one.agent else f"{one.tenant}, calls without an agent",
        f"{reverse('admin:advice')}?{urlencode(whom)}" if one.agent else "",
        display.dollars(one.spent_nanos),
        display.dollars(one.most_nanos) if one.models else "–",
        display.percent(_part(one.most_nanos, one.spent_nanos)) if one.models else "",
        words,
    )


def _of_one(asked: Reader, found: AgentAdvice | None) -> dict[str, Any]:
    whom = {"tenant": asked.tenant.slug if asked.tenant else "", "agent": asked.agent}
    calls = f"{reverse('admin:calls')}?{urlencode({'range': '30d', **whom})}"
    if found is None:
        return {"calls": calls, "parts": []}
    return {
        "calls": calls,
        "spent": display.dollars(found.spent_nanos),
        "looked": f"the latest {found.looked:,}" if found.looked == LOOKED else f"all {found.looked:,}",
        "parts": [
            ("Another model", "No cheaper one in the catalogue can do all that its models can.", _models(found.models)),
            ("A provider's cache", "Nothing worth saying: it repeats little, or that is cached.", _cache(found.cache)),
            ("A cap on answers", "Nothing worth saying: its longest answers cost little.", _caps(found.caps)),
        ],
    }


def _models(found: Sequence[OtherModel]) -> list[AdviceLine]:
    return [
        AdviceLine(
            f"{one.calls:,} calls at {one.other.id} in place of {one.used.id}",
            display.dollars(one.saved_nanos),
            (
                *map(_term, one.terms),
                f"together {display.dollars(one.nanos)}, where {display.dollars(one.spent_nanos)} was spent",
            ),
            "Whether its answers are as good, only trying it tells.",
        )
        for one in found
    ]


def _term(term: Term) -> str:
    return f"{term.tokens:,} tokens of {term.kind} × {_rate(term.picos)} = {display.dollars(term.nanos)}"


def _cache(found: Sequence[LessOf]) -> list[AdviceLine]:
    return [
        AdviceLine(
            f"{one.calls:,} calls to {one.used.id} could have read what the call before them had",
            f"at most {display.dollars(one.saved_nanos)}",
            (_less(one, f"{one.tokens:,} tokens of input × ({_rate(one.picos)} − {_rate(one.instead_picos)} cached)"),),
            "At most: a call repeats no more than the call of its session before it had; it may repeat less.",
        )
        for one in found
    ]


def _caps(found: Sequence[LessOf]) -> list[AdviceLine]:
    return [
        AdviceLine(
            f"max_tokens of {one.cap:,} at {one.used.id}, which 95 of a hundred answers stay below",
            display.dollars(one.saved_nanos),
            (_less(one, f"{one.tokens:,} tokens of output above it × {_rate(one.picos)}"),),
            f"{one.calls:,} answers would have been cut short.",
        )
        for one in found
    ]


def _less(one: LessOf, words: str) -> str:
    return f"{words} = {display.dollars(one.saved_nanos)}"


def _rate(picos: int) -> str:
    """Picodollars a token are dollars a million tokens, times a million."""
    return f"${(Decimal(picos) / PICOS_PER_DOLLAR_A_MILLION).normalize():f}/M"


def _part(part: int, whole: int) -> int:
    return part * 10_000 // whole if whole > 0 else 0


PAGE = ConsolePage(
    title="Savings",
    path="savings/",
    name="advice",
    template="console/advice.html",
    context=context,
    permission=lambda request: has_role(request) and may(request, "governance.view_spendrollup"),
)
