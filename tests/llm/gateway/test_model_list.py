"""The list of models, made once."""

from __future__ import annotations

import orjson
import pytest

from llm.catalogue import snapshot
from llm.gateway.model_list import ModelList

pytestmark = pytest.mark.django_db


def test_the_list_is_made_once_for_a_catalogue_and_what_has_no_key() -> None:
    made, catalogue = ModelList(), snapshot.current()
    whole = made.of(catalogue, frozenset())
    assert made.of(catalogue, frozenset()) is whole

    fewer = made.of(catalogue, frozenset({"mistral"}))
    assert {card["id"] for card in orjson.loads(whole)["data"]} > {card["id"] for card in orjson.loads(fewer)["data"]}
    snapshot.forget()
    assert made.of(snapshot.current(), frozenset()) == whole
