"""References of ours that tell Stripe's checkout which tenant somebody pays for.

A payment link, a pricing table and a buy button take `client_reference_id` from whoever opens them, so what it says is
the payer's word. A reference that we have signed is ours, whoever carries it. Stripe drops without a word what has more
than 200 characters or others than letters, digits, dashes and underscores
(https://docs.stripe.com/payment-links/url-parameters), which rules out the separators of `Signer.sign`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from django.core import signing

from governance.rules.errors import FieldError

# Long enough for a mail to be read and a purchase to be approved; one that gets about is worth nothing after it.
LIFE = timedelta(days=7)
_SHAPE = re.compile(r"(?P<value>(?P<tenant>.+)-(?P<until>[0-9]{1,12}))-(?P<signature>[A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    text: str
    expires_at: datetime


def make(*, tenant: str, now: datetime) -> Reference:
    """A reference for the tenant of this slug."""
    until = int((now + LIFE).timestamp())
    value = f"{tenant}-{until}"
    return Reference(f"{value}-{_signer().signature(value)}", datetime.fromtimestamp(until, UTC))


def tenant_of(text: str, *, at: datetime) -> str:
    """The slug that a reference was signed for, as of `at`; empty for one that is not ours, or too old."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        return ""
    try:
        # Also under the fallback keys, and in constant time.
        _signer().unsign(f"{found['value']}:{found['signature']}")
    except signing.BadSignature:
        return ""
    return found["tenant"] if at < datetime.fromtimestamp(int(found["until"]), UTC) else ""


def link(address: str, reference: Reference) -> str:
    """A payment link that carries the reference, in place of any that it has. Raises FieldError."""
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "https" or not parts.hostname:
        raise FieldError("payment_link", "payment_link must be an address that begins with https://.")
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "client_reference_id"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("client_reference_id", reference.text)])))


def _signer() -> signing.Signer:
    return signing.Signer(salt="billing.tenant_reference")
