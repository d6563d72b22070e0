"""The provider's list of models, taken over every night; and the alerts about models in use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.core.management import CommandError, call_command
from django.db.models import QuerySet
from django.utils import timezone

from governance import ledger
from governance.ledger.operations import Record
from governance.models import Alert, AuditEntry, RefusedCall, SpendRollup
from governance.rules.calls import Usage
from llm import tasks
from llm.catalogue import comparison, model_alerts, snapshot, sync
from llm.catalogue.comparison import Offer
from llm.models import Model, ModelAlias, Price
from llm.sandbox import Sandbox
from tests import factories

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
SMALL = "mistral-small-2603"


@pytest.fixture(autouse=True)
def fresh_snapshot(settings: Any) -> Iterator[None]:
    settings.MISTRAL_API_KEY = ""
    settings.MISTRAL_API_BASE = "https://api.mistral.ai"
    snapshot.forget()
    yield
    snapshot.forget()


def listed(*changed: dict[str, Any], without: tuple[str, ...] = ()) -> list[sync.ListedModel]:
    """The catalogue as the provider would list it, with some cards otherwise."""
    cards = {
        row.name: {
            "id": row.name,
            "aliases": [alias.name for alias in row.aliases.all()],
            "capabilities": {"completion_chat": True},
            "max_context_length": row.context_tokens,
        }
        for row in Model.objects.filter(provider="mistral")
        if row.name not in without
    }
    for card in changed:
        cards[card["id"]] = {**cards.get(card["id"], {}), **card}
    return sync.cards(cards.values())


def take_over(*changed: dict[str, Any], now: datetime = NOW, **fields: Any) -> list[str]:
    return sync.take_over(listed(*changed, **fields), now=now).changes


def audited() -> QuerySet[AuditEntry, tuple[str, str, str]]:
    return AuditEntry.objects.order_by("id").values_list("action", "target", "actor")


def test_the_same_list_changes_nothing_but_when_it_was_seen() -> None:
    assert take_over() == []
    assert not AuditEntry.objects.exists()
    assert set(Model.objects.values_list("listed_at", flat=True)) == {NOW}


def test_a_new_model_is_a_preview_that_is_never_served_until_it_is_confirmed() -> None:
    changes = take_over({"id": "mistral-next-1", "aliases": ["mistral-next-latest"], "max_context_length": 99_000})
    assert changes == [
        "mistral-next-1: new; a preview until it has a price and is confirmed",
        "mistral-next-latest: means mistral-next-1",
    ]
    row = Model.objects.get(name="mistral-next-1")
    assert (row.status, row.context_tokens, row.kinds) == ("preview", 99_000, ["chat"])
    assert snapshot.resolve("mistral-next-1") is None
    assert list(audited()) == [
        ("model.add", "mistral-next-1", "model sync"),
        ("modelalias.add", "mistral-next-latest", "model sync"),
    ]


def test_an_alias_follows_the_list_and_an_id_stays_its_own() -> None:
    changes = take_over(
        {"id": SMALL, "aliases": ["mistral-embed"]},
        {"id": "mistral-small-2611", "aliases": ["mistral-small-latest"]},
    )
    assert "mistral-small-latest: means mistral-small-2611, meant mistral-small-2603" in changes
    assert ModelAlias.objects.get(name="mistral-small-latest").model.name == "mistral-small-2611"
    assert not ModelAlias.objects.filter(name="mistral-embed").exists()
    # It has no price yet, and unknown prices are refused.
    assert snapshot.read(now=NOW).resolve("mistral-small-latest") is None


def test_deprecation_context_and_names_on_invoices_are_kept_with_their_old_values() -> None:
    card = {
        "id": SMALL,
        "deprecation": NOW - timedelta(days=1),
        "deprecation_replacement_model": "mistral-small-2611",
        "billing_model_name": "mistral-small",
        "max_context_length": 262_144,
    }
    take_over(card)
    row = Model.objects.get(name=SMALL)
    assert (row.status, row.replacement, row.billing_name) == ("deprecated", "mistral-small-2611", "mistral-small")
    assert (row.context_tokens, row.deprecated_at) == (262_144, NOW - timedelta(days=1))
    entry = AuditEntry.objects.get(action="model.change")
    assert entry.old is not None
    assert (entry.old["status"], entry.old["context_tokens"]) == ("ga", "256000")
    assert snapshot.read(now=NOW).resolve(SMALL) is not None


def test_a_coming_deprecation_changes_no_status_and_an_unsaid_context_no_context() -> None:
    take_over({"id": SMALL, "deprecation": NOW + timedelta(days=90), "max_context_length": sync.UNSAID_CONTEXT})
    row = Model.objects.get(name=SMALL)
    assert (row.status, row.context_tokens) == ("ga", 256_000)


def test_only_what_was_deprecated_is_retired_when_the_list_leaves_it_out() -> None:
    take_over({"id": SMALL, "deprecation": NOW - timedelta(days=1)})
    changes = take_over(now=NOW + timedelta(days=1), without=(SMALL, "mistral-embed"))
    assert changes == [f"{SMALL}: retired"]
    assert Model.objects.get(name="mistral-embed").status == "ga"


@pytest.mark.parametrize("cards", [[], [sync.ListedModel(frozenset({"mistral-embed"}), "mistral-embed")]])
def test_a_list_that_leaves_out_most_of_what_is_served_is_not_believed(cards: list[sync.ListedModel]) -> None:
    take_over()
    with pytest.raises(sync.SyncFailed, match="leaves out"):
        sync.take_over(cards, now=NOW)
    assert Model.objects.get(name=SMALL).status == "ga"


def test_the_list_s_cards_for_each_name_are_one_model() -> None:
    names = ["m-2611", "m-latest", "m"]
    [card] = sync.cards([{"id": name, "name": "m-2611", "aliases": [n for n in names if n != name]} for name in names])
    assert (card.canonical, card.names) == ("m-2611", frozenset(names))
    [unsaid] = sync.cards([{"id": "m-latest", "aliases": ["m-2611"]}, {"id": "m-2611", "aliases": ["m-latest"]}])
    assert unsaid.canonical == "m-2611"


def used(name: str = SMALL, *, provider: str = "mistral", at: datetime = NOW) -> None:
    usage = Usage(provider, name, 10, 0, 10)
    operation = Record(uuids.uuid7(), factories.caller(), str(uuids.uuid7()), 1_000, usage, occurred_at=at)
    ledger.record(operation, now=at)


def open_alerts() -> set[tuple[str, str]]:
    return set(Alert.objects.filter(cleared_at=None).values_list("kind", "subject"))


def test_models_in_use_without_a_price_are_told_of_and_cleared_when_they_have_one() -> None:
    used("mistral-small-latest")
    used("gpt-9", provider="openai")
    factories.budget(downgrade_rules=[{"from": ["mistral-small-latest"], "to": "mistral-large-4"}])
    assert model_alerts.look(now=NOW) == 2
    assert open_alerts() == {("price_missing", "openai/gpt-9"), ("price_missing", "mistral-large-4")}
    Model.objects.filter(name="mistral-large-4").update(status="ga")
    model_alerts.look(now=NOW)
    assert open_alerts() == {("price_missing", "openai/gpt-9")}


@pytest.mark.parametrize("provider", ["mistral", "mistral-eu"])
def test_an_alias_in_use_that_moves_to_a_model_without_a_price_is_told_of_until_it_has_one(provider: str) -> None:
    """Spend is by models' ids, and what is refused has none."""
    used(provider=provider)
    take_over({"id": SMALL, "aliases": []}, {"id": "mistral-small-2611", "aliases": ["mistral-small-latest"]})
    assert model_alerts.look(now=NOW) == 1
    alert = Alert.objects.get(kind="price_missing", subject="mistral/mistral-small-latest", severity="critical")
    assert "mistral-small-2611, which it means, is not served, or has no price" in alert.message
    row = Model.objects.get(name="mistral-small-2611")
    for unit in ("input", "output"):
        Price.objects.create(model=row, unit=unit, picos_per_unit=1)
    Model.objects.filter(pk=row.pk).update(status="ga")
    model_alerts.look(now=NOW)
    assert not open_alerts()


