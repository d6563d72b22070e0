"""What axe-core finds on the console's pages: in light and dark, wide and on a phone. Nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib import admin
from django.urls import reverse
from playwright.sync_api import Page, ViewportSize

from config.console import menu, story_page
from governance.console import reports_page
from tests.browser.conftest import REFUSED, Visit, links_below

pytestmark = pytest.mark.browser
WIDE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 780}
# All that axe has, also what it does not ask for by itself; and what depends on colours and on the width alone.
ALL = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"]}
WIDTH = {"runOnly": ["color-contrast", "target-size", "scrollable-region-focusable"]}
SCREENS = ((WIDE, False, ALL), (WIDE, True, COLOURS), (NARROW, True, WIDTH), (NARROW, False, WIDTH))
AXE = Axe().axe_script
# Kept in the window: a browser throws away what nothing there waits for.
RUN = "options => (window.axeRun = axe.run(document, options)).then(found => found.violations)"
SET_DARK = "isDark => document.documentElement.classList.toggle('dark', isDark)"
# Colours are there at once, not on their way.
STILL = """() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync("* { transition: none !important; animation: none !important }");
    document.adoptedStyleSheets.push(sheet);
}"""
# The rows of a table are alike: the first ones tell, and axe asks each of their cells.
FEW_ROWS = "document.querySelectorAll('table :is(tbody, tr):nth-of-type(n + 9)').forEach(row => row.remove())"
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
# The story is told where there is a simulated Stripe alone; the report as mail runs no scripts, and so not axe either.
NOT_HERE = (story_page.PAGE, reports_page.MAIL)
# One page of each kind that asks before it acts.
ACTS = ("pause", "stop", "rotate", "revoke", "allow", "password", "reset")


def problems(page: Page) -> Iterator[str]:
    """Rule, screen, place: where the page is not for everybody."""
    page.evaluate(FEW_ROWS)
    page.evaluate(STILL)
    page.evaluate(AXE)
    for size, is_dark, options in SCREENS:
        if page.viewport_size != size:
            page.set_viewport_size(size)
            # What is fitted to the width is fitted a little later.
            page.wait_for_timeout(200)
        page.evaluate(SET_DARK, is_dark)
        screen = f"{size['width']} {'dark' if is_dark else 'light'}"
        if not page.evaluate(FITS):
            yield f"sideways {screen}"
        for found in page.evaluate(RUN, options):
            yield from (f"{found['id']} {screen} {node['target']} {node['html'][:200]}" for node in found["nodes"])


def look(visit: Visit, path: str, found: dict[str, list[str]]) -> Page:
    """Opened as wide as it is for most; what is asked for after it has come is there before it is looked at."""
    visit.page.set_viewport_size(WIDE)
    page = visit.open(path)
    page.wait_for_load_state("load")
    page.wait_for_function("!document.querySelector('[aria-busy=true], .select2-selection:not([aria-label])')")
    found[path] = list(problems(page))
    return page


def told(found: dict[str, list[str]]) -> list[str]:
    return [f"{path} {problem}" for path, all_of_it in found.items() for problem in all_of_it]


def test_a_strangers_pages_are_for_everybody(stranger: Visit) -> None:
    found: dict[str, list[str]] = {}
    for path in ("/admin/login/", "/billing/topup/done"):
        look(stranger, path, found)
    assert told(found) == []


def test_the_consoles_own_pages_are_for_everybody(refused: Visit, demo_history: None) -> None:
    found: dict[str, list[str]] = {}
    names = [page.name for page in menu.pages() if not page.is_part and page not in NOT_HERE]
    for name in ("index", *names, "second-factor", "password_change"):
        look(refused, reverse(f"admin:{name}"), found)
    calls = reverse("admin:calls")
    refused.open(f"{calls}?status=served")
    served = next(link for link in links_below(refused.page, calls) if link != calls)
    for call in (served, f"{calls}{REFUSED}/"):
        look(refused, call, found)
    assert told(found) == []


@pytest.mark.skipif(not os.environ.get("AXE"), reason="each table, form and act takes three minutes: AXE=1")
def test_tables_rows_forms_and_acts_are_for_everybody(operator: Visit, demo_history: None) -> None:
    found: dict[str, list[str]] = {}
    left = set(ACTS)
    for model in admin.site._registry:
        table = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        links = links_below(look(operator, table, found), table)
        for path in [link for link in links if link.endswith("/add/")]:
            look(operator, path, found)
        if rows := [link for link in links if link.endswith("/change/")]:
            for act in links_below(look(operator, rows[0], found), rows[0].removesuffix("change/")):
                if (name := act.split("/")[-2]) in left:
                    left.remove(name)
                    look(operator, act, found)
    assert told(found) == []
    assert len(left) <= 2
