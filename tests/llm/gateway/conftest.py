"""Endpoints that operators add, in front of a model's API with its own books."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.books import RATES
from benchmarks.own_books import BookedUpstream
from governance.audit import Actor
from llm.catalogue import snapshot
from llm.gateway import forecasts
from llm.models import Model, Price, ProviderEndpoint
from llm.providers import endpoints, registry
from tests import factories as make
from tests.product import Product, eventually


@pytest.fixture(autouse=True)
def follows_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product finds new endpoints and forecasts soon: set before it starts, which other fixtures do."""
    monkeypatch.setattr(registry, "RENEW_PERIOD_S", 0.1)
    monkeypatch.setattr(forecasts, "RENEW_PERIOD_S", 0.1)


@pytest.fixture
def likes(product: Product, booked: BookedUpstream, request: pytest.FixtureRequest) -> Iterator[str]:
    """A key whose calls to `likes/m` go to an endpoint of the kind that is asked for."""
    kind = request.param
    row = Model.objects.create(
        name="m",
        provider="likes",
        owned_by="likes",
        kinds=["chat"],
        capabilities=["chat", "tools"],
        context_tokens=200_000,
    )
    for unit, picos in (("input", 150_000), ("cached_input", 15_000), ("output", 600_000)):
        Price(model=row, unit=unit, picos_per_unit=picos).save()
    snapshot.forget()
    snapshot.current()
    make.budget("10.00")
    base = booked.base_url + ("/v1" if kind == "openai_compatible" else "")
    endpoint = ProviderEndpoint(name="likes", kind=kind, base_url=base)
    endpoints.save(row=endpoint, new_key="k", by=Actor(name="ops"), now=make.NOON)
    key = product.key()
    booked.books.rates = {"m": (150_000, 15_000, 600_000)}
    assert eventually(
        lambda: product.chat(key, model="likes/m").json().get("code") != "provider_not_configured", within_s=15
    )
    booked.books.entries.clear()
    yield key
    booked.books.rates = dict(RATES)
    snapshot.forget()