def test_an_alias_that_nobody_uses_is_not_told_of_and_one_that_is_refused_stays_so() -> None:
    used("mistral-large-2512")
    take_over({"id": SMALL, "aliases": []}, {"id": "mistral-small-2611", "aliases": ["mistral-small-latest"]})
    assert model_alerts.look(now=NOW) == 0
    RefusedCall.objects.create(
        tenant=factories.tenant(),
        request_id="r1",
        refused_at=NOW,
        model="mistral-small-latest",
        reason="model_not_priced",
        status=400,
    )
    assert model_alerts.look(now=NOW) == 1
    assert open_alerts() == {("price_missing", "mistral/mistral-small-latest")}


def test_what_was_used_long_ago_is_not_in_use() -> None:
    used("gpt-9", provider="openai", at=NOW - timedelta(days=30))
    assert SpendRollup.objects.exists()
    assert model_alerts.look(now=NOW) == 0


def test_deprecated_and_unlisted_models_in_use_are_told_of() -> None:
    Model.objects.filter(name=SMALL).update(
        deprecated_at=NOW + timedelta(days=30), replacement="mistral-small-2611", listed_at=NOW - timedelta(days=3)
    )
    used("mistral-small-latest", provider="mistral-eu")
    model_alerts.look(now=NOW)
    assert open_alerts() == {("model_deprecated", SMALL), ("model_unlisted", SMALL)}
    message = Alert.objects.get(kind="model_deprecated").message
    assert "from 2026-12-24 on; mistral-small-2611 would replace it" in message


