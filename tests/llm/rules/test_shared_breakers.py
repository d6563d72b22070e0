"""Whose failures they are: one tenant's calls close a model to nobody else."""

from __future__ import annotations

from dataclasses import replace

from llm.rules.breakers import FAILURES, OPEN_S, PROBE_S, PROBES, Breaker, Phase, Sender
from llm.rules.shared_breakers import SHARE, TENANTS, OwnBreaker, SharedBreaker

NOW = 1_800_000_000.0
LATER = NOW + OPEN_S
ACME, RIVAL, THIRD = 1, 2, 3
CALM = SharedBreaker()


def by(tenant: int) -> Sender:
    return Sender(9, tenant)


def failing(breaker: SharedBreaker, *tenants: int, now: float = NOW) -> SharedBreaker:
    for tenant in tenants:
        breaker = breaker.failed(by(tenant), now)
    return breaker


def admitted(breaker: SharedBreaker, tenant: int, now: float = LATER) -> SharedBreaker:
    after = breaker.admitted(by(tenant), now)
    assert after is not None
    return after


OUTAGE = failing(CALM, *[ACME] * SHARE, *[RIVAL] * (FAILURES - SHARE))


class TestOneTenant:
    def test_its_failures_close_the_model_to_itself_alone(self) -> None:
        failed = failing(CALM, *[ACME] * 100)
        assert failed.blocks(ACME, NOW)
        assert failed.admitted(by(ACME), NOW) is None
        assert not failed.blocks(RIVAL, NOW)
        assert failed.admitted(by(RIVAL), NOW) == failed

    def test_one_failure_less_closes_it_to_nobody(self) -> None:
        assert not failing(CALM, *[ACME] * (FAILURES - 1)).blocks(ACME, NOW)

    def test_a_success_of_its_own_starts_its_count_again_and_anothers_does_not(self) -> None:
        failed = failing(CALM, *[ACME] * (FAILURES - 1))
        assert failed.succeeded(by(ACME), NOW) == CALM
        others = failed.succeeded(by(RIVAL), NOW)
        assert others.everyone.failures == 0
        assert failing(others, ACME).blocks(ACME, NOW)

    def test_its_probes_bring_it_back_as_everybodys_do(self) -> None:
        breaker = failing(CALM, *[ACME] * FAILURES)
        for _ in range(PROBES):
            breaker = admitted(breaker, ACME)
        assert breaker.blocks(ACME, LATER)
        assert not breaker.blocks(RIVAL, LATER)
        for _ in range(PROBES):
            breaker = breaker.succeeded(by(ACME), LATER)
        assert (breaker.own, breaker.everyone.failures) == ((), 0)

    def test_its_failed_probe_closes_it_for_another_minute(self) -> None:
        breaker = admitted(failing(CALM, *[ACME] * FAILURES), ACME).failed(by(ACME), LATER)
        assert breaker.blocks(ACME, LATER + OPEN_S - 1)
        assert breaker.everyone.openings == 2

    def test_a_probe_without_a_verdict_makes_room(self) -> None:
        breaker = failing(CALM, *[ACME] * FAILURES)
        for _ in range(PROBES):
            breaker = admitted(breaker, ACME)
        assert not breaker.released(by(ACME), LATER).blocks(ACME, LATER)
        assert breaker.released(by(RIVAL), LATER) == breaker

    def test_no_more_tenants_than_few_have_one_of_their_own(self) -> None:
        breaker = failing(CALM, *[ACME] * FAILURES)
        for tenant in range(10, 10 + TENANTS):
            breaker = failing(breaker.succeeded(by(THIRD), NOW), tenant)
        assert len(breaker.own) == TENANTS
        # One that holds nobody up gives way to the newest.
        assert breaker.blocks(ACME, NOW)
        assert [own.tenant for own in breaker.own] == [ACME, *range(11, 10 + TENANTS)]

    def test_where_all_are_held_up_the_oldest_gives_way(self) -> None:
        breaker = CALM
        for tenant in range(10, 11 + TENANTS):
            breaker = failing(breaker, *[tenant] * FAILURES).succeeded(by(THIRD), NOW)
        assert [own.tenant for own in breaker.own] == list(range(11, 11 + TENANTS))


