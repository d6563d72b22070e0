"""The ledger before its judges: a ledger that agrees, one that misses a line, one that has only its own word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from django.db import connection

from governance import ledger, ports
from governance.actions import corrections
from governance.audit import Actor
from governance.ledger.operations import Settle
from governance.models import Alert, LedgerJudgement, SpendEntry, SpendRollup
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.judgement import AGENT_SETTLED, OTHERS, CostReport, OwnWord, Ruling, Silence, WrongPeriod
from governance.rules.reports import OWN_VERSION
from governance.upkeep import judgement
from tests import factories as make
from tests.factories import nanos

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 13, 0, tzinfo=UTC)
DAY, TODAY = date(2026, 3, 9), date(2026, 3, 10)
YESTERDAY_NOON = NOW - timedelta(days=1, hours=1)
BY = Actor("olga")


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Providers that report what a test says."""

    def these(*reports: CostReport) -> None:
        def costs(*, since: date, until: date, now: datetime) -> Sequence[CostReport]:
            return reports

        monkeypatch.setattr(ports, "wired", replace(ports.wired, provider_costs=costs))

    return these


def openai(dollars: str = "", **fields: Any) -> CostReport:
    return CostReport("openai", frozenset({"openai"}), {DAY: nanos(dollars)} if dollars else {}, **fields)


def charge(
    cost: str,
    *,
    at: datetime = YESTERDAY_NOON,
    provider: str = "openai",
    held: str = "1.00",
    reason: str = "",
    price_rule: str = "openai/gpt@1",
) -> SpendEntry:
    """A call that the gateway settled; estimated where there is a reason."""
    reserve = make.reserving(held)
    ledger.reserve(reserve, now=at)
    certainty = "estimated" if reason else "confirmed"
    usage = Usage(provider, "gpt", 100, 0, 20)
    operation = Settle(
        reserve.reservation_id, nanos(cost), usage, certainty=certainty, reason=reason, price_rule=price_rule
    )
    ledger.settle(operation, now=at)
    return SpendEntry.objects.get(reservation=reserve.reservation_id, kind="charge")


def report(cost: str, *, provider: str = "openai", at: datetime = YESTERDAY_NOON, caller: Caller | None = None) -> None:
    """An operator's report or, with a caller's key, an agent's."""
    usage = Usage(provider, "gpt", 100, 0, 20)
    told = make.reporting(cost, by=caller)
    ledger.record(replace(told, usage=usage, occurred_at=at, price_rule="reported"), now=at)


def held_by_agent() -> UUID:
    """A hold of $1 that an agent made for a call of its own; its id."""
    hold = make.reserving("1.00", id=UUID(int=OWN_VERSION << 76 | 2 << 62 | 1))
    assert ledger.reserve(replace(hold, provider="openai"), now=YESTERDAY_NOON).allowed
    return hold.reservation_id


def own_words(**fields: Any) -> list[OwnWord]:
    return list(judgement.run(now=NOW, **fields).own_words)


def test_a_ledger_that_agrees_to_the_nanodollar_is_said_to(reporting: Any, settings: Any) -> None:
    settings.PROVIDER_TOLERANCE_PERCENT, settings.PROVIDER_TOLERANCE_DOLLARS = 0, None
    charge("0.123456789")
    charge("0.000000001")
    reporting(openai("0.123456790"))
    found = judgement.run(now=NOW)
    assert [(one.ruling, one.difference_nanos) for one in found.rulings] == [(Ruling.AGREES, 0)]
    assert (found.own_words, found.own_word_nanos, found.ledger_nanos) == ([], 0, nanos("0.12345679"))
    assert not Alert.objects.exists()
    # One nanodollar is one too many where none is allowed.
    reporting(openai("0.123456791"))
    assert judgement.run(now=NOW).disagreeing[0].difference_nanos == -1


def test_a_line_that_is_missing_is_found_and_operators_are_told(reporting: Any) -> None:
    charge("0.50")
    reporting(openai("0.75"))
    [differs] = judgement.run(now=NOW).disagreeing
    assert (differs.ledger_nanos, differs.reported_nanos) == (nanos("0.50"), nanos("0.75"))
    alert = Alert.objects.get()
    assert (alert.kind, alert.subject, alert.severity) == ("provider_disagrees", "openai 2026-03-09", "critical")
    assert alert.message == (
        "The ledger charged $0.50 for 2026-03-09, and openai reports $0.75: $0.25 less than it bills."
    )
    kept = LedgerJudgement.objects.get()
    assert (kept.disagreeing, kept.silent, kept.details["providers"][0]["difference"]) == (1, 0, "-0.25")


