"""What is said of a day that two sides know of, one, or none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from governance.rules import judgement
from governance.rules.judgement import (
    OTHERS,
    CostReport,
    DayRuling,
    Judgement,
    OwnWord,
    Ruling,
    Silence,
    Tolerance,
    WrongPeriod,
)

NOW = datetime(2026, 3, 10, 13, 0, tzinfo=UTC)
DAY, TODAY = date(2026, 3, 9), date(2026, 3, 10)
CENT = 10_000_000
STRICT = Tolerance(percent=0, least_nanos=0)


def report(days: dict[date, int] | None = None, **fields: object) -> CostReport:
    return CostReport("openai", frozenset({"openai", "openai-eu"}), days or {}, **fields)  # type: ignore[arg-type]


def compared(
    charged: dict[tuple[str, date], int],
    *reports: CostReport,
    words: dict[tuple[str, date], int] | None = None,
    now: datetime = NOW,
    tolerance: Tolerance = STRICT,
) -> list[DayRuling]:
    return judgement.compare(
        charged=charged, words=words or {}, reports=reports, days=[DAY, TODAY], now=now, tolerance=tolerance
    )


@pytest.mark.parametrize(
    ("said", "ruling"),
    [
        (3, Ruling.DISAGREES),
        (4, Ruling.AGREES),
        (5, Ruling.AGREES_ON_WORD),
        (10, Ruling.AGREES_ON_WORD),
        (11, Ruling.DISAGREES),
    ],
)
def test_a_day_that_agrees_only_with_agents_words_is_said_to(said: int, ruling: Ruling) -> None:
    charged, words = {("openai", DAY): 7, ("openai-eu", DAY): 3}, {("openai", DAY): 4, ("openai-eu", DAY): 2}
    [found] = compared(charged, report({DAY: said}), words=words)
    assert (found.ruling, found.difference_nanos) == (ruling, 10 - said)


@pytest.mark.parametrize(
    ("ledger", "reported", "allowed"),
    [
        (0, 0, True),
        (CENT, 0, True),
        (CENT + 1, 0, False),
        (0, CENT + 1, False),
        (100 * CENT, 101 * CENT, True),
        (1000 * CENT, 1010 * CENT, True),
        # One per cent of what the provider reports, not of what the ledger says.
        (1011 * CENT, 1000 * CENT, False),
        (1010 * CENT, 1000 * CENT, True),
        (0, 10_000 * CENT, False),
    ],
)
def test_a_difference_is_allowed_up_to_a_share_and_at_least_an_amount(
    ledger: int, reported: int, allowed: bool
) -> None:
    tolerance = Tolerance(percent=1, least_nanos=CENT)
    assert tolerance.allows(ledger_nanos=ledger, reported_nanos=reported) is allowed


def test_all_names_of_an_account_are_one_sum_to_the_nanodollar() -> None:
    charged = {("openai", DAY): 5, ("openai-eu", DAY): 7}
    assert compared(charged, report({DAY: 12})) == [DayRuling("openai", DAY, 12, Ruling.AGREES, 12)]
    [differs] = compared(charged, report({DAY: 13}))
    assert (differs.ruling, differs.difference_nanos) == (Ruling.DISAGREES, -1)


def test_what_went_past_the_ledger_differs_too() -> None:
    assert compared({}, report({DAY: 13})) == [DayRuling("openai", DAY, 0, Ruling.DISAGREES, 13)]


def test_a_day_without_money_on_either_side_is_not_told() -> None:
    assert compared({}, report({DAY: 0})) == []
    assert compared({("openai", DAY): 0, ("elsewhere", DAY): 0}, report({DAY: 0})) == []


@pytest.mark.parametrize(("hours", "ruling"), [(11, Ruling.OPEN), (12, Ruling.DISAGREES)])
def test_a_day_is_judged_when_its_provider_has_had_time_to_count_it(hours: int, ruling: Ruling) -> None:
    [found] = compared({}, report({DAY: 13}), now=datetime(2026, 3, 10, tzinfo=UTC) + timedelta(hours=hours))
    assert (found.ruling, found.reported_nanos) == (ruling, 13)


def test_today_is_open() -> None:
    assert compared({("openai", TODAY): 5}, report({DAY: 0})) == [DayRuling("openai", TODAY, 5, Ruling.OPEN)]


def test_a_day_that_a_report_leaves_out_is_no_zero() -> None:
    [found] = compared({}, report({}))
    assert (found.ruling, found.silence, found.difference_nanos) == (Ruling.UNJUDGED, Silence.DAY_MISSING, None)
    judged = DayRuling("openai", TODAY, 5, Ruling.OPEN)
    assert judgement.silent([report({})], [judged, found]) == {"openai": "its report leaves out 2026-03-09"}


def test_where_nobody_reports_the_amount_is_said_and_the_gravest_comes_first() -> None:
    unread = CostReport("anthropic", frozenset({"anthropic"}), silence=Silence.UNREADABLE)
    charged = {("groq", DAY): 3, ("anthropic", DAY): 4, ("openai", DAY): 5, ("openai", TODAY): 6}
    found = compared(charged, report({DAY: 9}), unread)
    assert [(one.account, one.ruling, one.silence) for one in found] == [
        ("openai", Ruling.DISAGREES, None),
        ("anthropic", Ruling.UNJUDGED, Silence.UNREADABLE),
        ("groq", Ruling.UNJUDGED, Silence.NO_REPORT),
        ("openai", Ruling.OPEN, None),
    ]


def test_an_account_that_was_never_asked_is_not_silent() -> None:
    reports = [
        CostReport("a", frozenset(), silence=Silence.NO_ADMIN_KEY),
        CostReport("b", frozenset(), silence=Silence.REFUSED, detail="It answered with status 401."),
        CostReport("c", frozenset(), silence=Silence.OTHER_CURRENCY),
        report({DAY: 1}),
    ]
    assert judgement.silent(reports, []) == {
        "b": "it refused to report. It answered with status 401.",
        "c": "it reports another currency than dollars",
    }
    assert set(judgement.SENTENCES) == set(Silence)
    assert set(Silence) == judgement.FAILED | judgement.NEVER_ASKED


def test_a_failed_report_is_silent_although_nothing_was_charged() -> None:
    failed = report(silence=Silence.UNREACHABLE)
    assert compared({}, failed) == []
    assert set(judgement.silent([failed], [])) == {"openai"}


def test_a_sentence_says_which_way_a_day_differs() -> None:
    less = DayRuling("openai", DAY, 0, Ruling.DISAGREES, 2 * CENT)
    more = DayRuling("openai", DAY, 2 * CENT, Ruling.DISAGREES, 0)
    assert judgement.sentence(less).endswith("openai reports $0.02: $0.02 less than it bills.")
    assert judgement.sentence(more).endswith("openai reports $0.00: $0.02 more than it bills.")


def test_names_that_anybody_can_make_up_are_few() -> None:
    made_up = {(f"name-{n:04}", DAY): 1_000 - n for n in range(200)}
    found, named = judgement.gathered({**made_up, ("openai", DAY): 0, ("name-0000", TODAY): 1}, always={"openai"})
    assert len(named) == judgement.NAMED_PROVIDERS + 1
    assert {"openai", "name-0000", "name-0049"} <= named
    assert found["name-0000", TODAY] == 1
    assert found[OTHERS, DAY] == sum(1_000 - n for n in range(50, 200))


def test_a_period_is_the_last_full_day_and_today_or_whole_days() -> None:
    assert judgement.period(now=NOW) == [DAY, TODAY]
    assert judgement.period(now=NOW, since=TODAY) == [TODAY]
    assert judgement.period(now=NOW, until=TODAY) == [DAY]
    assert len(judgement.period(now=NOW, since=date(2026, 1, 1), until=date(2026, 2, 1))) == 31
    for wrong in ({"since": date(2026, 1, 1), "until": date(2026, 2, 2)}, {"until": DAY}, {"since": date(2027, 1, 1)}):
        with pytest.raises(WrongPeriod):
            judgement.period(now=NOW, **wrong)


def test_an_overage_is_no_further_money_and_all_is_printed_in_dollars() -> None:
    found = Judgement(
        since=DAY,
        until=TODAY,
        rulings=[DayRuling("openai", DAY, 3 * CENT, Ruling.DISAGREES, 2 * CENT), DayRuling("x", DAY, 1, Ruling.OPEN)],
        own_words=[OwnWord("openai", "estimated", "expired", 2, CENT), OwnWord("openai", "overage", "", 1, CENT)],
        asked=["openai"],
        silent={},
        ledger_nanos=4 * CENT,
    )
    told = judgement.to_api(found)
    assert (told["own_word"], told["ledger"], told["from"], told["to"]) == ("0.01", "0.04", "2026-03-09", "2026-03-10")
    assert told["providers"][0] == {
        "account": "openai",
        "day": "2026-03-09",
        "ledger": "0.03",
        "reported": "0.02",
        "difference": "0.01",
        "ruling": "disagrees",
        "reason": "",
    }
    assert told["providers"][1]["reported"] is None
    assert not found.is_empty
    assert [one.account for one in found.disagreeing] == ["openai"]
