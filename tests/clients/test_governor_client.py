"""The small Python client (clients/python) against the running product, and where nothing answers."""

from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone
from spend_governor_client import (
    AsyncGovernor,
    Conflict,
    Governor,
    Invalid,
    NeedsReview,
    NotAllowed,
    Refused,
    Unavailable,
    Unsettled,
    Usage,
    at_most,
    plain,
    tied,
    usage_of,
)

from governance.audit import Actor
from governance.models import Reservation, SpendEntry
from llm.catalogue import snapshot, tools
from tests import factories as make
from tests.environment import ROOT
from tests.product import Product

LARGE = "mistral-large-latest"


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What it would have waited for."""
    waited: list[float] = []

    async def sleep(pause_s: float) -> None:
        waited.append(pause_s)

    monkeypatch.setattr(plain, "sleep", waited.append)
    monkeypatch.setattr(tied, "sleep", sleep)
    return waited


@pytest.fixture
def governor(product: Product, naps: list[float]) -> Iterator[Governor]:
    make.budget("1.00", window="lifetime")
    with Governor(product.url, product.key()) as made:
        yield made


def statuses() -> list[str]:
    return list(Reservation.objects.order_by("pk").values_list("status", flat=True))


class LosesAnswers(httpx.HTTPTransport):
    """What is asked arrives and is done, and the answer to the first tries is lost."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost, self.keys = lost, []  # type: ignore[var-annotated]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers["idempotency-key"])
        answer = super().handle_request(request)
        if len(self.keys) <= self.lost:
            answer.read()
            raise httpx.ReadError("lost")
        return answer


Handler = Callable[[httpx.Request], httpx.Response]


def answering(*answers: httpx.Response) -> Handler:
    # Each a fresh one: a client that was given it has made it its own.
    told = (httpx.Response(one.status_code, headers=one.headers, content=one.content) for one in answers)
    return lambda request: next(told)


def asked_plainly(handler: Handler, method: str, *args: Any, tries: int = 4, **asked: Any) -> Any:
    client = httpx.Client(transport=httpx.MockTransport(handler))
    with Governor("http://x", "k", client=client, tries=tries) as governor:
        return getattr(governor, method)(*args, **asked)


def asked_in_a_loop(handler: Handler, method: str, *args: Any, tries: int = 4, **asked: Any) -> Any:
    async def ask() -> Any:
        client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
        async with AsyncGovernor("http://x", "k", client=client, tries=tries) as governor:
            return await getattr(governor, method)(*args, **asked)

    return asyncio.run(ask())


