"""A wrong price is superseded, its calls are charged again, and whoever it had stopped is let in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.core.management import CommandError, call_command

from governance import ledger
from governance.actions import corrections
from governance.audit import Actor
from governance.ledger.operations import Adjust, Record, Settle
from governance.models import AuditEntry, BudgetWindow, SpendEntry
from governance.rules import money
from governance.rules.calls import Usage
from governance.rules.errors import FieldError
from governance.upkeep import reconcile
from llm.catalogue import prices, repricing, snapshot
from llm.models import Model, Price
from tests import factories
from tests.concurrency.processes import in_threads
from tests.factories import NOON, nanos

OLGA = Actor("olga")
AT = NOON + timedelta(days=30)
LATER = AT + timedelta(hours=1)
SMALL = "mistral-small-2603"


@pytest.fixture(autouse=True)
def fresh_snapshot(request: pytest.FixtureRequest) -> Iterator[None]:
    snapshot.forget()
    yield
    snapshot.forget()
    assert reconcile.check() == []


pytestmark = pytest.mark.django_db


def small() -> Model:
    return Model.objects.get(name=SMALL)


def call(
    *, output_tokens: int = 1_000_000, provider: str = "mistral", at: datetime = AT, input_tokens: int = 0
) -> SpendEntry:
    """A call as the gateway settles it: 60 cents of output, unless told; half of its input was cached."""
    usage = Usage(provider, SMALL, input_tokens, input_tokens // 2, output_tokens)
    priced = snapshot.read(now=at).cost_of(usage)
    assert priced is not None
    operation = factories.reserving(money.format_dollars(priced[0]))
    assert ledger.reserve(operation, now=at).allowed
    done = ledger.settle(Settle(operation.reservation_id, priced[0], usage, price_rule=priced[1]), now=at)
    return SpendEntry.objects.get(pk=done.entry_id)


def make_right(picos: int = 300_000) -> Price:
    """Output should have cost half of it all along."""
    wrong = Price.objects.get(model=small(), unit="output", superseded_by=None)
    return prices.correct(
        price=wrong, picos_per_unit=picos, source="invoice", by=OLGA, now=LATER, reason="read the bill"
    )


def run(**fields: Any) -> repricing.RepricingResult:
    asked = {"model": small(), "starts_at": None, "ends_at": LATER, "reason": "wrong price", "by": OLGA, "now": LATER}
    return repricing.run(**{**asked, **fields})


def cost(entry: SpendEntry) -> int:
    return corrections.charged_nanos(entry)


def test_prices_that_are_entered_one_by_one_for_a_moment_count_together() -> None:
    """A call between two of them was charged by a rule of the same name."""
    for unit, picos in (("input", 150_000), ("output", 6_000_000)):
        price = Price(model=small(), unit=unit, picos_per_unit=picos, effective_from=AT, source="bill")
        prices.add(price=price, by=OLGA, now=NOON)
        entry = call()
    assert SpendEntry.objects.count() == 2
    first = SpendEntry.objects.earliest("id")
    assert first.price_rule == entry.price_rule
    assert cost(first) == nanos("0.60") < cost(entry) == nanos("6")
    assert run().changed == 1
    assert cost(first) == cost(entry) == nanos("6")
    assert run().changed == 0


def test_prices_that_are_entered_one_by_one_after_a_run_count_in_the_next() -> None:
    """A rule that a call was charged by again has got another row since; what was credited then stays."""
    usage = Usage("mistral", SMALL, 2_000_000, 1_000_000, 1_000_000)
    entry = call(input_tokens=usage.input_tokens)
    for unit, picos in (("input", 170_000), ("output", 6_000_000), ("cached_input", 10_000)):
        price = Price(model=small(), unit=unit, picos_per_unit=picos, effective_from=AT, source="bill")
        prices.add(price=price, by=OLGA, now=NOON)
        priced = snapshot.read(now=AT).cost_of(usage)
        assert run().changed == 1
        assert priced is not None
        assert cost(entry) == priced[0]
    ledger.adjust(Adjust(uuids.uuid7(), entry.pk, -nanos("0.10"), "a credit"), now=LATER)
    assert run().changed == 0


def test_the_price_of_longer_calls_that_was_missing_is_charged_to_these_alone() -> None:
    long, short = (call(input_tokens=tokens, provider="mistral-eu") for tokens in (200_020, 200_000))
    before = cost(long), cost(short)
    for unit, picos in (("input", 300_000), ("cached_input", 30_000), ("output", 1_200_000)):
        price = Price(model=small(), unit=unit, picos_per_unit=picos, above_input_tokens=200_000, effective_from=AT)
        prices.add(price=price, by=OLGA, now=NOON)
    assert run().changed == 1
    assert (cost(long), cost(short)) == (2 * before[0], before[1])
    adjusted = SpendEntry.objects.get(corrects=long)
    assert adjusted.price_rule.endswith(">200000+eu")
    assert repricing.place_of(adjusted.price_rule) == ("eu", False, "standard")
    assert repricing.place_of("a/b@2026-03-16#2>200000+us+batch+flex") == ("us", True, "flex")
    assert run().changed == 0


def test_a_stopped_tenant_is_let_in_again_when_its_calls_cost_less() -> None:
    factories.budget("1.20", window="lifetime")
    entries = [call(), call()]
    window = BudgetWindow.objects.get()
    assert window.state == "stopped"
    assert not ledger.reserve(factories.reserving("0.10"), now=LATER).allowed
    make_right()

    seen = repricing.preview(model=small(), starts_at=None, ends_at=LATER)
    assert (seen.looked_at, seen.changed, seen.delta_nanos) == (2, 2, -nanos("0.60"))
    assert [(change.old_state, change.new_state) for change in seen.unblocked] == [("stopped", "active")]
    assert SpendEntry.objects.count() == 2

    done = run()
    assert (done.changed, done.delta_nanos, done.refused) == (2, -nanos("0.60"), 0)
    assert (done.by_tenant["acme"].before_nanos, done.by_tenant["acme"].after_nanos) == (nanos("1.20"), nanos("0.60"))
    assert [change.window.pk for change in done.unblocked] == [window.pk]
    assert [cost(entry) for entry in entries] == [nanos("0.30")] * 2
    window.refresh_from_db()
    assert (window.settled_nanos, window.state) == (nanos("0.60"), "active")
    assert ledger.reserve(factories.reserving("0.10"), now=LATER).allowed
    row = SpendEntry.objects.filter(corrects=entries[0]).get()
    assert (row.kind, row.reason, row.price_rule) == (
        "adjustment",
        "repriced",
        f"mistral/{SMALL}@2026-03-16#2",
    )
    audited = AuditEntry.objects.get(action="price.reprice")
    assert (audited.target, audited.actor, audited.reason) == (SMALL, "olga", "wrong price")
    assert audited.old == {"calls": 2, "cost_nanos": nanos("1.20")}
    assert audited.new is not None
    assert audited.new["cost_nanos"] == nanos("0.60")


def test_a_second_run_posts_nothing_and_a_second_correction_posts_the_rest() -> None:
    entry = call()
    make_right()
    assert run().changed == 1
    assert run().changed == 0
    make_right(picos=500_000)
    assert run().changed == 1
    assert cost(entry) == nanos("0.50")
    assert SpendEntry.objects.count() == 3


def test_a_credit_given_after_a_correction_stands() -> None:
    entry = call()
    make_right()
    run()
    ledger.adjust(Adjust(uuids.uuid7(), entry.pk, -nanos("0.10"), "a credit"), now=LATER)
    assert run().changed == 0
    assert cost(entry) == nanos("0.20")


def test_nothing_is_posted_while_the_price_stands() -> None:
    entry = call()
    ledger.adjust(Adjust(uuids.uuid7(), entry.pk, -nanos("0.10"), "a credit"), now=AT)
    assert run().changed == 0
    assert cost(entry) == nanos("0.50")


def test_only_calls_of_the_period_and_of_the_model_change() -> None:
    early, inside = call(at=AT - timedelta(days=1)), call()
    other = SpendEntry.objects.get(pk=_reported(f"mistral/{SMALL}-other@seed"))
    make_right()
    assert run(starts_at=AT, ends_at=AT + timedelta(seconds=1)).changed == 1
    assert [cost(entry) for entry in (early, inside, other)] == [nanos("0.60"), nanos("0.30"), nanos("0.60")]


def test_a_zone_s_calls_are_charged_again_at_the_zone_s_rates() -> None:
    entry = call(provider="mistral-eu")
    assert (entry.cost_nanos, entry.price_rule) == (nanos("0.66"), f"mistral/{SMALL}@2026-03-16+eu")
    make_right()
    run()
    assert cost(entry) == nanos("0.33")


def test_places_are_read_from_the_rules() -> None:
    assert repricing.place_of(f"mistral/{SMALL}@2026-03-16#2+eu+batch") == ("eu", True, "standard")
    assert repricing.place_of("openai/gpt-9@2026-10-01T12:30:00Z+priority") == ("global", False, "priority")
    assert repricing.place_of("mistral/mistral-embed@seed") == ("global", False, "standard")
    assert repricing.place_of("nonsense") == ("global", False, "standard")


def test_calls_whose_cost_somebody_stated_stay_as_they_are() -> None:
    reported = SpendEntry.objects.get(pk=_reported(""))
    expired = factories.reserving("0.50")
    ledger.reserve(expired, now=AT)
    ledger.expire_due(now=LATER)
    confirmed = call()
    # An operator's word on an estimate outlives every price.
    estimate = _estimated_with_a_rule()
    corrections.confirm(entry=estimate, cost_nanos=nanos("0.42"), reason="the bill", by=OLGA, now=LATER)
    make_right()
    done = run(ends_at=LATER + timedelta(days=1))
    assert (done.changed, done.last_words) == (1, 1)
    assert [cost(entry) for entry in (reported, confirmed, estimate)] == [nanos("0.60"), nanos("0.30"), nanos("0.42")]


def test_a_call_that_was_settled_late_is_charged_again_by_what_it_truly_used() -> None:
    operation = factories.reserving("1.00")
    ledger.reserve(operation, now=AT)
    ledger.expire_due(now=AT + timedelta(days=1))
    usage = Usage("mistral", SMALL, 0, 0, 1_000_000)
    rule = f"mistral/{SMALL}@2026-03-16"
    ledger.settle(Settle(operation.reservation_id, nanos("0.60"), usage, price_rule=rule), now=AT + timedelta(days=1))
    entry = SpendEntry.objects.get(kind="charge")
    make_right()
    assert run().changed == 1
    assert cost(entry) == nanos("0.30")


def test_a_call_that_the_ledger_refuses_leaves_the_others_of_its_batch_adjusted(monkeypatch: Any) -> None:
    entries = [call(), call(output_tokens=500_000)]
    make_right()
    post = repricing.repricing.post

    def picky(asked: list[SpendEntry], price: Any, *, now: datetime) -> Any:
        if entries[0] in asked:
            raise ledger.LedgerError("below zero")
        return post(asked, price, now=now)

    monkeypatch.setattr(repricing.repricing, "post", picky)
    done = run()
    assert (done.changed, done.refused) == (1, 1)
    assert [cost(entry) for entry in entries] == [nanos("0.60"), nanos("0.15")]


def test_batches_cover_every_call_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(repricing, "BATCH", 2)
    for _ in range(5):
        call(output_tokens=1_000)
    make_right()
    told: list[int] = []
    assert run(progress=told.append).changed == 5
    assert told == [2, 4, 5]


def test_a_reason_is_needed() -> None:
    with pytest.raises(FieldError, match="say why"):
        run(reason=" ")


@pytest.mark.django_db(transaction=True)
def test_several_runs_at_once_adjust_each_call_once() -> None:
    entries = [call(output_tokens=1_000_000) for _ in range(4)]
    make_right()
    in_threads(4, lambda index: run().changed)
    assert [cost(entry) for entry in entries] == [nanos("0.30")] * 4
    assert SpendEntry.objects.filter(reason="repriced").count() == 4


def test_the_command_previews_unless_told_to_apply() -> None:
    factories.budget("0.60", window="lifetime")
    call()
    make_right()
    out = StringIO()
    asked = {"to": (LATER + timedelta(days=1)).isoformat(), "stdout": out, "stderr": StringIO()}
    call_command("reprice", "mistral-small-latest", **asked)
    assert "1 of 1 calls would be adjusted" in out.getvalue()
    assert "acme: 1 calls, $0.60 -> $0.30" in out.getvalue()
    assert "stopped -> active: would let calls in again" in out.getvalue()
    assert SpendEntry.objects.count() == 1
    with pytest.raises(CommandError, match="--reason: say why"):
        call_command("reprice", SMALL, **asked, apply=True)
    out.truncate(0)
    out.seek(0)
    call_command("reprice", f"mistral/{SMALL}", **asked, apply=True, reason="the bill", json=True)
    told = json.loads(out.getvalue())
    assert (told["changed"], told["dry_run"], told["windows"][0]["unblocked"]) == (1, False, True)
    assert SpendEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "gpt-9"}, "the catalogue has no model gpt-9"),
        ({"model": SMALL, "starts_at": "soon"}, "--from: must be a date"),
        ({"model": SMALL, "starts_at": "2026-13-01"}, "--from: must be a date"),
    ],
)
def test_the_command_says_what_is_wrong(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        call_command("reprice", wrong.pop("model"), **wrong)


def _reported(rule: str) -> Any:
    operation = Record(
        uuids.uuid7(),
        factories.caller(),
        str(uuids.uuid7()),
        nanos("0.60"),
        Usage("mistral", SMALL, 0, 0, 1_000_000),
        price_rule=rule,
        occurred_at=AT,
    )
    return ledger.record(operation, now=AT).entry_id


def _estimated_with_a_rule() -> SpendEntry:
    operation = factories.reserving("1.00")
    ledger.reserve(operation, now=AT)
    usage = Usage("mistral", SMALL, 0, 0, 1_000_000)
    rule = f"mistral/{SMALL}@2026-03-16"
    settle = Settle(operation.reservation_id, nanos("0.60"), usage, "estimated", "cut", price_rule=rule)
    return SpendEntry.objects.get(pk=ledger.settle(settle, now=AT).entry_id)
