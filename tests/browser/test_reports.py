"""The page of reports in a real browser, on the demo's thirty days."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (360, "light")])
def test_a_report_is_read_in_the_console_as_it_is_in_a_mailbox(demo: Visit, width: int, scheme: str) -> None:
    page = demo.page
    page.set_viewport_size({"width": width, "height": 1000})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    demo.open("/admin/reports/?cadence=weekly")
    page.get_by_label("Customer").select_option("acme")
    page.get_by_role("button", name="Show").click()
    report = page.frame_locator("iframe.sg-mail")
    expect(report.get_by_role("heading", name="Agents")).to_be_visible()
    chart = report.locator("img")
    assert chart.evaluate("image => image.complete && image.naturalWidth") == 1200
    # Neither the page nor the message is wider than the screen, once the tabs have found their places.
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")
    assert report.locator("html").evaluate("page => page.scrollWidth - page.clientWidth") <= 0
    assert demo.problems == []
