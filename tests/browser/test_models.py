"""Models in a real browser: what they cost, who uses them, what a call would come to, and whether providers answer."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser


def test_what_a_model_costs_and_who_moves_calls_to_it_is_two_clicks_away(demo: Visit) -> None:
    page = demo.open("/admin/")
    page.locator("#nav-sidebar").get_by_role("link", name=re.compile(r"Models$")).click()
    row = page.locator(".sg-models tr", has_text="mistral-small-2603")
    expect(row.locator(".sg-price")).to_have_text(["$0.15", "$0.015", "$0.60"])
    row.get_by_role("link", name="mistral-small-2603").click()
    expect(page.get_by_role("heading", name="Budgets whose downgrades name it")).to_be_visible()
    expect(page.locator(".sg-notes li").first).to_contain_text("$0.15 in, $0.015 cached and $0.60 out a million tokens")
    # The figure leads to the calls that it counts; where calls had another name too, to its line below, which does.
    page.locator('a[href*="/calls/?"][href*="model=mistral-small-2603"]').first.click()
    expect(page.locator(".sg-chip")).to_have_text([re.compile("mistral-small-2603"), re.compile("mistral")])
    assert demo.problems == []


def test_the_playground_decides_on_a_call_without_making_it(demo: Visit) -> None:
    page = demo.open("/admin/models/playground/")
    page.get_by_label("Customer").fill("acme")
    page.get_by_label("Model", exact=True).fill("mistral-large-latest")
    page.get_by_label("Input tokens").fill("1,000")
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("#verdict-title")).to_contain_text("It would")
    expect(page.locator(".sg-foretold .sg-sum").first).to_contain_text("1,000 in ×")
    expect(page.locator(".sg-looked").first).to_be_visible()
    # No bound holds such a call.
    page.get_by_label("Input tokens").fill("900,000,000,000")
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("#verdict-title")).to_have_text("It would be refused")
    assert demo.problems == []


def test_a_provider_of_the_environment_is_tested_from_its_row(demo: Visit) -> None:
    page = demo.open("/admin/llm/providerendpoint/")
    page.get_by_role("button", name="Test mistral", exact=True).click(no_wait_after=True)
    # Whether the simulated one is up already is the machine's affair; a test may take 15 seconds.
    expect(page.get_by_text(re.compile(r"mistral: It (works: \d+ models|cannot be reached)"))).to_be_visible(
        timeout=20_000
    )
    assert demo.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_models_fit_a_phone(demo: Visit, scheme: str) -> None:
    demo.page.set_viewport_size({"width": 360, "height": 780})
    demo.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    demo.open("/admin/llm/model/?q=mistral-small-2603").locator(".sg-models th a").first.click()
    demo.page.wait_for_url(re.compile(r"/change/"))
    for path in ("", "/admin/llm/model/", "/admin/models/playground/", "/admin/models/routing/",
                 "/admin/models/offers/", "/admin/llm/providerendpoint/", "/admin/llm/price/add/"):  # fmt: skip
        page = demo.open(path) if path else demo.page
        page.wait_for_load_state()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    assert demo.problems == []
