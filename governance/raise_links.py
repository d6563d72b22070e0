"""The signed link of a refusal, behind which more is asked for. Made for every call that a budget refuses.

Knows no rows: the servers of calls are made before there are any models.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.core import signing
from django.urls import reverse

from governance.rules import raises
from governance.rules.decision import Decision
from governance.rules.errors import NotOpen, Unknown


def link(decision: Decision, *, now: datetime) -> str | None:
    """Where to ask for more than the window that refused a call; None where that cannot be. The same for an hour."""
    window_id = raises.window_to_raise(decision)
    if window_id is None:
        return None
    hour = now.replace(minute=0, second=0, microsecond=0)
    # A window is of one budget and one tenant: it names all three.
    token = _signer().sign(f"{window_id}.{int((hour + raises.LINK_LIFE).timestamp())}")
    return f"{settings.APP_URL}{reverse('raise-ask', args=[token])}"


def window_id_of(token: str, *, now: datetime) -> int:
    """Of the window that a link is for. Raises Unknown, and NotOpen where the link is over."""
    try:
        window_id, _, until = _signer().unsign(token).partition(".")
    except signing.BadSignature as error:
        raise Unknown("", "This link was not made here, or was cut short.") from error
    if now >= datetime.fromtimestamp(int(until), UTC):
        raise NotOpen("", f"This link was good for {raises.LINK_LIFE.days} days, which are over.")
    return int(window_id)


def _signer() -> signing.Signer:
    return signing.Signer(salt="governance.raise", sep=".")
