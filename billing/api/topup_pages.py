"""Pages for whoever pays: the link of a refused call, and where the checkout leads back to."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing.accounts import topups
from billing.stripe_api import client
from governance import alerts

log = logging.getLogger(__name__)

DONE = "Thank you. The top-up counts as soon as the payment is confirmed, usually within seconds."
CANCELLED = "Nothing was bought. The link can be opened again."


@never_cache
@require_safe
def topup(request: HttpRequest, token: str) -> HttpResponse:
    """Open a checkout for the link's tenant and go there."""
    now = timezone.now()
    try:
        tenant = topups.tenant_of(token, now=now)
        if request.method == "HEAD":
            return HttpResponse()
        return HttpResponseRedirect(topups.checkout_url(tenant=tenant, now=now))
    except topups.LinkExpired as error:
        return _page(request, "This link has expired", f"{error} The next refused call carries a new one.", 410)
    except topups.LinkError as error:
        return _page(request, "This link leads nowhere", str(error), 404)
    except client.StripeRefused as error:
        alerts.report(kind="topup_checkout", subject="stripe", message=str(error), now=now)
        return _page(request, "Nothing can be bought just now", "We were told, and will look into it.", 502)
    except client.StripeUnavailable as error:
        log.warning("no checkout for %s: %s", tenant, error)
        return _page(request, "The payment page does not answer", "Nothing was charged. Try again in a minute.", 503)


@never_cache
@require_safe
def topup_done(request: HttpRequest) -> HttpResponse:
    return _page(request, "Paid", DONE, 200)


@never_cache
@require_safe
def topup_cancelled(request: HttpRequest) -> HttpResponse:
    return _page(request, "Not paid", CANCELLED, 200)


def _page(request: HttpRequest, title: str, words: str, status: int) -> HttpResponse:
    return render(request, "plain_page.html", {"title": title, "words": words}, status=status)
