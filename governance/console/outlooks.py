"""How a budget's outlook is told and drawn: when it runs out, what was spent so far, what will be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

from governance.console import display
from governance.console.display import Series
from governance.queries.forecasts import Outlook
from governance.rules.forecast import HOUR, Basis, Forecast

# The chart has about so many points; a forecast without an end is drawn so far.
POINTS, LONGEST_DRAWN = 120, timedelta(days=14)
STEPS = tuple(HOUR * hours for hours in (1, 2, 3, 6, 12, 24, 48, 96))
BASIS = {
    Basis.RATE: "by the rate of the hours so far",
    Basis.HOURS: "by the usual hours of a day",
    Basis.WEEKDAYS: "by the usual hours and weekdays",
}


def runs_out(outlook: Outlook) -> SafeString | str:
    """ "Runs out Saturday 14:00 (±3 h)", "Lasts until the reset"; for the overview, too."""
    found, status = outlook.forecast, outlook.status
    if status.settled_nanos >= outlook.cap_nanos:
        return "Used up: no call goes through until it is reset, raised or ends."
    if found is None:
        return "Nothing was spent yet that a forecast could go by."
    if found.runs_out_at is not None:
        return format_html("Runs out {}{}.", display.moment(found.runs_out_at, "day"), give_or_take(found))
    last = found.points[-1]
    about = f"about {display.dollars(last.expected_nanos)} spent by then"
    if found.earliest is not None:
        early = display.moment(found.earliest, "day")
        return format_html("Lasts until the reset, {}; if more is spent than usual, to {}.", about, early)
    return f"Lasts until the reset, {about}." if status.ends_at else "Lasts for weeks at this rate."


def chart(outlook: Outlook) -> dict[str, Any]:
    """What was spent so far, the caps, and the forecast with its band, on one line of moments."""
    found = outlook.forecast
    first, now = outlook.spent[0][0], outlook.now
    until = found.points[-1].at if found else now
    if outlook.status.ends_at is None and found:
        crossed = (found.runs_out_at - now) * 1.2 if found.runs_out_at else LONGEST_DRAWN
        until = min(until, now + max(HOUR, min(crossed, LONGEST_DRAWN)))
    step = next((step for step in STEPS if (until - first) / step <= POINTS), STEPS[-1])
    moments = _moments(first, now, until, step)
    drawn = [Series("Spent", [_at(outlook.spent, at) if at <= now else None for at in moments], filled=True)]
    if found:
        ahead = [at >= now for at in moments]
        for name, colour, line in (
            ("Forecast", "--sg-1", [(point.at, point.expected_nanos) for point in found.points]),
            ("If less is spent", "--sg-rest", [(point.at, point.low_nanos) for point in found.points]),
            ("If more is spent", "--sg-rest", [(point.at, point.high_nanos) for point in found.points]),
        ):
            values = [_at(line, at) if is_ahead else None for at, is_ahead in zip(moments, ahead, strict=True)]
            drawn.append(Series(name, values, colour, dashed=True))
    for name, colour, nanos in (
        ("Hard cap", "--sg-bad", outlook.cap_nanos),
        ("Soft cap", "--sg-warn", outlook.soft_nanos),
    ):
        if nanos is not None:
            drawn.append(Series(name, [display.plain_dollars(nanos)] * len(moments), colour, stepped=True))
    return display.chart("lines", [_label(at, outlook, step) for at in moments], drawn)


def _moments(first: datetime, now: datetime, until: datetime, step: timedelta) -> list[datetime]:
    count = int((until - first) / step)
    return sorted({*(first + step * number for number in range(count + 1)), now, until})


def _at(line: Sequence[tuple[datetime, int]], at: datetime) -> str:
    """What a line says of a moment: the last that was known by then."""
    known = bisect_right(line, at, key=lambda point: point[0])
    return display.plain_dollars(line[max(0, known - 1)][1])


def _label(at: datetime, outlook: Outlook, step: timedelta) -> str:
    local = at.astimezone(outlook.zone)
    return f"{local:%b} {local.day}" if step >= timedelta(hours=6) else f"{local:%b} {local.day}, {local:%H:%M}"


def table(outlook: Outlook) -> list[tuple[SafeString | str, str]]:
    """The chart in words, for whoever does not see it: a few moments and what will have been spent."""
    found = outlook.forecast
    if not found:
        return [(display.moment(outlook.now, "day"), display.dollars(outlook.status.settled_nanos))]
    steps = max(1, len(found.points) // 6)
    return [
        (
            display.moment(point.at, "day"),
            f"{display.dollars(point.expected_nanos)} ({display.dollars(point.low_nanos)} to "
            f"{display.dollars(point.high_nanos)})",
        )
        for point in found.points[::steps]
    ]


def give_or_take(found: Forecast) -> str:
    """ " (±3 h)"; ", or later" where it may just as well last."""
    if found.give_or_take is None:
        return ", or later" if found.latest is None else ""
    hours = max(1, round(found.give_or_take / HOUR))
    return f" (±{hours} h)" if hours < 48 else f" (±{round(hours / 24)} d)"


def in_words(at: datetime | None, now: datetime) -> str:
    """A stretch of time in its largest unit: "in 3 days"."""
    if at is None:
        return "never by itself"
    left = at - now
    if left <= timedelta(0):
        return "when it is paid"
    for unit, words in ((timedelta(days=1), "day"), (HOUR, "hour"), (timedelta(minutes=1), "minute")):
        if left >= unit:
            number = left // unit
            return f"in {number} {words}{'' if number == 1 else 's'}"
    return "in a moment"
