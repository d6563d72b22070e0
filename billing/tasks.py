"""Jobs of workers and beat: one domain call each."""

from celery import shared_task
from django.utils import timezone

from billing.accounts import guests, sync
from billing.inbox import catch_up, store
from billing.usage import outbox, proof


@shared_task
def process_event(event_id: str) -> bool:
    """Handle one event of the inbox."""
    return store.process(event_id, now=timezone.now())


@shared_task
def sweep_inbox() -> int:
    """Handle the events that are due, then the accounts whose period has ended, and top-ups that wait for their tenant;
    how many events."""
    handled = store.sweep(now=timezone.now())
    sync.due(now=timezone.now())
    guests.retry(now=timezone.now())
    return handled


@shared_task(name="billing.tasks.heal")
def run_catch_up() -> int:
    """Check the endpoint, fetch missing events and read all customers, where that is due; how many runs."""
    return len(catch_up.run_due(now=timezone.now()))


@shared_task
def report_usage() -> int:
    """Note what hours came to and tell Stripe's meters; how many events arrived."""
    outbox.write(now=timezone.now())
    proof.read_reports(now=timezone.now())
    proof.reconcile(now=timezone.now())
    return outbox.drain(clock=timezone.now)


@shared_task
def review_usage() -> int:
    """Note late corrections, as far back as calls may be reported; how many hours changed."""
    return outbox.write(now=timezone.now(), reach=outbox.LATE)
