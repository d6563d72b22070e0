"""Whether a webhook comes from Stripe: its signature and its age. Nothing is read or written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from stripe import SignatureVerificationError, WebhookSignature

TOLERANCE_S = 300
MOST_HEADER = 4096
TIMESTAMP = re.compile(r"t=(\d{1,12})")


class NotFromStripe(ValueError):
    """The request is unsigned, signed with another secret, or too old; the message says which."""


def verify(*, body: str, header: str, secrets: Sequence[str], now: datetime) -> None:
    """Raise NotFromStripe unless one of the secrets signed this body within five minutes of `now`.

    Stripe's own check knows no clock but the machine's and accepts timestamps of the future, so the age is ours.
    """
    if not header:
        raise NotFromStripe("The Stripe-Signature header is missing.")
    # One alone, and without a blank: with two, what is signed may be one and what is looked at here the other.
    stamps = [item for item in header.split(",") if item.partition("=")[0].strip() == "t"]
    found = TIMESTAMP.fullmatch(stamps[0]) if len(stamps) == 1 else None
    if len(header) > MOST_HEADER or not header.isascii() or found is None:
        raise NotFromStripe("The Stripe-Signature header cannot be read.")
    if not any(_signed(body, header, secret) for secret in secrets):
        raise NotFromStripe("No signature in the Stripe-Signature header matches the body.")
    age_s = now.timestamp() - int(found[1])
    if age_s > TOLERANCE_S:
        raise NotFromStripe(f"The signature is {age_s:.0f} s old; at most {TOLERANCE_S} s are accepted.")
    if age_s < -TOLERANCE_S:
        raise NotFromStripe("The signature's timestamp is in the future.")


def _signed(body: str, header: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret))
    except SignatureVerificationError:
        return False
