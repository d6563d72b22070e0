"""Ceilings a minute, decided in the ledger's locked step: a refused call uses up nothing."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError

from governance import ledger
from governance.ledger import sql_buckets
from governance.ledger.book import ATTEMPTS
from governance.ledger.operations import Extend, Reserve
from governance.ledger.results import ExtendRefused, ReserveAnew
from governance.models import RateBucket, RateLimit, Reservation
from governance.rules.decision import Action, Quote, Reason
from governance.rules.reports import ReportTrust
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
SECOND = timedelta(seconds=1)


def limited(*, scope_type="tenant", scope_key="acme", **ceilings) -> RateLimit:
    return RateLimit.objects.create(tenant=make.tenant(), scope_type=scope_type, scope_key=scope_key, **ceilings)


def reserve(cost="0.10", *, at=NOON, **fields):
    op = make.reserving(cost, **fields)
    dry = ledger.dry_run(op.caller, op.call, now=at)
    decision = ledger.reserve(op, now=at)
    assert (dry.action, dry.reason, dry.retry_after_s) == (decision.action, decision.reason, decision.retry_after_s)
    return op, decision


def test_dollars_a_minute_stop_a_runaway_and_flow_off_evenly():
    limited(nanos_per_minute=nanos("0.60"))
    for _ in range(6):
        assert reserve()[1].allowed
    _, refused = reserve()
    assert (refused.action, refused.reason, refused.retry_after_s) == (Action.IN_FLIGHT, Reason.RATE_LIMITED, 10)
    assert not reserve(at=NOON + 9 * SECOND)[1].allowed
    assert reserve(at=NOON + 10 * SECOND)[1].allowed


def test_a_refused_call_uses_up_nothing():
    limited(requests_per_minute=1)
    assert reserve()[1].allowed
    for _ in range(5):
        assert not reserve()[1].allowed
    assert Reservation.objects.count() == 1
    assert reserve(at=NOON + 60 * SECOND)[1].allowed


def test_what_a_call_did_not_use_flows_back_when_it_settles():
    limited(nanos_per_minute=nanos("0.60"))
    op, _ = reserve("0.60")
    assert not reserve("0.30")[1].allowed
    ledger.settle(make.settling(op.reservation_id, "0.10"), now=NOON)
    assert RateBucket.objects.get().level_nanos == nanos("0.10")
    assert reserve("0.30")[1].allowed


def test_a_hold_that_grows_too_fast_is_told_when_it_may():
    limited(nanos_per_minute=nanos("0.60"))
    op, _ = reserve("0.30")
    grow = Extend(op.reservation_id, more_nanos=nanos("0.40"))
    with pytest.raises(ExtendRefused, match=r"a limit a minute of tenant:acme; try again in 10 s\.$") as refused:
        ledger.extend(grow, now=NOON)
    assert refused.value.decision.retry_after_s == 10
    ledger.extend(grow, now=NOON + 10 * SECOND)
    assert Reservation.objects.get().amount_nanos == nanos("0.70")


def test_a_hold_that_grows_is_no_further_request_and_has_its_tokens_already():
    """Booked as a call of its own it would wait for itself."""
    limited(requests_per_minute=1, tokens_per_minute=100, nanos_per_minute=nanos("0.60"))
    op, decision = reserve("0.30")
    assert decision.allowed
    ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.30")), now=NOON)
    bucket = RateBucket.objects.get()
    assert (bucket.level_nanos, bucket.level_requests_e6) == (nanos("0.60"), 1_000_000)


@pytest.mark.parametrize("held", ["0.60", "1.20", "9.00"])
def test_a_hold_of_any_size_grows_no_faster_than_its_limit(held):
    limited(nanos_per_minute=nanos("0.60"))
    op, decision = reserve(held)
    assert decision.allowed
    grow = Extend(op.reservation_id, more_nanos=nanos("0.50"))
    # All of it has flowed off by then.
    later = NOON + 122 * SECOND
    ledger.extend(grow, now=later)
    assert RateBucket.objects.get().level_nanos == nanos("0.50")
    for _ in range(3):
        with pytest.raises(ExtendRefused) as refused:
            ledger.extend(grow, now=later)
        assert refused.value.decision.retry_after_s == 40
    assert not reserve("0.30", at=later)[1].allowed
    ledger.extend(grow, now=later + 40 * SECOND)
    assert Reservation.objects.get(pk=op.reservation_id).amount_nanos == nanos(held) + nanos("1.00")


def test_the_bucket_of_what_is_held_is_not_dropped_as_idle():
    limited(nanos_per_minute=nanos("0.60"))
    op, _ = reserve("0.30")
    later = NOON + timedelta(hours=2)
    sql_buckets.drop_idle(later, 10)
    ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.60")), now=later)
    with pytest.raises(ExtendRefused):
        ledger.extend(Extend(op.reservation_id, more_nanos=nanos("0.60")), now=later)
    ledger.release(make.releasing(op.reservation_id), now=later)
    sql_buckets.drop_idle(later + timedelta(hours=2), 10)
    assert not RateBucket.objects.exists()


@pytest.mark.parametrize("scope", [{}, {"scope_type": "agent", "scope_key": "churn"}])
def test_a_hold_grows_by_no_limit_of_later_also_in_the_place_of_one_that_is_gone(scope):
    limit = limited(nanos_per_minute=nanos("10"))
    op, _ = reserve("0.30", by=make.caller(agent="churn"))
    grow = Extend(op.reservation_id, more_nanos=nanos("0.10"))
    ledger.extend(grow, now=NOON)
    limit.delete()
    ledger.extend(grow, now=NOON)
    limited(nanos_per_minute=nanos("0.60"), **scope)
    with pytest.raises(ReserveAnew, match="did not when it was held"):
        ledger.extend(grow, now=NOON)
    assert Reservation.objects.get().amount_nanos == nanos("0.50")


def test_a_released_call_counts_for_nothing():
    limited(requests_per_minute=1, nanos_per_minute=nanos("1"))
    op, _ = reserve()
    ledger.release(make.releasing(op.reservation_id), now=NOON)
    bucket = RateBucket.objects.get()
    assert (bucket.level_nanos, bucket.level_requests_e6) == (0, 0)


def test_one_call_above_the_ceiling_goes_when_nothing_else_did():
    limited(nanos_per_minute=nanos("0.05"))
    assert reserve("0.10")[1].allowed
    assert not reserve("0.01")[1].allowed


def test_each_agent_has_a_bucket_of_its_own():
    limited(scope_type="agent", scope_key="*", requests_per_minute=1)
    for agent in ("invoices", "churn"):
        assert reserve(by=make.caller(agent=agent))[1].allowed
        assert not reserve(by=make.caller(agent=agent))[1].allowed


def test_a_limit_that_is_off_or_deleted_limits_nothing():
    limit = limited(requests_per_minute=1)
    op, _ = reserve()
    RateLimit.objects.update(enabled=False)
    assert reserve()[1].allowed
    limit.delete()
    ledger.settle(make.settling(op.reservation_id), now=NOON)


def test_exactly_as_many_of_a_batch_go_as_the_minute_holds():
    limited(requests_per_minute=3)
    decisions = ledger.apply([make.reserving() for _ in range(10)], now=NOON)
    assert sum(decision.allowed for decision in decisions) == 3


def test_what_has_flowed_off_is_not_given_back_again():
    """Holds a minute apart, each of a minute's worth, that are released at once: a minute's worth may go, not ten."""
    limited(nanos_per_minute=nanos("0.60"))
    held = []
    for minute in range(10):
        held.append(make.reserving("0.60"))
        assert ledger.reserve(held[-1], now=NOON + minute * timedelta(minutes=1)).allowed
    now = NOON + timedelta(minutes=10)
    went = 0
    for one in held:
        ledger.release(make.releasing(one.reservation_id), now=now)
        while ledger.reserve(make.reserving("0.10"), now=now).allowed:
            went += 1
    assert went <= 12


def test_long_calls_that_end_leave_no_more_than_the_minute_holds():
    limited(nanos_per_minute=nanos("0.60"))
    running = [make.reserving("0.60") for _ in range(20)]
    for minute, one in enumerate(running):
        assert ledger.reserve(one, now=NOON + minute * timedelta(minutes=1)).allowed
    now = NOON + timedelta(minutes=20)
    went = 0
    for one in running:
        ledger.settle(make.settling(one.reservation_id, "0.06"), now=now)
        while ledger.reserve(make.reserving("0.10"), now=now).allowed:
            went += 1
    assert went <= 12


TOKENS = 1_000
# Of one call, as `call_of` makes it: what each ceiling counts.
IN_A_CALL = {"nanos_per_minute": nanos("0.10"), "requests_per_minute": 1, "tokens_per_minute": TOKENS}


def call_of(*, tokens: int = TOKENS) -> Reserve:
    """A call of ten cents and a thousand tokens."""
    op = make.reserving("0.10", by=make.caller(agent="churn"))
    quote = Quote("large", nanos("0.10"), input_tokens=tokens)
    return replace(op, call=replace(op.call, quote=lambda model: quote))


def went_beside(running, *, begun) -> int:
    """How many new calls go while those that run end one after another, ten a second, having used next to nothing."""
    went = 0
    for count, op in enumerate(running):
        now = begun + count * SECOND / 10
        end = make.settling(op.reservation_id, "0") if count % 2 else make.releasing(op.reservation_id)
        ledger.apply([end], now=now)
        while went < 1_000 and ledger.reserve(call_of(), now=now).allowed:
            went += 1
    return went


@pytest.fixture(params=["tenant", "each agent", "platform"])
def scope(request):
    each = {"scope_type": "agent", "scope_key": "*", "tenant": None}
    named = {"scope_type": "tenant", "scope_key": "", "tenant": make.tenant()}
    return {"tenant": named, "each agent": each, "platform": {**each, "scope_type": "platform", "scope_key": ""}}[
        request.param
    ]


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ({"tokens_per_minute": 100_000}, {"tokens_per_minute": 3_000}),
        ({"nanos_per_minute": nanos("10")}, {"nanos_per_minute": nanos("0.30")}),
        ({"requests_per_minute": 100}, {"requests_per_minute": 3}),
        ({"requests_per_minute": 100}, {"requests_per_minute": 100, "tokens_per_minute": 3_000}),
        ({"requests_per_minute": 100}, {"requests_per_minute": None, "nanos_per_minute": nanos("0.30")}),
    ],
)
def test_what_was_held_under_other_ceilings_makes_no_room_under_these(scope, before, then):
    """Forty calls in flight that end within five seconds: a minute's worth may go beside them, and what flows off."""
    limit = RateLimit.objects.create(**scope, **before)
    running = [call_of() for _ in range(40)]
    assert all(decision.allowed for decision in ledger.apply(running, now=NOON))
    RateLimit.objects.filter(pk=limit.pk).update(**then)
    begun = NOON + SECOND
    ceilings = {name: ceiling for name, ceiling in then.items() if ceiling}
    least = min(ceilings[name] // IN_A_CALL[name] for name in ceilings)
    assert went_beside(running, begun=begun) <= least + least * 5 // 60
    # What is held now is given back again.
    later = begun + timedelta(minutes=3)
    [decision] = ledger.apply([op := call_of()], now=later)
    ledger.release(make.releasing(op.reservation_id), now=later)
    bucket = RateBucket.objects.get()
    assert decision.allowed
    assert (bucket.level_nanos, bucket.level_requests_e6, bucket.level_tokens_e6) == (0, 0, 0)


def test_nor_does_it_where_a_ceiling_was_lowered_by_little_and_nothing_is_cut():
    """By the lower ceiling less had flowed off until now; so much more would come back than the level has."""
    limited(tokens_per_minute=60_000)
    ledger.apply([op := call_of(tokens=60_000)], now=NOON)
    later = NOON + 30 * SECOND
    ledger.apply([call_of(tokens=20_000)], now=later)
    RateLimit.objects.update(tokens_per_minute=40_000)
    ledger.release(make.releasing(op.reservation_id), now=later)
    assert RateBucket.objects.get().level_tokens_e6 == 50_000 * 10**6


def test_a_raised_ceiling_lets_more_go_at_once_and_holds():
    limited(tokens_per_minute=3_000)
    running = [call_of() for _ in range(3)]
    ledger.apply(running, now=NOON)
    assert not ledger.reserve(call_of(), now=NOON).allowed
    RateLimit.objects.update(tokens_per_minute=30_000)
    later = NOON + SECOND
    assert ledger.reserve(call_of(), now=later).allowed
    went = 1 + went_beside(running, begun=later)
    assert went == 27


def test_a_limit_that_was_deleted_and_made_anew_counts_from_then():
    limit = limited(tokens_per_minute=100_000)
    running = [call_of() for _ in range(40)]
    ledger.apply(running, now=NOON)
    limit.delete()
    limited(tokens_per_minute=3_000)
    assert went_beside(running, begun=NOON + SECOND) == 3


def test_a_ceiling_that_was_another_for_a_moment_in_which_nothing_went_gives_back_as_ever():
    limited(tokens_per_minute=3_000)
    [decision] = ledger.apply([op := call_of()], now=NOON)
    RateLimit.objects.update(tokens_per_minute=2_000)
    RateLimit.objects.update(tokens_per_minute=3_000)
    ledger.release(make.releasing(op.reservation_id), now=NOON)
    assert decision.allowed
    assert RateBucket.objects.get().level_tokens_e6 == 0


@pytest.mark.parametrize("minutes", [0, 1, 5])
def test_what_a_call_used_beyond_its_hold_counts_from_when_it_settles(minutes):
    """However long it ran: it is known of by then alone."""
    limited(nanos_per_minute=nanos("0.60"), tokens_per_minute=100)
    op, _ = reserve("0.60")
    later = NOON + timedelta(minutes=minutes)
    ledger.settle(make.settling(op.reservation_id, "5"), now=later)
    bucket = RateBucket.objects.get()
    assert (bucket.level_nanos, bucket.level_tokens_e6) == (nanos("1.20"), 120 * 10**6)
    assert not reserve("0.01", at=later + 59 * SECOND)[1].allowed


def expired(cost: str) -> Reserve:
    """Held at noon, and charged as an estimate ten seconds later."""
    op = replace(make.reserving(cost), ttl_s=1)
    assert ledger.reserve(op, now=NOON).allowed
    assert ledger.expire_due(now=NOON + 10 * SECOND) == 1
    return op


@pytest.mark.parametrize(("said", "counted"), [("5", "1.20"), ("0.90", "0.80"), ("0.60", "0.50"), ("0.10", "0.50")])
def test_so_does_what_is_settled_late_and_nothing_comes_back_of_it(said, counted):
    limited(nanos_per_minute=nanos("0.60"))
    op = expired("0.60")
    ledger.settle(make.settling(op.reservation_id, said), now=NOON + 10 * SECOND)
    assert RateBucket.objects.get().level_nanos == nanos(counted)


@pytest.mark.parametrize(("scope_type", "counted"), [("tenant", "0.80"), ("platform", "0")])
def test_what_a_tenants_key_claims_late_makes_nobody_else_wait(scope_type, counted):
    make.budget("10")
    owner, key = (make.tenant(), "acme") if scope_type == "tenant" else (None, "")
    RateLimit.objects.create(tenant=owner, scope_type=scope_type, scope_key=key, nanos_per_minute=nanos("0.60"))
    op = expired("0.10")
    trust = ReportTrust(make.tenant().pk, nanos("100"))
    ledger.settle(make.settling(op.reservation_id, "0.90", trust=trust), now=NOON + 10 * SECOND)
    assert RateBucket.objects.get().level_nanos == nanos(counted)


def test_what_a_call_used_beyond_its_hold_counts_under_other_ceilings_too():
    limited(nanos_per_minute=nanos("6"))
    op, _ = reserve("0.10")
    RateLimit.objects.update(nanos_per_minute=nanos("3"))
    ledger.settle(make.settling(op.reservation_id, "2.10"), now=NOON)
    assert RateBucket.objects.get().level_nanos == nanos("2.10")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("runs", [1, ATTEMPTS])
def test_a_limit_that_is_deleted_while_its_first_bucket_is_opened_limits_nobody(monkeypatch, runs):
    """The database refuses a bucket under a limit that is not there; the rules are read anew, without it."""
    gone = limited(requests_per_minute=1)
    opened, asked = sql_buckets.open_buckets, []

    def open_buckets(keys, now):
        # Asked for twice a run: before a call is decided, and where that has found none.
        asked.append(keys)
        opened({(gone.pk + 1_000, subject) for _, subject in keys} if len(asked) <= 2 * runs else keys, now)

    monkeypatch.setattr(sql_buckets, "open_buckets", open_buckets)
    op = make.reserving("0.10")
    if runs < ATTEMPTS:
        assert ledger.reserve(op, now=NOON).allowed
        assert len(asked) == 2 * runs + 1
        return
    with pytest.raises(IntegrityError):
        ledger.reserve(op, now=NOON)
    assert len(asked) == 2 * ATTEMPTS
    assert not Reservation.objects.exists()
