"""The story the product exists for, with unmodified clients: a runaway agent is warned, moved to a cheaper model,
stopped, and let go again when Stripe reports the renewal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from governance.actions import budgets
from governance.audit import Actor
from governance.models import Budget, BudgetEvent, BudgetWindow, SpendEntry
from tests import factories as make
from tests.billing import events
from tests.factories import nanos
from tests.journeys.conftest import Period, Stripe
from tests.product import Product

MESSAGES = [{"role": "user", "content": "Match this invoice."}]
MODEL = "mistral-large-latest"

# Makes one call; returns the model that served it, or raises the client's own error.
Client = Callable[[Product, str], str]


def mistral_plain(product: Product, key: str) -> str:
    with Mistral(api_key=key, server_url=product.url) as client:
        answer = client.chat.complete(model=MODEL, messages=MESSAGES, max_tokens=400)
        assert answer.choices[0].message.content
        return answer.model


def mistral_stream(product: Product, key: str) -> str:
    with (
        Mistral(api_key=key, server_url=product.url) as client,
        client.chat.stream(model=MODEL, messages=MESSAGES, max_tokens=400) as stream,
    ):
        chunks = [event.data for event in stream]
    assert chunks[-1].usage.completion_tokens > 0
    return chunks[-1].model


def openai_plain(product: Product, key: str) -> str:
    with openai.OpenAI(api_key=key, base_url=f"{product.url}/v1") as client:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=400)
        assert answer.choices[0].message.content
        return answer.model


def openai_stream(product: Product, key: str) -> str:
    with openai.OpenAI(api_key=key, base_url=f"{product.url}/v1") as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=400, stream=True, stream_options={"include_usage": True}
            )
        )
    assert chunks[-1].usage.completion_tokens > 0
    return chunks[-1].model


def refusal_of(client: Client, product: Product, key: str) -> tuple[int, str]:
    """(status, text) of the error that the client raises."""
    with pytest.raises((SDKError, openai.APIStatusError)) as caught:
        client(product, key)
    error: Any = caught.value
    return error.status_code, str(error)


@pytest.mark.parametrize("client", [mistral_plain, mistral_stream, openai_plain, openai_stream])
def test_a_runaway_agent_is_moved_stopped_and_let_go_by_the_renewal(
    product: Product, stripe: Stripe, period: Period, client: Client, requests_to: Callable[[str], int]
) -> None:
    tenant = make.tenant("acme")
    key = product.key(of=tenant)
    # Checkout binds the customer; the first paid invoice opens the period on the plan's limit.
    begun = {"period_start": period.starts_at, "period_end": period.ends_at}
    for event in (
        events.checkout_completed(tenant="acme"),
        events.subscription_created(**begun),
        events.invoice_paid(**begun),
    ):
        assert stripe.deliver(event, now=period.starts_at).status_code == 200
    budget = Budget.objects.get(tenant=tenant)
    assert (budget.source, budget.limit_nanos, budget.window) == ("stripe", nanos("50"), "billing_cycle")
    budgets.change(
        budget=budget,
        changes={"downgrade_rules": [{"from": [MODEL], "to": "mistral-small-latest"}]},
        by=Actor("ada"),
        now=period.starts_at,
    )

    # Active: served by what it asked for.
    assert client(product, key) == "mistral-large-2512"
    window = BudgetWindow.objects.get()
    assert (window.state, window.reserved_nanos) == ("active", 0)
    assert window.settled_nanos == SpendEntry.objects.get().cost_nanos > 0

    # Near the soft cap: a cheaper model serves.
    spend(tenant, "40.00")
    assert client(product, key) == "mistral-small-2603"
    assert BudgetWindow.objects.get().state == "degraded"

    # At the hard cap: 402, and nothing leaves, and the client asks once.
    spend(tenant, "10.00")
    upstream = len(product.sandbox.requests)
    before = requests_to("/v1/chat/completions")
    status, text = refusal_of(client, product, key)
    assert status == 402
    assert "budget" in text
    assert requests_to("/v1/chat/completions") == before + 1
    assert len(product.sandbox.requests) == upstream
    assert BudgetWindow.objects.get().state == "stopped"
    assert BudgetEvent.objects.filter(kind="hard-stop").count() == 1

    # The renewal is paid: the next period opens, five times over or not, and the agent goes on.
    new = period.next
    moved = events.subscription_updated(period_start=new.starts_at, period_end=new.ends_at, created=new.starts_at)
    renewal = events.invoice_paid(
        period_start=new.starts_at, period_end=new.ends_at, billing_reason="subscription_cycle"
    )
    for event in (renewal, moved, renewal, renewal, moved):
        assert stripe.deliver(event).status_code == 200
    assert client(product, key) == "mistral-large-2512"
    old, current = BudgetWindow.objects.order_by("starts_at")
    assert old.settled_nanos > nanos("50")
    assert old.closed_at
    assert (current.limit_nanos, current.state, current.starts_at) == (nanos("50"), "active", new.starts_at)
    assert current.settled_nanos == SpendEntry.objects.order_by("id").last().cost_nanos


def spend(tenant: Any, dollars: str) -> None:
    """The agent runs away: calls it reports itself."""
    from django.utils import timezone

    from governance import ledger

    ledger.record(make.reporting(dollars, by=make.caller(tenant, agent="invoices")), now=timezone.now())
