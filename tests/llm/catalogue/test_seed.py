"""What is shipped as a file and what migrations put into the database."""

from importlib import import_module

import pytest
from django.apps import apps

from llm.catalogue import seed
from llm.models import Model, ModelAlias, Price

pytestmark = pytest.mark.django_db


def test_migrations_leave_the_catalogue_that_is_shipped() -> None:
    """A line that is added or changed in the file needs a migration that carries it."""
    rows = list(seed.rows())

    assert {(row.model, tuple(row.kinds), tuple(row.capabilities), row.context_tokens, row.status) for row in rows} == {
        (model.name, tuple(model.kinds), tuple(model.capabilities), model.context_tokens, model.status)
        for model in Model.objects.all()
    }
    assert {(alias, row.model) for row in rows for alias in row.aliases} == set(
        ModelAlias.objects.values_list("name", "model__name")
    )
    assert {
        (row.model, unit, picos, row.effective_from, row.source) for row in rows for unit, picos in row.picos.items()
    } == set(Price.objects.values_list("model__name", "unit", "picos_per_unit", "effective_from", "source"))


def test_loading_again_adds_nothing_and_leaves_what_an_operator_changed() -> None:
    before = {model: model._default_manager.count() for model in (Model, ModelAlias, Price)}
    Model.objects.filter(name="mistral-embed").update(status="retired")

    import_module("llm.migrations.0005_seed").load(apps, None)

    assert {model: model._default_manager.count() for model in before} == before
    assert Model.objects.get(name="mistral-embed").status == "retired"
