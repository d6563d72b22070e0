"""Billing in a real browser, where Stripe is not connected: what is next, plans in percent, margins nobody knows."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser
PAGES = ("/admin/stripe/", "/admin/margin/", "/admin/billing/plan/", "/admin/billing/stripeevent/", "/admin/unbound/")


def test_stripe_says_what_is_next_and_a_plan_is_added_in_percent(operator: Visit) -> None:
    page = operator.open("/admin/stripe/")
    expect(page.get_by_role("heading", name="Connect Stripe")).to_be_visible()
    expect(page.get_by_text("STRIPE_SECRET_KEY is not set.")).to_be_visible()

    page.get_by_role("link", name="Plans", exact=True).first.click()
    page.goto(f"{operator.site.url}/admin/billing/plan/add/")
    page.get_by_label("Name", exact=True).fill("Jumbo")
    page.get_by_label("Limit in dollars").fill("120.50")
    page.get_by_label("Lookup keys").fill("jumbo, jumbo-yearly")
    page.get_by_label("Soft cap, %").fill("70")
    page.get_by_label("Rule 1: models asked for").fill("mistral-large-latest")
    page.get_by_label("Rule 1: model to serve instead").fill("mistral-small-latest")
    page.get_by_role("button", name="Add the plan").click()

    row = page.locator(".sg-lines tbody tr", has_text="Jumbo")
    expect(row).to_contain_text("$120.50 a month")
    expect(row).to_contain_text("soft 70% · mistral-large-latest → mistral-small-latest")
    row.get_by_role("link", name="Jumbo").click()
    expect(page.get_by_role("heading", name="What its customers can spend")).to_be_visible()
    expect(page.get_by_text("$12.05 for 7 days of the period, then nothing")).to_be_visible()

    operator.open("/admin/margin/")
    expect(page.get_by_text("no revenue is known: connect Stripe").first).to_be_visible()
    assert operator.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_billing_fits_on_a_phone(operator: Visit, scheme: str) -> None:
    operator.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    operator.page.set_viewport_size({"width": 360, "height": 780})
    for path in PAGES:
        page = operator.open(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
        expect(page).to_have_title(re.compile("Spend Governor"))
    assert operator.problems == []
