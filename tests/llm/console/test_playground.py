"""The playground says what would happen to a call, by the figures and the function of a real one, and does nothing."""

from __future__ import annotations

import html
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from governance import ledger
from governance.actions import tenancy
from governance.audit import Actor
from governance.models import Budget, BudgetWindow, RefusedCall, Reservation
from llm.catalogue import snapshot
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db
# The shipped prices have begun by then.
NOW = factories.NOON + timedelta(days=170)
PAGE = "/admin/models/playground/"
LARGE = {"tenant": "acme", "model": "mistral-large-latest", "input_tokens": "1000", "max_tokens": "1000"}
# 1,000 x 0.50 + 1,000 x 1.50 dollars a million.
LARGE_COST = "$0.002"


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    snapshot.forget()
    factories.tenant()
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(factories.person("vera", "viewer"))
    return client


def asked(client: Client, **fields: str) -> dict[str, Any]:
    """The answer in the page's words."""
    page = client.post(PAGE, {"allow_downgrade": "yes", **fields})
    assert page.status_code == 200
    assert page.context["errors"] in ((), [])
    answer: dict[str, Any] = page.context["answer"]
    return answer


def test_a_call_with_room_is_told_its_hold_and_what_is_left(viewer: Client) -> None:
    budget = factories.budget("1.00")
    answer = asked(viewer, **LARGE)
    assert answer["verdict"] == "It would go as it is asked for"
    assert answer["hold"] == f"1,000 in × $0.50/M + 1,000 out × $1.50/M = {LARGE_COST}"
    [seen] = answer["budgets"]
    assert (seen.words, seen.link) == (
        "has room: $0.9980 left beside the hold",
        f"/admin/governance/budget/{budget.pk}/change/",
    )
    assert not any(rows.objects.exists() for rows in (Reservation, BudgetWindow, RefusedCall))


def test_a_downgrade_and_the_tools_that_go_are_told_with_the_budget_that_does_it(viewer: Client) -> None:
    rule = {"from": ["mistral-large-latest"], "to": "mistral-small-latest"}
    factories.budget("0.002", soft_cap="0.5", downgrade_rules=[rule], disabled_tools=["search"])
    answer = asked(viewer, **LARGE, tools="search, run")
    assert answer["verdict"] == "It would go to a cheaper model"
    assert answer["model"] == (
        "mistral-small-latest, which is mistral-small-2603, in the place of mistral-large-latest."
    )
    assert answer["hold"].endswith("= $0.00075")
    assert (answer["taken"], answer["kept"]) == ("search", "run")
    assert answer["downgrades"] == [
        "tenant:acme per day moves mistral-large-latest to mistral-small-latest from 50% on."
    ]
    assert answer["budgets"][0].words == "moves it to mistral-small-latest and takes search away"
    stayed = viewer.post(PAGE, LARGE)
    assert stayed.context["answer"]["refusal"].status == 402


def test_a_refusal_has_its_arithmetic_and_what_would_let_it_through(viewer: Client) -> None:
    factories.budget("0.001", clamp=False)
    answer = asked(viewer, **LARGE)
    assert answer["verdict"] == "It would be refused"
    assert (answer["refusal"].status, answer["refusal"].code) == (402, "budget_exhausted")
    assert "$0.001 more" in answer["would_pass"]
    assert answer["needs"] == [("mistral-large-latest", f"1,000 in × $0.50/M + 1,000 out × $1.50/M = {LARGE_COST}")]
    words = answer["budgets"][0].words
    assert words == "has no room for $0.0020 (at mistral-large-latest): $0.0010 more than is left"


def test_a_call_may_be_shortened_wait_or_have_no_price(viewer: Client) -> None:
    budget = factories.budget("0.0015", clamp_min_tokens=16)
    clamped = asked(viewer, **LARGE)
    # 0.0015 dollars less those of the input, at 1.50 a million.
    assert clamped["clamp"] == "Its answer would be kept to 666 tokens, which is what the money covers."
    Budget.objects.filter(pk=budget.pk).update(clamp=False, limit_nanos=3_000_000)
    ledger.reserve(factories.reserving("0.002"), now=NOW)
    waiting = asked(viewer, **LARGE)
    assert (waiting["verdict"], waiting["refusal"].status) == ("It would have to wait", 429)
    assert "calls in flight" in waiting["budgets"][0].words
    unpriced = asked(viewer, **(LARGE | {"model": "gpt-99"}))
    assert unpriced["refusal"].code == "model_not_priced"
    assert unpriced["budgets"][0].words == "nothing to judge: the model has no price"


