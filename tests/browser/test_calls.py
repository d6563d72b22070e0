"""Calls in a real browser: why one was refused, what one cost, and the search."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import REFUSED, Visit

pytestmark = pytest.mark.browser


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_why_a_call_was_refused_is_three_clicks_away_and_the_raise_one_more(refused: Visit) -> None:
    page = refused.open("/admin/")
    page.locator("a[href='/admin/calls/']").first.click()
    page.get_by_role("navigation", name="State").get_by_role("link", name="Refused").click()
    page.locator(f".sg-whole[href*='{REFUSED}']").click()
    expect(page.get_by_role("heading", name="Refused: budget exhausted")).to_be_visible()
    expect(page.get_by_text("$0.50 more")).to_be_visible()
    page.get_by_role("link", name="Raise").click()
    expect(page).to_have_url(re.compile(r"/admin/governance/budget/\d+/allow/"))
    assert refused.problems == []


def test_a_request_id_typed_into_the_search_leads_to_its_call(refused: Visit) -> None:
    page = refused.open("/admin/")
    page.keyboard.press("/")
    page.get_by_role("searchbox", name="Search", exact=True).press_sequentially(REFUSED, delay=5)
    expect(page.locator("#command-results-list li").first).to_contain_text("budget exhausted")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/admin/calls/{REFUSED}/"))
    assert refused.problems == []


def test_an_agent_is_stopped_by_saying_so(refused: Visit) -> None:
    page = refused.open("/admin/calls/")
    page.keyboard.press("Control+k")
    page.get_by_role("searchbox", name="Search", exact=True).press_sequentially("stop browsed seen", delay=5)
    page.locator("#command-results-list").get_by_text("Emergency stop of browsed / seen").click()
    expect(page.locator("textarea[name=reason]")).to_be_visible()
    assert refused.problems == []


@pytest.mark.parametrize("width", [360, 720, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways(refused: Visit, width: int, scheme: str) -> None:
    refused.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    refused.page.set_viewport_size({"width": width, "height": 800})
    for path in (
        "/admin/calls/",
        f"/admin/calls/{REFUSED}/",
        "/admin/calls/?tenant=browsed&agent=seen&user=" + "a" * 200,
    ):
        page = refused.open(path)
        page.wait_for_load_state("networkidle")
        assert fits(page), path
    page = refused.open(f"/admin/calls/?q={REFUSED}-served")
    expect(page.get_by_role("heading", name="What it cost")).to_be_visible()
    assert fits(page)
    assert refused.problems == []
