"""GET /metrics: what the apps say about themselves, in Prometheus's text, for whoever has METRICS_TOKEN."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from django.conf import settings
from django.db import DatabaseError
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from billing.queries import metrics as billing_metrics
from governance.ledger import clock
from governance.queries import metrics as governance_metrics
from llm.state import metrics as llm_metrics

logger = logging.getLogger(__name__)


def of_the_clock(now: datetime) -> Iterator[Metric]:
    """This machine's clock beside the database's, which decides windows and rate limits."""
    seconds = -clock.ask().total_seconds()
    yield GaugeMetricFamily(
        "spend_governor_clock_off_seconds", "How far this machine's clock is ahead of the database's.", value=seconds
    )


# Each reads the database when it is called. An app's figures join by one more line.
COLLECTORS: tuple[Callable[[datetime], Iterable[Metric]], ...] = (
    governance_metrics.collect,
    of_the_clock,
    billing_metrics.collect,
    llm_metrics.collect,
)


class AtScrape(Collector):
    """All figures as of one moment."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def collect(self) -> Iterator[Metric]:
        for collector in COLLECTORS:
            yield from collector(self.now)

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would read the database once more."""
        return iter(())


@csrf_exempt
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """404 where no token is set: then nobody may read this, and there is nothing to guess at."""
    if not settings.METRICS_TOKEN:
        raise Http404
    if not _has_token(request):
        return HttpResponse(
            "A bearer token is needed.\n",
            status=401,
            content_type="text/plain; charset=utf-8",
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    registry = CollectorRegistry()
    registry.register(AtScrape(timezone.now()))
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):
        # It names a version that is none: what everybody reads.
        encode, content_type = choose_encoder("")
    try:
        return HttpResponse(encode(registry), content_type=content_type)
    except DatabaseError:
        logger.warning("no metrics: the database does not answer", exc_info=True)
        return HttpResponse("The database does not answer.\n", status=503, content_type="text/plain; charset=utf-8")


def _has_token(request: HttpRequest) -> bool:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    given, wanted = text.strip().encode(errors="replace"), settings.METRICS_TOKEN.encode()
    return scheme.lower() == "bearer" and hmac.compare_digest(given, wanted)
