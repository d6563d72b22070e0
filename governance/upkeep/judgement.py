"""A judge from outside: what the ledger charged, beside what providers say that they will bill for the same days.

`reconcile` compares the ledger with itself; here are its witnesses, and the amounts for which there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from django.conf import settings

from governance import alerts, ports
from governance.models import LedgerJudgement
from governance.queries import judgement as queries
from governance.rules import judgement as rules
from governance.rules import money
from governance.rules.judgement import Judgement, Ruling, Tolerance

# The kinds of alerts: a day that differs, and a provider that should have reported and did not.
DISAGREES = "provider_disagrees"
NO_REPORT = "provider_report_missing"


def run(*, now: datetime, since: date | None = None, until: date | None = None) -> Judgement:
    """Judge, tell operators, and keep a row of it where the period is the default one: the last full day and today.

    Days are UTC's, half open. Asks providers, so it must not run inside a transaction. Raises WrongPeriod.
    """
    now = now.astimezone(UTC)
    judgement = judge(days=rules.period(now=now, since=since, until=until), now=now)
    _tell(judgement, now)
    if since is None and until is None:
        LedgerJudgement.objects.create(
            judged_at=now,
            disagreeing=len(judgement.disagreeing),
            silent=len(judgement.silent),
            details=rules.to_api(judgement),
        )
    return judgement


def judge(*, days: Sequence[date], now: datetime) -> Judgement:
    """What is to be said of days (UTC) in a row. Writes nothing."""
    since, until = days[0], days[-1] + timedelta(days=1)
    reports = ports.provider_costs(since=since, until=until, now=now)
    billed = {name for report in reports for name in report.providers}
    charged, named = rules.gathered(queries.charged(since=since, until=until), always=billed)
    words, _ = rules.gathered(queries.told(since=since, until=until), always=billed)
    least = settings.PROVIDER_TOLERANCE_DOLLARS or Decimal(0)
    tolerance = Tolerance(settings.PROVIDER_TOLERANCE_PERCENT, int(least * money.NANOS_PER_DOLLAR))
    rulings = rules.compare(charged=charged, words=words, reports=reports, days=days, now=now, tolerance=tolerance)
    return Judgement(
        since=since,
        until=until,
        rulings=rulings,
        own_words=queries.own_words(since=since, until=until, named=named),
        silent=rules.silent(reports, rulings),
        asked=[report.account for report in reports if report.silence not in rules.NEVER_ASKED],
        ledger_nanos=sum(charged.values()),
    )


def _tell(judgement: Judgement, now: datetime) -> None:
    """Alerts: opened for what differs or is silent, over where a provider agrees or reports again."""
    for one in judgement.rulings:
        subject = f"{one.account} {one.day}"
        if one.ruling is Ruling.AGREES:
            alerts.clear(kind=DISAGREES, subject=subject, now=now)
        elif one.ruling is Ruling.DISAGREES:
            # Charged too little is money that nobody's cap has counted.
            severity = "critical" if (one.difference_nanos or 0) < 0 else "warning"
            alerts.report(kind=DISAGREES, subject=subject, message=rules.sentence(one), now=now, severity=severity)
    for account in judgement.asked:
        if why := judgement.silent.get(account):
            message = f"The ledger cannot be judged by {account}: {why}."
            alerts.report(kind=NO_REPORT, subject=account, message=message, now=now)
        else:
            alerts.clear(kind=NO_REPORT, subject=account, now=now)
