"""Jobs of workers and beat: one domain call each."""

from celery import shared_task
from django.utils import timezone

from billing import inbox, sync


@shared_task
def process_event(event_id: str) -> bool:
    """Handle one event of the inbox."""
    return inbox.process(event_id, now=timezone.now())


@shared_task
def sweep_inbox() -> int:
    """Handle the events that are due, then the accounts whose period has ended; how many events."""
    handled = inbox.sweep(now=timezone.now())
    sync.due(now=timezone.now())
    return handled