class TestSeveralTenants:
    def test_an_outage_that_two_meet_closes_it_to_all_as_soon_as_it_did(self) -> None:
        assert OUTAGE.blocks(THIRD, NOW)
        assert (OUTAGE.everyone.failures, OUTAGE.everyone.openings, OUTAGE.own) == (FAILURES, 1, ())
        assert failing(CALM, ACME, RIVAL, THIRD, 4, 5).blocks(6, NOW)
        assert not failing(CALM, ACME, RIVAL, THIRD, 4).blocks(6, NOW)

    def test_one_failure_of_another_may_be_chance(self) -> None:
        assert not failing(CALM, *[ACME] * FAILURES, RIVAL).blocks(RIVAL, NOW)
        assert failing(CALM, *[ACME] * FAILURES, RIVAL, RIVAL).blocks(THIRD, NOW)

    def test_what_went_well_in_between_starts_the_count_of_all_again(self) -> None:
        broken = failing(CALM, *[ACME] * SHARE).succeeded(by(RIVAL), NOW)
        assert not failing(broken, RIVAL, RIVAL).blocks(THIRD, NOW)
        # And what a tenant adds to it.
        assert failing(broken, ACME, ACME, RIVAL, RIVAL, RIVAL).blocks(THIRD, NOW)

    def test_calls_from_before_it_opened_say_nothing(self) -> None:
        assert failing(OUTAGE, ACME, THIRD) == OUTAGE
        assert OUTAGE.succeeded(by(ACME), NOW) == OUTAGE
        assert failing(OUTAGE, ACME, now=LATER) == OUTAGE
        assert OUTAGE.succeeded(by(ACME), LATER) == OUTAGE

    def test_three_good_probes_of_any_bring_it_back(self) -> None:
        breaker = OUTAGE
        for tenant in (ACME, RIVAL, THIRD):
            breaker = admitted(breaker, tenant)
        assert breaker.blocks(4, LATER)
        for tenant in (ACME, RIVAL, THIRD):
            breaker = breaker.succeeded(by(tenant), LATER)
        assert breaker.everyone.phase(LATER) is Phase.CLOSED
        assert breaker.own == ()

    def test_one_tenants_failed_probe_is_its_own_and_a_seconds_is_everybodys(self) -> None:
        breaker = admitted(OUTAGE, ACME).failed(by(ACME), LATER)
        assert breaker.blocks(ACME, LATER)
        assert not breaker.blocks(RIVAL, LATER)
        assert (breaker.everyone.failures, breaker.everyone.openings) == (FAILURES + 1, 2)
        again = admitted(breaker, RIVAL).failed(by(RIVAL), LATER)
        assert again.blocks(THIRD, LATER)
        assert again.own == ()

    def test_one_tenant_that_fails_again_and_again_keeps_nobody_out(self) -> None:
        breaker, now = OUTAGE, LATER
        for _ in range(5):
            breaker = admitted(breaker, ACME, now).failed(by(ACME), now)
            assert not breaker.blocks(RIVAL, now)
            now += OPEN_S
        for _ in range(PROBES):
            breaker = admitted(breaker, RIVAL, now).succeeded(by(RIVAL), now)
        assert breaker.everyone.phase(now) is Phase.CLOSED
        assert not breaker.blocks(THIRD, now)

    def test_probes_of_one_tenant_leave_room_for_anothers(self) -> None:
        breaker = OUTAGE
        for _ in range(PROBES - 1):
            breaker = admitted(breaker, ACME).succeeded(by(ACME), LATER)
        for _ in range(PROBES - 1):
            breaker = admitted(breaker, ACME)
        assert breaker.blocks(ACME, LATER)
        assert not breaker.blocks(RIVAL, LATER)
        assert not breaker.blocks(ACME, LATER + PROBE_S)


class TestCoolingDown:
    def test_what_one_is_told_holds_up_nobody_else(self) -> None:
        cooling = CALM.cooling_down(ACME, NOW + 5, NOW).cooling_down(ACME, NOW + 300, NOW)
        assert cooling.blocks(ACME, NOW + 299)
        assert not cooling.blocks(ACME, NOW + 300)
        assert not cooling.blocks(RIVAL, NOW)

    def test_what_two_are_told_holds_for_all_as_long_as_both_say(self) -> None:
        for first, second in ((300, 5), (5, 300)):
            cooling = CALM.cooling_down(ACME, NOW + first, NOW).cooling_down(RIVAL, NOW + second, NOW)
            assert cooling.blocks(THIRD, NOW + 4.9)
            assert not cooling.blocks(THIRD, NOW + 5)
            assert cooling.blocks(ACME, NOW + 4)

    def test_what_is_over_agrees_with_nobody(self) -> None:
        cooling = CALM.cooling_down(ACME, NOW + 5, NOW).cooling_down(RIVAL, NOW + 300, NOW + 6)
        assert not cooling.blocks(THIRD, NOW + 6)

    def test_one_that_is_over_is_forgotten_with_the_next_success(self) -> None:
        cooling = failing(CALM, ACME).cooling_down(ACME, NOW + 5, NOW).succeeded(by(ACME), NOW)
        assert cooling.blocks(ACME, NOW)
        assert not cooling.is_well(ACME)
        assert cooling.succeeded(by(ACME), NOW + 6).own == ()


class TestWhatIsShown:
    def test_the_only_tenants_trouble_is_the_models(self) -> None:
        failed = failing(CALM, *[ACME] * FAILURES).cooling_down(ACME, NOW + 9, NOW).measured(20, NOW)
        shown = failed.shown(NOW)
        assert (shown.phase(NOW), shown.openings, shown.latency_ms) == (Phase.OPEN, 1, 20)
        assert shown.is_cooling_down(NOW)

    def test_one_tenants_trouble_is_none_of_the_models_where_another_is_answered(self) -> None:
        failed = failing(CALM, *[ACME] * FAILURES).succeeded(by(RIVAL), NOW)
        assert failed.shown(NOW) == failed.everyone
        assert failed.shown(NOW).phase(NOW) is Phase.CLOSED

    def test_a_tenant_is_told_what_holds_it_up(self) -> None:
        failed = failing(CALM, *[ACME] * FAILURES)
        assert failed.seen_by(ACME, NOW).phase(NOW) is Phase.OPEN
        assert failed.seen_by(RIVAL, NOW) == failed.everyone

    def test_a_success_says_something_to_whom_failures_count_against(self) -> None:
        failed = failing(CALM, ACME)
        assert not failed.is_well(RIVAL)
        after = failed.succeeded(by(RIVAL), NOW)
        assert after.is_well(RIVAL)
        assert not after.is_well(ACME)
        assert not replace(CALM, everyone=Breaker(opened_at=NOW)).is_well(ACME)
        assert OwnBreaker(ACME).is_blank(NOW)