def refusal(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": "No."}}, headers=headers)


def test_a_block_is_held_and_settled_by_its_answer(governor: Governor) -> None:
    with governor.hold(LARGE, input_tokens=900, max_tokens=500, task="t1") as hold:
        assert (hold.model, statuses()) == (LARGE, ["pending"])
        settled = hold.settle({"usage": {"prompt_tokens": 870, "completion_tokens": 210}})

    entry = SpendEntry.objects.get()
    assert (entry.input_tokens, entry.output_tokens, entry.task) == (870, 210, "t1")
    assert make.nanos(str(settled.cost)) == entry.cost_nanos > 0
    assert settled.overage == 0
    assert hold.held.amount > settled.cost


def test_by_hand_it_is_extended_settled_and_released(governor: Governor) -> None:
    hold = governor.reserve(LARGE, estimated_cost=Decimal("0.02"), ttl_s=300)
    assert hold.extend(more="0.01").amount == Decimal("0.03")
    assert hold.settle(cost="0.025").cost == Decimal("0.025")
    assert governor.reserve(LARGE, estimated_cost="0.1").release().status == "released"

    assert statuses() == ["settled", "released"]
    with pytest.raises(Conflict, match="reservation_resolved"):
        governor.settle(hold.id, cost="0.01")


def test_a_report_is_charged_once(governor: Governor) -> None:
    asked: dict[str, Any] = {"model": LARGE, "usage": Usage(1_000, 100, cached_tokens=10)}
    first, again = governor.report("job-1", **asked), governor.report("job-1", **asked)

    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.cost == again.cost > 0
    assert SpendEntry.objects.count() == 1


def test_a_refusal_says_by_which_budget_and_holds_nothing(governor: Governor) -> None:
    with pytest.raises(Refused) as caught, governor.hold(LARGE, estimated_cost="2"):
        pytest.fail("the block was entered")

    error = caught.value
    assert (error.code, error.status, error.is_passing) == ("budget_exhausted", 402, False)
    assert error.decision["scope"] == "tenant:acme"
    assert error.request_id
    assert pickle.loads(pickle.dumps(error)).decision == error.decision
    assert statuses() == []


def test_money_that_others_hold_is_waited_for(
    governor: Governor, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = governor.reserve(LARGE, estimated_cost="0.90")
    with pytest.raises(Refused) as caught:
        governor.reserve(LARGE, estimated_cost="0.50", idempotency_key="job-2")
    assert caught.value.is_passing

    monkeypatch.setattr(plain, "sleep", lambda pause_s: (naps.append(pause_s), first.release()))
    # Under the key that was refused before, and a further one: what was refused is no answer for ever.
    assert governor.reserve(LARGE, estimated_cost="0.50", idempotency_key="job-2", patience_s=10).id
    assert len(naps) == 1


@pytest.mark.parametrize("lost", [1, 3])
def test_an_answer_that_is_lost_changes_nothing(product: Product, naps: list[float], lost: int) -> None:
    make.budget("1.00", window="lifetime")
    transport = LosesAnswers(lost)
    with Governor(product.url, product.key(), client=httpx.Client(transport=transport)) as governor:
        hold = governor.reserve(LARGE, estimated_cost="0.10")
        assert len(transport.keys) == len(naps) + 1 == lost + 1
        assert len(set(transport.keys)) == 1
        transport.keys.clear()
        assert hold.settle(cost="0.04").cost == Decimal("0.04")

    assert statuses() == ["settled"]
    assert SpendEntry.objects.count() == 1


def test_a_block_that_fails_gives_its_hold_back_unless_something_was_spent(governor: Governor) -> None:
    for doing in (lambda hold: None, lambda hold: hold.keep(), lambda hold: hold.settle({"usage": None})):
        raises = pytest.raises((KeyError, ValueError))
        with raises, governor.hold(LARGE, estimated_cost="0.01") as hold:
            doing(hold)
            raise KeyError("the provider failed")
    with pytest.raises(KeyError), governor.hold(LARGE, estimated_cost="0.01", on_error="keep"):
        raise KeyError("the provider failed")

    assert statuses() == ["released", "pending", "pending", "pending"]


def test_a_block_that_forgets_to_settle_is_told(governor: Governor) -> None:
    with pytest.raises(Unsettled), governor.hold(LARGE, estimated_cost="0.01"):
        pass
    assert statuses() == ["pending"]


def test_a_decorated_function_gets_the_model_to_call(governor: Governor) -> None:
    rules = [{"from": [LARGE], "to": SMALL}]
    make.budget("0.50", window="lifetime", scope_type="agent", scope_key="invoices", downgrade_rules=rules)

    @governor.governed(LARGE, estimated_cost="0.45")
    def ask(text: str, *, model: str) -> dict[str, Any]:
        return {"text": f"{model} on {text}", "usage": {"input_tokens": 10, "output_tokens": 2}}

    assert ask("this")["text"] == f"{SMALL} on this"
    assert statuses() == ["settled"]
    # What it says it used cannot be read: it was spent all the same.
    with pytest.raises(ValueError, match="no usage"):
        governor.governed(LARGE, estimated_cost="0.01")(lambda model: {"text": ""})()
    assert statuses() == ["settled", "pending"]


@pytest.fixture
def priced(db: None) -> Iterator[None]:
    """A call of the tool `web-search` costs half a cent."""
    tools.set_price(name="web-search", nanos_per_call=make.nanos("0.005"), by=Actor("olga"), now=timezone.now())
    snapshot.forget()
    yield
    snapshot.forget()


@pytest.mark.usefixtures("priced")
def test_a_tool_is_held_by_the_call_and_settled_by_what_ran(governor: Governor) -> None:
    hold = governor.reserve(tool="web-search", calls=3)
    assert (hold.tool, hold.model, hold.held.amount) == ("web-search", "web-search", Decimal("0.015"))
    assert hold.settle(calls=2).cost == Decimal("0.01")
    with governor.hold(tool="web-search", calls=2) as whole:
        assert whole.settle().cost == Decimal("0.01")
    # An answer has no usage to be read.
    with governor.hold(tool="web-search") as one:
        assert one.settle({"hits": []}).cost == Decimal("0.005")

    @governor.governed(tool="web-search", task="t1")
    def search(text: str) -> list[str]:
        if not text:
            raise KeyError("the search failed")
        return [text]

    assert search("this") == ["this"]
    with pytest.raises(KeyError):
        search("")
    assert governor.report("job-1", tool="web-search", calls=4).cost == Decimal("0.02")
    assert governor.report("job-2", tool="web-search", cost="0.5").cost == Decimal("0.5")
    assert statuses() == ["settled"] * 4 + ["released"]
    assert set(SpendEntry.objects.values_list("provider", "unit", "model_served")) == {("tool", "call", "web-search")}


def test_a_tool_without_a_price_is_not_run(governor: Governor) -> None:
    with pytest.raises(Invalid) as caught:
        governor.governed(tool="web-search")(pytest.fail)("it was run")
    assert (caught.value.code, caught.value.param) == ("tool_not_priced", "tool")
    for wrong in (lambda: governor.reserve(LARGE, calls=2), lambda: governor.report("job", calls=2, cost="1")):
        with pytest.raises(TypeError, match="calls are of a tool"):
            wrong()
    with pytest.raises(TypeError, match="tokens are of a model"):
        governor.report("job", tool="web-search", usage=Usage(1, 1))


def test_a_call_that_cannot_be_changed_is_held_as_it_is(governor: Governor) -> None:
    rules = [{"from": [LARGE], "to": SMALL}]
    make.budget("0.50", window="lifetime", scope_type="agent", scope_key="invoices", downgrade_rules=rules)
    assert governor.reserve(LARGE, estimated_cost="0.45").model == SMALL
    with pytest.raises(Refused):
        governor.reserve(LARGE, estimated_cost="0.45", allow_downgrade=False)


SMALL = "mistral-small-latest"


@pytest.mark.usefixtures("priced")
async def test_asyncio_has_the_same(product: Product) -> None:
    from asgiref.sync import sync_to_async

    await sync_to_async(make.budget)("1.00", window="lifetime")
    async with AsyncGovernor(product.url, await sync_to_async(product.key)()) as governor:
        async with governor.hold(LARGE, input_tokens=900, max_tokens=500) as hold:
            await hold.extend(ttl_s=600)
            await hold.settle(usage=Usage(870, 210))

        @governor.governed(LARGE, estimated_cost="0.01")
        async def ask(*, model: str) -> dict[str, Any]:
            return {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}

        await ask()

        @governor.governed(tool="web-search", calls=2)
        async def search(text: str) -> str:
            return text

        assert await search("this") == "this"
        assert (await governor.report("job-9", cost="0.01")).cost == Decimal("0.01")
        with pytest.raises(Refused):
            await governor.reserve(LARGE, estimated_cost="2")
        with pytest.raises(KeyError):
            async with governor.hold(LARGE, estimated_cost="0.01"):
                raise KeyError
    assert await sync_to_async(statuses)() == ["settled", "settled", "settled", "released"]


def test_a_key_that_is_none_and_a_request_that_is_wrong(product: Product, governor: Governor) -> None:
    with Governor(product.url, "sg_wrong") as stranger, pytest.raises(NotAllowed):
        stranger.reserve(LARGE, estimated_cost="0.01")
    with pytest.raises(Invalid) as caught:
        governor.reserve("", estimated_cost="0.01")
    assert caught.value.param == "model"


def test_a_claim_beyond_what_is_left_waits_for_an_operator(governor: Governor) -> None:
    hold = governor.reserve(LARGE, estimated_cost="0.10")
    with pytest.raises(NeedsReview) as caught:
        hold.settle(cost="50")
    assert caught.value.details["report"]


@pytest.mark.parametrize("ask", [asked_plainly, asked_in_a_loop])
class TestWhereNothingAnswers:
    def test_it_gives_up_after_its_tries(self, naps: list[float], ask: Any) -> None:
        def fails(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        with pytest.raises(Unavailable, match="ConnectError"):
            ask(fails, "release", "id", tries=3)
        assert len(naps) == 2
        assert all(0 < nap < 5 for nap in naps)

    @pytest.mark.parametrize(
        ("answer", "tries"),
        [
            (refusal(503, "ledger_unavailable"), 2),
            (refusal(409, "idempotency_in_progress", **{"retry-after": "1"}), 2),
            (httpx.Response(502, text="<html>a proxy's page"), 2),
            (refusal(503, "ledger_unavailable", **{"x-idempotent-replay": "true"}), 1),
            (refusal(500, "failed"), 1),
            (httpx.Response(200, text="<html>somebody else's"), 1),
            (httpx.Response(200, json=["a list"]), 1),
            (httpx.Response(200, json={"id": "1"}), 1),
            (httpx.Response(200, json={"id": "1", "status": "", "model": "", "amount": "much"}), 1),
        ],
    )
    def test_what_is_unsure_is_asked_again(
        self, naps: list[float], ask: Any, answer: httpx.Response, tries: int
    ) -> None:
        told = {"id": "1", "status": "released", "model": "m", "amount": "0.1", "expires_at": "2026-01-01T00:00:00Z"}
        handler = answering(answer, httpx.Response(200, json=told))
        if tries == 2:
            assert ask(handler, "release", "id").amount == Decimal("0.1")
        else:
            with pytest.raises(Unavailable):
                ask(handler, "release", "id")
        assert len(naps) == tries - 1

    def test_patience_ends(self, naps: list[float], ask: Any) -> None:
        busy = [refusal(429, "budget_in_flight", **{"retry-after": "2"}) for _ in range(9)]
        with pytest.raises(Refused):
            ask(answering(*busy), "reserve", "m", estimated_cost=1, patience_s=5)
        assert naps == [2.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 3}}, Usage(9, 3)),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}},
            Usage(9, 3, 4),
        ),
        (
            {"usage": {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}},
            Usage(9, 3, 2),
        ),
        (
            {"usage": {"input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": 5}},
            Usage(14, 3, 5),
        ),
    ],
)
def test_usage_is_read_as_each_provider_says_it(answer: Any, wanted: Usage) -> None:
    assert usage_of(answer) == wanted


def test_amounts_are_exact_or_refused() -> None:
    governor = Governor("http://x", "k")
    for amount in (0.1, True):
        with pytest.raises(TypeError):
            governor.settle("id", cost=amount)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no amount"):
        governor.settle("id", cost="NaN")
    with pytest.raises(TypeError, match="one of these"):
        governor.settle("id")
    assert at_most([{"content": "é"}]) >= 2


@pytest.mark.usefixtures("priced")
def test_the_readme_runs_as_it_stands(governor: Governor) -> None:
    # What frameworks need is run with them: test_callbacks.py.
    told = (ROOT / "clients/python/README.md").read_text().partition("## In LangChain")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", told, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"GOVERNOR_KEY": governor._headers["authorization"].removeprefix("Bearer ")}
    exec("\n".join(blocks).replace("http://127.0.0.1:8000", governor._url), names)
    names["governor"].close()

    assert statuses() == ["settled"] * 5
    assert SpendEntry.objects.count() == 7
