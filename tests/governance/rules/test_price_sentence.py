"""What a call cost, written as the sum that it is."""

import pytest

from governance.rules.calls import Usage, tool_usage
from governance.rules.price_sentence import UnitRates, sentence

SMALL = UnitRates(
    input_picos=150_000, cached_picos=15_000, output_picos=600_000, units={"page": 4_000_000_000, "call": 5_000_000_000}
)


@pytest.mark.parametrize(
    ("usage", "cost_nanos", "said"),
    [
        (Usage("m", "s", 369, 0, 44), 81_750, "369 in × $0.15/M + 44 out × $0.60/M = $0.00008175"),
        (
            Usage("m", "s", 1_369, 1_000, 44),
            96_750,
            "369 in × $0.15/M + 1,000 cached × $0.015/M + 44 out × $0.60/M = $0.00009675",
        ),
        # More cached than there was: no more than all of it.
        (Usage("m", "s", 100, 500, 0), 1_500, "100 cached × $0.015/M = $0.0000015"),
        (Usage("m", "ocr", unit="page", units=1), 4_000_000, "1 page × $0.004 = $0.004"),
        (Usage("m", "ocr", unit="page", units=3), 12_000_000, "3 pages × $0.004 = $0.012"),
        (tool_usage("web-search", calls=1), 5_000_000, "1 call × $0.005 = $0.005"),
        (tool_usage("web-search", calls=3), 15_000_000, "3 calls × $0.005 = $0.015"),
        # Half a nanodollar is rounded up, as it is charged.
        (Usage("m", "s", 0, 0, 0), 0, ""),
    ],
)
def test_it_names_each_part_and_its_rate(usage: Usage, cost_nanos: int, said: str) -> None:
    assert sentence(usage, SMALL, cost_nanos=cost_nanos) == said


def test_whole_dollars_a_million_have_cents() -> None:
    rates = UnitRates(input_picos=2_000_000, output_picos=1_200_000_000)
    said = sentence(Usage("m", "l", 1, 0, 1), rates, cost_nanos=1_202_000)
    assert said == "1 in × $2.00/M + 1 out × $1,200.00/M = $0.001202"


def test_a_cost_of_something_else_has_no_sum() -> None:
    assert sentence(Usage("m", "s", 369, 0, 44), SMALL, cost_nanos=81_751) == ""
    assert sentence(Usage("m", "s", unit="character", units=10), SMALL, cost_nanos=0) == ""
