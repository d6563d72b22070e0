"""An operator makes a link, and a customer reads its own page by it, on a phone and in the dark, in a real browser."""

from __future__ import annotations

import json

import httpx2 as httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser
# Of lightness, from black (0) to white (1): what a page's text and what is behind it are.
LIGHTNESS = """
    name => {
        const parts = getComputedStyle(document.body)[name].match(/[\\d.]+/g).map(Number);
        return parts.length > 3 && parts[3] === 0 ? null : (parts[0] + parts[1] + parts[2]) / 765;
    }
"""


def test_a_customer_reads_its_own_page_until_the_link_is_taken_back(operator: Visit) -> None:
    site, page = operator.site, operator.page
    made = [
        "--tenant",
        "penguin",
        "--agent",
        "emperor-of-the-very-long-name-" * 3,
        "--role",
        "agent",
        "--create",
        "--json",
    ]
    key = json.loads(site.manage("create_api_key", *made))["key"]
    site.manage("set_budget", "--tenant", "penguin", "--scope", "tenant", "--window", "day", "--limit", "1")
    call = {"model": "mistral-small-latest"}
    for path, body, status in (
        ("spend", call | {"request_id": "r1", "cost": "0.25"}, 201),
        ("reservations", call | {"estimated_cost": "5"}, 402),
    ):
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{site.url}/api/{path}", headers=headers, json=body, timeout=30)
        assert answer.status_code == status, answer.text

    operator.open("/admin/governance/tenant/?q=penguin")
    page.get_by_role("link", name="penguin").first.click()
    page.locator("a[href$='/page-link/']").first.click()
    page.get_by_label("Note").fill("the zoo")
    page.get_by_role("button", name="Make the link").click()
    link = page.locator("#new-link").inner_text()

    reader = page.context.browser
    assert reader is not None
    context = reader.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    try:
        theirs = context.new_page()
        visit = Visit(page=theirs, site=site)
        visit.watch()
        theirs.goto(link)
        expect(theirs.get_by_role("heading", name="penguin")).to_be_visible()
        expect(theirs.get_by_text("all calls per day")).to_be_visible()
        expect(theirs.get_by_text("$0.25").first).to_be_visible()
        expect(theirs.get_by_text("The budget is used up").first).to_be_visible()
        assert theirs.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert theirs.evaluate(LIGHTNESS, "color") > 0.7
        assert theirs.locator("button, input, form").count() == 0
        theirs.emulate_media(color_scheme="light")
        assert theirs.evaluate(LIGHTNESS, "color") < 0.3
        assert visit.problems == []

        operator.open("/admin/governance/pagelink/?q=penguin")
        page.locator("#result_list tbody a").first.click()
        page.get_by_role("link", name="Take back").click()
        page.get_by_label("Reason").fill("a test")
        page.get_by_role("button", name="Take back").click()
        expect(page.get_by_text("Take back: read-only page of penguin for the zoo.")).to_be_visible()
        assert theirs.goto(link).status == 410  # type: ignore[union-attr]
        expect(theirs.get_by_role("heading", name="This link is over")).to_be_visible()
    finally:
        context.close()
    assert operator.problems == []
