"""A web page that calls the data plane from its own origin, in a real browser."""

from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import APP_ORIGIN, Site

pytestmark = pytest.mark.browser

CALL = """async ([url, key]) => {
  try {
    const headers = {authorization: `Bearer ${key}`, "content-type": "application/json", "x-agent": "page"}
    const body = JSON.stringify({model: "no-such-model", messages: [{role: "user", content: "Hi"}]})
    const answer = await fetch(`${url}/v1/chat/completions`, {method: "POST", headers, body})
    return {status: answer.status, said: await answer.json(), id: answer.headers.get("x-request-id")}
  } catch (error) {
    return {refused: String(error)}
  }
}"""


def call_from(browser: Browser, site: Site, origin: str, key: str) -> Any:
    context = browser.new_context()
    try:
        page = context.new_page()
        page.route(f"{origin}/**", lambda route: route.fulfill(content_type="text/html", body="<p>A page</p>"))
        page.goto(f"{origin}/")
        return page.evaluate(CALL, [site.url, key])
    finally:
        context.close()


def test_a_page_of_an_allowed_origin_calls_and_reads_the_answer(browser: Browser, site: Site) -> None:
    answer = call_from(browser, site, APP_ORIGIN, "sg_no_key")

    assert "refused" not in answer, answer
    assert (answer["status"], answer["said"]["code"]) == (401, "invalid_api_key")
    assert answer["id"]


def test_a_page_of_another_origin_is_refused_by_the_browser(browser: Browser, site: Site) -> None:
    answer = call_from(browser, site, "https://evil.example.test", "sg_no_key")

    assert "Failed to fetch" in answer["refused"]
