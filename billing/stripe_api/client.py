"""Stripe's API as this product uses it: bounded in time, retried where that helps, its failures told apart.

Called by Celery tasks, commands and the page of a top-up only, never within a database transaction. A POST carries
an Idempotency-Key that its caller has committed before (see `billing.stripe_api.posts` and `billing.usage.outbox`).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import requests
import stripe
from django.conf import settings

from billing.stripe_api import objects
from governance import proxies

CONNECT_TIMEOUT_S = 3.05
READ_TIMEOUT_S = 10
NETWORK_RETRIES = 2
# Stripe's SDK does not retry 429: so often we do, and wait so long at most.
BUSY_TRIES = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
PAGE = 100
# Accounts v2: the id of an account that is a customer.
ACCOUNT = "acct_"
_PATH = re.compile(r"/v[12](/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")
# Stripe bills three years at most at once: what is older than the newest by more says nothing about what is current.
LONGEST_S = 3 * 366 * 86_400
# What credit notes took off an invoice, before and after its payment.
CREDITED = ("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount")
# Addresses of Stripe's that carry a token, which is another each time that their object is read.
TOKENS = ("invoice_pdf", "pdf")

Fetched = Mapping[str, Any]
Client = stripe.StripeClient
Events = stripe.ListObject[stripe.Event]
# The version that the installed SDK speaks.
API_VERSION = stripe.api_version
Answer = TypeVar("Answer")
sleep = time.sleep


class StripeError(Exception):
    """Stripe did not do what was asked. `status` is its answer's; None where none came. `code` is Stripe's word."""

    def __init__(self, message: str, *, status: int | None = None, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class StripeUnavailable(StripeError):
    """Worth trying again later: a timeout, 429, 5xx, or a key that does not work and that an operator will mend.

    `retry_after_s` is how long Stripe asks to wait; 0 where it does not say.
    """

    retry_after_s: float = 0.0


class StripeRefused(StripeError):
    """Final: the same request will be refused again."""


@dataclass(frozen=True, slots=True)
class CustomerSnapshot:
    """All that a customer's entitlement follows from, as Stripe has it now."""

    customer: Fetched
    subscriptions: tuple[Fetched, ...]
    invoices: tuple[Fetched, ...]
    # Charges and what became of them: refunds are in the charge, disputes by themselves. None: not known.
    payments: tuple[Fetched, ...] | None = ()
    # Those that sold something without an invoice, as far as an event told of them.
    checkouts: tuple[Fetched, ...] = ()


def is_configured() -> bool:
    return bool(settings.STRIPE_SECRET_KEY)


def is_live() -> bool | None:
    """Whether the key is a live one; None without a key."""
    if not is_configured():
        return None
    return settings.STRIPE_SECRET_KEY.startswith(("sk_live_", "rk_live_"))


def customer_snapshot(customer_id: str) -> CustomerSnapshot:
    """The customer with its subscriptions, invoices and payments. Raises StripeUnavailable, StripeRefused.

    A customer deleted at Stripe, or an account that was closed, has `deleted` set and nothing else.
    """

    def read(api: stripe.StripeClient) -> CustomerSnapshot:
        customer = _customer(api, customer_id)
        if customer.get("deleted"):
            # What becomes of its payments is heard of in events alone.
            return CustomerSnapshot(customer, (), (), payments=None)
        is_account = customer_id.startswith(ACCOUNT)
        whose = named(customer_id)
        wanted: Any = whose | {"status": "all", "limit": PAGE}
        subscriptions = tuple(_with_all_items(api, one) for one in _all(api.v1.subscriptions.list(wanted)))
        # Charges are not listed by account: what becomes of them is heard of in events.
        invoices = _invoices(api, whose)
        payments = None if is_account else _payments(api, customer_id, invoices)
        if payments is not None and any(one.get(name) for one in invoices for name in CREDITED):
            # Invoices say how much was credited, not of which lines, nor how much of that a refund carries.
            notes: Any = {**whose, "limit": PAGE}
            payments += tuple(_with_all_credits(api, one) for one in _recent(api.v1.credit_notes.list(notes)))
        return CustomerSnapshot(customer, subscriptions, invoices, payments)

    return ask(read)


