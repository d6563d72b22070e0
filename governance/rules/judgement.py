"""What the ledger charged, beside what providers say that they will bill; and what only the ledger itself says. Pure.

A provider's report is the one witness of money that the gateway does not control. Where there is none, nobody can
judge, and that is said with amounts rather than passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from governance.rules import money

# A provider's sums of a day go on changing after its end; so long after it they are taken for its last word.
SETTLES_AFTER = timedelta(hours=12)
# The longest period: providers report no more days at a time, and nobody waits for the lines of more.
MOST_DAYS = 31
# The reason of a line that an agent settled itself, in two phases: its usage is the agent's word, if not its cost.
AGENT_SETTLED = "agent_settled"
# Names of providers are free text in reports of spend; those beyond the dearest are one line.
NAMED_PROVIDERS = 50
OTHERS = "(others)"


class Ruling(StrEnum):
    """What is to be said of a day, the gravest first. `open`: the provider's sums of it may still change.

    `agrees_on_word`: with what agents report of calls of their own, and not without. That may be so, or hide a call
    that the ledger missed: it neither opens an alert nor ends one.
    """

    DISAGREES = "disagrees"
    AGREES_ON_WORD = "agrees_on_word"
    UNJUDGED = "unjudged"
    OPEN = "open"
    AGREES = "agrees"


class Silence(StrEnum):
    """Why a provider's report says nothing of a day."""

    NO_REPORT = "no_report"
    NO_DAILY_REPORT = "no_daily_report"
    NO_ADMIN_KEY = "no_admin_key"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    OTHER_CURRENCY = "other_currency"
    DAY_MISSING = "day_missing"


# Somebody set a key so that there would be a report, and there is none.
FAILED = frozenset(
    {Silence.UNREACHABLE, Silence.REFUSED, Silence.UNREADABLE, Silence.OTHER_CURRENCY, Silence.DAY_MISSING}
)
NEVER_ASKED = frozenset({Silence.NO_REPORT, Silence.NO_DAILY_REPORT, Silence.NO_ADMIN_KEY})
SENTENCES: Mapping[Silence, str] = {
    Silence.NO_REPORT: "it publishes no costs that are read here",
    Silence.NO_DAILY_REPORT: "it reports by month, in the account's own currency",
    Silence.NO_ADMIN_KEY: "no admin key is set",
    Silence.UNREACHABLE: "its report could not be reached",
    Silence.REFUSED: "it refused to report",
    Silence.UNREADABLE: "its report could not be read",
    Silence.OTHER_CURRENCY: "it reports another currency than dollars",
    Silence.DAY_MISSING: "its report leaves this day out",
}


class WrongPeriod(ValueError):
    """The days asked for cannot be judged; the message says why."""