def test_an_alert_is_over_when_its_day_agrees(reporting: Any) -> None:
    reporting(openai("0.75"))
    judgement.run(now=NOW)
    report("0.75")
    judgement.run(now=NOW)
    assert Alert.objects.get().cleared_at == NOW


def test_what_agents_report_neither_ends_an_alert_nor_opens_one(reporting: Any) -> None:
    """The ledger missed $6 of $10; or an agent called with another account, and says so."""
    _, key = make.key()
    agent = make.caller(key_id=key.pk)
    charge("0.40")
    reporting(openai("1"))
    assert len(judgement.run(now=NOW).disagreeing) == 1
    for cost in ("0.60", "0.20"):
        report(cost, caller=agent)
        [found] = judgement.run(now=NOW).rulings
        assert (found.ruling, Alert.objects.get().cleared_at) == (Ruling.AGREES_ON_WORD, None)
    reporting(openai("0.40"))
    [found] = judgement.run(now=NOW).rulings
    assert (found.ruling, found.difference_nanos) == (Ruling.AGREES, nanos("0.80"))
    assert Alert.objects.get().cleared_at == NOW
    reporting(openai("1.30"))
    assert len(judgement.run(now=NOW).disagreeing) == 1


@pytest.mark.parametrize("ends", ["it expires", "a settlement by tokens", "a report that is voided"])
def test_whatever_an_agent_says_by_itself_proves_nothing(reporting: Any, ends: str) -> None:
    """Not by what the ledger makes of it: an expiry has no rule and a settlement by tokens has a real one."""
    _, key = make.key()
    agent = make.caller(key_id=key.pk)
    charge("0.40")
    if ends == "a report that is voided":
        report("0.60", caller=agent)
        corrections.void(entry=SpendEntry.objects.get(price_rule="reported"), reason="never was", by=BY, now=NOW)
    else:
        hold = make.reserving("0.60", by=agent, id=UUID(int=OWN_VERSION << 76 | 2 << 62 | 1))
        assert ledger.reserve(replace(hold, provider="openai"), now=YESTERDAY_NOON).allowed
        if ends == "it expires":
            assert ledger.expire_due(now=YESTERDAY_NOON + timedelta(hours=1)) == 1
        else:
            usage = Usage("openai", "gpt", 100, 0, 20)
            settle = Settle(hold.reservation_id, nanos("0.60"), usage, price_rule="openai/gpt@1", reason="unbudgeted")
            ledger.settle(settle, now=YESTERDAY_NOON)
    is_voided = ends == "a report that is voided"
    reporting(openai("0.40" if is_voided else "1"))
    [found] = judgement.run(now=NOW).rulings
    assert found.ruling is (Ruling.AGREES if is_voided else Ruling.AGREES_ON_WORD)
    reporting(openai("0.60"))
    [found] = judgement.run(now=NOW).rulings
    assert found.ruling is (Ruling.DISAGREES if is_voided else Ruling.AGREES_ON_WORD)


def test_too_much_is_a_warning(reporting: Any) -> None:
    charge("0.50", reason="usage_missing")
    reporting(openai("0.10"))
    judgement.run(now=NOW)
    assert Alert.objects.get().severity == "warning"


def test_a_difference_within_the_tolerance_is_none(reporting: Any) -> None:
    charge("0.50")
    reporting(openai("0.51"))
    assert judgement.run(now=NOW).disagreeing == []
    reporting(openai("0.510000001"))
    assert len(judgement.run(now=NOW).disagreeing) == 1


def test_a_provider_that_should_report_and_does_not_is_told_until_it_does(reporting: Any) -> None:
    charge("0.50")
    reporting(openai(silence=Silence.REFUSED, detail="It answered with status 401."))
    found = judgement.run(now=NOW)
    assert [(one.ruling, one.ledger_nanos) for one in found.rulings] == [(Ruling.UNJUDGED, nanos("0.50"))]
    alert = Alert.objects.get()
    assert (alert.kind, alert.subject) == ("provider_report_missing", "openai")
    assert "it refused to report. It answered with status 401." in alert.message
    assert LedgerJudgement.objects.get().silent == 1
    reporting(openai("0.50"))
    judgement.run(now=NOW)
    assert not Alert.objects.filter(cleared_at=None).exists()


def test_a_report_that_fails_leaves_a_difference_open(reporting: Any) -> None:
    charge("0.50")
    reporting(openai("0.75"))
    judgement.run(now=NOW)
    reporting(openai(silence=Silence.UNREADABLE))
    judgement.run(now=NOW)
    assert Alert.objects.filter(kind="provider_disagrees", cleared_at=None).exists()


