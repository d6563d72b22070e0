"""A customer's own read-only page, behind a link that needs no sign-in: made, and taken back, by operators.

The link is signed and kept nowhere, so it is shown once; its row says until when it is good, and whether it still is.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.core import signing
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse

from governance import audit
from governance.audit import Actor
from governance.models import PageLink, Tenant
from governance.rules import names
from governance.rules.errors import Conflict, FieldError, NotOpen, Unknown

DEFAULT_DAYS, MOST_DAYS = 30, 366
# Of one customer at a time: whoever makes one for each visitor wants something else.
MOST_OPEN = 100


@transaction.atomic
def make(*, tenant: Tenant, days: int = DEFAULT_DAYS, note: str = "", by: Actor, now: datetime) -> tuple[str, PageLink]:
    """A link, which can be had only here, and its row. Raises FieldError, and Conflict where there are too many."""
    if not 1 <= days <= MOST_DAYS:
        raise FieldError("days", f"must be from 1 to {MOST_DAYS}")
    note = names.checked("label", note, field="note")
    # Nothing is locked for it: two at one moment may make it one more.
    if working(tenant, now=now).count() >= MOST_OPEN:
        raise Conflict("", f"{tenant.slug} has {MOST_OPEN} links that work: end those that nobody needs.")
    link = PageLink(tenant=tenant, note=note, made_at=now, made_by=by.name[:150], ends_at=now + timedelta(days=days))
    link.save(force_insert=True)
    new = {"link": link.pk, "note": note, "ends_at": link.ends_at.isoformat()}
    audit.record(action="page_link.make", target=_target(tenant), by=by, now=now, new=new)
    return f"{settings.APP_URL}{reverse('customer-page', args=[_signer().sign(str(link.pk))])}", link


@transaction.atomic
def end(*, link: PageLink, reason: str = "", by: Actor, now: datetime) -> PageLink:
    """Take a link back, for good. Raises NotOpen for one that is over."""
    # The condition settles a race: only one of two operators finds it open, so one audit row is written.
    if not working(link.tenant, now=now).filter(pk=link.pk).update(ended_at=now, ended_by=by.name[:150]):
        raise NotOpen("", "This link is over already.")
    link.refresh_from_db(fields=["ended_at", "ended_by"])
    record = {"link": link.pk, "note": link.note}
    audit.record(action="page_link.end", target=_target(link.tenant), by=by, now=now, reason=reason, old=record)
    return link


@transaction.atomic
def end_all(*, tenant: Tenant, reason: str = "", by: Actor, now: datetime) -> int:
    """Take back all links of a customer; how many there were. Without any nothing is written."""
    ended = working(tenant, now=now).update(ended_at=now, ended_by=by.name[:150])
    if ended:
        new = {"ended": ended}
        audit.record(action="page_link.end_all", target=_target(tenant), by=by, now=now, reason=reason, new=new)
    return ended


def working(tenant: Tenant, *, now: datetime) -> QuerySet[PageLink]:
    """The links of a customer that work, the newest first."""
    return PageLink.objects.filter(tenant=tenant, ended_at=None, ends_at__gt=now).order_by("-id")


def link_of(token: str, *, now: datetime) -> PageLink:
    """What a link was made as. Raises Unknown, and NotOpen where it is over."""
    try:
        found = _signer().unsign(token)
    except signing.BadSignature as error:
        raise Unknown("", "This link was not made here, or was cut short.") from error
    link = PageLink.objects.select_related("tenant").filter(pk=int(found)).first()
    if link is None:
        raise Unknown("", "What this link was made for is gone.")
    if not link.works(now):
        raise NotOpen("", "It was good for a time that is over, or was taken back.")
    return link


def _target(tenant: Tenant) -> str:
    return f"tenant {tenant.slug}"


def _signer() -> signing.Signer:
    return signing.Signer(salt="governance.page_link", sep=".")
