"""A price is entered a hundred times too high and stops a tenant; put right, its calls are charged again."""

from __future__ import annotations

import json
from io import StringIO

from django.core.management import call_command
from django.db.models import Sum

from governance.models import AuditEntry, BudgetWindow, SpendEntry
from tests import factories as make
from tests.product import Product, eventually

MODEL = "mistral-small-latest"
OUTPUT = {"model": MODEL, "unit": "output"}


def test_a_wrong_price_is_superseded_its_calls_charged_again_and_the_tenant_let_in(product: Product) -> None:
    operator, key = product.key(role="operator"), product.key()
    make.budget("0.02", window="lifetime")
    wrong = product.post("/api/prices", operator, **OUTPUT, usd_per_million="60", source="a slip").json()
    calls = 0
    while product.chat(key, model=MODEL, max_tokens=100).status_code == 200:
        calls += 1
        assert calls < 100
    assert calls > 0
    refused = product.chat(key, model=MODEL, max_tokens=100)
    assert (refused.status_code, refused.json()["code"]) == (402, "budget_exhausted")
    window = BudgetWindow.objects.get()
    dear_nanos = window.settled_nanos

    right = product.post(f"/api/prices/{wrong['id']}/correct", operator, usd_per_million="0.6", reason="a slip")
    assert right.status_code == 201, right.text
    assert eventually(lambda: product.get(f"/api/models/{MODEL}", key).json()["rates"]["output"] == "0.6")
    out = StringIO()
    call_command("reprice", MODEL, apply=True, reason="a slip", json=True, stdout=out)
    told = json.loads(out.getvalue())
    assert (told["looked_at"], told["changed"]) == (calls, calls)

    window.refresh_from_db()
    charged = SpendEntry.objects.filter(kind="charge")
    usage = charged.aggregate(input=Sum("input_tokens"), cached=Sum("cached_tokens"), output=Sum("output_tokens"))
    assert usage["cached"] == 0
    # 0.15 and 0.60 dollars a million tokens are 150 and 600 nanodollars a token.
    assert window.settled_nanos == usage["input"] * 150 + usage["output"] * 600 < dear_nanos / 20
    assert product.chat(key, model=MODEL, max_tokens=100).status_code == 200
    assert {"price.add", "price.correct", "price.reprice"} <= set(AuditEntry.objects.values_list("action", flat=True))
