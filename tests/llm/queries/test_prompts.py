"""A prompt is bounded and priced as the gateway would."""

from __future__ import annotations

import pytest

from llm.catalogue import snapshot
from llm.queries import prompts
from llm.queries.prompts import PromptBounds, PromptRefused

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh_catalogue() -> None:
    snapshot.forget()


def read(prompt: str = "Hello", **fields: object) -> PromptBounds:
    asked = {
        "model": "mistral-small-latest",
        "max_tokens": 100,
        "tools": (),
        "forced_tool": "",
        "default_max_tokens": 700,
    }
    return prompts.read(prompt=prompt, **(asked | fields))  # type: ignore[arg-type]


def test_a_byte_is_a_token_at_most_and_what_may_be_written_is_held_too() -> None:
    short, long = (read("x" * letters).quoter()("mistral-small-latest") for letters in (10, 1_010))
    assert short is not None
    assert long is not None
    assert long.input_tokens - short.input_tokens == 1_000
    # 0.15 dollars a million in, 0.60 out: picodollars, rounded up to nanodollars.
    picos = long.input_tokens * 150_000 + 100 * 600_000
    assert long.cost_nanos == -(-picos // 1_000)


def test_without_a_length_the_customers_default_is_held() -> None:
    found = read(max_tokens=None).quoter()("mistral-large-latest")
    assert found is not None
    assert found.max_tokens == 700
    assert read().quoter()("nobody-knows") is None


def test_tools_are_counted_and_known_to_the_decision() -> None:
    plain, tooled = read(), read(tools=("search", "run"), forced_tool="run")
    call = tooled.call(allow_downgrade=True, shows_amounts=True)
    assert (call.tools, call.forced_tool, call.model) == (("search", "run"), "run", "mistral-small-latest")
    one, other = (found.quoter()("mistral-small-latest") for found in (plain, tooled))
    assert one is not None
    assert other is not None
    assert other.input_tokens > one.input_tokens


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"prompt": "\ud800"}, "JSON"), ({"forced_tool": "run"}, "tool")],
)
def test_what_the_gateway_would_not_take_is_said(fields: dict[str, object], words: str) -> None:
    with pytest.raises(PromptRefused, match=words):
        read(**fields)
