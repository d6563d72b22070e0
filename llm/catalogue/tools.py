"""Tools and searches that agents run themselves, priced by the call.

Each is a row of the catalogue at the provider `tool`, so that its prices begin, are corrected and are charged anew as
any model's are.
"""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from governance import ledger
from governance.audit import Actor
from governance.ledger import clock
from governance.rules import money, names
from governance.rules.calls import CALL_UNIT, DEAREST_CALL_NANOS, LONGEST_TOOL, TOOL_PROVIDER
from governance.rules.errors import FieldError
from llm.catalogue import prices, snapshot
from llm.catalogue.prices import EXISTS, PriceExists
from llm.models import Model, Price
from llm.rules.capabilities import TOOL


def every() -> QuerySet[Model]:
    """The tools that have, or had, a price."""
    return Model.objects.filter(provider=TOOL_PROVIDER).prefetch_related("aliases", "prices").order_by("name")


def call_nanos(model: Model, *, at: datetime) -> int | None:
    """What a call of a tool costs at a moment; None where it has no price then."""
    rates = snapshot.rates_at(model=model, at=at)
    picos = rates.units.get(CALL_UNIT) if rates else None
    return None if picos is None else money.round_from_picos(picos)


def price_of(name: str, *, at: datetime | None = None) -> int | None:
    """The same by a tool's name, by default of now; one of `governance.ports`."""
    model = every().filter(name=name).first()
    return None if model is None else call_nanos(model, at=at or clock.now())


def set_price(
    *,
    name: str,
    nanos_per_call: int,
    by: Actor,
    now: datetime,
    effective_from: datetime | None = None,
    source: str = "",
    reason: str = "",
) -> Price:
    """Say what a call of a tool costs from a moment on, by default from now; its first price makes it known.

    Raises FieldError, and PriceExists for a moment that has one already. One of `governance.ports`.
    """
    validate(name, nanos_per_call)
    try:
        with transaction.atomic():
            model = Model.objects.filter(provider=TOOL_PROVIDER, name=name).first()
            if model is None:
                model = Model(provider=TOOL_PROVIDER, name=name, owned_by=TOOL_PROVIDER, kinds=[TOOL])
                prices.save(row=model, old=None, by=by, now=now)
            price = Price(
                model=model,
                unit=Price.Unit.CALL,
                picos_per_unit=nanos_per_call * money.PICOS_PER_NANO,
                effective_from=effective_from or ledger.by_database(now),
                source=source,
            )
            return prices.add(price=price, by=by, now=now, reason=reason)
    except IntegrityError as error:
        # Somebody else named it first in the meantime.
        raise PriceExists(EXISTS) from error


def validate(name: str, nanos_per_call: int) -> None:
    """Raises the FieldError of a tool that no call could name, or that has no such price."""
    if not names.checked("tool", name, field="name") or len(name) > LONGEST_TOOL:
        raise FieldError("name", f"must have 1 to {LONGEST_TOOL} characters.")
    if not 0 <= nanos_per_call <= DEAREST_CALL_NANOS:
        most = money.whole_dollars(DEAREST_CALL_NANOS)
        raise FieldError("usd_per_call", f"must be between 0 and {most}.")
    if Model.objects.filter(provider=TOOL_PROVIDER, name=name).exclude(status__in=Model.SERVED).exists():
        raise FieldError("name", f"{name} is retired: serve it again on its page first.")
