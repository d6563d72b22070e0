"""A database that is away cannot keep what there is to tell of it: ALERT_URLS are told straight away, once a machine.

What is known of an outage is a file under VAR_DIR: when it was first seen, and whether anybody was told.
"""

from __future__ import annotations

import json
import logging
import socket
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from django.conf import settings

from governance import alerts
from governance.alerts import channels, environment
from governance.alerts.channels import NotSent
from governance.alerts.messages import Message

log = logging.getLogger(__name__)

# A database that is restarted is back by then.
PATIENCE = timedelta(minutes=1)
FILE = "database-away.json"


def seen(error: Exception, *, now: datetime) -> bool:
    """The database did not answer; True where ALERT_URLS were told of it now."""
    path = _file()
    try:
        known = json.loads(path.read_text())
        since, told = datetime.fromisoformat(known["since"]), bool(known["told"])
    except (OSError, ValueError, KeyError, TypeError):
        since, told = now, False
        _keep(path, since, told=False)
    if told or now - since < PATIENCE:
        return False
    # First: whoever is killed over it tells nobody twice.
    _keep(path, since, told=True)
    words = (
        f"The database of Spend Governor has not answered since {since:%H:%M} UTC, as seen from {socket.gethostname()}:"
        f" {type(error).__name__}. Calls are refused with 503 until it does; nothing is charged twice or lost."
    )
    for url in settings.ALERT_URLS:
        try:
            channels.send(environment.target(url), _message(words, now))
        except NotSent as problem:
            log.error("the database is away, and nobody could be told: %s", problem)
    return True


def over(*, now: datetime) -> None:
    """It answers. Where somebody was told that it did not, all are told how long that was."""
    path = _file()
    if not path.exists():
        return
    try:
        known = json.loads(path.read_text())
        since, told = datetime.fromisoformat(known["since"]), bool(known["told"])
    except (OSError, ValueError, KeyError, TypeError):
        since, told = now, False
    path.unlink(missing_ok=True)
    if told:
        alerts.tell(
            kind="database_trouble",
            incident=f"database-{since:%Y%m%d%H%M%S}",
            title="The database was away",
            message=f"It did not answer from {since:%H:%M} to {now:%H:%M} UTC, as seen from {socket.gethostname()}.",
            now=now,
        )


def _message(words: str, now: datetime) -> Message:
    title = "The database does not answer"
    data = {"what": "opened", "kind": "database_trouble", "occurred_at": now.isoformat(), "message": words}
    return Message(
        id=str(uuid4()),
        title=title,
        text=words,
        html=f"<p>{words}</p>",
        severity="critical",
        incident=f"database-{socket.gethostname()}"[:100],
        is_over=False,
        occurred_at=now,
        data={"alerts": [data]},
    )


def _keep(path: Path, since: datetime, *, told: bool) -> None:
    try:
        path.write_text(json.dumps({"since": since.isoformat(), "told": told}))
    except OSError:
        log.exception("an outage could not be noted")


def _file() -> Path:
    return Path(settings.VAR_DIR) / FILE
