"""The link by which a reader ends a subscription: signed, for that one alone, and good for as long as its messages."""

from __future__ import annotations

from django.conf import settings
from django.core import signing
from django.urls import reverse

from governance.models import ReportSubscription

SALT = "governance.reports.unsubscribe"


def unsubscribe(subscription: ReportSubscription) -> str:
    token = signing.Signer(salt=SALT).sign_object(subscription.pk)
    return f"{settings.APP_URL}{reverse('report-unsubscribe', args=[token])}"


def subscription_of(token: str) -> ReportSubscription | None:
    """Whose link it is; None where it is nobody's, was changed, or its subscription is gone."""
    try:
        found = signing.Signer(salt=SALT).unsign_object(token)
    except signing.BadSignature:
        # A token that was cut or made up: what is in it is read only after its signature.
        return None
    return ReportSubscription.objects.select_related("tenant").filter(pk=found).first()
