"""Budgets in a real browser: the worst found, read, tried and changed, on a laptop and on a phone."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}


def is_wider_than_the_screen(visit: Visit) -> bool:
    return bool(visit.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


def test_a_stopped_budget_is_found_and_read_in_two_clicks(demo: Visit) -> None:
    page = demo.open("/admin/governance/budget/")
    rows = page.locator(".sg-budgets tbody tr")
    expect(rows.first.locator(".sg-state")).to_have_text("stopped")

    page.get_by_role("navigation", name="State").get_by_role("link", name="Stopped").click()
    expect(rows).to_have_count(1)
    rows.get_by_role("link").click()
    expect(page.get_by_role("heading", name=re.compile("Used up"))).to_be_visible()
    expect(page.locator("canvas[data-chart]")).to_be_visible()
    assert demo.problems == []


def test_when_a_budget_runs_out_is_read_and_what_a_lower_soft_cap_would_have_done(demo: Visit) -> None:
    page = demo.open("/admin/governance/budget/?q=initech&window=month")
    page.locator(".sg-budgets tbody a").first.click()
    expect(page.locator("#course-title")).to_have_text(re.compile("Lasts|Runs out|Used up"))

    page.get_by_label("Limit in dollars").fill("5")
    page.get_by_label("Soft cap, %").fill("50")
    preview = page.locator("#preview")
    expect(preview.locator("h3")).to_contain_text(re.compile(r"calls? (downgraded|refused)"))
    expect(preview).to_contain_text("as typed")

    # Shares are no percent, and the preview says so.
    page.get_by_label("Soft cap, %").fill("0.5")
    expect(preview).to_contain_text("Type percent: 50")
    assert demo.problems == []


def test_a_soft_cap_is_changed_and_its_change_is_told(demo: Visit) -> None:
    page = demo.open("/admin/governance/budget/?q=globex&window=week")
    page.locator(".sg-budgets tbody a").first.click()
    page.get_by_label("Soft cap, %").fill("70")
    page.get_by_role("button", name="Save").click()

    expect(page.get_by_label("Soft cap, %")).to_have_value("70")
    expect(page.locator(".sg-happened li").first).to_contain_text(re.compile(r"olivia changed soft cap 80% → 70%"))
    page.get_by_role("link", name="Windows", exact=True).last.click()
    expect(page.locator("#more")).to_contain_text("of $4.00")
    assert demo.problems == []


def test_selected_budgets_are_reset_with_a_reason(demo: Visit) -> None:
    page = demo.open("/admin/governance/budget/?q=initech&window=day")
    page.get_by_label("all on this page").check()
    page.get_by_role("button", name="Reset selected").click()
    page.fill("textarea[name=reason]", "a new project")
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(page.get_by_text(re.compile("Reset: initech each agent"))).to_be_visible()
    assert demo.problems == []


def test_a_view_is_saved_opened_renamed_and_deleted(demo: Visit) -> None:
    page = demo.open("/admin/governance/budget/?state=stopped")
    name = page.get_by_label("Name of this view")
    name.fill("<b>Used</b> up")
    page.get_by_role("button", name="Save view").click()

    page.get_by_role("navigation", name="State").get_by_role("link", name="All").click()
    view = page.get_by_role("navigation", name="Saved views").get_by_role("link", name="<b>Used</b> up")
    view.click()
    expect(view).to_have_attribute("aria-current", "page")
    expect(page.locator(".sg-budgets tbody tr")).to_have_count(1)
    name.fill("Stopped ones")
    name.press("Enter")
    expect(page.get_by_role("navigation", name="Saved views")).to_have_text("Stopped ones")

    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert not is_wider_than_the_screen(demo)
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("The view “Stopped ones” is deleted.")).to_be_visible()
    expect(page.get_by_role("navigation", name="Saved views")).to_have_count(0)
    assert demo.problems == []


def test_on_a_phone_windows_are_filtered_by_a_budget_that_is_typed(demo: Visit) -> None:
    demo.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page = demo.open("/admin/governance/budgetwindow/")
    page.get_by_role("button", name="Filters").click()
    sheet = page.locator("#changelist-filter")
    expect(sheet).to_be_visible()
    assert not is_wider_than_the_screen(demo)
    sheet.locator(".select2-selection[aria-label^='By budget']").click()
    page.locator(".select2-search__field").fill("initech")
    page.get_by_role("option", name=re.compile("initech")).first.click()
    sheet.get_by_role("button", name="Apply Filters").click()
    page.wait_for_url("**budget__id__exact=*")
    expect(page.locator("#result_list tbody th").first).to_contain_text("initech")
    assert not is_wider_than_the_screen(demo)
    assert demo.problems == []


def test_on_a_phone_budgets_are_two_lines_each_and_nothing_is_wider_than_it(demo: Visit) -> None:
    demo.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page = demo.open("/admin/governance/budget/")
    first = page.locator(".sg-budgets tbody tr").first
    box = first.bounding_box()
    assert box is not None
    assert box["height"] < 80
    assert not is_wider_than_the_screen(demo)
    first.get_by_role("link").click()
    expect(page.locator(".sg-budget-head .sg-state")).to_be_visible()
    assert not is_wider_than_the_screen(demo)
    assert demo.problems == []
