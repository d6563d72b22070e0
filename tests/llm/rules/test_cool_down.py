"""How long a model that answers 429 wants to be left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.rules import cool_down
from llm.rules.breakers import LONGEST_COOL_DOWN_S

# 2027-01-15T08:00:00Z
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, cool_down.UNSAID_S),
        ({"Retry-After": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, cool_down.SHORTEST_S),
        ({"retry-after": "-5"}, cool_down.UNSAID_S),
        ({"retry-after": "soon"}, cool_down.UNSAID_S),
        ({"retry-after": "86400"}, LONGEST_COOL_DOWN_S),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, cool_down.SHORTEST_S),
        ({"retry-after-ms": "1250", "retry-after": "2"}, 1.25),
        # OpenAI: the limit that is used up, not the other one.
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "12s",
                "x-ratelimit-remaining-tokens": "14000",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            12,
        ),
        ({"x-ratelimit-reset-requests": "120ms", "x-ratelimit-reset-tokens": "1m1.5s"}, 61.5),
        # Anthropic.
        ({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:20Z"}, 20),
        # Mistral's of late years, and others that give seconds or a moment.
        ({"ratelimitbysize-remaining": "0", "ratelimitbysize-reset": "38"}, 38),
        ({"x-ratelimit-reset": "1800000045"}, 45),
        ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "0"}, cool_down.UNSAID_S),
        ({"x-ratelimit-reset": "2027-01-15T08:00:20"}, 20),
        ({"x-ratelimit-reset": "0001-01-01T00:00:00+23:59"}, cool_down.SHORTEST_S),
        ({"x-ratelimit-reset": "9999-12-31T23:59:59-23:59"}, LONGEST_COOL_DOWN_S),
        ({"x-ratelimit-reset": "tomorrow"}, cool_down.UNSAID_S),
        ({"x-ratelimit-reset": ""}, cool_down.UNSAID_S),
        # Each unit of a span, and what is no unit.
        ({"x-ratelimit-reset": "1m"}, 60),
        ({"x-ratelimit-reset": "1h"}, LONGEST_COOL_DOWN_S),
        ({"x-ratelimit-reset": "0h2m"}, 120),
        ({"x-ratelimit-reset": "0d0h1m2s3ms"}, 62.003),
        ({"x-ratelimit-reset": "1500ms"}, 1.5),
        ({"x-ratelimit-reset": "5w"}, cool_down.UNSAID_S),
        # A number is a moment from a billion on.
        ({"x-ratelimit-reset": "999999999"}, LONGEST_COOL_DOWN_S),
        ({"x-ratelimit-reset": "1000000000"}, cool_down.SHORTEST_S),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7),
        ({"retry-after-ms": "", "retry-after": ""}, cool_down.UNSAID_S),
        ({"retry-after": "Fri, 99 Jan 2027 08:00:30 GMT"}, cool_down.UNSAID_S),
        # What is said comes before what is counted, and other headers say nothing.
        ({"retry-after": "7", "x-ratelimit-reset": "60s"}, 7),
        ({"x-other": "60s", "ratelimit-limit": "90", "reset": "80", "x-ratelimit-reset": "9s"}, 9),
        ({"a-ratelimit-reset": "soon", "b-ratelimit-reset": "9s", "c-ratelimit-reset": "8s"}, 9),
        (
            {
                "x-ratelimit-remaining-tokens": "1",
                "x-ratelimit-reset-tokens": "60s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "9s",
            },
            9,
        ),
    ],
)
def test_what_the_headers_say(headers, seconds):
    assert cool_down.duration_s(headers, now=NOW) == pytest.approx(seconds)


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-requests"]),
        st.text(max_size=40) | st.integers().map(str) | st.datetimes().map(str) | st.from_regex(r"\d+[dhms]{1,2}"),
    )
)
def test_whatever_they_say_it_is_bounded(headers):
    assert cool_down.SHORTEST_S <= cool_down.duration_s(headers, now=NOW) <= LONGEST_COOL_DOWN_S


def test_the_bounds_and_what_counts_where_nothing_is_said():
    assert (cool_down.SHORTEST_S, cool_down.UNSAID_S, LONGEST_COOL_DOWN_S) == (0.5, 2.0, 300.0)


def test_an_hour_and_a_day_are_as_long_as_they_are(monkeypatch):
    monkeypatch.setattr(cool_down, "LONGEST_COOL_DOWN_S", 10.0**9)
    for text, seconds in (("1h", 3_600), ("2d", 172_800), ("1d1h1m1s1ms", 90_061.001)):
        assert cool_down.duration_s({"x-ratelimit-reset": text}, now=NOW) == pytest.approx(seconds)