def named(customer_id: str) -> dict[str, str]:
    """How a request names a customer, which with Accounts v2 is an account."""
    return {"customer_account" if customer_id.startswith(ACCOUNT) else "customer": customer_id}


def _customer(api: stripe.StripeClient, customer_id: str) -> Fetched:
    if not customer_id.startswith(ACCOUNT):
        return _plain(api.v1.customers.retrieve(customer_id))
    account = _plain(api.v2.core.accounts.retrieve(customer_id))
    return {**account, "deleted": True} if account.get("closed") else account


def _invoices(api: stripe.StripeClient, whose: Mapping[str, str]) -> tuple[Fetched, ...]:
    """The customer's invoices of whatever status but drafts, with their payments where those can be asked for."""
    plain: Any = {**whose, "limit": PAGE}
    try:
        listed = api.v1.invoices.list(plain | {"expand": ["data.payments"]})
    except stripe.InvalidRequestError as error:
        if error.http_status != 400:
            raise
        # Older versions, and what stands in for Stripe, have invoices that name their charge themselves.
        listed = api.v1.invoices.list(plain)
    return tuple(_with_all_lines(api, one) for one in _recent(listed) if one.get("status") != "draft")


def _with_all_lines(api: stripe.StripeClient, invoice: Fetched) -> Fetched:
    """An invoice with all its lines and payments: what is embedded is their first ten."""
    id, payments = invoice["id"], cast(Any, {"invoice": invoice["id"], "limit": PAGE})
    invoice = _unfolded(invoice, "lines", lambda: api.v1.invoices.line_items.list(id, {"limit": PAGE}))
    return _unfolded(invoice, "payments", lambda: api.v1.invoice_payments.list(payments))


def _with_all_credits(api: stripe.StripeClient, note: Fetched) -> Fetched:
    id, wanted = note["id"], cast(Any, {"limit": PAGE})
    return _unfolded(note, "lines", lambda: api.v1.credit_notes.line_items.list(id, wanted))


def _with_all_items(api: stripe.StripeClient, subscription: Fetched) -> Fetched:
    wanted: Any = {"subscription": subscription["id"], "limit": PAGE}
    return _unfolded(subscription, "items", lambda: api.v1.subscription_items.list(wanted))


def _unfolded(data: Fetched, name: str, listed: Callable[[], stripe.ListObject[Any]]) -> Fetched:
    """The object with a list of it read to its end, where what is embedded is not all."""
    embedded = data.get(name)
    if not isinstance(embedded, dict) or not embedded.get("has_more"):
        return data
    return {**data, name: {**embedded, "data": list(_all(listed())), "has_more": False}}


def _payments(api: stripe.StripeClient, customer_id: str, invoices: Sequence[Fetched]) -> tuple[Fetched, ...] | None:
    """The customer's newest charges and their disputes; None where what stands in for Stripe does not know them."""
    try:
        charges = api.v1.charges.list({"customer": customer_id, "limit": PAGE})
        found = list(_recent(charges))
        # A payment that an invoice was given need not have a customer.
        for id in sorted(_paid_by(invoices) - {charge.get("payment_intent") for charge in found}):
            found += _all(api.v1.charges.list({"payment_intent": id, "limit": PAGE}))
        for id in [charge["id"] for charge in found if charge.get("disputed")]:
            found += _all(api.v1.disputes.list({"charge": id, "limit": PAGE}))
    except stripe.StripeError as error:
        if error.http_status not in (404, 405):
            raise
        return None
    return tuple(found)


