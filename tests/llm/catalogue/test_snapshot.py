"""Names, prices over time, and the snapshot that the data plane looks things up in."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone

from governance.audit import Actor
from governance.models import AuditEntry
from governance.rules.calls import Usage
from llm.catalogue import prices, snapshot
from llm.models import Model, ModelAlias, Price, ProviderEndpoint
from llm.rules.pricing import Entry, Rates

pytestmark = pytest.mark.django_db
BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fresh_snapshot() -> Iterator[None]:
    snapshot.forget()
    yield
    snapshot.forget()


def add_price(name: str, unit: str, picos: int, since: datetime, **fields: Any) -> Price:
    model = Model.objects.get(name=name)
    return Price.objects.create(model=model, unit=unit, picos_per_unit=picos, effective_from=since, **fields)


def test_aliases_and_ids_mean_one_model() -> None:
    entry = snapshot.resolve("mistral-small-latest")

    assert entry is not None
    assert entry is snapshot.resolve("mistral-small-2603")
    assert entry.names == {
        "mistral-small-2603",
        "mistral-small-latest",
        "mistral/mistral-small-2603",
        "mistral/mistral-small-latest",
    }
    assert entry is snapshot.resolve("mistral/mistral-small-latest")
    assert (entry.id, entry.upstream) == ("mistral-small-2603", "mistral-small-2603")
    assert entry.aliases == ("mistral-small-latest",)
    assert entry.context_tokens == 256_000
    assert "vision" in entry.capabilities
    assert snapshot.resolve("gpt-4o") is None


def test_a_model_knows_of_which_kind_its_provider_is() -> None:
    """The environment's providers go by their kinds; where an endpoint has taken the name, its own kind counts."""
    named = {
        "openai": "openai",
        "anthropic": "anthropic",
        "own": "openai",
        "groq": "openai_compatible",
        "off": "",
        "gone": "",
    }
    for provider in named:
        Model.objects.create(name=f"{provider}-1", provider=provider, kinds=["chat"])
    base = {"base_url": "https://example.com/v1", "updated_at": timezone.now()}
    ProviderEndpoint.objects.create(name="own", kind="openai", **base)
    ProviderEndpoint.objects.create(name="groq", kind="openai_compatible", **base)
    ProviderEndpoint.objects.create(name="off", kind="openai", enabled=False, **base)
    snapshot.forget()

    found = {name: snapshot.resolve(f"{name}/{name}-1") for name in named}
    assert {name: entry.provider_kind for name, entry in found.items() if entry} == named
    assert {name: entry.most_image_tokens for name, entry in found.items() if entry} == {
        "openai": 73_800,
        "anthropic": 8_464,
        "own": 73_800,
        "groq": None,
        "off": None,
        "gone": None,
    }
    for name in ("mistral-small-latest", "mistral-eu/mistral-small-latest"):
        entry = snapshot.resolve(name)
        assert entry is not None
        assert (entry.provider_kind, entry.most_image_tokens) == ("", 3_080)

    ProviderEndpoint.objects.create(name="openai", kind="openai_compatible", **base)
    snapshot.forget()
    entry = snapshot.resolve("openai/openai-1")
    assert entry is not None
    assert entry.most_image_tokens is None


def test_an_id_means_its_own_model_whatever_an_alias_says() -> None:
    other = Model.objects.get(name="mistral-large-2512")
    ModelAlias.objects.create(name="mistral-embed", model=other)

    entry = snapshot.resolve("mistral-embed")
    assert entry is not None
    assert entry.id == "mistral-embed"


def test_preview_and_retired_models_are_not_served() -> None:
    assert snapshot.resolve("mistral-large-4") is None
    Model.objects.filter(name="mistral-embed").update(status=Model.Status.RETIRED)
    snapshot.forget()
    assert snapshot.resolve("mistral-embed") is None


def cost_of(usage: Usage) -> tuple[int, str] | None:
    return snapshot.cost_of(usage, at=timezone.now())


