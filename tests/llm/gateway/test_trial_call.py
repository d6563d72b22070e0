"""A call that the console sends to try a key: through the gateway of this process, or told why not."""

from __future__ import annotations

from typing import Any

import pytest

from governance.models import ApiKey, RefusedCall, SpendEntry
from llm.gateway import bodies, inside, trial_call
from tests import factories as make
from tests.factories import nanos
from tests.product import Product, eventually

MODEL = "mistral-small-latest"


def asking(text: str, key: ApiKey, model: str = MODEL) -> dict[str, Any]:
    return {"key_id": key.pk, "tenant_id": key.tenant_id, "text": text, "model": model}


def test_it_is_governed_and_charged_as_any_call_of_its_key(product: Product) -> None:
    make.budget("1.00")
    text, key = make.key()

    found = trial_call.send(**asking(text, key))

    entry = SpendEntry.objects.get()
    assert (found.status, found.request_id, found.model) == (200, entry.request_id, MODEL)
    assert found.message
    assert nanos(found.cost) == entry.cost_nanos > 0
    assert entry.key == key


def test_a_refusal_is_told_in_its_own_words(product: Product) -> None:
    make.budget("0.00000001")
    text, key = make.key()

    found = trial_call.send(**asking(text, key))

    assert (found.status, found.code, found.cost) == (402, "budget_exhausted", "")
    assert "budget" in found.message
    eventually(lambda: RefusedCall.objects.filter(request_id=found.request_id).exists())
    assert trial_call.send(**asking("sg_nobody", key)).status == 401
    assert trial_call.send(**asking(text, key, "no-such-model")).code == "model_not_priced"
    assert not SpendEntry.objects.exists()


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (inside.GatewayAway("the gateway does not run in this process"), 503, "gateway_away"),
        (bodies.TooManyThreads(" of this key"), 429, "too_many_calls"),
    ],
)
def test_what_sends_nothing_says_so(monkeypatch: pytest.MonkeyPatch, raised: Exception, status: int, code: str) -> None:
    def away(*args: Any, **fields: Any) -> Any:
        raise raised

    monkeypatch.setattr(inside, "post", away)
    found = trial_call.send(key_id=1, tenant_id=1, text="sg_x", model=MODEL)
    assert (found.status, found.code) == (status, code)
    assert str(raised) in found.message


def test_an_answer_without_words_is_one_all_the_same() -> None:
    answer = inside.InsideAnswer(200, {"x-request-id": "r-1"}, b'{"choices": [{"message": {"content": null}}]}')
    assert trial_call._read(answer, "r-0").message == ""
    assert trial_call._read(inside.InsideAnswer(502, {}, b"<html>"), "r-0").message == (
        "The model's API refused the request."
    )
