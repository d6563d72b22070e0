"""Answers say when the budget that they show runs out, by what was last kept of it."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from governance import ledger
from governance.models import Budget, BudgetForecast
from governance.rules.refusals import rfc3339
from tests import factories as make
from tests.product import Product, eventually

HEADER = "x-budget-runs-out-at"


def about(kept: BudgetForecast) -> str:
    """To the minute, as it is told."""
    assert kept.runs_out_at is not None
    return rfc3339(kept.runs_out_at.replace(second=0, microsecond=0))


def test_answers_and_refusals_say_when_the_budget_runs_out_and_resets(product: Product) -> None:
    key = product.key()
    budget = make.budget("0.10", window="month", clamp=False)
    assert HEADER not in product.chat(key).headers
    at = about(make.kept_forecast(budget, now=timezone.now(), runs_out_in=timedelta(minutes=5)))
    assert eventually(lambda: product.chat(key).headers.get(HEADER) == at)
    assert product.get("/v1/budget", key).json()["runs_out_at"] == at
    routed = product.post("/api/llm/route", key, prompt="Hi", max_tokens=5).json()
    assert routed["decision"]["budget_runs_out_at"] == at

    # Too large for what is left of it.
    large = product.chat(key, max_tokens=100_000)
    assert large.status_code == 402, large.text
    error = large.json()["error"]
    assert error["metadata"]["runs_out_at"] == large.headers[HEADER] == at
    resets = f"and resets at {error['metadata']['resets_at']}."
    assert error["message"].endswith(f"; it runs out about {at} at the usual pace {resets}")

    # At the cap nothing is left to run out.
    ledger.record(make.reporting("0.10", by=make.caller()), now=timezone.now())
    full = product.chat(key)
    assert HEADER not in full.headers
    assert full.json()["error"]["message"].endswith(f"spent; it resets at {error['metadata']['resets_at']}.")


def test_when_what_all_share_runs_out_is_told_to_nobody(product: Product) -> None:
    key = product.key()
    own, shared = (make.budget("0.10", clamp=False, scope_type=scope) for scope in ("tenant", "platform"))
    now = timezone.now()
    make.kept_forecast(own, now=now, runs_out_in=timedelta(minutes=5))
    at = about(make.kept_forecast(shared, now=now, runs_out_in=timedelta(minutes=20)))
    assert eventually(lambda: HEADER in product.chat(key).headers)
    BudgetForecast.objects.filter(budget=own).delete()
    assert eventually(lambda: HEADER not in product.chat(key).headers)
    Budget.objects.filter(pk=own.pk).update(enabled=False)
    assert at not in product.get("/v1/budget", key).text
    refused = product.chat(key, max_tokens=100_000)
    assert refused.status_code == 402, refused.text
    assert at not in refused.text + str(refused.headers)
