"""What the commands' arguments have in common."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
WHEN = "2026-03-01, a time such as 2026-03-01T12:00Z, or how long ago: 90m, 6h, 7d"


def moment(text: str) -> datetime:
    """A date, a time (UTC where it says nothing else), or how long ago. Raises ArgumentTypeError."""
    if ago := re.fullmatch(r"(\d{1,5})([mhd])", text):
        return timezone.now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        day, at = parse_date(text), parse_datetime(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; say {WHEN}") from error
    if at is None and day is not None:
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    if at is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; say {WHEN}")
    return at if at.tzinfo else at.replace(tzinfo=UTC)
