"""What a stream has come to while it still comes."""

from __future__ import annotations

from dataclasses import replace

from governance.rules.decision import Quote
from llm.rules import token_ratios
from llm.rules.stream_count import StreamCount
from llm.rules.token_ratios import TokenRatios

# 100 input tokens at 1 nanodollar, 1,000 output tokens at 2, of which 50 are held for.
QUOTE = Quote(
    model="m",
    cost_nanos=200,
    fixed_picos=100_000,
    picos_per_output_token=2_000,
    max_tokens=1_000,
    input_tokens=100,
    held_tokens=50,
)


def counting(quote: Quote = QUOTE, *, ratios: TokenRatios | None = None, input_bytes: int | None = 100) -> StreamCount:
    return StreamCount(quote, model="m", input_bytes=input_bytes, token_ratios=ratios or TokenRatios())


def four_bytes_a_token() -> TokenRatios:
    ratios = TokenRatios()
    for _ in range(token_ratios.FEWEST_RATIOS):
        ratios.read(model="m", input_tokens=100, input_bytes=400)
        ratios.wrote(model="m", output_tokens=100, output_bytes=400)
    return ratios


def test_until_more_is_known_a_byte_is_a_token() -> None:
    count = counting()
    assert (count.tokens, count.nanos_seen()) == (0, 100)
    count.wrote(30, unseen_bytes=0)
    count.wrote(10, unseen_bytes=5)
    assert (count.output_bytes, count.tokens, count.nanos_seen()) == (40, 45, 190)


def test_what_is_known_of_the_model_makes_fewer_tokens_of_input_and_output() -> None:
    count = counting(ratios=four_bytes_a_token())
    count.wrote(40, unseen_bytes=0)
    # A quarter of the input's nanodollar each, and ten tokens at two.
    assert (count.tokens, count.nanos_seen()) == (10, 45)


def test_an_input_that_is_not_all_text_counts_whole() -> None:
    assert counting(ratios=four_bytes_a_token(), input_bytes=None).nanos_seen() == 100


def test_the_answers_of_n_share_the_bytes() -> None:
    count = counting(replace(QUOTE, answers=3))
    count.wrote(31, unseen_bytes=0)
    assert count.tokens == 11


def test_a_hold_covers_tokens_beside_the_input_and_costs_what_they_do() -> None:
    count = counting()
    assert count.covered_tokens(200) == 50
    assert count.nanos_for(50) == 200
    assert count.nanos_for(5_000) == count.nanos_for(1_000) == 2_100


def test_a_hold_for_all_that_may_be_written_needs_no_looking_after() -> None:
    assert counting().covered_tokens(2_100) is None
    assert counting(replace(QUOTE, held_tokens=None)).covered_tokens(200) is None
    assert counting(replace(QUOTE, picos_per_output_token=0)).covered_tokens(200) is None


def test_of_what_writes_no_tokens_nothing_is_seen() -> None:
    assert counting(replace(QUOTE, max_tokens=None, held_tokens=None)).nanos_seen() is None
