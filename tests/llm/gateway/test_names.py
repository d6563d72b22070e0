"""Names that calls bring, over real sockets: checked before anything is done, one however spelled, and bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import pytest

from governance.models import (
    Agent,
    Budget,
    BudgetWindow,
    KeptAnswer,
    RateBucket,
    RateLimit,
    Reservation,
    SpendEntry,
)
from tests import factories as make
from tests.product import Product, eventually

KINDS = ("agent", "user", "session", "task")
ASK = {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}


def ask(product: Product, key: str, headers: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
    """A chat request whose headers may be bytes."""
    raw = [("authorization", f"Bearer {key}"), *(headers or {}).items()]
    return httpx.post(
        f"{product.url}/v1/chat/completions",
        json=ASK | body,
        headers=[(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in raw],
        timeout=30,
    )


@pytest.fixture
def key(product: Product) -> str:
    make.budget("1.00")
    return product.key(role="tenant")


def nothing_was_done(product: Product) -> bool:
    rows = (Agent, KeptAnswer, Reservation, SpendEntry, BudgetWindow)
    return not product.sandbox.requests and not any(model.objects.exists() for model in rows)


@pytest.mark.parametrize("strategy", ["", "cost-optimized"])
@pytest.mark.parametrize("model", ["a\r\nx-evil: 1", "a\0", "a\x1b[2J", "a\x9b", "a\u202e", "a" * 121, "a" * 3_000_000])
def test_a_models_name_is_checked_before_anything_is_done(
    product: Product, key: str, model: str, strategy: str
) -> None:
    headers = {"idempotency-key": "k1"} | ({"x-strategy": strategy} if strategy else {})
    for _ in range(2):
        refused = ask(product, key, headers, model=model)
        assert (refused.status_code, refused.json()["code"], refused.json()["param"]) == (400, "invalid_name", "model")
        assert "at most 120 characters" in refused.json()["message"] or "use letters" in refused.json()["message"]
    assert nothing_was_done(product)


def test_headers_of_an_answer_tell_a_name_in_any_script(product: Product, key: str) -> None:
    make.budget("0.90", scope_type="user", scope_key="*")
    named = {"x-user": "Zoë 日本 100%"}
    answered = ask(product, key, named)
    assert answered.headers["x-budget-scope"] == "user:Zo%C3%AB %E6%97%A5%E6%9C%AC 100%25"
    raw = [(b"authorization", f"Bearer {key}".encode()), (b"x-user", named["x-user"].encode())]
    routed = httpx.post(f"{product.url}/api/llm/route", json={"prompt": "Hi", "max_tokens": 5}, headers=raw, timeout=30)
    assert routed.json()["decision"]["budget_scope"] == "user:Zoë 日本 100%"


@pytest.mark.parametrize("odd", [b"a\xc2\x9b", "a\u202eb".encode(), b"*", b"a" * 201])
@pytest.mark.parametrize("kind", ["agent", "user", "session", "task"])
def test_a_headers_name_is_checked_before_anything_is_done(product: Product, key: str, kind: str, odd: bytes) -> None:
    refused = ask(product, key, {f"x-{kind}": odd, "idempotency-key": "k1"})
    assert (refused.status_code, refused.json()["param"]) == (400, f"x-{kind}")
    assert nothing_was_done(product)


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({"x-strategy": "a" * 101}, {}, "x-strategy"),
        ({}, {"user": "a\u200bb"}, "user"),
        ({}, {"metadata": {"task": ["a"]}}, "metadata.task"),
        ({}, {"metadata": {"session": {"a": 1}}}, "metadata.session"),
        ({}, {"tools": [{"type": "function", "function": {"name": "a\x1b"}}]}, "tools"),
        ({"idempotency-key": b"a\xc2\x85b"}, {}, "idempotency-key"),
    ],
)
def test_other_names_are_checked_too(
    product: Product, key: str, headers: dict[str, Any], body: dict[str, Any], param: str
) -> None:
    refused = ask(product, key, headers, **body)
    assert (refused.status_code, refused.json()["param"]) == (400, param)
    assert nothing_was_done(product)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-user": "Zoë".encode()}, {}),
        ({"x-user": "Zoë".encode("latin-1")}, {}),
        ({"x-user": "Zoe\u0308".encode()}, {}),
        ({"x-user": b"Zo\xc3\xab"}, {}),
        ({}, {"user": "Zoë"}),
        ({}, {"user": " Zoe\u0308  "}),
        ({}, {"metadata": {"user": "Zoë"}}),
    ],
)
def test_a_users_cap_holds_however_the_user_is_spelled(
    product: Product, key: str, headers: dict[str, Any], body: dict[str, Any]
) -> None:
    make.budget("0.000001", scope_type="user", scope_key="Zoë")
    refused = ask(product, key, headers, **body)
    assert (refused.status_code, refused.json()["error"]["metadata"]["budget"]) == (402, "user:Zoë")


def test_each_users_budget_has_one_window_for_all_spellings(product: Product, key: str) -> None:
    make.budget("1.00", scope_type="user", scope_key="*")
    for header in ("Zoë".encode(), "Zoë".encode("latin-1"), "Zoe\u0308".encode()):
        assert ask(product, key, {"x-user": header}).status_code == 200
    assert list(BudgetWindow.objects.filter(budget__scope_type="user").values_list("subject", flat=True)) == ["Zoë"]
    assert set(SpendEntry.objects.values_list("user", flat=True)) == {"Zoë"}


@pytest.mark.parametrize("spelled", ["bot", "Bot", "BOT", "ｂｏｔ"])
def test_an_agents_cap_and_pause_hold_however_it_is_spelled(product: Product, key: str, spelled: str) -> None:
    budget = make.budget("0.000001", scope_type="agent", scope_key="bot")
    assert ask(product, key, {"x-agent": spelled}).status_code == 402
    Budget.objects.filter(pk=budget.pk).update(enabled=False)
    Agent.objects.create(tenant=make.tenant(), slug="bot", status="paused")
    assert ask(product, key, {"x-agent": spelled}).json()["code"] == "paused"
    assert Agent.objects.count() == 1


def test_the_header_wins_over_the_body_and_metadata_over_user(product: Product, key: str) -> None:
    body = {"user": "body", "metadata": {"user": 7}}
    assert ask(product, key, {"x-user": "header"}, **body).status_code == 200
    assert ask(product, key, **body).status_code == 200
    assert list(SpendEntry.objects.order_by("id").values_list("user", flat=True)) == ["header", "7"]


# What is made by names ----------------------------------------------------------------------------------------


def test_300_refused_calls_with_new_names_leave_no_row(product: Product) -> None:
    make.budget("0.000001")
    for kind in KINDS:
        make.budget("5.00", scope_type=kind, scope_key="*")
        RateLimit.objects.create(tenant=make.tenant(), scope_type=kind, scope_key="*", requests_per_minute=5)
    key = product.key(role="tenant")
    ask(product, key)
    windows = BudgetWindow.objects.count()

    def refused(number: int) -> int:
        name = f"new-{number}"
        return ask(
            product,
            key,
            {f"x-{kind}": name for kind in ("agent", "user", "session", "task")} | {"idempotency-key": name},
        ).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(refused, range(300))) == {402}
    assert (Agent.objects.count(), KeptAnswer.objects.count(), RateBucket.objects.count()) == (0, 0, 0)
    assert BudgetWindow.objects.count() == windows == 1


def test_an_agent_is_registered_when_its_call_is_let_through(product: Product, key: str) -> None:
    assert ask(product, key, {"x-agent": "new"}, model="gpt-9").status_code == 400
    assert not Agent.objects.exists()
    assert ask(product, key, {"x-agent": "New"}).status_code == 200
    assert Agent.objects.get().slug == "new"


def test_the_agents_that_calls_register_are_bounded(product: Product, key: str, settings: Any) -> None:
    settings.AGENTS_PER_TENANT = 2
    for name in ("one", "two", "one"):
        assert ask(product, key, {"x-agent": name}).status_code == 200
    refused = ask(product, key, {"x-agent": "three"})
    assert (refused.status_code, refused.json()["code"]) == (403, "too_many_agents")
    assert "has 2 agents, which is the most" in refused.json()["message"]
    assert (Agent.objects.count(), len(product.sandbox.requests)) == (2, 3)
    Agent.objects.create(tenant=make.tenant(), slug="three")
    assert ask(product, key, {"x-agent": "three"}).status_code == 200


def test_the_names_that_are_new_to_a_budget_within_an_hour_are_bounded(
    product: Product, key: str, settings: Any
) -> None:
    settings.NEW_NAMES_PER_HOUR = 2
    make.budget("1.00", scope_type="user", scope_key="*")
    for name in ("one", "two", "one"):
        assert ask(product, key, {"x-user": name}).status_code == 200
    refused = ask(product, key, {"x-user": "three"})
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
        429,
        "too_many_names",
        "60",
    )
    assert "More than 2 agents, users, sessions or tasks were new" in refused.json()["message"]
    assert BudgetWindow.objects.filter(budget__scope_type="user").count() == 2
    dry = product.post("/api/decisions", key, model="x", estimated_cost="0.01", user="three").json()
    assert (dry["allowed"], dry["reason"]) == (False, "too_many_names")
    report = product.post("/api/spend", key, request_id="r", cost="0.01", user="three")
    assert (report.status_code, report.json()["error"]["code"]) == (429, "too_many_names")
    assert ask(product, product.key(role="tenant", of=make.tenant("globex")), {"x-user": "three"}).status_code == 200


# What is kept, and who waits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{"messages": "Hi"}, {"max_tokens": -1}, {"nonsense": 1}, {"user": 7}])
def test_a_malformed_call_is_not_kept(product: Product, key: str, body: dict[str, Any]) -> None:
    for number in range(3):
        assert ask(product, key, {"idempotency-key": f"k{number}"}, **body).status_code == 400
    assert nothing_was_done(product)


def test_what_is_kept_for_one_api_key_is_bounded(product: Product, key: str, settings: Any) -> None:
    settings.KEPT_ANSWERS_PER_KEY = 2
    for name in ("k1", "k2", "k1"):
        assert ask(product, key, {"idempotency-key": name}).status_code == 200
    refused = ask(product, key, {"idempotency-key": "k3"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_kept_answers")
    assert "has 2 requests under Idempotency-Keys within 24 hours, which is the most" in refused.json()["message"]
    assert ask(product, key).status_code == 200
    assert ask(product, product.key(role="tenant"), {"idempotency-key": "k3"}).status_code == 200


def test_large_answers_are_kept_up_to_so_many_bytes(
    product: Product, key: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("governance.idempotency.SMALL_BYTES", 10)
    settings.KEPT_MEGABYTES_PER_KEY = 0
    assert ask(product, key, {"idempotency-key": "k1"}).status_code == 200
    assert not KeptAnswer.objects.exists()


def test_repeats_that_wait_are_bounded_and_take_no_others_thread(product: Product, key: str, settings: Any) -> None:
    from llm.gateway.application import gateway

    settings.WAITING_REPEATS_PER_KEY = 5
    product.sandbox.behave("latency=3")
    others = [product.key(role="tenant") for _ in range(5)]
    with ThreadPoolExecutor(60) as pool:
        repeats = [pool.submit(ask, product, key, {"idempotency-key": "k1"}) for _ in range(51)]
        assert eventually(lambda: gateway.waiting.count == 5)
        # Nothing but what was read by its own threads is needed to answer these.
        assert all(product.get("/v1/models", other).status_code == 200 for other in others)
        answers = [repeat.result() for repeat in repeats]
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(409)) == (6, 45)
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.headers["retry-after"] == "1"
    assert "5 repeats of this API key wait already, which is the most" in refused.json()["message"]
    assert SpendEntry.objects.count() == 1
    assert gateway.waiting.count == 0


def test_reads_do_not_wait_behind_those_of_kept_answers(product: Product, key: str) -> None:
    import asyncio
    from threading import Event

    from llm.gateway.application import gateway

    held = Event()
    assert gateway.loop is not None

    async def hold() -> None:
        await asyncio.gather(*(gateway.kept(lambda: held.wait(4)) for _ in range(10)))

    holding = asyncio.run_coroutine_threadsafe(hold(), gateway.loop)
    try:
        assert product.get("/v1/models", product.key(agent=f"a-{uuid4()}")).status_code == 200
        assert not holding.done()
    finally:
        held.set()
        holding.result(10)


@pytest.mark.parametrize(
    ("sent", "told"),
    [("00-" + "a" * 32 + "-" + "b" * 16 + "-01", True), ("00-x", False), ("a" * 60_000, False), ("00-\x1b", False)],
)
def test_only_a_trace_context_is_told_as_one(sent: str, told: bool) -> None:
    from llm.state.telemetry import trace_context

    assert trace_context(sent) == (sent if told else "")
