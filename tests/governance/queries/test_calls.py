"""Calls, served and refused, in one list by time; and one of them by its ids."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from pytest_django import DjangoAssertNumQueries

from governance import ledger
from governance.actions import corrections
from governance.audit import Actor
from governance.models import KeptAnswer, RefusedCall, Reservation, SpendEntry
from governance.queries import calls, one_call
from governance.queries.calls import Filters, Page, Place
from governance.queries.spend import EVERYTHING, Reader, TimeRange
from governance.rules.calls import Usage
from governance.rules.errors import FieldError
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.django_db
BY = Actor(name="olga")
ALL = Filters()
AT_NOON = NOON.isoformat()
DAY = TimeRange(NOON - timedelta(hours=12), NOON + timedelta(hours=12))


def minutes(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


def served(at: datetime = NOON, *, request_id: str = "", **caller: Any) -> SpendEntry:
    of = caller.pop("of", None)
    report = factories.reporting("0.01", by=factories.caller(of, **caller), request_id=request_id, occurred_at=at)
    ledger.record(report, now=at)
    return SpendEntry.objects.get(pk=report.entry_id)


def refused(at: datetime = NOON, **fields: Any) -> RefusedCall:
    given = {
        "request_id": str(uuids.uuid7()),
        "tenant": factories.tenant(),
        "reason": "budget_exhausted",
        "status": 402,
    }
    return RefusedCall.objects.create(refused_at=at, sentence="No.", **(given | fields))


def page(filters: Filters = ALL, *, reader: Reader = EVERYTHING, after: Place | None = None) -> Page:
    return calls.page(reader=reader, period=DAY, filters=filters, after=after)


def walked(filters: Filters = ALL) -> tuple[list[Any], int]:
    """All rows, page by page, and how many pages it took."""
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        one = page(filters, after=Place.read(str(after)) if after else None)
        found, after, pages = found + one.rows, one.after, pages + 1
    return found, pages


def test_both_tables_are_one_list_with_the_newest_first() -> None:
    rows = [served(minutes(1)), refused(minutes(2)), served(minutes(3)), refused(minutes(4))]
    assert page().rows == rows[::-1]
    assert page().after is None


def test_what_is_out_of_the_range_or_another_tenants_is_not_in_it() -> None:
    globex = factories.tenant("globex")
    mine = [served(), refused(minutes(1))]
    served(NOON - timedelta(hours=13))
    refused(NOON + timedelta(hours=12))
    served(of=globex)
    refused(tenant=globex)
    acme = factories.tenant()
    assert page(reader=Reader(acme)).rows == mine[::-1]
    assert page(Filters(tenant=acme)).rows == mine[::-1]
    assert len(page().rows) == 4


def test_pages_hold_each_row_once_also_where_many_have_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAGE", 3)
    made = [make() for _ in range(5) for make in (served, refused)]
    made += [served(minutes(1)), refused(minutes(-1))]
    rows, pages = walked()
    assert len(rows) == len(made) == 12
    assert set(rows) == set(made)
    assert pages == 4
    moments = [calls.at(row) for row in rows]
    assert moments == sorted(moments, reverse=True)


def test_a_filter_without_an_index_looks_back_so_far_and_goes_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LOOKED", 4)
    wanted = [served(minutes(0), agent="rare"), refused(minutes(1), agent="rare")]
    for number in range(2, 12):
        served(minutes(number), agent="busy")
    first = page(Filters(named={"agent": "rare"}))
    assert (first.rows, first.looked_back_to) == ([], minutes(7))
    assert first.after == Place(minutes(7))
    rows, pages = walked(Filters(named={"agent": "rare"}))
    assert rows == wanted[::-1]
    assert pages == 3


def test_a_page_looks_up_the_stretch_that_it_shows_and_no_more() -> None:
    """Of two bounds of one column SQLite looks up one, and may take the wider."""
    far, near = Place(minutes(5)), TimeRange(minutes(-5), minutes(60))
    source = calls._charges(ALL)
    assert source is not None
    sql = str(source.all(EVERYTHING, near, ALL, far).query)
    assert sql.count('"occurred_at" >=') == sql.count('"occurred_at" <') == 1
    beyond = str(source.all(EVERYTHING, near, ALL, Place(minutes(90))).query)
    assert minutes(90).strftime("%H:%M:%S") not in beyond


@pytest.mark.parametrize("name", ["agent", "user", "session", "task"])
def test_names_narrow_both_tables(name: str) -> None:
    wanted = [served(**{name: "a"}), refused(minutes(1), **{name: "a"})]
    served(**{name: "b"})
    refused(**{name: "b"})
    assert page(Filters(named={name: " a"})).rows == wanted[::-1]


def test_models_providers_and_keys_narrow_it_too() -> None:
    _, key = factories.key()
    entry, refusal = served(key_id=key.pk), refused(minutes(1), key=key, model="large")
    other = refused(minutes(2), model="small")
    assert page(Filters(named={"model": "large"})).rows == [refusal, entry]
    assert page(Filters(named={"key": key.prefix})).rows == [refusal, entry]
    # Which provider a refused call would have gone to nobody knows.
    assert page(Filters(named={"provider": "mistral"})).rows == [entry]
    assert other in page().rows


def test_a_name_that_can_be_none_is_refused() -> None:
    with pytest.raises(FieldError):
        page(Filters(named={"agent": "a\0b"}))


def test_states_are_of_one_table_each() -> None:
    factories.budget("1")
    entry, refusal = served(), refused(minutes(1))
    hold = factories.reserving("0.10")
    ledger.reserve(hold, now=NOON)
    ledger.expire_due(now=NOON + timedelta(days=1))
    estimate = SpendEntry.objects.get(reservation=hold.reservation_id)
    assert set(page(Filters(status="served")).rows) == {entry, estimate}
    assert page(Filters(status="refused")).rows == [refusal]
    assert page(Filters(status="estimated")).rows == [estimate]


def charged(*, asked: str, model: str, answered: str, metadata: dict[str, Any] | None = None) -> SpendEntry:
    """A call that was held for `model`, and answered under the name `answered`."""
    hold = replace(factories.reserving("0.10", model=model), model_requested=asked)
    ledger.reserve(hold, now=NOON)
    settle = factories.settling(hold.reservation_id, "0.01", metadata=metadata or {})
    ledger.settle(replace(settle, usage=Usage("mistral", answered, 10, 0, 2)), now=NOON)
    return SpendEntry.objects.get(reservation=hold.reservation_id)


def test_downgraded_are_those_that_a_budget_moved_and_no_alias() -> None:
    alias = charged(asked="large-latest", model="large-latest", answered="large-2512")
    moved = charged(asked="large-latest", model="small-latest", answered="small-2603")
    noted = charged(asked="large", model="small", answered="small", metadata={"decision": {"action": "degrade"}})
    stand_in = charged(asked="large", model="medium", answered="medium", metadata={"decision": {"action": "allow"}})
    served()
    found = page(Filters(status="downgraded")).rows
    assert set(found) == {moved, noted}
    assert [calls.is_downgraded(entry) for entry in (alias, moved, noted, stand_in)] == [False, True, True, False]


def test_a_page_is_four_queries_at_most(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    for number in range(5):
        served(minutes(number), agent="a")
        refused(minutes(number), agent="a")
    with django_assert_max_num_queries(2):
        page()
    with django_assert_max_num_queries(4):
        for row in page(Filters(named={"agent": "a"})).rows:
            assert row.tenant.slug == "acme"


@pytest.mark.parametrize(
    "text", ["", "x~", "2026-03-10T12:00:00~", f"{NOON.isoformat()}~ex", f"{NOON.isoformat()}~r-1"]
)
def test_a_place_that_no_page_has_written_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Place.read(text)


def only(text: str, reader: Reader = EVERYTHING) -> one_call.WholeCall:
    [found] = one_call.find(reader=reader, text=text)
    return found


def test_a_held_call_is_found_by_its_request_its_hold_and_its_line() -> None:
    factories.budget("1")
    hold = factories.reserving("0.10")
    ledger.reserve(hold, now=NOON)
    ledger.settle(factories.settling(hold.reservation_id, "0.03", request_id=str(hold.reservation_id)), now=NOON)
    entry = SpendEntry.objects.get()
    for text in (str(hold.reservation_id), f" {hold.reservation_id}", hold.reservation_id.hex, str(entry.pk)):
        call = only(text)
        assert (call.charges, [row.pk for row in call.holds]) == ([entry], [hold.reservation_id]), text
    assert call.cost_nanos == factories.nanos("0.03")


def test_all_attempts_of_a_request_are_one_call_with_its_corrections() -> None:
    first, second = factories.reserving("0.10"), factories.reserving("0.10")
    name = str(first.reservation_id)
    for hold in (first, second):
        ledger.reserve(hold, now=NOON)
        ledger.settle(factories.settling(hold.reservation_id, "0.03", request_id=name), now=NOON)
    late = SpendEntry.objects.get(reservation=second.reservation_id)
    corrections.correct(entry=late, cost_nanos=factories.nanos("0.02"), reason="bill", by=BY, now=NOON)
    for text in (name, str(second.reservation_id), str(late.pk)):
        call = only(text)
        assert call.id == name
        assert len(call.charges) == len(call.holds) == 2
        assert [row.corrects_id for row in call.corrections] == [late.pk]
        assert call.cost_nanos == factories.nanos("0.05")


def test_a_call_that_holds_or_was_let_go_is_found_by_its_hold() -> None:
    hold = factories.reserving("0.10")
    ledger.reserve(hold, now=NOON)
    call = only(str(hold.reservation_id))
    assert (call.charges, call.cost_nanos, call.holds[0].status) == ([], 0, Reservation.Status.PENDING)


def test_an_id_of_the_callers_own_is_found_for_reports_and_for_what_was_held() -> None:
    reported = served(request_id="job 7/ä")
    assert only("job 7/ä").charges == [reported]
    hold = factories.reserving("0.10")
    ledger.reserve(hold, now=NOON)
    ledger.settle(factories.settling(hold.reservation_id, "0.03", request_id="theirs"), now=NOON)
    assert only("theirs").holds[0].pk == hold.reservation_id
    assert only(str(hold.reservation_id)).id == "theirs"


def test_two_tenants_calls_of_one_id_are_two_calls_and_each_sees_its_own() -> None:
    globex = factories.tenant("globex")
    ours, theirs = served(request_id="same"), served(request_id="same", of=globex)
    assert [call.charges for call in one_call.find(reader=EVERYTHING, text="same")] == [[theirs], [ours]]
    assert only("same", Reader(globex)).charges == [theirs]
    assert one_call.find(reader=Reader(globex), text=str(ours.pk)) == []


def test_a_refused_call_and_an_idempotency_key_lead_to_it() -> None:
    refusal = refused()
    assert only(refusal.request_id).refusals == [refusal]
    hold = factories.reserving("0.10")
    ledger.reserve(hold, now=NOON)
    ledger.settle(factories.settling(hold.reservation_id, "0.03"), now=NOON)
    headers = [["x-request-id", str(hold.reservation_id)]]
    KeptAnswer.objects.create(
        tenant=factories.tenant(),
        key="my-key",
        digest="d",
        status="done",
        response_status=200,
        started_at=NOON,
        alive_until=NOON,
        response_headers=headers,
    )
    assert only("my-key").holds[0].pk == hold.reservation_id


@pytest.mark.parametrize("text", ["", " ", "nope", "a\0b", "x" * 500, str(UUID(int=0))])
def test_what_names_no_call_finds_none(text: str) -> None:
    served()
    assert one_call.find(reader=EVERYTHING, text=text) == []
