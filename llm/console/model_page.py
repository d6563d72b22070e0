"""A model's page, as it is read: what it costs and cost, what it was used for, who moves calls to it, its routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.display import Card
from governance.ledger import clock
from llm.catalogue import snapshot
from llm.console import model_list, rates
from llm.console.model_list import ModelRow
from llm.models import Model, Price
from llm.queries import model_standings, model_use, routes
from llm.queries.model_standings import ModelStanding
from llm.rules import price_periods
from llm.rules.price_periods import PriceLine, PricePeriod
from llm.rules.pricing import BATCH_E2, DEFAULT_PROVIDER, STANDARD_TIER, ZONE_E2, ZONE_PROVIDERS

EVERYWHERE = (Price.Zone.GLOBAL.value, STANDARD_TIER, False, 0)


@dataclass(frozen=True, slots=True)
class PeriodRow:
    """A period of a table of prices, and as a sentence. `tone`: of the badge that says when it is."""

    begins: SafeString | str
    ends: SafeString | str
    cells: list[SafeString | str]
    source: str
    when: str
    tone: str
    words: str
    sentence: SafeString
    change: str


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices of one place, the newest first. `heads`: what its cells are prices of."""

    title: str
    heads: list[str]
    rows: list[PeriodRow]

    @property
    def coming(self) -> PeriodRow | None:
        """The next that is scheduled."""
        return next((row for row in reversed(self.rows) if row.when == "coming"), None)


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A row of the catalogue as it was recorded. `may_correct`: it counts, or will, and is nobody's successor's."""

    price: Price
    amount: SafeString | str
    place: str
    begins: SafeString | str
    recorded: SafeString | str
    state: str
    tone: str
    correct: str


def context(model: Model, now: datetime) -> dict[str, Any]:
    """`model` with its aliases, prices and overruns read."""
    at = clock.known_now()
    used = model_use.used([model], now=now)[model.pk]
    standing = model_standings.standing(model, now=now, at=at, used=used)
    tables = price_tables(model, at=at)
    return {
        "row": ModelRow(standing),
        "badges": model_list.badges(standing),
        "cards": _cards(standing, at),
        "tables": tables,
        "coming": tables[0].coming if tables else None,
        "derived": _derived(model),
        "prices": [_price_row(price, at) for price in sorted(model.prices.all(), key=_newest_first)],
        "used": [
            (one, display.count(one.calls), display.exact(one.cost_nanos), *model_list.use_links(one)) for one in used
        ],
        "used_days": model_use.USED_DAYS,
        "moves": [
            (move, reverse("admin:governance_budget_change", args=[move.budget.pk])) for move in model_use.moves(model)
        ],
        "routes": list(_routes(model)),
        "breaker": _breaker(standing, now),
        "overrun": model_list.overrun_words(model),
        "facts": list(_facts(model)),
    }


def price_tables(model: Model, *, at: datetime) -> list[PriceTable]:
    """One for each place that has rows of its own; plain calls everywhere come first."""
    rows = list(model.prices.all())
    wrong = {price.supersedes_id for price in rows}
    places: dict[tuple[str, str, bool, int], list[PriceLine]] = {}
    for price in rows:
        if price.pk not in wrong:
            line = PriceLine(price.unit, price.picos_per_unit, price.effective_from, price.source)
            places.setdefault(place_of(price), []).append(line)
    order = sorted(places, key=lambda place: (place != EVERYWHERE, place))
    return [_table(place, price_periods.periods(places[place]), at) for place in order]


def _table(place: tuple[str, str, bool, int], periods: Sequence[PricePeriod], at: datetime) -> PriceTable:
    units = [unit for unit in Price.Unit.values if any(unit in period.picos for period in periods)]
    heads = [price_periods.TOKENS.get(unit, unit.replace("_", " ")).capitalize() for unit in units]
    rows = [
        _period(period, periods[number - 1] if number else None, units, at) for number, period in enumerate(periods)
    ]
    return PriceTable(place_words(place), heads, rows[::-1])


def _period(period: PricePeriod, before: PricePeriod | None, units: Sequence[str], at: datetime) -> PeriodRow:
    if period.covers(at):
        when, tone = "now", "active"
    else:
        when, tone = ("past", "off") if period.begins_at is None or period.begins_at <= at else ("coming", "info")
    begins = display.moment(period.begins_at, "year") if period.begins_at else "the beginning"
    ends = display.moment(period.ends_at, "year") if period.ends_at else "further notice"
    words = price_periods.words(period.picos)
    return PeriodRow(
        begins=begins,
        ends=ends,
        cells=[rates.cell(unit, period.picos.get(unit)) for unit in units],
        source=", ".join(period.sources),
        when=when,
        tone=tone,
        words=words,
        sentence=format_html("From {} until {}: {}.", begins, ends, words),
        change=price_periods.change_words(before.picos, period.picos) if before else "",
    )


def place_of(price: Price) -> tuple[str, str, bool, int]:
    """What calls a row is for."""
    return price.zone, price.tier, price.batch, price.above_input_tokens


def place_words(place: tuple[str, str, bool, int]) -> str:
    zone, tier, batch, above = place
    parts = [
        "" if zone == Price.Zone.GLOBAL else f"in the {zone.upper()} zone",
        "" if tier == STANDARD_TIER else f"service tier {tier}",
        "in a batch" if batch else "",
        f"calls above {above:,} input tokens" if above else "",
    ]
    return ", ".join(part for part in parts if part) or "plain calls"


def _derived(model: Model) -> str:
    """What places without rows of their own cost."""
    if model.provider != DEFAULT_PROVIDER:
        return f"In a batch {BATCH_E2}% of these, where there is no row of its own."
    zones = " and ".join(f"{zone.upper()} {ZONE_E2[zone] - 100:+d}%" for zone in sorted(set(ZONE_PROVIDERS.values())))
    here = snapshot.zone_of_provider(model.provider)
    note = "" if here == Price.Zone.GLOBAL else f" Calls go to the {here.upper()} zone here."
    return f"Where there is no row of its own: zones {zones}, in a batch {BATCH_E2}% of these.{note}"


def _price_row(price: Price, at: datetime) -> PriceRow:
    state = state_of(price, at=at)
    tone = {"superseded": "stopped", "coming": "info"}.get(state, "active")
    return PriceRow(
        price=price,
        amount=rates.cell(price.unit, price.picos_per_unit),
        place=place_words(place_of(price)),
        begins=display.moment(price.effective_from, "year") if price.effective_from else "the beginning",
        recorded=display.moment(price.recorded_at, "year") if price.recorded_at else "shipped",
        state="corrected" if state == "superseded" else state,
        tone=tone,
        correct="" if state == "superseded" else reverse("admin:llm_price_correct_one", args=[price.pk]),
    )


def _newest_first(price: Price) -> tuple[str, float, int]:
    begun = price.effective_from.timestamp() if price.effective_from else 0.0
    return price.unit, -begun, -price.pk


def state_of(price: Price, *, at: datetime) -> str:
    """Whether it was put right by another, is still to come, or has begun."""
    if getattr(price, "superseded_by", None) is not None:
        return "superseded"
    return "coming" if price.effective_from and price.effective_from > at else "begun"


def _cards(standing: ModelStanding, at: datetime) -> list[Card]:
    model, found = standing.model, standing.rates
    cards = []
    if found is None:
        cards.append(Card("Price", "None", "calls of it are refused", "price_check", "danger"))
    elif found.by_token:
        told = ModelRow(standing).prices
        notes = ("a million tokens", "of the input, from a cache", "a million tokens written")
        icons = ("input", "cached", "output")
        cards += [Card(*each) for each in zip(("In", "Cached", "Out"), told, notes, icons, strict=True)]
    if found is not None:
        cards += [
            Card(unit.replace("_", " ").capitalize(), *_split(price_periods.of_unit(unit, picos)), "price_check")
            for unit, picos in found.units.items()
        ]
    image = f"a picture {model.image_tokens:,} at most" if "vision" in model.capabilities else "what it reads at most"
    cards.append(Card("Context", rates.tokens(model.context_tokens), image, "menu_book"))
    calls, spent = ModelRow(standing).links
    days = f"in {model_use.USED_DAYS} days"
    cards.append(Card("Calls", f"{standing.calls:,}", days, "bolt", link=calls if standing.calls else ""))
    cards.append(
        Card("Spent", display.dollars(standing.cost_nanos), days, "payments", link=spent if standing.calls else "")
    )
    return cards


def _split(told: str) -> tuple[str, str]:
    amount, _, per = told.partition(" ")
    return amount, per


def _breaker(standing: ModelStanding, now: datetime) -> dict[str, Any] | None:
    status = standing.breaker
    if status is None:
        return None
    at = now.timestamp()
    latency_ms = status.breaker.known_latency_ms(at)
    return {
        "label": status.label,
        "tone": "stopped" if status.is_impaired else "active",
        "latency": "" if latency_ms is None else f"{latency_ms:,.0f} ms",
        "failures": status.breaker.failures,
        "tenants": status.tenants,
    }


def _routes(model: Model) -> Any:
    """(what, words) of the routing file's parts that name it."""
    found = routes.options()
    ours = model_use.providers_of(model)
    mine = {
        name
        for name, option in found.pool.items()
        if option.entry and option.entry.upstream == model.name and option.entry.provider in ours
    }
    for name in sorted(mine):
        pooled = found.pool[name].model
        tags = f", {', '.join(sorted(pooled.tags))}" if pooled.tags else ""
        yield "Pool", f"as {name}, tier {pooled.tier}{tags}{'' if pooled.enabled else ', switched off'}"
    taken = [
        name for name in found.routing.strategies if mine & {o.name for o in found.of(found.routing.strategy(name))}
    ]
    if taken:
        yield "Strategies", ", ".join(taken)
    names = model_use.names_of(model)
    for name, chain in found.routing.chains.items():
        if not names.isdisjoint(chain):
            yield f"Chain {name}", " → ".join(chain)


def _facts(model: Model) -> Any:
    if model.deprecated_at:
        yield "Deprecated", display.moment(model.deprecated_at, "year")
    if model.replacement:
        yield "Its replacement", model.replacement
    if model.billing_name:
        yield "On invoices", model.billing_name
    if model.listed_at:
        yield "Last listed", display.moment(model.listed_at, "year")
    yield "Can", ", ".join(dict.fromkeys([*model.kinds, *model.capabilities])) or "nothing that we know of"
    if aliases := [alias.name for alias in model.aliases.all()]:
        yield "Also called", ", ".join(aliases)
    yield "Owned by", model.owned_by
