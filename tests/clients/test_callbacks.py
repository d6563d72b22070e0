"""The callbacks of clients/python for LangChain and LlamaIndex, each with the real framework, against the product."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from governance.models import Reservation, SpendEntry
from tests import factories as make
from tests.clients.conftest import HERE, ClientProcesses, command, environment
from tests.environment import ROOT
from tests.product import Product

pytestmark = pytest.mark.sqlite_only
LANGCHAIN, LLAMA_INDEX = "python/callbacks_langchain.py", "python/callbacks_llama_index.py"
MODULES = {LANGCHAIN: "langchain_core", LLAMA_INDEX: "llama_index.core"}
# What the framework calls an answer that comes in one piece, and in many.
WHOLE = {LANGCHAIN: "invoke", LLAMA_INDEX: "chat"}
BOTH = pytest.mark.parametrize("script", [LANGCHAIN, LLAMA_INDEX])


@cache
def is_installed(interpreter: str, module: str) -> bool:
    return not subprocess.run([interpreter, "-c", f"import {module}"], capture_output=True, check=False).returncode


def needed(script: str) -> list[str]:
    """How to start a script; skipped where its framework is not installed, which is said at the end of a run."""
    interpreter = command("clients")
    if not is_installed(interpreter[0], MODULES[script]):
        pytest.skip(f"NOT TESTED: {MODULES[script]} is not installed: make .venv/clients.installed")
    return interpreter


def seen(clients: ClientProcesses, script: str, product: Product, cell: str, *, key: str = "") -> dict[str, Any]:
    """What the framework shows of one cell."""
    needed(script)
    return clients.of(script, interpreter="clients").see(product.url, key or product.key(), cell)


def reserved() -> Reservation:
    return Reservation.objects.get()


def tokens() -> tuple[int, int, int]:
    entry = SpendEntry.objects.get()
    return entry.input_tokens, entry.cached_tokens, entry.output_tokens


@pytest.fixture(autouse=True)
def budget(product: Product) -> None:
    make.budget("1.00", window="lifetime")


@pytest.mark.parametrize(
    ("script", "cell"),
    [
        *((LANGCHAIN, cell) for cell in ("invoke", "stream", "async", "async_plain", "async_stream")),
        *((LLAMA_INDEX, cell) for cell in ("chat", "complete", "stream", "async")),
    ],
)
def test_a_call_is_held_before_and_settled_after(
    clients: ClientProcesses, product: Product, script: str, cell: str
) -> None:
    assert seen(clients, script, product, cell) == {"content": "Hello.", "calls": 1}
    assert (reserved().status, reserved().model_requested) == ("settled", "mistral-large-latest")
    assert tokens() == (870, 70, 210)


@pytest.mark.parametrize(("script", "cell"), [(LANGCHAIN, "invoke-by-provider"), (LLAMA_INDEX, "chat-beside")])
def test_usage_is_read_where_it_is_said(clients: ClientProcesses, product: Product, script: str, cell: str) -> None:
    seen(clients, script, product, cell)
    assert tokens() == (11, 0, 7)


@BOTH
def test_a_refusal_stops_the_call(clients: ClientProcesses, product: Product, script: str) -> None:
    make.budget("0.000001", scope_type="agent", scope_key="invoices", window="lifetime")
    told = seen(clients, script, product, WHOLE[script])
    assert told == {"error": "Refused", "code": "budget_exhausted", "calls": 0}
    assert not Reservation.objects.exists()


@BOTH
def test_what_is_cheaper_or_shorter_than_asked_for_is_refused(
    clients: ClientProcesses, product: Product, script: str
) -> None:
    """A callback cannot change the call, so a hold for less would bound nothing."""
    make.budget("0.0006", scope_type="agent", scope_key="invoices", window="lifetime", soft_cap=None)
    told = seen(clients, script, product, WHOLE[script])
    assert (told["error"], told["code"], told["calls"]) == ("Refused", "answer_too_long", 0)
    assert reserved().status == "released"


@BOTH
def test_a_call_that_fails_gives_its_hold_back(clients: ClientProcesses, product: Product, script: str) -> None:
    told = seen(clients, script, product, f"{WHOLE[script]}-fails")
    assert (told["error"], told["calls"]) == ("ConnectionError", 1)
    assert reserved().status == "released"


@pytest.mark.parametrize(
    ("script", "cell"),
    [
        # Something had come, which will be billed.
        (LANGCHAIN, "stream-fails"),
        # Whoever stops listening pays all the same.
        (LANGCHAIN, "stream-stopped"),
        (LLAMA_INDEX, "stream-stopped"),
        # Nobody says what was used.
        (LANGCHAIN, "invoke-no-usage"),
        (LANGCHAIN, "stream-no-usage"),
        (LLAMA_INDEX, "chat-no-usage"),
        (LANGCHAIN, "completion"),
    ],
)
def test_what_cannot_be_settled_stays_held(clients: ClientProcesses, product: Product, script: str, cell: str) -> None:
    told = seen(clients, script, product, cell)
    assert ("error" in told) == cell.endswith("fails")
    assert reserved().status == "pending"


@BOTH
def test_a_call_without_a_bound_of_its_own_is_held_for_the_callbacks(
    clients: ClientProcesses, product: Product, script: str
) -> None:
    seen(clients, script, product, f"{WHOLE[script]}-no-bound")
    seen(clients, script, product, WHOLE[script])
    unbound, bound = Reservation.objects.order_by("pk").values_list("amount_nanos", flat=True)
    assert unbound < bound


def test_a_model_without_a_price_is_not_called(clients: ClientProcesses, product: Product) -> None:
    told = seen(clients, LANGCHAIN, product, "invoke-unpriced")
    assert (told["error"], told["code"], told["calls"]) == ("Invalid", "model_not_priced", 0)


def test_two_calls_are_two_holds(clients: ClientProcesses, product: Product) -> None:
    assert seen(clients, LLAMA_INDEX, product, "two")["calls"] == 2
    assert list(Reservation.objects.values_list("status", flat=True)) == ["settled"] * 2


@BOTH
def test_the_snippets_of_the_readme_run(product: Product, script: str) -> None:
    interpreter = needed(script)
    told = (ROOT / "clients/python/README.md").read_text()
    module = script.removeprefix("python/callbacks_").removesuffix(".py")
    [block] = re.findall(rf"^```python\n((?:(?!```).)*?client\.{module} import.*?)^```", told, re.MULTILINE | re.DOTALL)
    key = product.key()
    made = f"from spend_governor_client import Governor\ngovernor = Governor({product.url!r}, {key!r})\n"
    known = {"PYTHONPATH": str(ROOT / "clients" / "python" / "src"), "MISTRAL_API_KEY": key}
    # What the callback holds is a call of its own, wherever the model is asked.
    known["MISTRAL_BASE_URL"] = f"{product.url}/v1"
    done = subprocess.run(
        [*interpreter, "-c", made + block],
        env=environment() | known,
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if script == LANGCHAIN:
        assert Reservation.objects.get(task="greetings").status == "settled"


@pytest.mark.parametrize("module", ["langchain", "llama_index"])
def test_the_modules_load_without_the_frameworks(module: str) -> None:
    source = f"import spend_governor_client.{module} as it; print(it.GovernorCallback.__mro__[1].__name__)"
    path = {"PYTHONPATH": str(ROOT / "clients" / "python" / "src")}
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment() | path, cwd=HERE, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("object", "")