def test_cost_names_the_rule_it_was_charged_by() -> None:
    usage = Usage(model="mistral-small-latest", input_tokens=1_000, cached_tokens=800, output_tokens=100)

    assert cost_of(usage) == (
        30_000 + 12_000 + 60_000,
        "mistral/mistral-small-2603@2026-03-16",
    )
    assert cost_of(Usage(model="mistral-large-latest", output_tokens=2)) == (
        3_000,
        "mistral/mistral-large-2512@seed",
    )
    assert cost_of(Usage(model="mistral-ocr-latest", unit="page", units=2)) == (
        8_000_000,
        "mistral/mistral-ocr-4-1@seed",
    )


def test_a_cost_of_the_past_reads_the_models_that_its_name_may_mean_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    add_price("mistral-small-2603", "input", 1_000, BEFORE)
    last = add_price("mistral-large-2512", "input", 1_000, timezone.now() - timedelta(hours=1))
    for provider, name in (("openrouter", "meta/llama"), ("groq", "meta/llama"), ("mistral-eu", "mistral-small-2603")):
        model = Model.objects.create(name=name, provider=provider, kinds=["chat"])
        Price.objects.create(model=model, unit="input", picos_per_unit=7_000)
    ModelAlias.objects.create(model=Model.objects.get(provider="groq"), name="llama")
    at = timezone.now() - timedelta(days=1)
    assert last.effective_from is not None
    whole = snapshot.read(now=at)
    names = {entry.provider: set() for entry in whole.by_name.values()}
    for name, entry in whole.by_name.items():
        names[entry.provider] |= {name, name.removeprefix(f"{entry.provider}/")}
    for provider in ("", "openai", *names):
        for name in set().union(*names.values()) if provider in ("", "openai") else names[provider]:
            usage = Usage(provider, name, 100, 0, 0)
            assert snapshot.cost_of(usage, at=at) == whole.cost_of(usage), usage

    read = []
    entry = snapshot._entry
    monkeypatch.setattr(snapshot, "_entry", lambda model, **fields: read.append(model.name) or entry(model, **fields))
    assert snapshot.cost_of(Usage(model="mistral-small-latest", input_tokens=100), at=at) is not None
    assert set(read) == {"mistral-small-2603"}


def test_what_has_no_price_has_no_cost_and_no_quote() -> None:
    assert cost_of(Usage(model="gpt-4o", input_tokens=5)) is None
    assert cost_of(Usage(provider="openai", model="mistral-embed", input_tokens=5)) is None
    assert snapshot.quote(model="gpt-4o", input_tokens=5, max_tokens=5) is None
    assert snapshot.quote(model="mistral-ocr-latest", input_tokens=5, max_tokens=5) is None


def test_quote_is_the_worst_case_under_the_name_asked_for() -> None:
    quote = snapshot.quote(model="mistral-small-latest", input_tokens=1_000, max_tokens=100)

    assert quote is not None
    assert quote.model == "mistral-small-latest"
    assert quote.cost_nanos == 150_000 + 60_000
    assert (quote.fixed_picos, quote.picos_per_output_token, quote.max_tokens) == (150_000_000, 600_000, 100)
    assert "mistral-small-2603" in quote.names


def test_price_counts_from_its_first_moment_until_superseded() -> None:
    start = datetime(2026, 3, 16, tzinfo=UTC)
    add_price("mistral-small-2603", "output", 900_000, LATER)

    def output_at(now: datetime) -> int | None:
        entry = snapshot.read(now=now).resolve("mistral-small-2603")
        assert entry is not None
        return entry.rates.output_picos if entry.rates else None

    assert output_at(BEFORE) is None
    assert output_at(start) == 600_000
    assert output_at(LATER) == 900_000
    rates = snapshot.read(now=LATER).by_name["mistral-small-2603"].rates
    assert rates is not None
    assert rates.rule == "mistral/mistral-small-2603@2026-10-01"
    assert rates.input_picos == 150_000


