"""What was spent, taken apart: by customer, agent, model, provider, user, task, key, day and hour.

Sums come from the hourly rollups. These know neither users, tasks nor keys, so those are read from the entries, and of
so many calls at most. What was charged at an estimate, and refused, is read from its own rows, which are few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, connections, router
from django.db.models import Case, Count, F, Func, Q, QuerySet, TextField, Value, When
from django.db.models.functions import Coalesce

from governance.models import RefusedCall, SpendEntry, SpendRollup
from governance.queries.spend import Reader, TimeRange
from governance.queries.sums import PART, LongSum
from governance.rules.spend_sums import HOUR, NOTHING, SpendSums, whole_hour

# What makes two calls one of a group: names are their customer's own, so those of two customers are never added up.
GROUPS: dict[str, tuple[str, ...]] = {
    "tenant": ("tenant",),
    "agent": ("tenant", "agent"),
    "model": ("model",),
    "provider": ("provider",),
    "user": ("tenant", "user"),
    "task": ("tenant", "task"),
    "key": ("tenant", "key"),
    "day": ("day",),
    "hour": ("hour",),
}
TIMES = ("day", "hour")
# What only the entries know.
OF_ENTRIES = frozenset({"user", "task", "key"})
# Entries that are read one by one, and groups that are read for a table of all.
MOST_ENTRIES = 50_000
MOST_GROUPS = 20_000
MEASURES = tuple(each.name for each in fields(SpendSums))
DAY = timedelta(days=1)

# A group's name: for each part of it a text, a date or the beginning of an hour.
Key = tuple[Any, ...]


class HourOf(Func):
    """The hour of UTC that a moment is in. Django's Trunc is a call of Python for each row on SQLite."""

    output_field = TextField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="substr(%(expressions)s, 1, 13)", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "date_trunc('hour', %(expressions)s AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
        return self.as_sql(compiler, connection, template=template, **context)


class DayOf(Func):
    """The day on which the hour of UTC begins that a moment is in, where clocks are so many seconds ahead of UTC."""

    output_field = TextField()

    def __init__(self, expression: Any, *, ahead_s: int = 0) -> None:
        super().__init__(expression)
        self.ahead_s = ahead_s

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        shifted = f"date(substr(%(expressions)s, 1, 13) || ':00', '{self.ahead_s:+d} seconds')"
        template = shifted if self.ahead_s else "substr(%(expressions)s, 1, 10)"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        hour = "date_trunc('hour', %(expressions)s AT TIME ZONE 'UTC')"
        template = f"CAST({hour} + interval '{self.ahead_s} seconds' AS date)"
        return self.as_sql(compiler, connection, template=template, **context)

    def get_db_converters(self, connection: Any) -> list[Any]:
        return [lambda value, *_: _part("day", value)]


@dataclass(frozen=True, slots=True)
class _Source:
    """A table that is added up. `columns`: what parts of a group's name are in it, as far as it knows them."""

    model: Any
    moment: str
    columns: Mapping[str, Any]

    def expression(self, part: str, question: Question) -> Any:
        if part == "hour":
            return HourOf(self.moment)
        if part != "day":
            return Coalesce(self.columns[part], Value("")) if part == "key" else self.columns[part]
        *changes, last = question.clocks()
        cases = [When(Q(**{f"{self.moment}__lt": until}), then=DayOf(self.moment, ahead_s=s)) for until, s in changes]
        return (
            Case(*cases, default=DayOf(self.moment, ahead_s=last[1])) if cases else DayOf(self.moment, ahead_s=last[1])
        )


_OWN = {"tenant": F("tenant__slug"), "agent": F("agent")}
_NAMED = {"user": F("user"), "task": F("task"), "key": F("key__prefix")}
_ROLLUPS = _Source(SpendRollup, "hour", _OWN | {"model": F("model"), "provider": F("provider")})
_ENTRIES = _Source(SpendEntry, "occurred_at", _OWN | _NAMED | {"model": F("model_served"), "provider": F("provider")})
# A refused call has the model that it asked for, and reached no provider.
_REFUSED = _Source(RefusedCall, "refused_at", _OWN | _NAMED | {"model": F("model")})


class MoreThanRead(Exception):
    """More entries, or more groups, than are added up for a page; the message says what to do."""


