"""/api/models and /api/prices through HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from governance.models import AuditEntry
from llm.catalogue import snapshot
from llm.models import Model, ModelAlias, Price
from tests.governance.api.conftest import Api, persona

SMALL = "mistral-small-2603"
NEW = {"model": "mistral-small-latest", "unit": "output", "usd_per_million": "0.75"}


@pytest.fixture(autouse=True)
def fresh_snapshot() -> Iterator[None]:
    snapshot.forget()
    yield
    snapshot.forget()


@pytest.fixture
def operator(db: None) -> Api:
    return persona("operator")


@pytest.fixture
def agent(db: None) -> Api:
    return persona("agent")


def test_a_model_shows_what_it_costs_now_by_any_of_its_names(agent: Api) -> None:
    for name in (SMALL, "mistral-small-latest", f"mistral/{SMALL}", f"mistral/{SMALL}/"):
        found = agent.get(f"/api/models/{name}").json()
        assert (found["id"], found["aliases"], found["status"]) == (SMALL, ["mistral-small-latest"], "ga")
        assert found["rates"] == {"input": "0.15", "cached_input": "0.015", "output": "0.6"}
        assert found["price_rule"] == f"mistral/{SMALL}@2026-03-16"
    assert agent.get("/api/models/voxtral-mini-latest").json()["rates"] == {"audio_second": "50"}


def test_models_of_other_providers_are_named_with_theirs(agent: Api) -> None:
    row = Model.objects.create(provider="openai", name="org/gpt-9", kinds=["chat"])
    ModelAlias.objects.create(model=row, name="gpt-9")
    found = agent.get("/api/models/openai/org/gpt-9").json()
    assert (found["id"], found["rates"], found["price_rule"]) == ("openai/org/gpt-9", None, None)
    assert agent.get("/api/models/openai/gpt-9").json()["id"] == "openai/org/gpt-9"
    for missing in ("gpt-10", "azure/gpt-9", "//"):
        assert agent.get(f"/api/models/{missing}").status_code == 404


def test_models_are_listed_filtered_paged_and_as_a_table(agent: Api) -> None:
    def ids(**query: Any) -> list[str]:
        return [row["id"] for row in agent.get("/api/models", **query).json()["results"]]

    assert set(ids(kind="ocr")) == {"mistral-ocr-4-1"}
    assert set(ids(status="preview")) == {"mistral-large-4"}
    assert ids(provider="openai") == []
    assert len(ids()) == Model.objects.count()
    page = agent.get("/api/models", page_size=2).json()
    assert len(page["results"]) == 2
    assert page["next"]
    lines = agent.client.get("/api/models", headers={"accept": "text/csv"}).getvalue().decode().splitlines()
    assert lines[0].startswith("id,provider,name,aliases,status")
    assert len(lines) == Model.objects.count() + 1
    assert agent.get("/api/models", kind="song").status_code == 400


def test_a_price_is_added_from_now_on_unless_it_says_when(operator: Api) -> None:
    made = operator.post("/api/prices", NEW).json()
    assert (made["model"], made["usd_per_million"], made["picos_per_unit"]) == (SMALL, "0.75", 750_000)
    assert abs((timezone.now() - Price.objects.get(pk=made["id"]).effective_from).total_seconds()) < 60  # type: ignore[operator]
    later = operator.post("/api/prices", {**NEW, "effective_from": "2030-01-01", "zone": "eu", "batch": True}).json()
    assert (later["effective_from"], later["zone"], later["batch"]) == ("2030-01-01T00:00:00Z", "eu", True)
    again = operator.post("/api/prices", {**NEW, "effective_from": "2030-01-01", "zone": "eu", "batch": True})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert AuditEntry.objects.filter(action="price.add").count() == 2


def test_a_price_of_longer_calls_stands_beside_that_of_shorter_ones_and_is_corrected_by_itself(operator: Api) -> None:
    sent = {**NEW, "unit": "input", "above_input_tokens": 200_000, "effective_from": "2026-03-16"}
    made = operator.post("/api/prices", sent)
    assert (made.status_code, made.json()["above_input_tokens"]) == (201, 200_000)
    assert operator.post("/api/prices", sent).status_code == 409
    body = {"usd_per_million": "0.9", "reason": "read the bill"}
    right = operator.post(f"/api/prices/{made.json()['id']}/correct", body).json()
    assert right["above_input_tokens"] == 200_000
    found = operator.get(f"/api/models/{SMALL}").json()
    assert found["rates"]["input"] == "0.15"
    [longer] = found["longer"]
    assert (longer["above_input_tokens"], longer["rates"]) == (
        200_000,
        {"input": "0.9", "cached_input": "0.015", "output": "0.6"},
    )
    assert longer["price_rule"] == f"mistral/{SMALL}@2026-03-16#2>200000"


def test_a_wrong_price_is_corrected_once_and_both_stay_readable(operator: Api, agent: Api) -> None:
    wrong = Price.objects.get(model__name=SMALL, unit="output")
    body = {"usd_per_million": "0.5", "reason": "read the bill", "source": "the bill"}
    right = operator.post(f"/api/prices/{wrong.pk}/correct", body)
    assert right.status_code == 201
    assert (right.json()["supersedes"], right.json()["effective_from"]) == (wrong.pk, "2026-03-16T00:00:00Z")
    assert agent.get(f"/api/prices/{wrong.pk}").json()["superseded_by"] == right.json()["id"]
    assert operator.post(f"/api/prices/{wrong.pk}/correct", body).status_code == 409
    listed = agent.get("/api/prices", model=SMALL, unit="output", superseded="false").json()["results"]
    assert [row["id"] for row in listed] == [right.json()["id"]]


def test_prices_are_listed_by_what_is_asked_for_and_as_a_table(agent: Api) -> None:
    def count(**query: Any) -> int:
        return len(agent.get("/api/prices", **query).json()["results"])

    assert count(model="mistral-small-latest") == 3
    assert count(unit="audio_second") == 3
    assert count(provider="openai") == count(batch="true") == count(zone="eu") == count(tier="priority") == 0
    table = agent.client.get("/api/prices", headers={"accept": "text/csv"}).getvalue().decode().splitlines()
    assert table[0].startswith("id,model,provider,unit,usd_per_million,picos_per_unit")
    assert len(table) == Price.objects.count() + 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"usd_per_million": "cheap"}, "usd_per_million"),
        ({"usd_per_million": "-1"}, "usd_per_million"),
        ({"usd_per_million": "0.0000001"}, "usd_per_million"),
        ({"usd_per_million": "99999999999999"}, "usd_per_million"),
        ({"usd_per_million": True}, "usd_per_million"),
        ({"unit": "hour"}, "unit"),
        ({"model": "gpt-9"}, "model"),
        ({"model": ""}, "model"),
        ({"zone": "moon"}, "zone"),
        ({"above_input_tokens": -1}, "above_input_tokens"),
        ({"unit": "page", "above_input_tokens": 200_000}, "above_input_tokens"),
        ({"effective_from": "soon"}, "effective_from"),
        ({"currency": "EUR"}, "currency"),
    ],
)
def test_a_price_that_cannot_be_is_a_400_that_names_the_field(
    operator: Api, change: dict[str, Any], param: str
) -> None:
    answer = operator.post("/api/prices", {**NEW, **change})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.content
    assert not AuditEntry.objects.exists()
