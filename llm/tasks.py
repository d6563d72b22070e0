"""Jobs of beat: one domain call each."""

import logging

from celery import shared_task
from django.utils import timezone

from llm.catalogue import sync
from llm.state import watch

log = logging.getLogger(__name__)


@shared_task
def look_at_breakers() -> int:
    """Alerts of models that do not answer for a while; how many are open."""
    return watch.look(now=timezone.now())


@shared_task
def sync_models() -> int:
    """Take the provider's list of models over, and look after those in use; how many changes there were."""
    try:
        outcome = sync.run(now=timezone.now())
    except sync.SyncFailed as error:
        # An alert says so; tomorrow is soon enough to try again.
        log.error("models: %s", error)
        return 0
    for change in outcome.changes:
        log.info("models: %s", change)
    return len(outcome.changes)
