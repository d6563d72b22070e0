"""Refused calls, noted where they are refused and written by a thread of their own, some at a time.

Noting is an append to a list: it waits for no database and never fails. So many are kept of one agent for one reason in
a minute (REFUSALS_A_MINUTE), and of one tenant in a day (REFUSALS_A_DAY); a key that gives its agents ever new names is
bounded by its tenant. The rest, and what finds the list full, are counted, and the counts written on the rows. A
process that is killed loses what it noted in the last moments.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from django.conf import settings
from django.db import DataError, IntegrityError, connection, models, transaction
from django.db import Error as DatabaseTrouble
from django.db.models import F

from governance import database
from governance.models import ApiKey, RefusedCall
from governance.rules import refusals
from governance.rules.calls import Caller
from governance.rules.decision import Decision
from governance.rules.names import OF_A_CALL
from governance.rules.remedies import Remedy, remedy

logger = logging.getLogger(__name__)

# How many wait to be written at the most, and how long the first of them does.
MOST_WAITING = 10_000
PAUSE_S = 0.25
# Of all agents of a tenant together, in a minute: so many times what one agent may have for one reason.
AGENTS_WORTH = 20
# Of how many groups the rest is counted by itself until it is written.
MOST_COUNTED = 10_000
# What is kept of the tools of a call: a row is bounded by more than its number.
MOST_TOOLS, LONGEST_TOOL = 20, 64
# How long a count of a day's rows is believed, to which other processes add theirs; and of how many tenants it is kept.
COUNT_GOOD_FOR_S, MOST_TENANTS = 60.0, 10_000
MINUTE, MINUTES_AN_HOUR, DAY = timedelta(minutes=1), 60, timedelta(days=1)
PURGE_BATCH = 5_000
# With what a malformed call would be none, by the code of what is wrong with a field of it; else with another one.
WITH = {"missing_field": "with", "sent_twice": "with one"} | dict.fromkeys(
    ("unknown_field", "unsupported_field", "surplus_field"), "without"
)

# Tenant id, agent and reason, and the minute.
Group = tuple[int, str, str, int]


@dataclass(frozen=True, slots=True)
class NotedRefusal:
    """A call that was refused, as it is noted: what follows from it is worked out when it is written.

    `sentence` is what is kept where no `decision` of the budgets refused it, `param` the field at fault. `fields` are
    the caller's names for the fields of a call. `more_nanos`: of a hold that was to grow, by how much; what it holds
    is counted where it is charged. `free_at`: when it may go as it is, where no decision tells.
    """

    request_id: str
    caller: Caller
    model: str
    tools: Sequence[str]
    reason: str
    status: int
    at: datetime
    sentence: str = ""
    param: str = ""
    decision: Decision | None = None
    fields: Mapping[str, str] = field(default_factory=lambda: refusals.FIELDS)
    more_nanos: int | None = None
    free_at: datetime | None = None

    @property
    def group(self) -> Group:
        agent, reason = _fit(self.caller.agent, "agent"), _fit(self.reason, "reason")
        return self.caller.tenant_id, agent, reason, int(self.at.timestamp()) // 60

    def as_kept(self) -> NotedRefusal:
        """Without what no column takes of its texts: what waits to be written is bounded by more than its number."""
        caller = self.caller
        named: dict[str, Any] = {name: _fit(getattr(caller, name), name) for name in OF_A_CALL}
        return replace(
            self,
            request_id=_fit(self.request_id, "request_id"),
            caller=replace(caller, **named),
            model=_fit(self.model, "model"),
            tools=[_clean(tool[:LONGEST_TOOL]) for tool in self.tools[:MOST_TOOLS]],
            reason=_fit(self.reason, "reason"),
            sentence=_fit(self.sentence, "sentence"),
            param=_fit(self.param, "act"),
        )


def bearer(key: ApiKey) -> Caller | None:
    """Whose key it is, where what a call says of itself is not read; None for a key of the platform."""
    if key.tenant is None:
        return None
    agent = key.agent.slug if key.agent else ""
    return Caller(key.tenant.pk, key.tenant.slug, agent=agent, key_id=key.pk, key_prefix=key.scope_key)


class _Days:
    """How many rows each tenant has of a day. One reason has half of them at the most, so that it hides no other."""

    def __init__(self) -> None:
        # By tenant: the day, when it was counted, and the rows of each reason.
        self._counts: dict[int, tuple[date, float, Counter[str]]] = {}

    def take(self, group: Group) -> bool:
        """Count one more row, where there is room for it."""
        most, reason, rows = settings.REFUSALS_A_DAY, group[2], self._rows(group)
        if rows.total() >= most or rows[reason] >= -(-most // 2):
            return False
        rows[reason] += 1
        return True

    def forget(self) -> None:
        """What was counted and not written is no row."""
        self._counts.clear()

    def _rows(self, group: Group) -> Counter[str]:
        tenant_id, day, now_s = group[0], _begin_of(group).date(), time.monotonic()
        known = self._counts.get(tenant_id)
        if known is not None and known[0] == day and now_s - known[1] < COUNT_GOOD_FOR_S:
            return known[2]
        since = datetime(day.year, day.month, day.day, tzinfo=UTC)
        found = RefusedCall.objects.filter(tenant_id=tenant_id, refused_at__gte=since, refused_at__lt=since + DAY)
        rows = Counter(dict(found.order_by().values_list("reason").annotate(models.Count("pk"))))
        if len(self._counts) >= MOST_TENANTS:
            self._counts.clear()
        self._counts[tenant_id] = day, now_s, rows
        return rows


class RefusalLog:
    """What one process has noted and not yet written. `start` and `close` are the server's lifespan."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: list[NotedRefusal] = []
        self._rest: Counter[Group] = Counter()
        # In the present minute: of a group, and of a tenant.
        self._minute = 0
        self._kept: Counter[Group | int] = Counter()
        # Used by whoever writes alone.
        self._days = _Days()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._noted, self._rest = [], Counter()
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name="refusal-log", daemon=True)
        self._thread.start()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Write what is noted, and end."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def note(self, refused: NotedRefusal) -> None:
        """Keep a refusal to be written, or count it. It waits for nothing."""
        group = refused.group
        with self._lock:
            if group[3] != self._minute:
                self._minute = group[3]
                self._kept.clear()
            tenant_id = group[0]
            if self._kept[tenant_id] >= AGENTS_WORTH * settings.REFUSALS_A_MINUTE:
                self._count((tenant_id, "", *group[2:]))
            elif self._kept[group] >= settings.REFUSALS_A_MINUTE or len(self._noted) >= MOST_WAITING:
                self._count(group)
            else:
                self._kept[group] += 1
                self._kept[tenant_id] += 1
                self._noted.append(refused.as_kept())

    def _count(self, group: Group, number: int = 1) -> None:
        if group not in self._rest and len(self._rest) >= MOST_COUNTED:
            group = (group[0], "", *group[2:])
        self._rest[group] += number

    def flush(self) -> None:
        """Write what is noted now. Where the database is away it is kept for the next time."""
        with self._lock:
            noted, self._noted = self._noted, []
            rest, self._rest = self._rest, Counter()
        if not noted and not rest:
            return
        try:
            _write(noted, rest, self._days)
        except Exception as error:
            self._days.forget()
            if isinstance(error, DatabaseTrouble) and not isinstance(error, IntegrityError | DataError):
                logger.warning("%d refusals wait for the database: %s", len(noted), error)
                self._put_back(noted, rest)
                return
            # One of them cannot be written, as where its tenant is gone; it is the only one to be left out.
            for one in noted:
                _write_or_drop([one], Counter(), self._days)
            for group, number in rest.items():
                _write_or_drop([], Counter({group: number}), self._days)

    def _put_back(self, noted: Sequence[NotedRefusal], rest: Counter[Group]) -> None:
        with self._lock:
            room = MOST_WAITING - len(self._noted)
            self._noted[:0] = noted[:room]
            for one in noted[room:]:
                self._count(one.group)
            for group, number in rest.items():
                self._count(group, number)

    def _run(self) -> None:
        database.keep_own()
        try:
            while not self._closing.wait(PAUSE_S):
                self.flush()
                connection.close_if_unusable_or_obsolete()
            self.flush()
        finally:
            connection.close()


