"""A key that has ended is refused from the next call on, whatever a process remembers of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance.models import ApiKey
from llm.gateway.identities import Identities
from tests import factories as make
from tests.product import Product

PATHS = ("/v1/models", "/v1/models/mistral-small-latest", "/v1/budget", "/api/spend", "/api/models")
ENDINGS = {
    "revoked": lambda: {"revoked_at": timezone.now()},
    "expired": lambda: {"expires_at": timezone.now() - timedelta(seconds=1)},
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ended_key_is_refused_everywhere_at_once(product: Product, ending: str) -> None:
    make.budget("1.00")
    key = product.key()
    assert {product.get(path, key).status_code for path in PATHS} == {200}
    assert product.chat(key, headers={"idempotency-key": "a"}).status_code == 200
    # As another process would: nothing here is told of it.
    ApiKey.objects.update(**ENDINGS[ending]())
    assert {path: product.get(path, key).status_code for path in PATHS} == dict.fromkeys(PATHS, 401)
    assert product.chat(key).status_code == 401
    assert product.post("/v1/chat/completions", key, headers={"idempotency-key": "a"}).status_code == 401


@pytest.mark.django_db
def test_what_is_remembered_of_a_key_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text, row = make.key()
    ApiKey.objects.filter(pk=row.pk).update(expires_at=timezone.now() + timedelta(seconds=10))
    identities = Identities()
    identities.find(text)
    assert identities.cached(text) is not None
    later: Any = timezone.now() + timedelta(seconds=10)
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert identities.cached(text) is None
