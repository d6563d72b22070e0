"""Exact counts: of parts no fewer than of the whole, and never more than bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.rules import exact_count
from llm.rules.exact_count import CHUNK, LONGEST_CHUNK, MOST_BYTES
from tests.fakes.pair_tokenizer import LEARNED_FROM, NEW_WORDS, OLD_WORDS, PairTokenizer

OLD, NEW = PairTokenizer(words=OLD_WORDS), PairTokenizer(words=NEW_WORDS)
# What texts are made of that attack a count: words that are tokens, blanks, signs, marks, numbers, accents.
MORSELS = st.sampled_from(
    [
        *("the", " model", "reads", "text", "a", "é", "你好", "🎉", "12", "345", "²", "'s", "'", "_", "/", "."),
        *(" ", "  ", "\t", "\n", "\n\n", "\r\n", ".\n", " \n", "\u00a0", "\x1c", "\u0301", "\u200d", "<s>", "[INST]"),
    ]
)
TEXTS = st.lists(MORSELS | st.text(max_size=4), max_size=60).map("".join)


@pytest.mark.parametrize("tokenizer", [OLD, NEW], ids=["old", "new"])
class TestBounds:
    @example(before="1", text="123456 of the", after="")
    @given(before=TEXTS, text=TEXTS, after=TEXTS)
    def test_a_text_has_no_more_tokens_within_others_than_are_counted(self, tokenizer, before, text, after):
        size = exact_count.utf8_bytes
        counted = exact_count.tokens_within(tokenizer, text)
        assert tokenizer.count(before + text + after) <= size(before) + counted + size(after)
        assert counted <= size(text)

    @example(text="9 \nthe text")
    @given(text=TEXTS)
    def test_cut_at_its_seams_a_text_has_as_many_tokens_as_whole(self, tokenizer, text):
        cuts = [0, *(seam.start() for seam in exact_count.SEAM.finditer(text)), len(text)]
        parts = [text[start:stop] for start, stop in pairwise(cuts)]
        assert sum(map(tokenizer.count, parts)) == tokenizer.count(text)

    @given(pieces=st.lists(MORSELS, max_size=60))
    def test_an_answer_has_no_more_tokens_than_are_counted_in_whatever_pieces_it_comes(self, tokenizer, pieces):
        counted = exact_count.answer_tokens(tokenizer, {(0, "content"): pieces})
        assert counted >= tokenizer.count("".join(pieces))
        assert counted >= len(pieces)

    def test_long_texts_are_counted_in_parts(self, tokenizer):
        text = LEARNED_FROM * 60
        tokenizer.counted.clear()
        assert exact_count.tokens(tokenizer, text) == tokenizer.count(text)
        assert max(map(len, tokenizer.counted[:-1])) <= LONGEST_CHUNK
        assert exact_count.tokens_within(tokenizer, text) < len(text) / 2

    def test_what_a_model_wrote_in_smaller_tokens_than_it_could_counts_as_it_came(self, tokenizer):
        letters = list(LEARNED_FROM)
        counted = exact_count.answer_tokens(tokenizer, {(0, "content"): letters})
        assert counted >= len(letters) > 2 * tokenizer.count(LEARNED_FROM)


def test_a_text_without_seams_counts_as_its_bytes_without_being_tried() -> None:
    tokenizer = PairTokenizer()
    for text in ("a" * 10**6, " " * 10**6, "\n" * 10**6, "<s>" * 10**5, "你" * 10**5):
        assert exact_count.tokens(tokenizer, text) == exact_count.tokens_within(tokenizer, text) == len(text.encode())
    assert tokenizer.counted == []
    run = "x" * (LONGEST_CHUNK + 1)
    assert exact_count.tokens(tokenizer, f"the text {run} the text" + " the text" * CHUNK) > len(run)
    assert all(run not in text for text in tokenizer.counted)


def test_the_last_seam_is_found_far_from_the_end() -> None:
    tail = "\n" + "9" * 5 * CHUNK
    counted = exact_count.tokens_within(PairTokenizer(), "the text and the text" + tail)
    assert len(tail) < counted < len(tail) + 10


def test_an_answer_has_no_fewer_tokens_than_its_whole_text() -> None:
    class Short(PairTokenizer):
        def count(self, text: str) -> int:
            return 1 if len(text) <= 2 else len(text)

    pieces = ["aa", "bb", "cc"]
    assert exact_count.answer_tokens(Short(), {(0, "content"): pieces}) == 6 + 1
    assert exact_count.answer_tokens(Short(), {0: pieces, 1: ["", "a", ""]}) == 6 + 3 + 1


def test_a_tokenizer_that_counts_more_than_bytes_is_held_to_them() -> None:
    class Doubling(PairTokenizer):
        def count(self, text: str) -> int:
            return 2 * len(text.encode())

    assert exact_count.tokens(Doubling(), "the text") == 8
    assert exact_count.saved_tokens(Doubling(), ["the text of the text"]) == 0


def test_bytes_that_are_no_character_yet_count_each() -> None:
    assert exact_count.tokens(PairTokenizer(), "the text \ufffd") == len("the text \ufffd".encode())
    assert exact_count.tokens(PairTokenizer(), "\ud800") == 3
    assert exact_count.tokens(PairTokenizer(), "") == 0


def test_what_is_saved_of_a_request_is_bounded_in_length() -> None:
    tokenizer = PairTokenizer()
    text = LEARNED_FROM * 4
    saved = exact_count.saved_tokens(tokenizer, [text])
    assert saved == len(text) - exact_count.tokens_within(tokenizer, text) > len(text) // 2
    assert exact_count.saved_tokens(tokenizer, [text, text]) == 2 * saved
    long = "9" * (MOST_BYTES - len(text) + 1)
    assert exact_count.saved_tokens(tokenizer, [long, text]) == 0
    assert exact_count.saved_tokens(tokenizer, [long + text, text]) == saved


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        ({}, True),
        ({"temperature": 1, "top_p": 0.5, "n": 2, "tools": [], "seed": 7, "stop": None}, True),
        ({"presence_penalty": 0, "frequency_penalty": 0.0}, True),
        ({"presence_penalty": 0.1}, False),
        ({"frequency_penalty": -2}, False),
        ({"temperature": 1.5}, False),
        ({"temperature": "1"}, False),
        ({"top_p": -1}, False),
        ({"logit_bias": {"1": -100}}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"guided_regex": "a*"}, False),
        ({"min_p": 0.1}, False),
        ({"stop": ["\n"]}, False),
        ({"nobody_knows": 1}, False),
    ],
)
def test_only_what_leaves_the_tokens_to_the_model_is_plain(fields: dict[str, Any], plain: bool) -> None:
    assert exact_count.is_plainly_sampled({"model": "m", "messages": [], "max_tokens": 9} | fields) is plain


def test_a_share_may_be_nothing_or_all() -> None:
    for value in (0, 1, 0.0, 1.0, None):
        assert exact_count.is_plainly_sampled({"temperature": value, "top_p": value})
    for value in (-0.001, 1.001, "0"):
        assert not exact_count.is_plainly_sampled({"temperature": value})
        assert not exact_count.is_plainly_sampled({"top_p": value})


def test_bytes_of_texts_that_are_no_ascii_and_of_halves_of_characters() -> None:
    assert [exact_count.utf8_bytes(text) for text in ("", "abc", "é", "€", "🎉", "\ud800")] == [0, 3, 2, 3, 4, 3]


def test_a_text_of_one_chunk_is_counted_at_once_and_one_of_two_in_two() -> None:
    def parts(text: str) -> list[int]:
        tokenizer = PairTokenizer()
        exact_count.tokens(tokenizer, text)
        return [len(part) for part in tokenizer.counted]

    words = "abc " * (CHUNK // 4)
    assert parts(words) == [CHUNK]
    assert parts(words + "abc abc") == [CHUNK + 3, 4]
    assert parts("") == []


def test_as_many_bytes_as_may_be_counted_are_and_one_more_is_not() -> None:
    class One(PairTokenizer):
        def count(self, text: str) -> int:
            return 1

    words = ("the text " * (MOST_BYTES // 9 + 1))[: MOST_BYTES - 1] + "x"
    assert len(words) == MOST_BYTES
    assert exact_count.saved_tokens(One(), [words]) > 0
    assert exact_count.saved_tokens(One(), [words + "x"]) == 0
    assert exact_count.saved_tokens(One(), [words, "the text of it"]) == exact_count.saved_tokens(One(), [words])
    assert exact_count.saved_tokens(One(), []) == 0
