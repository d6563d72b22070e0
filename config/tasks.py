"""Jobs of beat that are no app's own."""

from celery import shared_task

from config import sign_ins
from governance.ledger import clock


@shared_task
def purge_sign_ins() -> int:
    """Delete what is kept of sign-ins, and of tries in vain, for longer than it is to be."""
    return sign_ins.purge(now=clock.now())
