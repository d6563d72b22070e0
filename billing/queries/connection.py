"""How far Stripe is connected: each step as our settings and tables show it. Nobody is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from django.conf import settings

from billing.accounts import policy
from billing.inbox import endpoint
from billing.models import BillingAccount, StripeRun
from billing.queries import plans
from billing.queries.health import StripeHealth
from billing.rules.valuation import Level
from billing.stripe_api import client

STRIPES_OWN = "https://api.stripe.com"


class StepState(StrEnum):
    DONE = "done"
    TODO = "to do"
    WRONG = "needs you"


@dataclass(frozen=True, slots=True)
class Stage:
    """`found` is what was looked at and seen, `todo` what is left to do; empty where nothing is.

    `key` is one of key, address, endpoint, secret, event, plans, customers.
    """

    key: str
    title: str
    state: StepState
    found: str
    todo: str = ""
    command: str = ""


def steps(found: StripeHealth) -> list[Stage]:
    """In their order. `found`: how Stripe's side is. Six queries at most."""
    return [_key(), _address(found), _endpoint(found), _secret(), _event(found), _plans(), _customers(found)]


def is_simulated() -> bool:
    """Whether something stands in for Stripe."""
    return client.is_configured() and settings.STRIPE_API_BASE != STRIPES_OWN


def _key() -> Stage:
    title = "Secret key"
    live = client.is_live()
    if live is None:
        todo = "Make a restricted key in Stripe's dashboard under Developers, API keys. Set it and restart."
        return Stage("key", title, StepState.TODO, "STRIPE_SECRET_KEY is not set.", todo, "STRIPE_SECRET_KEY=rk_test_…")
    if is_simulated():
        return Stage("key", title, StepState.DONE, f"Set. Stripe is simulated at {settings.STRIPE_API_BASE}.")
    return Stage("key", title, StepState.DONE, f"Set, of {'live' if live else 'test'} mode.")


def _address(found: StripeHealth) -> Stage:
    title = "An address that Stripe can reach"
    try:
        return Stage("address", title, StepState.DONE, f"Webhooks go to {endpoint.our_url()}.")
    except endpoint.NotReachable:
        if found.last_event is not None:
            return Stage("address", title, StepState.DONE, f"Events come to {settings.APP_URL}, from this machine.")
    todo = "Set APP_URL to the public https address and restart. To try it here, let Stripe's CLI forward events."
    seen = f"Stripe sends to https alone; APP_URL is {settings.APP_URL}."
    command = f"stripe listen --forward-to {settings.APP_URL}{endpoint.PATH}"
    return Stage("address", title, StepState.TODO, seen, todo, command)


def _endpoint(found: StripeHealth) -> Stage:
    title, run = "Webhook endpoint at Stripe", found.endpoint
    command = "manage.py stripe_setup"
    if run is None or run.figures.get("failed") or run.figures.get("local"):
        if found.last_event is not None and not _is_public():
            return Stage("endpoint", title, StepState.DONE, "None is needed: events are forwarded from this machine.")
        seen = "Nobody has looked at it yet." if run is None else _first(run, "It could not be looked at.")
        state = StepState.WRONG if run is not None and run.figures.get("failed") else StepState.TODO
        return Stage("endpoint", title, state, seen, "Make it, here or by the command.", command)
    if run.figures.get("serious"):
        return Stage("endpoint", title, StepState.WRONG, _first(run, "It is not as it should be."), "Mend it.", command)
    return Stage("endpoint", title, StepState.DONE, "It sends all that is used here, in the right version.")


def _is_public() -> bool:
    return settings.APP_URL.startswith("https://")


def _first(run: StripeRun, otherwise: str) -> str:
    return str(run.findings[0]) if run.findings else otherwise


def _secret() -> Stage:
    title, count = "Webhook secret", len(settings.STRIPE_WEBHOOK_SECRETS)
    if count:
        return Stage("secret", title, StepState.DONE, "Set." if count == 1 else f"{count} are set, and each is taken.")
    todo = "Stripe shows it once, when the endpoint is made. Set it and restart."
    command = "STRIPE_WEBHOOK_SECRET=whsec_…"
    return Stage("secret", title, StepState.TODO, "Not set, so webhooks are refused.", todo, command)


def _event(found: StripeHealth) -> Stage:
    title = "The first event"
    if found.last_event is not None:
        return Stage("event", title, StepState.DONE, f"Signed and kept; the last was {found.last_event.type}.")
    todo = "Send one from Stripe's dashboard, or by its CLI. It shows here at once."
    return Stage("event", title, StepState.TODO, "None has come yet.", todo, "stripe trigger customer.created")


def _plans() -> Stage:
    title, rules = "What prices are worth", policy.plan_rules()
    unnamed = [one for one in plans.prices(rules) if one.worth.level == Level.DEFAULT]
    if unnamed:
        names = ", ".join(one.price.lookup_key or one.price.id for one in unnamed[:3])
        more = f" and {len(unnamed) - 3} more" if len(unnamed) > 3 else ""
        seen = f"No plan and no metadata names {names}{more}."
        return Stage(
            "plans", title, StepState.WRONG, seen, "Name them in a plan: until then they are the default plan."
        )
    if not rules:
        return Stage("plans", title, StepState.TODO, "There is no plan.", "Add one, or say it in prices' metadata.")
    count = "One plan says it" if len(rules) == 1 else f"{len(rules)} plans say it"
    return Stage("plans", title, StepState.DONE, f"{count}, or metadata does.")


def _customers(found: StripeHealth) -> Stage:
    title, bound = "Customers", BillingAccount.objects.exclude(tenant=None).count()
    if found.unbound:
        pay = "1 pays" if found.unbound == 1 else f"{found.unbound:,} pay"
        seen = f"{pay} for nobody yet; {bound:,} for a customer of yours."
        return Stage("customers", title, StepState.WRONG, seen, "Say whom they pay for.")
    if bound:
        pay = "1 pays" if bound == 1 else f"{bound:,} pay"
        return Stage("customers", title, StepState.DONE, f"{pay} for a customer of yours, and none for nobody.")
    todo = "Name the customer in metadata.tenant_id of its checkout or subscription at Stripe, or by a link of ours."
    seen = "Nobody's subscription has come yet."
    return Stage("customers", title, StepState.TODO, seen, todo, "manage.py stripe_reference NAME --link https://…")


def is_connected(some: list[Stage]) -> bool:
    """Whether money that is paid at Stripe comes to count here; plans and customers come as they come."""
    return all(step.state == StepState.DONE for step in some if step.key in ("key", "address", "secret", "event"))
