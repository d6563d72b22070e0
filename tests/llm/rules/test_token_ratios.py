"""What recent calls teach about the next one."""

from __future__ import annotations

from llm.rules import token_ratios
from llm.rules.token_ratios import TokenRatios


def test_nothing_is_guessed_from_too_few_answers():
    ratios = TokenRatios()
    for _ in range(token_ratios.FEWEST_ANSWERS - 1):
        ratios.answered(model="m", agent="a", output_tokens=100)
    assert ratios.usual_answer(model="m", agent="a") is None
    ratios.answered(model="m", agent="a", output_tokens=100)
    assert ratios.usual_answer(model="m", agent="a") == 100


def test_half_of_the_answers_stay_below_the_usual_one():
    ratios = TokenRatios()
    for tokens in range(1, 101):
        ratios.answered(model="m", agent="a", output_tokens=tokens)
    assert 45 <= (ratios.usual_answer(model="m", agent="a") or 0) <= 55


def test_a_new_agent_starts_from_what_its_model_writes():
    ratios = TokenRatios()
    for _ in range(token_ratios.FEWEST_ANSWERS):
        ratios.answered(model="m", agent="a", output_tokens=40)
    assert ratios.usual_answer(model="m", agent="new") == 40
    assert ratios.usual_answer(model="other", agent="a") is None


def test_old_answers_are_forgotten():
    ratios = TokenRatios()
    for tokens in [10] * token_ratios.KEPT_CALLS + [900] * token_ratios.KEPT_CALLS:
        ratios.answered(model="m", agent="a", output_tokens=tokens)
    assert ratios.usual_answer(model="m", agent="a") == 900


def test_a_token_is_one_byte_until_enough_calls_say_otherwise():
    ratios = TokenRatios()
    assert ratios.output_ratio_e2(model="m", bound=True) == ratios.input_ratio_e2(model="m", bound=True) == 100
    for _ in range(token_ratios.FEWEST_BOUNDS):
        ratios.wrote(model="m", output_tokens=100, output_bytes=420)
        ratios.read(model="m", input_tokens=100, input_bytes=390)
    assert ratios.output_ratio_e2(model="m", bound=True) == 420
    assert ratios.input_ratio_e2(model="m", bound=True) == 390


def test_the_ratio_is_the_lowest_but_for_one_call_in_a_hundred():
    ratios = TokenRatios()
    for bytes_ in [150, 160, 170, 180] * 5 + [400] * 980:
        ratios.wrote(model="m", output_tokens=100, output_bytes=bytes_)
    assert ratios.output_ratio_e2(model="m", bound=True) <= 180
    assert ratios.output_ratio_e2(model="m", bound=False) == 400


def test_a_ratio_below_one_byte_a_token_is_no_guess_at_all():
    ratios = TokenRatios()
    for _ in range(token_ratios.FEWEST_BOUNDS):
        ratios.wrote(model="m", output_tokens=100, output_bytes=20)
    assert ratios.output_ratio_e2(model="m", bound=True) == 100


def test_a_call_without_tokens_teaches_no_ratio():
    ratios = TokenRatios()
    for _ in range(token_ratios.FEWEST_BOUNDS - 1):
        ratios.read(model="m", input_tokens=100, input_bytes=400)
        ratios.wrote(model="m", output_tokens=100, output_bytes=400)
    for _ in range(token_ratios.RENEWED_AFTER):
        ratios.read(model="m", input_tokens=0, input_bytes=400)
        ratios.wrote(model="n", output_tokens=0, output_bytes=400)
    # One call short of what a bound is taken from.
    assert ratios.input_ratio_e2(model="m", bound=True) == 100
    assert ratios.output_ratio_e2(model="m", bound=True) == 400
    assert not ratios._output.get(("n", ""))


def test_what_is_kept_is_bounded():
    ratios = TokenRatios()
    for number in range(token_ratios.KEPT_KEYS + 100):
        ratios.answered(model="m", agent=str(number), output_tokens=1)
    assert len(ratios._answers) <= token_ratios.KEPT_KEYS
