"""Models that do not answer for a while, as this machine's breakers know: an alert for each, over when it answers.

What calls meet is known where web processes share their VAR_DIR with the worker that looks.
"""

from __future__ import annotations

import socket
import time
from datetime import datetime

from governance import alerts
from llm.rules.breakers import FAILURES
from llm.state import breakers
from llm.state.breakers import BreakerStatus

FAILING = "model_failing"
# A model that fails once in a while is asked again within seconds, and others answer meanwhile.
TRIALS, COOLING_S = 2, 60.0


def look(*, now: datetime) -> int:
    """How many alerts are open for this machine. Other machines have breakers of their own."""
    at, host = time.time(), socket.gethostname()
    found = {
        f"{status.name} at {host}": _said(status, at)
        for status in breakers.shared().snapshot(at)
        if status.is_impaired and _lasts(status, at)
    }
    for subject, message in found.items():
        alerts.report(kind=FAILING, subject=subject, message=message, now=now)
    alerts.clear_others(kind=FAILING, found=found, now=now, host=host)
    return len(found)


def _lasts(status: BreakerStatus, at: float) -> bool:
    return _trials(status) >= TRIALS or status.breaker.cool_until - at > COOLING_S


def _trials(status: BreakerStatus) -> int:
    """How often it was tried in vain since its breaker opened."""
    return status.breaker.failures - FAILURES


def _said(status: BreakerStatus, at: float) -> str:
    wait_s = status.breaker.cool_until - at
    if wait_s > 0:
        return (
            f"{status.name} turns calls away: its provider's limit is reached, and it is asked again in {wait_s:.0f} s."
        )
    return f"{status.name} failed whenever it was tried again, {_trials(status)} times in a row."
