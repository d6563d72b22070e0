"""The channels of ALERT_URLS: rows that remember how they fare; their URLs stay in the environment."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

from django.conf import settings

from governance.alerts.channels import Target
from governance.alerts.channels.apprise_url import PAGERS
from governance.models import AlertChannel

Kind = AlertChannel.Kind
PREFIX = "ALERT_URLS"
GONE = "ALERT_URLS names it no more."


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
    """Bring the rows in line with ALERT_URLS: new ones are added, those that are gone are switched off.

    One that comes back is switched on again, and one of before SECRET_KEY was replaced stays what it was.
    """
    known = {row.digest_of_url: row for row in AlertChannel.objects.exclude(digest_of_url=None)}
    for digest, url in urls().items():
        row = known.pop(digest, None) or _of_an_old_key(url, known)
        if row is None:
            _add(digest, url)
        elif row.digest_of_url != digest:
            AlertChannel.objects.filter(pk=row.pk).update(digest_of_url=digest)
        elif not row.enabled and row.last_error == GONE:
            AlertChannel.objects.filter(pk=row.pk).update(enabled=True, last_error="")
    gone = [row.pk for row in known.values() if row.enabled]
    if gone:
        AlertChannel.objects.filter(pk__in=gone).update(enabled=False, last_error=GONE)


def _of_an_old_key(url: str, known: dict[str | None, AlertChannel]) -> AlertChannel | None:
    digests = (_digest(url, key) for key in settings.SECRET_KEY_FALLBACKS)
    return next((known.pop(digest) for digest in digests if digest in known), None)


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
            "is_pager": scheme in PAGERS,
        },
    )


@lru_cache(maxsize=256)
def _digest(url: str, key: str) -> str:
    """Tells one from another, and nothing of what is in it."""
    return hmac.new(key.encode(), b"alert url\n" + url.encode(), hashlib.sha256).hexdigest()
