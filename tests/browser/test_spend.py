"""The page of what was spent, in a real browser, on the demo's thirty days."""

from __future__ import annotations

import csv
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser


def total(page: Page) -> str:
    return page.locator(".sg-total .sg-cell-1").inner_text()


def test_who_spent_most_this_week_and_on_which_model_is_one_click_away(demo: Visit) -> None:
    page = demo.open("/admin/")
    page.locator("#nav-sidebar").get_by_role("link", name=re.compile(r"Spend$")).click()

    expect(page.get_by_role("heading", name="By customer, and model within it")).to_be_visible()
    costs = [float(text.strip("$")) for text in page.locator(".sg-group .sg-cell-1").all_inner_texts()]
    assert len(costs) >= 3
    assert costs == sorted(costs, reverse=True)
    expect(page.locator(".sg-breakdown tbody").first.locator(".sg-within th").first).to_have_text(re.compile("mistral"))
    assert demo.problems == []


def test_a_row_leads_to_what_it_is_made_of_and_a_chip_leads_back(demo: Visit) -> None:
    page = demo.open("/admin/spend/?range=30d")
    of_all = total(page)
    page.locator(".sg-group th a", has_text="globex").click()
    expect(page.get_by_role("heading", name="By agent, and model within it")).to_be_visible()
    expect(page.get_by_text("America/New_York")).to_be_visible()
    assert total(page) != of_all
    page.get_by_role("link", name="Remove the filter Customer globex").click()
    expect(page.locator(".sg-chip")).to_have_count(0)
    assert total(page) == of_all
    assert demo.problems == []


def test_a_bar_of_the_chart_leads_to_its_slice(demo: Visit) -> None:
    page = demo.open("/admin/spend/?range=30d&group=model&subgroup=")
    page.wait_for_load_state("networkidle")
    place = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas[data-chart]"), chart = Chart.getChart(canvas);
            const values = chart.data.datasets[0].data;
            const bar = chart.getDatasetMeta(0).data[values.indexOf(Math.max(...values))];
            const frame = canvas.getBoundingClientRect();
            return [frame.left + bar.x, frame.top + (bar.y + bar.base) / 2, bar.options.backgroundColor];
        }"""
    )
    assert place[2] != "rgba(0,0,0,0.1)"
    page.mouse.click(*place[:2])
    page.wait_for_url(re.compile("model="))
    asked = parse_qs(urlsplit(page.url).query)
    assert asked["from"] == asked["to"]
    expect(page.locator(".sg-chip")).to_have_text(re.compile(asked["model"][0]))
    assert demo.problems == []


def test_last_month_is_exported_for_the_accountant(demo: Visit) -> None:
    page = demo.open("/admin/spend/?range=30d")
    page.get_by_label("Group within it by").select_option("Day")
    page.get_by_role("button", name="Group").click()
    expect(page.get_by_role("heading", name="By customer, and day within it")).to_be_visible()
    shown = total(page)
    with page.expect_download() as downloading:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(downloading.value.path().read_text().splitlines()))
    assert rows[-1]["tenant"] == "total"
    assert shown == f"${float(rows[-1]['cost']):,.2f}"
    assert {row["tenant"] for row in rows[:-1]} >= {"acme", "globex", "initech"}
    assert demo.problems == []


def test_a_filter_is_added_with_the_keyboard_alone(demo: Visit) -> None:
    page = demo.open("/admin/spend/?range=30d")
    page.get_by_label("Filter by", exact=True).select_option("Model")
    page.get_by_label("Name to filter by").focus()
    page.keyboard.type("mistral-small-2603")
    page.keyboard.press("Enter")
    expect(page.locator(".sg-chip")).to_have_text(re.compile("mistral-small-2603"))
    # The address says it, and nothing of the form.
    assert "field=" not in page.url
    assert demo.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_phone(demo: Visit, scheme: str) -> None:
    demo.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    demo.page.set_viewport_size({"width": 360, "height": 780})
    for path in (
        "/admin/spend/?range=30d",
        "/admin/spend/?group=user&subgroup=hour&range=24h",
        "/admin/spend/?agent=none",
    ):
        page = demo.open(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
    assert demo.problems == []


def test_on_paper_there_are_figures_and_no_buttons(demo: Visit) -> None:
    page = demo.open("/admin/spend/?range=30d")
    page.emulate_media(media="print")
    expect(page.get_by_role("button", name="Print")).to_be_hidden()
    expect(page.locator("#nav-sidebar")).to_be_hidden()
    expect(page.locator(".sg-total")).to_be_visible()
    expect(page.locator("canvas[data-chart]")).to_be_visible()
