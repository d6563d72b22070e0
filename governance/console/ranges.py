"""The stretch of time that a page is about: one choice in the address, for everything on the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import QueryDict

from governance.queries.spend import TimeRange
from governance.rules.spend_sums import HOUR, whole_hour

CUSTOM = "custom"
LASTING = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
WORDS = {"24h": "24 hours", "7d": "7 days", "30d": "30 days", CUSTOM: "Other days"}
USUAL = "7d"
# More days would be more lines than a page can draw.
MOST_DAYS = 400


@dataclass(frozen=True, slots=True)
class Chosen:
    """A page's range. `first` and `last` are its days in `zone`, both included; `error` says what is wrong with them.

    Ranges of days begin at midnight of the zone, that of 24 hours at a full hour: sums are kept for each hour.
    `by_hour`: its ends are hours, of UTC in an address, so that they mean the same calls whatever zone a page is in.
    """

    name: str
    starts_at: datetime
    ends_at: datetime
    first: date
    last: date
    zone: ZoneInfo
    error: str = ""
    by_hour: bool = False

    @property
    def period(self) -> TimeRange:
        return TimeRange(self.starts_at, self.ends_at)

    @property
    def begin_before(self) -> datetime:
        """Where as much time just before it begins. Days count as days, also where one has 23 hours or 25."""
        if self.by_hour:
            return self.starts_at - (self.ends_at - self.starts_at)
        days = (self.last - self.first).days + 1
        return _midnight(self.first - timedelta(days=days), self.zone)

    @property
    def before(self) -> TimeRange:
        return TimeRange(self.begin_before, self.starts_at)

    @property
    def is_of_hours(self) -> bool:
        """Whether its figures are drawn hour by hour."""
        return self.ends_at - self.starts_at <= timedelta(hours=49)

    @property
    def words(self) -> str:
        """Such as "Nov 21 to Nov 28"."""
        if self.by_hour and self.name == CUSTOM:
            begin, end = (at.astimezone(self.zone) for at in (self.starts_at, self.ends_at))
            return f"{_day(begin.date())}, {begin:%H:%M} to {_day(end.date())}, {end:%H:%M}"
        return _day(self.first) if self.first == self.last else f"{_day(self.first)} to {_day(self.last)}"

    def query(self) -> dict[str, str]:
        """What an address says to mean the same range."""
        if self.name != CUSTOM:
            return {"range": self.name}
        if self.by_hour:
            return hours(self.starts_at, self.ends_at)
        return days(self.first, self.last)


def days(first: date, last: date) -> dict[str, str]:
    """What an address says to mean days of its page's zone, both included."""
    return {"range": CUSTOM, "from": first.isoformat(), "to": last.isoformat()}


def hours(starts_at: datetime, ends_at: datetime) -> dict[str, str]:
    """What an address says to mean the hours of UTC that begin in some time, whatever zone its page is in."""
    begin, end = whole_hour(starts_at), whole_hour(ends_at) - HOUR
    return {"range": CUSTOM, "from": f"{begin:%Y-%m-%dT%H}Z", "to": f"{max(begin, end):%Y-%m-%dT%H}Z"}


def chosen(asked: QueryDict, *, now: datetime, zone: ZoneInfo) -> Chosen:
    """The range that `range`, `from` and `to` name; the usual one where they name none, with what is wrong."""
    name = asked.get("range") or (CUSTOM if asked.get("from") else USUAL)
    if name != CUSTOM:
        known = name if name in LASTING else USUAL
        error = "" if known == name else f'range: is one of {", ".join(WORDS)}, not "{name}".'
        return lasting(known, now=now, zone=zone, error=error)
    try:
        if "T" in asked.get("from", ""):
            return _of_hours(_hour(asked.get("from", ""), "from"), _hour(asked.get("to", ""), "to"), zone)
        first, last = (_date(asked.get(field, ""), field) for field in ("from", "to"))
        if first > last:
            raise ValueError("from: is after the last day.")
        if last - first >= timedelta(days=MOST_DAYS):
            raise ValueError(f"from: at most {MOST_DAYS} days are shown at once.")
        return Chosen(CUSTOM, *_days(first, last, zone), first, last, zone)
    except ValueError as error:
        return lasting(USUAL, now=now, zone=zone, error=str(error))


def choices(found: Chosen, kept: dict[str, str]) -> list[tuple[str, str, bool]]:
    """For the page's switch: (address, words, whether it is the present one). `kept`: what else the address says."""
    return [(f"?{urlencode(kept | {'range': name})}", WORDS[name], name == found.name) for name in LASTING]


def lasting(name: str, *, now: datetime, zone: ZoneInfo, error: str = "") -> Chosen:
    """The range of one of LASTING, up to the end of this hour or of today."""
    today = now.astimezone(zone).date()
    if name == "24h":
        ends_at = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        starts_at = ends_at - timedelta(hours=24)
        first = starts_at.astimezone(zone).date()
        return Chosen(name, starts_at, ends_at, first, today, zone, error, by_hour=True)
    first = today - LASTING[name] + timedelta(days=1)
    return Chosen(name, *_days(first, today, zone), first, today, zone, error)


def _of_hours(first: datetime, last: datetime, zone: ZoneInfo) -> Chosen:
    """Both hours included. Raises ValueError."""
    if first > last:
        raise ValueError("from: is after the last hour.")
    if last - first >= timedelta(days=MOST_DAYS):
        raise ValueError(f"from: at most {MOST_DAYS} days are shown at once.")
    days = first.astimezone(zone).date(), last.astimezone(zone).date()
    return Chosen(CUSTOM, first, last + HOUR, *days, zone, by_hour=True)


def _days(first: date, last: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    return _midnight(first, zone), _midnight(last + timedelta(days=1), zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone)


def _date(text: str, field: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{field}: is a day such as 2026-03-29, not "{text}".') from None
    _refuse_far(found.year, field)
    return found


def _hour(text: str, field: str) -> datetime:
    try:
        found = datetime.strptime(text, "%Y-%m-%dT%HZ").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f'{field}: is an hour of UTC such as 2026-03-29T14Z, not "{text}".') from None
    _refuse_far(found.year, field)
    return found


def _refuse_far(year: int, field: str) -> None:
    # Beyond them no day has a day before it, and no zone a midnight.
    if not 2000 <= year <= 9000:
        raise ValueError(f"{field}: is between the years 2000 and 9000.")


def _day(day: date) -> str:
    return f"{day:%b} {day.day}"
