"""Buckets of rate limits, whatever flows in and when. Pure."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from governance.rules.buckets import E6, LONGEST_WAIT_S, Amount, BucketView, Ceilings, after, amount_of
from tests.factories import NOON

MINUTE = timedelta(minutes=1)
ceilings_a_minute = st.none() | st.integers(1, 50) | st.integers(1, 10**12)
ceilings = st.builds(Ceilings, ceilings_a_minute, ceilings_a_minute, ceilings_a_minute)
# Calls of every size from nothing to three minutes' worth, in shares of the ceilings.
shares = st.tuples(st.integers(0, 300), st.integers(0, 300))
pauses = st.builds(timedelta, microseconds=st.integers(0, 70_000_000) | st.integers(0, 3_000_000))


def sized(ceilings: Ceilings, share: tuple[int, int]) -> Amount:
    return amount_of(
        cost_nanos=(ceilings.nanos or 100) * share[0] // 100, tokens=(ceilings.tokens or 100) * share[1] // 100
    )


def parts(ceilings: Ceilings, amount: Amount) -> list[tuple[int, int]]:
    """(ceiling, amount) of each ceiling that is set."""
    return [(ceiling, adds) for ceiling, _, adds in ceilings.pairs(Amount(), amount)]


def wait_s(ceilings: Ceilings, level: Amount, more: Amount) -> int:
    return BucketView("acme", ceilings, level, NOON).wait_s(more)


@given(ceilings, st.lists(st.tuples(pauses, shares), min_size=1, max_size=40))
def test_no_minute_brings_more_than_a_minutes_worth_and_one_bucket(limit, story):
    level, now, gone = Amount(), NOON, []
    for pause, share in story:
        now, level, more = now + pause, after(level, limit, pause), sized(limit, share)
        if wait_s(limit, level, more) == 0:
            level = level.plus(more)
            gone.append((now, parts(limit, more)))
    for start, _ in gone:
        minute = [amounts for at, amounts in gone if start <= at <= start + MINUTE]
        for of_one_ceiling in zip(*minute, strict=True):
            ceiling = of_one_ceiling[0][0]
            # One call larger than a whole bucket may go, alone, when the bucket is empty.
            bucket = max(ceiling, *(adds for _, adds in of_one_ceiling))
            assert sum(adds for _, adds in of_one_ceiling) <= ceiling + bucket


def fill(ceilings: Ceilings, share: tuple[int, int, int]) -> Amount:
    """A bucket of at most a minute's worth."""
    nanos, requests, tokens = share
    return Amount(
        (ceilings.nanos or 0) * nanos // 10**6,
        (ceilings.requests or 0) * E6 * requests // 10**6,
        (ceilings.tokens or 0) * E6 * tokens // 10**6,
    )


million = st.integers(0, 10**6)


@settings(max_examples=300)
@given(ceilings, st.tuples(million, million, million), shares)
def test_a_call_may_go_when_its_wait_is_over_and_not_a_second_before(limit, filled, share):
    level, more = fill(limit, filled), sized(limit, share)
    wait = wait_s(limit, level, more)
    # A whole bucket takes 60 s to empty; nobody is told to wait for longer than 59.
    over = wait if wait < LONGEST_WAIT_S else 60
    assert wait_s(limit, after(level, limit, timedelta(seconds=over)), more) == 0
    if wait:
        assert wait_s(limit, after(level, limit, timedelta(seconds=wait - 1)), more) > 0


@given(ceilings, st.tuples(million, million, million), pauses, pauses)
def test_looking_in_between_gives_nothing_away(limit, filled, first, second):
    level = fill(limit, filled)
    once = after(level, limit, first + second)
    twice = after(after(level, limit, first), limit, second)
    for (_, one), (_, two) in zip(parts(limit, once), parts(limit, twice), strict=True):
        assert one <= two <= one + 1
