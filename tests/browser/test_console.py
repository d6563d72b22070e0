"""The operators' console in a real browser."""

import re
from typing import Literal

import pytest
from django.contrib import admin
from django.urls import reverse
from playwright.sync_api import Page, expect

from config.console import menu, story_page
from tests.browser.conftest import OPERATOR, Visit, links_below

pytestmark = pytest.mark.browser


def test_the_root_leads_a_stranger_to_the_login_page(stranger: Visit) -> None:
    page = stranger.open("/")

    expect(page).to_have_url(re.compile(r"/admin/login/"))
    expect(page.get_by_label("Username")).to_be_visible()
    assert stranger.problems == []


def test_a_wrong_password_is_refused_with_a_sentence(stranger: Visit) -> None:
    page = stranger.open("/admin/login/")
    page.fill("input[name=username]", "olivia")
    page.fill("input[name=password]", "not-it")
    page.click("button[type=submit]")

    expect(page.get_by_text("Please enter the correct")).to_be_visible()


def test_an_operator_signs_in_and_sees_the_overview(operator: Visit) -> None:
    expect(operator.page).to_have_title(re.compile("Spend Governor"))
    assert operator.problems == []


def test_the_list_of_budgets_opens_without_an_error(operator: Visit) -> None:
    page = operator.open("/admin/governance/budget/")

    expect(page.get_by_role("heading", name=re.compile("budget", re.IGNORECASE)).first).to_be_visible()
    assert operator.problems == []


def test_everything_is_stopped_from_the_overview_and_lifted_again(operator: Visit) -> None:
    page = operator.open("/admin/")
    page.locator(".sg-stop-button").click()
    page.fill("textarea[name=reason]", "a loop")
    page.get_by_role("button", name="Stop now").click()

    banner = page.get_by_role("alert", name="Emergency stops")
    expect(banner).to_contain_text("Everything is stopped: no call goes through")
    expect(banner).to_contain_text("a loop")

    banner.get_by_role("link", name="Lift").click()
    page.fill("textarea[name=reason]", "mended")
    page.get_by_role("button", name="Lift").click()
    expect(page.get_by_role("alert", name="Emergency stops")).to_have_count(0)
    assert operator.problems == []


def test_the_menu_of_who_is_signed_in_is_opened_and_left_by_keyboard(operator: Visit) -> None:
    page = operator.open("/admin/")
    opener = page.get_by_role("button", name=re.compile(OPERATOR))
    menu_of_theirs = page.get_by_role("navigation", name="Account")
    expect(opener).to_have_attribute("aria-expanded", "false")
    opener.focus()
    page.keyboard.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Light")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("html")).to_have_class("dark")
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(menu_of_theirs).to_be_hidden()
    expect(opener).to_be_focused()

    page.keyboard.press("Enter")
    menu_of_theirs.get_by_role("link", name="Second factor").focus()
    page.locator("#sg-main a").first.focus()
    expect(menu_of_theirs).to_be_hidden()
    opener.click()
    menu_of_theirs.get_by_role("link", name="Second factor").click()
    expect(page).to_have_url(re.compile("/admin/second-factor/"))
    assert operator.problems == []


def test_every_page_runs_under_its_content_policy(operator: Visit, demo_history: None) -> None:
    """Every page of the console, for each model the list, the forms, a row's page and each act on it.

    Whatever the policy stopped would be an error on the browser's console.
    """
    seen: set[str] = set()

    def look(path: str, until: Literal["load", "networkidle"] = "load") -> Page:
        page = operator.open(path)
        # The policy's word comes while scripts run: those of forms and lists as they are loaded, those of the console's
        # own pages as their parts come, too.
        page.wait_for_load_state(until)
        assert (path, operator.problems) == (path, [])
        seen.add(path)
        return page

    for path in ("/admin/second-factor/", "/admin/password_change/", "/billing/topup/done", "/api/docs"):
        look(path)
    # The story is told where there is a simulated Stripe alone.
    for console_page in menu.pages():
        if console_page is not story_page.PAGE:
            look(reverse(f"admin:{console_page.name}"), until="networkidle")
    models_with_rows = 0
    for model in admin.site._registry:
        changelist = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        links = links_below(look(changelist), changelist)
        rows = [link for link in links if link.endswith("/change/")]
        for add in [link for link in links if link.endswith("/add/")]:
            look(add)
        if rows:
            models_with_rows += 1
            for act in links_below(look(rows[0]), rows[0].removesuffix("change/")):
                if act not in seen:
                    look(act)
    assert models_with_rows >= 12
    assert sum(path.endswith(("/pause/", "/stop/", "/rotate/", "/revoke/", "/password/")) for path in seen) >= 6


def test_a_script_that_gets_into_a_page_does_not_run(operator: Visit) -> None:
    page = operator.open("/admin/")
    page.wait_for_load_state("load")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = 1";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.ran") is None
    assert "Content Security Policy" in operator.problems[0]


def test_who_tries_too_often_reads_when_to_come_back(stranger: Visit) -> None:
    for _ in range(5):
        page = stranger.open("/admin/login/")
        page.fill("input[name=username]", "mallory")
        page.fill("input[name=password]", "not-it-at-all")
        page.click("button[type=submit]")
        page.wait_for_load_state()
    expect(page.get_by_text("Too many tries")).to_be_visible()
    expect(page.get_by_text(re.compile("Try again in 1[45].minutes"))).to_be_visible()
