"""What a call looks up: who calls once, and the model that it names once, however the call is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.gateway.application import gateway
from llm.gateway.identities import Identities
from llm.state import routing
from llm.state.telemetry import Telemetry
from tests import factories as make
from tests.llm.gateway.test_chat import streaming
from tests.product import Product

LARGE = "mistral-large-latest"
LARGE_TO_SMALL = [{"from": [LARGE], "to": "mistral-small-latest"}]


@pytest.fixture
def looked_up(product: Product, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What was asked of identities and of the catalogue since a first call made the process know its files."""
    # A renewed catalogue resolves the routing file anew.
    monkeypatch.setattr(snapshot, "TTL_S", 3600.0)
    snapshot.forget()
    make.budget("1.00")
    product.chat(product.key())
    routing.options(snapshot.current())
    # An observer that wants to know more of a model looks it up for itself, after the answer.
    monkeypatch.setattr(gateway, "telemetry", Telemetry([]))
    found: Counter[str] = Counter()

    def count(owner: type, method: str, named: Callable[[Any], str]) -> None:
        original = getattr(owner, method)

        def counting(self: object, argument: Any) -> Any:
            found[named(argument)] += 1
            return original(self, argument)

        monkeypatch.setattr(owner, method, counting)

    count(Identities, "cached", lambda _: "identity")
    count(Identities, "find", lambda _: "identity, in the database")
    count(Catalogue, "resolve", lambda name: name)
    count(Catalogue, "used", lambda usage: f"charged: {usage.model}")
    return found


# The answer says by which name the model is billed.
ONCE = {"identity": 1, "identity, in the database": 1, LARGE: 1, "charged: mistral-large-2512": 1}


def test_a_plain_call_looks_its_caller_and_its_model_up_once(product: Product, looked_up: Counter[str]) -> None:
    key = product.key()
    product.chat(key)
    assert looked_up == ONCE
    product.chat(key)
    # The second time from the cache alone.
    assert looked_up == dict.fromkeys(ONCE, 2) | {"identity, in the database": 1}


def test_so_does_one_under_an_idempotency_key(product: Product, looked_up: Counter[str]) -> None:
    body = {"model": LARGE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
    key = product.key()
    assert product.post("/v1/chat/completions", key, headers={"idempotency-key": "a"}, **body).status_code == 200
    assert looked_up == ONCE


def test_so_does_a_stream(product: Product, looked_up: Counter[str]) -> None:
    with streaming(product, product.key()) as response:
        response.read()
    assert looked_up == ONCE


def test_a_stand_in_is_known_from_the_plan(product: Product, looked_up: Counter[str]) -> None:
    product.sandbox.next("status=500")
    response = product.chat(product.key())
    served = response.headers["x-model-served"]
    assert served == "mistral-small-latest"
    assert looked_up == {"identity": 1, "identity, in the database": 1, LARGE: 1, "charged: mistral-small-2603": 1}


def test_what_a_rule_leads_to_is_looked_up_once_more(product: Product, looked_up: Counter[str]) -> None:
    make.budget("0.01", scope_type="agent", scope_key="invoices", soft_cap="0.01", downgrade_rules=LARGE_TO_SMALL)
    assert product.chat(product.key()).headers["x-model-served"] == "mistral-small-latest"
    assert looked_up["mistral-small-latest"] == 1
    assert looked_up[LARGE] == 1
