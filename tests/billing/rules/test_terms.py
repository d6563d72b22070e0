"""When what is billed is due, and what becomes of a period after which nothing is heard."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from billing.rules import grants
from billing.rules.entitlement import EntitlementState
from billing.rules.valuation import BillingPolicy
from billing.stripe_api import objects
from tests import factories
from tests.billing import events
from tests.billing.events import START
from tests.billing.rules.test_entitlement import NEXT, entitled, paid, sub

STANDARD = factories.nanos("50")
SENT: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 14}
ROLLED: dict[str, Any] = {"period_start": NEXT, "period_end": NEXT + 30 * events.DAY}


@pytest.mark.parametrize("days", [3, 7])
def test_what_is_left_of_a_last_period_is_left_for_as_long_as_a_payment_may_be_late(days: int) -> None:
    policy, last, ending = BillingPolicy(grace_days=days), NEXT + days * events.DAY, sub(cancel_at_period_end=True)
    over = entitled([ending], [paid()], now=last - grants.MICROSECOND, policy=policy)
    assert (over.state, over.limit_nanos, over.until) == (EntitlementState.LAPSED, STANDARD, last)
    gone = entitled([ending], [paid()], now=last, policy=policy)
    assert (gone.state, gone.until) == (EntitlementState.SUSPENDED, None)
    assert "period_ended" in gone.reasons


@pytest.mark.parametrize("days", [0, 1, 30])
def test_a_period_that_is_over_is_asked_about_each_day(days: int) -> None:
    found = entitled([sub()], [paid()], now=NEXT + days * events.DAY)
    assert (found.state, found.limit_nanos) == (EntitlementState.LAPSED, STANDARD)
    assert found.until == NEXT + (days + 1) * events.DAY


@pytest.mark.parametrize(("due", "state"), [(20, "provisional"), (3, "suspended")])
def test_terms_of_an_invoice_come_before_its_subscriptions(due: int, state: str) -> None:
    """The business may have given it another date."""
    renewed = sub(**SENT, **ROLLED)
    sent = paid(status="open", due_date=events.seconds(NEXT + due * events.DAY), **ROLLED)
    found = entitled([renewed], [paid(), sent], now=NEXT + 15 * events.DAY)
    assert found.state == state
    if state == "provisional":
        assert found.until == NEXT + due * events.DAY


@pytest.mark.parametrize("what", ["another subscription's", "another rhythm's", "another period's", "paid by then"])
def test_what_is_due_for_something_else_gives_no_terms(what: str) -> None:
    fields = dict(ROLLED) if what in ("another subscription's", "another rhythm's") else {}
    fields |= {"subscription": "sub_b"} if what == "another subscription's" else {}
    fields |= {"price": "price_premium_weekly"} if what == "another rhythm's" else {}
    late = paid(
        id="in_other",
        status="paid" if what == "paid by then" else "open",
        due_date=events.seconds(NEXT + 20 * events.DAY),
        **fields,
    )
    found = entitled([sub(**ROLLED)], [paid(), late], now=NEXT + 8 * events.DAY)
    assert found.state == EntitlementState.SUSPENDED


def used(**fields: Any) -> dict[str, Any]:
    price = events.price_of("price_x", metadata={"llm_budget_usd": "30"})
    return price | {"recurring": price["recurring"] | {"usage_type": "metered"}} | fields


@pytest.mark.parametrize("begun", [events.START, events.START - 90 * events.DAY])
def test_an_item_that_is_new_has_no_usage_of_the_period_before(begun: datetime) -> None:
    """Nor need an invoice say so."""
    changed = sub(price=used(), start_date=events.seconds(begun), **ROLLED)
    for days in (0, 8, 29):
        found = entitled([changed], [paid()], now=NEXT + days * events.DAY)
        assert (found.state, found.limit_nanos) == (EntitlementState.ACTIVE, factories.nanos("30"))
    late = sub(price=used(), start_date=events.seconds(begun), status="past_due", **ROLLED)
    assert entitled([late], [paid()], now=NEXT + 8 * events.DAY).state == EntitlementState.SUSPENDED


def test_a_flat_price_that_goes_on_beside_pays_for_no_usage() -> None:
    raw = events.subscription(start_date=events.seconds(START), **ROLLED)
    [flat] = raw["items"]["data"]
    raw["items"]["data"].append({**flat, "id": "si_used", "price": used()})
    found = entitled([objects.subscription(raw)], [paid(), paid(**ROLLED)], now=NEXT + 8 * events.DAY)
    assert found.limit_nanos == STANDARD


@pytest.mark.parametrize(("due", "state"), [(20, EntitlementState.ACTIVE), (5, EntitlementState.SUSPENDED)])
def test_usage_is_due_when_the_invoice_over_it_is(due: int, state: EntitlementState) -> None:
    going_on = sub(price=used(), start_date=events.seconds(START), **SENT, **ROLLED)
    over = paid(price="price_x", status="open", due_date=events.seconds(NEXT + due * events.DAY))
    found = entitled([going_on], [over], now=NEXT + 10 * events.DAY)
    assert found.state == state
