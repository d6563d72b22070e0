"""Jobs of beat: one domain call each."""

import logging

from celery import shared_task
from django.utils import timezone

from governance import idempotency, ledger
from governance.actions import anomalies, raises, refusal_log
from governance.alerts import outbox
from governance.ledger import clock
from governance.reports import outbox as report_outbox
from governance.upkeep import conditions, failures, forecasts, judgement, outage, reconcile, telling

# Of each run; the worker has other things to do in between.
FOLLOW_S = 10.0

log = logging.getLogger(__name__)
# What this process has reckoned of the hour that goes on; another one reckons it anew.
_bounds: anomalies.Known = {}


@shared_task
def expire_reservations() -> int:
    """Resolve reservations of calls that died."""
    return ledger.expire_due(now=timezone.now())


@shared_task
def roll_windows() -> int:
    """Close windows whose time is over, for the dashboards; calls do it by themselves. What was asked for them ends."""
    closed = ledger.roll_windows(now=timezone.now())
    raises.lapse(now=timezone.now())
    return closed


@shared_task
def follow_acts() -> int:
    """Have the windows of budgets with very many of them follow what was done to these; calls do it by themselves."""
    return ledger.follow_acts(now=timezone.now(), for_s=FOLLOW_S)


# A proof of all there is grows with it.
@shared_task(soft_time_limit=50 * 60, time_limit=55 * 60)
def reconcile_ledger() -> int:
    """Check the ledger's invariants; how many figures have drifted."""
    drifts = reconcile.run_due(now=timezone.now())
    for drift in drifts:
        log.error("the ledger has drifted: %s", drift)
    return len(drifts)


@shared_task
def judge_ledger() -> int:
    """Compare the ledger's days with what providers report; how many differ."""
    return len(judgement.run(now=timezone.now()).disagreeing)


@shared_task
def purge_refusals() -> int:
    """Delete refused calls that are older than they are kept."""
    return refusal_log.purge(now=clock.now())


@shared_task
def purge_kept_answers() -> int:
    """Delete the answers of requests whose Idempotency-Key is a day old."""
    return idempotency.purge(now=clock.now())


@shared_task
def watch_spend() -> int:
    """Count the calls that failed and look for hours out of all proportion; how many anomalies are open."""
    now = clock.now()
    failures.count(now=now)
    return anomalies.look(now=now, known=_bounds)


@shared_task
def forecast_budgets() -> int:
    """Keep for lists when budgets run out; how many were reckoned."""
    now = clock.now()
    failures.purge(now=now)
    return forecasts.keep(now=now)


@shared_task
def send_alerts() -> int:
    """Tell whoever is to be told; how many messages arrived."""
    sent = telling.run(clock=clock.now)
    # By the clock that said when it began, as the database could not.
    outage.over(now=timezone.now())
    return sent


@shared_task
def look_at_conditions() -> int:
    """Look for what nobody reports by itself; how many alerts are open of it."""
    return conditions.look(now=clock.now())


@shared_task
def look_ahead() -> int:
    """Forecast which budgets will not last until their reset; how many."""
    return conditions.look_ahead(now=clock.now())


@shared_task
def purge_alerts() -> int:
    """Delete what was told longer ago than it is kept."""
    return outbox.purge(now=clock.now())


@shared_task
def send_reports() -> int:
    """Send the weekly and monthly reports that are due; how many left."""
    report_outbox.purge(now=clock.now())
    return report_outbox.run(clock=clock.now)