class TooManyGroups(MoreThanRead):
    def __init__(self) -> None:
        super().__init__(f"These are more than {MOST_GROUPS:,} lines: choose less time, a filter, or wider groups.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whose spend, and of when: a period has both ends. `where`: names of a customer, agent, ... with their spellings.
    Days are `zone`'s.
    """

    reader: Reader
    period: TimeRange
    zone: ZoneInfo
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def hours(self) -> tuple[datetime, datetime]:
        """The hours of UTC that begin in the period: all figures are of these."""
        if self.period.starts_at is None or self.period.ends_at is None:
            raise ValueError("a period without an end")
        return whole_hour(self.period.starts_at), whole_hour(self.period.ends_at)

    def clocks(self) -> list[tuple[datetime, int]]:
        """How many seconds the zone's clocks are ahead of UTC, each with the hour until which they are."""
        at, end = self.hours
        found = [(at, _ahead_s(at, self.zone))]
        while at < end:
            step = DAY if _ahead_s(at + DAY, self.zone) == found[-1][1] else HOUR
            at += step
            if _ahead_s(at, self.zone) != found[-1][1]:
                found.append((at, _ahead_s(at, self.zone)))
            found[-1] = (at, found[-1][1])
        return found

    def rows(self, source: _Source) -> QuerySet[Any]:
        named = Q(*(Q(**{f"{source.columns[name].name}__in": texts}) for name, texts in self.where.items()))
        within = TimeRange(*self.hours).on(source.moment)
        return source.model.objects.filter(self.reader.scope, within, named).order_by()  # type: ignore[no-any-return]


def _ahead_s(at: datetime, zone: ZoneInfo) -> int:
    return int((at.astimezone(zone).utcoffset() or timedelta()).total_seconds())


@dataclass(frozen=True, slots=True)
class Lines:
    """The first of some groups in their order. `count` is how many there are, `total` the sums of them all."""

    found: Mapping[Key, SpendSums]
    count: int
    total: SpendSums = NOTHING


def knows_refusals(question: Question, parts: Iterable[str]) -> bool:
    """Whether refused calls can be told apart like that: a refused call reached no provider."""
    return "provider" not in {*parts, *question.where}


def needs_entries(question: Question, parts: Iterable[str]) -> bool:
    return not OF_ENTRIES.isdisjoint({*parts, *question.where})


def first(question: Question, parts: Sequence[str], *, most: int) -> Lines:
    """All figures of the first groups: the dearest, of times the latest. Raises MoreThanRead."""
    figures, params = _figures(question, parts)
    totals = ", ".join(_whole(name) for name in MEASURES)
    order = _order(parts, parts)
    rows = _rows(
        f"SELECT *, COUNT(*) OVER (), {totals} FROM ({figures}) AS lines ORDER BY {order} LIMIT {most}", params
    )
    found = dict(_line(row, parts) for row in rows)
    if not rows:
        return Lines(found, 0)
    count, *sums = rows[0][len(parts) + len(MEASURES) :]
    total = [int(high) * PART + int(low) for high, low in zip(sums[::2], sums[1::2], strict=True)]
    return Lines(found, count, SpendSums(*total))


def within(question: Question, parts: Sequence[str], size: int, *, of: Collection[Key], most: int) -> dict[Key, Lines]:
    """The first lines within each of these groups, whose names are the first `size` parts. Raises MoreThanRead."""
    if not of:
        return {}
    figures, params = _figures(_since(question, parts[:size], of), parts, of=parts[:size], only=of)
    group = ", ".join(f"by_{part}" for part in parts[:size])
    order = _order(parts[size:], parts)
    ranked = f"""
        SELECT *, COUNT(*) OVER (PARTITION BY {group}) AS lines,
               ROW_NUMBER() OVER (PARTITION BY {group} ORDER BY {order}) AS place
        FROM ({figures}) AS each_line"""
    found: defaultdict[Key, dict[Key, SpendSums]] = defaultdict(dict)
    counts = {}
    for row in _rows(f"SELECT * FROM ({ranked}) AS ranked WHERE place <= {most} ORDER BY place", params):
        key, sums = _line(row, parts)
        if key[:size] in of:
            found[key[:size]][key], counts[key[:size]] = sums, row[-2]
    return {key: Lines(lines, counts[key]) for key, lines in found.items()}


def every(question: Question, parts: Sequence[str]) -> dict[Key, SpendSums]:
    """All figures of all groups. Raises MoreThanRead."""
    figures, params = _figures(question, parts)
    rows = _rows(f"{figures} LIMIT {MOST_GROUPS + 1}", params)
    if len(rows) > MOST_GROUPS:
        raise TooManyGroups
    return dict(_line(row, parts) for row in rows)


def costs(
    question: Question, parts: Sequence[str], *, of: Sequence[str] = (), only: Collection[Key] | None = None
) -> dict[Key, SpendSums]:
    """Cost and calls of each group; `only` of those that have these `of` parts. Raises MoreThanRead."""
    source, calls = _charged(question, (*parts, *of))
    rows = question.rows(source)
    return _folded(question, source, rows, parts, {"cost_nanos": LongSum("cost_nanos"), "calls": calls}, of, only)


def costs_until(question: Question, parts: Sequence[str], *, only: Collection[Key] | None = None) -> dict[Key, int]:
    """The cost of each group, or of `only` these, up to the end of the period, in nanodollars. Raises MoreThanRead.

    Of an hour that is not over by then the entries are read: what retention has deleted of it is not in it.
    """
    found, measures = defaultdict[Key, int](int), {"cost_nanos": LongSum("cost_nanos")}
    for source, rows in _until(question, parts):
        for key, sums in _folded(question, source, rows, parts, measures, parts, only).items():
            found[key] += sums.cost_nanos
    return dict(found)


def total_until(question: Question, parts: Sequence[str]) -> int | None:
    """What all such groups cost up to the end of the period; None where nothing was charged. Raises MoreThanRead."""
    totals = [rows.aggregate(nanos=LongSum("cost_nanos"))["nanos"] for _, rows in _until(question, parts)]
    known = [nanos for nanos in totals if nanos is not None]
    return sum(known) if known else None


def _until(question: Question, parts: Sequence[str]) -> list[tuple[_Source, QuerySet[Any]]]:
    """The charges of a period: of its full hours, and the entries of one that is not over by its end."""
    source, _ = _charged(question, parts)
    rows, ends_at = question.rows(source), question.period.ends_at
    begin, end = question.hours
    if ends_at == end:
        return [(source, rows)]
    last = TimeRange(max(begin, end - HOUR), ends_at).on(_ENTRIES.moment)
    full = rows.filter(**{f"{source.moment}__lt": end - HOUR})
    return [(source, full), (_ENTRIES, question.rows(_ENTRIES).filter(last))]


def _figures(
    question: Question, parts: Sequence[str], *, of: Sequence[str] = (), only: Collection[Key] | None = None
) -> tuple[str, list[Any]]:
    """SQL for each group: its parts as `by_...`, and MEASURES. What each table knows of it is put together there."""
    source, calls = _charged(question, parts)
    names = ("cost_nanos", "input_tokens", "cached_tokens", "output_tokens")
    estimated = question.rows(_ENTRIES).filter(kind=SpendEntry.Kind.CHARGE, certainty=SpendEntry.Certainty.ESTIMATED)
    read = [
        (source, question.rows(source), {name: LongSum(name) for name in names} | {"calls": calls}),
        (_ENTRIES, estimated, {"estimated_nanos": LongSum("cost_nanos")}),
    ]
    if knows_refusals(question, parts):
        noted = Count("pk", filter=~Q(request_id="")) + LongSum("more")
        read.append((_REFUSED, question.rows(_REFUSED), {"refused": noted}))
    columns = ", ".join(f"by_{part}" for part in parts)
    tables, params = [], list[Any]()
    for table, rows, measures in read:
        measured = {f"sum_{name}": measures.get(name, Value(0)) for name in MEASURES}
        sql, given = _grouped(question, table, rows, parts, measured, of, only).query.sql_with_params()
        tables.append(sql)
        params += given
    sums = ", ".join(f"SUM(sum_{name}) AS {name}" for name in MEASURES)
    return f"SELECT {columns}, {sums} FROM ({' UNION ALL '.join(tables)}) AS tables GROUP BY {columns}", params


def _charged(question: Question, parts: Sequence[str]) -> tuple[_Source, Any]:
    """(where charges are read from, how calls are counted in it). Raises MoreThanRead."""
    if not needs_entries(question, parts):
        return _ROLLUPS, LongSum("calls")
    _refuse_too_many_entries(question)
    return _ENTRIES, Count("pk", filter=Q(kind=SpendEntry.Kind.CHARGE))


def _grouped(
    question: Question,
    source: _Source,
    rows: QuerySet[Any],
    parts: Sequence[str],
    measures: Mapping[str, Any],
    of: Sequence[str],
    only: Collection[Key] | None,
) -> QuerySet[Any, Any]:
    # The aliases keep clear of the columns they may be named after.
    by = {f"by_{part}": source.expression(part, question) for part in parts}
    if only is not None:
        # By each part alone, which is quick to look for; who asked leaves out the other groups that this finds.
        named = {part: {key[place] for key in only} for place, part in enumerate(of) if part not in TIMES}
        rows = rows.alias(**{f"of_{part}": source.expression(part, question) for part in named})
        rows = rows.filter(**{f"of_{part}__in": sorted(values) for part, values in named.items()})
    grouped: QuerySet[Any, Any] = rows.annotate(**by).values(*by).annotate(**measures)
    return grouped


def _folded(
    question: Question,
    source: _Source,
    rows: QuerySet[Any],
    parts: Sequence[str],
    measures: Mapping[str, Any],
    of: Sequence[str],
    only: Collection[Key] | None,
) -> dict[Key, SpendSums]:
    if only is not None and not only:
        return {}
    all_parts = tuple(dict.fromkeys((*parts, *of)))
    totals = {f"sum_{name}": measure for name, measure in measures.items()}
    places = [all_parts.index(part) for part in of]
    found: defaultdict[Key, SpendSums] = defaultdict(lambda: NOTHING)
    grouped = list(_grouped(question, source, rows, all_parts, totals, of, only)[: MOST_GROUPS + 1])
    if len(grouped) > MOST_GROUPS:
        raise TooManyGroups
    for row in grouped:
        key = tuple(_part(part, row[f"by_{part}"]) for part in all_parts)
        if only is None or tuple(key[place] for place in places) in only:
            found[key[: len(parts)]] += SpendSums(**{name: row[f"sum_{name}"] or 0 for name in measures})
    return dict(found)


def _since(question: Question, parts: Sequence[str], keys: Collection[Key]) -> Question:
    """The same of the times alone that these groups have, as far as they are together."""
    if parts[0] not in TIMES:
        return question
    earliest = min(key[0] for key in keys)
    if not isinstance(earliest, datetime):
        earliest = datetime(earliest.year, earliest.month, earliest.day, tzinfo=question.zone)
    begin = max(question.hours[0], whole_hour(earliest))
    return replace(question, period=TimeRange(begin, question.period.ends_at))


def _order(group: Sequence[str], parts: Sequence[str]) -> str:
    """Times from the latest on, other groups from the dearest."""
    names = [f"by_{part}" for part in parts]
    if group and group[0] in TIMES:
        return ", ".join([f"by_{group[0]} DESC", *names])
    return ", ".join(["cost_nanos DESC", "refused DESC", *names])


def _whole(name: str) -> str:
    """The sum over all groups, in two parts: of one SQLite would run over."""
    if connection.vendor == "sqlite":
        return f"SUM({name} / {PART}) OVER (), SUM({name} %% {PART}) OVER ()"
    return f"div(SUM({name}) OVER (), {PART}), mod(SUM({name}) OVER (), {PART})"


def _rows(sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    # Not by the ORM, so it asks for itself which database this request reads.
    with connections[router.db_for_read(SpendRollup)].cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())


def _line(row: Sequence[Any], parts: Sequence[str]) -> tuple[Key, SpendSums]:
    key = tuple(_part(part, value) for part, value in zip(parts, row, strict=False))
    return key, SpendSums(*map(int, row[len(parts) : len(parts) + len(MEASURES)]))


def _part(part: str, value: Any) -> Any:
    """As it is in a group's name: a date, an hour, or a text."""
    if part == "day":
        return date.fromisoformat(value) if isinstance(value, str) else value
    if part == "hour":
        return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)
    return value


def _refuse_too_many_entries(question: Question) -> None:
    # Of one customer, or of all: by that and by time entries are looked up, by nothing else.
    whose = Q() if question.reader.tenant is None else Q(tenant=question.reader.tenant)
    if "tenant" in question.where:
        whose &= Q(tenant__slug__in=question.where["tenant"])
    rows = SpendEntry.objects.filter(whose, TimeRange(*question.hours).on("occurred_at")).order_by()
    if rows[: MOST_ENTRIES + 1].count() > MOST_ENTRIES:
        or_whom = "" if whose else ", or a customer"
        raise MoreThanRead(
            f"Users, tasks and keys are read from the calls themselves, at most {MOST_ENTRIES:,} of them, and in this "
            f"time there were more: choose less time{or_whom}."
        )
