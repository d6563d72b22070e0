"""What prices are worth as budgets: metadata, currencies, quantities and plans, to the nanodollar."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from billing.rules import valuation
from billing.rules.valuation import Charge, Level, PlanPolicy, PlanRule, Pricing
from billing.stripe_api.objects import StripePrice

DOLLAR = 10**9


def price(id: str = "price_x", *, product: dict[str, Any] | None = None, **fields: Any) -> StripePrice:
    metadata = {name: fields.pop(name) for name in list(fields) if name.startswith("llm_")}
    values = {"product_id": "prod_x", "interval": "month", "currency": "usd"} | fields
    return StripePrice(id, metadata=metadata, product_metadata=product or {}, **values)


@dataclass(frozen=True)
class Valued:
    """What prices come to together, one of each."""

    limit_nanos: int
    plan: str = ""
    reasons: tuple[str, ...] = ()
    trial_nanos: int | None = None
    soft_e4: int | None = None
    hard_e4: int | None = None
    policy: PlanPolicy = field(default_factory=PlanPolicy)


def valued(*prices: StripePrice, **pricing: Any) -> Valued:
    priced, reasons = Pricing(**{"plans": [], "kept": {}} | pricing), set[str]()
    worths = priced.worths(prices, reasons)
    known = [(one, worths[one.id]) for one in prices if one.id in worths]
    limit = sum(priced.nanos(worth, one, 1, None, reasons) for one, worth in known)
    trial, caps = valuation.trial_nanos(known, reasons), valuation.caps(known, reasons)
    plan, policy = valuation.plans_of(known), valuation.policy_of(known)
    return Valued(limit, plan, tuple(sorted(reasons)), trial, *caps, policy)


def nanos(price: StripePrice, quantity: int = 1, charge: Charge | None = None, **pricing: Any) -> int:
    priced = Pricing(**{"plans": [], "kept": {}} | pricing)
    return priced.nanos(priced.worths([price], set())[price.id], price, quantity, charge, set())


@pytest.mark.parametrize(("said", "together"), [({"llm_budget_usd": "50"}, 50), ({"llm_budget_percent": "50"}, 5)])
def test_a_limit_of_the_product_counts_once_beside_its_usage(said: dict[str, str], together: int) -> None:
    """What the product says is a limit for all its prices together, or a share of what each of them bills."""
    flat, usage = (price(id, product=said, metered=id == "usage", unit_amount=1000) for id in ("flat", "usage"))
    worths = Pricing(plans=[], kept={}).worths([flat, usage], set())

    assert set(worths) == ({"flat"} if together == 50 else {"flat", "usage"})
    assert sum(nanos(one) for one in (flat, usage) if one.id in worths) == together * DOLLAR


def test_amounts_and_percentages_are_bounded() -> None:
    for key, most, least in (
        ("llm_budget_usd", "1000000", "0.000000001"),
        ("llm_topup_usd", "1000000", "0.000000001"),
    ):
        for text in (most, least, f" {most} "):
            assert valuation.read_amount({key: text}, key, set()) == int(Decimal(text) * DOLLAR)
        for text in ("1000000.000000001", "0", "-1", "inf", "nan", "ten", "0.0000000001"):
            reasons: set[str] = set()
            assert valuation.read_amount({key: text}, key, reasons) is None
            assert reasons == {f"invalid_metadata:{key}"}
    assert valuation.read_percent({"llm_budget_percent": "1000"}, "llm_budget_percent", set()) == 100_000
    assert valuation.read_percent({"llm_budget_percent": "1000.01"}, "llm_budget_percent", set()) is None
    assert valuation.read_percent({"llm_budget_percent": "12.349"}, "llm_budget_percent", set()) == 1234
    for absent in ({}, {"llm_budget_percent": ""}, {"llm_budget_percent": None}):
        reasons = set()
        assert valuation.read_percent(absent, "llm_budget_percent", reasons) is None
        assert reasons == set()


def test_a_top_up_is_read_of_the_price_and_then_of_its_product() -> None:
    reasons: set[str] = set()

    def adds(product: dict[str, Any] | None = None, **metadata: str) -> int | None:
        return valuation.topup_nanos(replace(price(product=product, **metadata), interval=""), reasons)

    assert adds(llm_topup_usd="5") == 5 * DOLLAR
    assert adds({"llm_topup_usd": "3"}) == 3 * DOLLAR
    assert adds({"llm_topup_usd": "3"}, llm_topup_usd="5") == 5 * DOLLAR
    assert adds() is None
    assert reasons == set()
    assert adds(llm_topup_usd="-5") is None
    assert reasons == {"invalid_metadata:llm_topup_usd"}


def test_what_is_billed_again_and_again_is_no_top_up() -> None:
    reasons: set[str] = set()
    assert valuation.topup_nanos(price(llm_topup_usd="5"), reasons) is None
    assert reasons == {"invalid_metadata:llm_topup_usd"}
    reasons.clear()
    assert valuation.topup_nanos(price(), reasons) is None
    assert reasons == set()
    # What a product says of top-ups is no word of its prices that are.
    assert valuation.topup_nanos(price(product={"llm_topup_usd": "5"}), reasons) is None
    assert reasons == set()


def test_a_price_whose_amount_the_payer_decides_on_sells_no_top_ups() -> None:
    reasons: set[str] = set()
    assert valuation.topup_nanos(price(llm_topup_usd="20", interval="", payer_decides=True), reasons) is None
    assert reasons == {"invalid_metadata:llm_topup_usd"}


def test_plans_come_before_what_is_said_of_top_ups() -> None:
    default = PlanRule("Standard", 50 * DOLLAR, is_default=True, price_ids=frozenset({"price_p"}))
    sold = {"llm_topup_usd": "20"}
    assert valued(price("price_p", product=sold), plans=[default]) == Valued(50 * DOLLAR, "Standard")
    assert valued(price("price_p", llm_topup_usd="20"), plans=[default]) == Valued(50 * DOLLAR, "Standard")
    # Of a price that is billed again and again the product says nothing by it.
    unmapped = Valued(50 * DOLLAR, "Standard", ("unmapped_plan",))
    assert valued(price(product=sold), plans=[default]) == unmapped
    assert valued(price(product=sold, interval=""), plans=[default]) == Valued(0)


def test_a_price_that_only_sells_top_ups_is_no_budget_and_lacks_none() -> None:
    default = PlanRule("Standard", 50 * DOLLAR, is_default=True)
    topup = price("price_t", llm_topup_usd="5")
    assert valued(topup, plans=[default]) == Valued(0)
    assert valued(topup, price(), plans=[default]).limit_nanos == 50 * DOLLAR
    assert valued(topup, price(llm_budget_usd="7"), plans=[default]) == Valued(7 * DOLLAR)
    both = price(llm_topup_usd="5", llm_budget_usd="7")
    assert valued(both, plans=[default]) == Valued(7 * DOLLAR)
    share = price(llm_topup_usd="5", llm_budget_percent="50", unit_amount=1000)
    assert valued(share, plans=[default]) == Valued(5 * DOLLAR)


def test_unmapped_prices_are_each_worth_the_default_and_no_price_nothing() -> None:
    policy = PlanPolicy(trial_percent=5)
    default = PlanRule("Standard", 50 * DOLLAR, is_default=True, monthly=False, policy=policy)
    unmapped = Valued(50 * DOLLAR, "Standard", ("unmapped_plan",), policy=policy)
    assert valued(price(), plans=[PlanRule("Other", 1), default]) == unmapped
    pricing, reasons = Pricing(plans=[default], kept={}), set[str]()
    worths = pricing.worths([price("price_a"), price("price_b")], reasons)
    # Whoever sums them up counts it once: the level says so.
    assert [(id, one.level, one.monthly) for id, one in worths.items()] == [
        ("price_a", Level.DEFAULT, False),
        ("price_b", Level.DEFAULT, False),
    ]
    assert pricing.worths([], set()) == {}
    assert valued(price(), plans=[]) == Valued(0, reasons=("no_default_plan", "unmapped_plan"))


@pytest.mark.parametrize(
    "currency",
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"],
)
def test_a_currency_without_decimals_is_billed_in_whole_units(currency: str) -> None:
    share = price(llm_budget_percent="100", unit_amount=5000, currency=currency.upper())
    assert valued(share, rates={currency: Decimal("0.01")}) == Valued(50 * DOLLAR)


@pytest.mark.parametrize(
    ("currency", "dollars"), [*((name, 5) for name in ["bhd", "jod", "kwd", "omr", "tnd"]), ("eur", 50), ("usd", 50)]
)
def test_other_currencies_have_three_decimals_or_two(currency: str, dollars: int) -> None:
    share = price(llm_budget_percent="100", unit_amount=5000, currency=currency)
    assert valued(share, rates={currency: Decimal(1)}) == Valued(dollars * DOLLAR)


def test_a_currency_without_a_rate_is_worth_nothing_and_says_so() -> None:
    share = price(llm_budget_percent="100", unit_amount=5000, currency="EUR")
    assert valued(share) == Valued(0, reasons=("no_exchange_rate:eur",))
    assert valued(share, rates={"chf": Decimal(1)}) == Valued(0, reasons=("no_exchange_rate:eur",))
    unnamed = price(llm_budget_percent="100", unit_amount=5000, currency="")
    assert valued(unnamed) == Valued(50 * DOLLAR)


def test_what_was_billed_counts_in_its_own_currency_before_the_list_price() -> None:
    share = price(llm_budget_percent="100", unit_amount=5000)
    assert nanos(share, charge=(1000, "EUR"), rates={"eur": Decimal("1.5")}) == 15 * DOLLAR
    assert nanos(share, charge=(1000, "")) == 10 * DOLLAR
    assert nanos(share, charge=(0, "usd")) == 0
    # A credit is so much less: whoever counts it knows which way.
    assert nanos(share, charge=(-1000, "usd")) == 10 * DOLLAR
    assert nanos(share, 3) == 150 * DOLLAR
    assert nanos(price(llm_budget_percent="100", unit_amount=None), 3) == 0


@pytest.mark.parametrize("flag", ["1", "true", "yes", "on", " TRUE "])
def test_a_budget_for_each_unit_counts_with_the_quantity(flag: str) -> None:
    each = price(llm_budget_usd="5", llm_budget_per_unit=flag)
    by_product = price(llm_budget_usd="5", product={"llm_budget_per_unit": flag})
    for one in (each, by_product):
        assert (nanos(one, 3), nanos(one, 0)) == (15 * DOLLAR, 0)
    for other in ("", "0", "false", "no"):
        assert nanos(price(llm_budget_usd="5", llm_budget_per_unit=other), 3) == 5 * DOLLAR


def test_a_plan_counts_each_unit_where_it_or_the_price_says_so() -> None:
    for per_unit, flag, times in ((False, "", 1), (True, "", 3), (False, "true", 3), (True, "true", 3)):
        plan = PlanRule("Plan", DOLLAR, price_ids=frozenset({"price_x"}), per_unit=per_unit)
        assert nanos(price(llm_budget_per_unit=flag), 3, plans=[plan]) == times * DOLLAR


def test_of_plans_that_match_the_one_that_says_most_about_the_price_counts() -> None:
    by_id = PlanRule("A", 1, price_ids=frozenset({"price_x"}))
    by_key = PlanRule("B", 2, lookup_keys=frozenset({"key"}))
    by_product = PlanRule("C", 3, product_ids=frozenset({"prod_x"}))
    also_by_product = PlanRule("D", 4, product_ids=frozenset({"prod_x"}))
    one = price(lookup_key="key")
    for plans, name in (
        ([by_product, by_key, by_id], "A"),
        ([by_product, by_key], "B"),
        ([also_by_product, by_product], "D"),
        ([by_product], "C"),
    ):
        assert valued(one, plans=plans).plan == name
    nameless = price(lookup_key="", product_id="")
    empty = PlanRule("E", 5, lookup_keys=frozenset({""}), product_ids=frozenset({""}))
    assert valued(nameless, plans=[empty]).plan == ""
    period = Pricing(plans=[PlanRule("F", 6, monthly=False, product_ids=frozenset({"prod_x"}))], kept={})
    assert period.worths([price()], set())["price_x"].monthly is False


def test_items_together() -> None:
    low, high = PlanPolicy(grace_days=1), PlanPolicy(grace_days=2)
    plans = [
        PlanRule("A", 1, price_ids=frozenset({"price_a"}), policy=low),
        PlanRule("B", 2, price_ids=frozenset({"price_b"}), policy=high),
    ]
    trials = price("price_b", llm_trial_budget_usd="3"), price("price_c", llm_budget_usd="1", llm_trial_budget_usd="4")
    found = valued(price("price_a"), *trials, plans=plans)
    assert found == Valued(DOLLAR + 3, "A + B", trial_nanos=7 * DOLLAR)
    assert valued(price("price_b"), price("price_a"), plans=plans).policy == high
    assert valued(price("price_b"), plans=plans).trial_nanos is None
    # An item that nothing maps counts not at all beside one that is mapped.
    assert valued(price("price_b"), price("price_z"), plans=plans).limit_nanos == 2


def test_the_strictest_caps_of_the_items_count() -> None:
    first = price("price_a", llm_budget_usd="1", llm_soft_cap="0.5", llm_hard_cap="0.90009")
    second = price("price_b", llm_budget_usd="1", product={"llm_soft_cap": "0.6", "llm_hard_cap": "0.8"})
    found = valued(first, second, price("price_c", llm_budget_usd="1"))
    assert (found.soft_e4, found.hard_e4, found.reasons) == (5000, 8000, ())
    assert valued(first).hard_e4 == 9000
    whole = valued(price(llm_budget_usd="1", llm_soft_cap="0.9999", llm_hard_cap="1"))
    assert (whole.soft_e4, whole.hard_e4, whole.reasons) == (9999, 10_000, ())
    alone = valued(price(llm_budget_usd="1", llm_soft_cap="0.9999"))
    assert (alone.soft_e4, alone.hard_e4, alone.reasons) == (9999, None, ())
    tiny = valued(price(llm_budget_usd="1", llm_soft_cap="0.00001", llm_hard_cap="0.00001"))
    assert (tiny.soft_e4, tiny.hard_e4) == (None, None)
    over = valued(price(llm_budget_usd="1", llm_soft_cap="1.1", llm_hard_cap="0"))
    assert over.reasons == ("invalid_metadata:llm_hard_cap", "invalid_metadata:llm_soft_cap")


def test_what_a_price_was_worth_in_a_window_stays_whatever_is_said_since() -> None:
    def worth(one: StripePrice, kept: tuple[int, ...], *plans: PlanRule, **pricing: Any) -> tuple[int, bool]:
        priced = Pricing(plans=plans, kept={"price_x": kept}, **pricing)
        found = priced.worths([one], set())["price_x"]
        is_kept = priced.values["price_x"] == kept
        return (priced.nanos(found, one, 2, (1000, "usd"), set()) if is_kept else -1), "price_x" in priced.outdone

    changed = price(llm_budget_usd="7")
    by_price, by_product, by_plan = int(Level.PRICE_METADATA), int(Level.PRODUCT_METADATA), int(Level.PLAN)
    plan = PlanRule("Plan", 9, price_ids=frozenset({"price_x"}), per_unit=True)
    default = PlanRule("Standard", 50, is_default=True)
    for one, level, plans, is_outdone in (
        (changed, by_price, (), False),
        (changed, by_plan, (), False),
        (changed, by_product, (), True),
        (changed, by_price, (plan,), True),
        # What the price no longer says at all stays too, and what it was on the default plan.
        (price(), by_price, (), False),
        (price(), by_price, (default,), False),
        (changed, int(Level.DEFAULT), (default,), True),
    ):
        assert worth(one, (level, 42, 0, 0, 1), *plans) == (42, is_outdone)
        assert worth(one, (level, 42, 0, 1, 1), *plans) == (84, is_outdone)
        # A share of what it bills as well as an amount.
        assert worth(one, (level, 0, 5000, 0, 1), *plans) == (5 * DOLLAR, is_outdone)
        raised = worth(one, (level, 42, 0, 0, 1), *plans, rising={"price_x"})
        assert raised == ((-1, True) if is_outdone else (42, False))


def test_what_something_says_more_about_counts_where_it_may() -> None:
    kept = {"price_x": (int(Level.PRODUCT_METADATA), 0, 5000, 1, 0)}
    priced = Pricing(plans=[], kept=kept, rising={"price_x"})
    assert priced.worths([price(llm_budget_usd="7")], set())["price_x"].limit_nanos == 7 * DOLLAR
    assert priced.values == {"price_x": (int(Level.PRICE_METADATA), 7 * DOLLAR, 0, 0, 1)}
    # What was not known then is worth what is said now.
    assert nanos(price("price_y", llm_budget_usd="7"), kept=kept) == 7 * DOLLAR


def test_what_was_on_the_default_plan_is_told_until_something_maps_it() -> None:
    default = PlanRule("Standard", 50, is_default=True)
    kept = {"price_x": (int(Level.DEFAULT), 42, 0, 0, 1)}
    for one, reasons in ((price(), ("unmapped_plan",)), (price(llm_budget_usd="7"), ())):
        found = valued(one, plans=[default], kept=kept)
        assert (found.limit_nanos, found.reasons) == (42, reasons)


def test_what_is_kept_counts_by_unit_and_by_period_as_it_did() -> None:
    for per_unit, monthly in ((0, 1), (1, 0)):
        kept = {"price_x": (int(Level.PRICE_METADATA), 42, 0, per_unit, monthly)}
        for one in (price(), price(llm_budget_usd="7", llm_budget_per_unit="yes", llm_budget_period="billing")):
            assert nanos(one, 2, kept=kept) == 42 + 42 * per_unit
            assert Pricing(plans=[], kept=kept).worths([one], set())["price_x"].monthly is bool(monthly)
    # Rows of earlier versions do not say: then as the price does.
    before = {"price_x": (int(Level.PRICE_METADATA), 42, 0)}
    assert nanos(price(llm_budget_usd="7", llm_budget_per_unit="yes"), 2, kept=before) == 84


def test_a_plan_is_for_a_month_and_not_for_each_unit_unless_it_says_so() -> None:
    plan = PlanRule("Plan", DOLLAR, price_ids=frozenset({"price_x"}))
    found = Pricing(plans=[plan], kept={}).worths([price()], set())["price_x"]
    assert (found.monthly, found.per_unit, found.policy) == (True, False, PlanPolicy())
    policy = found.policy
    said = (policy.trial_percent, policy.provisional_percent, policy.grace_days, policy.credit_percent)
    assert (said, policy.upgrade_times) == ((None,) * 4, None)
    assert (policy.upgrade, policy.downgrade, policy.pause) == ("", "", "")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"llm_budget_usd": "1", "llm_trial_budget_usd": "-1"}, "llm_trial_budget_usd"),
        ({"llm_budget_usd": "1", "product": {"llm_trial_budget_usd": "x"}}, "llm_trial_budget_usd"),
        ({"llm_budget_percent": "x", "product": {"llm_budget_usd": "1"}}, "llm_budget_percent"),
        ({"product": {"llm_budget_percent": "0"}}, "llm_budget_percent"),
        ({"llm_budget_usd": "1", "llm_hard_cap": "1.1"}, "llm_hard_cap"),
        ({"llm_budget_usd": "1", "llm_soft_cap": "1.1"}, "llm_soft_cap"),
    ],
)
def test_metadata_that_cannot_be_is_told_by_its_key(fields: dict[str, Any], key: str) -> None:
    found = valued(price(**fields))
    assert f"invalid_metadata:{key}" in found.reasons
    assert (found.trial_nanos, found.hard_e4, found.soft_e4) == (None, None, None)


def test_a_hard_cap_of_more_than_all_is_none() -> None:
    found = valued(price(llm_budget_usd="1", llm_hard_cap="1.1", llm_soft_cap="0.9"))
    assert (found.hard_e4, found.soft_e4, found.reasons) == (None, 9000, ("invalid_metadata:llm_hard_cap",))


def test_a_share_of_what_usage_will_bill_is_no_budget_and_says_so() -> None:
    used = replace(price(llm_budget_percent="40", unit_amount=10), metered=True)
    found = valued(used)
    assert (found.limit_nanos, found.reasons) == (0, ("invalid_metadata:llm_budget_percent",))
    assert nanos(used, quantity=100, charge=(5000, "usd")) == 0
    # What a price says in dollars counts, whatever its product says of a share.
    told = replace(price(llm_budget_usd="30", product={"llm_budget_percent": "40"}), metered=True)
    assert (nanos(told), valued(told).reasons) == (30 * DOLLAR, ())


@pytest.mark.parametrize(
    ("units", "currency", "words"),
    [
        (123456, "usd", "$1,234.56"),
        (4500, "eur", "45.00 EUR"),
        (700, "jpy", "700 JPY"),
        (1234, "kwd", "1.234 KWD"),
        (Decimal("46.6825476"), "eur", "0.47 EUR"),
        (Decimal("100.034030663"), "jpy", "100 JPY"),
    ],
)
def test_an_amount_has_as_many_decimals_as_its_currency(units: int | Decimal, currency: str, words: str) -> None:
    assert valuation.amount_words(units, currency) == words
