"""Another source's prices are differences to approve: shown, taken over on request, never overwriting ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from genai_prices.data_snapshot import get_snapshot

from governance.audit import Actor
from governance.models import AuditEntry
from llm.catalogue import comparison, seed, snapshot
from llm.models import Model, Price

pytestmark = pytest.mark.django_db
HEADER = "model,unit,usd_per_million_input,usd_per_million_cached_input,usd_per_million_output,source\n"
AT = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fresh_snapshot() -> Iterator[None]:
    snapshot.forget()
    yield
    snapshot.forget()


@pytest.fixture
def bill(tmp_path: Path) -> Path:
    """One price that differs, one that does not, one of a model that we do not have."""
    path = tmp_path / "bill.csv"
    path.write_text(
        HEADER
        + "mistral-small-2603,token,0.15,0.015,0.3,the bill\n"
        + "mistral-tiny-9,token,0.01,,0.02,the bill\n"
        + "voxtral-mini-2602,audio_minute,6000,,,the bill\n"
    )
    return path


def compare(*args: Any, **options: Any) -> tuple[int, str]:
    out, status = StringIO(), 0
    try:
        call_command("import_prices", *args, **options, stdout=out)
    except SystemExit as stop:
        status = int(str(stop.code))
    return status, out.getvalue()


def output_at(at: datetime) -> int:
    return snapshot.rows_at(model=Model.objects.get(name="mistral-small-2603"), at=at)["output", 0].picos_per_unit


def test_only_what_differs_is_shown_with_its_ratio(bill: Path) -> None:
    found = comparison.differences(comparison.from_file(bill), at=AT)
    assert [(one.name, one.offer.unit, one.ratio) for one in found] == [
        ("mistral/mistral-small-2603", "output", Decimal("0.500")),
        ("mistral/mistral-tiny-9", "input", None),
        ("mistral/mistral-tiny-9", "output", None),
        ("mistral/voxtral-mini-2602", "audio_second", Decimal("2.000")),
    ]


def test_the_other_source_and_the_shipped_prices_agree_to_the_picodollar() -> None:
    offers = comparison.from_genai(provider="mistral", at=AT)
    assert {offer.model for offer in offers} > {"mistral-small-2603", "mistral-ocr-4-1", "voxtral-mini-2602"}
    differing = {(one.offer.model, one.offer.unit) for one in comparison.differences(offers, at=AT)}
    # It knows a rate for cached input of a model that has none in the provider's own list.
    assert differing <= {("codestral-embed", "cached_input")}


def test_models_that_we_do_not_have_are_offered_on_request() -> None:
    known = {offer.model for offer in comparison.from_genai(provider="openai", at=AT, new=True)}
    assert "gpt-4o" in known
    assert comparison.from_genai(provider="openai", at=AT) == []
    assert comparison.from_genai(provider="nobody", at=AT) == []


def offered(provider: str, model: str, at: datetime = AT) -> dict[str, comparison.Offer]:
    offers = comparison.from_genai(provider=provider, at=at, new=True)
    return {offer.part: offer for offer in offers if offer.model == model}


def test_what_longer_calls_cost_is_offered_taken_over_and_compared() -> None:
    short, long = (offered("openai", "gpt-5.4")[part] for part in ("input", "input>272000"))
    assert long.picos == 2 * short.picos
    assert compare(provider="openai", new=True, approve=["gpt-5.4"])[0] == 1
    entry = snapshot.resolve("openai/gpt-5.4")
    assert entry is not None
    assert entry.rates is not None
    assert (entry.rates.input_picos, entry.rates.of(272_001).input_picos) == (short.picos, long.picos)
    model = Model.objects.get(provider="openai", name="gpt-5.4")
    assert {price.above_input_tokens for price in model.prices.all()} == {0, 272_000}
    assert compare(provider="openai")[0] == 0


def test_a_price_of_longer_calls_that_was_missing_all_along_counts_from_the_beginning_of_the_shorter_ones() -> None:
    offers = [replace(offer, above=0) for offer in offered("openai", "gpt-5.4").values() if not offer.above]
    began = datetime(2026, 4, 1, tzinfo=UTC)
    by = Actor("olga")
    comparison.take_over(comparison.differences(offers, at=AT), effective_from=began, by=by, now=AT, reason="new")
    status, said = compare(provider="openai", approve_all=True, from_beginning=True, json=True)
    assert status == 0
    assert {row["above_input_tokens"] for row in json.loads(said)["differences"]} == {272_000}
    assert set(Price.objects.filter(above_input_tokens=272_000).values_list("effective_from", flat=True)) == {began}


def test_of_prices_that_change_with_the_hour_the_dearest_of_the_day_is_offered() -> None:
    by_hour = [offered("deepseek", "deepseek-v4-pro", AT.replace(hour=hour)) for hour in range(24)]
    assert all(offers == by_hour[0] for offers in by_hour)
    theirs = next(found for found in get_snapshot().providers if found.id == "deepseek").find_model("deepseek-v4-pro")
    assert theirs is not None
    inputs = [theirs.get_prices(AT.replace(hour=hour)).input_mtok for hour in range(24)]
    assert min(inputs) < max(inputs)
    assert by_hour[0]["input"].picos == max(inputs) * 1_000_000
    assert "the dearest of the day" in compare(provider="deepseek", new=True)[1]
    assert "dearest" not in offered("openai", "gpt-5.4")["input"].source


def test_a_model_with_a_fee_for_each_request_is_refused_by_name() -> None:
    assert offered("perplexity", "sonar")["request"].picos == 12 * 10**9
    for approve in ("sonar", "perplexity/sonar:input"):
        with pytest.raises(CommandError, match="perplexity/sonar costs a fee for each request") as refused:
            compare(provider="perplexity", new=True, approve=[approve])
        assert refused.value.returncode == 2
    assert not Model.objects.filter(provider="perplexity").exists()
    status, said = compare(provider="perplexity", new=True, approve_all=True)
    assert status == 1
    assert "perplexity/sonar costs a fee for each request as well" in said
    added = set(Model.objects.filter(provider="perplexity").values_list("name", flat=True))
    assert added
    assert "sonar" not in added


def test_nothing_is_written_unless_it_is_approved(bill: Path) -> None:
    before = Price.objects.count()
    status, said = compare(str(bill))
    assert status == 1
    assert "mistral/mistral-small-2603" in said
    assert "mistral-tiny-9" not in said
    assert compare(str(bill), approve_all=True, dry_run=True)[0] == 1
    assert Price.objects.count() == before
    assert not AuditEntry.objects.exists()


def test_what_is_approved_begins_when_it_is_told_and_supersedes_nothing_before(bill: Path) -> None:
    status, said = compare(
        str(bill), approve=["mistral-small-2603:output"], effective_from="2026-12-01", reason="the bill", json=True
    )
    assert status == 1, "the audio price is left open"
    assert [row["taken_over"] for row in json.loads(said)["differences"]] == [True, False]
    assert (output_at(AT), output_at(datetime(2026, 12, 1, tzinfo=UTC))) == (600_000, 300_000)
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.reason) == ("price.add", "mistral-small-2603", "the bill")


def test_once_all_is_approved_nothing_differs_any_more(bill: Path) -> None:
    assert compare(str(bill), approve_all=True)[0] == 0
    status, said = compare(str(bill))
    assert (status, said.strip()) == (0, "Nothing differs.")


def test_a_price_that_was_wrong_all_along_is_superseded_from_its_beginning(bill: Path) -> None:
    compare(str(bill), approve=["mistral/mistral-small-2603"], from_beginning=True)
    assert output_at(datetime(2026, 3, 16, tzinfo=UTC)) == 300_000
    assert AuditEntry.objects.get().action == "price.correct"


def test_a_new_model_is_added_and_served_once_it_is_approved(bill: Path) -> None:
    compare(str(bill), new=True, approve=["mistral-tiny-9"])
    entry = snapshot.resolve("mistral-tiny-9")
    assert entry is not None
    assert entry.rates is not None
    assert (entry.rates.input_picos, entry.rates.output_picos) == (10_000, 20_000)
    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions == ["model.add", "price.add", "price.add"]


def test_a_second_price_for_one_moment_is_refused_and_nothing_of_it_stays(bill: Path) -> None:
    before = Price.objects.count()
    with pytest.raises(CommandError, match="--effective-from: There is a price from that very moment") as refused:
        compare(str(bill), approve_all=True, effective_from="2026-03-16")
    assert refused.value.returncode == 2
    assert Price.objects.count() == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("mistral-small-2603,token,cheap,,,x", "bad.csv, line 2: 'cheap' is no price"),
        ("mistral-small-2603,token,-1,,,x", "-1 is no price"),
        ("mistral-small-2603,token,NaN,,,x", "NaN is no price"),
        ("mistral-small-2603,token,0.0000001,,,x", "finer than a picodollar"),
        ("mistral-small-2603,hour,1,,,x", "the unit 'hour' is not known"),
        ("mistral-small-2603,page,1,,,x,200000", "only tokens have a price of longer calls"),
        ("mistral-small-2603,token,1,,1,x,-1", "is a number of tokens"),
        (",token,1,,,x", "the model has no name"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(HEADER.replace("\n", ",above_input_tokens\n") + line + "\n")
    with pytest.raises(CommandError, match=says):
        compare(str(path))


def test_a_file_may_say_what_longer_calls_cost(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(HEADER.replace("\n", ",above_input_tokens\n") + "mistral-small-2603,token,0.3,,1.2,x,200000\n")
    assert compare(str(path), approve_all=True)[0] == 0
    entry = snapshot.resolve("mistral-small-2603")
    assert entry is not None
    assert entry.rates is not None
    assert (entry.rates.input_picos, entry.rates.of(200_001).input_picos) == (150_000, 300_000)


def test_a_missing_column_file_or_approval_is_said(tmp_path: Path, bill: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("model,usd_per_million_input\nx,1\n")
    with pytest.raises(seed.Malformed, match="the column 'unit' is missing"):
        comparison.from_file(path)
    with pytest.raises(CommandError, match="No such file"):
        compare(str(tmp_path / "none.csv"))
    with pytest.raises(CommandError, match="--approve mistral-embed: nothing differs there"):
        compare(str(bill), approve=["mistral-embed"])


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "genai_prices.data_snapshot", None)
    with pytest.raises(comparison.SourceMissing, match="install the package genai-prices"):
        comparison.from_genai(provider="mistral", at=timezone.now())
    with pytest.raises(CommandError, match="install the package"):
        compare()


def test_offers_are_taken_over_together(bill: Path) -> None:
    found = comparison.differences(comparison.from_file(bill), at=AT)
    made = comparison.take_over(found, effective_from=AT, by=Actor("olga"), now=AT, reason="the bill")
    assert len(made) == 4
    assert {price.recorded_at for price in made} == {AT}