def test_what_no_key_was_set_for_is_no_alert(reporting: Any) -> None:
    charge("0.50")
    reporting(openai(silence=Silence.NO_ADMIN_KEY))
    found = judgement.run(now=NOW)
    assert (found.rulings[0].silence, found.silent) == (Silence.NO_ADMIN_KEY, {})
    assert not Alert.objects.exists()


def test_a_ledger_of_estimates_alone_rests_on_its_own_word(reporting: Any) -> None:
    reasons = ("usage_missing", "client_closed", "upstream_cut", "upstream_cut", "usage_implausible", "of tomorrow")
    for place, reason in enumerate(reasons):
        charge(f"0.0{place + 1}", reason=reason, price_rule="")
    reporting()
    found = judgement.run(now=NOW)
    assert found.own_words == [
        OwnWord("openai", "estimated", "upstream_cut", 2, nanos("0.07")),
        OwnWord("openai", "estimated", "of tomorrow", 1, nanos("0.06")),
        OwnWord("openai", "estimated", "usage_implausible", 1, nanos("0.05")),
        OwnWord("openai", "estimated", "client_closed", 1, nanos("0.02")),
        OwnWord("openai", "estimated", "usage_missing", 1, nanos("0.01")),
    ]
    assert found.own_word_nanos == found.ledger_nanos == nanos("0.21")


def test_calls_that_died_are_estimates(reporting: Any) -> None:
    reporting()
    ledger.reserve(make.reserving("0.10"), now=YESTERDAY_NOON)
    ledger.expire_due(now=NOW)
    assert [(one.kind, one.reason, one.nanos) for one in own_words()] == [("estimated", "expired", nanos("0.10"))]


def test_what_agents_report_is_their_word_by_whatever_way(reporting: Any) -> None:
    reporting()
    report("0.25")
    charge("0.10", price_rule="reported")
    charge("0.20", reason=AGENT_SETTLED)
    assert own_words() == [
        OwnWord("openai", "reported", "two_phase", 2, nanos("0.30")),
        OwnWord("openai", "reported", "spend_report", 1, nanos("0.25")),
    ]


@pytest.mark.parametrize("reason", [AGENT_SETTLED, "unbudgeted", "in_review"])
def test_what_an_agent_settles_is_its_word_whatever_else_is_said_of_the_line(reporting: Any, reason: str) -> None:
    reporting()
    hold = held_by_agent()
    usage = Usage("openai", "gpt", 100, 0, 20)
    ledger.settle(Settle(hold, nanos("0.20"), usage, reason=reason), now=YESTERDAY_NOON)
    assert own_words() == [OwnWord("openai", "reported", "two_phase", 1, nanos("0.20"))]


def test_a_late_settlement_by_an_agent_s_tokens_proves_nothing(reporting: Any) -> None:
    reporting()
    hold = held_by_agent()
    ledger.expire_due(now=NOW)
    ledger.settle(make.settling(hold, "0.20", price_rule="openai/gpt@1"), now=NOW)
    assert [(one.kind, one.reason) for one in own_words()] == [("estimated", "expired")]


def test_a_late_settlement_at_an_agent_s_own_cost_proves_nothing(reporting: Any) -> None:
    reporting()
    late = make.reserving("0.10")
    ledger.reserve(late, now=YESTERDAY_NOON)
    ledger.expire_due(now=NOW)
    ledger.settle(make.settling(late.reservation_id, "0.05", price_rule="reported"), now=NOW)
    assert [(one.kind, one.reason) for one in own_words()] == [("estimated", "expired")]


def test_an_overage_is_told_and_counted_once(reporting: Any) -> None:
    reporting()
    charge("0.30", held="0.10")
    charge("0.30", held="0.10", reason="usage_missing")
    found = judgement.run(now=NOW)
    assert {(one.kind, one.reason, one.lines, one.nanos) for one in found.own_words} == {
        ("estimated", "usage_missing", 1, nanos("0.30")),
        ("overage", "", 1, nanos("0.20")),
        ("overage", "usage_missing", 1, nanos("0.20")),
    }
    assert found.own_word_nanos == nanos("0.30")


def test_an_estimate_that_an_operator_judged_or_a_late_settlement_proved_is_none(reporting: Any) -> None:
    reporting()
    corrections.confirm(entry=charge("0.01", reason="client_closed"), reason="looked it up", by=BY, now=NOW)
    corrections.void(entry=charge("0.02", reason="client_closed"), reason="never was", by=BY, now=NOW)
    late = make.reserving("0.10")
    ledger.reserve(late, now=YESTERDAY_NOON)
    ledger.expire_due(now=NOW)
    charge("0.04", reason="client_closed")
    assert {one.reason for one in own_words()} == {"expired", "client_closed"}
    ledger.settle(make.settling(late.reservation_id, "0.05"), now=NOW)
    assert own_words() == [OwnWord("openai", "estimated", "client_closed", 1, nanos("0.04"))]


