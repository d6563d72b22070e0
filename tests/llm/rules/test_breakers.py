from __future__ import annotations

from llm.rules.breakers import (
    FAILURES,
    LATENCY_KNOWN_S,
    LONGEST_COOL_DOWN_S,
    OPEN_S,
    PROBE_S,
    PROBES,
    Breaker,
    Phase,
    Sender,
)

NOW = 1_800_000_000.0
ME, OTHER = Sender(1, 1), Sender(2, 1)


def opened(at: float = NOW) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker = breaker.failed(ME, at)
    return breaker


def probing(*owners: Sender) -> tuple[Breaker, float]:
    """A half-open breaker with a probe of each owner, and its moment."""
    now = NOW + OPEN_S
    breaker = opened()
    for owner in owners:
        admitted = breaker.admitted(owner, now)
        assert admitted is not None
        breaker = admitted
    return breaker, now


class TestClosed:
    def test_it_opens_at_the_fifth_failure_in_a_row_and_not_before(self) -> None:
        breaker = Breaker()
        for _ in range(FAILURES - 1):
            breaker = breaker.failed(ME, NOW)
        assert breaker.phase(NOW) is Phase.CLOSED
        assert breaker.admitted(ME, NOW) is not None
        assert breaker.failed(OTHER, NOW).phase(NOW) is Phase.OPEN

    def test_a_success_in_between_starts_the_count_again(self) -> None:
        breaker = Breaker()
        for _ in range(FAILURES - 1):
            breaker = breaker.failed(ME, NOW)
        breaker = breaker.succeeded(ME, NOW)
        for _ in range(FAILURES - 1):
            breaker = breaker.failed(ME, NOW)
        assert breaker.phase(NOW) is Phase.CLOSED


class TestOpen:
    def test_nothing_goes_for_a_minute(self) -> None:
        assert opened().blocks(NOW)
        assert opened().admitted(ME, NOW + OPEN_S - 0.001) is None
        assert opened().admitted(ME, NOW + OPEN_S) is not None

    def test_calls_that_were_under_way_neither_prolong_nor_end_it(self) -> None:
        late = opened().failed(ME, NOW + 30).succeeded(ME, NOW + 31)
        assert late.phase(NOW + OPEN_S - 1) is Phase.OPEN
        assert late.phase(NOW + OPEN_S) is Phase.HALF_OPEN

    def test_a_clock_set_back_does_not_keep_it_open(self) -> None:
        assert not opened(NOW + 3600).blocks(NOW)
        assert opened(NOW + OPEN_S / 2).blocks(NOW)


class TestHalfOpen:
    def test_three_probes_may_run_at_once(self) -> None:
        breaker, now = probing(ME, OTHER, ME)
        assert breaker.blocks(now)
        assert breaker.admitted(ME, now) is None

    def test_it_closes_when_all_three_have_succeeded(self) -> None:
        breaker, now = probing(ME, OTHER, ME)
        breaker = breaker.succeeded(ME, now).succeeded(ME, now)
        assert breaker.phase(now) is Phase.HALF_OPEN
        assert breaker.admitted(ME, now) is None
        closed = breaker.succeeded(OTHER, now)
        assert closed.phase(now) is Phase.CLOSED
        assert closed.failures == 0
        assert closed.probes == ()

    def test_one_failure_opens_it_for_another_minute(self) -> None:
        breaker, now = probing(ME, OTHER)
        breaker = breaker.succeeded(ME, now).failed(OTHER, now + 1)
        assert breaker.phase(now + 1) is Phase.OPEN
        assert breaker.phase(now + OPEN_S) is Phase.OPEN
        assert breaker.openings == 2
        # What had passed before counts no more.
        again = breaker.admitted(ME, now + 1 + OPEN_S)
        assert again is not None
        assert again.passed == 0

    def test_verdicts_of_processes_that_have_no_probe_say_nothing(self) -> None:
        breaker, now = probing(ME)
        assert breaker.succeeded(OTHER, now) == breaker
        assert breaker.failed(OTHER, now) == breaker

    def test_a_probe_without_a_verdict_makes_room(self) -> None:
        breaker, now = probing(ME, ME, ME)
        released = breaker.released(ME, now)
        assert released.admitted(OTHER, now) is not None
        assert released.passed == 0

    def test_releasing_what_one_does_not_have_changes_nothing(self) -> None:
        breaker, now = probing(ME, ME, ME)
        assert breaker.released(OTHER, now).admitted(OTHER, now) is None
        assert Breaker().released(ME, now) == Breaker()

    def test_a_probe_whose_process_died_makes_room_in_time(self) -> None:
        breaker, now = probing(*[OTHER] * PROBES)
        assert breaker.admitted(ME, now + PROBE_S - 0.001) is None
        assert breaker.admitted(ME, now + PROBE_S) is not None

    def test_a_probe_of_a_time_that_never_came_makes_room_too(self) -> None:
        breaker, now = probing(*[OTHER] * PROBES)
        assert breaker.admitted(ME, now - 2 * OPEN_S) is not None