@dataclass(frozen=True, slots=True)
class CostReport:
    """What an account at a provider says that its days (UTC) cost, in nanodollars; or why it says nothing.

    `providers`: the ledger's names for what the account is billed for. `detail` is a sentence without its words.
    """

    account: str
    providers: frozenset[str]
    days: Mapping[date, int] = field(default_factory=dict)
    silence: Silence | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a day may differ: a share of what the provider reports, and at least so many nanodollars."""

    percent: int
    least_nanos: int

    def allows(self, *, ledger_nanos: int, reported_nanos: int) -> bool:
        return abs(ledger_nanos - reported_nanos) <= max(self.least_nanos, reported_nanos * self.percent // 100)


@dataclass(frozen=True, slots=True)
class DayRuling:
    """A day (UTC) of an account. `reported_nanos` is None where it says nothing; `silence` says why."""

    account: str
    day: date
    ledger_nanos: int
    ruling: Ruling
    reported_nanos: int | None = None
    silence: Silence | None = None

    @property
    def difference_nanos(self) -> int | None:
        """Above zero where the ledger charged more than the provider reports, below where it missed some."""
        return None if self.reported_nanos is None else self.ledger_nanos - self.reported_nanos


@dataclass(frozen=True, slots=True)
class OwnWord:
    """Lines of the ledger that no answer of a model proves: how many, and their nanodollars. `OTHERS` may be meant.

    `kind`: `estimated` (charged at a count or a hold of ours; `reason` is the line's), `reported` (an agent's word),
    `overage` (what calls cost beyond what had been held for them).
    """

    provider: str
    kind: str
    reason: str
    lines: int
    nanos: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of the days in [since, until), UTC.

    `asked`: accounts that were asked for a report; `silent`: those of them that did not report all days, and why.
    """

    since: date
    until: date
    rulings: Sequence[DayRuling]
    own_words: Sequence[OwnWord]
    asked: Sequence[str]
    silent: Mapping[str, str]
    ledger_nanos: int

    @property
    def disagreeing(self) -> list[DayRuling]:
        return [one for one in self.rulings if one.ruling is Ruling.DISAGREES]

    @property
    def own_word_nanos(self) -> int:
        """What rests on the ledger's own word: an overage is part of lines that are counted for what they are."""
        return sum(one.nanos for one in self.own_words if one.kind != "overage")

    @property
    def is_empty(self) -> bool:
        return not (self.rulings or self.own_words or self.silent)


def period(*, now: datetime, since: date | None = None, until: date | None = None) -> list[date]:
    """The days in [since, until), by default the last full one and today. `now` is in UTC. Raises WrongPeriod."""
    today = now.date()
    if since is None:
        since = today - timedelta(days=1)
    if until is None:
        until = today + timedelta(days=1)
    count = (until - since).days
    if count <= 0:
        raise WrongPeriod("the period must end after it begins")
    if count > MOST_DAYS:
        raise WrongPeriod(f"the period must not be longer than {MOST_DAYS} days")
    return [since + timedelta(days=offset) for offset in range(count)]


def compare(
    *,
    charged: Mapping[tuple[str, date], int],
    words: Mapping[tuple[str, date], int],
    reports: Sequence[CostReport],
    days: Sequence[date],
    now: datetime,
    tolerance: Tolerance,
) -> list[DayRuling]:
    """A ruling for each account and day on which either side knows of money, those that disagree first.

    `charged`: the ledger's nanodollars by its name of the provider and day; `words`: what of them agents say of calls
    of their own, which may have been made with another account. `now` is in UTC.
    """
    final_before = (now - SETTLES_AFTER).date()
    known = {name for report in reports for name in report.providers}
    found = [
        ruling
        for report in reports
        for day in days
        if (ruling := _ruling(report, day, charged, words, is_final=day < final_before, tolerance=tolerance))
    ]
    found += [
        DayRuling(name, day, nanos, Ruling.UNJUDGED, silence=Silence.NO_REPORT)
        for (name, day), nanos in charged.items()
        if nanos and name not in known
    ]
    gravest_first = list(Ruling)
    return sorted(found, key=lambda one: (gravest_first.index(one.ruling), one.account, one.day))


def silent(reports: Iterable[CostReport], rulings: Iterable[DayRuling]) -> dict[str, str]:
    """The accounts that should have reported and did not, each with a sentence that says why."""
    found = {
        report.account: f"{SENTENCES[report.silence]}. {report.detail}".removesuffix(". ")
        for report in reports
        if report.silence in FAILED
    }
    for one in rulings:
        if one.silence is Silence.DAY_MISSING:
            found.setdefault(one.account, f"its report leaves out {one.day}")
    return found


def sentence(one: DayRuling) -> str:
    """What an operator reads of a day that differs."""
    ledger, reported = money.format_dollars(one.ledger_nanos), money.format_dollars(one.reported_nanos or 0)
    off_nanos = one.difference_nanos or 0
    off = f"${money.format_dollars(abs(off_nanos))} {'more' if off_nanos > 0 else 'less'}"
    return f"The ledger charged ${ledger} for {one.day}, and {one.account} reports ${reported}: {off} than it bills."