log = RefusalLog()


def purge(*, now: datetime) -> int:
    """Delete the refusals that are older than REFUSALS_DAYS, in batches; how many."""
    total = 0
    while True:
        due = RefusedCall.objects.filter(refused_at__lt=now - timedelta(days=settings.REFUSALS_DAYS))
        ids = list(due.order_by("refused_at").values_list("pk", flat=True)[:PURGE_BATCH])
        total += RefusedCall.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < PURGE_BATCH:
            return total


def _write_or_drop(noted: Sequence[NotedRefusal], rest: Counter[Group], days: _Days) -> None:
    try:
        _write(noted, rest, days)
    except Exception:
        logger.exception("a refusal could not be kept")


def _write(noted: Sequence[NotedRefusal], rest: Counter[Group], days: _Days) -> None:
    """Write rows and counts. Of a group that other processes note as well, no more are kept than of one alone."""
    rest = rest.copy()
    with transaction.atomic():
        room: dict[Group, int] = {}
        rows = []
        for one in noted:
            group = one.group
            if group not in room:
                room[group] = settings.REFUSALS_A_MINUTE - _of(group).exclude(request_id="").count()
            if room[group] > 0 and days.take(group):
                room[group] -= 1
                rows.append(_row(one))
            else:
                rest[group] += 1
        RefusedCall.objects.bulk_create(rows, batch_size=500)
        # In one order, or two processes could wait for each other's rows.
        for group, number in sorted(rest.items()):
            _add(group, number, days)


