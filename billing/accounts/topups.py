"""Buying more: a signed link of ours in a refusal, and the checkout that opening it leads to.

The link is made for every refused call, so it is signed and nothing else; Stripe is asked when a human opens it.
The checkout makes an invoice, whose line is what a paid top-up is granted by.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core import signing

from billing.models import BillingAccount
from billing.stripe_api import client, posts
from governance.models import Tenant

KIND = "topup_checkout"
LINK_LIFE = timedelta(days=7)
# A checkout session can be paid for a day; a younger one that is still open is used again.
SESSION_LIFE = timedelta(hours=23)
PURPOSE = "topup"


class LinkError(Exception):
    """The link leads nowhere."""


class LinkExpired(LinkError):
    """The link was one of ours, and is too old."""


class LinkInvalid(LinkError):
    """Nobody here signed this link, or its tenant is gone."""


class NotForSale(LinkError):
    """No Stripe key, or no price for top-ups, is configured."""


def is_for_sale() -> bool:
    return bool(client.is_configured() and settings.STRIPE_TOPUP_PRICE)


def link(*, tenant: str, now: datetime) -> str | None:
    """A link for a human to buy a top-up with; None where none can be bought. The same for calls of one hour."""
    if not is_for_sale():
        return None
    hour = now.replace(minute=0, second=0, microsecond=0)
    until = int((hour + LINK_LIFE).timestamp())
    return f"{settings.APP_URL}/billing/topup/{_signer().sign(f'{tenant}.{until}')}"


def tenant_of(token: str, *, now: datetime) -> Tenant:
    """The tenant a link is for. Raises LinkInvalid, LinkExpired."""
    try:
        slug, _, until = _signer().unsign(token).rpartition(".")
    except signing.BadSignature as error:
        raise LinkInvalid("This link was not made here, or was cut short.") from error
    if now >= datetime.fromtimestamp(int(until), UTC):
        raise LinkExpired(f"This link was good for {LINK_LIFE.days} days, which are over.")
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise LinkInvalid("The account that this link was made for is gone.")
    return tenant


def checkout_url(*, tenant: Tenant, now: datetime) -> str:
    """Where the tenant pays for a top-up. Raises NotForSale, StripeUnavailable, StripeRefused.

    A link that is opened twice, or by a mail scanner, leads to one checkout; once it is paid, to a new one.
    """
    if not is_for_sale():
        raise NotForSale("Nothing can be bought here just now.")
    known = posts.latest(kind=KIND, subject=tenant.slug, since=now - SESSION_LIFE)
    if known:
        session = client.checkout_session(known)
        if session.get("status") == "open" and session.get("url"):
            return str(session["url"])
    params = _params(tenant)
    made = posts.once(
        kind=KIND,
        subject=tenant.slug,
        params=params,
        now=now,
        send=lambda key: client.create_checkout_session(params, key=key),
    )
    return str(made["url"])


def _params(tenant: Tenant) -> dict[str, Any]:
    metadata = {"tenant_id": tenant.slug, "purpose": PURPOSE}
    account = BillingAccount.objects.filter(tenant=tenant, deleted_at=None).first()
    # The tenant's own customer; for one that has none yet, the customer made here is bound by the reference.
    payer = client.named(account.stripe_customer_id) if account else {"customer_creation": "always"}
    return {
        "mode": "payment",
        "line_items": [{"price": settings.STRIPE_TOPUP_PRICE, "quantity": 1}],
        "client_reference_id": tenant.slug,
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},
        "invoice_creation": {"enabled": True, "invoice_data": {"metadata": metadata}},
        "success_url": f"{settings.APP_URL}/billing/topup/done",
        "cancel_url": f"{settings.APP_URL}/billing/topup/cancelled",
        **payer,
    }


def _signer() -> signing.Signer:
    return signing.Signer(salt="billing.topup", sep=".")
