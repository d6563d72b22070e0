"""Calls of a zone of Mistral's stay in it when a budget moves them to a cheaper model."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import SpendEntry
from llm.sandbox import Sandbox
from tests import factories as make
from tests.product import Product

RULES = [{"from": ["mistral-medium-latest"], "to": "mistral-small-latest"}]


@pytest.fixture(autouse=True)
def eu_zone(settings: Any, sandbox: Sandbox, sandbox_url: str) -> None:
    settings.MISTRAL_EU_API_BASE, settings.MISTRAL_EU_API_KEY = sandbox_url, "eu-key"


@pytest.mark.parametrize(
    ("asked", "home"), [("mistral-eu/mistral-medium-latest", "mistral-eu"), ("mistral-medium-latest", "mistral")]
)
def test_a_rule_s_bare_name_means_the_model_at_the_provider_that_is_asked(
    product: Product, asked: str, home: str
) -> None:
    make.budget("0.001", soft_cap="0.1", downgrade_rules=RULES)
    response = product.chat(product.key(), model=asked, max_tokens=60)
    assert response.status_code == 200, response.text
    served = f"{home}/mistral-small-latest" if home != "mistral" else "mistral-small-latest"
    assert response.headers["x-model-served"] == served
    assert product.sandbox.requests[-1].body["model"] == "mistral-small-latest"
    entry = SpendEntry.objects.get()
    assert (entry.provider, entry.model_requested) == (home, asked)
    assert entry.price_rule.endswith("+eu") == (home == "mistral-eu")
