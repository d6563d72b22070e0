"""`remaining` is what can still be spent under the hard cap, wherever somebody reads it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from io import StringIO
from typing import Any

import httpx2 as httpx
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from governance.models import BudgetWindow
from governance.rules import money
from tests import factories as make
from tests.llm.gateway.test_chat import streaming
from tests.product import Product

ASK = {"model": "mistral-large-latest", "estimated_cost": "0.00"}


def remaining_everywhere(product: Product, key: str) -> dict[str, str]:
    """What each surface says that is left of the one budget."""
    operator = product.key(role="operator")
    [budget] = product.get("/api/budgets", operator).json()["results"]
    decision = product.post("/api/decisions", key, **ASK).json()
    out = StringIO()
    # Its exit status says where the budget is pressed or stopped.
    with suppress(SystemExit):
        call_command("check_budget", tenant="acme", json=True, stdout=out)
    return {
        "/api/budgets": budget["remaining"],
        "/api/budgets/{id}": product.get(f"/api/budgets/{budget['id']}", operator).json()["remaining"],
        "/api/decisions": decision["remaining"],
        "/api/decisions, its view": decision["budgets"][0]["remaining"],
        "/v1/budget": product.get("/v1/budget", key).json()["remaining"],
        "check_budget": json.loads(out.getvalue())["budgets"][0]["remaining"],
    }


def of_the_window(product: Product) -> dict[str, str]:
    """The same of the window that calls have opened."""
    operator = product.key(role="operator")
    window = BudgetWindow.objects.get()
    [listed] = product.get(f"/api/budgets/{window.budget_id}/windows", operator).json()["results"]
    console = Client()
    user, _ = User.objects.get_or_create(username="olga", is_staff=True, is_superuser=True)
    console.force_login(user)
    html = console.get(reverse("admin:index")).content.decode()
    [left] = re.findall(r"\$(\S+) left of", html)
    return {"windows": listed["remaining"], "console": left}


def of_a_refusal(gateway: httpx.Response, api: httpx.Response) -> dict[str, str]:
    assert (gateway.status_code, api.status_code) == (402, 402), (gateway.text, api.text)
    decision: dict[str, Any] = api.json()["error"]["decision"]
    return {
        "gateway's header": gateway.headers["x-budget-remaining-usd"],
        "gateway's body": gateway.json()["error"]["metadata"]["remaining"],
        "API's body": decision["remaining"],
        "API's body, its view": decision["budgets"][0]["remaining"],
    }


def test_every_surface_says_the_same_is_left_under_the_hard_cap(product: Product) -> None:
    make.budget("10", hard_cap="0.5", soft_cap=None, clamp=False)
    key = product.key()
    assert set(remaining_everywhere(product, key).values()) == {"5.00"}

    held = product.post("/api/reservations", key, model="mistral-large-latest", estimated_cost="1.25").json()
    assert held["budgets"][0]["remaining"] == "5.00"
    said = remaining_everywhere(product, key) | of_the_window(product)
    assert said == dict.fromkeys(said, "3.75")

    answer = product.chat(key)
    left_nanos = money.nanos_from_dollars("3.75") - money.nanos_from_dollars(answer.headers["x-request-cost-usd"])
    left = money.format_dollars(left_nanos)
    said = remaining_everywhere(product, key) | {"header": answer.headers["x-budget-remaining-usd"]}
    assert said == dict.fromkeys(said, left)

    with streaming(product, key) as response:
        # A stream's own hold is off before it has cost anything.
        reserved_nanos = money.nanos_from_dollars(response.headers["x-reserved-usd"])
        assert response.headers["x-budget-remaining-usd"] == money.format_dollars(left_nanos - reserved_nanos)
        response.read()

    window = BudgetWindow.objects.get()
    almost = money.nanos_from_dollars("4.99") - window.settled_nanos
    product.post(f"/api/reservations/{held['id']}/settle", key, cost=money.format_dollars(almost))
    refusals = of_a_refusal(
        product.chat(key, max_tokens=100_000),
        product.post("/api/reservations", key, **ASK | {"estimated_cost": "0.02"}),
    )
    said = remaining_everywhere(product, key) | of_the_window(product) | refusals
    assert said == dict.fromkeys(said, "0.01")


def test_what_is_left_is_never_below_nothing(product: Product) -> None:
    make.budget("10", hard_cap="0.5", soft_cap=None)
    key = product.key()
    # A tenant's own key could not report as much.
    product.post("/api/spend", product.key(role="operator"), tenant="acme", cost="7.00", request_id="r1")
    refusals = of_a_refusal(
        product.chat(key), product.post("/api/reservations", key, **ASK | {"estimated_cost": "0.01"})
    )
    said = remaining_everywhere(product, key) | of_the_window(product) | refusals
    assert said == dict.fromkeys(said, "0.00")
