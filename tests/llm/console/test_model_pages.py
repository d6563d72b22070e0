"""The list of models, a model's page, the pool and prices elsewhere: what they say, to whom, and how many queries."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from governance import ledger
from governance.models import AuditEntry
from governance.rules.calls import Usage
from llm.catalogue import comparison, snapshot
from llm.catalogue.comparison import Offer, SourceMissing
from llm.models import Model, ModelAlias, Price
from llm.state import breakers
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db
# The shipped prices have begun by then.
NOW = factories.NOON + timedelta(days=170)
HOSTILE = "<script>alert(1)</script>"
LIST = "/admin/llm/model/"


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    snapshot.forget()
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(factories.person("vera", "viewer"))
    return client


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(factories.person("olga", "operator"))
    return client


def spent(cost: str, model: str, provider: str = "mistral", **who: str) -> None:
    made = factories.reporting(cost, occurred_at=NOW, by=factories.caller(**who))
    ledger.record(replace(made, usage=Usage(provider, model, 10, 0, 10)), now=NOW)


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def in_words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def address(name: str) -> str:
    return reverse("admin:llm_model_change", args=[Model.objects.get(name=name).pk])


def test_each_model_is_a_row_with_its_prices_state_and_use(viewer: Client) -> None:
    spent("2.50", "mistral-small-2603")
    spent("0.50", "mistral-small-2603")
    Model.objects.create(name="bare", provider="openai", kinds=["chat"])
    Model.objects.filter(name="codestral-2508").update(status="deprecated", replacement="codestral-3")
    cl = viewer.get(LIST).context["cl"]
    rows = {row.model.name: row for row in cl.rows}
    small = rows["mistral-small-2603"]
    assert cl.rows[0] is small
    assert (small.prices, small.context, small.calls) == (("$0.15", "$0.015", "$0.60"), "256k", "2")
    assert small.standing.cost_nanos == nanos("3.00")
    assert rows["mistral-ocr-4-1"].units == ["$5.00 per 1,000 annotated pages", "$4.00 per 1,000 pages"]
    assert rows["mistral-embed"].prices == ("$0.10", "$0.10", "–")
    assert rows["mistral-moderation-2603"].prices == ("free", "free", "–")
    assert [badge.word for badge in rows["bare"].badges] == ["no price"]
    assert [(badge.word, badge.meaning) for badge in rows["codestral-2508"].badges] == [
        ("deprecated", "codestral-3 would replace it")
    ]
    tabs = {tab.words: tab.count for tab in cl.tabs}
    assert (tabs["No price"], tabs["Deprecated"], tabs["Preview"]) == (1, 1, 1)
    assert [row.model.name for row in viewer.get(f"{LIST}?state=unpriced").context["cl"].rows] == ["bare"]
    prices = [row.standing.rates for row in viewer.get(f"{LIST}?sort=price").context["cl"].rows]
    inputs = [each.input_picos for each in prices if each and each.by_token]
    assert inputs == sorted(inputs)


def test_a_figure_leads_to_as_many_calls(viewer: Client) -> None:
    for cost in ("1", "2", "3"):
        spent(cost, "mistral-small-2603")
    spent("7", "mistral-small-2603", provider="groq")
    small = viewer.get(LIST).context["cl"].rows[0]
    calls, spend = small.links
    assert len(viewer.get(calls).context["lines"]) == small.standing.calls == 3
    assert "$6.00" in text(viewer, spend)
    spent("1", "mistral-small-latest")
    small = viewer.get(LIST).context["cl"].rows[0]
    assert small.links[0] == f"{address('mistral-small-2603')}#used"
    assert "mistral/mistral-small-latest" in text(viewer, address("mistral-small-2603"))


def test_a_breaker_that_is_open_is_told_in_words(viewer: Client, settings: Any, tmp_path: Any) -> None:
    settings.VAR_DIR = tmp_path
    breakers.shared.cache_clear()
    try:
        breakers.shared().cool_down("mistral/mistral-small-2603", 1, NOW.timestamp() + 60, NOW.timestamp())
        shown = viewer.get(f"{LIST}?q=mistral-small-2603").context["cl"].rows[0]
        words = [badge.word for badge in shown.badges]
        pool = viewer.get("/admin/models/routing/").context["pool"]
        page = in_words(text(viewer, address("mistral-small-2603")))
    finally:
        breakers.shared().close()
        breakers.shared.cache_clear()
    assert any(word in ("cooling down", "open for 1 customer") for word in words)
    assert "Breaker" in page
    assert {row["name"]: row["tone"] for row in pool}["mistral-small-latest"] in ("active", "stopped")


def test_a_models_page_tells_its_prices_as_sentences_and_the_next_one(viewer: Client) -> None:
    small = Model.objects.get(name="mistral-small-2603")
    Price.objects.create(
        model=small, unit="input", picos_per_unit=200_000, effective_from=NOW + timedelta(days=30), source="mail"
    )
    wrong = Price.objects.get(model=small, unit="output")
    Price.objects.create(
        model=small, unit="output", picos_per_unit=300_000, effective_from=wrong.effective_from, supersedes=wrong
    )
    Price.objects.create(model=small, unit="output", picos_per_unit=90_000, batch=True, source="docs")
    factories.budget("1", downgrade_rules=[{"from": ["mistral-large-latest"], "to": "mistral-small-latest"}])
    page = in_words(text(viewer, address("mistral-small-2603")))
    assert "its next price begins Sep 26, 2026, 12:00 UTC" in page
    assert "From Sep 26, 2026, 12:00 UTC until further notice: $0.20 in, $0.015 cached and $0.30 out" in page
    assert "in +33.3%" in page
    assert "From Mar 16, 2026, 00:00 UTC until Sep 26, 2026" in page
    assert "In a batch" in page
    assert "corrected" in page
    assert "moves mistral-large-latest here from its soft cap on" in page
    assert "Correct" not in page.split("Source")[-1].split("Used in")[0].replace("corrected", "")


def test_hostile_names_are_text_and_a_model_without_anything_has_a_page(operator: Client) -> None:
    model = Model.objects.create(name=HOSTILE, provider="groq", owned_by=HOSTILE[:40], kinds=[], capabilities=[])
    ModelAlias.objects.create(model=model, name=f"{HOSTILE}2")
    for path in (LIST, reverse("admin:llm_model_change", args=[model.pk])):
        page = text(operator, path)
        assert HOSTILE not in page
        assert html.escape(HOSTILE) in page
    assert "It has no price, so calls of it are refused" in page
    assert "Add one" in page


@pytest.mark.parametrize(
    "path", [f"{LIST}?state=x&sort=y&p=99", f"{LIST}?q=nothing-like-it", "/admin/models/offers/?provider=x"]
)
def test_bad_addresses_have_a_page(operator: Client, path: str) -> None:
    assert operator.get(path, follow=True).status_code == 200


def test_tenants_staff_sees_the_playground_alone_of_this() -> None:
    client = Client()
    client.force_login(factories.person("tess", "tenant staff", of=factories.tenant()))
    paths = [LIST, address("mistral-embed"), "/admin/models/routing/", "/admin/models/offers/"]
    assert {client.get(path).status_code for path in paths} == {403}
    assert client.get("/admin/models/playground/").status_code == 200


def test_pages_of_many_models_ask_as_often_as_those_of_few(viewer: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(40):
        model = Model.objects.create(name=f"m-{number}", provider="groq", kinds=["chat"])
        ModelAlias.objects.create(model=model, name=f"a-{number}")
        Price.objects.create(model=model, unit="input", picos_per_unit=1)
    page = address("mistral-small-2603")
    # The catalogue is read once for all.
    snapshot.current()
    for path, most in ((LIST, 14), (page, 22), ("/admin/models/routing/", 14)):
        with django_assert_max_num_queries(most):
            viewer.get(path)


def test_the_pool_and_its_chains_are_those_of_the_file(viewer: Client) -> None:
    found = viewer.get("/admin/models/routing/").context
    assert [row["means"] for row in found["pool"] if row["name"] == "mistral-small-latest"] == ["mistral-small-2603"]
    assert [name for name, _ in found["chains"]] == ["default", "code"]
    assert "code" in [name for name, *_ in found["strategies"]]


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> list[Offer]:
    found = [
        Offer("mistral", "mistral-small-2603", "input", 300_000, "elsewhere 1"),
        Offer("mistral", "mistral-small-2603", "output", 600_000, "elsewhere 1"),
        Offer("mistral", "mistral-large-2512", "input", 5_000_000, "elsewhere 1"),
    ]
    monkeypatch.setattr(comparison, "from_genai", lambda **_: found)
    return found


SMALL, LARGE = "mistral/mistral-small-2603:input:300000", "mistral/mistral-large-2512:input:5000000"
OFFERS = "/admin/models/offers/"


def test_what_differs_elsewhere_is_shown_and_taken_over_where_it_is_ticked(
    operator: Client, offers: list[Offer]
) -> None:
    rows = operator.get(OFFERS).context["rows"]
    assert {(row.key, row.change, row.is_odd) for row in rows} == {(SMALL, "+100.0%", False), (LARGE, "+900.0%", True)}
    done = operator.post(OFFERS, {"offer": SMALL, "reason": "their mail", "since": "2026-10-01T00:00"}, follow=True)
    assert "1 price taken over." in done.content.decode()
    price = Price.objects.get(source="elsewhere 1")
    assert (price.picos_per_unit, price.effective_from and price.effective_from.isoformat()) == (
        300_000,
        "2026-10-01T00:00:00+00:00",
    )
    assert AuditEntry.objects.get(action="price.add").reason == "their mail"


def test_longer_calls_have_offers_and_a_table_of_their_own_and_what_has_a_fee_is_only_shown(
    operator: Client, offers: list[Offer]
) -> None:
    name = "mistral-small-2603"
    offers[:] = [
        Offer("mistral", name, "input", 300_000, "elsewhere 1", above=200_000),
        Offer("mistral", "mistral-large-2512", "request", 12 * 10**9, "elsewhere 1", has_fee=True),
    ]
    rows = {row.name: row for row in operator.get(OFFERS).context["rows"]}
    fee, longer = rows["mistral/mistral-large-2512"], rows[f"mistral/{name}"]
    assert (fee.key, fee.unit, fee.source) == ("", "request", "elsewhere 1: a fee for each request, too")
    assert (longer.key, longer.unit) == (f"mistral/{name}:input>200000:300000", "input token, above 200,000")
    forged = {"offer": "mistral/mistral-large-2512:request:12000000000", "reason": "x"}
    assert "has changed since" in operator.post(OFFERS, forged).content.decode()
    operator.post(OFFERS, {"offer": longer.key, "reason": "their mail"})
    assert Price.objects.get(source="elsewhere 1").above_input_tokens == 200_000
    assert "Calls above 200,000 input tokens" in in_words(text(operator, address(name)))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"reason": "x"}, "Tick what"),
        ({"offer": SMALL, "reason": " "}, "Give a reason"),
        ({"offer": "mistral/mistral-small-2603:input:299999", "reason": "x"}, "has changed since"),
        ({"offer": SMALL, "reason": "x", "since": "tomorrow"}, "is a moment of UTC"),
    ],
)
def test_nothing_is_taken_over_that_was_not_seen_and_given_a_reason_for(
    operator: Client, offers: list[Offer], sent: dict[str, str], words: str
) -> None:
    assert words in operator.post(OFFERS, sent).content.decode()
    assert not Price.objects.filter(source="elsewhere 1").exists()


def test_a_price_that_was_wrong_all_along_is_corrected_once(operator: Client, offers: list[Offer]) -> None:
    sent = {"offer": SMALL, "reason": "the bill", "wrong": "yes"}
    assert "reprice" in operator.post(OFFERS, sent, follow=True).content.decode()
    assert Price.objects.get(source="elsewhere 1").supersedes is not None


def test_who_may_only_look_takes_nothing_over(
    viewer: Client, offers: list[Offer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Take the ticked ones over" not in text(viewer, OFFERS)
    assert viewer.post(OFFERS, {"offer": SMALL, "reason": "x"}).status_code == 403

    def missing(**_: Any) -> list[Offer]:
        raise SourceMissing("install it")

    monkeypatch.setattr(comparison, "from_genai", missing)
    assert "There is nothing to compare with: install it." in text(viewer, OFFERS)
