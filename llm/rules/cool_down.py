"""How long a model that answers 429 wants to be left alone, from its answer's headers. Pure; times are seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llm.rules.breakers import LONGEST_COOL_DOWN_S

# Where nothing is said, and the shortest: a cool-down that is over before the next call is none.
UNSAID_S, SHORTEST_S = 2.0, 0.5
# OpenAI's and its likes' "6m0s", "1.5s", "20ms".
_SPAN = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?")
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,9})?")
_IN_S = (86_400, 3_600, 60, 1, 0.001)
# Numbers from here on are moments since 1970, not spans.
_MOMENT = 1e9


def duration_s(headers: Mapping[str, str], *, now: float) -> float:
    """Seconds to leave it alone, between SHORTEST_S and LONGEST_COOL_DOWN_S.

    `retry-after-ms` and `retry-after` (seconds or a date) count first. Else the latest `...ratelimit...reset...` of
    a limit whose `...remaining...` is 0: seconds, a span such as 6m0s, or a moment. Else UNSAID_S.
    """
    found = asked_for_s(headers, now=now)
    if found is None:
        found = max(_resets(saying(headers), now), default=UNSAID_S)
    return max(SHORTEST_S, min(found, LONGEST_COOL_DOWN_S))


def saying(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are read here, by their names in small letters."""
    lower = ((name.lower(), value.strip()) for name, value in headers.items())
    return {name: value for name, value in lower if name.startswith("retry-after") or "ratelimit" in name}


def asked_for_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """What an answer asks to wait, by its `retry-after` headers alone; None where it says nothing that can be read."""
    headers = saying(headers)
    if _NUMBER.fullmatch(millis := headers.get("retry-after-ms", "")):
        return float(millis) / 1000
    said = headers.get("retry-after", "")
    if _NUMBER.fullmatch(said):
        return float(said)
    try:
        return parsedate_to_datetime(said).timestamp() - now if said else None
    except (ValueError, OverflowError):
        return None


def _resets(headers: Mapping[str, str], now: float) -> Iterator[float]:
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        if headers.get(name.replace("reset", "remaining"), "0") != "0":
            continue
        if (seconds := _span_s(value, now)) is not None:
            yield seconds


def _span_s(value: str, now: float) -> float | None:
    if _NUMBER.fullmatch(value):
        number = float(value)
        return number - now if number >= _MOMENT else number
    if value and (span := _SPAN.fullmatch(value)):
        return sum(float(part) * unit for part, unit in zip(span.groups(), _IN_S, strict=True) if part)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
