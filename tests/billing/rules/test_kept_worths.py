"""What prices are kept at: as it is stored, and for how long."""

from __future__ import annotations

from billing.rules import kept_worths
from tests.billing.events import DAY, START

BEGUN = int(START.timestamp())


def test_rows_of_earlier_versions_are_read_as_of_the_window_that_they_were_written_for() -> None:
    stored = {
        "price_a": [3, 5, 0],
        "price_b": [3, 5, 0, 1, 0],
        "sub_1 price_c": [3, 5, 0, 1, 0, 7],
        "price_d": [-1, 0, 0],
    }
    assert kept_worths.read(stored, since=START) == {
        "price_a": (3, 5, 0, -1, -1, BEGUN),
        "price_b": (3, 5, 0, 1, 0, BEGUN),
        "sub_1 price_c": (3, 5, 0, 1, 0, 7),
    }
    # Nothing was kept of a customer without a window.
    assert kept_worths.counting(kept_worths.read({"price_a": [3, 5, 0]}, since=None)) == {}


def test_a_price_is_kept_for_each_subscription_by_itself() -> None:
    kept = {"sub_1 price": (3, 5), "sub_10 price": (3, 6), "price": (3, 7), "other": (3, 8)}
    assert kept_worths.of("sub_1", kept) == {"price": (3, 5), "other": (3, 8)}
    assert kept_worths.of("sub_2", kept) == {"price": (3, 7), "other": (3, 8)}


def test_it_lasts_as_long_as_the_span_that_it_is_for() -> None:
    kept = {"price": (3, 5, 0, 0, 1, BEGUN)}
    assert kept_worths.lasting(kept, {}) == kept_worths.lasting(kept, {"price": BEGUN}) == kept
    # What is late may be paid for from an earlier moment on.
    assert kept_worths.lasting(kept, {"price": BEGUN - 60}) == kept
    assert kept_worths.lasting(kept, {"price": int((START + DAY).timestamp())}) == {}


def test_what_is_noted_names_the_span_that_it_counts_in_or_did_last() -> None:
    values = {"new": (3, 5, 0, 0, 1), "away": (3, 6, 0, 0, 1), "never": (3, 7, 0, 0, 1)}
    kept = {"away": (3, 6, 0, 0, 1, 60), "new": (3, 5, 0, 0, 1, 60)}
    assert kept_worths.noted("sub_1", values, kept, {"new": BEGUN}) == {
        "sub_1 new": (3, 5, 0, 0, 1, BEGUN),
        "sub_1 away": (3, 6, 0, 0, 1, 60),
        "sub_1 never": (3, 7, 0, 0, 1, 0),
    }
