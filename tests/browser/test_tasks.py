"""What people come to the console for, each played from the overview, with the clicks that it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import REFUSED, Visit
from tests.environment import ROOT

pytestmark = pytest.mark.browser
MOST_CLICKS = 4
DOCUMENT = ROOT / "docs" / "console.md"


@dataclass
class Player:
    """A click is a click or a choice from a list; typing is none, and neither is a key."""

    page: Page
    clicks: int = 0

    def click(self, part: Locator) -> None:
        part.click()
        self.clicks += 1

    def choose(self, part: Locator, label: str) -> None:
        part.select_option(label=label)
        self.clicks += 1

    def menu(self, name: str) -> None:
        self.click(self.page.locator("#nav-sidebar").get_by_role("link", name=re.compile(f"{name}$")))

    def type_into_search(self, text: str) -> Locator:
        """What is found."""
        self.page.keyboard.press("/")
        self.page.get_by_role("searchbox", name="Search", exact=True).press_sequentially(text, delay=5)
        found = self.page.locator("#command-results-list")
        expect(found.locator("li").first).to_be_visible()
        return found


def next_friday() -> datetime:
    today = datetime.now(UTC)
    return today + timedelta(days=(4 - today.weekday()) % 7 or 7)


def who_spent_most(player: Player) -> None:
    player.menu("Spend")
    expect(player.page.get_by_role("heading", name="By customer, and model within it")).to_be_visible()
    first = player.page.locator(".sg-breakdown tbody").first
    expect(first.locator(".sg-group .sg-cell-1")).to_have_text(re.compile(r"\$\d"))
    expect(first.locator(".sg-within th").first).to_have_text(re.compile("mistral"))


def why_refused(player: Player) -> None:
    player.menu("Calls")
    player.click(player.page.get_by_role("navigation", name="State").get_by_role("link", name="Refused"))
    player.click(player.page.locator(f".sg-whole[href*='{REFUSED}']"))
    expect(player.page.get_by_role("heading", name="Refused: budget exhausted")).to_be_visible()


def raise_until_friday(player: Player) -> None:
    player.click(player.type_into_search("raise acme").get_by_text("Raise or top up acme").first)
    page, until = player.page, next_friday()
    page.fill("[name=amount]", "25")
    page.fill("[name=until_0]", f"{until:%Y-%m-%d}")
    page.fill("[name=until_1]", "18:00")
    page.fill("[name=reason]", "a large import")
    # A calendar that a field has opened lies over what is below it.
    page.keyboard.press("Escape")
    player.click(page.get_by_role("button", name="Give it"))
    page.wait_for_load_state()
    expect(page.get_by_text(re.compile(r"\$25\.00")).first).to_be_visible()


def stop_an_agent(player: Player) -> None:
    player.click(player.type_into_search("stop support").get_by_text("Emergency stop of globex / support"))
    player.page.fill("textarea[name=reason]", "a loop")
    player.click(player.page.get_by_role("button", name="Stop now"))
    banner = player.page.get_by_role("alert", name="Emergency stops")
    expect(banner).to_contain_text("globex/support is stopped")
    # Put right again for those who come after; no part of the task.
    banner.get_by_role("link", name="Lift").click()
    player.page.fill("textarea[name=reason]", "mended")
    player.page.get_by_role("button", name="Lift").click()


def when_it_runs_out(player: Player) -> None:
    player.click(player.type_into_search("globex").get_by_text("Customer Globex Retail"))
    expect(player.page.get_by_text(re.compile("Runs out|Lasts until|Used up")).first).to_be_visible()


def who_loses_money(player: Player) -> None:
    player.menu("Billing")
    player.click(player.page.get_by_role("link", name="Margin", exact=True).first)
    expect(player.page.get_by_role("heading", name="Customers, the worst first")).to_be_visible()
    rows = player.page.locator(".sg-margin .sg-lines tbody tr")
    expect(rows.first.get_by_role("link").first).to_have_attribute(
        "href", re.compile(r"/admin/governance/tenant/\d+/change/")
    )


def change_a_soft_cap(player: Player) -> None:
    player.menu("Budgets")
    player.click(player.page.locator(".sg-budgets tbody tr", has_text=re.compile("acme.*invoices")).locator("th a"))
    player.page.get_by_label("Soft cap, %").fill("5")
    expect(player.page.locator("#preview h3")).to_contain_text(re.compile("call"))
    player.click(player.page.get_by_role("button", name="Save"))
    expect(player.page.locator(".sg-happened")).to_contain_text("soft cap 80% → 5%")


def find_a_call(player: Player) -> None:
    player.click(player.type_into_search(REFUSED).get_by_text("budget exhausted").first)
    expect(player.page).to_have_url(re.compile(f"/admin/calls/{REFUSED}/"))


def add_a_providers_key(player: Player) -> None:
    player.menu("Settings")
    player.click(player.page.get_by_role("link", name="Add a provider"))
    page = player.page
    page.fill("[name=name]", "elsewhere")
    page.fill("[name=base_url]", "https://models.example.test/v1")
    page.fill("[name=new_key]", "a-key-of-elsewhere-1234567890")
    player.click(page.get_by_role("button", name="Save", exact=True))
    expect(page.locator(".sg-providers tbody tr", has_text="elsewhere")).to_contain_text("kept sealed")


def connect_stripe(player: Player) -> None:
    player.menu("Billing")
    expect(player.page.get_by_role("heading", name="Connect Stripe")).to_be_visible()
    expect(player.page.get_by_text("STRIPE_SECRET_KEY is not set.")).to_be_visible()


def export_last_month(player: Player) -> None:
    player.menu("Spend")
    page = player.page
    last = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    page.fill("[name=from]", f"{last.replace(day=1):%Y-%m-%d}")
    page.fill("[name=to]", f"{last:%Y-%m-%d}")
    player.click(page.get_by_role("button", name="Show"))
    page.wait_for_url(re.compile("from="))
    with page.expect_download() as downloading:
        player.click(page.get_by_role("link", name="CSV"))
    assert downloading.value.path().read_text().splitlines()[-1].startswith("total")


def reset_a_budget(player: Player) -> None:
    player.click(player.type_into_search("reset invoices").get_by_text("Reset acme agent:invoices"))
    player.page.fill("textarea[name=reason]", "a new project")
    player.click(player.page.get_by_role("button", name="Reset", exact=True))
    expect(player.page.get_by_text(re.compile("Reset: acme agent:invoices"))).to_be_visible()


def let_a_colleague_look(player: Player) -> None:
    player.menu("Settings")
    player.click(player.page.get_by_role("link", name="Add a person"))
    page = player.page
    page.fill("[name=username]", "lena")
    page.fill("[name=password1]", "seventeen-llamas")
    page.fill("[name=password2]", "seventeen-llamas")
    player.click(page.get_by_label(re.compile("viewer: ")))
    player.click(page.get_by_role("button", name="Save", exact=True))
    page.wait_for_url(re.compile(r"/admin/auth/user/\d+/change/"))
    expect(page.get_by_label(re.compile("viewer: "))).to_be_checked()


# In the words of docs/console.md, whose table has the clicks.
TASKS: dict[str, Callable[[Player], None]] = {
    "Who spent most this week, and on which model": who_spent_most,
    "Why an agent's call was refused": why_refused,
    "Raise a customer's budget until Friday": raise_until_friday,
    "Stop an agent now": stop_an_agent,
    "When a customer's money runs out": when_it_runs_out,
    "Which customers lose money": who_loses_money,
    "Change a soft cap, and see what it would have changed": change_a_soft_cap,
    "Find a call by its request id": find_a_call,
    "Add a provider's key": add_a_providers_key,
    "See what is next to connect Stripe": connect_stripe,
    "Export last month for the accountant": export_last_month,
    "Reset a budget, with a reason": reset_a_budget,
    "Let a colleague look, and no more": let_a_colleague_look,
}


def documented() -> dict[str, int]:
    """The clicks by task, of the document's table."""
    rows = re.findall(r"^\| ([^|]+) \| (\d) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return {words: int(clicks) for words, clicks in rows}


def test_every_task_is_told_with_its_clicks_and_none_takes_many() -> None:
    assert list(documented()) == list(TASKS)
    assert max(documented().values()) <= MOST_CLICKS


@pytest.mark.parametrize("words", TASKS)
def test_a_task_takes_no_more_clicks_than_are_told(words: str, refused: Visit, demo_history: None) -> None:
    player = Player(refused.open("/admin/"))
    TASKS[words](player)
    assert player.clicks == documented()[words]
    assert refused.problems == []