class TestCoolingDown:
    def test_nothing_goes_until_then(self) -> None:
        cooling = Breaker().cooling_down(NOW + 20)
        assert cooling.admitted(ME, NOW + 19.9) is None
        assert cooling.admitted(ME, NOW + 20) is not None

    def test_a_shorter_cool_down_does_not_shorten_a_longer_one(self) -> None:
        assert Breaker().cooling_down(NOW + 20).cooling_down(NOW + 5).blocks(NOW + 19)

    def test_longer_than_the_longest_is_none(self) -> None:
        assert not Breaker().cooling_down(NOW + LONGEST_COOL_DOWN_S + 1).blocks(NOW)
        assert Breaker().cooling_down(NOW + 86_400).cooling_down(NOW + 5).blocks(NOW)

    def test_a_success_of_a_call_under_way_does_not_end_it(self) -> None:
        assert Breaker().cooling_down(NOW + 20).succeeded(ME, NOW).blocks(NOW + 1)


class TestLatency:
    def test_each_answer_moves_the_mean_by_a_fifth(self) -> None:
        breaker = Breaker().measured(100, NOW).measured(200, NOW)
        assert breaker.known_latency_ms(NOW) == 120

    def test_what_was_measured_long_ago_is_not_known(self) -> None:
        breaker = Breaker().measured(100, NOW)
        assert breaker.known_latency_ms(NOW + LATENCY_KNOWN_S) is None
        assert breaker.measured(50, NOW + LATENCY_KNOWN_S).known_latency_ms(NOW + LATENCY_KNOWN_S) == 50


class TestFigures:
    """docs/operations.md says them, and owners set their alerts by them."""

    def test_five_failures_open_it_for_a_minute_and_three_probes_close_it(self) -> None:
        assert (FAILURES, OPEN_S, PROBES, PROBE_S) == (5, 60.0, 3, 120.0)
        assert (LONGEST_COOL_DOWN_S, LATENCY_KNOWN_S) == (300.0, 600.0)

    def test_of_a_new_one_nothing_is_known(self) -> None:
        breaker = Breaker()
        assert (breaker.failures, breaker.openings, breaker.opened_at, breaker.passed) == (0, 0, None, 0)
        assert (breaker.probes, breaker.cool_until, breaker.latency_ms, breaker.measured_at) == ((), 0.0, None, 0.0)
        assert breaker.known_latency_ms(NOW) is None

    def test_failures_and_openings_are_counted_and_one_that_closed_has_none(self) -> None:
        assert (opened().failures, opened().openings, opened().opened_at) == (FAILURES, 1, NOW)
        breaker, now = probing(ME, ME, ME)
        again = breaker.failed(ME, now)
        assert (again.failures, again.openings, again.opened_at, again.probes) == (FAILURES + 1, 2, now, ())
        for _ in range(PROBES):
            breaker = breaker.succeeded(ME, now)
        assert (breaker.failures, breaker.passed, breaker.opened_at, breaker.openings) == (0, 0, None, 1)

    def test_a_success_that_changes_nothing_is_the_same_breaker(self) -> None:
        breaker = Breaker()
        assert breaker.succeeded(ME, NOW) is breaker
        cooling = breaker.cooling_down(NOW + 20)
        assert cooling.cooling_down(NOW + 20) is cooling

    def test_each_probe_is_released_once(self) -> None:
        breaker, now = probing(ME, OTHER, ME)
        once = breaker.released(ME, now)
        assert [probe.owner for probe in once.probes] == [OTHER, ME]
        assert [probe.owner for probe in once.released(ME, now).probes] == [OTHER]
        assert once.probes[0].until == now + PROBE_S


class TestBlockedUntil:
    def test_it_is_the_end_of_what_keeps_calls_out(self) -> None:
        assert Breaker().blocked_until(NOW) == NOW
        assert opened().blocked_until(NOW + 1) == NOW + OPEN_S
        for cool_until, until in ((NOW + 9, NOW + OPEN_S), (NOW + OPEN_S + 9, NOW + OPEN_S + 9)):
            assert opened().cooling_down(cool_until).blocked_until(NOW + 1) == until
        assert Breaker().cooling_down(NOW + 9).blocked_until(NOW) == NOW + 9

    def test_of_one_that_is_tried_it_is_when_the_first_probe_is_given_up(self) -> None:
        first, now = probing(ME)
        breaker: Breaker | None = first
        for later in range(1, PROBES):
            assert breaker is not None
            breaker = breaker.admitted(OTHER, now + later)
        assert breaker is not None
        assert breaker.blocks(now + PROBES)
        until = breaker.blocked_until(now + PROBES)
        assert until == now + PROBE_S
        assert not breaker.blocks(until)
        assert opened().blocked_until(now) == now
