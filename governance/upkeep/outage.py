"""A database that is away cannot keep what there is to tell of it: ALERT_URLS are told straight away, once a machine.

What is known of an outage is a file under VAR_DIR that says since when. Its name says whether anybody was told: of
several processes one alone can rename it, and that one tells. Where it is killed over that, another one tells, after
LEASE: twice rather than never.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from django.conf import settings
from django.db import transaction

from governance import alerts
from governance.alerts import channels, environment, outbox
from governance.alerts.channels import NotSent
from governance.alerts.messages import Message
from governance.models import AlertChannel, AlertNotice

log = logging.getLogger(__name__)

# A database that is restarted is back by then.
PATIENCE = timedelta(minutes=1)
UNTOLD, TELLING, TOLD = "database-away", "database-away-telling", "database-away-told"
# Longer than a dozen messages take that do not leave.
LEASE = timedelta(minutes=5)
# Classes of PostgreSQL's errors in which the connection or the server is lost or full. With any other it answered.
LOST = ("08", "53", "57P")


def seen(error: Exception, *, now: datetime) -> bool:
    """A job met an error of the database; True where it is away, and ALERT_URLS were told of it now."""
    if not (getattr(error.__cause__, "sqlstate", None) or LOST[0]).startswith(LOST):
        return False
    untold, telling, told = _file(UNTOLD), _file(TELLING), _file(TOLD)
    if told.exists() or (telling.exists() and not _is_left(telling, untold)):
        return False
    since = _since(untold)
    if since is None:
        _begin(untold, now)
        return False
    if now - since < PATIENCE:
        return False
    try:
        untold.rename(telling)
        os.utime(telling)
    except OSError:
        # Another process tells.
        return False
    words = (
        f"The database of Spend Governor has not answered since {since:%H:%M} UTC, as seen from {socket.gethostname()}:"
        f" {type(error).__name__}. Calls are refused with 503 until it does; nothing is charged twice or lost."
    )
    message = _message(words, since, now)
    taken = [url for url in settings.ALERT_URLS if _is_sent(url, message)]
    if settings.ALERT_URLS and not taken:
        # The next job that fails tries again: one that did not answer in time may hear of it twice.
        _renamed(telling, untold)
        return False
    return _renamed(telling, told)


def over(*, now: datetime) -> None:
    """It answers. Whoever was told that it did not is told so, and all others of both."""
    since = _since(_file(TOLD)) or _since(_file(TELLING))
    if since is not None:
        _tell(since, now)
    for name in (TOLD, TELLING, UNTOLD):
        _file(name).unlink(missing_ok=True)


@transaction.atomic
def _tell(since: datetime, now: datetime) -> None:
    incident, title = _incident(since), "The database was away"
    words = f"It did not answer from {since:%H:%M} to {now:%H:%M} UTC, as seen from {socket.gethostname()}."
    kind = "database_trouble"
    opened = alerts.tell(kind=kind, incident=incident, title=title, message=words, now=now)
    outbox.note_sent(opened, AlertChannel.objects.filter(digest_of_url__in=environment.urls()), now=now)
    alerts.tell(kind=kind, incident=incident, title=title, message=words, now=now, what=AlertNotice.What.OVER)


def _is_left(telling: Path, untold: Path) -> bool:
    """Whether whoever tells is dead; then it is for anybody to tell again."""
    try:
        return time.time() - telling.stat().st_mtime > LEASE.total_seconds() and _renamed(telling, untold)
    except OSError:
        return False


def _renamed(path: Path, new: Path) -> bool:
    """False where another process, or the end of the outage, was first."""
    try:
        path.rename(new)
    except OSError:
        return False
    return True


def _is_sent(url: str, message: Message) -> bool:
    try:
        channels.send(environment.target(url), message)
    except NotSent as problem:
        log.error("the database is away, and somebody could not be told: %s", problem)
        return False
    return True


def _message(words: str, since: datetime, now: datetime) -> Message:
    title = "The database does not answer"
    data = {"what": "opened", "kind": "database_trouble", "occurred_at": now.isoformat(), "message": words}
    return Message(
        id=str(uuid4()),
        title=title,
        text=words,
        html=f"<p>{words}</p>",
        severity="critical",
        incident=_incident(since),
        is_over=False,
        occurred_at=now,
        data={"alerts": [data]},
    )


def _incident(since: datetime) -> str:
    return f"database-{since:%Y%m%d%H%M%S}-{socket.gethostname()}"[:100]


def _since(path: Path) -> datetime | None:
    """None where there is no such file, or half of one."""
    try:
        found = datetime.fromisoformat(path.read_text())
    except (OSError, ValueError):
        return None
    return found if found.tzinfo else None


def _begin(path: Path, now: datetime) -> None:
    try:
        path.write_text(now.isoformat())
    except OSError:
        log.exception("an outage could not be noted")


def _file(name: str) -> Path:
    return Path(settings.VAR_DIR) / name
