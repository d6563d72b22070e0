"""A real server of the product and a real Chromium. One of each serves the whole folder."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright

from config.supervisor import answers, free_port
from tests.environment import ROOT

# Chromium is a guest: no calls home, nothing of its own in the way.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--disable-quic",
    # Pages of made-up origins call this machine, which a browser of people asks them about.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
]
# A page may wait for a machine that runs four tests at once on two cores.
PATIENCE_MS = 15_000
expect.set_options(timeout=PATIENCE_MS)
# A web page that may call the data plane.
APP_ORIGIN = "https://app.example.test"
OPERATOR, PASSWORD = "olivia", "a-password-for-tests"
DATABASE = "governor.sqlite3"
# A call that a budget refuses, and one that it lets go.
REFUSE = """
from django.utils import timezone
from governance import ledger
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from tests import factories
owner = factories.tenant("browsed")
factories.budget("1", tenant=owner, scope_key="browsed")
now, by = timezone.now(), factories.caller(owner, agent="seen", user="a" * 200)
factories.agent("seen", of=owner)
decision = ledger.reserve(factories.reserving("1.50", by=by), now=now)
log = RefusalLog()
log.note(NotedRefusal("{id}", by, "large", (), decision.reason.value, 402, now, decision=decision))
log.flush()
ledger.record(factories.reporting("0.01", by=by, request_id="{id}-served"), now=now)
"""
REFUSED = "01a2218a-3ea8-7440-9ba8-f2ad37b574ae"


@dataclass(frozen=True)
class Site:
    """The product as it runs for these tests."""

    url: str
    environment: dict[str, str]

    def manage(self, *arguments: str) -> str:
        """Runs a management command on the site's database; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@dataclass
class Visit:
    """A page, and everything that went wrong on it."""

    page: Page
    site: Site
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        return self.page

    def watch(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("response", self._answered)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status} {response.url}")
        if urlsplit(response.url).scheme in ("http", "https") and not response.url.startswith(self.site.url):
            self.problems.append(f"foreign: {response.url}")


def links_below(page: Page, path: str) -> list[str]:
    """The paths that a page links to below one, without their queries."""
    found = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    return sorted({urlsplit(link).path for link in found if urlsplit(link).path.startswith(path)})


def find_chromium() -> str:
    """The browser's path. Without one these tests are skipped, or fail where REQUIRE_BROWSER is set."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return found
    missing = "No Chromium on this machine (apt install chromium, or name it in CHROMIUM)"
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"{missing}, and REQUIRE_BROWSER=1.")
    # The reason is shown at the end of the run (-ra).
    pytest.skip(f"NOT TESTED IN A BROWSER: {missing}")


@pytest.fixture(scope="package")
def chromium() -> str:
    return find_chromium()


@pytest.fixture(scope="package")
def site(chromium: str, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    port = free_port("127.0.0.1")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "VAR_DIR": str(folder),
        "DATABASE_URL": "",
        "APP_URL": f"http://127.0.0.1:{port}",
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        "CORS_ALLOWED_ORIGINS": APP_ORIGIN,
    }
    site = Site(url=f"http://127.0.0.1:{port}", environment=environment)
    shutil.copyfile(migrated_database, folder / DATABASE)
    site.manage("createsuperuser", "--noinput", "--username", OPERATOR, "--email", "olivia@example.test")
    command = [sys.executable, "manage.py", "serve", "--port", str(port), "--no-sandbox"]
    log = folder / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until_up(server, site.url, log)
        yield site
    finally:
        server.terminate()
        assert server.wait(timeout=20) == 0, log.read_text()


def wait_until_up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while not answers(f"{url}/api/health/live"):
        assert server.poll() is None, f"serve ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"serve does not answer:\n{log.read_text()}"
        time.sleep(0.1)


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    # For the folder alone: while Playwright runs, its event loop would stand in the way of other tests'.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def stranger(browser: Browser, site: Site) -> Iterator[Visit]:
    """A visit by somebody who has not signed in."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(page=context.new_page(), site=site)
    visit.watch()
    yield visit
    context.close()


@pytest.fixture
def operator(stranger: Visit) -> Visit:
    """A visit by an operator, signed in, on the console's first page."""
    page = stranger.open("/admin/login/")
    page.fill("input[name=username]", OPERATOR)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url(f"{stranger.site.url}/admin/")
    return stranger


@pytest.fixture(scope="package")
def demo_history(site: Site) -> None:
    """Thirty days of three customers, once for all that look at them: it takes long."""
    site.manage("seed_demo")


@pytest.fixture
def demo(operator: Visit, demo_history: None) -> Visit:
    """An operator's visit where there is something to see."""
    return operator


@pytest.fixture
def refused(operator: Visit) -> Visit:
    """An operator's visit where one call was refused, which all tests share."""
    page = operator.open("/admin/calls/?q=" + REFUSED)
    if page.get_by_text("No call is named").count():
        operator.site.manage("shell", "--command", REFUSE.format(id=REFUSED))
    return operator
