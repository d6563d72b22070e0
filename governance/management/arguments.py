"""What the commands' arguments have in common."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from django.core.management.base import CommandError
from django.utils.dateparse import parse_date, parse_datetime


def moment(option: str, text: str | None) -> datetime | None:
    """A day's beginning, or a time; without an offset it is UTC. Raises CommandError."""
    if text is None:
        return None
    try:
        day, at = parse_date(text), parse_datetime(text)
    except ValueError:
        day = at = None
    if at is None and day is not None:
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    if at is None:
        raise CommandError(
            f"--{option}: must be a day such as 2026-03-01, or a time such as 2026-03-01T12:00Z, not {text!r}"
        )
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def day(option: str, text: str | None) -> date | None:
    """A day (UTC), or the time of its beginning. Raises CommandError."""
    at = moment(option, text)
    if at is None:
        return None
    try:
        at = at.astimezone(UTC)
    except OverflowError as error:
        raise CommandError(f"--{option}: {text!r} is no day") from error
    if at.time() != time.min:
        raise CommandError(f"--{option}: must be the beginning of a day in UTC, not {text!r}")
    return at.date()