def test_lines_and_days_outside_the_period_are_not_looked_at(reporting: Any) -> None:
    reporting(openai(silence=Silence.NO_ADMIN_KEY))
    midnight = datetime(2026, 3, 9, tzinfo=UTC)
    for at in (midnight - timedelta(microseconds=1), midnight, NOW, midnight + timedelta(days=2)):
        charge("0.01", at=at, reason="usage_missing")
    found = judgement.run(now=NOW)
    assert [(one.day, one.ledger_nanos) for one in found.rulings] == [(DAY, nanos("0.01")), (TODAY, nanos("0.01"))]
    assert [one.lines for one in found.own_words] == [2]
    only = judgement.run(now=NOW, since=date(2026, 3, 8), until=DAY)
    assert [(one.day, one.ledger_nanos) for one in only.rulings] == [(date(2026, 3, 8), nanos("0.01"))]


def test_a_period_of_one_s_own_alerts_and_is_not_kept_as_the_latest(reporting: Any) -> None:
    reporting(CostReport("openai", frozenset({"openai"}), {date(2026, 3, 2): 10**9}))
    judgement.run(now=NOW, since=date(2026, 3, 2), until=date(2026, 3, 3))
    assert Alert.objects.get().subject == "openai 2026-03-02"
    assert not LedgerJudgement.objects.exists()


def test_a_period_that_is_too_long_is_refused_before_anybody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "wired", ports.UNWIRED)
    with pytest.raises(WrongPeriod, match="31 days"):
        judgement.run(now=NOW, since=date(2026, 1, 1), until=date(2026, 3, 1))


def test_names_of_providers_that_anybody_makes_up_stay_few(reporting: Any) -> None:
    reporting(openai("0.00"))
    for n in range(60):
        report(f"0.{n + 10}", provider=f"made-up-{n:02}")
    found = judgement.run(now=NOW)
    assert len(found.rulings) == 51
    assert [one.ledger_nanos for one in found.rulings if one.account == OTHERS] == [nanos("1.45")]
    assert [one.nanos for one in found.own_words if one.provider == OTHERS] == [nanos("1.45")]
    assert len(found.own_words) == 51


def test_sums_that_64_bits_do_not_hold_are_told_all_the_same(reporting: Any) -> None:
    """Whatever is in the tables: the judge must not be the one that dies of it."""
    reporting()
    report("0.01")
    with connection.cursor() as cursor:
        cursor.execute("SELECT tenant_id FROM governance_spendrollup")
        [tenant_id] = cursor.fetchone()
    rollups = [
        SpendRollup(
            tenant_id=tenant_id, agent=f"agent-{n}", provider="openai", hour=YESTERDAY_NOON, cost_nanos=money.MAX_SUM
        )
        for n in range(3)
    ]
    SpendRollup.objects.bulk_create(rollups)
    entries = [
        SpendEntry(
            tenant_id=tenant_id,
            provider="openai",
            request_id=str(uuids.uuid7()),
            cost_nanos=money.MAX_AMOUNT_NANOS,
            occurred_at=YESTERDAY_NOON,
            recorded_at=YESTERDAY_NOON,
        )
        for _ in range(3)
    ]
    SpendEntry.objects.bulk_create(entries)
    found = judgement.run(now=NOW)
    assert found.ledger_nanos == 3 * money.MAX_SUM + nanos("0.01") > 2**63
    assert found.own_word_nanos == 3 * money.MAX_AMOUNT_NANOS + nanos("0.01")
    assert LedgerJudgement.objects.get().details["ledger"] == "12000000000.01"


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by its statistics: few rows prove nothing")
def test_the_lines_of_a_period_are_found_by_an_index(reporting: Any) -> None:
    """However many there are: only those of the days asked for are read."""
    reporting()
    planned: list[str] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and ("governance_spendentry" in sql or "governance_spendrollup" in sql):
            with connection.cursor() as cursor:
                cursor.cursor.execute("EXPLAIN QUERY PLAN " + sql, params)
                planned.append("\n".join(str(row) for row in cursor.cursor.fetchall()))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        judgement.run(now=NOW)
    rollups, told, unproven, over = planned
    assert "rollup_by_hour" in rollups
    assert "entry_by_time" in told
    assert "entry_by_time" in unproven
    assert "entry_by_time" in over or "entry_overages" in over
    assert "SCAN governance_spend" not in "".join(planned)
