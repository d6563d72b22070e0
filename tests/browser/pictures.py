"""`python -m tests.browser.pictures`: the console's pages as docs/console/ shows them, taken again.

Of the demo's data as of one moment, so that a picture changes where its page does. In a process of its own: it stops
the clock of all of Django.
"""

from __future__ import annotations

import io
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import time_machine
from PIL import Image
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from tests.browser.conftest import CHROMIUM_FLAGS, REFUSED, find_chromium
from tests.environment import ROOT, load_django, set_environment

FOLDER = ROOT / "docs" / "console"
# A Wednesday on which the demo's customers have been at work, a month after its models' latest prices at least.
MOMENT = datetime(2026, 10, 14, 15, 20, 30, tzinfo=UTC)
PHONE: ViewportSize = {"width": 390, "height": 844}
WIDTH = 1440
# Colours of a picture; of more nobody sees the difference, and a file is three times as large.
COLOURS = 192


@dataclass(frozen=True, slots=True)
class Picture:
    """`address`: below /admin/; a name in braces is the id of a row, see `rows`. `press`: a button, first. A short
    page has a low picture.
    """

    name: str
    address: str
    is_dark: bool = False
    is_phone: bool = False
    height: int = 1000
    press: str = ""


PICTURES = (
    Picture("overview", ""),
    Picture("overview-dark", "", is_dark=True),
    Picture("overview-phone", "", is_phone=True),
    Picture("spend", "spend/?range=7d&group=tenant&subgroup=model"),
    Picture("calls", "calls/"),
    Picture("call", "calls/{call}/", height=700),
    Picture("refused", f"calls/{REFUSED}/", height=730),
    Picture("budgets", "governance/budget/"),
    Picture("budgets-phone", "governance/budget/", is_phone=True),
    Picture("budget", "governance/budget/{budget}/change/"),
    Picture("budget-dark", "governance/budget/{budget}/change/", is_dark=True),
    Picture("customers", "governance/tenant/", height=620),
    Picture("customer", "governance/tenant/{tenant}/change/"),
    Picture("agent", "governance/agent/{agent}/change/"),
    Picture("keys", "governance/apikey/"),
    Picture("savings", "savings/", height=820),
    Picture("stripe", "stripe/"),
    Picture("margin", "margin/", height=640),
    Picture("models", "llm/model/"),
    Picture("model", "llm/model/{model}/change/"),
    Picture(
        "playground",
        "models/playground/?tenant=acme&agent=churn&model=mistral-large-latest&input_tokens=12000&tools=web_search",
        press="Decide",
    ),
)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="pictures-"))
    try:
        set_environment(database_url=f"sqlite:///{folder / 'governor.sqlite3'}", var_dir=folder)
        load_django(test_database=None)
        with time_machine.travel(MOMENT, tick=False), same_keys():
            seed()
            refuse()
            cookies, ids = signed_in(), rows()
            with running() as url:
                take(url, cookies, ids)
    finally:
        shutil.rmtree(folder)


@contextmanager
def same_keys() -> Iterator[None]:
    """Keys are random, and pages show how each begins."""
    dice = random.Random(1)
    with mock.patch(
        "governance.models.tenancy.secrets.token_urlsafe", side_effect=lambda size: f"{dice.getrandbits(8 * size):x}"
    ):
        yield


def seed() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    call_command("seed_demo", stdout=io.StringIO())


def signed_in() -> dict[str, str]:
    """The cookies of an operator who has put the first steps away."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    from config.console import first_run

    client = Client()
    client.force_login(User.objects.get())
    session = client.cookies[settings.SESSION_COOKIE_NAME]
    return {settings.SESSION_COOKIE_NAME: session.value, first_run.COOKIE: "away"}


def rows() -> dict[str, object]:
    """What is shown of each kind: looked up before there is a browser, beside which Django reads no database."""
    from governance.models import Agent, Budget, SpendEntry, Tenant
    from llm.models import Model

    return {
        "budget": Budget.objects.get(tenant__slug="acme", window="billing_cycle").pk,
        "tenant": Tenant.objects.get(slug="acme").pk,
        "agent": Agent.objects.get(tenant__slug="acme", slug="invoices").pk,
        "call": SpendEntry.objects.filter(tenant__slug="acme", cached_tokens__gt=0).latest("id").pk,
        "model": Model.objects.get(name="mistral-small-2603").pk,
    }


@contextmanager
def running() -> Iterator[str]:
    from config.asgi import application
    from tests.servers import served

    with served(application) as url:
        yield url


def refuse() -> None:
    """One call that a budget refuses, so that there is such a page."""
    from django.utils import timezone

    from governance import ledger
    from governance.actions.refusal_log import NotedRefusal, RefusalLog
    from governance.models import Tenant
    from tests import factories

    by = factories.caller(Tenant.objects.get(slug="initech"), agent="support", user="ana@initech.example")
    now = timezone.now()
    decision = ledger.reserve(factories.reserving("0.0125", by=by), now=now)
    log = RefusalLog()
    log.note(NotedRefusal(REFUSED, by, "mistral-small-latest", (), decision.reason.value, 402, now, decision=decision))
    log.flush()


def take(url: str, cookies: dict[str, str], ids: dict[str, object]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        for picture in PICTURES:
            (FOLDER / f"{picture.name}.png").write_bytes(small(shot(browser, picture, url, cookies, ids)))
        browser.close()


def shot(browser: Browser, picture: Picture, url: str, cookies: dict[str, str], ids: dict[str, object]) -> bytes:
    context = browser.new_context(
        viewport=PHONE if picture.is_phone else {"width": WIDTH, "height": picture.height},
        color_scheme="dark" if picture.is_dark else "light",
        reduced_motion="reduce",
        timezone_id="UTC",
        locale="en-US",
    )
    context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.clock.set_fixed_time(MOMENT)
    answer = page.goto(f"{url}/admin/{picture.address.format(**ids)}")
    assert answer is not None
    assert answer.ok, (picture, answer.status)
    page.wait_for_load_state("networkidle")
    if picture.press:
        page.get_by_role("button", name=picture.press).click()
        page.wait_for_load_state("networkidle")
    page.evaluate("document.fonts.ready")
    taken = page.screenshot(animations="disabled", caret="hide")
    context.close()
    return taken


def small(png: bytes) -> bytes:
    written = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(written, "png", optimize=True)
    return written.getvalue()


if __name__ == "__main__":
    main()
