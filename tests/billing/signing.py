"""Signed posts, as Stripe makes them."""

import hashlib
import hmac

SECRET = "whsec_test_current"
PATH = "/api/webhooks/stripe"


def signed_headers(body: bytes, secret: str, at: int) -> dict[str, str]:
    """The headers of a webhook whose body was signed with `secret` at Unix second `at`."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={mac}", "Content-Type": "application/json"}
