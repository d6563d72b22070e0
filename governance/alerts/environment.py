"""The channels of ALERT_URLS: rows that remember how they fare; their URLs stay in the environment."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

from django.conf import settings

from governance.alerts.channels import Target
from governance.models import AlertChannel

Kind = AlertChannel.Kind
PREFIX = "ALERT_URLS"


def urls() -> dict[str, str]:
    """The parts of ALERT_URLS by their digests."""
    return {_digest(url, settings.SECRET_KEY): url for url in settings.ALERT_URLS}


def target(url: str) -> Target:
    """Whoever sets the environment may send where they like."""
    address = mail_address(url)
    if address:
        return Target(Kind.EMAIL, address)
    return Target(Kind.APPRISE, "", url, private_allowed=True)


def mail_address(url: str) -> str:
    """The address of `mailto:somebody@example.com`, which goes by EMAIL_URL; empty for other URLs."""
    scheme, _, rest = url.partition(":")
    return rest if scheme.lower() == "mailto" and not rest.startswith("//") else ""


def adopt() -> None:
    """Bring the rows in line with ALERT_URLS: new ones are added, those that are gone are switched off."""
    named = urls()
    known = {row.digest_of_url: row for row in AlertChannel.objects.exclude(digest_of_url=None)}
    for digest, url in named.items():
        row = known.get(digest)
        if row is None:
            _add(digest, url)
    gone = [row.pk for digest, row in known.items() if digest not in named and row.enabled]
    if gone:
        AlertChannel.objects.filter(pk__in=gone).update(enabled=False, last_error="ALERT_URLS names it no more.")


def _add(digest: str, url: str) -> None:
    address = mail_address(url)
    scheme = url.partition(":")[0].lower()
    taken = set(AlertChannel.objects.filter(name__startswith=PREFIX).values_list("name", flat=True))
    number = next(n for n in range(1, len(taken) + 2) if f"{PREFIX} {n}" not in taken)
    AlertChannel.objects.get_or_create(
        digest_of_url=digest,
        defaults={
            "name": f"{PREFIX} {number}",
            "kind": Kind.EMAIL if address else Kind.APPRISE,
            "target": address,
            "is_pager": scheme in ("pagerduty", "splunk", "victorops"),
        },
    )


@lru_cache(maxsize=256)
def _digest(url: str, key: str) -> str:
    """Tells one from another, and nothing of what is in it."""
    return hmac.new(key.encode(), b"alert url\n" + url.encode(), hashlib.sha256).hexdigest()