def _paid_by(invoices: Sequence[Fetched]) -> set[str]:
    """The payment intents that have paid invoices."""
    payments = (one for invoice in invoices for one in objects.members(invoice.get("payments")))
    paid = (objects.mapping(one.get("payment")) for one in payments if one.get("status") == "paid")
    return {objects.identifier(one.get("payment_intent")) for one in paid} - {""}


def charge(charge_id: str) -> Fetched:
    """A charge, for the customer whose money it was. Raises StripeUnavailable, StripeRefused."""
    return ask(lambda api: _plain(api.v1.charges.retrieve(charge_id)))


def price(price_id: str) -> Fetched:
    """A price, for its lookup key and metadata; `deleted` as a product's. Raises StripeUnavailable, StripeRefused."""
    return _unless_deleted("price", price_id, lambda api: api.v1.prices.retrieve(price_id))


def product(product_id: str) -> Fetched:
    """A product, for its metadata. Raises StripeUnavailable, StripeRefused.

    One that was deleted, whose subscribers go on, has `deleted` set and says nothing else.
    """
    return _unless_deleted("product", product_id, lambda api: api.v1.products.retrieve(product_id))


def products(ids: Sequence[str]) -> list[Fetched]:
    """Each as `product` has it, in a request for a hundred of them. Raises StripeUnavailable, StripeRefused."""
    found: dict[str, Fetched] = {}
    for first in range(0, len(ids) if len(ids) > 1 else 0, PAGE):
        wanted: Any = {"ids": list(ids[first : first + PAGE]), "limit": PAGE}
        found |= {str(one["id"]): one for one in ask(partial(_listed_products, wanted))}
    # What is not listed was deleted; or what stands in for Stripe knows no such list.
    return [found[id] if id in found else product(id) for id in ids]


def _listed_products(wanted: Any, api: stripe.StripeClient) -> list[Fetched]:
    try:
        return [_plain(one) for one in api.v1.products.list(wanted).data]
    except stripe.InvalidRequestError:
        return []


def _unless_deleted(kind: str, id: str, call: Callable[[stripe.StripeClient], stripe.StripeObject]) -> Fetched:
    try:
        return ask(lambda api: _plain(call(api)))
    except StripeRefused as error:
        if error.status != 404:
            raise
        return {"id": id, "object": kind, "deleted": True}


def related(url: str) -> Fetched:
    """The object that a thin event is about, by its path. Raises StripeUnavailable, StripeRefused."""
    if not _PATH.fullmatch(url):
        raise StripeRefused(f"not an object of Stripe's: {url[:200]}")
    return ask(lambda api: cast(Fetched, api.raw_request("get", url).data))


def event(event_id: str) -> Fetched:
    """A thin event with its data, which the webhook leaves out. Raises StripeUnavailable, StripeRefused."""
    return ask(lambda api: _plain(api.v2.core.events.retrieve(event_id)))


def checkout_session(session_id: str) -> Fetched:
    """A checkout session with all that it sells, and what products say of that: no reading of a customer brings them.
    Raises StripeUnavailable, StripeRefused."""
    first, all = (cast(Any, {"expand": [f"{name}.price.product"]}) for name in ("line_items.data", "data"))

    def read(api: stripe.StripeClient) -> Fetched:
        lines = api.v1.checkout.sessions.line_items
        found = _plain(api.v1.checkout.sessions.retrieve(session_id, first))
        return _unfolded(found, "line_items", lambda: lines.list(session_id, {"limit": PAGE} | all))

    return ask(read)


def create_checkout_session(params: Mapping[str, Any], *, key: str) -> Fetched:
    """A new checkout session; `key` is its Idempotency-Key. Raises StripeUnavailable, StripeRefused."""
    wanted: Any = dict(params)
    return ask(lambda api: _plain(api.v1.checkout.sessions.create(wanted, {"idempotency_key": key})))