def test_a_price_that_another_source_has_otherwise_is_told_of_for_models_in_use() -> None:
    for name in (SMALL, "mistral-large-2512"):
        row = Model.objects.get(name=name)
        Price.objects.create(model=row, unit="output", picos_per_unit=1, effective_from=NOW - timedelta(days=1))
    used()
    model_alerts.look(now=NOW)
    assert open_alerts() == {("price_differs", f"mistral/{SMALL}:output")}


def test_what_another_source_has_beyond_our_prices_is_told_of_for_models_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offers = [
        Offer("mistral", SMALL, "input", 300_000, "elsewhere", above=200_000, has_fee=True),
        Offer("mistral", SMALL, "request", 10**9, "elsewhere", has_fee=True),
        Offer("mistral", SMALL, "page", 10**9, "elsewhere"),
    ]
    monkeypatch.setattr(comparison, "from_genai", lambda **_: offers)
    used()
    model_alerts.look(now=NOW)
    assert open_alerts() == {
        ("price_differs", f"mistral/{SMALL}:input>200000"),
        ("price_differs", f"mistral/{SMALL}:request"),
    }
    messages = " ".join(Alert.objects.values_list("message", flat=True))
    assert "a price of calls above 200,000 input tokens, and we have none" in messages
    assert "a fee for each request, which no price here holds" in messages


def test_the_nightly_task_takes_the_sandbox_s_list_over(settings: Any, sandbox: Sandbox, sandbox_url: str) -> None:
    settings.MISTRAL_API_BASE = settings.SANDBOX_URL = sandbox_url
    assert tasks.sync_models() == Model.objects.count(), "their names on invoices"
    ModelAlias.objects.get(name="mistral-small-latest").delete()
    assert tasks.sync_models() == 1
    assert ModelAlias.objects.get(name="mistral-small-latest").model.name == SMALL
    assert not Alert.objects.exists()
    assert tasks.sync_models() == 0


def test_a_list_that_cannot_be_had_is_an_alert_until_it_can(settings: Any, sandbox: Sandbox, sandbox_url: str) -> None:
    settings.MISTRAL_API_BASE = settings.SANDBOX_URL = "http://127.0.0.1:9"
    assert tasks.sync_models() == 0
    assert open_alerts() == {("model_sync_failed", "mistral")}
    settings.MISTRAL_API_BASE = settings.SANDBOX_URL = sandbox_url
    tasks.sync_models()
    assert open_alerts() == set()


def test_the_command_says_what_would_change_and_changes_it_when_told(
    settings: Any, sandbox: Sandbox, sandbox_url: str
) -> None:
    with pytest.raises(CommandError, match="MISTRAL_API_KEY"):
        call_command("sync_models")
    settings.MISTRAL_API_BASE = settings.SANDBOX_URL = sandbox_url
    sync.take_over(sync.fetch(), now=NOW)
    ModelAlias.objects.get(name="mistral-small-latest").delete()
    out = StringIO()
    call_command("sync_models", dry_run=True, json=True, stdout=out)
    told = json.loads(out.getvalue())
    assert (told["changes"], told["dry_run"]) == ([f"mistral-small-latest: means {SMALL}"], True)
    assert not ModelAlias.objects.filter(name="mistral-small-latest").exists()
    call_command("sync_models", stdout=out)
    assert "1 changes made" in out.getvalue()
    assert ModelAlias.objects.filter(name="mistral-small-latest").exists()
    assert Model.objects.filter(listed_at__gt=timezone.now() - timedelta(minutes=5)).count() > 10


def test_what_no_call_could_name_is_not_taken_over() -> None:
    card = {"id": "fine", "aliases": ["fine-latest", "e\x1b[2Jvil", " spaced", "a" * 200]}
    listed = sync.cards([card, {"id": "o\u202edd"}])
    assert [found.names for found in listed] == [{"fine", "fine-latest"}]
