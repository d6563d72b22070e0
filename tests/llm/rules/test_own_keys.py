"""Our key in what a model's API writes: nobody sees it, and nothing else changes."""

from __future__ import annotations

import json
from html import escape
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.rules.own_keys import Hiding, forms_of

KEY = "sk-proj/it's+mine=0123456789"


def shown(data: bytes, *cuts: int, key: str = KEY) -> bytes:
    hiding = Hiding(forms_of(key))
    ends = [0, *sorted(cuts), len(data)]
    parts = [hiding.feed(data[start:end]) for start, end in pairwise(ends)]
    return b"".join([*parts, hiding.rest()])


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        json.dumps(KEY),
        KEY.replace("/", r"\/"),
        r"sk-proj\u002fit\u0027s\u002bmine\u003d0123456789",
        r"sk-proj\u002Fit\u0027s\u002Bmine\u003D0123456789",
        escape(KEY),
        escape(KEY).replace("&#x27;", "&#39;"),
        quote(KEY, safe=""),
        f"Bearer {KEY}",
        f"{KEY}{KEY}",
    ],
)
def test_a_key_is_stars_however_it_is_written(written: str) -> None:
    said = f'{{"error": {{"message": "Incorrect API key provided: {written}."}}}}'.encode()
    for cut in range(len(said)):
        found = shown(said, cut)
        assert b"mine" not in found
        assert b"0123456789" not in found
        assert len(found) == len(said)
        assert found.startswith(b'{"error": {"message": "Incorrect API key provided: ')


@given(
    data=st.lists(st.sampled_from([b"sk-", b"s", KEY.encode()[:-1], b"\n\n", b"data: {}"])).map(b"".join),
    cuts=st.lists(st.integers(0, 200)),
)
def test_what_is_no_key_stays_as_it_is(data: bytes, cuts: list[int]) -> None:
    assert shown(data, *(min(cut, len(data)) for cut in cuts)) == data


@given(
    parts=st.lists(st.sampled_from([b"sk-", b"sk-proj/", KEY.encode(), b"\n\n", b"text"])),
    cuts=st.lists(st.integers(0, 300)),
)
def test_no_cut_shows_it(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    assert shown(data, *(min(cut, len(data)) for cut in cuts)) == data.replace(KEY.encode(), b"*" * len(KEY))


@pytest.mark.parametrize("key", ["", "k", "EMPTY", "sandbox", "not-needed"])
def test_a_word_that_stands_for_no_key_is_none(key: str) -> None:
    said = b"EMPTY sandbox not-needed k"
    assert shown(said, key=key) == said


def test_an_event_that_ends_waits_for_nothing() -> None:
    hiding = Hiding(forms_of(KEY))
    assert hiding.feed(b'data: {"a": "sk-"}\n\n') == b'data: {"a": "sk-"}\n\n'
    assert hiding.feed(b"data: sk-") == b"data: "
    assert hiding.waiting == b"sk-"
