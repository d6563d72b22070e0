"""The address of the page of what was spent: it says all that the page shows, and is the link to share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse

from governance.console import ranges
from governance.console.base import reader
from governance.console.filters import WORDS as FILTER_WORDS
from governance.console.filters import zone_of
from governance.console.ranges import Chosen
from governance.models import Tenant
from governance.queries.breakdown import GROUPS, TIMES, Question
from governance.queries.spend import Reader, TimeRange
from governance.rules import names
from governance.rules.errors import FieldError
from governance.rules.spend_sums import HOUR

# What can be filtered and grouped by, as people call it.
WORDS = {name: word for name, word in FILTER_WORDS.items() if name != "session"} | {"day": "Day", "hour": "Hour"}
FILTERS = tuple(name for name in WORDS if name not in TIMES)
# Who looks at spend asks first whose it is, then what of.
FIRST = ("tenant", "agent", "model")
# Up to, and not including, its end.
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What the page is asked for, as far as it can be; `errors` say what cannot.

    `within`: the group inside `group`, empty for none. `filters`: names as typed, `where` their spellings.
    """

    by: Reader
    range: Chosen
    group: str
    within: str
    filters: Mapping[str, str]
    where: Mapping[str, tuple[str, ...]]
    errors: Sequence[str]
    # Of the console: a page has more links than it should look up.
    root: str

    @property
    def zone(self) -> ZoneInfo:
        return self.range.zone

    @property
    def parts(self) -> tuple[str, ...]:
        """What makes a line of the table: the parts of its group's name, then those of the group within."""
        return tuple(dict.fromkeys((*GROUPS[self.group], *GROUPS.get(self.within, ()))))

    @property
    def groups(self) -> list[str]:
        """What this reader can group by."""
        return [name for name in WORDS if name != "tenant" or self.by.tenant is None]

    @property
    def fields(self) -> list[str]:
        """What this reader can filter by, and does not yet."""
        return [name for name in FILTERS if name in self.groups and name not in self.filters]

    def question(self, span: Span | None = None) -> Question:
        period = self.range.period if span is None else TimeRange(*span)
        return Question(reader=self.by, period=period, zone=self.zone, where=self.where)

    def before(self, now: datetime) -> Span:
        """The period before, up to where the present one is by now: half an hour is compared with half an hour."""
        begin = self.range.begin_before.astimezone(UTC)
        so_far = now - self.range.starts_at.astimezone(UTC)
        return begin, min(self.range.starts_at.astimezone(UTC), begin + max(so_far, timedelta()))

    def query(self) -> dict[str, str]:
        """All of the address."""
        return self.range.query() | {"group": self.group, "subgroup": self.within, **self.filters}

    def link(self, **changes: str | None) -> str:
        """The page with another part of its address; None leaves that part out."""
        asked = self.query() | changes
        return f"{self.root}spend/?{urlencode({name: text for name, text in asked.items() if text is not None})}"

    def slice_of(self, named: Mapping[str, Any], days: tuple[date, date] | None = None) -> str:
        """The page of one group, named by filters and a time, taken apart further. Empty where it has no name.

        `days`: the first and the last of its time, where that is no one day or hour.
        """
        filters, span = self._filters_for(named), self._time_for(named)
        if filters is None:
            return ""
        times = ranges.hours(*span) if span else self.range.query()
        is_same_zone = filters.get("tenant") == self.filters.get("tenant")
        if isinstance(named.get("day"), date) and is_same_zone:
            days = (named["day"], named["day"])
        if days is not None:
            times = ranges.days(*days) if is_same_zone else ranges.hours(*_time_of(*days, self.zone))
        return f"{self.root}spend/?{urlencode(times | filters)}"

    def calls(self, named: Mapping[str, Any]) -> str:
        """The list of calls behind a figure. Empty where its group has no name to look for."""
        filters = self._filters_for(named)
        if filters is None:
            return ""
        # The same hours, whatever zone that page is in.
        times = ranges.hours(*self._time_for(named) or (self.range.starts_at, self.range.ends_at))
        return f"{self.root}calls/?{urlencode(times | filters)}"

    def _filters_for(self, named: Mapping[str, Any]) -> dict[str, str] | None:
        """The filters that name a group; None where one of its parts is empty."""
        own = {part: value for part, value in named.items() if part not in TIMES}
        if self.by.tenant is not None:
            own.pop("tenant", None)
        return dict(self.filters) | own if all(own.values()) else None

    def _time_for(self, named: Mapping[str, Any]) -> Span | None:
        """Of a group that is a time; None for the whole range."""
        if "hour" in named:
            return named["hour"], named["hour"] + HOUR
        return _time_of(named["day"], named["day"], self.zone) if "day" in named else None


def _time_of(first: date, last: date, zone: ZoneInfo) -> Span:
    """From midnight to midnight of the zone."""
    begin, end = (datetime.combine(day, time(), tzinfo=zone) for day in (first, last + timedelta(days=1)))
    return begin, end


def read(request: HttpRequest, now: datetime) -> Address:
    """Never fails: what cannot be is left out with a sentence."""
    by = reader(request)
    filters, where, errors = _filters(request)
    tenant = by.tenant or (Tenant.objects.filter(slug=filters["tenant"]).first() if "tenant" in filters else None)
    if "tenant" in filters and (tenant is None or tenant.slug != filters["tenant"]):
        errors.append(f'There is no customer "{filters["tenant"]}".')
    elif by.tenant is not None:
        # It is all that they see.
        filters.pop("tenant", None)
    group, within = _groups(request, by, filters, errors)
    return Address(
        by=by,
        range=ranges.chosen(request.GET, now=now, zone=zone_of(tenant)),
        group=group,
        within=within,
        filters=filters,
        where=where,
        errors=errors,
        root=reverse("admin:index"),
    )


def _filters(request: HttpRequest) -> tuple[dict[str, str], dict[str, tuple[str, ...]], list[str]]:
    """(filters, their spellings, what is wrong). The form that adds one names it by `field` and `value`."""
    asked = {name: request.GET.get(name, "") for name in FILTERS}
    filters, where, errors = {}, {}, []
    added = request.GET.get("field", "")
    if added in FILTERS:
        asked[added] = request.GET.get("value", "")
    elif added:
        errors.append(f'field: is one of {", ".join(FILTERS)}, not "{added}".')
    for name, text in asked.items():
        if text.strip():
            try:
                where[name] = names.spellings(name, text.strip())
                filters[name] = text.strip()
            except FieldError as error:
                errors.append(f"{WORDS[name]} {error}")
    return filters, where, errors


def _groups(request: HttpRequest, by: Reader, filters: Mapping[str, str], errors: list[str]) -> tuple[str, str]:
    """(group, group within). Without a word of the address: whose it is, and of which models."""
    known = [name for name in WORDS if name != "tenant" or by.tenant is None]
    asked = {name: request.GET.get(name, "") for name in ("group", "subgroup")}
    for name, text in asked.items():
        if text and text not in known:
            errors.append(f'{name}: is one of {", ".join(known)}, not "{text}".')
            asked[name] = ""
    usual = next((name for name in FIRST if name in known and name not in filters), "day")
    group = asked["group"] or usual
    within = asked["subgroup"]
    if "subgroup" not in request.GET and "model" not in filters and group in ("tenant", "agent"):
        within = "model"
    return group, "" if within == group else within
