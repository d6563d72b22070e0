"""What Stripe's inbox says about itself, for Prometheus; read from the database at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count, Min
from prometheus_client.core import GaugeMetricFamily, Metric

from billing.models import StripeEvent

PREFIX = "spend_governor_stripe_inbox"


def collect(now: datetime) -> Iterator[Metric]:
    """Events that wait to be handled, and how long the oldest has waited (0 where none does)."""
    found = StripeEvent.objects.waiting().aggregate(count=Count("pk"), oldest=Min("received_at"))
    age_s = (now - found["oldest"]).total_seconds() if found["oldest"] else 0
    yield GaugeMetricFamily(f"{PREFIX}_waiting", "Stripe's events that are not handled yet.", value=found["count"])
    yield GaugeMetricFamily(f"{PREFIX}_age_seconds", "Seconds the oldest of them has waited.", value=age_s)
