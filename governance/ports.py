"""What governance borrows from the apps above it: prices, providers' bills and calls from the model side, and from
billing where to buy more, what stands in for a tenant's own budgets, and what is known of who pays.

Governance imports neither. `config.apps`, which knows all apps, wires them when Django is ready.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NoReturn, Protocol

from django.core.exceptions import ImproperlyConfigured

from governance.rules.alert_kinds import OWN as alert_kinds_of_governance
from governance.rules.alert_kinds import AlertKind
from governance.rules.calls import Usage
from governance.rules.decision import Quote, Quoter
from governance.rules.judgement import CostReport
from governance.rules.overruns import ModelOverrun
from governance.rules.price_sentence import UnitRates
from governance.rules.windows import WindowKind


class QuoteTokens(Protocol):
    """The worst case of a call of known size at a model; None where the model has no price, or no bound.

    `asked` and `overruns` as of `governance.rules.overruns`.
    """

    def __call__(
        self,
        *,
        model: str,
        input_tokens: int,
        max_tokens: int,
        asked: Iterable[str] = (),
        overruns: Sequence[ModelOverrun] = (),
    ) -> Quote | None: ...


class PriceUsage(Protocol):
    """What usage of a moment, by default of now, costs in nanodollars, and the price rule that says so.

    None where it has no price.
    """

    def __call__(self, usage: Usage, *, at: datetime | None = None) -> tuple[int, str] | None: ...


class UpgradeLink(Protocol):
    """A link to buy more with; None where nothing can be bought.

    It may be asked for every refusal, and so does no more than sign a URL of ours.
    """

    def __call__(self, *, tenant: str, now: datetime) -> str | None: ...


class ProviderCosts(Protocol):
    """What providers themselves say that the days in [since, until), UTC, cost: one report for each account.

    It asks them, which takes up to half a minute, and raises nothing for what they answer.
    """

    def __call__(self, *, since: date, until: date, now: datetime) -> Sequence[CostReport]: ...


class StandIn(Protocol):
    """Lasts while a budget of a tenant's own goes, in a transaction. At its end the tenant has what its customer pays
    for, if no budget of its own is left.
    """

    def __call__(self, *, tenant: str, now: datetime) -> AbstractContextManager[None]: ...


class RatesOfRule(Protocol):
    """The rates that a price rule charged by at a moment; None where it does not say them any more."""

    def __call__(self, rule: str, *, at: datetime) -> UnitRates | None: ...


class ModelNames(Protocol):
    """Every name that a call may ask for a model by, sorted."""

    def __call__(self) -> Sequence[str]: ...


class ToolPrice(Protocol):
    """What a call of a tool costs at a moment, by default now, in nanodollars; None where it has no price."""

    def __call__(self, name: str, *, at: datetime | None = None) -> int | None: ...


class SetToolPrice(Protocol):
    """Says what a call of a tool costs from a moment on, by default from now. `by` is an `audit.Actor`.

    Raises FieldError, and ValueError where it has a price from that very moment on.
    """

    def __call__(
        self,
        *,
        name: str,
        nanos_per_call: int,
        by: Any,
        now: datetime,
        effective_from: datetime | None = None,
        source: str = "",
        reason: str = "",
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class TriedCall:
    """How a call went that somebody sent to try a key. `status` is HTTP's, `cost` dollars as text, empty where nothing
    was charged. Of a refusal `message` is its sentence and `code` its word; else `message` is what the model wrote."""

    status: int
    message: str
    code: str = ""
    request_id: str = ""
    model: str = ""
    cost: str = ""


class TryCall(Protocol):
    """Sends one small chat with a key's text to the gateway of this process, as its holder would. It costs what it
    costs, takes as long as the model does, and raises nothing for what comes of it."""

    def __call__(self, *, key_id: int, tenant_id: int, text: str, model: str) -> TriedCall: ...


@dataclass(frozen=True, slots=True)
class CustomerPlan:
    """What a tenant pays for: the plan's name, and what its subscription comes to ("active", "lapsed", ...)."""

    plan: str
    state: str


@dataclass(frozen=True, slots=True)
class CustomerBill:
    """What is known of who pays for a tenant. Amounts in nanodollars, of the time that was asked for.

    `link` is its page in the console, `dashboard` that of Stripe's, empty where there is none. `margin_nanos` is None
    where a part was paid in another currency, `margin_e4` (ten-thousandths of what was paid) where nothing was.
    """

    plan: CustomerPlan
    customer_id: str
    link: str
    dashboard: str
    paid_until: datetime | None
    paid_nanos: int
    margin_nanos: int | None
    margin_e4: int | None


@dataclass(frozen=True, slots=True)
class BilledEvent:
    """Something that Stripe said of a customer: words for people, and where the console shows it.

    `tone`: "success", "warning", "danger", or empty.
    """

    at: datetime
    words: str
    note: str
    link: str
    tone: str = ""


class CustomerPlans(Protocol):
    """By tenants' ids, for those that somebody pays for; two queries at most, however many they are."""

    def __call__(self, tenants: Collection[int]) -> Mapping[int, CustomerPlan]: ...


