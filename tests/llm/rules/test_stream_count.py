"""What an answer has come to while it still comes: a byte is a token."""

from __future__ import annotations

from dataclasses import replace

from governance.rules.decision import Quote
from llm.rules.stream_count import UNTIL_IT_STOPS, StreamCount
from llm.rules.usage import LONGEST_TOKEN_BYTES

# 100 input tokens at 1 nanodollar, 1,000 output tokens at 2.
QUOTE = Quote(
    model="m",
    cost_nanos=2_100,
    fixed_picos=100_000,
    picos_per_output_token=2_000,
    max_tokens=1_000,
    input_tokens=100,
)


def counting(quote: Quote = QUOTE, *, come: int, hides: bool = False) -> StreamCount:
    count = StreamCount(quote, hides=hides)
    count.arrived(come)
    return count


def test_a_byte_that_has_come_is_a_token_up_to_all_that_may_be_written() -> None:
    assert counting(come=40).tokens(cut=False) == 40
    assert counting(come=5_000).tokens(cut=False) == 1_000
    count = counting(come=40)
    count.arrived(2)
    assert count.tokens(cut=False) == 42


def test_a_model_that_is_stopped_writes_on_until_it_notices() -> None:
    assert counting(come=40).tokens(cut=True) == 40 + UNTIL_IT_STOPS
    assert counting(come=999).tokens(cut=True) == 1_000
    fast = StreamCount(QUOTE)
    fast.arrived(200, seconds=0.1)
    fast.arrived(200, seconds=0.5)
    assert fast.tokens(cut=True) == 400 + 200
    assert fast.tokens(cut=False) == 400


def test_of_what_has_not_come_or_does_not_show_nobody_knows() -> None:
    assert counting(come=0).tokens(cut=False) is None
    assert counting(come=0).tokens(cut=True) is None
    assert counting(come=40, hides=True).tokens(cut=False) is None
    assert counting(replace(QUOTE, max_tokens=None), come=40).tokens(cut=False) is None


def test_the_input_and_so_many_tokens_have_a_price() -> None:
    assert counting(come=40).cost_nanos(40) == 100 + 80
    # Of three answers each token is one answer's: 6,000 picodollars buy one of each.
    three = counting(replace(QUOTE, answers=3, picos_per_output_token=6_000), come=40)
    assert three.cost_nanos(40) == 100 + 80
    assert three.tokens(cut=False) == 40
    assert counting(replace(QUOTE, answers=3), come=5_000).tokens(cut=False) == 3_000


def test_more_than_all_tokens_can_be_is_an_overrun() -> None:
    assert not counting(come=1_000 * LONGEST_TOKEN_BYTES).overruns
    assert counting(come=1_000 * LONGEST_TOKEN_BYTES + 1).overruns
