"""The overview, in a real browser: it changes by itself, leads on, and says when nobody answers."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser
# It is asked every five seconds.
SOON_MS = 15_000
SPEND = """
from django.utils import timezone
from governance import ledger
from tests import factories
now = timezone.now()
by = factories.caller(factories.Tenant.objects.get(slug="globex"), agent="support")
ledger.record(factories.reporting("2.50", by=by, occurred_at=now), now=now)
"""
SUMS_OF_CHART = """() => {
    const { datasets } = Chart.getChart(document.querySelector("#overview-trend canvas")).data;
    const sum = (of) => datasets.flatMap(of).reduce((sum, each) => sum + Number(each), 0);
    return `$${sum((each) => each.data).toFixed(2)} in ${sum((each) => each.calls)} calls`;
}"""
# A request is given up after ten.
HANGS_MS = 30_000


def test_the_overview_leads_on_lives_and_says_when_the_connection_is_lost(operator: Visit, demo_history: None) -> None:
    page = operator.open("/admin/?range=30d")
    # What happened comes after the page.
    expect(page.locator("#overview-happened .sg-feed li a").first).to_be_visible()
    page.get_by_role("group", name="Told apart by").get_by_role("link", name="Customer").click()
    expect(page.get_by_role("heading", name="Spent by customer")).to_be_visible()
    assert "range=30d" in page.url
    page.locator(".sg-legend").get_by_role("link", name="globex").click()
    expect(page.get_by_role("heading", name=re.compile("By agent"))).to_be_visible()
    page.go_back()

    page.evaluate("window.trend = document.getElementById('overview-trend')")
    operator.site.manage("emergency_stop", "--tenant", "initech", "--reason", "a loop")
    banner = page.get_by_role("alert", name="Emergency stops")
    expect(banner).to_contain_text("Tenant initech is stopped", timeout=SOON_MS)
    # Only what has changed is another one.
    assert page.evaluate("window.trend === document.getElementById('overview-trend')")
    assert operator.problems == []

    # One section says one figure: what is spent moves the chart, its legend, its sum and its table alike, and the
    # keyboard stays where it was.
    card = page.get_by_role("link", name="Spent today")
    card.focus()
    before = page.locator("#trend-spent").inner_text()
    operator.site.manage("shell", "-c", SPEND)
    expect(page.locator("#trend-spent")).not_to_have_text(before, timeout=SOON_MS)
    expect(card).to_be_focused()
    assert page.evaluate(SUMS_OF_CHART) == page.locator("#trend-spent").inner_text()
    expect(page.locator(".sg-legend")).to_contain_text("globex")

    page.context.set_offline(True)
    expect(page.get_by_role("status").filter(has_text="Connection lost.")).to_be_visible(timeout=SOON_MS)
    page.context.set_offline(False)
    expect(page.get_by_text("Connection lost.")).to_be_hidden(timeout=SOON_MS)
    # The browser's own word of it, and htmx's.
    assert [each for each in operator.problems if not re.search("ERR_INTERNET_DISCONNECTED|htmx:", each)] == []
    operator.problems.clear()

    banner.get_by_role("link", name="Lift").click()
    page.fill("textarea[name=reason]", "mended")
    page.get_by_role("button", name="Lift").click()
    expect(banner).to_have_count(0)
    page.get_by_role("link", name="Stopped", exact=True).click()
    expect(page.locator(".sg-states [aria-current]")).to_contain_text("Stopped")
    assert operator.problems == []


def test_a_server_that_does_not_answer_is_a_lost_connection(operator: Visit) -> None:
    page = operator.open("/admin/")
    expect(page.locator("#overview-saved")).not_to_have_attribute("aria-busy", "true")
    held: list[Route] = []
    # Asked, and never answered.
    page.route("**/admin/overview/?*", lambda route: held.append(route))
    expect(page.get_by_text("Connection lost.")).to_be_visible(timeout=HANGS_MS)
    page.unroute("**/admin/overview/?*")
    expect(page.get_by_text("Connection lost.")).to_be_hidden(timeout=HANGS_MS)
    assert held


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])
def test_the_overview_fits_its_screen(operator: Visit, width: int, scheme: str) -> None:
    operator.page.set_viewport_size({"width": width, "height": 800})
    operator.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page = operator.open("/admin/?range=24h&group=agent")
    expect(page.locator("#overview-saved")).not_to_have_attribute("aria-busy", "true")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    headings = page.locator("main :is(h1, h2, h3)")
    levels = headings.evaluate_all("found => found.map((each) => Number(each.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert operator.problems == []
