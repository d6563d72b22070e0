"""What recent calls teach about the next one."""

from __future__ import annotations

from llm.rules import token_ratios
from llm.rules.token_ratios import Lessons


def test_nothing_is_guessed_from_too_few_answers():
    lessons = Lessons()
    for _ in range(token_ratios.FEWEST_ANSWERS - 1):
        lessons.answered(model="m", agent="a", output_tokens=100)
    assert lessons.usual_answer(model="m", agent="a") is None
    lessons.answered(model="m", agent="a", output_tokens=100)
    assert lessons.usual_answer(model="m", agent="a") == 100


def test_half_of_the_answers_stay_below_the_usual_one():
    lessons = Lessons()
    for tokens in range(1, 101):
        lessons.answered(model="m", agent="a", output_tokens=tokens)
    assert 45 <= (lessons.usual_answer(model="m", agent="a") or 0) <= 55


def test_a_new_agent_starts_from_what_its_model_writes():
    lessons = Lessons()
    for _ in range(token_ratios.FEWEST_ANSWERS):
        lessons.answered(model="m", agent="a", output_tokens=40)
    assert lessons.usual_answer(model="m", agent="new") == 40
    assert lessons.usual_answer(model="other", agent="a") is None


def test_old_answers_are_forgotten():
    lessons = Lessons()
    for tokens in [10] * token_ratios.KEPT_CALLS + [900] * token_ratios.KEPT_CALLS:
        lessons.answered(model="m", agent="a", output_tokens=tokens)
    assert lessons.usual_answer(model="m", agent="a") == 900


def test_a_token_is_one_byte_until_enough_calls_say_otherwise():
    lessons = Lessons()
    assert lessons.output_ratio_e2(model="m", bound=True) == lessons.input_ratio_e2(model="m", bound=True) == 100
    for _ in range(token_ratios.FEWEST_BOUNDS):
        lessons.wrote(model="m", output_tokens=100, output_bytes=420)
        lessons.read(model="m", input_tokens=100, input_bytes=390)
    assert lessons.output_ratio_e2(model="m", bound=True) == 420
    assert lessons.input_ratio_e2(model="m", bound=True) == 390


def test_the_ratio_is_the_lowest_but_for_one_call_in_a_hundred():
    lessons = Lessons()
    for bytes_ in [150, 160, 170, 180] * 5 + [400] * 980:
        lessons.wrote(model="m", output_tokens=100, output_bytes=bytes_)
    assert lessons.output_ratio_e2(model="m", bound=True) <= 180
    assert lessons.output_ratio_e2(model="m", bound=False) == 400


def test_a_ratio_below_one_byte_a_token_is_no_guess_at_all():
    lessons = Lessons()
    for _ in range(token_ratios.FEWEST_BOUNDS):
        lessons.wrote(model="m", output_tokens=100, output_bytes=20)
    assert lessons.output_ratio_e2(model="m", bound=True) == 100


def test_what_is_kept_is_bounded():
    lessons = Lessons()
    for number in range(token_ratios.KEPT_KEYS + 100):
        lessons.answered(model="m", agent=str(number), output_tokens=1)
    assert len(lessons._answers) <= token_ratios.KEPT_KEYS
