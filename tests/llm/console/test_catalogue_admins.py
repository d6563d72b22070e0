"""The catalogue in the console: prices are added in dollars, and never changed."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from governance.models import AuditEntry
from llm.catalogue import snapshot
from llm.models import Model, ModelAlias, Price
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client: Client) -> Client:
    snapshot.forget()
    client.force_login(User.objects.create_superuser("olga", password="x"))
    return client


def price_form(**fields: Any) -> dict[str, Any]:
    model = Model.objects.get(name="mistral-embed")
    return {
        "model": model.pk,
        "unit": "input",
        "usd_per_million": "0.25",
        "above_input_tokens": "0",
        "zone": "global",
        "tier": "standard",
        "effective_from_0": "2026-09-01",
        "effective_from_1": "00:00:00",
        "verified_at_0": "",
        "verified_at_1": "",
        "source": "invoice",
        **fields,
    }


@pytest.mark.parametrize("table", ["model", "modelalias", "price"])
def test_lists_render_and_can_be_searched(operator: Client, table: str) -> None:
    page = operator.get(f"/admin/llm/{table}/", {"q": "mistral-small"})

    assert page.status_code == 200
    assert b"mistral-small-2603" in page.content


def test_price_is_added_in_dollars_per_million_with_an_audit_row(
    operator: Client, django_capture_on_commit_callbacks: Any
) -> None:
    assert b"per million" in operator.get("/admin/llm/price/add/").content
    with django_capture_on_commit_callbacks(execute=True):
        added = operator.post("/admin/llm/price/add/", price_form())

    assert added.status_code == 302
    assert Price.objects.get(source="invoice").picos_per_unit == 250_000
    entry = snapshot.resolve("mistral-embed")
    assert entry is not None
    assert entry.rates is not None
    assert entry.rates.input_picos == 250_000
    audited = AuditEntry.objects.get(action="price.add")
    assert (audited.actor, audited.target) == ("olga", "mistral-embed")


def test_a_price_of_longer_calls_is_of_tokens_and_stands_beside_that_of_all(operator: Client) -> None:
    operator.post("/admin/llm/price/add/", price_form())
    operator.post("/admin/llm/price/add/", price_form(above_input_tokens="200000", usd_per_million="0.5"))
    assert set(Price.objects.filter(source="invoice").values_list("above_input_tokens", "picos_per_unit")) == {
        (0, 250_000),
        (200_000, 500_000),
    }
    assert "calls above 200,000 input tokens" in operator.get("/admin/llm/price/?q=mistral-embed").content.decode()
    page = operator.post("/admin/llm/price/add/", price_form(unit="page", above_input_tokens="200000"))
    assert b"Only tokens have a price of longer calls." in page.content


def test_second_price_from_one_moment_is_refused_in_the_form(operator: Client) -> None:
    operator.post("/admin/llm/price/add/", price_form())
    again = operator.post("/admin/llm/price/add/", price_form(usd_per_million="0.5"))
    ever = operator.post("/admin/llm/price/add/", price_form(effective_from_0="", effective_from_1=""))

    for page in (again, ever):
        assert page.status_code == 200
        assert b"There is a price from that very moment on" in page.content
    assert Price.objects.filter(source="invoice").count() == 1


@pytest.mark.parametrize("dollars", ["-1", "", "x", "0.0000001"])
def test_impossible_price_is_refused_in_the_form(operator: Client, dollars: str) -> None:
    page = operator.post("/admin/llm/price/add/", price_form(usd_per_million=dollars))

    assert page.status_code == 200
    assert not Price.objects.filter(source="invoice").exists()


def test_price_cannot_be_changed_or_deleted(operator: Client) -> None:
    price = Price.objects.all()[0]

    assert operator.get(f"/admin/llm/price/{price.pk}/change/").status_code == 200
    assert operator.post(f"/admin/llm/price/{price.pk}/change/", price_form()).status_code == 403
    assert operator.post(f"/admin/llm/price/{price.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Price.objects.filter(pk=price.pk, picos_per_unit=price.picos_per_unit).exists()


def test_model_is_confirmed_and_an_alias_added_with_audit_rows(operator: Client) -> None:
    model = Model.objects.get(name="mistral-large-4")
    form = {
        "status": "ga",
        "owned_by": "mistralai",
        "kinds": ["chat"],
        "capabilities": ["chat", "tools"],
        "context_tokens": 1_000_000,
        "image_tokens": 3_080,
    }
    changed = operator.post(f"/admin/llm/model/{model.pk}/change/", form)
    alias = {"name": "mistral-next", "model": model.pk}
    operator.post("/admin/llm/modelalias/add/", alias)
    # Saved once more with nothing changed.
    operator.post(f"/admin/llm/model/{model.pk}/change/", form)
    operator.post(f"/admin/llm/modelalias/{ModelAlias.objects.get(name='mistral-next').pk}/change/", alias)

    assert changed.status_code == 302
    row = Model.objects.get(name="mistral-large-4")
    assert (row.status, row.kinds, row.capabilities) == ("ga", ["chat"], ["chat", "tools"])
    audited = AuditEntry.objects.get(action="model.change")
    assert audited.old is not None
    assert audited.old["status"] == "preview"
    assert audited.new is not None
    assert audited.new["status"] == "ga"
    assert ModelAlias.objects.get(name="mistral-next").model == model
    assert AuditEntry.objects.filter(action="modelalias.add").exists()
    assert not AuditEntry.objects.filter(action="modelalias.change").exists()


@pytest.mark.parametrize("field", ["kinds", "capabilities"])
def test_unknown_kinds_and_capabilities_are_refused(operator: Client, field: str) -> None:
    model = Model.objects.get(name="mistral-embed")
    form = {"status": "ga", "owned_by": "x", "kinds": [], "capabilities": [], "image_tokens": 1, field: ["poem"]}
    page = operator.post(f"/admin/llm/model/{model.pk}/change/", form)

    assert page.status_code == 200
    assert b"poem is not one of the available choices" in page.content


@pytest.mark.parametrize("wrong", [["poem"], "chat", {"a": 1}])
def test_a_model_takes_only_known_words(wrong: Any) -> None:
    model = Model(name="m", provider="p", owned_by="p", kinds=wrong)
    with pytest.raises(ValidationError, match="A list of any of"):
        model.full_clean()


def test_staff_who_are_no_operators_may_look_only(client: Client) -> None:
    client.force_login(factories.person("victor", "viewer"))

    assert client.get("/admin/llm/price/").status_code == 200
    model = Model.objects.get(name="mistral-embed")
    page = client.get(f"/admin/llm/model/{model.pk}/change/")
    assert page.status_code == 200
    assert b"embedding" in page.content
    assert b"/serve" not in page.content
    assert client.post(reverse("admin:llm_model_retire_one", args=[model.pk]), {"_confirmed": "y"}).status_code == 403
    assert client.post("/admin/llm/price/add/", price_form()).status_code == 403


def test_a_wrong_price_is_corrected_on_a_page_that_asks_why(operator: Client) -> None:
    wrong = Price.objects.get(model__name="mistral-embed", unit="input")
    page = reverse("admin:llm_price_correct_one", args=[wrong.pk])
    assert b"manage.py reprice mistral-embed" in operator.get(page).content
    form = {"_confirmed": "yes", "reason": "the bill", "usd_per_million": "0.2", "source": "invoice"}
    assert operator.post(page, form).status_code == 302
    right = Price.objects.get(supersedes=wrong)
    assert (right.picos_per_unit, right.source, right.effective_from) == (200_000, "invoice", wrong.effective_from)
    audited = AuditEntry.objects.get(action="price.correct")
    assert (audited.actor, audited.reason) == ("olga", "the bill")
    again = operator.post(page, form, follow=True)
    assert "was superseded already" in again.content.decode()
    listed = operator.get("/admin/llm/price/?q=mistral-embed").content.decode()
    assert "superseded" in listed
    assert "0.2" in operator.get(f"/admin/llm/model/{wrong.model_id}/change/").content.decode()
    assert operator.post(page, form | {"usd_per_million": "-1"}).status_code == 200


def test_a_preview_is_served_once_it_has_a_price_and_retired_again(operator: Client) -> None:
    bare = Model.objects.create(name="new", kinds=["chat"], status="preview")
    priced = Model.objects.get(name="mistral-large-4")
    confirmed = {"_confirmed": "yes", "reason": "checked"}
    for model, status in ((bare, "preview"), (priced, "ga")):
        told = operator.post(reverse("admin:llm_model_serve_one", args=[model.pk]), confirmed, follow=True)
        model.refresh_from_db()
        assert model.status == status
        assert ("It has no price yet" in told.content.decode()) == (status == "preview")
    operator.post(reverse("admin:llm_model_retire_one", args=[priced.pk]), confirmed)
    priced.refresh_from_db()
    assert priced.status == "retired"
    assert AuditEntry.objects.filter(action="model.status", reason="checked").count() == 2


def test_acts_that_would_do_nothing_are_not_offered(operator: Client) -> None:
    offered = {}
    for name in ("mistral-small-2603", "mistral-large-4"):
        model = Model.objects.get(name=name)
        page = operator.get(f"/admin/llm/model/{model.pk}/change/").content.decode()
        offered[name] = [act for act in ("serve", "retire", "clear-overruns") if f"{model.pk}/{act}" in page]
    assert offered == {"mistral-small-2603": ["retire"], "mistral-large-4": ["serve", "retire"]}