def test_a_price_of_longer_calls_counts_beside_that_of_shorter_ones() -> None:
    name = "mistral-small-2603"
    add_price(name, "input", 300_000, LATER, above_input_tokens=200_000)
    catalogue = snapshot.read(now=LATER)
    rates = catalogue.by_name[name].rates
    assert rates is not None
    # What has no row of its own costs what it costs in shorter calls.
    assert (rates.input_picos, rates.rule) == (150_000, f"mistral/{name}@2026-03-16")
    [(above, longer)] = rates.longer
    assert (above, longer.input_picos, longer.cached_picos, longer.output_picos) == (200_000, 300_000, 15_000, 600_000)
    assert longer.rule == f"mistral/{name}@2026-10-01>200000"
    at_most = Usage("mistral", name, input_tokens=200_000, output_tokens=10)
    assert catalogue.cost_of(at_most) == (200_000 * 150 + 10 * 600, rates.rule)
    above_it = Usage("mistral", name, input_tokens=200_001, output_tokens=10)
    assert catalogue.cost_of(above_it) == (200_001 * 300 + 10 * 600, longer.rule)
    # From the length on that a provider's own prompt may take over it.
    lengths = (198_976, 198_977)
    held = [catalogue.quote(model=name, input_tokens=tokens, max_tokens=10) for tokens in lengths]
    assert [quote and quote.cost_nanos for quote in held] == [198_976 * 150 + 10 * 600, 198_977 * 300 + 10 * 600]


def test_no_longer_call_costs_less_a_token_than_a_shorter_one() -> None:
    """A shorter call's price rises, and nobody has said what longer ones cost since."""
    add_price("mistral-small-2603", "input", 300_000, datetime(2026, 3, 16, tzinfo=UTC), above_input_tokens=200_000)
    add_price("mistral-small-2603", "input", 900_000, LATER)
    rates = snapshot.read(now=LATER).by_name["mistral-small-2603"].rates
    assert rates is not None
    assert rates.of(1_000_000).input_picos == 900_000
    halved = snapshot.rates_at(model=Model.objects.get(name="mistral-small-2603"), at=LATER, batch=True)
    assert halved is not None
    assert halved.of(1_000_000).input_picos == 450_000


def test_a_price_of_longer_calls_alone_is_no_price() -> None:
    model = Model.objects.create(name="long", provider="mistral", kinds=["embedding"])
    add_price("long", "input", 1, BEFORE, above_input_tokens=200_000)
    assert snapshot.rates_at(model=model, at=LATER) is None
    with pytest.raises(IntegrityError), transaction.atomic():
        add_price("long", "page", 1, BEFORE, above_input_tokens=200_000)


def test_rates_at_a_past_moment_come_from_the_database() -> None:
    model = Model.objects.get(name="mistral-small-2603")
    add_price("mistral-small-2603", "output", 900_000, LATER)

    then = snapshot.rates_at(model=model, at=datetime(2026, 4, 1, tzinfo=UTC))
    halved = snapshot.rates_at(model=model, at=LATER, batch=True, zone="eu")
    assert then is not None
    assert halved is not None
    assert then.output_picos == 600_000
    assert halved.output_picos == 900_000 * 110 * 50 // 10_000
    assert halved.rule == "mistral/mistral-small-2603@2026-10-01+eu+batch"


def test_zone_follows_the_host_of_the_api() -> None:
    assert snapshot.zone_of("https://api.mistral.ai") == "global"
    assert snapshot.zone_of("https://api.eu.mistral.ai/v1") == "eu"
    assert snapshot.zone_of("http://eu.example.com") == "global"


def test_snapshot_is_kept_until_forgotten_or_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    first = snapshot.current()
    add_price("mistral-embed", "input", 999, datetime(2026, 2, 2, tzinfo=UTC))

    assert snapshot.current() is first
    monkeypatch.setattr(snapshot._shelf, "_stale_at", 0.0)
    renewed = snapshot.resolve("mistral-embed")
    assert renewed is not None
    assert renewed.rates is not None
    assert renewed.rates.input_picos == 999