def gathered(
    charged: Mapping[tuple[str, date], int], *, always: Collection[str]
) -> tuple[dict[tuple[str, date], int], frozenset[str]]:
    """The same sums with few names, and these: `always`, and of the rest the dearest; all others are `OTHERS`."""
    sums: dict[str, int] = {}
    for (name, _), nanos in charged.items():
        sums[name] = sums.get(name, 0) + nanos
    rest = sorted(sums.keys() - set(always), key=lambda name: (-sums[name], name))
    named = frozenset(always) | frozenset(rest[:NAMED_PROVIDERS])
    found: dict[tuple[str, date], int] = {}
    for (name, day), nanos in charged.items():
        label = name if name in named else OTHERS
        found[label, day] = found.get((label, day), 0) + nanos
    return found, named


def to_api(judgement: Judgement) -> dict[str, Any]:
    """As the command and the API print it, and as it is kept: dollars are decimal strings."""
    return {
        "from": judgement.since.isoformat(),
        "to": judgement.until.isoformat(),
        "ledger": money.format_dollars(judgement.ledger_nanos),
        "own_word": money.format_dollars(judgement.own_word_nanos),
        "providers": [
            {
                "account": one.account,
                "day": one.day.isoformat(),
                "ledger": money.format_dollars(one.ledger_nanos),
                "reported": _dollars(one.reported_nanos),
                "difference": _dollars(one.difference_nanos),
                "ruling": one.ruling.value,
                "reason": one.silence.value if one.silence else "",
            }
            for one in judgement.rulings
        ],
        "unproven": [
            {
                "provider": one.provider,
                "kind": one.kind,
                "reason": one.reason,
                "lines": one.lines,
                "amount": money.format_dollars(one.nanos),
            }
            for one in judgement.own_words
        ],
        "silent": dict(judgement.silent),
    }


def _ruling(
    report: CostReport,
    day: date,
    charged: Mapping[tuple[str, date], int],
    words: Mapping[tuple[str, date], int],
    *,
    is_final: bool,
    tolerance: Tolerance,
) -> DayRuling | None:
    """None where neither side knows of money on this day."""
    reported_nanos, ledger_nanos = report.days.get(day), _sum(charged, report.providers, day)
    if report.silence is not None:
        silence: Silence | None = report.silence
        ruling, told = Ruling.UNJUDGED, bool(ledger_nanos)
    elif not is_final:
        silence, ruling, told = None, Ruling.OPEN, bool(ledger_nanos or reported_nanos)
    elif reported_nanos is None:
        silence, ruling, told = Silence.DAY_MISSING, Ruling.UNJUDGED, True
    else:
        proven_nanos = ledger_nanos - _sum(words, report.providers, day)
        silence, ruling = None, _comparison(proven_nanos, ledger_nanos, reported_nanos, tolerance)
        told = bool(ledger_nanos or reported_nanos)
    return DayRuling(report.account, day, ledger_nanos, ruling, reported_nanos, silence) if told else None


def _comparison(proven_nanos: int, ledger_nanos: int, reported_nanos: int, tolerance: Tolerance) -> Ruling:
    if tolerance.allows(ledger_nanos=proven_nanos, reported_nanos=reported_nanos):
        return Ruling.AGREES
    is_between = proven_nanos <= reported_nanos <= ledger_nanos
    if is_between or tolerance.allows(ledger_nanos=ledger_nanos, reported_nanos=reported_nanos):
        return Ruling.AGREES_ON_WORD
    return Ruling.DISAGREES


def _sum(charged: Mapping[tuple[str, date], int], providers: Iterable[str], day: date) -> int:
    return sum(charged.get((name, day), 0) for name in providers)


def _dollars(nanos: int | None) -> str | None:
    return None if nanos is None else money.format_dollars(nanos)
