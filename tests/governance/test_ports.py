"""What governance borrows, and what it says where nobody lends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from billing.accounts import sync, topups
from billing.console import customer_part
from config import apps
from governance import ports
from governance.rules.calls import Usage
from llm.catalogue import snapshot, tools
from llm.providers import cost_reports
from tests.factories import NOON
from tests.governance.api import prices


def test_the_product_wires_prices_and_the_link_to_buy_more() -> None:
    assert ports.wired == ports.Ports(
        models=snapshot.names,
        quote=snapshot.quote,
        price=snapshot.cost_of,
        rates=snapshot.rates_of_rule,
        tool_price=tools.price_of,
        set_tool_price=tools.set_price,
        upgrade_link=topups.link,
        provider_costs=cost_reports.read,
        stand_in=sync.standing_in,
        try_call=apps._try_call,
        plans=customer_part.plans,
        bill=customer_part.bill,
        billed_events=customer_part.events,
        alert_kinds=ports.wired.alert_kinds,
    )
    assert {"budget_stopped", "price_missing", "dead_letter"} <= set(ports.alert_kinds())


def test_governance_alone_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "wired", ports.UNWIRED)
    for ask in (
        ports.model_names,
        lambda: ports.by_tokens(input_tokens=1, max_tokens=1)("large"),
        lambda: ports.true_cost(Usage("mistral", "large", 1, 0, 1), at=NOON),
        lambda: ports.rates_of("mistral/large@seed", at=NOON),
        lambda: ports.tool_price("web-search"),
        lambda: ports.set_tool_price(name="web-search", nanos_per_call=1, by=None, now=NOON),
        lambda: ports.upgrade_url(tenant="acme", window="billing_cycle", now=NOON),
        lambda: ports.provider_costs(since=NOON.date(), until=NOON.date(), now=NOON),
        lambda: ports.standing_in(tenant="acme", now=NOON),
        lambda: ports.try_call(key_id=1, tenant_id=1, text="sg_x", model="large"),
        lambda: ports.plans_of([1]),
        lambda: ports.bill_of(tenant=1, since=NOON, now=NOON),
        lambda: ports.billed_events(tenant=1, most=1),
    ):
        with pytest.raises(ports.NotWired, match=r"must call governance\.ports\.wire"):
            ask()


def test_what_is_wired_last_counts_also_for_quoters_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    quoter = ports.by_tokens(input_tokens=10, max_tokens=20)
    monkeypatch.setattr(ports, "wired", ports.UNWIRED)
    ports.wire(replace(ports.wired, quote=prices.quote))
    assert quoter("large") == prices.quote(model="large", input_tokens=10, max_tokens=20)
    assert quoter("mystery") is None


def test_only_a_billing_cycle_of_a_tenant_can_be_bought_more_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "wired", replace(ports.UNWIRED, upgrade_link=lambda *, tenant, now: f"/{tenant}"))
    assert ports.upgrade_url(tenant="acme", window="billing_cycle", now=NOON) == "/acme"
    assert ports.upgrade_url(tenant="acme", window="day", now=NOON) is None
    assert ports.upgrade_url(tenant="", window="billing_cycle", now=NOON) is None
