"""Ceilings a minute, emergency stops and allowances, from many processes at once."""

from governance import ledger
from governance.actions import allowances, stops
from governance.audit import Actor
from governance.models import AuditEntry, Budget, EmergencyStop, RateBucket, RateLimit, Tenant
from governance.rules.errors import Conflict, NotOpen
from tests import factories as make
from tests.concurrency.processes import in_processes, in_threads
from tests.factories import NOON, nanos

BY = Actor("olga")


def reserve_many(each):
    """That many reservations from each of four threads; how many were admitted. No budget holds anybody back."""
    decisions = in_threads(4, lambda _: [ledger.reserve(make.reserving("0.01"), now=NOON).allowed for _ in range(each)])
    return sum(sum(found) for found in decisions)


def test_exactly_as_many_calls_as_a_minute_holds_are_admitted():
    RateLimit.objects.create(tenant=make.tenant(), scope_type="tenant", scope_key="acme", requests_per_minute=37)
    assert sum(in_processes(4, lambda index: reserve_many(10))) == 37
    assert RateBucket.objects.get().level_requests_e6 == 37_000_000


def test_exactly_as_many_dollars_as_a_minute_holds_are_admitted():
    RateLimit.objects.create(scope_type="agent", scope_key="*", nanos_per_minute=nanos("0.23"))
    by = make.caller(agent="invoices")

    def work(index):
        return in_threads(
            4, lambda _: sum(ledger.reserve(make.reserving("0.01", by=by), now=NOON).allowed for _ in range(10))
        )

    assert sum(sum(found) for found in in_processes(4, work)) == 23
    assert RateBucket.objects.get().level_nanos == nanos("0.23")


def test_of_many_who_press_at_once_one_stops():
    tenant = make.tenant()

    def press(index):
        try:
            stops.stop(tenant=Tenant.objects.get(pk=tenant.pk), reason=f"{index}", by=BY, now=NOON)
        except Conflict:
            return False
        return True

    assert sorted(in_processes(4, press)) == [False, False, False, True]
    assert EmergencyStop.objects.count() == AuditEntry.objects.count() == 1


def test_of_many_who_lift_at_once_one_does():
    stop = stops.stop(reason="x", by=BY, now=NOON)

    def lift(index):
        try:
            stops.lift(stop=EmergencyStop.objects.get(pk=stop.pk), by=Actor(f"{index}"), now=NOON)
        except NotOpen:
            return False
        return True

    assert sorted(in_processes(4, lift)) == [False, False, False, True]
    assert AuditEntry.objects.filter(action="stop.lift").count() == 1


def test_top_ups_and_calls_at_once_lose_nothing():
    budget = make.budget("0.10", soft_cap=None)
    ledger.record(make.reporting("0.10"), now=NOON)

    def work(index):
        mine = Budget.objects.get(pk=budget.pk)
        allowances.top_up(budget=mine, amount_nanos=nanos("0.05"), reason="more", by=BY, now=NOON)
        return sum(ledger.reserve(make.reserving("0.01"), now=NOON).allowed for _ in range(10))

    admitted = sum(in_processes(4, work))
    window = budget.windows.get()
    assert (window.extra_nanos, window.limit_nanos) == (nanos("0.20"), nanos("0.30"))
    assert window.reserved_nanos == admitted * nanos("0.01")
    assert admitted == 20
