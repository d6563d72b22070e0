"""What an answer says of its tier and of its cost, as xAI, OpenRouter, OpenAI and Mistral document it."""

from typing import Any

import pytest

from llm.rules import told_price

BESIDE: dict[str, Any] = {"cost_details": {"upstream_inference_cost": None}}


@pytest.mark.parametrize(
    ("usage", "nanos"),
    [
        ({"cost_in_usd_ticks": 37_756_000}, 3_775_600),
        ({"cost_in_usd_ticks": 14}, 1),
        ({"cost_in_usd_ticks": 15}, 2),
        ({"cost_in_usd_ticks": "2460000"}, 246_000),
        ({"cost": 0.000246, **BESIDE}, 246_000),
        ({"cost": 1e-05, **BESIDE}, 10_000),
        ({"cost": 2, **BESIDE}, 2_000_000_000),
        # On a key of one's own the provider charges as well.
        ({"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}}, 1_050_000_000),
        ({"cost": 0.05, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.05}}, 50_000_000),
        # The larger of two.
        ({"cost_in_usd_ticks": 10, "cost": 1, **BESIDE}, 1_000_000_000),
        # Credits, or anything else: nobody says what it is.
        ({"cost": 5}, 0),
        ({"cost": 5, "cost_details": None}, 0),
        ({"cost": {"total_cost": 5}, **BESIDE}, 0),
        ({"cost": True, **BESIDE}, 0),
        ({"cost": -1, **BESIDE}, 0),
        ({"cost": "NaN", **BESIDE}, 0),
        ({"cost": 1e300, **BESIDE}, 0),
        ({"cost_in_usd_ticks": None}, 0),
        ({}, 0),
    ],
)
def test_a_cost_is_read_in_the_units_of_whoever_tells_it(usage: dict[str, Any], nanos: int) -> None:
    assert told_price.cost_nanos({"usage": usage}) == nanos
    assert told_price.cost_nanos({"response": {"usage": usage}}) == nanos
    # Errors tell theirs as well.
    assert told_price.cost_nanos({"error": {"usage": usage}}) == nanos


@pytest.mark.parametrize("answer", [{}, {"usage": None}, {"usage": [5]}, {"cost_in_usd_ticks": 5}, {"message": "x"}])
def test_outside_of_a_usage_no_cost_is_told(answer: dict[str, Any]) -> None:
    assert told_price.cost_nanos(answer) == 0


@pytest.mark.parametrize(
    ("answer", "tiers"),
    [
        ({"service_tier": "priority"}, ["priority"]),
        ({"service_tier": "Priority"}, ["priority"]),
        ({"usage": {"service_tier": "priority"}}, ["priority"]),
        ({"service_tier": "default", "usage": {"service_tier": "fast"}}, ["fast"]),
        ({"response": {"service_tier": "priority"}}, ["priority"]),
        *(({"service_tier": tier}, []) for tier in ("default", "standard", "auto", "flex", "on_demand", "", None, 5)),
        ({"usage": {"inference_geo": "us", "service_tier": "priority"}}, ["priority", "geo-us"]),
        *(({"usage": {"inference_geo": place}}, []) for place in ("global", "not_available", "", None)),
        ({}, []),
    ],
)
def test_a_tier_is_told_where_it_may_be_dearer(answer: dict[str, Any], tiers: list[str]) -> None:
    assert list(told_price.dearer_tiers(answer)) == tiers


@pytest.mark.parametrize(
    ("refusal", "nanos"),
    [
        ({"code": "x", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"}, 50_000_000),
        ({"error": {"message": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_CSAM"}}, 50_000_000),
        ({"error": {"message": "Content violates usage guidelines."}}, 0),
        ({"error": None}, 0),
        ({}, 0),
    ],
)
def test_a_refusal_by_xais_guidelines_has_a_fee(refusal: dict[str, Any], nanos: int) -> None:
    assert told_price.fee_nanos(refusal) == nanos
