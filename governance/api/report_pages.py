"""Where the link leads that ends a report. Whoever has the link needs no sign-in: it is for one address alone."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from governance.actions import report_subscriptions
from governance.reports import links


@csrf_exempt
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """A GET asks: mail scanners follow every link. A POST ends it, as mail programs' own buttons do (RFC 8058)."""
    found = links.subscription_of(token)
    if found is None:
        return _page(request, "This link leads nowhere", "It was cut off, or what it would end is gone.", status=404)
    whose = found.tenant.name if found.tenant else "all customers"
    what = f"The {found.cadence} report of {whose} to {found.address}"
    if request.method == "POST":
        report_subscriptions.end(subscription=found, by=report_subscriptions.BY_LINK, now=timezone.now())
    elif found.ended_at is None:
        return _page(request, "Send no more reports?", f"{what} stops with this.", asks=True)
    return _page(request, "No more reports", f"{what} is not sent any more. Whoever set it up can begin it again.")


def _page(request: HttpRequest, title: str, words: str, *, asks: bool = False, status: int = 200) -> HttpResponse:
    context = {"title": title, "words": words, "asks": asks}
    return render(request, "reports/unsubscribe.html", context, status=status)
