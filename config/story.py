"""The demo's story, told at the simulated Stripe: a customer signs up, uses its budget up, pays for more and renews.

Each step is what a business and its customer do, through Stripe's API as the product calls it; what comes of it comes
by webhook. The customer lives on a test clock that was set a week back, so that its first period is nearly over:
Stripe's clock can be moved, and the product's own cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2 as httpx
from django.conf import settings

from billing.accounts import binding, topups
from billing.models import BillingAccount, StripeEvent, TopUp
from billing.stripe_api import client
from config import demo
from governance import ledger
from governance.actions import tenancy
from governance.audit import Actor
from governance.ledger.operations import Record
from governance.models import Agent, BudgetWindow, Tenant
from governance.models.spend import SpendEntry
from governance.queries import budget_status
from governance.queries.budget_status import BudgetStatus
from governance.rules.calls import Caller, Usage
from governance.rules.windows import WindowKind

TENANT, NAME, AGENT = "wonka", "Wonka Confectionery", "recipes"
# The story's price, by its lookup key: a week for $6, with $5 to spend.
PRICE = "weekly"
WEEK = timedelta(days=7)
# What is left of the first period when the story begins.
REST = timedelta(seconds=45)
# From a renewal's draft to its payment Stripe lets an hour pass.
UNTIL_PAID = timedelta(hours=2)
CALLS = 25
EVENTS_SHOWN = 12
TIMEOUT_S = 20.0
GONE = (BillingAccount.State.CLOSED, BillingAccount.State.FREE)


class StoryError(Exception):
    """The step cannot be taken now; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class StoryStatus:
    """Where the story is: its customer, what can be spent, what was bought, and what Stripe sent last."""

    account: BillingAccount | None
    budget: BudgetStatus | None
    bought_nanos: int
    events: tuple[StripeEvent, ...]
    waiting: int

    @property
    def is_alive(self) -> bool:
        return self.account is not None

    @property
    def is_used_up(self) -> bool:
        return self.budget is not None and self.budget.remaining_nanos <= 0


def is_told() -> bool:
    """Whether Stripe is simulated here, so that there is a story to tell."""
    return bool(settings.DEBUG and client.is_configured() and settings.STRIPE_API_BASE == settings.STRIPE_SANDBOX_URL)


def status(*, now: datetime) -> StoryStatus:
    account = _account()
    windows = BudgetWindow.objects.filter(
        budget__tenant__slug=TENANT, budget__window=WindowKind.BILLING_CYCLE, closed_at=None
    ).select_related("budget")
    window = windows.first() if account else None
    events = (
        StripeEvent.objects.filter(customer_id=account.stripe_customer_id) if account else StripeEvent.objects.none()
    )
    bought = TopUp.objects.filter(account=account, refunded_nanos=0) if account else TopUp.objects.none()
    return StoryStatus(
        account=account,
        budget=budget_status.of_window(window) if window else None,
        bought_nanos=sum(bought.values_list("amount_nanos", flat=True)),
        events=tuple(events.order_by("-id")[:EVENTS_SHOWN]),
        waiting=events.filter(processed_at=None, quarantine_reason="").count(),
    )


def sign_up(*, by: Actor, now: datetime) -> str:
    """A new customer pays for a week, at a checkout with our signed reference. Raises StoryError, StripeError."""
    if _account() is not None:
        raise StoryError("Somebody has signed up already; start over to have another one do it.")
    tenant = _tenant(now)
    reference, _ = binding.refer(tenant=tenant, by=by, now=now)
    began = int((now - WEEK + REST).timestamp())

    def make(api: client.Client) -> dict[str, Any]:
        clock = api.v1.test_helpers.test_clocks.create({"frozen_time": began, "name": NAME})
        customer = api.v1.customers.create({"name": NAME, "email": f"billing@{TENANT}.example", "test_clock": clock.id})
        (price,) = api.v1.prices.list({"lookup_keys": [PRICE]}).data
        session = api.v1.checkout.sessions.create(
            {
                "mode": "subscription",
                "customer": customer.id,
                "line_items": [{"price": price.id, "quantity": 1}],
                "client_reference_id": reference.text,
                "success_url": f"{settings.APP_URL}/admin/story/",
            }
        )
        _pay(session.id)
        # From here on the customer's clock is this machine's, until it renews.
        api.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": int(now.timestamp())})
        return {"customer": customer.id}

    made = client.ask(make)
    return f"{NAME} has paid for a week, as {made['customer']}."