class CustomerBills(Protocol):
    """None where nobody is known to pay for the tenant."""

    def __call__(self, *, tenant: int, since: datetime, now: datetime) -> CustomerBill | None: ...


class BilledEvents(Protocol):
    """What Stripe said of who pays for a tenant, the newest first, at most so many."""

    def __call__(self, *, tenant: int, most: int) -> Sequence[BilledEvent]: ...


@dataclass(frozen=True, slots=True)
class Ports:
    models: ModelNames
    quote: QuoteTokens
    price: PriceUsage
    rates: RatesOfRule
    tool_price: ToolPrice
    set_tool_price: SetToolPrice
    upgrade_link: UpgradeLink
    provider_costs: ProviderCosts
    stand_in: StandIn
    try_call: TryCall
    plans: CustomerPlans
    bill: CustomerBills
    billed_events: BilledEvents
    # What kinds of alerts mean that other apps report; governance's own are known.
    alert_kinds: Mapping[str, AlertKind] = field(default_factory=lambda: alert_kinds_of_governance)


class NotWired(ImproperlyConfigured):
    """Governance was asked for what another app lends it, and nobody has called `ports.wire`."""


def _not_wired(*args: Any, **kwargs: Any) -> NoReturn:
    raise NotWired(
        "Governance borrows prices and the upgrade link from other apps, and none are wired: an AppConfig's ready() "
        "must call governance.ports.wire(), as config.apps.CompositionConfig does."
    )


UNWIRED = Ports(
    models=_not_wired,
    quote=_not_wired,
    price=_not_wired,
    rates=_not_wired,
    tool_price=_not_wired,
    set_tool_price=_not_wired,
    upgrade_link=_not_wired,
    provider_costs=_not_wired,
    stand_in=_not_wired,
    try_call=_not_wired,
    plans=_not_wired,
    bill=_not_wired,
    billed_events=_not_wired,
)
wired = UNWIRED


def wire(ports: Ports) -> None:
    """Lend governance these from here on, in this process."""
    global wired
    wired = ports


def model_names() -> Sequence[str]:
    """See `ModelNames`."""
    return wired.models()


def by_tokens(
    *, input_tokens: int, max_tokens: int, asked: Iterable[str] = (), overruns: Sequence[ModelOverrun] = ()
) -> Quoter:
    """Prices a call of known size at any model."""
    return lambda model: wired.quote(
        model=model, input_tokens=input_tokens, max_tokens=max_tokens, asked=asked, overruns=overruns
    )


def true_cost(usage: Usage, *, at: datetime | None = None) -> tuple[int, str] | None:
    """See `PriceUsage`."""
    return wired.price(usage, at=at)


def rates_of(rule: str, *, at: datetime) -> UnitRates | None:
    """See `RatesOfRule`."""
    return wired.rates(rule, at=at)


def tool_price(name: str, *, at: datetime | None = None) -> int | None:
    """See `ToolPrice`."""
    return wired.tool_price(name, at=at)


def set_tool_price(
    *,
    name: str,
    nanos_per_call: int,
    by: Any,
    now: datetime,
    effective_from: datetime | None = None,
    source: str = "",
    reason: str = "",
) -> None:
    """See `SetToolPrice`."""
    wired.set_tool_price(
        name=name,
        nanos_per_call=nanos_per_call,
        by=by,
        now=now,
        effective_from=effective_from,
        source=source,
        reason=reason,
    )


def provider_costs(*, since: date, until: date, now: datetime) -> Sequence[CostReport]:
    """See `ProviderCosts`."""
    return wired.provider_costs(since=since, until=until, now=now)


def standing_in(*, tenant: str, now: datetime) -> AbstractContextManager[None]:
    """See `StandIn`."""
    return wired.stand_in(tenant=tenant, now=now)


def try_call(*, key_id: int, tenant_id: int, text: str, model: str) -> TriedCall:
    """See `TryCall`."""
    return wired.try_call(key_id=key_id, tenant_id=tenant_id, text=text, model=model)


def plans_of(tenants: Collection[int]) -> Mapping[int, CustomerPlan]:
    """See `CustomerPlans`."""
    return wired.plans(tenants)


def bill_of(*, tenant: int, since: datetime, now: datetime) -> CustomerBill | None:
    """See `CustomerBills`."""
    return wired.bill(tenant=tenant, since=since, now=now)


def billed_events(*, tenant: int, most: int) -> Sequence[BilledEvent]:
    """See `BilledEvents`."""
    return wired.billed_events(tenant=tenant, most=most)


def alert_kinds() -> Mapping[str, AlertKind]:
    """What is known of kinds of alerts, all apps' together."""
    return wired.alert_kinds


def upgrade_url(*, tenant: str, window: str, now: datetime) -> str | None:
    """What `upgrade_url` shows beside a budget of this kind of window; None where buying would change nothing."""
    if window != WindowKind.BILLING_CYCLE or not tenant:
        # An operator's own limit a day stays what it is, whatever is paid.
        return None
    return wired.upgrade_link(tenant=tenant, now=now)