def test_snapshot_does_not_outlast_the_beginning_of_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    add_price("mistral-embed", "input", 999, now + timedelta(seconds=5))
    monkeypatch.setattr("llm.catalogue.snapshot.time.monotonic", lambda: 1_000.0)
    snapshot.current()

    assert 1_000.0 < snapshot._shelf._stale_at <= 1_005.0


@pytest.fixture
def slow_reading(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A price begins at the fifth second, and a reading takes as many seconds as `takes` says."""
    begun = timezone.now()
    add_price("mistral-embed", "input", 999, begun + timedelta(seconds=5))
    passed, read = {"s": 0.0, "takes": 0.0}, snapshot.read

    def slow(*, now: datetime) -> snapshot.Catalogue:
        found = read(now=now)
        passed["s"] += passed["takes"]
        return found

    monkeypatch.setattr("llm.catalogue.snapshot.time.monotonic", lambda: 1_000.0 + passed["s"])
    monkeypatch.setattr("llm.catalogue.snapshot.clock.now", lambda: begun + timedelta(seconds=passed["s"]))
    monkeypatch.setattr(snapshot, "read", slow)
    return passed


def input_picos(catalogue: snapshot.Catalogue) -> int:
    entry = catalogue.resolve("mistral-embed")
    assert entry is not None
    assert entry.rates is not None
    return entry.rates.input_picos


def test_a_snapshot_that_was_read_slowly_is_kept_no_longer(slow_reading: dict[str, float]) -> None:
    shelf, slow_reading["takes"] = snapshot._Shelf(), 3.0
    assert input_picos(shelf.current()) != 999
    assert not shelf.is_stale
    slow_reading["s"] = 5.0
    assert shelf.is_stale


def test_a_price_that_begins_while_the_snapshot_is_read_is_in_it(slow_reading: dict[str, float]) -> None:
    shelf, slow_reading["s"], slow_reading["takes"] = snapshot._Shelf(), 4.0, 1.5
    assert input_picos(shelf.fresh()) == 999
    assert not shelf.is_stale


def test_a_snapshot_that_another_renewed_and_that_is_stale_by_now_is_read_again(
    slow_reading: dict[str, float],
) -> None:
    shelf = snapshot._Shelf()
    old = shelf.current()
    slow_reading["s"] = 4.0
    shelf._stale_at = 0.0
    shelf.current()
    slow_reading["s"] = 5.0
    assert input_picos(shelf._renew(old)) == 999


def test_prices_that_begin_in_every_reading_are_not_waited_for(
    slow_reading: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, readings = snapshot.read, []

    def changing(*, now: datetime) -> snapshot.Catalogue:
        readings.append(now)
        return replace(slow(now=now), next_change_at=now + timedelta(seconds=1))

    monkeypatch.setattr(snapshot, "read", changing)
    slow_reading["takes"] = 2.0
    snapshot._Shelf().current()
    assert len(readings) == snapshot.MOST_READS


def test_old_snapshot_serves_while_the_database_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, now: datetime) -> snapshot.Catalogue:
        raise DatabaseError("gone")

    old, read = snapshot.current(), snapshot.read
    monkeypatch.setattr(snapshot, "read", broken)
    monkeypatch.setattr(snapshot._shelf, "_stale_at", 0.0)

    assert snapshot.current() is old
    # Also where it should be another.
    snapshot.forget()
    assert snapshot.current() is old
    with pytest.raises(DatabaseError):
        snapshot._Shelf().current()
    # Nobody takes it for fresh, and as soon as the database is back it is not.
    assert snapshot.is_stale()
    assert snapshot.fresh() is old
    monkeypatch.setattr(snapshot, "read", read)
    assert snapshot.current() is old
    assert snapshot.fresh() is not old
    assert snapshot.current() is snapshot.fresh()


def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot._shelf, "_stale_at", 0.0)


def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.forget()


@pytest.mark.parametrize("made_stale", [stale, changed])
def test_event_loop_is_served_the_old_snapshot_while_a_thread_reads(
    monkeypatch: pytest.MonkeyPatch, made_stale: Callable[[pytest.MonkeyPatch], None]
) -> None:
    old = snapshot.current()
    started, going_on, threads = threading.Event(), threading.Event(), []

    def slow(*, now: datetime) -> snapshot.Catalogue:
        threads.append(threading.current_thread())
        started.set()
        going_on.wait(2)
        return snapshot.Catalogue({})

    monkeypatch.setattr(snapshot, "read", slow)
    made_stale(monkeypatch)

    async def look() -> snapshot.Catalogue:
        return snapshot.current()

    assert asyncio.run(look()) is old
    assert started.wait(2)
    # Nor is it fresh for having been asked for.
    assert snapshot.is_stale()
    going_on.set()
    threads[0].join(2)
    assert threads[0] is not threading.main_thread()
    assert snapshot.current().by_name == {}


def test_price_is_never_changed_nor_deleted() -> None:
    price = Price.objects.first()
    assert price is not None
    price.picos_per_unit += 1

    for act in (price.save, price.delete, Price.objects.all().delete, lambda: Price.objects.update(source="x")):
        with pytest.raises(TypeError, match="never"):
            act()


@pytest.mark.parametrize("since", [None, datetime(2026, 3, 16, tzinfo=UTC)])
def test_two_prices_from_one_moment_are_refused(since: datetime | None) -> None:
    model = Model.objects.create(name="new", kinds=["chat"])
    Price.objects.create(model=model, unit="input", picos_per_unit=1, effective_from=since)
    with pytest.raises(IntegrityError):
        Price.objects.create(model=model, unit="input", picos_per_unit=2, effective_from=since)


@pytest.mark.parametrize("wrong", [{"picos_per_unit": -1}, {"currency": "EUR"}, {"unit": "hour"}, {"zone": "moon"}])
def test_impossible_price_is_refused_by_the_database(wrong: dict[str, Any]) -> None:
    model = Model.objects.create(name="new", kinds=["chat"])
    with pytest.raises(IntegrityError):
        Price.objects.create(**{"model": model, "unit": "input", "picos_per_unit": 1, **wrong})


def read_entry(name: str) -> Entry:
    entry = snapshot.read(now=LATER).resolve(name)
    assert entry is not None
    return entry


def picos(rates: Rates | None) -> tuple[int, int]:
    assert rates is not None
    return rates.input_picos, rates.output_picos


def another(provider: str, name: str, *, input_picos: int, alias: str = "") -> Model:
    model = Model.objects.create(provider=provider, name=name, kinds=["chat"])
    for unit in ("input", "output"):
        Price.objects.create(model=model, unit=unit, picos_per_unit=input_picos)
    if alias:
        ModelAlias.objects.create(model=model, name=alias)
    snapshot.forget()
    return model


def test_a_zone_serves_mistrals_models_at_its_own_rates_without_rows_of_its_own() -> None:
    entry = snapshot.resolve("mistral-eu/mistral-small-latest")

    assert entry is not None
    assert (entry.provider, entry.id, entry.upstream) == (
        "mistral-eu",
        "mistral-eu/mistral-small-2603",
        "mistral-small-2603",
    )
    assert entry.rates is not None
    assert (entry.rates.input_picos, entry.rates.cached_picos, entry.rates.output_picos) == (165_000, 16_500, 660_000)
    assert {"mistral-small-latest", "mistral-eu/mistral-small-latest"} < entry.names
    usage = Usage(provider="mistral-us", model="mistral-small-2603", input_tokens=1_000)
    assert cost_of(usage) == (165_000, "mistral/mistral-small-2603@2026-03-16+us")


def test_rows_of_a_zone_or_of_batch_jobs_count_before_the_surcharges() -> None:
    add_price("mistral-small-2603", "output", 999_000, LATER, zone="eu")
    add_price("mistral-small-2603", "output", 200_000, LATER, batch=True)

    eu, plain = read_entry("mistral-eu/mistral-small-2603"), read_entry("mistral-small-2603")
    assert picos(eu.rates) == (165_000, 999_000)
    assert picos(plain.rates) == (150_000, 600_000)
    assert picos(plain.batch_rates) == (75_000, 200_000)
    # A row for the zone is closer than one for batch jobs everywhere: half of the former.
    assert picos(eu.batch_rates) == (82_500, 499_500)


def test_a_service_tier_has_a_price_only_where_a_row_says_so() -> None:
    model = Model.objects.get(name="mistral-small-2603")
    assert snapshot.rates_at(model=model, at=LATER, tier="priority") is None
    add_price("mistral-small-2603", "output", 1_200_000, LATER, tier="priority")
    rates = snapshot.rates_at(model=Model.objects.get(name="mistral-small-2603"), at=LATER, tier="priority")
    assert rates is not None
    assert (rates.input_picos, rates.output_picos) == (150_000, 1_200_000)
    assert rates.rule == "mistral/mistral-small-2603@2026-10-01+priority"


def test_two_providers_may_use_one_name_and_a_bare_one_means_the_default() -> None:
    another("openrouter", "mistral-small-2603", input_picos=7, alias="mistral-small-latest")

    ours, theirs = snapshot.resolve("mistral-small-latest"), snapshot.resolve("openrouter/mistral-small-latest")
    assert ours is not None
    assert theirs is not None
    assert (ours.provider, theirs.provider, theirs.id) == ("mistral", "openrouter", "openrouter/mistral-small-2603")
    usage = Usage(provider="openrouter", model="mistral-small-2603", input_tokens=1_000)
    assert cost_of(usage) == (7, "openrouter/mistral-small-2603@seed")
    nearest = snapshot.current().nearest
    assert nearest("mistral-small-latest", home="openrouter") == "openrouter/mistral-small-latest"
    assert nearest("mistral-embed", home="openrouter") == nearest("mistral-embed", home="mistral") == "mistral-embed"


def test_a_bare_name_that_one_other_provider_alone_has_means_that_one() -> None:
    another("openai", "gpt-9", input_picos=7)
    entry = snapshot.resolve("gpt-9")
    assert entry is snapshot.resolve("openai/gpt-9")
    assert cost_of(Usage(provider="openai", model="gpt-9", input_tokens=1_000)) == (
        7,
        "openai/gpt-9@seed",
    )
    another("azure", "gpt-9", input_picos=9)
    assert snapshot.resolve("gpt-9") is None
    assert snapshot.resolve("azure/gpt-9") is not None


def test_a_name_behind_its_provider_is_that_providers_whatever_another_calls_its_models() -> None:
    another("openrouter", "openai/gpt-9", input_picos=9)
    resold = snapshot.resolve("openai/gpt-9")
    assert resold is not None
    assert resold.provider == "openrouter"
    another("openai", "gpt-9", input_picos=7)
    own, resold = snapshot.resolve("openai/gpt-9"), snapshot.resolve("openrouter/openai/gpt-9")
    assert own is not None
    assert resold is not None
    assert (own.provider, resold.provider) == ("openai", "openrouter")
    assert cost_of(Usage(provider="openai", model="gpt-9", input_tokens=1_000)) == (7, "openai/gpt-9@seed")

    another("openrouter", "mistral/mistral-small-2603", input_picos=9)
    another("openrouter", "mistral/gpt-9", input_picos=9)
    for name, provider in (
        ("mistral/mistral-small-2603", "mistral"),
        ("mistral-small-2603", "mistral"),
        ("gpt-9", "openai"),
    ):
        entry = snapshot.resolve(name)
        assert entry is not None
        assert entry.provider == provider


def test_zones_of_mistral_raise_no_other_provider_s_prices(settings: Any) -> None:
    settings.MISTRAL_API_BASE = "https://api.eu.mistral.ai"
    another("openai", "gpt-9", input_picos=100)
    assert picos(read_entry("openai/gpt-9").rates) == (100, 100)
    assert picos(read_entry("mistral-small-latest").rates) == (165_000, 660_000)


def test_a_wrong_price_is_superseded_from_its_beginning_and_the_rule_says_so() -> None:
    wrong = Price.objects.get(model__name="mistral-small-2603", unit="output")
    right = prices.correct(
        price=wrong, picos_per_unit=500_000, source="invoice", by=Actor("olga"), now=LATER, reason="a slip"
    )
    then = snapshot.rates_at(model=right.model, at=datetime(2026, 4, 1, tzinfo=UTC))
    assert then is not None
    assert (then.output_picos, then.rule) == (500_000, "mistral/mistral-small-2603@2026-03-16#2")
    with pytest.raises(prices.CorrectedBefore):
        prices.correct(price=wrong, picos_per_unit=1, source="", by=Actor("max"), now=LATER, reason="again")
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.reason) == ("price.correct", "mistral-small-2603", "a slip")
    assert row.old is not None
    assert row.new is not None
    assert (row.old["picos_per_unit"], row.new["picos_per_unit"]) == (600_000, 500_000)
    again = prices.correct(price=right, picos_per_unit=550_000, source="", by=Actor("max"), now=LATER, reason="x")
    rates = snapshot.rates_at(model=Model.objects.get(pk=again.model_id), at=LATER)
    assert rates is not None
    assert (rates.output_picos, rates.rule) == (550_000, "mistral/mistral-small-2603@2026-03-16#3")


@pytest.mark.django_db
class TestRatesOfRule:
    """The rates that a charge's rule names, for the sentence of its price."""

    def test_of_a_rule_in_force_are_those_it_charges_by(self) -> None:
        for name in ("mistral-small-2603", "mistral-eu/mistral-small-2603", "mistral-ocr-4-1"):
            entry = snapshot.read(now=timezone.now()).resolve(name)
            assert entry is not None, name
            assert entry.rates is not None, name
            found = snapshot.rates_of_rule(entry.rates.rule, at=timezone.now())
            assert found is not None, name
            assert (found.input_picos, found.cached_picos, found.output_picos, dict(found.units)) == (
                entry.rates.input_picos,
                entry.rates.cached_picos,
                entry.rates.output_picos,
                dict(entry.rates.units),
            )

    def test_of_longer_calls_are_those_of_their_length(self) -> None:
        for unit, picos in (("input", 300_000), ("output", 900_000)):
            add_price("mistral-small-2603", unit, picos, BEFORE, above_input_tokens=200_000)
        for name, hundredths in (("mistral-small-2603", 100), ("mistral-eu/mistral-small-2603", 110)):
            entry = snapshot.read(now=LATER).resolve(name)
            assert entry is not None, name
            assert entry.rates is not None, name
            [(above, longer)] = entry.rates.longer
            found = snapshot.rates_of_rule(longer.rule, at=LATER)
            assert found is not None, name
            assert above == 200_000
            assert (found.input_picos, found.output_picos) == (3_000 * hundredths, 9_000 * hundredths)

    def test_of_a_batch_are_half(self) -> None:
        entry = snapshot.read(now=timezone.now()).resolve("mistral-small-2603")
        assert entry is not None
        assert entry.batch_rates is not None
        found = snapshot.rates_of_rule(entry.batch_rates.rule, at=timezone.now())
        assert found is not None
        assert found.output_picos == entry.batch_rates.output_picos

    @pytest.mark.parametrize(
        "rule", ["", "demo", "mistral/nope@seed", "mistral/mistral-small-2603@1999-01-01", "a/b/c"]
    )
    def test_of_a_rule_that_nobody_knows_are_none(self, rule: str) -> None:
        assert snapshot.rates_of_rule(rule, at=timezone.now()) is None
