"""A provider that refuses us, not the call: operators are told, clients get a 503, and it is over when it is over."""

from __future__ import annotations

import pytest

from governance.ledger import batch
from governance.models import Alert
from llm.gateway.application import gateway
from tests import factories as make
from tests.llm.gateway.test_chat import nothing_is_held
from tests.product import Product, eventually


@pytest.mark.parametrize(
    ("status", "code"), [(401, "upstream_auth"), (403, "upstream_auth"), (402, "provider_spend_limit")]
)
def test_operators_are_alerted_and_the_client_is_not_blamed(product: Product, status: int, code: str) -> None:
    make.budget("1.00")
    product.sandbox.next(f"status={status}", times=3)
    answers = [product.chat(product.key()) for _ in range(3)]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, code)}
    alert = Alert.objects.get()
    assert (alert.kind, alert.subject, alert.severity, alert.cleared_at) == (code, "mistral", "critical", None)
    assert str(status) in alert.message
    # Told once, not with each call.
    assert alert.count == 1
    assert nothing_is_held()


def test_the_alert_is_over_with_the_next_answer(product: Product) -> None:
    make.budget("1.00")
    product.sandbox.next("status=401")
    product.chat(product.key())
    assert product.chat(product.key()).status_code == 200
    assert eventually(lambda: Alert.objects.get().cleared_at is not None)


def test_an_alert_that_cannot_be_kept_does_not_change_the_answer(product: Product, monkeypatch) -> None:
    from django.db import OperationalError

    def away(**_: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr("governance.alerts.report", away)
    make.budget("1.00")
    product.sandbox.next("status=401")
    assert product.chat(product.key()).json()["code"] == "upstream_auth"
    assert "mistral" not in gateway.provider_failures._fine


def test_windows_that_never_hold_still_are_worth_another_try(product: Product, monkeypatch) -> None:
    make.budget("1.00")
    monkeypatch.setattr(batch, "LOOKS", 0)
    monkeypatch.setattr(batch, "CALM_LOOKS", 0)
    answer = product.chat(product.key())
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert not product.sandbox.requests
