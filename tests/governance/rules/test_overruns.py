"""Which calls an answer beyond its bound says something of."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from governance.rules.overruns import ModelOverrun, asked_for

PLACE = "groq/llama"


@pytest.mark.parametrize(
    ("seen_with", "asked", "concerned"),
    [
        ((), (), True),
        ((), ("tools",), True),
        (("thinking",), (), False),
        (("thinking",), ("tools",), False),
        (("thinking", "tools"), ("thinking",), False),
        (("thinking", "tools"), ("several", "tools", "thinking"), True),
    ],
)
def test_it_concerns_calls_that_ask_for_all_that_it_was_seen_with(
    seen_with: Collection[str], asked: Collection[str], concerned: bool
) -> None:
    overrun = ModelOverrun(PLACE, asked_for(seen_with), tokens=500, permitted=10)
    assert overrun.concerns(PLACE, frozenset(asked)) is concerned
    assert not overrun.concerns("groq/other", frozenset(asked))


def test_words_are_kept_in_one_order() -> None:
    assert asked_for({"tools", "several"}) == asked_for(["several", "tools"]) == "several tools"
    assert asked_for(()) == ""