def ask(call: Callable[[stripe.StripeClient], Answer], *, key: str = "") -> Answer:
    """Whatever `call` asks a client for; 429 is waited out here. Raises StripeUnavailable, StripeRefused.

    The client has `key`, or the configured one.
    """
    api = make_client(key)
    for attempt in range(BUSY_TRIES):
        try:
            with _failures():
                return call(api)
        except StripeUnavailable as error:
            if error.status != 429 or attempt == BUSY_TRIES - 1:
                raise
            sleep(pause_s(attempt, error.retry_after_s))
    raise AssertionError("unreachable")


def pause_s(attempt: int, retry_after_s: float) -> float:
    """How long to wait after 429: what Stripe asks for or twice as long each time, spread, within bounds."""
    wanted = max(FIRST_PAUSE_S * 2**attempt, retry_after_s)
    # Workers that were refused together must not come back together.
    spread = random.uniform(0.8, 1.2)  # noqa: S311
    return float(min(wanted, LONGEST_PAUSE_S) * spread)


def make_client(key: str = "") -> stripe.StripeClient:
    """A client with our bounds, for `key` or the configured one."""
    addresses: Any = {"api": settings.STRIPE_API_BASE}
    if settings.STRIPE_API_BASE != stripe.DEFAULT_API_BASE:
        # What stands in for Stripe stands in for the host of its meters' streams too.
        addresses["meter_events"] = settings.STRIPE_API_BASE
    # Not kept between calls: its session must not be shared between threads or forked processes.
    return stripe.StripeClient(
        key or settings.STRIPE_SECRET_KEY,
        max_network_retries=NETWORK_RETRIES,
        base_addresses=addresses,
        http_client=_http_client(),
    )


def _http_client() -> stripe.RequestsClient:
    """The SDK's, with the proxy that is told, and not one that it finds in the environment by rules of its own."""
    session = requests.Session()
    session.trust_env = False
    proxy = proxies.proxy_for(settings.STRIPE_API_BASE)
    return stripe.RequestsClient(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), session=session, proxy=proxy)


def _plain(found: stripe.StripeObject) -> Fetched:
    return found.to_dict(for_json=True)


def _all(listed: stripe.ListObject[Any]) -> Iterator[Fetched]:
    """What is listed, to its end, as it reads each time alike."""
    for item in listed.auto_paging_iter():
        yield _without_tokens(item.to_dict(for_json=True))


def _recent(listed: stripe.ListObject[Any]) -> Iterator[Fetched]:
    """What is listed, newest first, and not too old to say anything about what is current."""
    newest: int | None = None
    for one in _all(listed):
        created = int(one.get("created") or 0)
        newest = created if newest is None else newest
        if created < newest - LONGEST_S:
            return
        yield one


def _without_tokens(data: Any) -> Any:
    if isinstance(data, list):
        return [_without_tokens(one) for one in data]
    if not isinstance(data, dict):
        return data
    return {
        name: value if name == "metadata" else _without_tokens(value)
        for name, value in data.items()
        if not (name.endswith("_url") or name in TOKENS)
    }


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (
        stripe.APIConnectionError,
        stripe.RateLimitError,
        stripe.AuthenticationError,
        stripe.PermissionError,
        stripe.TemporarySessionExpiredError,
    ) as error:
        raise _named(StripeUnavailable, error) from error
    except stripe.StripeError as error:
        status = error.http_status or 500
        kind = StripeUnavailable if status >= 500 or status in (408, 409, 429) else StripeRefused
        raise _named(kind, error) from error


def _named(kind: type[StripeError], error: stripe.StripeError) -> StripeError:
    message = f"{type(error).__name__} {error.http_status or ''}: {error.user_message or error}"[:500]
    found = kind(message, status=error.http_status, code=error.code or "")
    wait = str((error.headers or {}).get("Retry-After") or "")
    if isinstance(found, StripeUnavailable) and wait.isascii() and wait.isdecimal() and len(wait) < 10:
        found.retry_after_s = float(wait)
    return found
