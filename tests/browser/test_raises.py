"""More is asked for by whoever has a refusal's link, and an operator's one button gives it, in a real browser."""

from __future__ import annotations

import json

import httpx2 as httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OPERATOR, PASSWORD, Visit

pytestmark = pytest.mark.browser


def hold(visit: Visit, key: str, cost: str) -> httpx.Response:
    return httpx.post(
        f"{visit.site.url}/api/reservations",
        headers={"authorization": f"Bearer {key}"},
        json={"model": "mistral-small-latest", "estimated_cost": cost},
        timeout=30,
    )


def test_a_raise_is_asked_for_from_a_phone_and_approved_with_one_button(stranger: Visit) -> None:
    site = stranger.site
    made = ["--tenant", "umbra", "--agent", "owl", "--role", "agent", "--create", "--json"]
    key = json.loads(site.manage("create_api_key", *made))["key"]
    site.manage("set_budget", "--tenant", "umbra", "--scope", "tenant", "--window", "day", "--limit", "1")
    assert hold(stranger, key, "0.10").status_code == 201
    refused = hold(stranger, key, "5")
    assert refused.status_code == 402, refused.text

    page = stranger.page
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(refused.json()["error"]["raise_url"])
    expect(page.get_by_role("heading", name="Ask for more")).to_be_visible()
    page.get_by_label("How many dollars more").fill("10")
    page.get_by_label("Who asks").fill("Ada")
    page.get_by_label("What for").fill("the month's invoices")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Ask an operator").click()
    expect(page.get_by_role("heading", name="An operator decides")).to_be_visible()
    link = page.url

    page.set_viewport_size({"width": 1440, "height": 900})
    stranger.open("/admin/login/?next=/admin/governance/raiserequest/")
    page.fill("input[name=username]", OPERATOR)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.locator("#result_list tbody th a, #result_list tbody td a").first.click()
    page.get_by_role("link", name="Approve").click()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Approved: $10.00 more for umbra per day.")).to_be_visible()
    assert hold(stranger, key, "5").status_code == 201
    page.goto(link)
    expect(page.get_by_text("$10.00 more, for which Ada asked, was approved.")).to_be_visible()
    assert stranger.problems == []
