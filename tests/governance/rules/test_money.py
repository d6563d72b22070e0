"""Integer money: exact in, exact out, and the two roundings."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from governance.rules import money
from governance.rules.money import MAX_NANOS, AmountError

AMOUNTS = st.integers(-MAX_NANOS, MAX_NANOS)
PICOS = st.integers(0, MAX_NANOS * 1000)


@given(AMOUNTS)
@example(MAX_NANOS)
@example(-1)
def test_every_amount_survives_the_way_to_text_and_back(nanos):
    assert money.nanos_from_dollars(money.format_dollars(nanos)) == nanos
    assert money.nanos_from_dollars(money.dollars_from_nanos(nanos)) == nanos


@pytest.mark.parametrize(
    ("dollars", "nanos"),
    [
        ("12.50", 12_500_000_000),
        ("0.000000001", 1),
        ("-0.000000001", -1),
        ("1e-9", 1),
        ("1E+3", 1_000_000_000_000),
        ("0", 0),
        ("-0", 0),
        (3, 3_000_000_000),
        (Decimal("0.1"), 100_000_000),
        ("9000000000", MAX_NANOS),
        (" 1.5 ", 1_500_000_000),
    ],
)
def test_amounts_of_dollars_are_read_exactly(dollars, nanos):
    assert money.nanos_from_dollars(dollars) == nanos


@pytest.mark.parametrize(
    "dollars",
    [
        "",
        "twelve",
        "1,50",
        "$5",
        None,
        [],
        "NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "0.0000000001",
        "1.0000000005",
        "1e-10",
        "9000000000.000000001",
        "9000000001",
        "-9000000001",
        "1e30",
    ],
)
def test_what_is_no_amount_of_dollars_is_refused(dollars):
    with pytest.raises(AmountError):
        money.nanos_from_dollars(dollars)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00"),
        (12_500_000_000, "12.50"),
        (12_345, "0.000012345"),
        (-1, "-0.000000001"),
        (-1_000_000_000, "-1.00"),
        (100_000_000, "0.10"),
    ],
)
def test_amounts_are_shown_with_two_to_nine_decimals(nanos, text):
    assert money.format_dollars(nanos) == text


@given(PICOS)
@example(1)
@example(499)
@example(500)
@example(999)
@example(1000)
@example(1001)
def test_a_reservation_never_holds_less_than_its_settlement_costs(picos):
    held, settled = money.ceil_from_picos(picos), money.round_from_picos(picos)
    assert 0 <= held * 1000 - picos < 1000
    assert -500 < settled * 1000 - picos <= 500
    assert held >= settled


def test_half_a_nanodollar_settles_upwards():
    assert [money.round_from_picos(picos) for picos in (499, 500, 1499, 1500, 2500)] == [0, 1, 1, 2, 3]


@given(st.integers(1, MAX_NANOS), st.integers(1, 10_000))
def test_a_share_is_never_above_the_exact_part(limit_nanos, parts):
    share = money.share_nanos(limit_nanos, parts)
    assert share * 10_000 <= limit_nanos * parts < (share + 1) * 10_000


@given(st.integers(1, MAX_NANOS), st.integers(1, 10_000), st.integers(0, 2 * MAX_NANOS))
def test_what_remains_is_what_the_hard_cap_leaves_and_never_below_zero(limit_nanos, hard_e4, committed_nanos):
    figures = {"limit_nanos": limit_nanos, "hard_e4": hard_e4, "committed_nanos": committed_nanos}
    left = money.remaining_nanos(**figures)
    assert left == max(0, money.room_nanos(**figures)) >= 0
    assert left == 0 or (committed_nanos + left) * 10_000 <= limit_nanos * hard_e4


def test_a_hard_cap_of_a_half_leaves_half_the_limit():
    assert money.remaining_nanos(limit_nanos=10, hard_e4=5_000, committed_nanos=1) == 4


@given(st.integers(0, 10_000))
def test_four_decimals_of_a_ratio_are_kept_exactly(parts):
    assert money.ten_thousandths(Decimal(parts).scaleb(-4)) == parts


@pytest.mark.parametrize("ratio", ["0.80001", "1e-5", "NaN", "Infinity"])
def test_a_finer_ratio_is_refused_rather_than_rounded(ratio):
    with pytest.raises(AmountError):
        money.ten_thousandths(Decimal(ratio))