def _begin_of(group: Group) -> datetime:
    return datetime.fromtimestamp(group[3] * 60, UTC)


def _of(group: Group) -> Any:
    tenant_id, agent, reason, _ = group
    since = _begin_of(group)
    return RefusedCall.objects.filter(
        tenant_id=tenant_id,
        agent=agent,
        reason=reason,
        refused_at__gte=since,
        refused_at__lt=since + MINUTE,
    )


def _add(group: Group, number: int, days: _Days) -> None:
    """Count refusals on the last row of their minute, or on one of their own; where the day is full, of their hour."""
    last, span = _last_of(group), "minute"
    if last is None and not days.take(group):
        group, span = (group[0], "", group[2], group[3] - group[3] % MINUTES_AN_HOUR), "hour"
        last = _last_of(group)
    if last is not None:
        RefusedCall.objects.filter(pk=last).update(more=F("more") + number)
        return
    tenant_id, agent, reason, _ = group
    RefusedCall.objects.create(
        tenant_id=tenant_id,
        agent=agent,
        reason=reason,
        refused_at=_begin_of(group),
        status=429,
        sentence=f"More refusals in this {span} than are kept",
        more=number,
    )


def _last_of(group: Group) -> int | None:
    found: int | None = _of(group).order_by("-id").values_list("pk", flat=True).first()
    return found


def _instead(one: NotedRefusal) -> str:
    """How a call that is malformed would be none."""
    return f"{WITH.get(one.reason, 'with another')} {one.param}" if one.param else ""


def _row(one: NotedRefusal) -> RefusedCall:
    decision, caller = one.decision, one.caller
    wanted = decision.wanted if decision else None
    because = decision.because if decision else None
    limited = decision.limited_by if decision else None
    found = remedy(decision, now=one.at) if decision else Remedy(at=one.free_at, act=_instead(one))
    sentence = f"{refusals.sentence(decision, fields=one.fields)}." if decision else one.sentence
    texts = {
        "sentence": sentence,
        "scope": because.scope if because else limited.scope if limited else "",
        "window": because.kind if because else "",
        "act": found.act,
    }
    return RefusedCall(
        request_id=one.request_id,
        refused_at=one.at,
        tenant_id=caller.tenant_id,
        agent=caller.agent,
        user=caller.user,
        session=caller.session,
        task=caller.task,
        model=one.model,
        reason=one.reason,
        key_id=caller.key_id,
        tools=one.tools,
        status=one.status,
        wanted_nanos=(wanted.cost_nanos if one.more_nanos is None else one.more_nanos) if wanted else None,
        max_tokens=wanted.max_tokens if wanted else None,
        budgets=[
            asdict(blocker) | {"ends_at": blocker.ends_at.isoformat() if blocker.ends_at else None}
            for blocker in found.blockers
        ],
        fits_max_tokens=found.max_tokens,
        free_at=found.at,
        **{name: _fit(text, name) for name, text in texts.items()},
    )


def _fit(text: str, column: str) -> str:
    """What a column takes of a text that came from outside."""
    return _clean(text[: cast("models.CharField[str, str]", RefusedCall._meta.get_field(column)).max_length])


def _clean(text: str) -> str:
    return text.replace("\0", "").encode(errors="replace").decode()
