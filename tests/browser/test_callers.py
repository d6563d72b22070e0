"""Customers, agents and keys in a real browser: a new key and its first call, and a stop lifted on a phone."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.product import eventually

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}


def is_wider_than_the_screen(visit: Visit) -> bool:
    return bool(visit.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


def test_from_the_list_to_a_customer_a_new_key_and_its_first_call(demo: Visit) -> None:
    page = demo.open("/admin/governance/tenant/")
    page.get_by_role("link", name="Acme Logistics").click()
    expect(page.locator("canvas[data-chart]")).to_be_visible()
    page.get_by_role("link", name="by model").click()
    expect(page.get_by_role("link", name="by model")).to_have_attribute("aria-current", "true")

    page.get_by_role("link", name="Issue", exact=True).click()
    page.get_by_label("Agent").select_option(label="acme/support")
    page.get_by_role("button", name="Issue the key").click()
    code = page.locator(".sg-code:visible code")
    expect(code).to_contain_text(f'server_url="{demo.site.url}"')
    page.get_by_role("tab", name="openai (Node)").click()
    expect(code).to_contain_text(f'baseURL: "{demo.site.url}/v1"')
    page.get_by_label("Model").fill("no-such-model")
    expect(code).to_contain_text('model: "no-such-model"')

    page.get_by_role("button", name="Send a test call").click()
    tried = page.locator("#tried")
    expect(tried).to_contain_text("400 model_not_priced")
    link = tried.get_by_role("link")
    # Refusals are written in batches, a moment later.
    assert eventually(lambda: page.request.get(demo.site.url + str(link.get_attribute("href"))).ok)
    link.click()
    expect(page.get_by_text("refused").first).to_be_visible()
    assert demo.problems == []


def test_an_agent_is_stopped_and_the_stop_lifted_on_a_phone(demo: Visit) -> None:
    demo.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page = demo.open("/admin/governance/agent/?q=globex")
    assert not is_wider_than_the_screen(demo)
    page.get_by_role("link", name="churn").click()
    expect(page.locator(".sg-budget-head .sg-state")).to_be_visible()
    address = page.url
    assert not is_wider_than_the_screen(demo)
    page.goto(address.replace("/change/", "/stop/"))
    expect(
        page.get_by_text(re.compile(r"Nothing of it runs now; in the last 24 hours [\d,]+ calls spent"))
    ).to_be_visible()
    page.fill("textarea[name=reason]", "a loop")
    page.get_by_role("button", name="Stop now").click()

    expect(page.get_by_role("alert", name="Emergency stops")).to_contain_text("globex/churn is stopped")
    expect(page.locator(".sg-budget-head .sg-state")).to_have_text("stopped")
    page.get_by_role("link", name="Lift").click()
    page.fill("textarea[name=reason]", "mended")
    page.get_by_role("button", name="Lift").click()
    page.wait_for_url(f"{demo.site.url}/admin/")
    page.goto(address)
    expect(page.locator(".sg-budget-head .sg-state")).not_to_have_text("stopped")
    expect(page.locator(".sg-happened li").first).to_contain_text("olivia lifted the stop")
    assert not is_wider_than_the_screen(demo)
    assert demo.problems == []