def test_a_prompt_is_counted_as_the_gateway_counts_it(viewer: Client) -> None:
    answer = asked(viewer, tenant="acme", model="mistral-small-latest", prompt="Hello", max_tokens="10")
    tokens, _, rest = answer["hold"].partition(" in × $0.15/M + 10 out × $0.60/M = $")
    # Picodollars of so many tokens in and ten out, rounded up to nanodollars.
    assert int(tokens) >= len("Hello")
    assert nanos(rest) == -(-(int(tokens) * 150_000 + 10 * 600_000) // 1_000)
    shared = viewer.get(PAGE, LARGE)
    assert shared.context["answer"]["verdict"] == "It would go as it is asked for"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"tenant": "nobody"}, "Customer: there is no customer"),
        ({"tenant": ""}, "Customer: name the one"),
        ({"input_tokens": "many"}, "Input tokens:"),
        ({"input_tokens": ""}, "Input tokens: give them, or a prompt."),
        ({"max_tokens": "0"}, "Most output tokens:"),
        ({"input_tokens": "9" * 18}, ""),
        ({"prompt": "Hi"}, "Prompt: give either it or"),
        ({"input_tokens": "", "prompt": "x" * 20_001}, "Prompt: has at most 20,000"),
        ({"agent": "*"}, "Agent:"),
        ({"tenant": "\0"}, "Customer:"),
        ({"model": "<script>x</script>", "max_tokens": "x"}, "Most output tokens:"),
    ],
)
def test_mistakes_are_named_beside_what_was_typed(viewer: Client, fields: dict[str, str], error: str) -> None:
    page = viewer.post(PAGE, LARGE | fields)
    assert page.status_code == 200
    shown = page.content.decode()
    assert error in html.unescape(shown)
    assert "<script>x" not in shown
    assert "answer" not in page.context


def test_a_budget_of_keys_is_asked_with_the_key_and_without_one_it_is_said_that_it_was_not(viewer: Client) -> None:
    """Every call has one, so of a call without a key it is not said that nothing governs it."""
    _, key = factories.key()
    page = viewer.post(PAGE, LARGE).content.decode()
    assert "No budget governs such a call: only its price" in page
    assert f'value="{key.prefix}"' in page
    budget = factories.budget("0.000001", scope_type="key", scope_key="*", tenant=key.tenant)
    page = viewer.post(PAGE, LARGE).content.decode()
    assert "No budget governs such a call" not in page
    assert "There are limits of keys, which were not asked" in page
    # The tenant and the agent are the key's.
    answer = asked(viewer, **(LARGE | {"tenant": "", "key": key.prefix}))
    assert (answer["refusal"].status, answer["verdict"]) == (402, "It would be refused")
    assert [one.name for one in answer["budgets"]] == [f"key:{key.prefix} per day"]
    now = timezone.now()
    caller = factories.caller(key.tenant, agent="invoices", key_id=key.pk, key_prefix=key.scope_key)
    decided = ledger.dry_run(caller, factories.call("0.002"), now=now)
    assert (decided.allowed, decided.views[0].budget_id) == (False, budget.pk)
    # One that was rotated goes on in the same windows.
    _, fresh = tenancy.rotate_key(key=key, by=Actor("ann"), now=now)
    assert asked(viewer, **(LARGE | {"key": fresh.prefix}))["budgets"][0].name == f"key:{key.prefix} per day"


def test_a_key_that_calls_nothing_or_is_another_customers_is_an_error(viewer: Client) -> None:
    _, operators = factories.key(role="operator")
    _, others = factories.key(of=factories.tenant("globex"))
    for prefix in (operators.prefix, others.prefix, "sg_nothing", "\0"):
        page = viewer.post(PAGE, LARGE | {"key": prefix})
        assert [name for name, _ in page.context["errors"]] == ["Key"]
    client = Client()
    client.force_login(factories.person("tess", "tenant staff", of=factories.tenant()))
    page = client.post(PAGE, LARGE | {"tenant": "", "key": others.prefix})
    assert [name for name, _ in page.context["errors"]] == ["Key"]
    assert others.prefix not in [key.prefix for key in page.context["keys"]]


def test_a_tenants_staff_asks_for_its_own_and_is_told_no_wider_amounts() -> None:
    factories.tenant("globex")
    factories.budget("0.001", scope_type="platform", clamp=False)
    factories.budget("5.00")
    client = Client()
    client.force_login(factories.person("tess", "tenant staff", of=factories.tenant()))
    page = client.post(PAGE, LARGE | {"tenant": "globex"})
    answer = page.context["answer"]
    wide, own = sorted(answer["budgets"], key=lambda each: each.name)
    assert (wide.name, wide.words, wide.limit, wide.link) == (
        "a limit of the platform per day",
        "not told to you",
        "–",
        "",
    )
    assert own.name == "tenant:acme per day"
    assert answer["refusal"].status == 402
    shown = page.content.decode()
    assert "0.001 more" not in shown
    assert "globex" not in shown


def test_who_has_no_role_is_turned_away() -> None:
    client = Client()
    client.force_login(factories.person("nora"))
    assert client.get(PAGE).status_code == 403