def use_up(*, by: Actor, now: datetime) -> str:
    """Calls of its agent that use up what is left. Raises StoryError."""
    found = status(now=now)
    if found.budget is None or found.is_used_up:
        raise StoryError("There is no budget to use up: sign up first, or pay for more.")
    left = found.budget.remaining_nanos
    costs = [left // CALLS] * (CALLS - 1)
    costs.append(left - sum(costs))
    tenant = Tenant.objects.get(slug=TENANT)
    records = [_call(tenant, number, cost, now) for number, cost in enumerate(costs)]
    ledger.apply(records, now=now)
    return f"{CALLS} calls have used up the budget: the next one is refused, with a link to buy more."


def pay(*, by: Actor, now: datetime) -> str:
    """The link of a refused call is opened, and paid. Raises StoryError, StripeError."""
    if _account() is None:
        raise StoryError("Nobody has signed up yet.")
    try:
        url = topups.checkout_url(tenant=Tenant.objects.get(slug=TENANT), now=now)
    except topups.NotForSale as error:
        raise StoryError("No price for top-ups is configured (STRIPE_TOPUP_PRICE).") from error
    _pay(url.rpartition("/")[2])
    return "The top-up is paid: calls go on."


def renew(*, by: Actor, now: datetime) -> str:
    """Stripe's clock is moved past the period's end: it bills the next week. Raises StoryError, StripeError."""
    account = _account()
    if account is None or not account.subscription_id:
        raise StoryError("There is no subscription to renew.")
    subscription_id = account.subscription_id

    def move(api: client.Client) -> datetime:
        sub = api.v1.subscriptions.retrieve(subscription_id, {"expand": ["test_clock"]}).to_dict(for_json=True)
        ends = datetime.fromtimestamp(sub["items"]["data"][0]["current_period_end"], UTC)
        if not may_renew(ends, now=now):
            raise StoryError("The week that is paid for has only begun.")
        until, at = int((max(ends, now) + UNTIL_PAID).timestamp()), sub["test_clock"]["frozen_time"]
        while at < until:
            # Two of its intervals is as far as a test clock can be moved at once.
            at = min(at + 2 * int(WEEK.total_seconds()), until)
            api.v1.test_helpers.test_clocks.advance(sub["test_clock"]["id"], {"frozen_time": at})
        return ends

    begins = client.ask(move)
    wait_s = int((begins - now).total_seconds())
    return f"Renewed and paid: a new week begins {f'in {wait_s} seconds' if wait_s > 0 else 'now'}."


def may_renew(ends_at: datetime | None, *, now: datetime) -> bool:
    """Whether a period is so nearly over that the next one is no surprise."""
    return ends_at is not None and ends_at < now + WEEK / 2


def start_over(*, by: Actor, now: datetime) -> str:
    """The customer is deleted at Stripe, which ends its subscription. Raises StoryError, StripeError."""
    account = _account()
    if account is None:
        raise StoryError("Nobody has signed up yet.")
    client.ask(lambda api: api.v1.customers.delete(account.stripe_customer_id))
    return "The customer is deleted; the next one can sign up."


STEPS = {"sign-up": sign_up, "use-up": use_up, "pay": pay, "renew": renew, "start-over": start_over}


def _account() -> BillingAccount | None:
    """The customer that the story is about, while it is one."""
    rows = BillingAccount.objects.filter(tenant__slug=TENANT, deleted_at=None).exclude(state__in=GONE)
    return rows.first()


def _tenant(now: datetime) -> Tenant:
    tenant = Tenant.objects.filter(slug=TENANT).first() or tenancy.create_tenant(
        slug=TENANT, name=NAME, by=demo.BY, now=now
    )
    if not Agent.objects.filter(tenant=tenant, slug=AGENT).exists():
        tenancy.create_agent(tenant=tenant, slug=AGENT, by=demo.BY, now=now)
    return tenant


def _call(tenant: Tenant, number: int, cost_nanos: int, now: datetime) -> Record:
    entry_id: UUID = SpendEntry._meta.pk.get_default()
    return Record(
        entry_id=entry_id,
        caller=Caller(tenant.pk, tenant.slug, agent=AGENT, session="s-story"),
        request_id=f"story-{int(now.timestamp())}-{number}",
        cost_nanos=cost_nanos,
        usage=Usage(
            "mistral", demo.SERVED[demo.LARGE], input_tokens=cost_nanos // 3_000, output_tokens=cost_nanos // 15_000
        ),
        model_requested=demo.LARGE,
        price_rule="demo",
        occurred_at=now,
    )


def _pay(session_id: str) -> None:
    """The payer's click on the hosted page, which no API of Stripe's has. Raises StoryError."""
    url = f"{settings.STRIPE_SANDBOX_URL}/control/checkouts/{session_id}/complete"
    headers = {"authorization": f"Bearer {settings.STRIPE_SECRET_KEY}"}
    try:
        # This machine is not asked for at a proxy.
        answer = httpx.post(url, json={}, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        raise StoryError(f"The simulated Stripe does not answer: {error}.") from error
    if answer.status_code != 200:
        raise StoryError(f"The checkout was not paid: {answer.text[:200]}")
