"""Integer money: exact in, exact out, and the two roundings."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from governance.rules import money
from governance.rules.errors import OverBound
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
        ("1.50000000000000000000000000000000000000", 1_500_000_000),
        ("0.0000000010", 1),
        ("1" + "0" * 9 + "e-9", 1_000_000_000),
        ("0e999999999", 0),
        ("0e-999999999", 0),
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
        "1e999999999",
        "-1e999999999",
        "1e-999999999",
        # What arithmetic of 28 digits would round.
        "1.000000000000000000000000000000000000001",
        "8999999999.99999999999999999999999999",
        "9" * 5000,
    ],
)
def test_what_is_no_amount_of_dollars_is_refused(dollars):
    with pytest.raises(AmountError):
        money.nanos_from_dollars(dollars)


def test_more_than_there_may_be_is_an_error_of_its_own_that_names_the_bound():
    assert money.nanos_from_dollars("10000000", most=money.MAX_AMOUNT_NANOS) == money.MAX_AMOUNT_NANOS
    for dollars in ("10000000.000000001", "-10000000.000000001", "1e99999999"):
        with pytest.raises(money.TooMuch, match="more than 10,000,000 dollars"):
            money.nanos_from_dollars(dollars, most=money.MAX_AMOUNT_NANOS)


def test_a_field_beyond_its_bound_is_refused_by_name():
    money.refuse_beyond("limit", money.MAX_LIMIT_NANOS, most=money.MAX_LIMIT_NANOS)
    with pytest.raises(OverBound, match=r"must be at most 1,000,000,000 dollars") as raised:
        money.refuse_beyond("limit", money.MAX_LIMIT_NANOS + 1, most=money.MAX_LIMIT_NANOS)
    assert raised.value.field == "limit"


def test_nothing_that_is_computed_of_two_figures_leaves_64_bits():
    most = 2**63 - 1
    assert most >= 2 * money.MAX_SUM
    # A batch of the gateway's adds so many entries to a sum at once.
    assert most >= money.MAX_SUM + 256 * money.MAX_AMOUNT_NANOS
    # Buckets hold two ceilings, in millionths of requests and tokens.
    assert 2 * money.MAX_LIMIT_NANOS <= money.MAX_SUM
    assert 2 * money.MAX_UNITS * 1_000_000 <= money.MAX_SUM
    # And what a window's limit comes from.
    assert 2 * money.MAX_LIMIT_NANOS <= money.MAX_SUM


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
